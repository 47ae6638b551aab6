"""The operations of the DARTS and NAS-Bench-201 spaces, each written once, as an ordinary module.

DARTS (Liu et al. 2019, section 3.1 and its appendix), NAS-Bench-201 (Dong & Yang 2020, section
2.1), the 7x7 operations of NASNet (Zoph et al. 2018), noise of RobustDARTS (Zela et al. 2020, space
S4). The supernet computes the same modules through `ops.banks`.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn

from base.checks import InputError
from ops.functional import Cast, HalvingConv, convolve, new_map, shifted_grid, strided_size
from ops.registry import register_op


def batch_norm(channels: int, affine: bool = True) -> nn.BatchNorm2d:
    """Batch norm without the counter of batches, which a fixed momentum never reads and which costs
    a kernel a batch."""
    norm = nn.BatchNorm2d(channels, affine=affine)
    norm.num_batches_tracked = None
    norm.register_load_state_dict_pre_hook(_without_counter)
    return norm


def _without_counter(norm: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Takes the counter out of a state that is loaded: torch adds one to a plain dict, as one read
    from a file is."""
    state.pop(f"{prefix}num_batches_tracked", None)


class ReluConvNorm(nn.Sequential):
    """ReLU, convolution of `kernel` x `kernel`, batch norm."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, affine: bool = True):
        conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False)
        super().__init__(OrderedDict(relu=nn.ReLU(), conv=conv, norm=batch_norm(out_channels, affine)))

    def after_relu(self, rectified: Tensor, cast: Cast) -> Tensor:
        """Computes the layers behind the ReLU, for a state that several modules read and that is
        rectified once."""
        return self.norm(convolve(self.conv, rectified, cast))


class Zero(nn.Module):
    """The operation `none`: zeros of the size that any other operation would give."""

    def __init__(self, stride: int):
        super().__init__()
        self.stride = stride

    def forward(self, state: Tensor) -> Tensor:
        return new_map(state, state.shape[1], strided_size(state.shape[2:], self.stride))


class Noise(nn.Module):
    """Standard normal noise in place of the state (RobustDARTS, S4): an operation that a search
    must learn to avoid."""

    def __init__(self, stride: int):
        super().__init__()
        self.stride = stride

    def forward(self, state: Tensor) -> Tensor:
        return torch.randn_like(state[:, :, :: self.stride, :: self.stride])


class FactorizedReduce(nn.Module):
    """ReLU, two 1x1 convolutions of stride 2 on grids one pixel apart, batch norm.

    It maps [B, in, H, W] to [B, out, ceil(H/2), ceil(W/2)].

    On odd sizes the shifted grid is padded with zeros on the right and the bottom. Raises
    ValueError for an odd `out_channels`.
    """

    def __init__(self, in_channels: int, out_channels: int, affine: bool = True):
        super().__init__()
        if out_channels % 2:
            raise InputError(f"factorised reduction: needs an even number of output channels, not {out_channels}")
        self.even = HalvingConv(in_channels, out_channels // 2)
        self.shifted = HalvingConv(in_channels, out_channels // 2)
        self.norm = batch_norm(out_channels, affine)

    def forward(self, state: Tensor) -> Tensor:
        return self.after_relu(state.relu(), {})

    def after_relu(self, rectified: Tensor, cast: Cast) -> Tensor:
        """Computes the layers behind the ReLU, for a state that several modules read and that is
        rectified once."""
        # The modules are called, as multiply-adds are counted by modules.
        halves = convolve(self.even, rectified, cast), convolve(self.shifted, shifted_grid(rectified), cast)
        return self.norm(torch.cat(halves, dim=1))


@register_op("none")
def none(channels: int, stride: int, affine: bool) -> nn.Module:
    return Zero(stride)


@register_op("noise")
def noise(channels: int, stride: int, affine: bool) -> nn.Module:
    return Noise(stride)


@register_op("skip_connect")
def skip_connect(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine)


@register_op("max_pool_3x3")
def max_pool_3x3(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.MaxPool2d(3, stride, 1)


@register_op("avg_pool_3x3")
def avg_pool_3x3(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.AvgPool2d(3, stride, 1, count_include_pad=False)


@register_op("max_pool_3x3_bn")
def max_pool_3x3_bn(channels: int, stride: int, affine: bool) -> nn.Module:
    """Makes the operation that stands for max_pool_3x3 in the DARTS supernet."""
    return nn.Sequential(OrderedDict(pool=max_pool_3x3(channels, stride, affine), norm=batch_norm(channels, affine)))


@register_op("avg_pool_3x3_bn")
def avg_pool_3x3_bn(channels: int, stride: int, affine: bool) -> nn.Module:
    """Makes the operation that stands for avg_pool_3x3 in the DARTS supernet."""
    return nn.Sequential(OrderedDict(pool=avg_pool_3x3(channels, stride, affine), norm=batch_norm(channels, affine)))


def _separable(channels: int, kernel: int, stride: int, affine: bool) -> nn.Module:
    def depthwise(stride: int) -> nn.Conv2d:
        return nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)

    def pointwise() -> nn.Conv2d:
        return nn.Conv2d(channels, channels, 1, bias=False)

    return nn.Sequential(
        OrderedDict(
            relu1=nn.ReLU(),
            depthwise1=depthwise(stride),
            pointwise1=pointwise(),
            norm1=batch_norm(channels, affine),
            relu2=nn.ReLU(),
            depthwise2=depthwise(1),
            pointwise2=pointwise(),
            norm2=batch_norm(channels, affine),
        )
    )


@register_op("sep_conv_3x3")
def sep_conv_3x3(channels: int, stride: int, affine: bool) -> nn.Module:
    return _separable(channels, 3, stride, affine)


@register_op("sep_conv_5x5")
def sep_conv_5x5(channels: int, stride: int, affine: bool) -> nn.Module:
    return _separable(channels, 5, stride, affine)


@register_op("sep_conv_7x7")
def sep_conv_7x7(channels: int, stride: int, affine: bool) -> nn.Module:
    return _separable(channels, 7, stride, affine)


def _dilated(channels: int, kernel: int, stride: int, affine: bool) -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            relu=nn.ReLU(),
            depthwise=nn.Conv2d(channels, channels, kernel, stride, kernel - 1, 2, groups=channels, bias=False),
            pointwise=nn.Conv2d(channels, channels, 1, bias=False),
            norm=batch_norm(channels, affine),
        )
    )


@register_op("dil_conv_3x3")
def dil_conv_3x3(channels: int, stride: int, affine: bool) -> nn.Module:
    return _dilated(channels, 3, stride, affine)


@register_op("dil_conv_5x5")
def dil_conv_5x5(channels: int, stride: int, affine: bool) -> nn.Module:
    return _dilated(channels, 5, stride, affine)


@register_op("conv_7x1_1x7")
def conv_7x1_1x7(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Sequential(
        OrderedDict(
            relu=nn.ReLU(),
            wide=nn.Conv2d(channels, channels, (1, 7), (1, stride), (0, 3), bias=False),
            high=nn.Conv2d(channels, channels, (7, 1), (stride, 1), (3, 0), bias=False),
            norm=batch_norm(channels, affine),
        )
    )


@register_op("nor_conv_1x1")
def nor_conv_1x1(channels: int, stride: int, affine: bool) -> nn.Module:
    return ReluConvNorm(channels, channels, 1, stride, affine)


@register_op("nor_conv_3x3")
def nor_conv_3x3(channels: int, stride: int, affine: bool) -> nn.Module:
    return ReluConvNorm(channels, channels, 3, stride, affine)
