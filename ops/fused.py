"""The fused executor: all mixed edges of a cell as a few kernels of `ops.kernels`.

A round (see `ops.plan`) sends its sources through every operation that leaves them, into maps that
are kept raw with their statistics; a node is one weighted sum of all maps that enter it. The
backward pass walks the same way back. A node's gradient g gives sum(g) and sum(g * map) for each of
its maps, which is all that batch norm's backward and the gradients of the mixing weights need, and
the gradient of a raw map is formed where it is used (`kernels.statistics.norm_gradient`).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.autograd.function import once_differentiable

from base.checks import InputError
from ops.executor import CellOperations
from ops.functional import strided_size
from ops.kernels.launch import accumulation_dtype
from ops.kernels.mix import mix, mix_gradient, mix_sums
from ops.kernels.pool import pool, pool_backward
from ops.kernels.statistics import collect, norm_gradient, statistics
from ops.kernels.stencil import stencil
from ops.kernels.stencil_backward import stencil_backward, stencil_input_gradient
from ops.mixing import EPSILON, MOMENTUM
from ops.plan import CellPlan, Norm, Round, plannable
from ops.tables import CellTables, write_tables

PARTS = 128
"""The most parts of the sums over one map, and of the gradients of weights."""
WEIGHT_VALUES = 2**22
"""The most values in all parts of the gradients of weights together.

A part is as large as all weights of a cell.
"""
FEWEST_WEIGHT_PARTS = 16
"""The parts of these gradients that are allowed however large a part is."""
ROWS_A_PART = 128
"""The fewest pixels, of all images together, that are worth a part of their own."""


class FusedCell:
    """A `CellExecutor` on the fused kernels, for the cells that they know; see `computes`.

    It is differentiable once. Raises ValueError for any other cell.
    """

    def __init__(self, cell: CellOperations) -> None:
        self.cell = cell
        self.plan = CellPlan(cell)
        self.tables: dict[torch.device, CellTables] = {}
        self.stats: Tensor | None = None
        """Statistics [maps, 3, C] of the last call in training, as `kernels.statistics` leaves
        them."""

    @staticmethod
    def computes(cell: CellOperations) -> bool:
        """Says whether the kernels know all operations of `cell` and no channels bypass these."""
        return plannable(cell)

    def largest_offset(self) -> float | None:
        """Returns the largest |mean| / standard deviation of a raw map in the last call in
        training.

        Waits for the device.
        """
        normalised = [map for map, norm in enumerate(self.plan.norms) if norm is not None]
        if self.stats is None or not normalised:
            return None
        chosen = self.stats[normalised]
        return float((chosen[:, 0].abs() * chosen[:, 1]).max())

    def __call__(self, states: Sequence[Tensor], mixture: Tensor, bypass: Tensor | None = None) -> Tensor:
        """Returns the output, as in `CellExecutor`; `bypass` is ignored, as all channels go
        through.

        Raises InputError if batch norm has one value a channel.
        """
        training = any(operation.bank.training for operation in self.cell.operations)
        height, width = strided_size(states[0].shape[2:], self.plan.stride)
        batch_statistics = training or not any(norm and _has_running(norm) for norm in self.plan.norms)
        if batch_statistics and len(states[0]) * height * width == 1:
            raise InputError("batch norm: one image of one pixel has no statistics; use more images or larger ones")
        precise = accumulation_dtype(states[0])
        flat = [bank.stacked(name).reshape(-1) for bank, name in self.plan.packed]
        packed = torch.cat(flat) if flat else states[0].new_empty(0, dtype=precise)
        dense = [each.weights().to(states[0].dtype) for current in self.plan.rounds for each in current.dense]
        fixed = None if batch_statistics else self._running(precise)
        tables = self._tables(states[0].device)
        output, stats = _Run.apply(self.plan, tables, fixed, len(states), *states, packed, mixture.contiguous(), *dense)
        if training:
            self.stats = stats
            self._update(stats)
        return rearrange(output, "b h w c -> b c h w")

    def _tables(self, device: torch.device) -> CellTables:
        """Returns the tables on `device`, written there at the first call."""
        if device not in self.tables:
            self.tables[device] = write_tables(self.plan, device)
        return self.tables[device]

    def _running(self, dtype: torch.dtype) -> Tensor:
        """Returns [maps, 3, C] from the running statistics, in the form that `statistics` gives."""
        known = next(norm for norm in self.plan.norms if norm is not None)
        # A map that is not normalised has zeros, which are never read.
        zeros = torch.zeros_like(_running(known, "mean"))
        mean, variance = (
            torch.stack([zeros if norm is None else _running(norm, which) for norm in self.plan.norms])
            for which in ("mean", "var")
        )
        return torch.stack((mean, (variance + EPSILON).rsqrt(), variance), dim=1).to(dtype)

    @torch.no_grad()
    def _update(self, stats: Tensor) -> None:
        """Moves all running statistics of the cell towards the batch's, in one call."""
        running, batch = [], []
        for norm, (mean, _, variance) in zip(self.plan.norms, stats, strict=True):
            if norm is not None and _has_running(norm):
                running += [_running(norm, "mean"), _running(norm, "var")]
                batch += [mean.to(running[-1].dtype), variance.to(running[-1].dtype)]
        if running:
            torch._foreach_lerp_(running, batch, MOMENTUM)


