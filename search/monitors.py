"""What a search watches in its architecture parameters."""

import math
from collections.abc import Mapping

from torch import Tensor

from supernet import Genotype


def entropy(mixture: Mapping[str, Tensor]) -> dict[str, float]:
    """Mean entropy of the edges' mixtures for each kind of cell, in nats; log(candidates) at the start of a search."""
    return {kind: float(-(table * table.clamp_min(1e-30).log()).sum(-1).mean()) for kind, table in mixture.items()}


def largest_entropy(mixture: Mapping[str, Tensor]) -> float:
    """The entropy of an edge that has not decided at all, in nats."""
    return math.log(next(iter(mixture.values())).shape[-1])


def skip_connections(genotype: Genotype) -> dict[str, int]:
    """Number of skip connections in each kind of cell: when most edges skip, the search has collapsed."""
    return {
        kind: sum(operation == "skip_connect" for feeds in cell.nodes for operation, _ in feeds)
        for kind, cell in genotype.cells.items()
    }
