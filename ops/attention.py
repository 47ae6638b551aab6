"""Operations that attend: squeeze-and-excitation over channels, self-attention over positions.

Each is a skip connection (factorised reduction where the stride is 2) whose result is weighed:
`attention` returns the weights, for pages that show them. The fallback bank of the supernet
computes them, one module an edge.
"""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ops.images import FactorizedReduce, batch_norm
from ops.registry import register_op

REDUCTION = 16
"""Channels for each hidden unit of squeeze-and-excitation (Hu et al. 2018, section 6.1), and for
each head of self-attention."""
LEAST_HIDDEN = 4
"""Hidden units of squeeze-and-excitation at least: with the few channels of a search 1/16 of them
would be one or none."""
HEAD_WIDTH = 8
"""Channels of the queries, keys and values of a head: half of `REDUCTION`, the bottleneck of
non-local blocks (Wang et al. 2018, section 3.3)."""
LARGEST_SIDE = 16
"""Rows and columns of keys and values at most."""


class Attending(nn.Module, ABC):
    """The base of modules that weigh the channels or the positions of a map [B, C, H, W]; an
    operation of one's own that extends it is shown as those here are."""

    over: ClassVar[Literal["channels", "positions"]]
    """The axis that is weighed."""

    @abstractmethod
    def attention(self, state: Tensor) -> Tensor:
        """Returns the weights for an input [B, C, H, W] of the module, in its present mode.

        Over channels they are the gates in 0..1, [B, C]. Over positions they are shares that sum to
        1 for each image, [B, Ho, Wo] at the size of the module's output: the attention that each
        position receives, mean over all positions that give it and over heads.
        """


@torch.no_grad()
def attention_maps(network: nn.Module, *inputs: Any) -> dict[str, Tensor]:
    """Returns the weights of every `Attending` module that `network` runs for `inputs`, such as
    images [B, C, H, W], by the name of the module; an empty dictionary where none attends.

    The network runs once, in evaluation mode, and is left as it was. A module that runs several
    times has the weights of its last call.
    """
    found: dict[str, Tensor] = {}

    def watch(name: str, module: Attending) -> RemovableHandle:
        def see(_: nn.Module, states: tuple[Tensor, ...]) -> None:
            found[name] = module.attention(states[0])

        return module.register_forward_pre_hook(see)

    was_training = [(part, part.training) for part in network.modules()]
    handles = [watch(name, part) for name, part in network.named_modules() if isinstance(part, Attending)]
    try:
        network.eval()
        network(*inputs)
    finally:
        for handle in handles:
            handle.remove()
        for part, training in was_training:
            part.training = training
    return found


def _reduction(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine)


