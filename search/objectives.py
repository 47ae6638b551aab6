"""What the network of an architecture costs, read off tables to which the operation on every edge adds its part."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ops import build_op
from search.samplers import Encoding, Genome
from search.samplers.encoding import ABSENT
from search.tabular import Table
from supernet import DiscreteNetwork, Genotype
from supernet.genotype import CellGenotype
from supernet.skeleton import CellPosition, Stem
from training.images import Images
from training.metrics import count_multiply_adds, count_parameters
from training.precision import Precision, autocast

if TYPE_CHECKING:
    from search.samplers.config import SamplingConfig  # which asks for the names of proxies, some of which count costs

Shape = tuple[int, int, int]
"""Channels, height, width."""
CIFAR10: tuple[Shape, int] = (3, 32, 32), 10
"""Shape of an image and number of classes where only a benchmark table is at hand."""
CALLS = 5
"""In a row between two looks at the clock: in a network on a GPU, too, the host starts an operation while another runs."""


@dataclass(frozen=True)
class AdditiveCost:
    """A cost that is a sum: what all architectures have in common, and a part for the operation on each edge."""

    common: float
    parts: tuple[Mapping[int, float], ...]
    """For each place of a genome, {candidate: what it adds in all cells together}; 0 for an edge that is left out."""

    def __call__(self, genome: Genome) -> float:
        return self.common + sum([part[column] for part, column in zip(self.parts, genome, strict=True)])


class CostTable:
    """Parameters and multiply-adds, as `training.metrics` counts them, of the networks that retraining builds.

    `channels`, `cells` and `stem` are as `supernet.DiscreteNetwork` takes them. Nothing is computed to make the table, and a
    call takes microseconds. Raises ValueError for numbers that the skeleton has no network for.
    """

    def __init__(
        self, encoding: Encoding, channels: int, cells: int, classes: int, image_shape: Shape, stem: Stem = "cifar"
    ) -> None:
        with torch.device("meta"):
            frame = _empty_network(encoding, channels, cells, classes, image_shape, stem)
            places = _places(encoding, frame, image_shape)
            counts = {key: _count(_build(*key), key[1].shape) for key in _operations(encoding, places)}
            common = _count(frame, image_shape)
        self._parameters, self._multiply_adds = (
            _table(encoding, places, common[number], {key: count[number] for key, count in counts.items()})
            for number in range(2)
        )

    def __call__(self, genome: Genome) -> dict[str, float]:
        """{"parameters": ..., "multiply_adds": ...}, both whole numbers, the second one for one image."""
        return {"parameters": self._parameters(genome), "multiply_adds": self._multiply_adds(genome)}


class MeasuredLatency:
    """Milliseconds of a forward pass of one image, added up from its operations, each measured by itself on `device`.

    As the lookup tables of ProxylessNAS (Cai et al. 2019) and FBNet (Wu et al. 2019): the median over `turns`, in each of which
    everything is measured once, of modules in evaluation mode in `precision`. What is around the operations is measured as a
    network without any. The state is the table, so that a search that goes on has the same numbers.
    """

    def __init__(
        self,
        encoding: Encoding,
        channels: int,
        cells: int,
        classes: int,
        image_shape: Shape,
        device: torch.device,
        precision: Precision = "auto",
        turns: int = 10,
        stem: Stem = "cifar",
    ) -> None:
        # The weights are drawn, and the random state of the caller shall not know it.
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            frame = _empty_network(encoding, channels, cells, classes, image_shape, stem)
            places = _places(encoding, frame, image_shape)
            keys = _operations(encoding, places)
            calls = [_forward_pass(frame, image_shape, device)]
            calls += [_forward_pass(_Added(_build(*key)), key[1].shape, device) for key in keys]
            with autocast(precision, device):
                common, *found = _milliseconds(calls, device, turns)
        self._cost = _table(encoding, places, common, dict(zip(keys, found, strict=True)))

    def __call__(self, genome: Genome) -> float:
        return self._cost(genome)

    def state_dict(self) -> dict[str, Any]:
        return {"common": self._cost.common, "parts": tuple(dict(part) for part in self._cost.parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._cost = AdditiveCost(state["common"], tuple(state["parts"]))


class TableLatency:
    """The milliseconds in the column latency_ms_`name` of a benchmark table. Raises ValueError where it has no such column."""

    def __init__(self, encoding: Encoding, table: Table, name: str) -> None:
        known = next(iter(table.rows.values())).latency_ms
        if name not in known:
            raise ValueError(
                f"latency: the table has {', '.join(known) or 'none'}, not {name!r}; name one of them, or measured"
            )
        self._encoding = encoding
        self._table = table
        self._name = name

    def __call__(self, genome: Genome) -> float:
        return self._table[self._encoding.genotype(genome)].latency_ms[self._name]


class ArchitectureCosts:
    """What a cost table has and, with a `latency`, "latency_ms"; the state is a measured latency's."""

    def __init__(self, table: CostTable, latency: Callable[[Genome], float] | None = None) -> None:
        self._table = table
        self._latency = latency

    def __call__(self, genome: Genome) -> dict[str, float]:
        costs = self._table(genome)
        return costs if self._latency is None else {**costs, "latency_ms": self._latency(genome)}

    def state_dict(self) -> dict[str, Any]:
        return self._latency.state_dict() if isinstance(self._latency, MeasuredLatency) else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if isinstance(self._latency, MeasuredLatency):
            self._latency.load_state_dict(state)


