"""3x3 pools of several sources in one launch, with statistics of the outputs, and their backward
pass."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ops.kernels.launch import INTERPRETED, accumulation_dtype, jit, kernel_op, launch, runs_kernel, tl, triton
from ops.kernels.statistics import write_statistics

AVERAGE, MAXIMUM, IDENTITY = range(3)
"""The kinds of pool in a table; identity, the skip, only has a backward pass here."""

WARPS = 4


def _tile(maps: Tensor, rows: int) -> tuple[int, int]:
    """Pixels and channels of one program's tile of maps that have `rows` pixels each: a load of 16
    bytes a thread.

    The channels divide those of the map, so that none need masking.
    """
    channels = maps.shape[-1]
    block = min(channels & -channels, 64)
    values = 32 * WARPS * 16 // maps.element_size()
    return (min(triton.next_power_of_2(rows), 1024) if INTERPRETED else values // block), block


@jit
def _pool_kernel(
    inputs: tl.tensor,
    table: tl.tensor,
    out: tl.tensor,
    index: tl.tensor,
    partial: tl.tensor,
    height: int,
    width: int,
    out_height: int,
    out_width: int,
    in_rows: int,
    rows: int,
    STRIDE: tl.constexpr,
    MAXIMUM: tl.constexpr,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    part = tl.program_id(0)
    parts = tl.num_programs(0)
    entry = tl.program_id(1)
    channels = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)[None, :]
    kind = tl.load(table + entry * 2 + 1)
    source = inputs + tl.load(table + entry * 2).to(tl.int64) * in_rows * C + channels
    target = entry.to(tl.int64) * rows * C + channels
    # Each row of the tile keeps statistics of its own (Welford's update), so that nothing is
    # exchanged until the end.
    count = tl.zeros([ROWS, 1], tl.float32)
    mean = tl.zeros([ROWS, BLOCK], tl.float32)
    squares = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(part * ROWS, rows, parts * ROWS):
        row = start + tl.arange(0, ROWS)[:, None]
        valid = row < rows
        column = row % out_width * STRIDE - 1
        line = row // out_width % out_height * STRIDE - 1
        corner = (row // (out_width * out_height) * height + line) * width + column
        if kind == MAXIMUM:
            value = tl.full([ROWS, BLOCK], float("-inf"), tl.float32)
            # Where all are -inf the first tap inside the image wins, as in torch.
            tap = tl.where(line < 0, 3, 0) + tl.where(column < 0, 1, 0) + tl.zeros([ROWS, BLOCK], tl.int32)
            for dy in tl.static_range(3):
                for dx in tl.static_range(3):
                    inside = valid & _within(line + dy, height) & _within(column + dx, width)
                    offset = (corner + dy * width + dx) * C
                    here = tl.load(source + offset, mask=inside, other=float("-inf")).to(tl.float32)
                    better = (here > value) | (here != here)
                    value = tl.where(better, here, value)
                    tap = tl.where(better, dy * 3 + dx, tap)
            tl.store(index + target + row * C, tap.to(tl.uint8), mask=valid)
        else:
            value = tl.zeros([ROWS, BLOCK], tl.float32)
            for dy in tl.static_range(3):
                for dx in tl.static_range(3):
                    inside = valid & _within(line + dy, height) & _within(column + dx, width)
                    offset = (corner + dy * width + dx) * C
                    value += tl.load(source + offset, mask=inside, other=0).to(tl.float32)
            value /= _pixels(line, height) * _pixels(column, width)
        stored = value.to(out.dtype.element_ty)
        tl.store(out + target + row * C, stored, mask=valid)

        value = tl.where(valid, stored.to(tl.float32), mean)
        count += tl.where(valid, 1.0, 0.0)
        difference = value - mean
        mean += difference * (1 / tl.maximum(count, 1))
        squares += difference * (value - mean)
    total = tl.sum(count, 0, keep_dims=True)
    divisor = tl.maximum(total, 1)
    combined = tl.sum(count * mean, 0, keep_dims=True) / divisor
    # The second sum, of what is small, takes away the rounding errors of the first.
    combined += tl.sum(count * (mean - combined), 0, keep_dims=True) / divisor
    squares += count * (mean - combined) * (mean - combined)
    statistics = partial + (entry * parts + part) * 3 * C + channels
    tl.store(statistics, tl.broadcast_to(total, [1, BLOCK]))
    tl.store(statistics + C, combined)
    tl.store(statistics + 2 * C, tl.sum(squares, 0, keep_dims=True))


@jit
def _within(position: tl.tensor, size: int) -> tl.tensor:
    return (position >= 0) & (position < size)


@jit
def _pixels(first: tl.tensor, size: int) -> tl.tensor:
    """Returns the number of positions first, first + 1 and first + 2 within an image of `size`, as
    float32."""
    return (tl.minimum(first + 3, size) - tl.maximum(first, 0)).to(tl.float32)


def _launch_pool(inputs: Tensor, table: Tensor, stride: int, out: Tensor, index: Tensor, partial: Tensor) -> bool:
    _, batch, height, width, channels = inputs.shape
    entries, _, out_height, out_width, _ = out.shape
    rows = batch * out_height * out_width
    tile, block = _tile(out, rows)
    return launch(
        _pool_kernel,
        (partial.shape[1], entries, channels // block),
        inputs,
        table,
        out,
        index,
        partial,
        height,
        width,
        out_height,
        out_width,
        batch * height * width,
        rows,
        STRIDE=stride,
        MAXIMUM=MAXIMUM,
        C=channels,
        ROWS=tile,
        BLOCK=block,
        warps=WARPS,
    )


def pool_reference(inputs: Tensor, table: Tensor, stride: int, out: Tensor, index: Tensor, partial: Tensor) -> None:
    width = inputs.shape[3]
    for row, (source, kind) in enumerate(table.tolist()):
        state = rearrange(inputs[source].to(accumulation_dtype(inputs)), "b h w c -> b c h w")
        if kind == AVERAGE:
            pooled = F.avg_pool2d(state, 3, stride, 1, count_include_pad=False)
        else:
            pooled, flat = F.max_pool2d(state, 3, stride, 1, return_indices=True)
            top = torch.arange(pooled.shape[2], device=flat.device).view(-1, 1) * stride - 1
            left = torch.arange(pooled.shape[3], device=flat.device) * stride - 1
            tap = (flat // width - top) * 3 + flat % width - left
            index[row] = rearrange(tap, "b c h w -> b h w c").to(torch.uint8)
        out[row] = rearrange(pooled, "b c h w -> b h w c")
    write_statistics(out, partial)


@kernel_op("pool", ("out", "index", "partial"))
def pool(inputs: Tensor, table: Tensor, stride: int, out: Tensor, index: Tensor, partial: Tensor) -> None:
    """Computes N pools of 3x3 over I maps; the padding of 1 neither wins a maximum nor counts in an
    average.

    inputs: [I, B, H, W, C].  table: int32 [N, 2]: input, AVERAGE or MAXIMUM; the maxima come first.
    out: [N, B, ceil(H / stride), ceil(W / stride), C].  partial: out, [N, P, 3, C], statistics of
        `out` as stored.
    index: out, uint8 [maxima, B, Ho, Wo, C]: which tap of the window, 0 to 8 row by row, holds it;
        the first of equals.
    """
    if not (runs_kernel(inputs) and _launch_pool(inputs, table, stride, out, index, partial)):
        pool_reference(inputs, table, stride, out, index, partial)


@jit
def _pool_backward_kernel(
    gradients: tl.tensor,
    index: tl.tensor,
    table: tl.tensor,
    starts: tl.tensor,
    out: tl.tensor,
    height: int,
    width: int,
    out_height: int,
    out_width: int,
    in_rows: int,
    rows: int,
    STRIDE: tl.constexpr,
    MAXIMUM: tl.constexpr,
    IDENTITY: tl.constexpr,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    source = tl.program_id(1)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    channels = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)[None, :]
    valid = row < in_rows
    column = row % width + 1
    line = row // width % height + 1
    corner = row // (width * height) * out_height * out_width
    place = out + source.to(tl.int64) * in_rows * C + row * C + channels
    total = tl.load(place, mask=valid, other=0).to(tl.float32)
    for entry in range(tl.load(starts + source), tl.load(starts + source + 1)):
        kind = tl.load(table + entry * 3 + 1)
        gradient = gradients + tl.load(table + entry * 3).to(tl.int64) * rows * C + channels
        winners = index + tl.load(table + entry * 3 + 2).to(tl.int64) * rows * C + channels
        if kind == IDENTITY:
            total += tl.load(gradient + row * C, mask=valid, other=0).to(tl.float32)
        else:
            # The windows that a pixel lies in start at most 2 above it and 2 to its left, and at
            # multiples of the stride.
            for above in tl.static_range(2 // STRIDE + 1):
                for left in tl.static_range(2 // STRIDE + 1):
                    y = line // STRIDE - above
                    x = column // STRIDE - left
                    dy = line - y * STRIDE
                    dx = column - x * STRIDE
                    inside = valid & _within(y, out_height) & (dy < 3) & _within(x, out_width) & (dx < 3)
                    offset = (corner + y * out_width + x) * C
                    pixels = _pixels(y * STRIDE - 1, height) * _pixels(x * STRIDE - 1, width)
                    share = tl.load(gradient + offset, mask=inside, other=0).to(tl.float32)
                    # No branch on the kind here, so that the loads of all taps may be under way at
                    # once.
                    # The kind for each row: the interpreter of Triton 3.9 takes no single condition
                    # as a mask of a block (findings/triton_scalar_mask.sh).
                    is_maximum = tl.broadcast_to(kind, [ROWS, 1]) == MAXIMUM
                    winner = tl.load(winners + offset, mask=inside & is_maximum, other=dy * 3 + dx)
                    factor = tl.where(kind == MAXIMUM, 1.0, 1 / tl.maximum(pixels, 1))
                    total += tl.where(winner == dy * 3 + dx, share * factor, 0)
    tl.store(place, total.to(out.dtype.element_ty), mask=valid)


def _launch_pool_backward(gradients: Tensor, index: Tensor, table: Tensor, starts: Tensor, stride: int, out: Tensor) -> bool:
    sources, batch, height, width, channels = out.shape
    out_height, out_width = gradients.shape[2:4]
    in_rows = batch * height * width
    tile, block = _tile(out, in_rows)
    return launch(
        _pool_backward_kernel,
        (triton.cdiv(in_rows, tile), sources, channels // block),
        gradients,
        index,
        table,
        starts,
        out,
        height,
        width,
        out_height,
        out_width,
        in_rows,
        batch * out_height * out_width,
        STRIDE=stride,
        MAXIMUM=MAXIMUM,
        IDENTITY=IDENTITY,
        C=channels,
        ROWS=tile,
        BLOCK=block,
        warps=WARPS,
    )


def pool_backward_reference(gradients: Tensor, index: Tensor, table: Tensor, starts: Tensor, stride: int, out: Tensor) -> None:
    bounds, rows = starts.tolist(), table.tolist()
    for source in range(len(out)):
        total = out[source].to(accumulation_dtype(out))
        for gradient, kind, slot in rows[bounds[source] : bounds[source + 1]]:
            _add_gradient(total, gradients[gradient].to(total.dtype), kind, index[slot] if kind == MAXIMUM else None, stride)
        out[source] = total


def _add_gradient(total: Tensor, gradient: Tensor, kind: int, index: Tensor | None, stride: int) -> None:
    """Adds to `total` [B, H, W, C] the input's gradient by one pool's or skip's gradient
    [B, Ho, Wo, C]."""
    if kind == IDENTITY:
        total += gradient
        return
    batch, height, width, channels = total.shape
    rows, columns = gradient.shape[1:3]
    padded = total.new_zeros(batch, (rows - 1) * stride + 3, (columns - 1) * stride + 3, channels)
    inside = F.pad(total.new_ones(height, width), (1, 1, 1, 1))
    windows = F.avg_pool2d(inside[None, None], 3, stride)[0, 0, :, :, None] * 9
    for tap in range(9):
        share = gradient / windows if index is None else torch.where(index == tap, gradient, 0)
        top, left = divmod(tap, 3)
        padded[:, top : top + rows * stride : stride, left : left + columns * stride : stride] += share
    total += F.pad(padded, (0, 0, 0, 1, 0, 1))[:, 1 : height + 1, 1 : width + 1]


@kernel_op("pool_backward", ("out",))
def pool_backward(gradients: Tensor, index: Tensor, table: Tensor, starts: Tensor, stride: int, out: Tensor) -> None:
    """Adds the gradients that come back through pools and skips to those of their inputs.

    gradients: [N, B, Ho, Wo, C].  index: uint8 [maxima, B, Ho, Wo, C] from `pool`.
    table: int32 [Z, 3]: gradient, then AVERAGE, MAXIMUM or IDENTITY (for stride 1 alone), then
        which of `index` (0 for no maximum); input i has the rows starts[i] to starts[i + 1].
        starts: int32 [I + 1].
    out: [I, B, H, W, C], read and written.
    """
    if not (runs_kernel(out) and _launch_pool_backward(gradients, index, table, starts, stride, out)):
        pool_backward_reference(gradients, index, table, starts, stride, out)
