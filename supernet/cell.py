"""One cell of the supernet: input states in, one state out, under a table of mixing weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops.banks import Bank, EdgeBank, Move, SharedBank, SharedState, make_bank
from ops.functional import Cast, channel_shuffle, strided_size
from ops.fused import FusedCell
from ops.images import FactorizedReduce, ReluConvNorm
from ops.kernels.launch import supports
from ops.mixing import Branch, mix, spread
from ops.plan import CellPlan, Operation, fusable
from ops.registry import build_op, drop_running_statistics
from supernet.spaces.skeleton import CellPosition
from supernet.spaces.space import SearchSpace

PLANS = 64
"""Most plans that a cell keeps: one for each path that was sampled last."""

Keep = Sequence[Sequence[bool]]
"""[edges][candidates]: which operations exist."""

Kernels = Literal["auto", "reference", "fused"]
"""auto: fused kernels on a GPU that supports them; reference: plain torch, one call an edge and operation; fused: the fused
formulation on every device, where Triton's interpreter or plain torch stands in for a kernel (for tests)."""


@dataclass(frozen=True)
class Slot:
    """What a bank computes: candidate number `column` on those `edges` (rows of the mixture) that leave state `source`."""

    source: int
    column: int
    edges: tuple[int, ...]

    def runs(self, edge: int, chosen: Sequence[int] | None) -> bool:
        """Whether the candidate runs on `edge`, with `chosen` one candidate an edge or, where None, all."""
        return edge in self.edges and (chosen is None or chosen[edge] == self.column)


class NodeInputs:
    """What flows into one node: weighted branches through operations, and past them where channels are partial."""

    def __init__(self) -> None:
        self.branches: list[Branch] = []
        self.weights: list[Tensor | None] = []
        self.bypass: list[Tensor] = []

    def add(self, branch: Branch, weight: Tensor | None) -> None:
        self.branches.append(branch)
        self.weights.append(weight)


