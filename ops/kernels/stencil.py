"""The stencil: [batch norm ->] ReLU -> depthwise -> pointwise convolution, with statistics of the
output.

One launch computes all branches of all edges that leave a source: the first half of separable
convolutions and dilated ones, or (with batch norm) the second half of separable ones. The depthwise
output is never stored.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ops.kernels.launch import INTERPRETED, accumulation_dtype, jit, kernel_op, launch, runs_kernel, tl
from ops.kernels.statistics import _add_tile, _write_part, padded, write_statistics


def rectified_input(inputs: Tensor, index: int, norm: Tensor | None) -> Tensor:
    """Returns the ReLU of (normalised) map `index` of `inputs` [I, B, H, W, C], as [B, C, H, W] in
    the type of accumulation."""
    values = inputs[index].to(accumulation_dtype(inputs))
    if norm is not None:
        values = (values - norm[index, 0]) * norm[index, 1]
    return rearrange(values.relu(), "b h w c -> b c h w")


def depthwise_weight(weights: Tensor, offset: int, channels: int, kernel: int) -> Tensor:
    """Returns the depthwise weight [C, 1, kernel, kernel] from the packed `weights`."""
    return weights[offset : offset + channels * kernel**2].view(channels, 1, kernel, kernel)


def pointwise_weight(weights: Tensor, offset: int, channels: int) -> Tensor:
    """Returns the pointwise weight [C out, C in, 1, 1] from the packed `weights`."""
    return weights[offset : offset + channels**2].view(channels, channels, 1, 1)


def stencil_reference(
    inputs: Tensor, norm: Tensor | None, weights: Tensor, table: Tensor, stride: int, out: Tensor, partial: Tensor
) -> None:
    channels = inputs.shape[-1]
    for row, (index, kernel, dilation, depthwise, pointwise) in enumerate(table.tolist()):
        state = rectified_input(inputs, index, norm)
        padding = dilation * (kernel - 1) // 2
        filtered = F.conv2d(
            state, depthwise_weight(weights, depthwise, channels, kernel), None, stride, padding, dilation, channels
        )
        mixed = F.conv2d(filtered, pointwise_weight(weights, pointwise, channels))
        out[row] = rearrange(mixed, "b c h w -> b h w c")
    write_statistics(out, partial)


@jit
def _tile(tile: tl.tensor, count: tl.tensor, height: tl.tensor, width: tl.tensor, ROWS: tl.constexpr) -> tl.tensor:
    """Rows [ROWS] of a tile of an NHWC map of `count` rows, whether each exists, and its image, y
    and x."""
    rows = tile * ROWS + tl.arange(0, ROWS)
    lines = rows // width
    return rows, rows < count, lines // height, lines % height, rows % width


@jit
def _tap(
    source: tl.tensor,
    mean: tl.tensor,
    origin: tl.tensor,
    top: tl.tensor,
    left: tl.tensor,
    exists: tl.tensor,
    down: tl.tensor,
    right: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    channels: tl.tensor,
    C: tl.constexpr,
    NORMALISE: tl.constexpr,
) -> tl.tensor:
    """ReLU of (centred) pixels `down` and `right` of the pixels (top, left), [ROWS, channels] in
    float32; 0 outside the image.

    source: pointer to a map. origin: offset in it of the pixels (top, left) [ROWS]. mean:
    [channels], used if NORMALISE.
    """
    y, x = top + down, left + right
    inside = exists & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    offset = origin + (down * width + right) * C
    # ReLU makes minus infinity the zero that pads, whatever the mean.
    values = tl.load(source + offset[:, None] + channels[None, :], inside[:, None], float("-inf")).to(tl.float32)
    if NORMALISE:
        values -= mean[None, :]
    return tl.maximum(values, 0.0, tl.PropagateNan.ALL)


@jit
def _strips(
    place: tl.tensor,
    C: tl.constexpr,
    NORMALISE: tl.constexpr,
    MEMBERS: tl.constexpr,
    STEP: tl.constexpr,
    K: tl.constexpr,
) -> tl.tensor:
    """The depthwise convolution of (normalised) ReLU of a map around strips of pixels: MEMBERS
    times [ROWS, channels].

    place: pointers to the map, to its statistics [3, C] (read if NORMALISE) and to the depthwise
    weight [C, k, k]; height and width of the map; image, y, x of the first pixel of each strip, and
    whether it exists [ROWS]; k, dilation; numbers of the input channels. The next pixel of a strip
    is STEP * dilation to the right. K: k, or 0 where it is not known.
    """
    source, norm, filters, height, width, image, top, left, exists, kernel, dilation, channels = place
    origin = ((image * height + top) * width + left) * C
    mean = tl.load(norm + channels) if NORMALISE else None
    weights = filters + channels * (kernel * kernel)
    totals = (tl.zeros([top.shape[0], channels.shape[0]], tl.float32),) * MEMBERS
    for i in range(kernel):
        down = (i - kernel // 2) * dilation
        if K:
            for column in tl.static_range(K + STEP * (MEMBERS - 1)):
                right = (column - K // 2) * dilation
                values = _tap(source, mean, origin, top, left, exists, down, right, height, width, channels, C, NORMALISE)
                new: tl.tuple = ()
                for member in tl.static_range(MEMBERS):
                    if column >= STEP * member and column < STEP * member + K:
                        weight = tl.load(weights + (i * K + column - STEP * member))
                        new += (totals[member] + values * weight[None, :],)
                    else:
                        new += (totals[member],)
                totals = new
        else:
            for j in range(kernel):
                weight = tl.load(weights + (i * kernel + j))
                new = ()
                for member in tl.static_range(MEMBERS):
                    right = (j - kernel // 2 + STEP * member) * dilation
                    values = _tap(source, mean, origin, top, left, exists, down, right, height, width, channels, C, NORMALISE)
                    new += (totals[member] + values * weight[None, :],)
                totals = new
    if NORMALISE:  # 1 / standard deviation is above 0, so that it may follow the ReLU
        rstd = tl.load(norm + C + channels)[None, :]
        new = ()
        for member in tl.static_range(MEMBERS):
            new += (totals[member] * rstd,)
        totals = new
    return totals


@jit
def _filtered(
    place: tl.tensor, kernel: tl.tensor, C: tl.constexpr, NORMALISE: tl.constexpr, MEMBERS: tl.constexpr, STEP: tl.constexpr
) -> tl.tensor:
    """`_strips`, unrolled for the usual kernels."""
    if kernel == 3:
        filtered = _strips(place, C, NORMALISE, MEMBERS, STEP, 3)
    elif kernel == 5:
        filtered = _strips(place, C, NORMALISE, MEMBERS, STEP, 5)
    else:
        filtered = _strips(place, C, NORMALISE, MEMBERS, STEP, 0)
    return filtered


@jit
def _stencil(
    inputs: tl.tensor,
    norm: tl.tensor,
    weights: tl.tensor,
    table: tl.tensor,
    out: tl.tensor,
    partial: tl.tensor,
    batch: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    out_height: tl.tensor,
    out_width: tl.tensor,
    STRIDE: tl.constexpr,
    C: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    MEMBERS: tl.constexpr,
) -> None:
    part, parts, branch = tl.program_id(0), tl.num_programs(0), tl.program_id(1)
    index, kernel, dilation = tl.load(table + branch * 5), tl.load(table + branch * 5 + 1), tl.load(table + branch * 5 + 2)
    filters = weights + tl.multiple_of(tl.load(table + branch * 5 + 3), 16)
    mixing = weights + tl.multiple_of(tl.load(table + branch * 5 + 4), 16)
    NORMALISE: tl.constexpr = norm is not None
    element = inputs.dtype.element_ty
    source = inputs + index.to(tl.int64) * (batch * height * width * C)
    statistics = norm + index * (3 * C) if NORMALISE else weights
    target = out + branch.to(tl.int64) * (batch * out_height * out_width * C)
    # Pixels of a strip are as far apart as taps are, so that a pixel of the input is loaded once
    # for several of them.
    aligned = dilation % STRIDE == 0
    spacing = dilation // STRIDE if aligned else dilation
    strips = tl.cdiv(out_width, spacing * MEMBERS) * spacing
    count = batch * out_height * strips
    outputs = tl.arange(0, PADDED)
    number = 0.0
    mean = tl.zeros([PADDED], tl.float32)
    squares = tl.zeros([PADDED], tl.float32)
    for tile in range(part, tl.cdiv(count, ROWS), parts):
        _, exists, image, y, strip = _tile(tile, count, out_height, strips, ROWS)
        x = strip // spacing * (spacing * MEMBERS) + strip % spacing
        mixed = (tl.zeros([ROWS, PADDED], tl.float32),) * MEMBERS
        for start in range(0, C, BLOCK):
            channels = start + tl.arange(0, BLOCK)
            map = (source, statistics, filters, height, width)
            window = (image, y * STRIDE, x * STRIDE, exists, kernel, dilation, channels)
            place = map + window
            if aligned:
                filtered = _filtered(place, kernel, C, NORMALISE, MEMBERS, 1)
            else:
                filtered = _filtered(place, kernel, C, NORMALISE, MEMBERS, STRIDE)
            matrix = tl.load(mixing + outputs[:, None] * C + channels[None, :], outputs[:, None] < C, 0.0)
            matrix = tl.trans(matrix.to(element))
            new: tl.tuple = ()
            for member in tl.static_range(MEMBERS):
                new += (tl.dot(filtered[member].to(element), matrix, mixed[member], input_precision="tf32x3"),)
            mixed = new
        stored: tl.tuple = ()
        inside: tl.tuple = ()
        for member in tl.static_range(MEMBERS):
            at = x + member * spacing
            values = mixed[member].to(element)
            stored += (values.to(tl.float32),)
            inside += (exists & (at < out_width),)
            offset = ((image * out_height + y) * out_width + at) * C
            mask = inside[member][:, None] & (outputs[None, :] < C)
            tl.store(target + offset[:, None] + outputs[None, :], values, mask)
        number, mean, squares = _add_tile(stored, inside, number, mean, squares, MEMBERS)
    _write_part(partial + (branch * parts + part) * (3 * C), outputs, number, mean, squares, C)


def _shape(channels: int, rows: int, stride: int, size: int) -> tuple[int, int, int, int]:
    """Strips of a tile, pixels of a strip, input channels at a time, and warps; `size`: bytes of an
    element of the maps.

    The longest strips with which an sm_90 build keeps everything in registers: the longer, the
    fewer instructions a tap. Each thread loads 16 bytes at a time.
    """
    if INTERPRETED:
        return min(256, max(16, padded(rows // 2))), 2, math.gcd(channels, 64), 4
    if channels > 128:
        return 32, 1, math.gcd(channels, (128 if channels <= 256 else 64) // size), 8
    block = math.gcd(channels, 16 if size == 4 and channels in (48, 64) else 32)
    if channels > 64:
        return 64, 1 if size == 4 else 2, block, 8
    members = 4 if stride == 1 and (channels == 16 or (size == 2 and block == 32)) else 2
    return 64, members, block, 4 if channels == 16 or block * size == 32 else 8


def _launch(
    inputs: Tensor, norm: Tensor | None, weights: Tensor, table: Tensor, stride: int, out: Tensor, partial: Tensor
) -> bool:
    _, batch, height, width, channels = inputs.shape
    out_height, out_width = out.shape[2:4]
    rows, members, block, warps = _shape(channels, batch * out_height * out_width, stride, inputs.itemsize)
    return launch(
        _stencil,
        (partial.shape[1], len(table)),
        inputs,
        norm,
        weights,
        table,
        out,
        partial,
        batch,
        height,
        width,
        out_height,
        out_width,
        warps=warps,
        STRIDE=stride,
        C=channels,
        PADDED=padded(channels),
        BLOCK=block,
        ROWS=rows,
        MEMBERS=members,
    )


@kernel_op("stencil", ("out", "partial"))
def stencil(
    inputs: Tensor, norm: Tensor | None, weights: Tensor, table: Tensor, stride: int, out: Tensor, partial: Tensor
) -> None:
    """Computes N branches of ReLU, depthwise and pointwise convolution over I maps.

    inputs: [I, B, H, W, C].  norm: None, or [I, 3, C] from `statistics`: the input is normalised by
        it, before the ReLU.
    Padding is zero after the ReLU.
    weights: packed, flat, float32; a depthwise weight is [C, k, k] and a pointwise one [C out, C
        in], in row-major order.
    table: int32 [N, 5]: input, k, dilation, offset of the depthwise weight, offset of the pointwise
        one (multiples of 16).
    out: [N, B, ceil(H / stride), ceil(W / stride), C], raw.  partial: out, [N, P, 3, C], statistics
        of `out` as stored.
    """
    if not (runs_kernel(inputs) and _launch(inputs, norm, weights, table, stride, out, partial)):
        stencil_reference(inputs, norm, weights, table, stride, out, partial)
