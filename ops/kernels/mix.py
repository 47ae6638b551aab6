"""The mix: weighted, normalised branches summed into a node, and its backward pass."""

from __future__ import annotations

import torch
from torch import Tensor

from ops.kernels.launch import INTERPRETED, accumulation_dtype, jit, kernel_op, launch, runs_kernel, tl, triton

WARPS = 4
ENTRIES = 4
"""Entries that one program of `mix_sums` takes together, for one read of the gradient."""


def _tile(rows: int, channels: int, values: int) -> tuple[int, int]:
    """Pixels and channels of one program's tile of a map of `rows` pixels, of that many values a
    thread.

    The channels divide those of the map, so that none need masking.
    """
    block = min(channels & -channels, 64)
    return (min(triton.next_power_of_2(rows), 1024) if INTERPRETED else 32 * WARPS * values // block), block


@jit
def _base(maps: tl.tensor, states: tl.tensor, map: tl.tensor, count: int, rows: int, C: tl.constexpr) -> tl.tensor:
    """Returns the pointer to map number `map`: among the `count` `maps`, or beyond them among
    `states`."""
    beyond = (map - count).to(tl.int64) * rows * C
    return tl.where(map < count, maps + map.to(tl.int64) * rows * C, states + beyond)


def _value(maps: Tensor, states: Tensor, stats: Tensor, map: int, normalised: int) -> Tensor:
    """Returns map number `map` of `maps`, or beyond them of `states`, [B, H, W, C] in the type of
    accumulation."""
    chosen = maps[map] if map < len(maps) else states[map - len(maps)]
    value = chosen.to(accumulation_dtype(maps))
    return (value - stats[map, 0]) * stats[map, 1] if normalised else value


def mix_reference(maps: Tensor, states: Tensor, stats: Tensor, weights: Tensor, entries: Tensor, out: Tensor) -> None:
    total = torch.zeros(out.shape, dtype=accumulation_dtype(maps), device=out.device)
    for map, weight, normalised in entries.tolist():
        total += weights.view(-1)[weight] * _value(maps, states, stats, map, normalised)
    out.copy_(total)


@jit
def _mix_kernel(
    maps: tl.tensor,
    states: tl.tensor,
    stats: tl.tensor,
    weights: tl.tensor,
    entries: tl.tensor,
    out: tl.tensor,
    count: int,
    length: int,
    rows: int,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    channels = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    valid = row < rows
    place = row * C + channels
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for entry in tl.range(0, length, loop_unroll_factor=4):
        map = tl.load(entries + entry * 3)
        weight = tl.load(weights + tl.load(entries + entry * 3 + 1))
        # For each channel: the interpreter of Triton 3.9 takes no single condition as a mask of a
        # block (findings/triton_scalar_mask.sh).
        normalised = tl.broadcast_to(tl.load(entries + entry * 3 + 2), [1, BLOCK]) != 0
        norm = stats + map * 3 * C + channels
        mean = tl.load(norm, mask=normalised, other=0)
        scale = weight * tl.load(norm + C, mask=normalised, other=1)
        value = tl.load(_base(maps, states, map, count, rows, C) + place, mask=valid, other=0).to(tl.float32)
        total += (value - mean) * scale
    tl.store(out + place, total.to(out.dtype.element_ty), mask=valid)


def _launch_mix(maps: Tensor, states: Tensor, stats: Tensor, weights: Tensor, entries: Tensor, out: Tensor) -> bool:
    channels = out.shape[-1]
    rows = out.numel() // channels
    tile, block = _tile(rows, channels, 16)
    return launch(
        _mix_kernel,
        (triton.cdiv(rows, tile), channels // block),
        maps,
        states,
        stats,
        weights,
        entries,
        out,
        len(maps),
        len(entries),
        rows,
        C=channels,
        ROWS=tile,
        BLOCK=block,
        warps=WARPS,
    )


@kernel_op("mix", ("out",))
def mix(maps: Tensor, states: Tensor, stats: Tensor, weights: Tensor, entries: Tensor, out: Tensor) -> None:
    """Computes a node: the sum over its R entries of weight * (normalised) map.

    maps: [M, B, H, W, C].  states: [Q, B, H, W, C], further maps, numbered on from M, that are
        never normalised.
    stats: [M, 3, C] from `statistics`.  weights: contiguous, any shape, float32; read flat.
    entries: int32 [R, 3]: map, index of its weight, 1 if it is normalised.  out: [B, H, W, C].
    """
    if not (runs_kernel(out) and _launch_mix(maps, states, stats, weights, entries, out)):
        mix_reference(maps, states, stats, weights, entries, out)


def mix_sums_reference(gradient: Tensor, maps: Tensor, states: Tensor, stats: Tensor, entries: Tensor, sums: Tensor) -> None:
    incoming = gradient.to(accumulation_dtype(maps))
    sums.zero_()
    for row, (map, _, normalised) in enumerate(entries.tolist()):
        sums[row, 0, 0] = incoming.sum((0, 1, 2))
        sums[row, 0, 1] = (incoming * _value(maps, states, stats, map, normalised)).sum((0, 1, 2))


@jit
def _mix_sums_kernel(
    gradient: tl.tensor,
    maps: tl.tensor,
    states: tl.tensor,
    stats: tl.tensor,
    entries: tl.tensor,
    sums: tl.tensor,
    count: int,
    length: int,
    rows: int,
    C: tl.constexpr,
    ENTRIES: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    part = tl.program_id(0)
    parts = tl.num_programs(0)
    entry = tl.program_id(1) * ENTRIES + tl.arange(0, ENTRIES)
    channels = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)[None, None, :]
    present = entry < length
    map = tl.load(entries + entry * 3, mask=present, other=0)
    normalised = present & (tl.load(entries + entry * 3 + 2, mask=present, other=0) != 0)
    map = map[:, None, None]
    present = present[:, None, None]
    normalised = normalised[:, None, None]
    # The choice is between pointers [ENTRIES, 1, BLOCK]: from Triton 3.8 on one counts as aligned
    # only where neighbours share its condition (findings/triton_choice_of_pointers.sh).
    values = _base(maps + channels, states + channels, map, count, rows, C)
    norm = stats + map * 3 * C + channels
    mean = tl.load(norm, mask=normalised, other=0)
    total = tl.zeros([1, ROWS, BLOCK], tl.float32)
    with_value = tl.zeros([ENTRIES, ROWS, BLOCK], tl.float32)
    for start in range(part * ROWS, rows, parts * ROWS):
        row = start + tl.arange(0, ROWS)[None, :, None]
        valid = row < rows
        g = tl.load(gradient + row * C + channels, mask=valid, other=0).to(tl.float32)
        total += g
        with_value += g * (tl.load(values + row * C, mask=valid & present, other=0).to(tl.float32) - mean)
    rstd = tl.load(norm + C, mask=normalised, other=1)
    target = sums + (entry[:, None, None] * parts + part) * 2 * C + channels
    tl.store(target, tl.broadcast_to(tl.sum(total, 1, keep_dims=True), [ENTRIES, 1, BLOCK]), mask=present)
    tl.store(target + C, tl.sum(with_value, 1, keep_dims=True) * rstd, mask=present)


def _launch_mix_sums(gradient: Tensor, maps: Tensor, states: Tensor, stats: Tensor, entries: Tensor, sums: Tensor) -> bool:
    channels = gradient.shape[-1]
    rows = gradient.numel() // channels
    tile, block = _tile(rows, channels, 8)
    return launch(
        _mix_sums_kernel,
        (sums.shape[1], triton.cdiv(len(entries), ENTRIES), channels // block),
        gradient,
        maps,
        states,
        stats,
        entries,
        sums,
        len(maps),
        len(entries),
        rows,
        C=channels,
        ENTRIES=ENTRIES,
        ROWS=tile,
        BLOCK=block,
        warps=WARPS,
    )


@kernel_op("mix_sums", ("sums",))
def mix_sums(gradient: Tensor, maps: Tensor, states: Tensor, stats: Tensor, entries: Tensor, sums: Tensor) -> None:
    """Computes the sums over a node's gradient g for batch norm's backward and the mixing weights'
    gradients.

    gradient: [B, H, W, C].  maps, states, stats, entries: as the mix had them.
    sums: out, [R, P, 2, C]: for each entry parts of sum(g) and of sum(g * (normalised) map).
    """
    if not (runs_kernel(gradient) and _launch_mix_sums(gradient, maps, states, stats, entries, sums)):
        mix_sums_reference(gradient, maps, states, stats, entries, sums)


def mix_gradient_reference(
    gradients: Tensor, maps: Tensor, coefficients: Tensor, table: Tensor, starts: Tensor, out: Tensor
) -> None:
    rows, bounds = table.tolist(), starts.tolist()
    for index in range(len(out)):
        total = torch.zeros(out.shape[1:], dtype=accumulation_dtype(out), device=out.device)
        for gradient, coefficient, map in rows[bounds[index] : bounds[index + 1]]:
            c1, c2, c3 = coefficients[coefficient]
            total += c1 * gradients[gradient].to(total.dtype) + c3
            if map >= 0:
                total += c2 * maps[map].to(total.dtype)
        out[index] = total


@jit
def _mix_gradient_kernel(
    gradients: tl.tensor,
    maps: tl.tensor,
    coefficients: tl.tensor,
    table: tl.tensor,
    starts: tl.tensor,
    out: tl.tensor,
    rows: int,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    index = tl.program_id(1)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    channels = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)[None, :]
    valid = row < rows
    place = row * C + channels
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for entry in tl.range(tl.load(starts + index), tl.load(starts + index + 1), loop_unroll_factor=2):
        gradient = tl.load(table + entry * 3).to(tl.int64)
        factors = coefficients + tl.load(table + entry * 3 + 1) * 3 * C + channels
        map = tl.load(table + entry * 3 + 2).to(tl.int64)
        normalised = tl.broadcast_to(map, [1, BLOCK]) >= 0  # as above
        g = tl.load(gradients + gradient * rows * C + place, mask=valid, other=0).to(tl.float32)
        z = tl.load(maps + map * rows * C + place, mask=valid & normalised, other=0).to(tl.float32)
        c2 = tl.load(factors + C, mask=normalised, other=0)
        total += tl.load(factors) * g + c2 * z + tl.load(factors + 2 * C)
    tl.store(out + index.to(tl.int64) * rows * C + place, total.to(out.dtype.element_ty), mask=valid)


def _launch_mix_gradient(
    gradients: Tensor, maps: Tensor, coefficients: Tensor, table: Tensor, starts: Tensor, out: Tensor
) -> bool:
    channels = out.shape[-1]
    rows = out[0].numel() // channels
    tile, block = _tile(rows, channels, 16)
    return launch(
        _mix_gradient_kernel,
        (triton.cdiv(rows, tile), len(out), channels // block),
        gradients,
        maps,
        coefficients,
        table,
        starts,
        out,
        rows,
        C=channels,
        ROWS=tile,
        BLOCK=block,
        warps=WARPS,
    )


@kernel_op("mix_gradient", ("out",))
def mix_gradient(gradients: Tensor, maps: Tensor, coefficients: Tensor, table: Tensor, starts: Tensor, out: Tensor) -> None:
    """Computes the gradients of N maps that enter one node or several: the sum over the nodes of c1
    * g + c2 * z + c3 (`norm_gradient`).

    gradients: [Q, B, H, W, C], of the nodes.  maps: [M, B, H, W, C].  coefficients: [R, 3, C].
    table: int32 [Z, 3]: gradient, coefficients, map z (-1: not normalised, c2 counts for nothing);
        output n has the rows starts[n] to starts[n + 1].  starts: int32 [N + 1].  out: [N, B, H, W,
        C].
    """
    if not (runs_kernel(out) and _launch_mix_gradient(gradients, maps, coefficients, table, starts, out)):
        mix_gradient_reference(gradients, maps, coefficients, table, starts, out)
