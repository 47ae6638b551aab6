"""Costs that add up: each operation's part in the network of an architecture, read off a table.

An architecture is a tuple of `choices`: for each kind of cell and each of its edges, in the order
of the space, the index of the candidate that runs there, -1 where the edge is left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ops import build_op
from supernet import DiscreteNetwork, Genotype, SearchSpace
from supernet.genotypes.genotype import CellGenotype
from supernet.spaces.skeleton import CellPosition, Stem
from training.metrics import count_multiply_adds, count_parameters

Shape = tuple[int, int, int]
"""Channels, height, width."""
Choices = tuple[int, ...]
ABSENT = -1
"""The choice that stands for an edge that is left out."""


@dataclass(frozen=True)
class AdditiveCost:
    """A cost that is a sum of a common part and a part for the operation on each edge."""

    common: float
    parts: tuple[Mapping[int, float], ...]
    """For each place of the choices, {candidate: its part in all cells together}; 0 for an edge
    that is left out."""

    def __call__(self, choices: Choices) -> float:
        return self.common + sum([part[column] for part, column in zip(self.parts, choices, strict=True)])


class CostTable:
    """Parameters and multiply-adds, as `training.metrics` counts them, of the networks that
    retraining builds.

    `channels`, `cells` and `stem` are as `supernet.DiscreteNetwork` takes them. The table is made
    from shapes alone, and a call takes microseconds. Raises ValueError for a size that the skeleton
    has no network of.
    """

    def __init__(
        self,
        space: SearchSpace,
        channels: int,
        cells: int,
        classes: int,
        image_shape: Shape,
        stem: Stem = "cifar",
        operations: Sequence[str] | None = None,
    ) -> None:
        """`operations` are the names of the candidates that architectures have; None: all of the
        space."""
        with torch.device("meta"):
            frame = empty_network(space, channels, cells, classes, image_shape, stem)
            places = places_of(space, frame, image_shape)
            keys = operations_at(space.candidates if operations is None else operations, places)
            counts = {key: _count(build_operation(*key), key[1].shape) for key in keys}
            common = _count(frame, image_shape)
        self._parameters, self._multiply_adds = (
            added_up(space, places, common[number], {key: count[number] for key, count in counts.items()})
            for number in range(2)
        )

    def __call__(self, choices: Choices) -> dict[str, float]:
        """Returns {"parameters": ..., "multiply_adds": ...}, whole numbers, the second one for one
        image."""
        return {"parameters": self._parameters(choices), "multiply_adds": self._multiply_adds(choices)}


# Where operations stand


@dataclass(frozen=True)
class Place:
    """The input of an operation on one edge of one cell."""

    stride: int
    shape: Shape
    """Shape of the state that the operation reads."""


Key = tuple[str, Place]


def empty_network(
    space: SearchSpace, channels: int, cells: int, classes: int, image_shape: Shape, stem: Stem
) -> DiscreteNetwork:
    """Returns the network of an architecture without edges, in evaluation mode."""
    empty = CellGenotype(((),) * space.nodes, space.concat)
    genotype = Genotype(dict.fromkeys(space.kinds, empty), space.skeleton, space.name)
    return DiscreteNetwork(genotype, channels, cells, classes, image_shape[0], stem=stem).eval()


def places_of(space: SearchSpace, frame: DiscreteNetwork, image_shape: Shape) -> list[list[Place]]:
    """Returns, for each place of the choices, its `Place` in each cell of its kind."""
    edges = len(space.edges)
    places: list[list[Place]] = [[] for _ in range(edges * len(space.kinds))]

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


def operations_at(names: Sequence[str], places: Sequence[Sequence[Place]]) -> list[Key]:
    """Yields every operation at every place, each pair once."""
    distinct = dict.fromkeys(place for cells in places for place in cells)
    return [(name, place) for name in names for place in distinct]


def build_operation(name: str, place: Place) -> nn.Module:
    return build_op(name, place.shape[0], place.stride)


def added_up(space: SearchSpace, places: Sequence[Sequence[Place]], common: float, costs: Mapping[Key, float]) -> AdditiveCost:
    """Adds up, over all cells, the `costs` of each operation at its places and the `common`
    part."""
    known = {name for name, _ in costs}
    columns = [(column, name) for column, name in enumerate(space.candidates) if name in known]
    parts = [{column: sum([costs[name, place] for place in cells]) for column, name in columns} for cells in places]
    return AdditiveCost(common, tuple({ABSENT: 0, **part} for part in parts))


def _count(module: nn.Module, shape: Shape) -> tuple[int, int]:
    return count_parameters(module), count_multiply_adds(module, shape)
