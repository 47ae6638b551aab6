"""All mixed edges of a cell as a few kernels: what `ops.banks` and `ops.mixing` compute, on the kernels of `ops.kernels`.

The states of a cell become known in rounds: its inputs together, then node after node. A round sends its sources through every
operation that leaves them, into maps that are kept raw with their statistics; a node is one weighted sum of all maps that
enter it. The backward pass walks the same way back: a node's gradient g gives sum(g) and sum(g * map) for each of its maps,
which is all that batch norm's backward and the gradients of the mixing weights need, and the gradient of a raw map is
formed where it is used (`kernels.statistics.norm_gradient`).

`FusedCell` is the plan: which map lies where, as tables that the kernels read. `_Run` is the differentiable function.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ops.banks import Bank, ChainBank, Convolution, PoolBank, ReduceBank, SkipBank
from ops.functional import strided_size
from ops.kernels.launch import EPSILON, accumulation_dtype
from ops.kernels.mix import mix, mix_gradient, mix_sums
from ops.kernels.pool import AVERAGE, IDENTITY, MAXIMUM, pool, pool_backward
from ops.kernels.statistics import collect, norm_gradient, statistics
from ops.kernels.stencil import stencil
from ops.kernels.stencil_backward import stencil_backward, stencil_input_gradient
from ops.mixing import MOMENTUM

PARTS = 64
"""Most parts that the statistics and sums of one map are cut into."""
WEIGHT_PARTS = 32
"""Most parts that the gradients of weights are cut into: each is as large as all weights of a cell."""
ROWS_A_PART = 128
"""Fewest pixels, of all images together, that are worth a part of their own."""


class Operation(NamedTuple):
    """A bank on some of its edges: `rows` of the bank lead from state `source` to the nodes `targets` (numbered from 0), each
    weighted by one entry of the mixture, `weights`, counted in row-major order."""

    bank: Bank
    source: int
    rows: tuple[int, ...]
    targets: tuple[int, ...]
    weights: tuple[int, ...]


class _Stencil(NamedTuple):
    """Names of the weights and of the batch norm of one depthwise and one pointwise convolution."""

    depthwise: str
    pointwise: str
    norm: str
    kernel: int
    dilation: int


def _stencils(bank: Bank, stride: int) -> list[_Stencil]:
    """The one or two stencils that a chain of the forms of DARTS consists of; none for anything else."""
    if not isinstance(bank, ChainBank) or len(bank.steps) not in (3, 7) or (len(bank.steps) == 7 and bank.steps[3] is not None):
        return []
    stencils = []
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
        if depthwise != expected or pointwise != plain or not square or weight.shape[2:] != (1, kernel, kernel):
            return []
        stencils.append(_Stencil(depthwise.name, pointwise.name, norm, kernel, dilation))
        stride = 1
    return stencils


def _dense(bank: Bank, stride: int) -> int:
    """Side of the square kernel of an operation that is one ordinary convolution; 0 for anything else.

    The factorised reduction is one of 3x3: half of its channels see the centre, half the pixel below and to the right.
    """
    if isinstance(bank, ReduceBank):
        return 3
    if not isinstance(bank, ChainBank) or len(bank.steps) != 2 or not isinstance(convolution := bank.steps[0], Convolution):
        return 0
    outputs, channels, kernel, _ = (weight := bank.stacked(f"{convolution.name}.weight")).shape[1:]
    expected = Convolution(convolution.name, (stride,) * 2, (kernel // 2,) * 2, (1, 1), 1)
    same = convolution == expected and outputs == channels and kernel % 2 and weight.shape[3] == weight.shape[4]
    return kernel if same else 0


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


def _dense_weights(banks: Sequence[tuple[Bank, tuple[int, ...], int]]) -> Tensor:
    """The weights of (bank, rows, kernel) together, for one convolution with the largest of the kernels."""
    largest = max(kernel for _, _, kernel in banks)
    weights = [_dense_weight(bank, rows, largest) for bank, rows, _ in banks]
    return torch.cat(weights) if len(weights) > 1 else weights[0]


def _pool(bank: Bank, stride: int) -> int | None:
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
    """Whether `FusedCell` computes the operation of `bank` on edges of that stride."""
    if isinstance(bank, SkipBank):
        return stride == 1
    return bool(_stencils(bank, stride) or _dense(bank, stride)) or _pool(bank, stride) is not None


class _Norm(NamedTuple):
    """Where the running statistics of a map lie."""

    bank: Bank
    name: str
    row: int


def _nothing() -> slice:
    return slice(0, 0)


@dataclass
class _Round:
    """What leaves one source, or the cell's inputs together. Slices are of all maps of the cell."""

    sources: range
    stride: int
    first: slice = field(default_factory=_nothing)
    separable: int = 0  # so many of `first` are first halves, and so many maps are second halves
    dense: list[tuple[int, slice]] = field(default_factory=list)  # (source within the round, maps)
    dense_banks: list[list[tuple[Bank, tuple[int, ...], int]]] = field(default_factory=list)
    pools: slice = field(default_factory=_nothing)
    maxima: slice = field(default_factory=_nothing)
    second: slice = field(default_factory=_nothing)
    shared: int = 0  # gradients that are materialised: pools, skips, dense maps
    tables: dict[str, Tensor] = field(default_factory=dict)


