"""Where every map of a cell lies, and the tables that tell the fused kernels so.

A cell's states become known in rounds: its inputs together, then node after node. All maps that leave the sources of a round
lie next to each other, in this order: outputs of stencils (first halves of separable convolutions, then dilated ones), of one
dense convolution a source for all its edges, of maximum pools, of average pools, of second halves of separable convolutions.
A node is the sum over its entries, each a map (or, for a skip, a state) with a weight.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops.banks import Bank, ChainBank, Convolution, PoolBank, ReduceBank, SkipBank
from ops.kernels.pool import AVERAGE, IDENTITY, MAXIMUM

LARGEST_KERNEL = 7
"""Side of the largest depthwise convolution that the stencils' backward pass has room for."""

Rows = list[tuple[int, ...]]


class Operation(NamedTuple):
    """A bank on some of its edges: `rows` of the bank lead from state `source` to the nodes `targets` (numbered from 0), each
    weighted by one entry of the mixture, `weights`, counted in row-major order."""

    bank: Bank
    source: int
    rows: tuple[int, ...]
    targets: tuple[int, ...]
    weights: tuple[int, ...]


class Stencil(NamedTuple):
    """Names of the weights and of the batch norm of one depthwise and one pointwise convolution."""

    depthwise: str
    pointwise: str
    norm: str
    kernel: int
    dilation: int


class Norm(NamedTuple):
    """Where the running statistics of a map lie."""

    bank: Bank
    name: str
    row: int


class Entry(NamedTuple):
    """One term of a node's sum."""

    node: int
    map: int  # or -1 - number of a state
    weight: int
    normalised: bool


@dataclass
class Chain:
    """One edge of a chain: one stencil, or two in a row."""

    operation: Operation
    index: int  # of the edge among the operation's
    stencils: list[Stencil]
    places: list[tuple[int, int]] = field(default_factory=list)  # of the depthwise and pointwise weight of each stencil
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
    """All ordinary convolutions on the edges that leave one source."""

    source: int  # within the round
    operations: list[Operation]
    maps: slice

    def weights(self) -> Tensor:
        """[edges * C, C, k, k] for one convolution with the largest of the kernels, differentiable in the banks' weights."""
        largest = max(dense_kernel(operation.bank) for operation in self.operations)
        found = [_dense_weight(operation.bank, operation.rows, largest) for operation in self.operations]
        return torch.cat(found) if len(found) > 1 else found[0]


@dataclass
class Round:
    """What leaves one source, or the cell's inputs together. Slices are of all maps of the cell."""

    sources: range
    stride: int
    branches: list[Chain]
    dense: list[Dense]
    shared: list[Shared]
    first: slice  # outputs of the first stencils
    pools: slice
    second: slice  # outputs of the second stencils
    maxima: slice  # of this round's maximum pools, among those of the cell
    tables: dict[str, Tensor] = field(default_factory=dict)

    @property
    def separable(self) -> int:
        """Number of branches with two stencils; they come first."""
        return self.second.stop - self.second.start

    @property
    def halves(self) -> slice:
        """The outputs of their first stencils."""
        return slice(self.first.start, self.first.start + self.separable)


def stencils(bank: Bank, stride: int) -> list[Stencil]:
    """The one or two stencils that a chain of the forms of DARTS consists of; none for anything else."""
    if not isinstance(bank, ChainBank) or len(bank.steps) not in (3, 7) or (len(bank.steps) == 7 and bank.steps[3] is not None):
        return []
    found = []
    for start in range(0, len(bank.steps), 4):
        depthwise, pointwise, norm = bank.steps[start : start + 3]
        if not (isinstance(depthwise, Convolution) and isinstance(pointwise, Convolution) and isinstance(norm, str)):
            return []
        channels, _, kernel, _ = (weight := bank.stacked(f"{depthwise.name}.weight")).shape[1:]
        dilation = depthwise.dilation[0]
        same = dilation * (kernel - 1) // 2
        expected = Convolution(depthwise.name, (stride,) * 2, (same,) * 2, (dilation,) * 2, channels)
        plain = Convolution(pointwise.name, (1, 1), (0, 0), (1, 1), 1)
        square = bank.stacked(f"{pointwise.name}.weight").shape[1:] == (channels, channels, 1, 1)
        odd = kernel % 2 and kernel <= LARGEST_KERNEL and weight.shape[2:] == (1, kernel, kernel)
        if depthwise != expected or pointwise != plain or not square or not odd:
            return []
        found.append(Stencil(depthwise.name, pointwise.name, norm, kernel, dilation))
        stride = 1
    return found


