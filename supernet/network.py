"""The weight-sharing network: an argument, the mixture, decides its computation."""

from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ops.banks import ModuleBank, SharedState
from ops.functional import cast_together
from supernet.backbone import Backbone
from supernet.cell import Keep, Kernels, MixedCell
from supernet.path import Path
from supernet.rebuild import carry_over
from supernet.recompute import Recompute
from supernet.spaces.skeleton import Size, Stem
from supernet.spaces.space import SearchSpace


class Supernet(Backbone):
    """Shared weights of every architecture in `space`.

    `channels` is C of the first cells, `cells` their number (in NAS-Bench-201's skeleton: of each
    stage). `candidates` {kind: bool [edges, candidates]} leaves out operations; `partial` sends 1 /
    partial of the channels through operations (PC-DARTS). With `tie_cells` a mixture is {kind:
    [edges, candidates]}, without {kind: [cells of that kind, edges, candidates]}. With
    `batch_statistics` batch norm in cells uses the batch's statistics in evaluation, too; None: as
    the space has it. `kernels` chooses the computation of the cells, see `supernet.cell.Kernels`;
    `stem` the layers before them, see `supernet.spaces.skeleton.Stem`; `recompute` is as in
    `Backbone`.

    Raises ValueError for arguments that do not fit the space.
    """

    def __init__(
        self,
        space: SearchSpace,
        channels: int = 16,
        cells: int = 8,
        classes: int = 10,
        image_channels: int = 3,
        candidates: Mapping[str, Tensor] | None = None,
        partial: int = 1,
        tie_cells: bool = True,
        batch_statistics: bool | None = None,
        kernels: Kernels = "auto",
        stem: Stem = "cifar",
        recompute: Recompute = "none",
    ):
        keep = _check_candidates(space, candidates)
        _check_partial(channels, partial)
        statistics = space.batch_statistics if batch_statistics is None else batch_statistics
        super().__init__(
            space.skeleton,
            lambda position: MixedCell(space, position, keep[position.kind], partial, statistics, kernels),
            Size(channels, cells, space.width, stem),
            classes,
            image_channels,
            recompute,
        )
        self.space = space
        self.tie_cells = tie_cells
        self.cells_of_kind = Counter(cell.position.kind for cell in self.mixed_cells())

    @property
    def partial(self) -> int:
        """Returns the divisor of the channels: 1 / `partial` of them goes through operations."""
        return self.mixed_cells()[0].partial

    def mixed_cells(self) -> list[MixedCell]:
        """Returns the cells, in order."""
        return [layer for layer in self.layers if isinstance(layer, MixedCell)]

    def forward(
        self,
        images: Tensor,
        mixture: Mapping[str, Tensor],
        path: Path | None = None,
        bypass: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Maps images [B, image_channels, H, W] to logits [B, classes].

        The logits are differentiable in the mixture and in the weights.

        With `path` only its operations run, scaled by their entries of the mixture. If channels are
        partial, `bypass` {kind: [..., edges]} scales those that pass the operations by; None: the
        sums of the mixture's rows. Raises ValueError for an argument of another shape and for
        images smaller than 4x4.
        """
        self.space.check_table(mixture)
        for kind, table in mixture.items():
            expected = None if self.tie_cells else self.cells_of_kind[kind]
            if (table.ndim == 2) != self.tie_cells or (expected is not None and len(table) != expected):
                shape = "[edges, candidates]" if self.tie_cells else f"[{expected} cells, edges, candidates]"
                raise ValueError(f"mixture[{kind!r}]: this network takes {shape}, got {list(table.shape)}")
        dtype = next(self.parameters()).dtype
        tables = {kind: table.to(dtype) for kind, table in mixture.items()}

        sources: list[SharedState] = []
        weights_before = (weight for cell in self.mixed_cells() for weight in cell.preprocess.parameters())
        cast = cast_together(weights_before, images.device)

        def run_cell(cell: nn.Module, states: Sequence[Tensor]) -> Tensor:
            assert isinstance(cell, MixedCell)
            # A state that two cells read is rectified once for both.
            known = {id(source.state): source for source in sources}
            sources[:] = [known.get(id(state)) or SharedState(state) for state in states]
            table = tables[cell.position.kind]
            weights = table if self.tie_cells else table[cell.position.of_kind]
            passing = None if bypass is None else bypass[cell.position.kind]
            if passing is not None and not self.tie_cells:
                passing = passing[cell.position.of_kind]
            chosen = None if path is None else path.of_cell(cell)
            return self.compute(cell, cell.preprocessed(sources, cast), weights, chosen, passing)

        return self.run(images, run_cell)

    def largest_offset(self) -> float | None:
        """Returns the largest |mean| / standard deviation of a raw map in the last fused pass; see
        `MixedCell.largest_offset`."""
        found = [offset for cell in self.mixed_cells() if (offset := cell.largest_offset()) is not None]
        return max(found, default=None)

    def rebuild(
        self,
        candidates: Mapping[str, Tensor] | None = None,
        partial: int | None = None,
        optimizers: Sequence[Optimizer] = (),
    ) -> None:
        """Changes the operations that exist and the channels through them, in place (DrNAS, Chen et
        al. 2021).

        An argument that is left out changes nothing. Weights and batch-norm statistics of
        operations that remain are kept, bit for bit, as is their state in `optimizers` (made over
        this network's parameters); if channels are added, the old ones keep theirs.
        """
        keep = {
            kind: next(cell.keep for cell in self.mixed_cells() if cell.position.kind == kind) for kind in self.cells_of_kind
        }
        keep.update(_check_candidates(self.space, candidates, keep) if candidates is not None else {})
        cells = self.mixed_cells()
        partial = self.partial if partial is None else partial
        _check_partial(self.channels, partial)
        moves = []
        for cell in cells:
            moves += cell.rebuild(keep[cell.position.kind], partial, like=next(self.parameters()))
        for optimizer in optimizers:
            carry_over(optimizer, self, moves)

    def slices(self, table: Mapping[str, Tensor]) -> dict[nn.Parameter, Tensor]:
        """Returns the parts of parameters of the operations that `table` {kind: bool
        [edges, candidates]} marks.

        There is a mask [rows] over the leading axis for each stacked parameter, one without axes
        for an operation without a bank of its own. Parameters without a marked part are left out.
        """
        self.space.check_table(table, "table")
        marked: dict[nn.Parameter, Tensor] = {}
        for cell in self.mixed_cells():
            marks = table[cell.position.kind]
            wanted = (marks if marks.ndim == 2 else marks[cell.position.of_kind]).tolist()
            for key, slot in cell.slots.items():
                rows = torch.tensor([wanted[edge][slot.column] for edge in slot.edges])
                bank = cell.banks[key]
                if isinstance(bank, ModuleBank):
                    for row, module in zip(rows, bank.modules_of_edges, strict=True):
                        marked.update({parameter: row for parameter in module.parameters() if row})
                elif rows.any():
                    marked.update(dict.fromkeys(bank.parameters(), rows))
        return marked

    def idle(self, *paths: Path) -> dict[nn.Parameter, Tensor]:
        """Returns the slices of the operations that are idle when these paths run; see `slices`."""
        cells = {cell.position.kind: cell for cell in self.mixed_cells()}
        columns = torch.arange(len(self.space.candidates))
        table = {}
        for kind, cell in cells.items():
            for path in paths:
                path.of_cell(cell)
            choices = [torch.as_tensor(path.choices[kind]) for path in paths]
            table[kind] = (torch.stack(choices).unsqueeze(-1) != columns).all(0)
        return self.slices(table)


def _check_candidates(
    space: SearchSpace, candidates: Mapping[str, Tensor] | None, default: Mapping[str, Keep] | None = None
) -> dict[str, Keep]:
    """Returns a table for each kind, from bool [edges, candidates]; a kind left out keeps
    `default`, or everything."""
    shape = (len(space.edges), len(space.candidates))
    tables: dict[str, Keep] = {
        kind: [[True] * shape[1]] * shape[0] if default is None else default[kind] for kind in space.kinds
    }
    for kind, table in (candidates or {}).items():
        if kind not in tables:
            raise ValueError(f"candidates: space {space.name} has the kinds {', '.join(space.kinds)}, not {kind!r}")
        table = torch.as_tensor(table)
        if tuple(table.shape) != shape or table.dtype != torch.bool:
            raise ValueError(f"candidates[{kind!r}]: expected bool {list(shape)}, got {table.dtype} {list(table.shape)}")
        tables[kind] = table.tolist()
    return tables


def _check_partial(channels: int, partial: int) -> None:
    if partial < 1 or channels % partial:
        raise ValueError(f"partial: {channels} channels cannot be cut into {partial} equal parts")