def _has_running(norm: Norm) -> bool:
    return f"{norm.name}.running_mean" in norm.bank.names


def _running(norm: Norm, which: str) -> Tensor:
    """Returns the running "mean" or "var" [C] of a map."""
    return norm.bank.stacked(f"{norm.name}.running_{which}")[norm.row]


class _Buffers(NamedTuple):
    """The tensors of one call that its backward pass needs, in NHWC memory."""

    states: Tensor  # [Q, B, Ho, Wo, C]: the inputs, where they are as large, then the nodes
    inputs: Tensor  # [inputs, B, H, W, C]
    maps: Tensor  # [maps, B, Ho, Wo, C], raw
    stats: Tensor  # [maps, 3, C]
    taps: Tensor  # uint8 [maxima, B, Ho, Wo, C]: where each maximum pool found its maximum
    packed: Tensor  # weights of all stencils
    mixture: Tensor  # [edges, candidates]

    @property
    def rows(self) -> int:
        """The number of pixels of one map, of all images together."""
        return self.maps[0].numel() // self.maps.shape[-1]

    def parts(self, most: int) -> int:
        """Returns the number of parts of a sum over the pixels, at most `most`."""
        return max(1, min(most, self.rows // ROWS_A_PART))

    def nodes(self, plan: CellPlan) -> Tensor:
        """Returns the states of the nodes, [nodes, B, Ho, Wo, C]."""
        return self.states[len(self.states) - plan.nodes :]

    def sources(self, plan: CellPlan, current: Round) -> Tensor:
        """Returns the states [sources, B, H, W, C] that a round reads."""
        if current.sources.start == 0:
            return self.inputs
        return self.nodes(plan)[current.sources.start - plan.inputs : current.sources.stop - plan.inputs]


def _allocate(plan: CellPlan, states: Sequence[Tensor], fixed: Tensor | None, packed: Tensor, mixture: Tensor) -> _Buffers:
    like, batch, size = states[0], len(states[0]), states[0].shape[2:]
    out = (batch, *strided_size(size, plan.stride), plan.channels)
    before = plan.inputs if plan.stride == 1 else 0
    buffer = like.new_empty(before + plan.nodes, *out)
    inputs = buffer[:before] if before else like.new_empty(plan.inputs, batch, *size, plan.channels)
    torch.stack([rearrange(state, "b c h w -> b h w c") for state in states], out=inputs)
    stats = like.new_empty(plan.maps, 3, plan.channels, dtype=accumulation_dtype(like)) if fixed is None else fixed
    taps = like.new_empty(plan.maxima, *out, dtype=torch.uint8)
    return _Buffers(buffer, inputs, like.new_empty(plan.maps, *out), stats, taps, packed, mixture)


class _Run(torch.autograd.Function):
    """The forward and backward pass of a cell as one autograd function.

    Takes (plan, tables, fixed statistics or None, number of states, states, packed weights,
    mixture, dense weights). Returns (output [B, Ho, Wo, len(concat) * C], statistics of all maps,
    which have no gradient).
    """

    @staticmethod
    def forward(
        ctx: Any, plan: CellPlan, tables: CellTables, fixed: Tensor | None, count: int, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        states, (packed, mixture, *dense) = tensors[:count], tensors[count:]
        buffers = _allocate(plan, states, fixed, packed, mixture)
        nodes, weights = buffers.nodes(plan), iter(dense)
        parts = buffers.parts(PARTS)
        partial = packed.new_empty(plan.maps, parts, 3, plan.channels, dtype=accumulation_dtype(buffers.maps))
        rounds = {current.sources.stop: current for current in plan.rounds}
        for node, entries in enumerate(tables.nodes):
            if (current := rounds.get(plan.inputs + node)) is not None:
                _run_round(plan, current, tables.rounds[current.sources.start], buffers, weights, partial, fixed is None)
            mix(buffers.maps, buffers.states, buffers.stats, mixture, entries, nodes[node])
        output = torch.cat([nodes[node] for node in plan.concat], dim=-1)
        ctx.plan, ctx.tables, ctx.batch_statistics, ctx.count = plan, tables, fixed is None, count
        ctx.save_for_backward(*buffers, *dense)
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
        return (None, None, None, None, *backward.gradients())


def _run_round(
    plan: CellPlan,
    current: Round,
    tables: Mapping[str, Tensor],
    buffers: _Buffers,
    weights: Iterator[Tensor],
    partial: Tensor,
    batch_statistics: bool,
) -> None:
    """Computes every map that reads this round's sources.

    `tables` are those of the round; `weights` gives those of dense convolutions, in turn.
    """
    sources, maps, stats = buffers.sources(plan, current), buffers.maps, buffers.stats
    first, pools, halves, second = current.first, current.pools, current.halves, current.second
    if current.branches:
        stencil(sources, None, buffers.packed, tables["first"], current.stride, maps[first], partial[first])
    rectified = sources.relu() if current.dense else sources
    for dense in current.dense:
        grouped = _convolve(rectified[dense.source], next(weights), current.stride)
        collect(grouped, maps[dense.maps], partial[dense.maps])
    if pools.stop > pools.start:
        pool(sources, tables["pool"], current.stride, maps[pools], buffers.taps[current.maxima], partial[pools])
    known = slice(first.start, pools.stop)
    if batch_statistics and known.stop > known.start:
        statistics(partial[known], stats[known])
    if current.separable:
        stencil(maps[halves], stats[halves], buffers.packed, tables["second"], 1, maps[second], partial[second])
        if batch_statistics:
            statistics(partial[second], stats[second])


def _convolve(state: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Convolves [B, H, W, C] once for all edges, to [B, Ho, Wo, edges * C]."""
    with torch.autocast(state.device.type, enabled=False):
        grouped = F.conv2d(rearrange(state, "b h w c -> b c h w"), weight, None, stride, weight.shape[-1] // 2)
    return rearrange(grouped, "b c h w -> b h w c").contiguous()


class _Backward:
    """The backward pass of one call. `ctx.needs_input_grad` decides what is computed."""

    def __init__(self, ctx: Any) -> None:
        self.plan: CellPlan = ctx.plan
        self.tables: CellTables = ctx.tables
        self.batch_statistics: bool = ctx.batch_statistics
        count = len(_Buffers._fields)
        self.buffers = _Buffers(*ctx.saved_tensors[:count])
        self.dense: list[Tensor] = list(ctx.saved_tensors[count:])
        needs = ctx.needs_input_grad[4:]
        self.needs_inputs = any(needs[: ctx.count])
        self.needs_packed, self.needs_mixture, *needs_dense = needs[ctx.count :]
        self.needs_dense = any(needs_dense)
        self._allocate()

    def _allocate(self) -> None:
        plan, maps, packed = self.plan, self.buffers.maps, self.buffers.packed
        # The gradients of the nodes, and the sums of the entries, are followed by those of the
        # second halves of the current round.
        extra = max((current.separable for current in plan.rounds), default=0)
        precise = accumulation_dtype(maps)
        self.incoming = maps.new_empty(plan.nodes + extra, *maps.shape[1:])
        self.sums = maps.new_empty(plan.entries + extra, self.buffers.parts(PARTS), 2, plan.channels, dtype=precise)
        self.coefficients = maps.new_empty(plan.entries + extra, 3, plan.channels, dtype=precise)
        self.mixture_gradient = torch.zeros_like(self.buffers.mixture)
        self.input_gradients: Tensor | None = None
        self.dense_gradients: list[Tensor | None] = [None] * len(self.dense)
        self.weight_parts: Tensor | None = None
        if self.needs_packed:
            make = packed.new_zeros if plan.partial_rows else packed.new_empty
            most = max(FEWEST_WEIGHT_PARTS, min(PARTS, WEIGHT_VALUES // max(1, len(packed))))
            self.weight_parts = make(self.buffers.parts(most), len(packed), dtype=precise)

    def run(self, gradient: Tensor) -> None:
        """Walks from the last node to the inputs; `gradient` [B, Ho, Wo, len(concat) * C]."""
        plan = self.plan
        nodes = self.incoming[: plan.nodes]
        split = rearrange(gradient, "b h w (n c) -> n b h w c", n=len(plan.concat))
        if plan.concat == list(range(plan.nodes)):
            nodes.copy_(split)
        else:
            nodes.zero_()
            for node, part in zip(plan.concat, split, strict=True):
                nodes[node].add_(part)
        rounds = {current.sources.start: current for current in plan.rounds}
        for node in reversed(range(plan.nodes)):
            if (current := rounds.get(plan.inputs + node)) is not None:
                self._backward_round(current, nodes[node : node + 1], True)
            self._sum(node)
        if self.needs_inputs:
            self.input_gradients = torch.empty_like(self.buffers.inputs)
        if 0 in rounds and (self.needs_inputs or self.needs_packed or self.needs_dense):
            self._backward_round(rounds[0], self.input_gradients, False)
        elif self.input_gradients is not None:
            self.input_gradients.zero_()

    def _sum(self, node: int) -> None:
        """Computes the sums over a node's gradient, and from them the coefficients of its
        entries."""
        place, entries, buffers = self.plan.ranges[node], self.tables.nodes[node], self.buffers
        if place.stop > place.start:
            sums = self.sums[place]
            mix_sums(self.incoming[node], buffers.maps, buffers.states, buffers.stats, entries, sums)
            self._coefficients(sums, entries, place)

    def _coefficients(self, sums: Tensor, entries: Tensor, place: slice) -> None:
        """Computes the coefficients of the raw maps' gradients, and the mixing weights'
        gradients."""
        norm_gradient(
            sums,
            self.buffers.stats,
            self.buffers.mixture,
            entries,
            self.buffers.rows,
            self.batch_statistics,
            self.coefficients[place],
            self.mixture_gradient,
        )

    def _backward_round(self, current: Round, target: Tensor | None, accumulate: bool) -> None:
        """Computes the gradients of a round's weights and, in `target`, those of its sources.

        With `accumulate` they are added to `target`.
        """
        buffers, tables, stride = self.buffers, self.tables.rounds[current.sources.start], current.stride
        sources, packed = buffers.sources(self.plan, current), buffers.packed
        if current.separable:
            self._second_halves(current, tables)
        if current.branches and (target is not None or self.needs_packed):
            gradients = self._stencils(sources, None, tables["first_backward"], stride)
            if target is not None:
                table, starts = tables["first_input"], tables["first_starts"]
                stencil_input_gradient(gradients, sources, None, packed, table, starts, stride, accumulate, target, None)
        elif target is not None and not accumulate:
            target.zero_()
        dense = current.dense and (target is not None or self.needs_dense)
        if not current.shared or (target is None and not dense):
            return
        shared = buffers.maps.new_empty(len(current.shared), *buffers.maps.shape[1:])
        mix_gradient(self.incoming, buffers.maps, self.coefficients, tables["shared"], tables["shared_starts"], shared)
        if target is not None and len(tables["pool_backward"]):
            taps = buffers.taps[current.maxima]
            pool_backward(shared, taps, tables["pool_backward"], tables["pool_starts"], stride, target)
        if dense:
            self._convolutions(current, sources.relu(), shared, target)

    def _second_halves(self, current: Round, tables: Mapping[str, Tensor]) -> None:
        """Computes the gradients of the normalised first halves of separable convolutions."""
        plan, buffers = self.plan, self.buffers
        maps, stats = buffers.maps[current.halves], buffers.stats[current.halves]
        gradients = self._stencils(maps, stats, tables["second_backward"], 1)
        place = slice(plan.entries, plan.entries + current.separable)
        sums, incoming = self.sums[place], self.incoming[plan.nodes : plan.nodes + current.separable]
        table, starts = tables["second_input"], tables["second_starts"]
        stencil_input_gradient(gradients, maps, stats, buffers.packed, table, starts, 1, False, incoming, sums)
        self._coefficients(sums, tables["second_norm"], place)

    def _stencils(self, inputs: Tensor, norm: Tensor | None, table: Tensor, stride: int) -> Tensor:
        """Returns the gradients of the depthwise outputs, [rows of the table, B, Ho, Wo, C].

        Those of the weights go to `self.weight_parts`.
        """
        maps = self.buffers.maps
        out = maps.new_empty(len(table), *maps.shape[1:])
        packed, parts = self.buffers.packed, self.weight_parts
        stencil_backward(self.incoming, maps, self.coefficients, inputs, norm, packed, table, stride, out, parts)
        return out

    def _convolutions(self, current: Round, rectified: Tensor, shared: Tensor, target: Tensor | None) -> None:
        """Computes the gradients of the dense convolutions; those of their maps end `shared`."""
        counts = [dense.maps.stop - dense.maps.start for dense in current.dense]
        gradients = shared[len(shared) - sum(counts) :].split(counts)
        earlier = sum(len(other.dense) for other in self.plan.rounds if other.sources.start < current.sources.start)
        wanted = (target is not None, self.needs_dense, False)
        for number, (dense, gradient) in enumerate(zip(current.dense, gradients, strict=True), start=earlier):
            weight, state = self.dense[number], rearrange(rectified[dense.source], "b h w c -> b c h w")
            grouped = rearrange(rearrange(gradient, "n b h w c -> b h w (n c)"), "b h w c -> b c h w")
            side, stride = [weight.shape[-1] // 2] * 2, [current.stride] * 2
            into, self.dense_gradients[number], _ = torch.ops.aten.convolution_backward(
                grouped, state, weight, None, stride, side, [1, 1], False, [0, 0], 1, wanted
            )
            if target is not None:
                masked = torch.ops.aten.threshold_backward(into, state, 0)
                target[dense.source].add_(rearrange(masked, "b c h w -> b h w c"))

    def gradients(self) -> list[Tensor | None]:
        """Returns a gradient, or None, for each tensor that `_Run` takes."""
        states: list[Tensor | None] = [None] * self.plan.inputs
        if self.input_gradients is not None:
            states = [rearrange(gradient, "b h w c -> b c h w") for gradient in self.input_gradients]
        packed = None if self.weight_parts is None else self.weight_parts.sum(0)
        return [*states, packed, self.mixture_gradient if self.needs_mixture else None, *self.dense_gradients]