def dense_kernel(bank: Bank) -> int:
    """Side of the square kernel of an operation that is one ordinary convolution; 0 for anything else.

    The factorised reduction is one of 3x3: half of its channels see the centre, half the pixel below and to the right.
    """
    if isinstance(bank, ReduceBank):
        return 3
    if not isinstance(bank, ChainBank) or len(bank.steps) != 2 or not isinstance(convolution := bank.steps[0], Convolution):
        return 0
    outputs, channels, kernel, width = bank.stacked(f"{convolution.name}.weight").shape[1:]
    stride = convolution.stride[0]
    expected = Convolution(convolution.name, (stride,) * 2, (kernel // 2,) * 2, (1, 1), 1)
    return kernel if convolution == expected and outputs == channels and kernel % 2 and kernel == width else 0


def _dense_weight(bank: Bank, rows: Sequence[int], kernel: int) -> Tensor:
    """[len(rows) * C, C, kernel, kernel], differentiable in the weights of the bank."""
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
    """AVERAGE or MAXIMUM for a pool of 3x3 as the spaces have it; None for anything else."""
    if not isinstance(bank, PoolBank):
        return None
    layer = bank.pool
    if (layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode) != (3, stride, 1, False):
        return None
    if isinstance(layer, nn.MaxPool2d):
        return MAXIMUM if layer.dilation == 1 else None
    return AVERAGE if not layer.count_include_pad and layer.divisor_override is None else None


def fusable(bank: Bank, stride: int) -> bool:
    """Whether the fused kernels compute the operation of `bank` on edges of that stride."""
    if isinstance(bank, SkipBank):
        return stride == 1
    return bool(stencils(bank, stride) or dense_kernel(bank)) or pool_kind(bank, stride) is not None


class CellPlan:
    """The plan of one cell: states 0 to inputs - 1 are its inputs, the others its nodes.

    `operations` must be `fusable`; `stride` is that of the edges that leave the inputs; `concat` names the states, all of them
    nodes, that make up the output. Tables are int32 tensors on `device`.
    """

    def __init__(
        self,
        operations: Iterable[Operation],
        inputs: int,
        nodes: int,
        concat: Sequence[int],
        stride: int,
        channels: int,
        device: torch.device,
    ) -> None:
        self.inputs, self.nodes, self.stride, self.channels = inputs, nodes, stride, channels
        self.concat = [state - inputs for state in concat]
        self.norms: list[Norm | None] = []
        """Of each map; None where it is not normalised."""
        self.packed: list[tuple[Bank, str]] = []
        """Whose weights are packed one after the other for the stencils, by the name in the module."""
        self.partial_rows = False
        """Whether some packed weights belong to edges that do not run."""
        self.rounds: list[Round] = []
        self.maxima = 0
        """Number of maximum pools."""
        self._places: dict[tuple[int, str], int] = {}
        self._entries: list[list[Entry]] = [[] for _ in range(nodes)]
        operations = list(operations)
        for sources in (range(inputs), *(range(state, state + 1) for state in range(inputs, inputs + nodes))):
            leaving = [operation for operation in operations if operation.source in sources]
            if leaving:
                self.rounds.append(self._round(sources, stride if sources.start == 0 else 1, leaving))
        starts = [0]
        for entries in self._entries:
            starts.append(starts[-1] + len(entries))
        self.entries = starts[-1]
        """Number of entries of all nodes together."""
        self.ranges = [slice(start, start + len(entries)) for start, entries in zip(starts, self._entries, strict=False)]
        """Which of all entries are a node's."""
        self._row = {entry: row for row, entry in enumerate(entry for entries in self._entries for entry in entries)}
        self.node_tables = self._write(device)
        """int32 [entries of the node, 3]: map (states count on from the maps), weight, 1 if it is normalised."""

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
            # The kernels see the states that are as large as the nodes: where inputs are halved, the nodes alone.
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
        """Places the outputs of ordinary convolutions, by source; `start` is the first source of the round."""
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
        self._entries[entry.node].append(entry)
        return entry

    def _pack(self, branch: Chain, layer: str) -> int:
        """Where the weight of one edge lies among the packed ones."""
        bank, name = branch.operation.bank, f"{layer}.weight"
        weight = bank.stacked(name)
        if (id(bank), name) not in self._places:
            self._places[id(bank), name] = sum(known.stacked(other).numel() for known, other in self.packed)
            self.packed.append((bank, name))
            self.partial_rows |= len(branch.operation.rows) < len(weight)
        return self._places[id(bank), name] + branch.operation.rows[branch.index] * weight[0].numel()

    def _write(self, device: torch.device) -> list[Tensor]:
        """Writes the tables of all rounds and returns those of the nodes."""
        tables: dict[tuple[int, str], Rows] = {}
        for node, entries in enumerate(self._entries):
            tables[node, "node"] = [
                (entry.map if entry.map >= 0 else self.maps - 1 - entry.map, entry.weight, int(entry.normalised))
                for entry in entries
            ]
        for number, current in enumerate(self.rounds):
            tables |= {(number, name): rows for name, rows in self._tables(current).items()}
        written = _to_device(tables, device)
        for number, current in enumerate(self.rounds):
            current.tables = {name: table for (owner, name), table in written.items() if owner == number and name != "node"}
        return [written[node, "node"] for node in range(self.nodes)]

    def _tables(self, current: Round) -> dict[str, Rows]:
        """What the kernels' docstrings call `table` and `starts`, under the kernel's name and the half that it is for."""
        count = len(current.sources)
        pairs = list(enumerate(current.branches))
        by_source = sorted(pairs, key=lambda pair: pair[1].operation.source)
        separable = pairs[: current.separable]

        def source(branch: Chain) -> int:
            return branch.operation.source - current.sources.start

        def shape(branch: Chain, stage: int) -> tuple[int, int]:
            return branch.stencils[stage].kernel, branch.stencils[stage].dilation

        def gradient(index: int, branch: Chain) -> tuple[int, int]:
            """Of a first stencil: which gradient comes in, that of a node or, behind those, of its second half; its row."""
            if len(branch.stencils) == 2:
                return self.nodes + index, self.entries + index
            assert branch.entry is not None
            return branch.entry.node, self._row[branch.entry]

        tables: dict[str, Rows] = {
            "first": [(source(branch), *shape(branch, 0), *branch.places[0]) for branch in current.branches],
            "second": [(index, *shape(branch, 1), *branch.places[1]) for index, branch in separable],
            "pool": [(shared.source, shared.kind) for shared in current.shared if shared.kind in (MAXIMUM, AVERAGE)],
            "first_backward": [],
            "second_backward": [],
            "first_input": [(index, *shape(branch, 0), branch.places[0][0]) for index, branch in by_source],
            "first_starts": _starts((source(branch) for _, branch in by_source), count),
            "second_input": [(index, *shape(branch, 1), branch.places[1][0]) for index, branch in separable],
            "second_starts": [(index,) for index in range(len(separable) + 1)],
            "second_norm": [(current.first.start + index, -1, 1) for index, _ in separable],
        }
        for index, branch in pairs:
            node, row = gradient(index, branch)
            place = current.first.start + index
            tables["first_backward"].append((node, place, row, source(branch), *shape(branch, 0), *branch.places[0]))
        for index, branch in separable:
            assert branch.entry is not None
            node, row, place = branch.entry.node, self._row[branch.entry], current.second.start + index
            tables["second_backward"].append((node, place, row, index, *shape(branch, 1), *branch.places[1]))
        members = [(index, shared, entry) for index, shared in enumerate(current.shared) for entry in shared.entries]
        tables["shared"] = [(entry.node, self._row[entry], shared.map) for _, shared, entry in members]
        tables["shared_starts"] = _starts((index for index, _, _ in members), len(current.shared))
        pooled = [(index, shared) for index, shared in enumerate(current.shared) if shared.kind is not None]
        pooled.sort(key=lambda pair: pair[1].source)
        tables["pool_backward"] = [
            (index, shared.kind or 0, index if shared.kind == MAXIMUM else 0) for index, shared in pooled
        ]
        tables["pool_starts"] = _starts((shared.source for _, shared in pooled), count)
        return tables


def _starts(owners: Iterable[int], count: int) -> Rows:
    """Where the rows of each of `count` owners begin in a table whose rows belong to `owners`, in rising order."""
    owners = list(owners)
    return [(sum(owner < limit for owner in owners),) for limit in range(count + 1)]


def _to_device(tables: dict[tuple[int, str], Rows], device: torch.device) -> dict[tuple[int, str], Tensor]:
    """Every table as int32 on `device`, all in one copy; each begins at a multiple of 16 bytes, as kernels expect it."""
    values: list[int] = []
    begins = {}
    for name, table in tables.items():
        begins[name] = len(values)
        values += [value for row in table for value in row]
        values += [0] * (-len(values) % 4)
    everything = torch.tensor(values, dtype=torch.int32).to(device)
    views = {}
    for name, table in tables.items():
        width = len(table[0]) if table else 1
        view = everything[begins[name] : begins[name] + len(table) * width]
        views[name] = view if width == 1 else view.view(len(table), width)
    return views
