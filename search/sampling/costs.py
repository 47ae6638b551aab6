"""The costs of the architectures of a sampling search."""

from collections.abc import Callable
from typing import Any

from search.costs.counted import CostTable, Shape
from search.costs.latency import MeasuredLatency, TableLatency
from search.costs.tabular import Table
from search.sampling.encoding import Encoding, Genome
from supernet.spaces.skeleton import Stem
from training.hardware import Hardware
from training.tasks.task import Task

CIFAR10: tuple[Shape, int] = (3, 32, 32), 10
"""Shape of an image and number of classes where only a benchmark table is at hand."""


class ArchitectureCosts:
    """The costs of a cost table and, with a `latency`, "latency_ms"; the state is a measured
    latency's."""

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
    encoding: Encoding, task: Task | None, table: Table | None, hardware: Hardware, stem: Stem, latency: str | None
) -> ArchitectureCosts:
    """Costs of the networks that retraining with the search's stem builds by default, for the
    images of `task`.

    Without a task they are for images and classes of CIFAR-10. `latency` is
    `SamplingConfig.latency`.

    Raises InputError for a latency that `table` does not have.
    """
    shape, classes = CIFAR10
    if task is not None:
        shape, classes = task.train.format.shape, task.outputs
    space = encoding.space
    operations = [space.candidates[column] for column in encoding.operations]
    size = (space, *space.skeleton.default_size(stem), classes, shape)
    costs = CostTable(*size, stem, operations)
    if latency is None:
        return ArchitectureCosts(costs)
    if latency == "measured":
        measured = MeasuredLatency(*size, hardware.device, hardware.precision, stem=stem, operations=operations)
        return ArchitectureCosts(costs, measured)
    assert table is not None, "latency: checked by the configuration"
    known = TableLatency(table, latency)
    return ArchitectureCosts(costs, lambda genome: known(encoding.genotype(genome)))
