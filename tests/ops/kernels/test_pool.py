"""Pools against their references in float64, and against torch's own pools and autograd."""

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ops.kernels.launch import INTERPRETED, runs_kernel
from ops.kernels.pool import AVERAGE, IDENTITY, MAXIMUM, pool, pool_backward, pool_backward_reference, pool_reference
from ops.kernels.statistics import statistics_reference

pytestmark = pytest.mark.skipif(not (INTERPRETED or torch.cuda.is_available()), reason="Triton is not installed")

few_examples = settings(settings.get_profile("kernels"))
shapes = st.tuples(
    st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.sampled_from((16, 32, 48, 64, 128)), st.sampled_from((1, 2))
)


def table(*rows: tuple[int, ...] | int, device: str) -> Tensor:
    return torch.tensor(rows, dtype=torch.int32, device=device)


def assert_near(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Errors are judged by the largest value expected; NaN and infinity have to be where they are expected."""
    actual, expected = actual.cpu().double(), expected.cpu().double()
    finite = expected[expected.isfinite()]
    scale = float(finite.abs().max()) if len(finite) else 1.0
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * max(scale, 1e-3), equal_nan=True)


def run_pool(inputs: Tensor, rows: list[tuple[int, int]], stride: int, parts: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the tensors that `pool` writes: out, index, partial. They start with values that show a forgotten element."""
    _, batch, height, width, channels = inputs.shape
    size = batch, -(-height // stride), -(-width // stride), channels
    out = inputs.new_full((len(rows), *size), torch.nan)
    index = torch.full((sum(kind == MAXIMUM for _, kind in rows), *size), 99, dtype=torch.uint8, device=inputs.device)
    partial = torch.full((len(rows), parts, 3, channels), torch.nan, device=inputs.device)
    assert runs_kernel(inputs)
    pool(inputs, table(*rows, device=inputs.device), stride, out, index, partial)
    return out, index, partial


def reference_pool(inputs: Tensor, rows: list[tuple[int, int]], stride: int) -> tuple[Tensor, Tensor]:
    """Out and index of the reference, in float64 on the CPU."""
    inputs = inputs.cpu().double()
    _, batch, height, width, channels = inputs.shape
    size = batch, -(-height // stride), -(-width // stride), channels
    out = inputs.new_empty((len(rows), *size))
    index = torch.empty((sum(kind == MAXIMUM for _, kind in rows), *size), dtype=torch.uint8)
    pool_reference(inputs, table(*rows, device="cpu"), stride, out, index, inputs.new_empty(len(rows), 1, 3, channels))
    return out, index


def assert_statistics_of(maps: Tensor, partial: Tensor, tolerance: float) -> None:
    """The parts hold mean and variance of `maps` as they are stored, and count each value once."""
    values = maps.cpu().double().flatten(1, 3)
    stats = partial.cpu().double().new_empty(len(partial), 3, partial.shape[-1])
    statistics_reference(partial.cpu().double(), stats)
    assert (partial[:, :, 0].sum(1) == values.shape[1]).all()
    assert_near(stats[:, 0], values.mean(1), tolerance)
    assert_near(stats[:, 1], (values.var(1, correction=0) + 1e-5).rsqrt(), tolerance)


@few_examples
@given(shape=shapes, parts=st.integers(1, 3))
def test_pools_are_those_of_the_reference(place, shape, parts):
    *size, stride = shape
    torch.manual_seed(0)
    inputs = torch.randn(2, *size).to(place.device, place.dtype)
    rows = [(1, MAXIMUM), (0, MAXIMUM), (0, AVERAGE)]
    out, index, partial = run_pool(inputs, rows, stride, parts)
    expected, expected_index = reference_pool(inputs, rows, stride)
    assert_near(out, expected, place.tolerance)
    assert torch.equal(index.cpu(), expected_index)
    assert_statistics_of(out, partial, 1e-5)


# Infinity less infinity, in the statistics.
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("stride", [1, 2])
def test_the_first_of_equals_wins_and_nan_spreads_as_in_torch(place, stride):
    torch.manual_seed(0)
    inputs = torch.randint(0, 3, (1, 2, 7, 8, 16)).to(place.device, place.dtype)
    inputs[0, 0, 2, 3] = inputs[0, 0, 2, 4] = torch.nan
    inputs[0, 1, :5, :5] = -torch.inf
    inputs[0, 1, 6, 7] = torch.inf
    out, index, _ = run_pool(inputs, [(0, MAXIMUM)], stride)
    nchw = rearrange(inputs[0], "b h w c -> b c h w").cpu().float()
    pooled, flat = F.max_pool2d(nchw, 3, stride, 1, return_indices=True)
    assert_near(out[0], rearrange(pooled, "b c h w -> b h w c"), 0)
    line = torch.arange(out.shape[2]).view(-1, 1, 1) * stride - 1 + index[0].cpu().int() // 3
    column = torch.arange(out.shape[3]).view(-1, 1) * stride - 1 + index[0].cpu().int() % 3
    assert torch.equal(line * 8 + column, rearrange(flat, "b c h w -> b h w c"))


def test_statistics_over_many_tiles_are_exact_far_from_zero(place):
    torch.manual_seed(0)
    inputs = (torch.randn(1, 2, 47, 33, 16) + 100).to(place.device, place.dtype)
    out, _, partial = run_pool(inputs, [(0, MAXIMUM), (0, AVERAGE)], 1, parts=3)
    assert (partial[:, :, 0] > 0).all()
    assert_statistics_of(out, partial, 1e-5)


def test_a_part_without_pixels_counts_none(place):
    _, _, partial = run_pool(torch.ones(1, 1, 2, 2, 16).to(place.device, place.dtype), [(0, AVERAGE)], 1, parts=4)
    assert (partial[:, 1:] == 0).all()


@few_examples
@given(shape=shapes)
def test_gradients_are_those_of_the_reference_and_add_up(place, shape):
    batch, height, width, channels, stride = shape
    torch.manual_seed(0)
    size = batch, -(-height // stride), -(-width // stride), channels
    before = torch.randn(3, batch, height, width, channels).to(place.device, place.dtype)
    _, index, _ = run_pool(before, [(2, MAXIMUM), (0, MAXIMUM)], stride)
    gradients = torch.randn(3, *size).to(place.device, place.dtype)
    rows = [(2, MAXIMUM, 1), (0, AVERAGE, 0), (1, AVERAGE, 0), (1, MAXIMUM, 0), (0, IDENTITY if stride == 1 else AVERAGE, 0)]
    starts = (0, 2, 2, 5)  # nothing comes back to the second map
    out, expected = before.clone(), before.cpu().double()
    at = {"device": place.device}
    pool_backward(gradients, index, table(*rows, **at), table(*starts, **at), stride, out)
    pool_backward_reference(
        gradients.cpu().double(), index.cpu(), table(*rows, device="cpu"), table(*starts, device="cpu"), stride, expected
    )
    assert_near(out, expected, place.tolerance)
    assert torch.equal(out[1], before[1])


@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_are_those_of_autograd(place, stride):
    torch.manual_seed(0)
    inputs = torch.randn(1, 2, 7, 6, 16).to(place.device, place.dtype)
    leaf = rearrange(inputs[0].cpu().double(), "b h w c -> b c h w").requires_grad_()
    pooled = F.max_pool2d(leaf, 3, stride, 1), F.avg_pool2d(leaf, 3, stride, 1, count_include_pad=False)
    gradients = torch.randn(2, *rearrange(pooled[0], "b c h w -> b h w c").shape).to(place.device, place.dtype)
    incoming = list(rearrange(gradients.cpu().double(), "n b h w c -> n b c h w"))
    (expected,) = torch.autograd.grad(pooled, leaf, incoming)

    _, index, _ = run_pool(inputs, [(0, MAXIMUM)], stride)
    out = torch.zeros_like(inputs)
    rows = table((0, MAXIMUM, 0), (1, AVERAGE, 0), device=place.device)
    pool_backward(gradients, index, rows, table(0, 2, device=place.device), stride, out)
    assert_near(rearrange(out[0], "b h w c -> b c h w"), expected, place.tolerance)
