"""The small functions that candidates and banks share."""

import pytest
import torch
import torch.nn.functional as F

from ops.functional import HalvingConv, convolve_halving


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 6, 7, 8, 15, 16, 17])
def test_a_halving_convolution_is_the_strided_one(channels: int, size: int) -> None:
    """Values and gradients in channels_last and float32, where a library's strided kernel is wrong for few channels."""
    state = torch.randn(4, channels, size, size).contiguous(memory_format=torch.channels_last).requires_grad_()
    layer = HalvingConv(channels, 4)
    output = layer(state)
    gradient = torch.randn_like(output)
    found = torch.autograd.grad(output, [state, layer.weight], gradient)
    exact, weight = state.detach().double().contiguous().requires_grad_(), layer.weight.detach().double().requires_grad_()
    # Written with the pixels picked, so that no strided convolution has a part in it.
    expected = torch.einsum("bchw,oc->bohw", exact[:, :, ::2, ::2], weight[:, :, 0, 0])
    torch.testing.assert_close(output, expected.float())
    for one, other in zip(found, torch.autograd.grad(expected, [exact, weight], gradient.double()), strict=True):
        torch.testing.assert_close(one, other.float(), rtol=1e-5, atol=1e-5)
    if channels >= 16:
        torch.testing.assert_close(convolve_halving(state, layer.weight), F.conv2d(state, layer.weight, stride=2))
