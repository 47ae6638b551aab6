"""Batch norm's statistics and its gradient's coefficients, combined from the parts that other
kernels leave."""

from __future__ import annotations

import torch
from torch import Tensor

from ops.kernels.launch import (
    COUNT,
    INTERPRETED,
    MEAN,
    SQUARES,
    accumulation_dtype,
    jit,
    kernel_op,
    launch,
    runs_kernel,
    tl,
)
from ops.mixing import EPSILON

CHANNELS = 16
"""Channels that are combined at a time."""


def padded(size: int) -> int:
    """Returns the power of two that a tensor of `size` elements takes in Triton."""
    return 1 << (size - 1).bit_length()


@jit
def _add_tile(
    values: tl.tensor, exists: tl.tensor, count: tl.tensor, mean: tl.tensor, squares: tl.tensor, MEMBERS: tl.constexpr
) -> tl.tensor:
    """Returns statistics of a part (count, mean [C], squares [C]) after a tile of it has been
    added.

    values: MEMBERS times [ROWS, C] in float32. exists: MEMBERS times [ROWS], which of them count.
    Chan's formula, with sums over the tile of differences from the part's mean so far: they are as
    exact as those from the tile's own mean, in one pass.
    """
    number = tl.zeros_like(exists[0].to(tl.float32))
    for member in tl.static_range(MEMBERS):
        number += exists[member].to(tl.float32)
    size = tl.sum(number, 0)
    if count == 0:
        plain = tl.zeros_like(values[0])
        for member in tl.static_range(MEMBERS):
            plain += tl.where(exists[member][:, None], values[member], 0.0)
        mean = tl.sum(plain, 0) / tl.maximum(size, 1.0)  # a tile may lie outside the map
    first = tl.zeros_like(values[0])
    second = tl.zeros_like(values[0])
    for member in tl.static_range(MEMBERS):
        difference = tl.where(exists[member][:, None], values[member] - mean[None, :], 0.0)
        first += difference
        second += difference * difference
    total = count + size
    shift = tl.sum(first, 0) / tl.maximum(total, 1.0)
    squares += tl.sum(second, 0) - shift * shift * total
    return total, mean + shift, squares


@jit
def _write_part(
    partial: tl.tensor, channels: tl.tensor, count: tl.tensor, mean: tl.tensor, squares: tl.tensor, C: tl.constexpr
) -> None:
    """Writes statistics of a part to `partial`, a pointer to [3, C]."""
    mask = channels < C
    tl.store(partial + channels, tl.zeros_like(mean) + count, mask)
    tl.store(partial + C + channels, mean, mask)
    tl.store(partial + 2 * C + channels, squares, mask)


def statistics_reference(partial: Tensor, stats: Tensor) -> None:
    count, mean, squares = partial.unbind(2)
    total = count.sum(1)
    combined = (count * mean).sum(1) / total
    deviation = (squares + count * (mean - combined.unsqueeze(1)).square()).sum(1).clamp_min(0)
    stats.copy_(torch.stack((combined, (deviation / total + EPSILON).rsqrt(), deviation / (total - 1)), dim=1))


@jit
def _statistics(
    partial: tl.tensor,
    stats: tl.tensor,
    parts: tl.tensor,
    C: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
    EPS: tl.constexpr,
) -> None:
    map = tl.program_id(0)
    channels = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    part = tl.arange(0, PARTS)[:, None]
    source = partial + (map * parts + part) * (3 * C) + channels[None, :]
    count = tl.load(source, part < parts, 0.0)
    means = tl.load(source + C, part < parts, 0.0)
    squares = tl.load(source + 2 * C, part < parts, 0.0)
    total = tl.sum(count, 0)
    mean = tl.sum(count * means, 0) / total
    difference = means - mean[None, :]
    deviation = tl.maximum(tl.sum(squares + count * difference * difference, 0), 0.0, tl.PropagateNan.ALL)
    target = stats + map * (3 * C) + channels
    tl.store(target, mean)
    tl.store(target + C, tl.rsqrt(deviation / total + EPS))
    tl.store(target + 2 * C, deviation / (total - 1))


def _launch_statistics(partial: Tensor, stats: Tensor) -> bool:
    maps, parts, _, channels = partial.shape
    grid = maps, channels // CHANNELS
    return launch(
        _statistics, grid, partial, stats, parts, warps=4, C=channels, PARTS=padded(parts), BLOCK=CHANNELS, EPS=EPSILON
    )


