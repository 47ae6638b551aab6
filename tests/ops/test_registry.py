"""Registration, and what every registered operation must do."""

import pytest
import torch
from torch import nn

from ops import build_op, list_ops, register_op
from ops.registry import OPERATIONS


@pytest.mark.parametrize("name", list_ops())
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 1)])
def test_every_operation_keeps_channels_and_divides_the_size(name: str, stride: int, size: tuple[int, int]) -> None:
    state = torch.randn(3, 4, *size)
    result = build_op(name, channels=4, stride=stride, affine=True)(state)
    assert result.shape == (3, 4, -(-size[0] // stride), -(-size[1] // stride))
    assert result.isfinite().all()


@pytest.mark.parametrize("name", list_ops())
def test_affine_says_whether_batch_norms_have_weights(name: str) -> None:
    for affine in (True, False):
        module = build_op(name, channels=4, stride=2, affine=affine)
        norms = [norm for norm in module.modules() if isinstance(norm, nn.BatchNorm2d)]
        assert all((norm.weight is not None) == affine for norm in norms)


def test_batch_statistics_are_used_in_evaluation_too() -> None:
    module = build_op("sep_conv_3x3", channels=4, stride=1, affine=False, batch_statistics=True)
    state = 5 + torch.randn(8, 4, 6, 6)
    assert torch.equal(module.train()(state), module.eval()(state))
    assert not list(module.buffers())


def test_factorised_reduction_sees_every_pixel_of_an_odd_image() -> None:
    """The shifted grid is padded on the right and the bottom: no pixel is lost, none is wrapped around."""
    module = build_op("skip_connect", channels=2, stride=2, affine=False).eval()
    state = torch.ones(1, 2, 5, 5, requires_grad=True)
    with torch.no_grad():
        module.even.weight.fill_(1)
        module.shifted.weight.fill_(1)
    result = module(state)
    even, shifted = result[0]
    assert torch.equal(even, even.new_full((3, 3), even[0, 0].item()))
    assert torch.equal(shifted[2], torch.zeros(3)) and torch.equal(shifted[:, 2], torch.zeros(3))
    seen = torch.autograd.grad(result.sum(), state)[0][0, 0] != 0
    expected = torch.tensor([[(row + column) % 2 == 0 and row % 2 == column % 2 for column in range(5)] for row in range(5)])
    assert torch.equal(seen, expected)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown operation 'sep_conv_9x9'; did you mean sep_conv_.x.\? known: avg_"):
        build_op("sep_conv_9x9", channels=4, stride=1)
    with pytest.raises(ValueError, match="stride must be 1 or 2, not 3"):
        build_op("none", channels=4, stride=3)
    with pytest.raises(ValueError, match="channels must be at least 1, not 0"):
        build_op("none", channels=0, stride=1)
    with pytest.raises(ValueError, match="'skip_connect' is registered already"):
        register_op("skip_connect")(lambda channels, stride, affine: nn.Identity())
    with pytest.raises(ValueError, match="use letters, digits and underscores only"):
        register_op("my op")


def test_a_factory_that_returns_no_module_is_refused() -> None:
    with OPERATIONS.temporarily(), pytest.raises(ValueError, match="its factory returned NoneType"):
        register_op("wrong")(lambda channels, stride, affine: None)  # type: ignore[arg-type,return-value]
        build_op("wrong", channels=4, stride=1)