class FusedCell:
    """A plan for one cell: states 0 to inputs - 1 are the cell's inputs, the others its nodes.

    `operations` must be `fusable`; `stride` is that of the edges that leave the inputs; `concat` names the states, all of them
    nodes, that make up the output. The plan holds tables on `device` and the banks, whose weights it reads at each call.
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
        self.norms: list[_Norm | None] = []
        self.packed: list[tuple[Bank, str]] = []
        self._offsets: dict[tuple[int, str], int] = {}
        self._size = 0
        self.partial_rows = False
        """Whether some packed weights belong to edges that do not run."""
        self._entries: list[list[tuple[int, int, int]]] = [[] for _ in range(nodes)]
        by_source: list[list[Operation]] = [[] for _ in range(inputs + nodes)]
        for operation in operations:
            by_source[operation.source].append(operation)
        groups = [range(inputs), *(range(state, state + 1) for state in range(inputs, inputs + nodes))]
        self._shares: dict[int, list[tuple[int, int, int, int]]] = {}
        self.rounds: list[_Round] = []
        details = []
        for sources in groups:
            leaving = [operation for source in sources for operation in by_source[source]]
            if leaving:
                current = _Round(sources, stride if sources.start == 0 else 1)
                details.append(self._place(current, leaving))
                self.rounds.append(current)
        self.maps = len(self.norms)
        self.stats: Tensor | None = None
        """[M, 3, C], as `kernels.statistics` leaves them, of the last call."""
        self._finish(details, device)

    def largest_offset(self) -> float | None:
        """Largest |mean| / standard deviation of a channel that was normalised in the last call; waits for the device."""
        if self.stats is None:
            return None
        normalised = [map for map, norm in enumerate(self.norms) if norm is not None]
        chosen = self.stats[normalised]
        return float((chosen[:, 0].abs() * chosen[:, 1]).max()) if normalised else None

    def _place(self, current: _Round, leaving: Sequence[Operation]) -> dict[str, list[Any]]:
        """Gives every map of a round its place; returns what its tables will say."""
        start, stride = current.sources.start, current.stride
        firsts: list[tuple[Operation, int, list[_Stencil]]] = []
        dense: dict[int, list[tuple[Operation, int]]] = {}
        pools: list[tuple[Operation, int]] = []
        skips = []
        for operation in leaving:
            stencils = _stencils(operation.bank, stride)
            kind = _pool(operation.bank, stride)
            if isinstance(operation.bank, SkipBank):
                skips.append(operation)
            elif stencils:
                firsts += [(operation, index, stencils) for index in range(len(operation.rows))]
            elif kind is not None:
                pools.append((operation, kind))
            else:
                dense.setdefault(operation.source - start, []).append((operation, _dense(operation.bank, stride)))
        firsts.sort(key=lambda item: -len(item[2]))  # stable: separable ones first
        pools.sort(key=lambda item: -item[1])  # maxima first
        found: dict[str, list[Any]] = {name: [] for name in ("first", "second", "pool", "share")}

        def weigh(operation: Operation, index: int, map: int, normalised: bool) -> tuple[int, int]:
            node = operation.targets[index]
            self._entries[node].append((map, operation.weights[index], int(normalised)))
            return node, len(self._entries[node]) - 1

        base = len(self.norms)
        current.first = slice(base, base + len(firsts))
        for operation, index, stencils in firsts:
            stage, row = stencils[0], operation.rows[index]
            self.norms.append(_Norm(operation.bank, stage.norm, row))
            offsets = self._pack(operation.bank, stage, operation.rows, row)
            target = None if len(stencils) == 2 else weigh(operation, index, len(self.norms) - 1, True)
            found["first"].append((operation.source - start, stage, offsets, target))
        current.separable = sum(len(stencils) == 2 for _, _, stencils in firsts)
        shares: list[tuple[int | None, list[tuple[int, int]], int, int]] = []  # (pool's place, entries, map, source)
        for local, members in sorted(dense.items()):
            first = len(self.norms)
            current.dense_banks.append([(operation.bank, operation.rows, kernel) for operation, kernel in members])
            for operation, _ in members:
                name = str(operation.bank.steps[-1]) if isinstance(operation.bank, ChainBank) else "norm"
                for index, row in enumerate(operation.rows):
                    self.norms.append(_Norm(operation.bank, name, row))
                    map = len(self.norms) - 1
                    shares.append((None, [weigh(operation, index, map, True)], map, local))
            current.dense.append((local, slice(first, len(self.norms))))
        pooled: list[tuple[int | None, list[tuple[int, int]], int, int]] = []
        base = len(self.norms)
        for operation, kind in pools:
            assert isinstance(operation.bank, PoolBank)
            normalised = operation.bank.normalised
            self.norms.append(_Norm(operation.bank, "norm", 0) if normalised else None)
            map = len(self.norms) - 1
            places = [weigh(operation, index, map, normalised) for index in range(len(operation.rows))]
            found["pool"].append((operation.source - start, kind))
            pooled.append((kind, places, map if normalised else -1, operation.source - start))
        current.pools = slice(base, len(self.norms))
        current.maxima = slice(base, base + sum(kind == MAXIMUM for _, kind in pools))
        for operation in skips:
            state = operation.source if self.stride == 1 else operation.source - self.inputs
            places = [weigh(operation, index, -1 - state, False) for index in range(len(operation.rows))]
            pooled.append((IDENTITY, places, -1, operation.source - start))
        found["share"] = [*pooled, *shares]
        current.shared = len(found["share"])
        base = len(self.norms)
        for operation, index, stencils in firsts[: current.separable]:
            stage, row = stencils[1], operation.rows[index]
            self.norms.append(_Norm(operation.bank, stage.norm, row))
            offsets = self._pack(operation.bank, stage, operation.rows, row)
            found["second"].append((stage, offsets, weigh(operation, index, len(self.norms) - 1, True)))
        current.second = slice(base, len(self.norms))
        return found

    def _pack(self, bank: Bank, stage: _Stencil, rows: Sequence[int], row: int) -> tuple[int, int]:
        """Where depthwise and pointwise weight of one edge lie in the packed weights of the cell."""
        places = []
        for name in (f"{stage.depthwise}.weight", f"{stage.pointwise}.weight"):
            weight = bank.stacked(name)
            if (id(bank), name) not in self._offsets:
                self._offsets[id(bank), name] = self._size
                self.packed.append((bank, name))
                self._size += weight.numel()
                self.partial_rows |= len(rows) < len(weight)
            places.append(self._offsets[id(bank), name] + row * weight[0].numel())
        return places[0], places[1]

    def _finish(self, details: Sequence[dict[str, list[Any]]], device: torch.device) -> None:
        """Numbers the entries of all nodes one after the other and writes the tables."""
        starts = [0]
        for entries in self._entries:
            starts.append(starts[-1] + len(entries))
        self.entries = starts[-1]
        self.ranges = [slice(first, last) for first, last in pairwise(starts)]
        tables: dict[str, list[tuple[int, ...]]] = {
            f"entries{node}": [(map if map >= 0 else self.maps - 1 - map, weight, flag) for map, weight, flag in entries]
            for node, entries in enumerate(self._entries)
        }
        for number, (current, found) in enumerate(zip(self.rounds, details, strict=True)):
            for name, table in self._tables(current, found, starts).items():
                tables[f"{number}/{name}"] = table
        on_device = _to_device(tables, device)
        self.node_entries = [on_device[f"entries{node}"] for node in range(self.nodes)]
        for number, current in enumerate(self.rounds):
            current.tables = {
                name.partition("/")[2]: table for name, table in on_device.items() if name.startswith(f"{number}/")
            }

    def _tables(self, current: _Round, found: dict[str, list[Any]], starts: Sequence[int]) -> dict[str, list[tuple[int, ...]]]:
        tables: dict[str, list[tuple[int, ...]]] = {}
        nodes, entries, separable = self.nodes, self.entries, current.separable
        tables["first"] = [(source, stage.kernel, stage.dilation, *offsets) for source, stage, offsets, _ in found["first"]]
        tables["pool"] = found["pool"]
        tables["second"] = [
            (index, stage.kernel, stage.dilation, *offsets) for index, (stage, offsets, _) in enumerate(found["second"])
        ]
        # Gradients: those of the nodes, then those of the first halves' normalised maps; coefficients in the same way.
        tables["second_backward"] = [
            (node, current.second.start + index, starts[node] + entry, index, stage.kernel, stage.dilation, *offsets)
            for index, (stage, offsets, (node, entry)) in enumerate(found["second"])
        ]
        tables["second_input"] = [
            (index, stage.kernel, stage.dilation, offsets[0]) for index, (stage, offsets, _) in enumerate(found["second"])
        ]
        tables["second_starts"] = [(index,) for index in range(separable + 1)]
        tables["second_norm"] = [(current.first.start + index, -1, 1) for index in range(separable)]
        tables["first_backward"] = [
            (
                nodes + index if target is None else target[0],
                current.first.start + index,
                entries + index if target is None else starts[target[0]] + target[1],
                source,
                stage.kernel,
                stage.dilation,
                *offsets,
            )
            for index, (source, stage, offsets, target) in enumerate(found["first"])
        ]
        by_source = sorted(range(len(found["first"])), key=lambda index: found["first"][index][0])
        tables["first_input"] = [(index, *tables["first"][index][1:4]) for index in by_source]
        count = len(current.sources)
        tables["first_starts"] = _starts((found["first"][index][0] for index in by_source), count)
        tables["share"] = [(node, starts[node] + entry, map) for _, places, map, _ in found["share"] for node, entry in places]
        tables["share_starts"] = _starts(
            (index for index, (_, places, _, _) in enumerate(found["share"]) for _ in places), current.shared
        )
        back = [
            (source, index, kind, index if kind == MAXIMUM else 0)
            for index, (kind, _, _, source) in enumerate(found["share"])
            if kind is not None
        ]
        back.sort(key=lambda row: row[0])
        tables["pool_backward"] = [row[1:] for row in back]
        tables["pool_starts"] = _starts((row[0] for row in back), count)
        return tables

    def __call__(self, states: Sequence[Tensor], mixture: Tensor, training: bool) -> Tensor:
        """Input states [B, C, H, W] and the mixture [edges, candidates] to the output [B, len(concat) * C, Ho, Wo].

        Differentiable once in the states, the mixture and the weights of the banks. In training the banks' running
        statistics, where they keep any, are updated. Raises ValueError where batch norm has one value a channel.
        """
        batch = len(states[0])
        rows = batch * _area(strided_size(states[0].shape[2:], self.stride))
        batch_statistics = training or not self._keeps_statistics()
        if batch_statistics and rows == 1:
            raise ValueError("batch norm: one image of one pixel has no statistics; use more images or larger ones")
        flat = [bank.stacked(name).reshape(-1) for bank, name in self.packed]
        precise = accumulation_dtype(states[0])
        packed = torch.cat(flat) if flat else states[0].new_empty(0, dtype=precise)
        dense = [_dense_weights(banks).to(states[0].dtype) for current in self.rounds for banks in current.dense_banks]
        fixed = None if batch_statistics else self._running(precise)
        output, stats = _Run.apply(self, fixed, len(states), *states, packed, mixture.contiguous(), *dense)
        if training:
            self._update(stats)
        self.stats = stats
        return rearrange(output, "b h w c -> b c h w")

    def _keeps_statistics(self) -> bool:
        return any(norm is not None and f"{norm.name}.running_mean" in norm.bank.names for norm in self.norms)

    def _running(self, dtype: torch.dtype) -> Tensor:
        """[M, 3, C] from the running statistics, as `statistics` leaves them."""
        like = next(norm for norm in self.norms if norm is not None)
        zeros = torch.zeros_like(like.bank.stacked(f"{like.name}.running_mean")[like.row])
        means = [zeros if norm is None else norm.bank.stacked(f"{norm.name}.running_mean")[norm.row] for norm in self.norms]
        variances = [zeros if norm is None else norm.bank.stacked(f"{norm.name}.running_var")[norm.row] for norm in self.norms]
        mean, variance = torch.stack(means), torch.stack(variances)
        return torch.stack((mean, (variance + EPSILON).rsqrt(), variance), dim=1).to(dtype)

    @torch.no_grad()
    def _update(self, stats: Tensor) -> None:
        """Moves all running statistics of the cell towards the batch's, in one call."""
        running, batch = [], []
        for norm, own in zip(self.norms, stats.unbind(0), strict=True):
            if norm is not None and f"{norm.name}.running_mean" in norm.bank.names:
                running += [norm.bank.stacked(f"{norm.name}.{which}")[norm.row] for which in ("running_mean", "running_var")]
                batch += [own[0].to(running[-1].dtype), own[2].to(running[-1].dtype)]
        if running:
            torch._foreach_lerp_(running, batch, MOMENTUM)


