"""The time of a network, added up from its operations or read from a benchmark table."""

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from base.checks import FieldError
from search.costs.counted import (
    AdditiveCost,
    Choices,
    Shape,
    added_up,
    build_operation,
    empty_network,
    operations_at,
    places_of,
)
from search.costs.tabular import Table
from supernet import Genotype, SearchSpace
from supernet.spaces.skeleton import Stem
from training.hardware import Precision, autocast

CALLS = 5
"""Number of calls between two looks at the clock: as in a network on a GPU, the host starts an
operation while another runs."""


class MeasuredLatency:
    """Milliseconds of a forward pass of one image, added up from operations measured on `device`.

    It is a lookup table as in ProxylessNAS (Cai et al. 2019) and FBNet (Wu et al. 2019): the median
    over `turns`, in each of which every operation is measured once, of modules in evaluation mode
    in `precision`. The network around the operations is measured as one without any. The state is
    the table, so that a resumed search has the same numbers.
    """

    def __init__(
        self,
        space: SearchSpace,
        channels: int,
        cells: int,
        classes: int,
        image_shape: Shape,
        device: torch.device,
        precision: Precision = "auto",
        turns: int = 10,
        stem: Stem = "cifar",
        operations: Sequence[str] | None = None,
    ) -> None:
        """`operations` are the names of the candidates that architectures have; None: all of the
        space."""
        # Drawing the weights must leave the random state of the caller alone.
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            frame = empty_network(space, channels, cells, classes, image_shape, stem)
            places = places_of(space, frame, image_shape)
            keys = operations_at(space.candidates if operations is None else operations, places)
            calls = [_forward_pass(frame, image_shape, device)]
            calls += [_forward_pass(_Added(build_operation(*key)), key[1].shape, device) for key in keys]
            with autocast(precision, device):
                common, *found = _milliseconds(calls, device, turns)
        self._cost = added_up(space, places, common, dict(zip(keys, found, strict=True)))

    def __call__(self, choices: Choices) -> float:
        return self._cost(choices)

    def state_dict(self) -> dict[str, Any]:
        return {"common": self._cost.common, "parts": tuple(dict(part) for part in self._cost.parts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._cost = AdditiveCost(state["common"], tuple(state["parts"]))


class TableLatency:
    """The milliseconds in the column latency_ms_`name` of a benchmark table.

    Raises ValueError if it has no such column.
    """

    def __init__(self, table: Table, name: str) -> None:
        known = next(iter(table.rows.values())).latency_ms
        if name not in known:
            raise FieldError(
                "latency", f"the table has {', '.join(known) or 'none'}, not {name!r}; name one of them, or measured"
            )
        self._table = table
        self._name = name

    def __call__(self, genotype: Genotype) -> float:
        return self._table[genotype].latency_ms[self._name]


class _Added(nn.Module):
    """An operation with the sum into a node that follows it."""

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
    """Returns the median over turns of the time of each call.

    All calls take turns, so that a slow moment meets all; one more turn warms up.
    """
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
