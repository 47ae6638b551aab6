"""The players of a supernet: its candidates, which leave by the weight 0."""

from collections.abc import Mapping

import torch
from torch import Tensor


class Players:
    """The candidates of all edges in all kinds of cells, in one row: kind by kind, edge by edge.

    `keep` {kind: bool [..., edges, candidates]} says which there are. Of a table with an axis of
    cells, each cell has players of its own; else a player is a candidate in all cells of a kind.
    """

    def __init__(self, keep: Mapping[str, Tensor]) -> None:
        self.keep = {kind: table.cpu() for kind, table in keep.items()}
        self._counts = [int(table.sum()) for table in self.keep.values()]

    def __len__(self) -> int:
        return sum(self._counts)

    def tables(self, values: Tensor) -> dict[str, Tensor]:
        """Returns `values` [players] as tables {kind: [..., edges, candidates]}, with 0 (False)
        where there is no player."""
        parts = values.cpu().split(self._counts)
        return {
            kind: torch.zeros(keep.shape, dtype=values.dtype).masked_scatter(keep, part)
            for (kind, keep), part in zip(self.keep.items(), parts, strict=True)
        }

    def under(self, mixture: Mapping[str, Tensor], present: Tensor) -> dict[str, Tensor]:
        """Returns the mixture with the weight 0 for every candidate that is not `present`, bool
        [players]; the other weights stay as they are.

        An untied mixture [cells, edges, candidates] may have players of tied ones: a candidate then
        leaves all cells.
        """
        return {kind: mixture[kind] * table.to(mixture[kind]) for kind, table in self.tables(present).items()}