@kernel_op("statistics", ("stats",))
def statistics(partial: Tensor, stats: Tensor) -> None:
    """Combines statistics of parts of a batch by Chan's formula (Chan, Golub and LeVeque 1983).

    partial: [N, P, 3, C], for each of N maps and P parts: count, mean, sum of squared deviations
        (count may be 0).
    stats: out, [N, 3, C]: mean, 1 / sqrt(variance + 1e-5), and the unbiased variance that running
        statistics are made from.
    """
    if not (runs_kernel(partial) and _launch_statistics(partial, stats)):
        statistics_reference(partial, stats)


def norm_gradient_reference(
    sums: Tensor,
    stats: Tensor,
    weights: Tensor,
    entries: Tensor,
    count: int,
    batch_statistics: bool,
    coefficients: Tensor,
    weight_gradient: Tensor,
) -> None:
    flat = weight_gradient.view(-1)
    for row, (map, weight, normalised) in enumerate(entries.tolist()):
        gradient, with_value = sums[row].sum(0)
        scale = weights.view(-1)[weight] if weight >= 0 else torch.ones_like(gradient[0])
        if weight >= 0:
            flat[weight] = with_value.sum()
        c1, c2, c3 = scale.expand_as(gradient), torch.zeros_like(gradient), torch.zeros_like(gradient)
        if normalised:
            mean, rstd, _ = stats[map]
            c1 = scale * rstd
            if batch_statistics:
                c2 = -c1 * rstd * with_value / count
                c3 = -c1 * gradient / count - c2 * mean
        coefficients[row] = torch.stack((c1, c2, c3))


@jit
def _norm_gradient(
    sums: tl.tensor,
    stats: tl.tensor,
    weights: tl.tensor,
    entries: tl.tensor,
    coefficients: tl.tensor,
    weight_gradient: tl.tensor,
    count: tl.tensor,
    parts: tl.tensor,
    C: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCK: tl.constexpr,
    BATCH_STATISTICS: tl.constexpr,
) -> None:
    row = tl.program_id(0)
    map, weight = tl.load(entries + 3 * row), tl.load(entries + 3 * row + 1)
    # For each channel: the interpreter of Triton 3.9 takes no single condition as a mask of a block
    # (findings/triton_scalar_mask.sh).
    normalised = tl.broadcast_to(tl.load(entries + 3 * row + 2), [BLOCK]) != 0
    scale = tl.load(weights + weight, weight >= 0, 1.0)
    part = tl.arange(0, PARTS)[:, None]
    product = tl.zeros([BLOCK], tl.float32)
    for start in range(0, C, BLOCK):
        channels = start + tl.arange(0, BLOCK)
        source = sums + (row * parts + part) * (2 * C) + channels[None, :]
        gradient = tl.sum(tl.load(source, part < parts, 0.0), 0)
        with_value = tl.sum(tl.load(source + C, part < parts, 0.0), 0)
        product += with_value
        # A map that is not normalised has no statistics.
        mean = tl.load(stats + map * (3 * C) + channels, normalised, 0.0)
        rstd = tl.load(stats + map * (3 * C) + C + channels, normalised, 1.0)
        c1 = scale * rstd
        c2 = tl.zeros([BLOCK], tl.float32)
        c3 = tl.zeros([BLOCK], tl.float32)
        if BATCH_STATISTICS:
            c2 = tl.where(normalised, -c1 * rstd * with_value / count, 0.0)
            c3 = tl.where(normalised, -c1 * gradient / count - c2 * mean, 0.0)
        target = coefficients + row * (3 * C) + channels
        tl.store(target, c1)
        tl.store(target + C, c2)
        tl.store(target + 2 * C, c3)
    tl.store(weight_gradient + weight, tl.sum(product, 0), weight >= 0)


def _launch_norm_gradient(
    sums: Tensor,
    stats: Tensor,
    weights: Tensor,
    entries: Tensor,
    count: int,
    batch_statistics: bool,
    coefficients: Tensor,
    weight_gradient: Tensor,
) -> bool:
    rows, parts, _, channels = sums.shape
    return launch(
        _norm_gradient,
        (rows,),
        sums,
        stats,
        weights,
        entries,
        coefficients,
        weight_gradient,
        count,
        parts,
        warps=4,
        C=channels,
        PARTS=padded(parts),
        BLOCK=CHANNELS,
        BATCH_STATISTICS=batch_statistics,
    )


