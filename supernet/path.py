"""One architecture inside the supernet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from supernet.cell import MixedCell
from supernet.genotypes.genotype import Genotype
from supernet.spaces.space import SearchSpace


@dataclass(frozen=True)
class Path:
    """One architecture inside the supernet: for each kind of cell, the index of the one candidate
    that runs on each edge.

    -1 runs nothing on that edge. `choices[kind]` has one index an edge or, if cells are untied, one
    such list a cell.
    """

    choices: Mapping[str, Sequence[int] | Sequence[Sequence[int]] | Tensor]

    @classmethod
    def of_genotype(cls, genotype: Genotype, space: SearchSpace) -> "Path":
        """Returns the path that computes the same as `genotype`, of `space`.

        Raises ValueError for other cells, edges or candidates, and for two operations on one edge.
        """
        if set(genotype.cells) != set(space.kinds):
            raise ValueError(
                f"genotype: has the cells {', '.join(genotype.cells)}, space {space.name} {', '.join(space.kinds)}"
            )
        choices = {}
        for kind, cell in genotype.cells.items():
            chosen = [-1] * len(space.edges)
            for node, feeds in enumerate(cell.nodes):
                for operation, source in feeds:
                    edge = (source, space.inputs + node)
                    if edge not in space.edges or operation not in space.candidates:
                        raise ValueError(f"genotype: {operation} on edge {edge} is not in space {space.name}")
                    row = space.edges.index(edge)
                    if chosen[row] >= 0:
                        raise ValueError(f"genotype: a path has one operation an edge, and edge {edge} has two")
                    chosen[row] = space.candidates.index(operation)
            choices[kind] = chosen
        return cls(choices)

    def flat(self, space: SearchSpace) -> tuple[int, ...]:
        """Returns all choices of tied cells in one row: kind by kind, edge by edge."""
        return tuple(column for kind in space.kinds for column in torch.as_tensor(self.choices[kind]).tolist())

    def one_hot(self, space: SearchSpace) -> dict[str, Tensor]:
        """Returns the mixture that gives each chosen candidate the weight 1, {kind:
        [..., edges, candidates]}."""
        candidates = torch.arange(len(space.candidates))
        return {kind: (torch.as_tensor(table).unsqueeze(-1) == candidates).float() for kind, table in self.choices.items()}

    def of_cell(self, cell: MixedCell) -> list[int]:
        """Returns the indices for one cell. Raises ValueError if they do not fit the cell."""
        kind = cell.position.kind
        if kind not in self.choices:
            raise ValueError(f"path: no choice for cells of kind {kind!r}")
        table = torch.as_tensor(self.choices[kind])
        if table.ndim == 2 and len(table) > cell.position.of_kind:
            table = table[cell.position.of_kind]
        edges, candidates = len(cell.space.edges), len(cell.space.candidates)
        if table.shape != (edges,) or table.is_floating_point():
            raise ValueError(f"path[{kind!r}]: expected {edges} indices, one an edge, got {table.dtype} {list(table.shape)}")
        chosen = table.tolist()
        for edge, column in enumerate(chosen):
            if not -1 <= column < candidates:
                raise ValueError(f"path[{kind!r}], edge {edge}: index {column} is not in -1..{candidates - 1}")
            if column >= 0 and not cell.keep[edge][column]:
                raise ValueError(f"path[{kind!r}], edge {edge}: candidate {cell.space.candidates[column]} is masked")
        return chosen
