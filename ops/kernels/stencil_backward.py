"""The stencil's backward pass as two kernels: through the pointwise one, with all weight gradients,
then to the input."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight

from ops.kernels.launch import INTERPRETED, accumulation_dtype, jit, kernel_op, launch, runs_kernel, tl
from ops.kernels.stencil import _tap, _tile, depthwise_weight, pointwise_weight, rectified_input

SIDE = 8
"""Room for the rows, and the columns, of a depthwise kernel, a power of two: it is at most 7 x
7."""

PROGRAMS = 1024
"""Number of programs that share the tiles of a launch without parts: a few for each multiprocessor
of a large GPU."""


def stencil_backward_reference(
    gradients: Tensor,
    maps: Tensor,
    coefficients: Tensor,
    inputs: Tensor,
    norm: Tensor | None,
    weights: Tensor,
    table: Tensor,
    stride: int,
    out: Tensor,
    partial: Tensor | None,
) -> None:
    channels = inputs.shape[-1]
    for row, entry in enumerate(table.tolist()):
        gradient, map, coefficient, index, kernel, dilation, depthwise, pointwise = entry
        precise = accumulation_dtype(inputs)
        c1, c2, c3 = coefficients[coefficient]
        dz = rearrange(c1 * gradients[gradient].to(precise) + c2 * maps[map].to(precise) + c3, "b h w c -> b c h w")
        dy = F.conv_transpose2d(dz, pointwise_weight(weights, pointwise, channels))
        out[row] = rearrange(dy, "b c h w -> b h w c")
        if partial is None:
            continue
        state = rectified_input(inputs, index, norm)
        padding = dilation * (kernel - 1) // 2
        filters = depthwise_weight(weights, depthwise, channels, kernel)
        filtered = F.conv2d(state, filters, None, stride, padding, dilation, channels)
        ends = depthwise + filters.numel(), pointwise + channels**2
        partial[:, depthwise : ends[0]] = 0
        partial[:, pointwise : ends[1]] = 0
        partial[0, depthwise : ends[0]] = conv2d_weight(
            state, [channels, 1, kernel, kernel], dy, stride, padding, dilation, channels
        ).flatten()
        partial[0, pointwise : ends[1]] = torch.einsum("bohw,bihw->oi", dz, filtered).flatten()


@jit
def _raw_gradient(
    gradient: tl.tensor,
    map: tl.tensor,
    coefficient: tl.tensor,
    rows: tl.tensor,
    exists: tl.tensor,
    outputs: tl.tensor,
    C: tl.constexpr,
) -> tl.tensor:
    """dz = c1 * g + c2 * z + c3, [ROWS, outputs] in the type of the maps; c3 in rows that do not
    exist.

    gradient, map: pointers to maps. coefficient: pointer to [3, C].
    """
    known = outputs < C
    offset, mask = rows[:, None] * C + outputs[None, :], exists[:, None] & known[None, :]
    c1 = tl.load(coefficient + outputs, known, 0.0)[None, :]
    c2 = tl.load(coefficient + C + outputs, known, 0.0)[None, :]
    c3 = tl.load(coefficient + 2 * C + outputs, known, 0.0)[None, :]
    dz = c1 * tl.load(gradient + offset, mask, 0.0).to(tl.float32) + c2 * tl.load(map + offset, mask, 0.0).to(tl.float32) + c3
    return dz.to(gradient.dtype.element_ty)


@jit
def _stencil_backward(
    gradients: tl.tensor,
    maps: tl.tensor,
    coefficients: tl.tensor,
    inputs: tl.tensor,
    norm: tl.tensor,
    weights: tl.tensor,
    table: tl.tensor,
    out: tl.tensor,
    partial: tl.tensor,
    size: tl.tensor,
    count: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    out_height: tl.tensor,
    out_width: tl.tensor,
    pixels: tl.tensor,
    stride: tl.tensor,
    C: tl.constexpr,
    CHUNK: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    SIDE: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """Computes one part of the tiles of one branch: dy in one block of its input channels.

    The pointwise convolution's weight gradient is split by chunks of its output channels, too.
    Programs that differ in the chunk alone all write their common results, with the same values.
    """
    part, parts, branch = tl.program_id(0), tl.num_programs(0), tl.program_id(1)
    block, chunk = tl.program_id(2) % (C // BLOCK), tl.program_id(2) // (C // BLOCK)
    NORMALISE: tl.constexpr = norm is not None
    WEIGHTS: tl.constexpr = partial is not None
    element = inputs.dtype.element_ty
    entry = table + branch * 8
    kernel, dilation = tl.load(entry + 4), tl.load(entry + 5)
    depthwise, pointwise = tl.multiple_of(tl.load(entry + 6), 16), tl.multiple_of(tl.load(entry + 7), 16)
    gradient = gradients + tl.load(entry).to(tl.int64) * (count * C)
    map = maps + tl.load(entry + 1).to(tl.int64) * (count * C)
    coefficient = coefficients + tl.load(entry + 2) * (3 * C)
    index = tl.load(entry + 3)
    source = inputs + index.to(tl.int64) * (pixels * C)
    target = out + branch.to(tl.int64) * (count * C)
    channels, outputs = block * BLOCK + tl.arange(0, BLOCK), tl.arange(0, CHUNK)
    column = pointwise + channels[None, :]
    matrix = tl.load(weights + outputs[:, None] * C + column, outputs[:, None] < C, 0.0).to(element)
    if WEIGHTS:
        mean = tl.load(norm + index * (3 * C) + channels) if NORMALISE else None
        scale = norm + index * (3 * C) + C + channels if NORMALISE else None
        taps = kernel * kernel
        filters = channels * taps
        columns, lines = tl.arange(0, SIDE)[:, None], tl.arange(0, SIDE)[:, None, None]
        filters_gradient = tl.zeros([SIDE, SIDE, BLOCK], tl.float32)
        matrix_gradient = tl.zeros([CHUNK, BLOCK], tl.float32)
    for tile in tl.range(part, tl.cdiv(count, ROWS), parts, num_stages=3 if C <= CHUNK else 1):
        rows, exists, image, y, x = _tile(tile, count, out_height, out_width, ROWS)
        dy = tl.zeros([ROWS, BLOCK], tl.float32)
        for start in tl.static_range(0, C, CHUNK):
            reach = start + outputs
            if C > CHUNK:
                matrix = tl.load(weights + reach[:, None] * C + column, reach[:, None] < C, 0.0).to(element)
            dz = _raw_gradient(gradient, map, coefficient, rows, exists, reach, C)
            dy = tl.dot(dz, matrix, dy, input_precision=PRECISION)
        place = target + rows[:, None] * C + channels[None, :]
        tl.store(place, dy.to(element), exists[:, None])
        if WEIGHTS:
            # Read back, dy is laid out as the input is, not as a product, and dz takes no registers
            # meanwhile.
            tl.debug_barrier()
            dy = tl.load(place, exists[:, None], 0.0).to(tl.float32)
            top, left = y * stride, x * stride
            origin = ((image * height + top) * width + left) * C
            filtered = tl.zeros([ROWS, BLOCK], tl.float32)
            for i in range(kernel):
                down = (i - kernel // 2) * dilation
                line = tl.zeros([SIDE, BLOCK], tl.float32)
                for j in range(kernel):
                    right = (j - kernel // 2) * dilation
                    values = _tap(source, mean, origin, top, left, exists, down, right, height, width, channels, C, NORMALISE)
                    filtered += values * tl.load(weights + depthwise + i * kernel + j + filters)[None, :]
                    line += tl.where(columns == j, tl.sum(values * dy, 0)[None, :], 0.0)
                filters_gradient += tl.where(lines == i, line[None, :, :], 0.0)
            if NORMALISE:  # 1 / standard deviation is above 0, so that it may follow the ReLU
                filtered *= tl.load(scale)[None, :]
            dz = _raw_gradient(gradient, map, coefficient, rows, exists, chunk * CHUNK + outputs, C)
            matrix_gradient = tl.dot(tl.trans(dz), filtered.to(element), matrix_gradient, input_precision=PRECISION)
    if WEIGHTS:
        if NORMALISE:
            filters_gradient *= tl.load(scale)[None, None, :]
        share = partial + part.to(tl.int64) * size
        places = depthwise + channels[None, None, :] * taps + lines * kernel + columns[None, :, :]
        tl.store(share + places, filters_gradient, (lines < kernel) & (columns[None, :, :] < kernel))
        reach = chunk * CHUNK + outputs
        tl.store(share + reach[:, None] * C + column, matrix_gradient, reach[:, None] < C)


def _power_of_two(number: int) -> int:
    """Returns the least power of two of at least `number`."""
    return 1 << (number - 1).bit_length()


def _backward_shape(maps: Tensor, rows: int) -> tuple[int, int, int]:
    """Input channels of a block, output channels of a chunk and rows of a tile, such that an sm_90
    build does not spill."""
    channels, narrow = maps.shape[-1], maps.dtype != torch.float32
    if channels > (128 if narrow else 64):
        block, chunk, tile = 16, 32, 64
    else:
        block, chunk = math.gcd(channels, 64 if narrow else 32), min(64, _power_of_two(channels))
        tile = min(128, (4096 if narrow else 2048) // chunk)
    return block, chunk, min(1024, max(16, _power_of_two(rows))) if INTERPRETED else tile


def _launch_backward(
    gradients: Tensor,
    maps: Tensor,
    coefficients: Tensor,
    inputs: Tensor,
    norm: Tensor | None,
    weights: Tensor,
    table: Tensor,
    stride: int,
    out: Tensor,
    partial: Tensor | None,
) -> bool:
    _, batch, height, width, channels = inputs.shape
    out_height, out_width = out.shape[2:4]
    count = batch * out_height * out_width
    block, chunk, rows = _backward_shape(inputs, count)
    blocks = channels // block
    if partial is None:
        parts = min(-(-count // rows), -(-PROGRAMS // (len(table) * blocks)))
    else:
        parts, blocks = len(partial), blocks * -(-channels // chunk)
    return launch(
        _stencil_backward,
        (parts, len(table), blocks),
        gradients,
        maps,
        coefficients,
        inputs,
        norm if partial is not None else None,
        weights,
        table,
        out,
        partial,
        len(weights),
        count,
        height,
        width,
        out_height,
        out_width,
        batch * height * width,
        stride,
        warps=4,
        C=channels,
        CHUNK=chunk,
        BLOCK=block,
        ROWS=rows,
        SIDE=SIDE,
        PRECISION="tf32x3",
    )


@kernel_op("stencil_backward", ("out", "partial"))
def stencil_backward(
    gradients: Tensor,
    maps: Tensor,
    coefficients: Tensor,
    inputs: Tensor,
    norm: Tensor | None,
    weights: Tensor,
    table: Tensor,
    stride: int,
    out: Tensor,
    partial: Tensor | None,
) -> None:
    """Computes gradients of depthwise outputs and of both weights from the gradients of N
    normalised branches.

    The gradient of a branch's raw output z is formed on load, c1 * g + c2 * z + c3 (see
    `norm_gradient`), and the depthwise output is computed again. All weight gradients come from one
    pass over input and gradient.

    gradients: [Q, B, Ho, Wo, C].  maps: [M, B, Ho, Wo, C], raw outputs of the stencil.
        coefficients: [R, 3, C].
    inputs, norm, weights, stride: as the stencil had them.
    table: int32 [N, 8]: gradient, map, coefficients, input, k, dilation, offset of the depthwise
        weight, of the pointwise one.
    out: [N, B, Ho, Wo, C], gradients of the depthwise outputs.
    partial: out, [P, L] with L the size of `weights`: parts of the gradient of the weights, written
        where the table's weights lie and only there; None: no gradient of weights is wanted.
    """
    arguments = gradients, maps, coefficients, inputs, norm, weights, table, stride, out, partial
    if not (runs_kernel(inputs) and _launch_backward(*arguments)):
        stencil_backward_reference(*arguments)


def stencil_input_gradient_reference(
    gradients: Tensor,
    inputs: Tensor,
    norm: Tensor | None,
    weights: Tensor,
    table: Tensor,
    starts: Tensor,
    stride: int,
    accumulate: bool,
    out: Tensor,
    sums: Tensor | None,
) -> None:
    _, batch, height, width, channels = inputs.shape
    rows, bounds = table.tolist(), starts.tolist()
    for index in range(len(out)):
        values = rearrange(inputs[index].to(accumulation_dtype(inputs)), "b h w c -> b c h w")
        if norm is not None:
            values = (values - norm[index, 0].view(-1, 1, 1)) * norm[index, 1].view(-1, 1, 1)
        total = torch.zeros_like(values)
        for gradient, kernel, dilation, depthwise in rows[bounds[index] : bounds[index + 1]]:
            total += conv2d_input(
                [batch, channels, height, width],
                depthwise_weight(weights, depthwise, channels, kernel),
                rearrange(gradients[gradient].to(values.dtype), "b h w c -> b c h w").contiguous(),
                stride,
                dilation * (kernel - 1) // 2,
                dilation,
                channels,
            )
        total = rearrange(torch.where(values > 0, total, 0), "b c h w -> b h w c")
        out[index] = out[index] + total if accumulate else total
        if sums is not None:
            stored = out[index].to(values.dtype)
            sums[index].zero_()
            sums[index, 0, 0] = stored.sum((0, 1, 2))
            sums[index, 0, 1] = (stored * rearrange(values, "b c h w -> b h w c")).sum((0, 1, 2))


@jit
def _stencil_input_gradient(
    gradients: tl.tensor,
    inputs: tl.tensor,
    norm: tl.tensor,
    weights: tl.tensor,
    table: tl.tensor,
    starts: tl.tensor,
    out: tl.tensor,
    sums: tl.tensor,
    batch: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    out_height: tl.tensor,
    out_width: tl.tensor,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    STRIDE: tl.constexpr,
    ACCUMULATE: tl.constexpr,
) -> None:
    """Computes one part of the tiles of one input, in one block of channels.

    The pixels of a tile are alike modulo the stride, so that a tap meets outputs from all of them
    or from none, and is skipped where it meets none. Tile by tile that remainder, the phase, takes
    its turn.
    """
    part, parts, index = tl.program_id(0), tl.num_programs(0), tl.program_id(1)
    NORMALISE: tl.constexpr = norm is not None
    SUMS: tl.constexpr = sums is not None
    PHASES: tl.constexpr = STRIDE * STRIDE
    channels = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    source = inputs + index.to(tl.int64) * (batch * height * width * C)
    target = out + index.to(tl.int64) * (batch * height * width * C)
    first, last = tl.load(starts + index), tl.load(starts + index + 1)
    lines, columns = tl.cdiv(height, STRIDE), tl.cdiv(width, STRIDE)
    count = batch * lines * columns
    gradient_sum = tl.zeros([BLOCK], tl.float32)
    product_sum = tl.zeros([BLOCK], tl.float32)
    for tile in range(part, tl.cdiv(count, ROWS) * PHASES, parts):
        top, left = tile % PHASES // STRIDE, tile % STRIDE
        _, exists, image, y, x = _tile(tile // PHASES, count, lines, columns, ROWS)
        exists &= (y * STRIDE + top < height) & (x * STRIDE + left < width)
        origin = ((image * out_height + y) * out_width + x) * C
        total = tl.zeros([ROWS, BLOCK], tl.float32)
        for row in range(first, last):
            entry = table + row * 4
            gradient = gradients + tl.load(entry).to(tl.int64) * (batch * out_height * out_width * C)
            kernel, dilation = tl.load(entry + 1), tl.load(entry + 2)
            depthwise = weights + tl.multiple_of(tl.load(entry + 3), 16)
            filters = channels * (kernel * kernel)
            for i in range(kernel):
                below = top - (i - kernel // 2) * dilation
                if below % STRIDE == 0:
                    down = below // STRIDE
                    for j in range(kernel):
                        beside = left - (j - kernel // 2) * dilation
                        if beside % STRIDE == 0:
                            right = beside // STRIDE
                            inside = exists & (y + down >= 0) & (y + down < out_height)
                            inside &= (x + right >= 0) & (x + right < out_width)
                            offset = (origin + (down * out_width + right) * C)[:, None] + channels[None, :]
                            incoming = tl.load(gradient + offset, inside[:, None], 0.0).to(tl.float32)
                            total += incoming * tl.load(depthwise + i * kernel + j + filters)[None, :]
        offset = (((image * height + y * STRIDE + top) * width + x * STRIDE + left) * C)[:, None] + channels[None, :]
        values = tl.load(source + offset, exists[:, None], 0.0).to(tl.float32)
        if NORMALISE:  # loaded for each tile, as the taps before leave no registers to keep them in
            statistics = norm + index * (3 * C) + channels
            values = (values - tl.load(statistics)[None, :]) * tl.load(statistics + C)[None, :]
        total = tl.where(values > 0, total, 0.0)
        if ACCUMULATE:
            total += tl.load(target + offset, exists[:, None], 0.0).to(tl.float32)
        stored = total.to(out.dtype.element_ty)
        tl.store(target + offset, stored, exists[:, None])
        if SUMS:  # pixels that do not exist add 0
            gradient_sum += tl.sum(stored.to(tl.float32), 0)
            product_sum += tl.sum(stored.to(tl.float32) * values, 0)
    if SUMS:
        share = sums + (index * parts + part) * (2 * C) + channels
        tl.store(share, gradient_sum)
        tl.store(share + C, product_sum)


def _input_gradient_shape(maps: Tensor, rows: int) -> tuple[int, int]:
    """Channels of a block and rows of a tile, such that an sm_90 build does not spill."""
    narrow = maps.dtype != torch.float32
    block = math.gcd(maps.shape[-1], 64 if narrow else 32)
    if INTERPRETED:
        return block, min(1024, max(16, _power_of_two(rows)))
    return block, 4096 // block if narrow else 64


def _launch_input_gradient(
    gradients: Tensor,
    inputs: Tensor,
    norm: Tensor | None,
    weights: Tensor,
    table: Tensor,
    starts: Tensor,
    stride: int,
    accumulate: bool,
    out: Tensor,
    sums: Tensor | None,
) -> bool:
    count, batch, height, width, channels = inputs.shape
    pixels = batch * -(-height // stride) * -(-width // stride)
    block, rows = _input_gradient_shape(inputs, pixels)
    parts = -(-pixels // rows) * stride**2 if sums is None else sums.shape[1]
    return launch(
        _stencil_input_gradient,
        (parts, count, channels // block),
        gradients,
        inputs,
        norm,
        weights,
        table,
        starts,
        out,
        sums,
        batch,
        height,
        width,
        *gradients.shape[2:4],
        warps=2,
        C=channels,
        BLOCK=block,
        ROWS=rows,
        STRIDE=stride,
        ACCUMULATE=accumulate,
    )


@kernel_op("stencil_input_gradient", ("out", "sums"))
def stencil_input_gradient(
    gradients: Tensor,
    inputs: Tensor,
    norm: Tensor | None,
    weights: Tensor,
    table: Tensor,
    starts: Tensor,
    stride: int,
    accumulate: bool,
    out: Tensor,
    sums: Tensor | None,
) -> None:
    """Computes gradients of the (normalised) inputs from those of depthwise outputs, through ReLU
    and convolution.

    gradients: [N, B, Ho, Wo, C] from `stencil_backward`.
    inputs [I, B, H, W, C], norm, weights, stride: as the stencil had them.
    table: int32 [N, 4]: gradient, k, dilation, offset of the depthwise weight; input i has the rows
        starts[i] to starts[i + 1].
    starts: int32 [I + 1].  accumulate: add to `out` instead of overwriting it.
    out: [I, B, H, W, C], the sum over the input's branches, 0 where the (normalised) input is not
        above 0.
    sums: None, or out, [I, P, 2, C]: parts of sum(out) and of sum(out * normalised input), as
        `norm_gradient` takes them.
    """
    arguments = gradients, inputs, norm, weights, table, starts, stride, accumulate, out, sums
    if not (runs_kernel(inputs) and _launch_input_gradient(*arguments)):
        stencil_input_gradient_reference(*arguments)