@kernel_op("norm_gradient", ("coefficients", "weight_gradient"))
def norm_gradient(
    sums: Tensor,
    stats: Tensor,
    weights: Tensor,
    entries: Tensor,
    count: int,
    batch_statistics: bool,
    coefficients: Tensor,
    weight_gradient: Tensor,
) -> None:
    """Writes the gradient of weight * batch_norm(z) as a linear function of the incoming gradient g
    and of z.

    dz = c1 * g + c2 * z + c3 per channel. With n the normalised z: c1 = weight * rstd, c2 = -c1 *
    rstd * mean(g n), c3 = -c1 * mean(g) - c2 * mean(z); c2 = c3 = 0 for fixed (running) statistics,
    and c1 = weight for a map that is not normalised. The gradient of the weight is the sum of g n
    over batch, pixels and channels.

    sums: [R, P, 2, C], parts of sum(g) and sum(g n) for each entry (n = z where it is not
        normalised).
    stats: [M, 3, C] from `statistics`.  weights: contiguous, any shape; read flat.
    entries: int32 [R, 3]: map, index of its weight (-1: the weight is 1 and gets no gradient), 1 if
        it is normalised.
    count: values a channel in a map, B * H * W.  batch_statistics: whether `stats` are this
        batch's.
    coefficients: out, [R, 3, C].  weight_gradient: out, shaped like `weights`; written at the
        entries' indices alone.
    """
    arguments = sums, stats, weights, entries, count, batch_statistics, coefficients, weight_gradient
    if not (runs_kernel(sums) and _launch_norm_gradient(*arguments)):
        norm_gradient_reference(*arguments)


def collect_reference(grouped: Tensor, out: Tensor, partial: Tensor) -> None:
    count, batch, height, width, channels = out.shape
    out.copy_(grouped.view(batch, height, width, count, channels).permute(3, 0, 1, 2, 4))
    write_statistics(out, partial)


@jit
def _collect(
    grouped: tl.tensor,
    out: tl.tensor,
    partial: tl.tensor,
    rows: tl.tensor,
    C: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    part, parts, map, maps = tl.program_id(0), tl.num_programs(0), tl.program_id(1), tl.num_programs(1)
    channels = tl.arange(0, PADDED)
    count = 0.0
    mean = tl.zeros([PADDED], tl.float32)
    squares = tl.zeros([PADDED], tl.float32)
    for tile in range(part, tl.cdiv(rows, ROWS), parts):
        row = tile * ROWS + tl.arange(0, ROWS)
        exists = row < rows
        mask = exists[:, None] & (channels[None, :] < C)
        source = grouped + (row.to(tl.int64) * maps + map)[:, None] * C + channels[None, :]
        values = tl.load(source, mask, 0.0)
        tl.store(out + (map.to(tl.int64) * rows + row)[:, None] * C + channels[None, :], values, mask)
        count, mean, squares = _add_tile((values.to(tl.float32),), (exists,), count, mean, squares, 1)
    _write_part(partial + (map * parts + part) * (3 * C), channels, count, mean, squares, C)


def _launch_collect(grouped: Tensor, out: Tensor, partial: Tensor) -> bool:
    maps, batch, height, width, channels = out.shape
    rows = batch * height * width
    tile = min(1024, padded(rows)) if INTERPRETED else max(16, 4096 // padded(channels))
    return launch(
        _collect,
        (partial.shape[1], maps),
        grouped,
        out,
        partial,
        rows,
        warps=4,
        C=channels,
        PADDED=padded(channels),
        ROWS=tile,
    )


@kernel_op("collect", ("out", "partial"))
def collect(grouped: Tensor, out: Tensor, partial: Tensor) -> None:
    """Separates the output of one convolution for N edges, with the statistics of each part.

    grouped: [B, H, W, N * C], contiguous. out: [N, B, H, W, C]. partial: out, [N, P, 3, C] as
    `statistics` takes it.
    """
    if not (runs_kernel(out) and _launch_collect(grouped, out, partial)):
        collect_reference(grouped, out, partial)


def write_statistics(maps: Tensor, partial: Tensor) -> None:
    """Fills `partial` [N, P, 3, C] for `maps` [N, B, H, W, C], all in the first part, for
    references."""
    values = maps.flatten(1, 3).to(accumulation_dtype(maps))
    partial.zero_()
    partial[:, 0, COUNT] = values.shape[1]
    partial[:, 0, MEAN] = values.mean(1)
    partial[:, 0, SQUARES] = (values - values.mean(1, keepdim=True)).square().sum(1)
