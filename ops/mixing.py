"""Batch-normalise weighted branches and sum them into a node: the plain-torch reference of the
mixed edge.

Every node of a cell is a sum over edges and operations of weight * batch_norm(z), with z the raw
output of an operation's last convolution. The weight is a factor on a normalised map, so it is
folded into the scale of the batch norm (which has no weight of its own in a supernet): no
multiplication of its own forward, and backward the batch norm's weight gradient, summed over
channels, is the gradient of the mixing weight. A map that several targets share, as pools and skips
do, goes to all of them by one matrix product.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

MOMENTUM = 0.1
EPSILON = 1e-5


@dataclass(frozen=True)
class DeferredNorm:
    """A batch norm applied by the consumer of the map, scaled by the mixing weight.

    `mean` and `var` [C] are running statistics, updated in place while `training`; None: the
    batch's own are used always.
    """

    mean: Tensor | None
    var: Tensor | None
    training: bool

    def __call__(self, raw: Tensor, scale: Tensor | None = None) -> Tensor:
        """Returns scale * (raw - mean) / sqrt(var + epsilon) of [B, C, H, W], per channel; `scale`
        is a scalar."""
        # A strided weight gives a wrong gradient on the CPU
        # (findings/batch_norm_strided_weight.sh).
        weight = None if scale is None else scale.expand(raw.shape[1]).contiguous()
        training = self.training or self.mean is None
        return F.batch_norm(raw, self.mean, self.var, weight, None, training, MOMENTUM, EPSILON)


@dataclass(frozen=True)
class Branch:
    """The result of an operation for one edge: a raw map [B, C, H, W] with its deferred batch norm,
    or a finished map (`norm` None)."""

    map: Tensor
    norm: DeferredNorm | None = None


def weighted(branch: Branch, weight: Tensor) -> Tensor:
    """Returns weight * normalised branch, [B, C, H, W]; `weight` is a scalar tensor."""
    if branch.norm is None:
        return weight * branch.map
    return branch.norm(branch.map, weight)


def mix(branches: Sequence[Branch], weights: Sequence[Tensor | None]) -> Tensor:
    """Returns a node [B, C, H, W]: the sum of weight * normalised branch over at least one branch.

    A weight is a scalar tensor; None: the branch is finished and weighted already (`spread`).
    """
    terms = (
        branch.map if weight is None else weighted(branch, weight) for branch, weight in zip(branches, weights, strict=True)
    )
    result = next(terms)
    second = next(terms, None)
    if second is None:
        return result
    result = result + second
    for term in terms:
        # In place: a sum saves nothing for backward, so no needed value is overwritten.
        result += term
    return result


def spread(maps: Sequence[Tensor], weights: Tensor) -> list[Tensor]:
    """Sums K finished maps [B, C, H, W] into T targets by `weights` [T, K]."""
    batch, _, height, width = maps[0].shape
    stacked = torch.stack([rearrange(map, "b c h w -> (b h w c)") for map in maps])
    mixed = weights @ stacked
    return [rearrange(row, "(b h w c) -> b c h w", b=batch, h=height, w=width) for row in mixed.unbind(0)]