def architecture_costs(
    config: "SamplingConfig", encoding: Encoding, images: Images | None, table: Table | None, device: torch.device
) -> ArchitectureCosts:
    """What a search counts: for the networks that retraining with its stem builds by default, and `images`, without them
    CIFAR-10's.

    Raises ValueError for a latency that `table` does not have.
    """
    shape, classes = CIFAR10
    if images is not None:
        shape, classes = images.format.shape, images.classes
    size = (*encoding.space.skeleton.default_size(config.stem), classes, shape)
    costs = CostTable(encoding, *size, config.stem)
    if config.latency is None:
        return ArchitectureCosts(costs)
    if config.latency == "measured":
        return ArchitectureCosts(costs, MeasuredLatency(encoding, *size, device, config.precision, stem=config.stem))
    assert table is not None, "latency: checked by the configuration"
    return ArchitectureCosts(costs, TableLatency(encoding, table, config.latency))


# Where operations stand


@dataclass(frozen=True)
class Place:
    """What an operation on one edge of one cell is given."""

    stride: int
    shape: Shape
    """Of the state that it reads."""


Key = tuple[str, Place]


def _empty_network(
    encoding: Encoding, channels: int, cells: int, classes: int, image_shape: Shape, stem: Stem
) -> DiscreteNetwork:
    """The network of an architecture that has no edges, in evaluation mode."""
    space = encoding.space
    empty = CellGenotype(((),) * space.nodes, space.concat)
    genotype = Genotype(dict.fromkeys(space.kinds, empty), space.skeleton, space.name)
    return DiscreteNetwork(genotype, channels, cells, classes, image_shape[0], stem=stem).eval()


def _places(encoding: Encoding, frame: DiscreteNetwork, image_shape: Shape) -> list[list[Place]]:
    """For each place of a genome what it is in each cell of its kind."""
    space, edges = encoding.space, len(encoding.space.edges)
    places: list[list[Place]] = [[] for _ in range(encoding.length)]

    def look(cell: nn.Module, inputs: tuple[Sequence[Tensor], float], output: Tensor) -> None:
        position = cell.position
        assert isinstance(position, CellPosition)
        # The older input may still be larger than the newest; preprocessing makes it as small.
        outside, inside = ((position.channels, *state.shape[2:]) for state in (inputs[0][-1], output))
        for row, (source, _) in enumerate(space.edges):
            from_input = source < space.inputs
            place = Place(position.stride, outside) if from_input else Place(1, inside)
            places[space.kinds.index(position.kind) * edges + row].append(place)

    hooks = [cell.register_forward_hook(look) for cell in frame.cells]
    with torch.no_grad():
        frame(torch.zeros(1, *image_shape))
    for hook in hooks:
        hook.remove()
    return places


def _operations(encoding: Encoding, places: Sequence[Sequence[Place]]) -> list[Key]:
    """All that an architecture can have somewhere, each once."""
    distinct = dict.fromkeys(place for cells in places for place in cells)
    return [(encoding.space.candidates[column], place) for column in encoding.operations for place in distinct]


def _build(name: str, place: Place) -> nn.Module:
    return build_op(name, place.shape[0], place.stride)


def _table(encoding: Encoding, places: Sequence[Sequence[Place]], common: float, costs: Mapping[Key, float]) -> AdditiveCost:
    names = encoding.space.candidates
    parts = [
        {column: sum([costs[names[column], place] for place in cells]) for column in encoding.operations} for cells in places
    ]
    return AdditiveCost(common, tuple({ABSENT: 0, **part} for part in parts))


# Counted and measured


def _count(module: nn.Module, shape: Shape) -> tuple[int, int]:
    return count_parameters(module), count_multiply_adds(module, shape)


class _Added(nn.Module):
    """An operation with the sum of a node that its output goes into."""

    def __init__(self, operation: nn.Module) -> None:
        super().__init__()
        self.operation = operation

    def forward(self, state: Tensor) -> Tensor:
        output = self.operation(state)
        return output + output


def _forward_pass(module: nn.Module, shape: Shape, device: torch.device) -> Callable[[], object]:
    """Runs `module` on one image, in the memory that networks here run in."""
    module = module.eval().to(device)
    image = torch.randn(1, *shape).to(device, memory_format=torch.channels_last)
    return lambda: module(image)


@torch.no_grad()
def _milliseconds(calls: Sequence[Callable[[], object]], device: torch.device, turns: int) -> list[float]:
    """The median over turns of the time of each call; all take turns, so that a slow moment meets all. One more warms up."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(turns + 1):
        for call, own in zip(calls, times, strict=True):
            _wait(device)
            start = time.perf_counter()
            for _ in range(CALLS):
                call()
            _wait(device)
            own.append(1000 * (time.perf_counter() - start) / CALLS)
    return [median(own[1:]) for own in times]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