def _area(size: Sequence[int]) -> int:
    return size[0] * size[1]


def _starts(owners: Iterable[int], count: int) -> list[tuple[int, ...]]:
    """Where the rows of each of `count` owners begin in a table whose rows belong to `owners`, in rising order."""
    owners = list(owners)
    return [(sum(owner < limit for owner in owners),) for limit in range(count + 1)]


def _to_device(tables: dict[str, list[tuple[int, ...]]], device: torch.device) -> dict[str, Tensor]:
    """Every table as int32 on `device`, all in one copy; each begins at a multiple of 16 bytes, as a kernel likes it."""
    values: list[int] = []
    places = {}
    for name, table in tables.items():
        places[name] = len(values)
        values += [value for row in table for value in row]
        values += [0] * (-len(values) % 4)
    everything = torch.tensor(values, dtype=torch.int32).to(device)
    views = {}
    for name, table in tables.items():
        width = len(table[0]) if table else 1
        view = everything[places[name] : places[name] + len(table) * width]
        views[name] = view if width == 1 else view.view(len(table), width)
    return views


class _Buffers(NamedTuple):
    """The tensors of one call, in NHWC memory."""

    states: Tensor  # [Q, B, Ho, Wo, C]: inputs of stride 1, then nodes
    inputs: Tensor  # [inputs, B, H, W, C]
    maps: Tensor  # [M, B, Ho, Wo, C], raw
    stats: Tensor  # [M, 3, C]
    taps: Tensor  # uint8 [maxima, B, Ho, Wo, C], where each maximum pool found its maximum


