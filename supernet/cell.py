"""One cell of the supernet: it maps input states to one state under a table of mixing weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from ops.banks import Bank, EdgeBank, Move, SharedBank, SharedState, make_bank
from ops.executor import CellExecutor, CellOperations, Edge, Operation
from ops.functional import Cast
from ops.fused import FusedCell
from ops.images import FactorizedReduce, ReluConvNorm
from ops.kernels import launch
from ops.native import executor as native
from ops.native.entrance import enter, is_entrance
from ops.native.executor import NativeCell
from ops.reference import ReferenceCell
from ops.registry import build_op, drop_running_statistics
from supernet.spaces.skeleton import CellPosition
from supernet.spaces.space import SearchSpace

EXECUTORS = 64
"""The most executors that a cell keeps, one for each of its latest paths."""

Keep = Sequence[Sequence[bool]]
"""[edges][candidates]: which operations exist."""

Kernels = Literal["auto", "reference", "fused"]
"""auto: fused kernels on a GPU, compiled ones on the CPU, plain torch where neither knows the cell or
can run; reference: plain torch, one call an edge and operation; fused: the fused form on every
device, with Triton's interpreter or plain torch in place of a kernel (for tests)."""


@dataclass(frozen=True)
class Slot:
    """The work of one bank: candidate number `column` on `edges` that leave state `source`.

    Edges are numbered by the rows of the mixture.
    """

    source: int
    column: int
    edges: tuple[int, ...]


