"""Small pure functions that operations, banks and cells share."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


def strided_size(size: Sequence[int], stride: int) -> list[int]:
    """Returns height and width after an operation of that stride: ceil(side / stride)."""
    return [-(-side // stride) for side in size]


def factorized_reduce(state: Tensor, even: Tensor, shifted: Tensor) -> Tensor:
    """Halves [B, in, H, W] to [B, out, ceil(H/2), ceil(W/2)] by two 1x1 convolutions of stride 2.

    `even` [out/2, in, 1, 1] sees pixels 0, 2, 4, ...; `shifted` sees pixels 1, 3, 5, ..., with
    zeros beyond an odd border.
    """
    return torch.cat((convolve_halving(state, even), convolve_halving(shifted_grid(state), shifted)), dim=1)


def convolve_halving(state: Tensor, weight: Tensor) -> Tensor:
    """Convolves [B, in, H, W] by [out, in, 1, 1] with stride 2, to [B, out, ceil(H/2), ceil(W/2)].

    With few channels on the CPU the pixels are picked first, since the backward pass of the strided
    convolution writes outside its memory there (oneDNN 3.12 in PyTorch 2.13; under 8 channels with
    AVX2, 16 with AVX-512; uxlfoundation/oneDNN issue 6035).
    """
    if state.device.type == "cpu" and state.shape[1] < 16:
        # Of an odd side, torch takes the strides of the picked pixels for those of NCHW.
        return F.conv2d(state[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last), weight)
    return F.conv2d(state, weight, stride=2)


class HalvingConv(nn.Conv2d):
    """`convolve_halving` as a module."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 1, stride=2, bias=False)

    def forward(self, state: Tensor) -> Tensor:
        return convolve_halving(state, self.weight)


def shifted_grid(state: Tensor) -> Tensor:
    """Returns [B, C, H, W] without its first row and column, the grid of the second convolution of
    stride 2; odd sides end with zeros."""
    odd = [side % 2 for side in state.shape[2:]]
    return (F.pad(state, (0, odd[1], 0, odd[0])) if any(odd) else state)[:, :, 1:, 1:]


def channel_shuffle(state: Tensor, groups: int) -> Tensor:
    """Interleaves the channels of `groups` equal groups (PC-DARTS, Xu et al. 2020, section 3.1).

    The result is in channels_last, whatever the memory of `state` is.
    """
    # Shuffled as [B, C, H, W] it would be NCHW, and every later operation would convert it.
    last = rearrange(state, "b c h w -> b h w c")
    return rearrange(rearrange(last, "b h w (groups c) -> b h w (c groups)", groups=groups), "b h w c -> b c h w")


def new_map(state: Tensor, channels: int, size: Sequence[int]) -> Tensor:
    """Returns zeros [B, channels, *size] in channels_last, of the batch, type and device of
    `state`."""
    # Of maps in two layouts torch makes a sum or a concatenation in either.
    # Not len(state): an exporter would take the number of images for a fixed one.
    return rearrange(state.new_zeros(state.shape[0], *size, channels), "b h w c -> b c h w")


def parted(state: Tensor, inner: int) -> tuple[Tensor, Tensor]:
    """Returns the first `inner` channels of [B, C, H, W], and the others."""
    # The gradient of two slices would be NCHW, that of a split has the layout of its parts.
    first, second = state.split([inner, state.shape[1] - inner], dim=1)
    return first, second


def halved_bypass(outer: Tensor, stride: int) -> Tensor:
    """Returns channels [B, C, H, W] that pass an edge's operations by, at the size of its output:
    halved by max pooling on edges of stride 2 (PC-DARTS, Xu et al. 2020, as released)."""
    return F.max_pool2d(outer, 2, 2, ceil_mode=True) if stride == 2 else outer


Cast = Mapping[Tensor, Tensor]
"""Weights that have been cast to autocast's type already."""


def cast_together(weights: Iterable[Tensor], device: torch.device) -> Cast:
    """Casts all `weights` on `device` to autocast's type by one kernel, and their gradients by one;
    without autocast nothing is cast.

    Autocast itself takes two kernels for each of them.
    """
    if not torch.is_autocast_enabled(device.type) or not (weights := list(weights)):
        return {}
    return dict(zip(weights, _Cast.apply(torch.get_autocast_dtype(device.type), *weights), strict=True))


class _Cast(torch.autograd.Function):
    """Maps (dtype, tensors) to the tensors in that type."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.dtype = tensors[0].dtype
        results = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
        torch._foreach_copy_(results, list(tensors))
        return tuple(results)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *_Cast.apply(ctx.dtype, *gradients))


def convolve(layer: nn.Conv2d, state: Tensor, cast: Cast) -> Tensor:
    """Returns `layer(state)` for a convolution without bias, with its weight from `cast` if it is
    there."""
    weight = cast.get(layer.weight)
    return layer(state) if weight is None else torch.conv2d(state, weight, None, layer.stride, layer.padding)
