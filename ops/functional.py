"""Small pure functions that operations, banks and cells share."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def strided_size(size: Sequence[int], stride: int) -> list[int]:
    """Height and width after an operation of that stride: ceil(side / stride)."""
    return [-(-side // stride) for side in size]


def factorized_reduce(state: Tensor, even: Tensor, shifted: Tensor) -> Tensor:
    """Halves [B, in, H, W] to [B, out, ceil(H/2), ceil(W/2)] by two 1x1 convolutions of stride 2.

    `even` [out/2, in, 1, 1] sees pixels 0, 2, 4, ...; `shifted` sees pixels 1, 3, 5, ..., with zeros beyond an odd border.
    """
    return torch.cat((F.conv2d(state, even, stride=2), F.conv2d(shifted_grid(state), shifted, stride=2)), dim=1)


def shifted_grid(state: Tensor) -> Tensor:
    """[B, C, H, W] moved by one pixel up and to the left, with zeros on the right and the bottom."""
    return F.pad(state, (0, 1, 0, 1))[:, :, 1:, 1:]


def channel_shuffle(state: Tensor, groups: int) -> Tensor:
    """Interleaves the channels of `groups` equal groups (PC-DARTS, Xu et al. 2020, section 3.1)."""
    return rearrange(state, "b (groups c) h w -> b (c groups) h w", groups=groups)