class _Run(torch.autograd.Function):
    """(plan, fixed statistics or None, number of states, states, packed weights, mixture, dense weights) -> (output [B, Ho, Wo,
    len(concat) * C], statistics of all maps, which have no gradient)."""

    @staticmethod
    def forward(ctx: Any, plan: FusedCell, fixed: Tensor | None, count: int, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        states, packed, mixture, dense = tensors[:count], tensors[count], tensors[count + 1], tensors[count + 2 :]
        buffers = _allocate(plan, states, fixed)
        parts = _parts(buffers.maps)
        partial = packed.new_empty(plan.maps, parts, 3, plan.channels, dtype=accumulation_dtype(buffers.maps))
        weights = iter(dense)
        rounds = {current.sources.stop: current for current in plan.rounds}
        maxima = 0
        first_node = len(buffers.states) - plan.nodes
        for node in range(plan.nodes):
            current = rounds.get(plan.inputs + node)
            if current is not None:
                taps = buffers.taps[maxima : maxima + current.maxima.stop - current.maxima.start]
                maxima += len(taps)
                _leave(plan, current, buffers, taps, packed, weights, partial, fixed is None)
            mix(
                buffers.maps,
                buffers.states,
                buffers.stats,
                mixture,
                plan.node_entries[node],
                buffers.states[first_node + node],
            )
        output = torch.cat([buffers.states[first_node + node] for node in plan.concat], dim=-1)
        ctx.plan, ctx.batch_statistics, ctx.count = plan, fixed is None, count
        ctx.save_for_backward(*buffers, packed, mixture, *dense)
        ctx.mark_non_differentiable(buffers.stats)
        ctx.set_materialize_grads(False)
        return output, buffers.stats

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return (None,) * len(ctx.needs_input_grad)
        backward = _Backward(ctx)
        backward.run(gradient)
        return (None, None, None, *backward.gradients())


def _parts(maps: Tensor) -> int:
    return max(1, min(PARTS, _rows(maps) // ROWS_A_PART))


def _rows(maps: Tensor) -> int:
    """Pixels of one map, of all images together."""
    return maps[0].numel() // maps.shape[-1]


def _allocate(plan: FusedCell, states: Sequence[Tensor], fixed: Tensor | None) -> _Buffers:
    batch, channels, *size = states[0].shape
    like = states[0]
    out = (batch, *strided_size(size, plan.stride), channels)
    precise = accumulation_dtype(like)
    nhwc = [rearrange(state, "b c h w -> b h w c") for state in states]
    before = plan.inputs if plan.stride == 1 else 0
    buffer = like.new_empty(before + plan.nodes, *out)
    inputs = buffer[: plan.inputs] if before else like.new_empty(plan.inputs, batch, *size, channels)
    torch.stack(nhwc, out=inputs)
    stats = like.new_empty(plan.maps, 3, channels, dtype=precise) if fixed is None else fixed
    maxima = sum(current.maxima.stop - current.maxima.start for current in plan.rounds)
    taps = like.new_empty(maxima, *out, dtype=torch.uint8)
    return _Buffers(buffer, inputs, like.new_empty(plan.maps, *out), stats, taps)


def _sources(plan: FusedCell, current: _Round, buffers: _Buffers) -> Tensor:
    """The states [sources, B, H, W, C] that a round reads."""
    if current.sources.start == 0:
        return buffers.inputs
    offset = len(buffers.states) - plan.nodes - plan.inputs
    return buffers.states[current.sources.start + offset : current.sources.stop + offset]


def _leave(
    plan: FusedCell,
    current: _Round,
    buffers: _Buffers,
    taps: Tensor,
    packed: Tensor,
    dense: Any,
    partial: Tensor,
    batch_statistics: bool,
) -> None:
    """All that leaves the sources of a round, into its maps."""
    sources = _sources(plan, current, buffers)
    maps, stats, tables = buffers.maps, buffers.stats, current.tables
    first, pools, second = current.first, current.pools, current.second
    if first.stop > first.start:
        stencil(sources, None, packed, tables["first"], current.stride, maps[first], partial[first])
    rectified = sources.relu() if current.dense else sources
    for source, place in current.dense:
        grouped = _convolve(rectified[source], next(dense), current.stride)
        collect(grouped, maps[place], partial[place])
    if pools.stop > pools.start:
        pool(sources, tables["pool"], current.stride, maps[pools], taps, partial[pools])
    known = slice(first.start, pools.stop)
    if batch_statistics:
        statistics(partial[known], stats[known])
    if current.separable:
        halves = slice(first.start, first.start + current.separable)
        stencil(maps[halves], stats[halves], packed, tables["second"], 1, maps[second], partial[second])
        if batch_statistics:
            statistics(partial[second], stats[second])


def _convolve(state: Tensor, weight: Tensor, stride: int) -> Tensor:
    """One convolution of [B, H, W, C] for all edges: [B, Ho, Wo, edges * C]."""
    with torch.autocast(state.device.type, enabled=False):
        grouped = F.conv2d(rearrange(state, "b h w c -> b c h w"), weight, None, stride, weight.shape[-1] // 2)
    return rearrange(grouped, "b c h w -> b h w c").contiguous()


class _Backward:
    """The backward pass of one call. `ctx.needs_input_grad` decides what is computed."""

    def __init__(self, ctx: Any) -> None:
        self.plan: FusedCell = ctx.plan
        self.batch_statistics: bool = ctx.batch_statistics
        tensors = ctx.saved_tensors
        self.buffers = _Buffers(*tensors[:5])
        self.packed, self.mixture, *self.dense = tensors[5:]
        needs = ctx.needs_input_grad[3:]
        self.needs_inputs = any(needs[: ctx.count])
        self.needs_packed, self.needs_mixture = needs[ctx.count : ctx.count + 2]
        self.needs_dense = any(needs[ctx.count + 2 :])
        plan, maps = self.plan, self.buffers.maps
        self.parts = _parts(maps)
        self.rows = _rows(maps)
        extra = max((current.separable for current in plan.rounds), default=0)
        # Gradients of the nodes, then of the normalised first halves of the round in hand.
        self.incoming = maps.new_empty(plan.nodes + extra, *maps.shape[1:])
        precise = accumulation_dtype(maps)
        self.sums = maps.new_empty(plan.entries + extra, self.parts, 2, plan.channels, dtype=precise)
        self.coefficients = maps.new_empty(plan.entries + extra, 3, plan.channels, dtype=precise)
        self.mixture_gradient = torch.zeros_like(self.mixture)
        self.input_gradients: Tensor | None = None
        self.dense_gradients: list[Tensor | None] = [None] * len(self.dense)
        self.weight_parts: Tensor | None = None
        if self.needs_packed:
            make = self.packed.new_zeros if plan.partial_rows else self.packed.new_empty
            self.weight_parts = make(max(1, min(WEIGHT_PARTS, self.rows // ROWS_A_PART)), len(self.packed), dtype=precise)

    def run(self, gradient: Tensor) -> None:
        """Walks from the last node to the inputs."""
        plan = self.plan
        nodes = self.incoming[: plan.nodes]
        if set(plan.concat) != set(range(plan.nodes)):
            nodes.zero_()
        split = rearrange(gradient, "b h w (n c) -> n b h w c", n=len(plan.concat))
        if plan.concat == list(range(plan.concat[0], plan.concat[0] + len(plan.concat))):
            nodes[plan.concat[0] : plan.concat[-1] + 1] = split
        else:
            for node, part in zip(plan.concat, split, strict=True):
                nodes[node] = part
        rounds = {current.sources.start: current for current in plan.rounds}
        for node in reversed(range(plan.nodes)):
            current = rounds.get(plan.inputs + node)
            if current is not None:
                self._enter(current, self.incoming[node : node + 1], True)
            self._sum(node)
        if 0 in rounds and (self.needs_inputs or self.needs_packed or self.needs_dense):
            if self.needs_inputs:
                self.input_gradients = torch.empty_like(self.buffers.inputs)
            self._enter(rounds[0], self.input_gradients, False)
        elif self.needs_inputs:
            self.input_gradients = torch.zeros_like(self.buffers.inputs)

    def _sum(self, node: int) -> None:
        """The sums over a node's gradient, the coefficients and the gradients of the mixing weights that follow from them."""
        place, entries = self.plan.ranges[node], self.plan.node_entries[node]
        if place.stop == place.start:
            return
        buffers = self.buffers
        sums = self.sums[place]
        mix_sums(self.incoming[node], buffers.maps, buffers.states, buffers.stats, entries, sums)
        self._coefficients(sums, entries, place)

    def _coefficients(self, sums: Tensor, entries: Tensor, place: slice) -> None:
        norm_gradient(
            sums,
            self.buffers.stats,
            self.mixture,
            entries,
            self.rows,
            self.batch_statistics,
            self.coefficients[place],
            self.mixture_gradient,
        )

    def _enter(self, current: _Round, target: Tensor | None, accumulate: bool) -> None:
        """From the gradients of the nodes to those of a round's weights and, in `target`, of its sources."""
        plan, buffers, tables = self.plan, self.buffers, current.tables
        sources, maps = _sources(plan, current, buffers), buffers.maps
        if current.separable:
            self._second_halves(current)
        count = current.first.stop - current.first.start
        if count and (target is not None or self.needs_packed):
            gradients = self._stencil(sources, None, tables["first_backward"], current.stride, count)
            if target is not None:
                stencil_input_gradient(
                    gradients, sources, None, self.packed, tables["first_input"], tables["first_starts"], current.stride,
                    accumulate, target, None,
                )  # fmt: skip
        elif target is not None and not accumulate:
            target.zero_()
        if not current.shared:
            return
        shared = maps.new_empty(current.shared, *maps.shape[1:])
        mix_gradient(self.incoming, maps, self.coefficients, tables["share"], tables["share_starts"], shared)
        if target is not None and len(tables["pool_backward"]):
            taps = buffers.taps[self._maxima_before(current) :]
            pool_backward(shared, taps, tables["pool_backward"], tables["pool_starts"], current.stride, target)
        self._dense(current, sources, shared, target)

    def _second_halves(self, current: _Round) -> None:
        """Through the second halves of separable convolutions to the gradients of the normalised first ones."""
        plan, buffers, tables = self.plan, self.buffers, current.tables
        halves = slice(current.first.start, current.first.start + current.separable)
        maps, stats = buffers.maps[halves], buffers.stats[halves]
        gradients = self._stencil(maps, stats, tables["second_backward"], 1, current.separable)
        place = slice(plan.entries, plan.entries + current.separable)
        sums = self.sums[place]
        incoming = self.incoming[plan.nodes : plan.nodes + current.separable]
        stencil_input_gradient(
            gradients, maps, stats, self.packed, tables["second_input"], tables["second_starts"], 1, False, incoming, sums
        )
        self._coefficients(sums, tables["second_norm"], place)

    def _stencil(self, inputs: Tensor, norm: Tensor | None, table: Tensor, stride: int, count: int) -> Tensor:
        maps = self.buffers.maps
        gradients = maps.new_empty(count, *maps.shape[1:])
        stencil_backward(
            self.incoming, maps, self.coefficients, inputs, norm, self.packed, table, stride, gradients, self.weight_parts
        )
        return gradients

    def _maxima_before(self, current: _Round) -> int:
        earlier = self.plan.rounds[: self.plan.rounds.index(current)]
        return sum(other.maxima.stop - other.maxima.start for other in earlier)

    def _dense(self, current: _Round, sources: Tensor, shared: Tensor, target: Tensor | None) -> None:
        """Through the dense convolutions, whose maps' gradients come last in `shared`."""
        first = current.shared - sum(place.stop - place.start for _, place in current.dense)
        number = sum(len(other.dense) for other in self.plan.rounds[: self.plan.rounds.index(current)])
        everything = sources.relu() if current.dense else sources
        for source, place in current.dense:
            count = place.stop - place.start
            gradient = rearrange(rearrange(shared[first : first + count], "n b h w c -> b h w (n c)"), "b h w c -> b c h w")
            weight = self.dense[number]
            rectified = rearrange(everything[source], "b h w c -> b c h w")
            wanted = (target is not None, self.needs_dense, False)
            border = [weight.shape[-1] // 2] * 2
            into, weight_gradient, _ = torch.ops.aten.convolution_backward(
                gradient, rectified, weight, None, [current.stride] * 2, border, [1, 1], False, [0, 0], 1, wanted
            )  # fmt: skip
            if target is not None:
                masked = torch.ops.aten.threshold_backward(into, rectified, 0)
                target[source].add_(rearrange(masked, "b c h w -> b h w c"))
            if self.needs_dense:
                self.dense_gradients[number] = weight_gradient
            first, number = first + count, number + 1

    def gradients(self) -> list[Tensor | None]:
        """One for each tensor that `_Run` takes."""
        states: list[Tensor | None] = [None] * self.plan.inputs
        if self.input_gradients is not None:
            states = [rearrange(gradient, "b h w c -> b c h w") for gradient in self.input_gradients]
        packed = None if self.weight_parts is None else self.weight_parts.sum(0)
        return [*states, packed, self.mixture_gradient if self.needs_mixture else None, *self.dense_gradients]