class SqueezeExcitation(Attending):
    """Squeeze-and-excitation (Hu et al. 2018, equations 2 to 4), behind a skip connection.

    Gates sigmoid(W2 ReLU(W1 z)) of the channels' means z scale the channels. The layers have no
    bias, as in the paper's equations; hidden units are C / 16, but at least 4. With stride 2 a
    factorised reduction comes first, whose batch norm `affine` is about.
    """

    over = "channels"

    def __init__(self, channels: int, stride: int, affine: bool = True):
        super().__init__()
        hidden = max(channels // REDUCTION, LEAST_HIDDEN)
        self.reduce = _reduction(channels, stride, affine)
        self.squeeze = nn.Linear(channels, hidden, bias=False)
        self.excite = nn.Linear(hidden, channels, bias=False)

    def _gates(self, reduced: Tensor) -> Tensor:
        return self.excite(self.squeeze(reduced.mean((2, 3))).relu()).sigmoid()

    def forward(self, state: Tensor) -> Tensor:
        reduced = self.reduce(state)
        return reduced * self._gates(reduced)[:, :, None, None]

    def attention(self, state: Tensor) -> Tensor:
        return self._gates(self.reduce(state))


class DotProductAttention(nn.Module):
    """Scaled dot-product attention (Vaswani et al. 2017, equation 1)."""

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Maps queries [B, heads, N, D], keys and values [B, heads, M, D] to [B, heads, N, D]."""
        return F.scaled_dot_product_attention(query, key, value)

    def multiply_adds(self, query: Tensor, key: Tensor, value: Tensor) -> int:
        """Returns the multiply-adds of both products, for the whole batch."""
        return query.numel() * key.shape[2] + query.shape[:3].numel() * value.shape[2:].numel()


class SelfAttention(Attending):
    """Self-attention over the positions of a map, added to it: state + W_z attend(norm(state)).

    It is a non-local block (Wang et al. 2018, equation 6) with the softmax of scaled dot products
    (Vaswani et al. 2017, equation 1) and several heads: one of 8 channels for each 16 of the map,
    at least one. Queries, keys and values are 1x1 convolutions of the map behind a batch norm,
    which `affine` is about; their means over 1x1, 2x2, ... positions are the keys and values, so
    that these are at most 16x16 and a map of N positions takes memory for 256 N products at most
    (the subsampling of section 3.3 there, by means instead of maxima). W_z begins with zeros, so
    that the operation begins as the skip connection (section 4.1 there). Positions have no
    encoding of their own: the borders of the convolutions before it tell them. With stride 2 a
    factorised reduction comes first.
    """

    over = "positions"

    def __init__(self, channels: int, stride: int, affine: bool = True):
        super().__init__()
        self.heads = max(channels // REDUCTION, 1)
        width = self.heads * HEAD_WIDTH
        self.reduce = _reduction(channels, stride, affine)
        self.norm = batch_norm(channels, affine)
        self.query = nn.Conv2d(channels, width, 1, bias=False)
        self.key = nn.Conv2d(channels, width, 1, bias=False)
        self.value = nn.Conv2d(channels, width, 1, bias=False)
        self.attend = DotProductAttention()
        self.project = nn.Conv2d(width, channels, 1, bias=False)
        nn.init.zeros_(self.project.weight)

    def forward(self, state: Tensor) -> Tensor:
        reduced = self.reduce(state)
        normed = self.norm(reduced)
        pooled = _pooled(normed)
        query, key, value = self._split(self.query(normed)), self._split(self.key(pooled)), self._split(self.value(pooled))
        height, width = normed.shape[2:]
        attended = rearrange(self.attend(query, key, value), "b heads (h w) d -> b h w (heads d)", h=height, w=width)
        return reduced + self.project(rearrange(attended, "b h w c -> b c h w"))

    def attention(self, state: Tensor) -> Tensor:
        normed = self.norm(self.reduce(state))
        pooled = _pooled(normed)
        query, key = self._split(self.query(normed)), self._split(self.key(pooled))
        # Image by image: the weights of all pairs of positions are large.
        shares = [
            (one @ other.transpose(-1, -2) / HEAD_WIDTH**0.5).softmax(-1, dtype=normed.dtype).mean((0, 1))
            for one, other in zip(query, key, strict=True)
        ]
        return _spread(torch.stack(shares).view(len(normed), *pooled.shape[2:]), normed.shape[2], normed.shape[3])

    def _split(self, channels: Tensor) -> Tensor:
        return rearrange(channels, "b (heads d) h w -> b heads (h w) d", heads=self.heads)


def _window(height: int, width: int) -> tuple[int, int]:
    """Returns rows and columns whose mean is one key, for a map of that size."""
    return -(-height // LARGEST_SIDE), -(-width // LARGEST_SIDE)


def _pooled(state: Tensor) -> Tensor:
    """Returns means [B, C, h, w] over the windows of a map [B, C, H, W]; those at the lower and
    right border may be smaller."""
    window = _window(state.shape[2], state.shape[3])
    return state if window == (1, 1) else F.avg_pool2d(state, window, ceil_mode=True, count_include_pad=False)


def _spread(shares: Tensor, height: int, width: int) -> Tensor:
    """Returns the shares [B, h, w] of windows as shares [B, H, W] of their positions, each an equal
    part."""
    window = _window(height, width)
    sizes = F.avg_pool2d(shares.new_ones(1, height, width), window, ceil_mode=True, divisor_override=1)
    spread = (shares / sizes).repeat_interleave(window[0], 1).repeat_interleave(window[1], 2)
    return spread[:, :height, :width]


@register_op("se")
def se(channels: int, stride: int, affine: bool) -> nn.Module:
    return SqueezeExcitation(channels, stride, affine)


@register_op("self_attention")
def self_attention(channels: int, stride: int, affine: bool) -> nn.Module:
    return SelfAttention(channels, stride, affine)
