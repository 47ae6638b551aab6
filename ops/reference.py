"""The plain forward pass of a cell: one call for each edge and operation.

It runs on `ops.banks` and `ops.mixing`, computes every cell, and is differentiable any number of
times. Tests hold `ops.fused` to it, and hold it to explicit sums of one module for each edge and
operation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ops.banks import EdgeBank, SharedBank, SharedState
from ops.executor import CellOperations, Edge, Operation
from ops.functional import channel_shuffle, halved_bypass, new_map, parted, strided_size
from ops.mixing import Branch, mix, spread


@dataclass
class NodeInputs:
    """The terms of one node's sum: branches of operations, and channels that bypass them."""

    branches: list[Branch] = field(default_factory=list)
    weights: list[Tensor | None] = field(default_factory=list)
    bypass: list[Tensor] = field(default_factory=list)

    def add(self, branch: Branch, weight: Tensor | None) -> None:
        """Adds a branch with its weight, a scalar; None for a branch that is weighted already."""
        self.branches.append(branch)
        self.weights.append(weight)


class ReferenceCell:
    """A `CellExecutor` in plain torch, for every cell.

    Channels that bypass the operations are scaled, halved by max pooling on edges of stride 2,
    summed in each node and shuffled in behind its operations' channels.
    """

    def __init__(self, cell: CellOperations) -> None:
        states = range(cell.inputs + cell.nodes)
        self.cell = cell
        self._leaving = [[each for each in cell.operations if each.source == state] for state in states]
        self._edges = [[edge for edge in cell.edges if edge.source == state] for state in states]

    def __call__(self, states: Sequence[Tensor], mixture: Tensor, bypass: Tensor | None = None) -> Tensor:
        """Returns the output, as in `CellExecutor`."""
        cell, known = self.cell, list(states)
        # Unbinding once gives a single stack backward; indexing would give a table of zeros for
        # each weight that is read.
        weights = [weight for row in mixture.unbind(0) for weight in row.unbind(0)]
        shares = mixture.sum(-1) if bypass is None and cell.partial > 1 else bypass
        nodes = [NodeInputs() for _ in range(cell.nodes)]
        for number in range(cell.inputs + cell.nodes):
            if number >= cell.inputs:
                known.append(self._join(nodes[number - cell.inputs], known[0]))
            self._leave(number, known[number], weights, shares, nodes)
        return torch.cat([known[state] for state in cell.concat], dim=1)

    def largest_offset(self) -> None:
        """Returns None, because the plain pass does not measure its raw maps."""

    def _leave(
        self,
        number: int,
        state: Tensor,
        weights: Sequence[Tensor],
        shares: Tensor | None,
        nodes: Sequence[NodeInputs],
    ) -> None:
        """Sends state `number` along all edges that leave it, to the nodes at their ends."""
        cell = self.cell
        inner, outer = parted(state, cell.inner) if cell.partial > 1 else (state, None)
        source = SharedState(inner)
        shared: list[tuple[Operation, Tensor]] = []
        for operation in self._leaving[number]:
            bank = operation.bank
            if isinstance(bank, SharedBank):
                shared.append((operation, bank(source)))
                continue
            assert isinstance(bank, EdgeBank)
            branches = bank(source, operation.rows)
            for branch, target, weight in zip(branches, operation.targets, operation.weights, strict=True):
                nodes[target].add(branch, weights[weight])
        if shared:
            _spread(shared, weights, nodes)
        if outer is not None and self._edges[number]:
            assert shares is not None
            _bypass(outer, cell.stride_of(number), self._edges[number], shares, nodes)

    def _join(self, node: NodeInputs, first: Tensor) -> Tensor:
        """Returns the state of a node, [B, C, Ho, Wo]; zeros where nothing flows in.

        `first` is the cell's first input state.
        """
        cell = self.cell
        size = strided_size(first.shape[2:], cell.stride)
        mixed = mix(node.branches, node.weights) if node.branches else new_map(first, cell.inner, size)
        if cell.partial == 1:
            return mixed
        if node.bypass:
            outer = mix([Branch(term) for term in node.bypass], [None] * len(node.bypass))
        else:
            outer = new_map(first, cell.channels - cell.inner, size)
        return channel_shuffle(torch.cat((mixed, outer), dim=1), cell.partial)


def _spread(shared: Sequence[tuple[Operation, Tensor]], weights: Sequence[Tensor], nodes: Sequence[NodeInputs]) -> None:
    """Sends maps that all edges of a source share to their nodes."""
    entries = [dict(zip(each.targets, each.weights, strict=True)) for each, _ in shared]
    targets = sorted({target for entry in entries for target in entry})
    nothing = shared[0][1].new_zeros(())
    table = [weights[entry[target]] if target in entry else nothing for target in targets for entry in entries]
    maps = [shared_map for _, shared_map in shared]
    mixed = spread(maps, torch.stack(table).view(len(targets), len(maps)))
    for target, term in zip(targets, mixed, strict=True):
        nodes[target].add(Branch(term), None)


def _bypass(outer: Tensor, stride: int, edges: Sequence[Edge], shares: Tensor, nodes: Sequence[NodeInputs]) -> None:
    """Sends the channels that no operation sees along `edges`, each scaled by its entry of
    `shares`."""
    # Edge by edge, because an index list would be copied to the device, which no CUDA graph can do.
    scales = torch.stack([shares[edge.row] for edge in edges])
    for edge, term in zip(edges, spread([halved_bypass(outer, stride)], scales.unsqueeze(1)), strict=True):
        nodes[edge.target].bypass.append(term)
