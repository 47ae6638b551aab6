"""Counting on fake tensors, against what can be said by hand or measured on real ones."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.plain.counting import alive_bytes, launches, saved_bytes
from benchmarks.plain.network import PlainSupernet
from benchmarks.plain.pairing import softmax
from benchmarks.search_step import saved_megabytes
from supernet import get_space


def test_kernels_are_counted_forward_and_backward_and_views_are_none() -> None:
    layer = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    with FakeTensorMode(allow_non_fake_inputs=True):
        images = torch.empty(2, 3, 8, 8)
        counts = launches(lambda: layer(images.transpose(2, 3)[:1].detach()).view(-1).sum().backward())
    forward = {"convolution": 1, "native_batch_norm": 1, "add_": 1, "relu": 1, "sum": 1}  # add_ counts the batches
    backward = {"ones_like": 1, "threshold_backward": 1, "native_batch_norm_backward": 1, "convolution_backward": 1}
    assert counts == forward | backward


def test_the_backward_of_a_convolution_is_a_kernel_for_each_gradient() -> None:
    images, weight, bias = (
        torch.randn(1, 2, 4, 4, requires_grad=True),
        torch.randn(3, 2, 3, 3, requires_grad=True),
        torch.randn(3),
    )
    assert launches(lambda: F.conv2d(images, weight).sum().backward())["convolution_backward"] == 2
    assert launches(lambda: F.conv2d(images, weight, bias.requires_grad_()).sum().backward())["convolution_backward"] == 3
    assert launches(lambda: F.conv2d(images.detach(), weight).sum().backward())["convolution_backward"] == 1


def test_a_custom_op_and_an_optimiser_of_many_tensors_are_one_kernel_each() -> None:
    @torch.library.custom_op("fusenas_test::fill", mutates_args=("out",))
    def fill(out: Tensor) -> None:
        raise AssertionError("never runs on fake tensors")

    fill.register_fake(lambda out: None)
    with FakeTensorMode():
        tensors = [torch.empty(4) for _ in range(5)]
        assert launches(lambda: fill(tensors[0])) == {"fusenas_test.fill": 1}
        assert launches(lambda: torch._foreach_add_(tensors, 1.0)) == {"_foreach_add_": 1}


class Twice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x, x + 1)
        return 2 * x

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        return 2 * gradient


def test_saved_storages_count_once_and_those_of_a_custom_function_too() -> None:
    with FakeTensorMode():
        weight, x = torch.empty(100, requires_grad=True), torch.empty(100)
        assert saved_bytes(lambda: (weight * x).view(10, 10) * x.view(10, 10), [weight]) == 400
        assert saved_bytes(lambda: weight * weight.exp()) == 800
        assert saved_bytes(lambda: Twice.apply(weight), [weight]) == 400


def test_storages_are_alive_from_first_to_last_use_and_views_are_the_same() -> None:
    weight, kept = torch.ones(100), []

    def run() -> None:
        twice = 2 * weight.view(10, 10)
        four = (2 * twice).flatten()
        del twice
        kept.append(four + weight)

    assert alive_bytes(run, [weight]) == (800, 400)
    kept.clear()
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert alive_bytes(run, [weight]) == (800, 400)


def test_fake_tensors_keep_what_real_ones_keep() -> None:
    network, images = PlainSupernet("darts", 4, 3, 10), torch.randn(2, 3, 8, 8)
    real = saved_megabytes(deepcopy(network).double(), images.double()) * len(images) * 1e6
    with FakeTensorMode(allow_non_fake_inputs=True):
        network, images, alphas = network.double(), images.double(), get_space("darts").new_alphas()
        kept = saved_bytes(lambda: network(images, softmax(alphas)), [*network.parameters(), *network.buffers()])
    assert kept == pytest.approx(real)


@pytest.mark.slow
def test_the_plain_network_of_darts_starts_some_sixteen_thousand_kernels() -> None:
    network = PlainSupernet("darts", 16, 8, 10)
    with FakeTensorMode(allow_non_fake_inputs=True):
        network, images = network.to(torch.bfloat16), torch.empty(64, 3, 32, 32, dtype=torch.bfloat16)
        mixture = {kind: torch.empty(14, 8, dtype=torch.bfloat16, requires_grad=True) for kind in ("normal", "reduce")}
        counts = launches(lambda: network(images, mixture).sum().backward())
        kept = saved_bytes(lambda: network(images, mixture), [*network.parameters(), *network.buffers()])
    assert (counts["convolution"], counts["native_batch_norm"], counts["add_"]) == (1395, 929, 929)
    assert counts["mul"] + counts["add"] + counts["sum"] > 6000
    assert 15_000 < counts.total() < 17_000
    assert 55e6 < kept / 64 < 70e6