class MixedCell(nn.Module):
    """A cell of which each node is the sum of weight * operation(source) over edges and candidates.

    `keep` [edges, candidates] says which operations exist; one that is left out has no weights and
    no cost. Only channels / `partial` of each state go through operations; the rest bypasses them,
    scaled by the sum of the edge's weights (1 for a softmax, the edge's beta under edge
    normalisation), and is shuffled in (PC-DARTS, Xu et al. 2020, section 3.2).
    """

    def __init__(
        self,
        space: SearchSpace,
        position: CellPosition,
        keep: Keep,
        partial: int,
        batch_statistics: bool,
        kernels: Kernels = "auto",
    ):
        super().__init__()
        self.kernels = kernels
        self.space = space
        self.position = position
        self.batch_statistics = batch_statistics
        self.preprocess = space.skeleton.preprocessing(position, affine=False)
        if batch_statistics:
            drop_running_statistics(self.preprocess)
        self.slots: dict[str, Slot] = {}
        self.banks = nn.ModuleDict()
        self.partial = partial
        self.rebuild(keep, partial)

    def rebuild(self, keep: Keep, partial: int, like: Tensor | None = None) -> list[Move]:
        """Makes the banks for `keep` and `partial`; weights of operations that were there before
        stay.

        A bank that does not change stays the same object; for the others the returned moves say
        which parameter became which. New weights take device and dtype from `like`.
        """
        moves: list[Move] = []
        slots: dict[str, Slot] = {}
        banks = nn.ModuleDict().train(self.training)
        for slot in self._slots(keep):
            key = f"{slot.source}/{self.space.candidates[slot.column]}"
            old_slot = self.slots.get(key)
            if slot == old_slot and partial == self.partial:
                slots[key], banks[key] = slot, self.banks[key]
                continue
            bank = self._new_bank(slot, partial)
            if bank is None:
                continue
            bank.train(self.training)
            if like is not None:
                bank.to(like)
            slots[key], banks[key] = slot, bank
            if old_slot is not None:
                moves += bank.inherit(
                    self._bank(key),
                    [(old_slot.edges.index(edge), row) for row, edge in enumerate(slot.edges) if edge in old_slot.edges],
                )
        self.slots, self.banks, self.keep, self.partial = slots, banks, keep, partial
        self.executors: dict[tuple[type[CellExecutor], tuple[int, ...] | None], CellExecutor] = {}
        operations = self.operations()
        self._fused, self._native = FusedCell.computes(operations), NativeCell.computes(operations)
        return moves

    def _bank(self, key: str) -> Bank:
        bank = self.banks[key]
        assert isinstance(bank, Bank)
        return bank

    def _slots(self, keep: Keep) -> list[Slot]:
        slots = []
        for source in range(self.space.inputs + self.space.nodes):
            leaving = [edge for edge, (start, _) in enumerate(self.space.edges) if start == source]
            for column in range(len(self.space.candidates)):
                edges = tuple(edge for edge in leaving if keep[edge][column])
                if edges:
                    slots.append(Slot(source, column, edges))
        return slots

    def _new_bank(self, slot: Slot, partial: int) -> EdgeBank | SharedBank | None:
        name = self.space.candidates[slot.column]
        channels = self.position.channels // partial
        stride = self._stride(slot.source)
        return make_bank(
            [
                build_op(self.space.searched_as.get(name, name), channels, stride, False, self.batch_statistics)
                for _ in slot.edges
            ]
        )

    def _stride(self, source: int) -> int:
        return self.position.stride if source < self.space.inputs else 1

    def preprocessed(self, sources: Sequence[SharedState], cast: Cast | None = None) -> list[Tensor]:
        """Returns the input states of the cell, each [B, C, H, W], from those that it reads.

        `cast` has weights of the preprocessing that autocast need not cast any more.
        """
        states = [source.state for source in sources]
        if self.kernels == "auto" and native.supports(*states) and all(map(is_entrance, self.preprocess)):
            return enter(self.preprocess, states)
        return [self._preprocessed(layer, source, cast or {}) for layer, source in zip(self.preprocess, sources, strict=True)]

    def forward(
        self,
        states: Sequence[Tensor],
        weights: Tensor,
        chosen: Sequence[int] | None = None,
        bypass: Tensor | None = None,
    ) -> Tensor:
        """Maps `preprocessed` input states to the cell's output [B, len(concat) * C, H, W].

        `weights` is [edges, candidates]. With `chosen`, one candidate an edge (-1: none at all),
        only those operations run. `bypass` [edges] scales the channels that pass the operations by;
        None: the sums of the edges' weights.
        """
        return self._executor(chosen, states[0])(states, weights, bypass)

    @staticmethod
    def _preprocessed(layer: nn.Module, source: SharedState, cast: Cast) -> Tensor:
        if isinstance(layer, ReluConvNorm | FactorizedReduce):
            return layer.after_relu(source.rectified, cast)
        return layer(source.state)

    def operations(self, chosen: Sequence[int] | None = None) -> CellOperations:
        """Returns the description of the operations that run; `chosen` as in `forward`."""
        space, position = self.space, self.position
        operations = []
        for key, slot in self.slots.items():
            rows = tuple(row for row, edge in enumerate(slot.edges) if chosen is None or chosen[edge] == slot.column)
            if rows:
                edges = [slot.edges[row] for row in rows]
                targets = tuple(space.edges[edge][1] - space.inputs for edge in edges)
                weights = tuple(edge * len(space.candidates) + slot.column for edge in edges)
                operations.append(Operation(self._bank(key), slot.source, rows, targets, weights))
        running = [
            Edge(row, source, target - space.inputs)
            for row, (source, target) in enumerate(space.edges)
            if chosen is None or chosen[row] >= 0
        ]
        return CellOperations(
            operations=tuple(operations),
            edges=tuple(running),
            inputs=space.inputs,
            nodes=space.nodes,
            concat=space.concat,
            stride=position.stride,
            channels=position.channels,
            partial=self.partial,
        )

    def _executor(self, chosen: Sequence[int] | None, state: Tensor) -> CellExecutor:
        """Returns the executor of the operations that run; `state` is the first preprocessed input.

        Executors are kept, since a fused one has its tables on the device.
        """
        kind = self._kind(state)
        key = (kind, None if chosen is None else tuple(chosen))
        if key not in self.executors:
            if len(self.executors) >= EXECUTORS:
                self.executors.pop(next(iter(self.executors)))
            self.executors[key] = kind(self.operations(chosen))
        return self.executors[key]

    def _kind(self, state: Tensor) -> type[FusedCell] | type[NativeCell] | type[ReferenceCell]:
        """Returns the kind of executor that computes states like `state`."""
        if self._fused and (self.kernels == "fused" or (self.kernels == "auto" and launch.supports(state))):
            return FusedCell
        if self._native and self.kernels == "auto" and native.supports(state):
            return NativeCell
        return ReferenceCell

    def largest_offset(self) -> float | None:
        """Returns the largest |mean| / standard deviation of a raw map in the last fused calls.

        It is None if there was none. The error of a normalised value in bfloat16 grows with it:
        0.002, 0.018, 0.14 at 1, 10, 100.
        """
        found = [offset for executor in self.executors.values() if (offset := executor.largest_offset()) is not None]
        return max(found, default=None)