class MixedCell(nn.Module):
    """Every node is the sum over its edges and candidates of weight * operation(source).

    `keep` [edges, candidates] says which operations exist; one that does not has no weights and no cost. Only channels /
    `partial` of each state go through operations; the rest bypasses them, scaled by the sum of the edge's weights (1 for a
    softmax, the edge's beta under edge normalisation), and is shuffled in (PC-DARTS, Xu et al. 2020, section 3.2).
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
        """Makes the banks for `keep` and `partial`; weights of operations that were there before stay.

        A bank of which nothing changes stays the same object; for the others the moves say which parameter became which. New
        weights take device and dtype from `like`.
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
        self.fused: dict[tuple[object, ...], FusedCell] = {}
        self.fusable = partial == 1 and all(fusable(self._bank(key), self._stride(slot.source)) for key, slot in slots.items())
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

    def forward(
        self,
        inputs: Sequence[SharedState],
        weights: Tensor,
        chosen: Sequence[int] | None = None,
        cast: Cast | None = None,
        bypass: Tensor | None = None,
    ) -> Tensor:
        """Input states to the cell's output [B, len(concat) * C, H, W].

        `weights` [edges, candidates]. With `chosen`, one candidate an edge (-1: none at all), only those operations run. `cast`
        has weights of the preprocessing that autocast need not cast any more. `bypass` [edges] scales the channels that pass
        the operations by; None: the sums of the edges' weights.
        """
        known = [_preprocessed(layer, source, cast or {}) for layer, source in zip(self.preprocess, inputs, strict=True)]
        if self._fuses(known[0]):
            return self._fused(chosen, known[0].device)(known, weights, self.training)
        # One scalar a weight: a single stack backward, instead of a table of zeros for each weight that is read.
        scalars = [row.unbind(0) for row in weights.unbind(0)]
        passing = weights.sum(-1) if bypass is None and self.partial > 1 else bypass
        nodes = [NodeInputs() for _ in range(self.space.inputs + self.space.nodes)]
        for number, node in enumerate(nodes):
            if number >= self.space.inputs:
                known.append(self._join(node, known[0]))
            self._leave(number, known[number], scalars, passing, chosen, nodes)
        return torch.cat([known[state] for state in self.space.concat], dim=1)

    def _fuses(self, state: Tensor) -> bool:
        """Whether the fused kernels compute this cell, whose preprocessed input is like `state`."""
        return self.fusable and (self.kernels == "fused" or (self.kernels == "auto" and supports(state)))

    def largest_offset(self) -> float | None:
        """Largest |mean| / standard deviation among the raw maps of the last fused call, None where there was none.

        The error of a normalised value in bfloat16 grows with it: 0.002, 0.018, 0.14 at 1, 10, 100.
        """
        found = [offset for plan in self.fused.values() if (offset := plan.largest_offset()) is not None]
        return max(found, default=None)

    def _fused(self, chosen: Sequence[int] | None, device: torch.device) -> FusedCell:
        """The plan for the operations that run; kept, because its tables are on the device."""
        key = (None if chosen is None else tuple(chosen), device)
        if key not in self.fused:
            if len(self.fused) >= PLANS:
                self.fused.pop(next(iter(self.fused)))
            operations = []
            for name, slot in self.slots.items():
                rows = tuple(row for row, edge in enumerate(slot.edges) if slot.runs(edge, chosen))
                if rows:
                    edges = [slot.edges[row] for row in rows]
                    targets = tuple(self.space.edges[edge][1] - self.space.inputs for edge in edges)
                    places = tuple(edge * len(self.space.candidates) + slot.column for edge in edges)
                    operations.append(Operation(self._bank(name), slot.source, rows, targets, places))
            space, position = self.space, self.position
            plan = CellPlan(operations, space.inputs, space.nodes, space.concat, position.stride, position.channels, device)
            self.fused[key] = FusedCell(plan)
        return self.fused[key]

    def _leave(
        self,
        number: int,
        state: Tensor,
        weights: Sequence[Sequence[Tensor]],
        passing: Tensor | None,
        chosen: Sequence[int] | None,
        nodes: Sequence[NodeInputs],
    ) -> None:
        """Sends state `number` through all operations on the edges that leave it, to the nodes at their ends."""
        inner = self.position.channels // self.partial
        source = SharedState(state[:, :inner] if self.partial > 1 else state)
        shared: list[tuple[Slot, Tensor]] = []
        for key, slot in self.slots.items():
            if slot.source != number:
                continue
            rows = [row for row, edge in enumerate(slot.edges) if slot.runs(edge, chosen)]
            if not rows:
                continue
            bank = self.banks[key]
            if isinstance(bank, SharedBank):
                shared.append((slot, bank(source)))
                continue
            for row, branch in zip(rows, bank(source, rows), strict=True):
                edge = slot.edges[row]
                nodes[self.space.edges[edge][1]].add(branch, weights[edge][slot.column])
        if shared:
            self._spread(shared, weights, chosen, nodes)
        if self.partial > 1:
            assert passing is not None
            self._bypass(number, state[:, inner:], passing, chosen, nodes)

    def _spread(
        self,
        shared: Sequence[tuple[Slot, Tensor]],
        weights: Sequence[Sequence[Tensor]],
        chosen: Sequence[int] | None,
        nodes: Sequence[NodeInputs],
    ) -> None:
        """Sends maps that all edges of a source share to their nodes."""
        edges = sorted({edge for slot, _ in shared for edge in slot.edges if slot.runs(edge, chosen)})
        nothing = shared[0][1].new_zeros(())
        table = [weights[edge][slot.column] if slot.runs(edge, chosen) else nothing for edge in edges for slot, _ in shared]
        maps = [shared_map for _, shared_map in shared]
        for edge, mixed in zip(edges, spread(maps, torch.stack(table).view(len(edges), len(maps))), strict=True):
            nodes[self.space.edges[edge][1]].add(Branch(mixed), None)

    def _bypass(
        self,
        number: int,
        outer: Tensor,
        passing: Tensor,
        chosen: Sequence[int] | None,
        nodes: Sequence[NodeInputs],
    ) -> None:
        """Sends the channels that no operation sees to the nodes; edges of stride 2 halve them by max pooling."""
        edges = [
            edge
            for edge, (start, _) in enumerate(self.space.edges)
            if start == number and (chosen is None or chosen[edge] >= 0)
        ]
        if not edges:
            return
        if self._stride(number) == 2:
            outer = F.max_pool2d(outer, 2, 2, ceil_mode=True)
        # Edge by edge: a list as an index would have to be copied to the device, which no CUDA graph can.
        shares = torch.stack([passing[edge] for edge in edges])
        for edge, mixed in zip(edges, spread([outer], shares.unsqueeze(1)), strict=True):
            nodes[self.space.edges[edge][1]].bypass.append(mixed)

    def _join(self, node: NodeInputs, first: Tensor) -> Tensor:
        """The state of a node; zeros [B, C, H, W] where nothing flows in. `first` is the cell's first preprocessed input."""
        size = strided_size(first.shape[2:], self.position.stride)
        inner = self.position.channels // self.partial
        mixed = mix(node.branches, node.weights) if node.branches else first.new_zeros(first.shape[0], inner, *size)
        if self.partial == 1:
            return mixed
        if node.bypass:
            outer = mix([Branch(term) for term in node.bypass], [None] * len(node.bypass))
        else:
            outer = first.new_zeros(first.shape[0], self.position.channels - inner, *size)
        return channel_shuffle(torch.cat((mixed, outer), dim=1), self.partial)


def _preprocessed(layer: nn.Module, source: SharedState, cast: Cast) -> Tensor:
    if isinstance(layer, ReluConvNorm | FactorizedReduce):
        return layer.after_relu(source.rectified, cast)
    return layer(source.state)
