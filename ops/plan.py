"""The plan of a cell: the place of every map; `ops.tables` writes it down for the fused kernels.

The states of a cell become known in rounds: its inputs together, then node after node. All maps
that leave the sources of a round lie next to each other, in this order: outputs of stencils (first
halves of separable convolutions, then dilated ones), of one dense convolution a source for all its
edges, of maximum pools, of average pools, of second halves of separable convolutions. A node is the
sum over its entries, each a map (or, for a skip, a state) with a weight.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops.banks import Bank, ChainBank, Convolution, PoolBank, ReduceBank, SkipBank, Step
from ops.executor import CellOperations, Operation
from ops.kernels.pool import AVERAGE, IDENTITY, MAXIMUM

LARGEST_KERNEL = 7
"""Side of the largest depthwise convolution that the stencils' backward pass has room for."""


class Stencil(NamedTuple):
    """Names of the weights and of the batch norm of one depthwise and one pointwise convolution."""

    depthwise: str
    pointwise: str
    norm: str
    kernel: int
    dilation: int


class Norm(NamedTuple):
    """The place of the running statistics of a map."""

    bank: Bank
    name: str
    row: int


class Entry(NamedTuple):
    """A term of a node's sum."""

    node: int
    map: int  # or -1 - number of a state
    weight: int
    normalised: bool


@dataclass
class Chain:
    """A chain on one edge: a stencil, or two in a row."""

    operation: Operation
    index: int  # of the edge among the operation's
    stencils: list[Stencil]
    # The places of the depthwise and pointwise weight of each stencil.
    places: list[tuple[int, int]] = field(default_factory=list)
    entry: Entry | None = None  # of its last map


@dataclass
class Shared:
    """A map whose gradient is stored: that of a pool, a skip or a dense convolution."""

    source: int  # within the round
    kind: int | None  # MAXIMUM, AVERAGE, IDENTITY; None: dense
    map: int  # -1: it has no batch norm
    entries: list[Entry]


@dataclass
class Dense:
    """The ordinary convolutions on all edges that leave one source."""

    source: int  # within the round
    operations: list[Operation]
    maps: slice

    def weights(self) -> Tensor:
        """Returns one weight [edges * C, C, k, k] with k the largest of the kernels.

        It is differentiable in the banks' weights.
        """
        largest = max(dense_kernel(operation.bank) for operation in self.operations)
        found = [_dense_weight(operation.bank, operation.rows, largest) for operation in self.operations]
        return torch.cat(found) if len(found) > 1 else found[0]


@dataclass
class Round:
    """The maps that leave one source, or the cell's inputs together.

    Slices are of all maps of the cell.
    """

    sources: range
    stride: int
    branches: list[Chain]
    dense: list[Dense]
    shared: list[Shared]
    first: slice  # outputs of the first stencils
    pools: slice
    second: slice  # outputs of the second stencils
    maxima: slice  # of this round's maximum pools, among those of the cell

    @property
    def separable(self) -> int:
        """Returns the number of branches with two stencils; they come first."""
        return self.second.stop - self.second.start

    @property
    def halves(self) -> slice:
        """Returns the outputs of their first stencils."""
        return slice(self.first.start, self.first.start + self.separable)


def stencils(bank: Bank, stride: int) -> list[Stencil]:
    """Returns the one or two stencils of a bank of chains of the forms of DARTS; an empty list for
    another."""
    if not isinstance(bank, ChainBank):
        return []
    return chain_stencils(bank.steps, lambda name: bank.stacked(name).shape[1:], stride)


def chain_stencils(steps: Sequence[Step], shape: Callable[[str], Sequence[int]], stride: int) -> list[Stencil]:
    """Returns the stencils of a chain of these steps; `shape` says those of its weights."""
    if len(steps) not in (3, 7) or (len(steps) == 7 and steps[3] is not None):
        return []
    found = []
    for start in range(0, len(steps), 4):
        depthwise, pointwise, norm = steps[start : start + 3]
        if not (isinstance(depthwise, Convolution) and isinstance(pointwise, Convolution) and isinstance(norm, str)):
            return []
        channels, _, kernel, _ = (weight := tuple(shape(f"{depthwise.name}.weight")))
        dilation = depthwise.dilation[0]
        same = dilation * (kernel - 1) // 2
        expected = Convolution(depthwise.name, (stride,) * 2, (same,) * 2, (dilation,) * 2, channels)
        plain = Convolution(pointwise.name, (1, 1), (0, 0), (1, 1), 1)
        square = tuple(shape(f"{pointwise.name}.weight")) == (channels, channels, 1, 1)
        odd = kernel % 2 and kernel <= LARGEST_KERNEL and weight[1:] == (1, kernel, kernel)
        if depthwise != expected or pointwise != plain or not square or not odd:
            return []
        found.append(Stencil(depthwise.name, pointwise.name, norm, kernel, dilation))
        stride = 1
    return found


def dense_kernel(bank: Bank) -> int:
    """Returns the side of the kernel of an ordinary convolution; 0 for another operation.

    The factorised reduction is one of 3x3: half of its channels see the centre, half the pixel
    below and to the right.
    """
    if isinstance(bank, ReduceBank):
        return 3
    if not isinstance(bank, ChainBank):
        return 0
    return chain_dense_kernel(bank.steps, lambda name: bank.stacked(name).shape[1:])


def chain_dense_kernel(steps: Sequence[Step], shape: Callable[[str], Sequence[int]]) -> int:
    """Returns the side of the kernel of a chain of one ordinary convolution; 0 for another."""
    if len(steps) != 2 or not isinstance(convolution := steps[0], Convolution):
        return 0
    outputs, channels, kernel, width = shape(f"{convolution.name}.weight")
    stride = convolution.stride[0]
    expected = Convolution(convolution.name, (stride,) * 2, (kernel // 2,) * 2, (1, 1), 1)
    return kernel if convolution == expected and outputs == channels and kernel % 2 and kernel == width else 0


def _dense_weight(bank: Bank, rows: Sequence[int], kernel: int) -> Tensor:
    """Returns [len(rows) * C, C, kernel, kernel], differentiable in the weights of the bank."""
    if isinstance(bank, ReduceBank):
        even = F.pad(bank.stacked("even.weight"), (1, 1, 1, 1))
        weight = torch.cat((even, F.pad(bank.stacked("shifted.weight"), (2, 0, 2, 0))), dim=1)
    else:
        assert isinstance(bank, ChainBank)
        convolution = bank.steps[0]
        assert isinstance(convolution, Convolution)
        weight = bank.stacked(f"{convolution.name}.weight")
    border = (kernel - weight.shape[-1]) // 2
    weight = F.pad(weight, (border,) * 4) if border else weight
    if len(rows) < len(weight):
        weight = torch.stack([weight[row] for row in rows])
    return weight.flatten(0, 1)


def pool_kind(bank: Bank, stride: int) -> int | None:
    """Returns AVERAGE or MAXIMUM for a pool of 3x3 as the spaces have it; None for another bank."""
    return layer_kind(bank.pool, stride) if isinstance(bank, PoolBank) else None


def layer_kind(layer: nn.Module, stride: int) -> int | None:
    """Returns AVERAGE or MAXIMUM for such a layer; None for another."""
    if not isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
        return None
    if (layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode) != (3, stride, 1, False):
        return None
    if isinstance(layer, nn.MaxPool2d):
        return MAXIMUM if layer.dilation == 1 else None
    return AVERAGE if not layer.count_include_pad and layer.divisor_override is None else None


def fusable(bank: Bank, stride: int) -> bool:
    """Says whether the fused kernels compute the operation of `bank` on edges of that stride."""
    if isinstance(bank, SkipBank):
        return stride == 1
    return bool(stencils(bank, stride) or dense_kernel(bank)) or pool_kind(bank, stride) is not None


def plannable(cell: CellOperations) -> bool:
    """Says whether the fused kernels compute `cell`.

    All its operations must be `fusable`, and all channels must go through them.
    """
    return cell.partial == 1 and all(fusable(each.bank, cell.stride_of(each.source)) for each in cell.operations)


class CellPlan:
    """The places of all maps, norms, weights and entries of one cell, and its rounds.

    Raises ValueError for an operation that is not `fusable` and for partial channels.
    """

    def __init__(self, cell: CellOperations) -> None:
        if not plannable(cell):
            raise ValueError("the kernels compute neither partial channels nor operations of other forms: use ReferenceCell")
        inputs, nodes = cell.inputs, cell.nodes
        self.inputs, self.nodes, self.stride, self.channels = inputs, nodes, cell.stride, cell.channels
        self.concat = [state - inputs for state in cell.concat]
        self.norms: list[Norm | None] = []
        """The batch norm of each map; None for a map that is not normalised."""
        self.packed: list[tuple[Bank, str]] = []
        """The bank of each packed weight of the stencils, and its name in the module, in order."""
        self.partial_rows = False
        """True if some packed weights belong to edges that do not run."""
        self.rounds: list[Round] = []
        self.maxima = 0
        """Number of maximum pools."""
        self.entries_of: list[list[Entry]] = [[] for _ in range(nodes)]
        """The entries of each node."""
        self._places: dict[tuple[int, str], int] = {}
        for sources in (range(inputs), *(range(state, state + 1) for state in range(inputs, inputs + nodes))):
            leaving = [operation for operation in cell.operations if operation.source in sources]
            if leaving:
                self.rounds.append(self._round(sources, cell.stride_of(sources.start), leaving))
        starts = [0]
        for entries in self.entries_of:
            starts.append(starts[-1] + len(entries))
        self.entries = starts[-1]
        """Number of entries of all nodes together."""
        self.ranges = [slice(start, start + len(entries)) for start, entries in zip(starts, self.entries_of, strict=False)]
        """The entries of each node among those of all nodes."""
        self.row_of = {entry: row for row, entry in enumerate(entry for entries in self.entries_of for entry in entries)}
        """The place of each entry among those of all nodes together."""

    @property
    def maps(self) -> int:
        """Number of maps."""
        return len(self.norms)

    def _round(self, sources: range, stride: int, leaving: Sequence[Operation]) -> Round:
        """Gives every map of a round its place."""
        branches: list[Chain] = []
        dense: dict[int, list[Operation]] = {}
        pools: list[tuple[int, Operation]] = []
        skips: list[Operation] = []
        for operation in leaving:
            if isinstance(operation.bank, SkipBank):
                skips.append(operation)
            elif found := stencils(operation.bank, stride):
                branches += [Chain(operation, index, found) for index in range(len(operation.rows))]
            elif (kind := pool_kind(operation.bank, stride)) is not None:
                pools.append((kind, operation))
            else:
                dense.setdefault(operation.source, []).append(operation)
        branches.sort(key=lambda branch: -len(branch.stencils))
        pools.sort(key=lambda pool: -pool[0])
        shared: list[Shared] = []

        first = self._stencils(branches, 0)
        convolutions, dense_shared = self._convolutions(sources.start, dense)
        start = self.maps
        for kind, operation in pools:
            assert isinstance(operation.bank, PoolBank)
            norm = Norm(operation.bank, "norm", 0) if operation.bank.normalised else None
            self.norms.append(norm)
            map = self.maps - 1
            entries = [self._add_entry(operation, index, map, norm is not None) for index in range(len(operation.rows))]
            shared.append(Shared(operation.source - sources.start, kind, -1 if norm is None else map, entries))
        count = sum(kind == MAXIMUM for kind, _ in pools)
        maxima = slice(self.maxima, self.maxima + count)
        self.maxima += count
        pooled = slice(start, self.maps)
        for operation in skips:
            # The kernels see the states that are as large as the nodes; if the inputs are halved,
            # these are the nodes alone.
            state = operation.source if self.stride == 1 else operation.source - self.inputs
            entries = [self._add_entry(operation, index, -1 - state, False) for index in range(len(operation.rows))]
            shared.append(Shared(operation.source - sources.start, IDENTITY, -1, entries))
        second = self._stencils([branch for branch in branches if len(branch.stencils) == 2], 1)
        shared += dense_shared
        return Round(sources, stride, branches, convolutions, shared, first, pooled, second, maxima)

    def _stencils(self, branches: Sequence[Chain], stage: int) -> slice:
        """Places the outputs of the first or second stencils of `branches`."""
        start = self.maps
        for branch in branches:
            stencil, row = branch.stencils[stage], branch.operation.rows[branch.index]
            self.norms.append(Norm(branch.operation.bank, stencil.norm, row))
            branch.places.append((self._pack(branch, stencil.depthwise), self._pack(branch, stencil.pointwise)))
            if stage == len(branch.stencils) - 1:
                branch.entry = self._add_entry(branch.operation, branch.index, self.maps - 1, True)
        return slice(start, self.maps)

    def _convolutions(self, start: int, dense: dict[int, list[Operation]]) -> tuple[list[Dense], list[Shared]]:
        """Places the outputs of ordinary convolutions, by source; `start` is the first source of
        the round."""
        convolutions, shared = [], []
        for source, operations in sorted(dense.items()):
            first = self.maps
            for operation in operations:
                bank = operation.bank
                name = str(bank.steps[-1]) if isinstance(bank, ChainBank) else "norm"
                for index, row in enumerate(operation.rows):
                    self.norms.append(Norm(bank, name, row))
                    entry = self._add_entry(operation, index, self.maps - 1, True)
                    shared.append(Shared(source - start, None, self.maps - 1, [entry]))
            convolutions.append(Dense(source - start, operations, slice(first, self.maps)))
        return convolutions, shared

    def _add_entry(self, operation: Operation, index: int, map: int, normalised: bool) -> Entry:
        entry = Entry(operation.targets[index], map, operation.weights[index], normalised)
        self.entries_of[entry.node].append(entry)
        return entry

    def _pack(self, branch: Chain, layer: str) -> int:
        """Packs a weight unless it is packed already; returns the offset of one edge's part."""
        bank, name = branch.operation.bank, f"{layer}.weight"
        weight = bank.stacked(name)
        if (id(bank), name) not in self._places:
            self._places[id(bank), name] = sum(known.stacked(other).numel() for known, other in self.packed)
            self.packed.append((bank, name))
            self.partial_rows |= len(branch.operation.rows) < len(weight)
        return self._places[id(bank), name] + branch.operation.rows[branch.index] * weight[0].numel()
