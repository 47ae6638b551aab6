"""The stencil against its reference in float64, over shapes, strides, kernels, and edges of all kinds."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ops.kernels.statistics import statistics
from ops.kernels.stencil import stencil, stencil_reference
from ops.mixing import EPSILON

BRANCHES = [(0, 3, 1), (0, 5, 1), (0, 3, 2), (0, 5, 2)]
"""Input, k and dilation of what leaves a source in the DARTS space."""


def pack(branches: Sequence[tuple[int, int, int]], channels: int) -> tuple[Tensor, Tensor]:
    """Packed weights and the table of `branches` (input, k, dilation)."""
    rows, size = [], 0
    for index, kernel, dilation in branches:
        pointwise = size + channels * kernel**2
        rows.append((index, kernel, dilation, size, pointwise))
        size = pointwise + channels**2
    return torch.randn(size) / 4, torch.tensor(rows, dtype=torch.int32)


def check(
    inputs: Tensor,
    norm: Tensor | None,
    branches: Sequence[tuple[int, int, int]],
    stride: int,
    parts: int,
    tolerance: float = 1e-5,
) -> None:
    """That every element of `out` and `partial` is written and is what the reference gives in float64."""
    device = inputs.device
    _, batch, height, width, channels = inputs.shape
    weights, table = (tensor.to(device) for tensor in pack(branches, channels))
    shape = len(branches), batch, -(-height // stride), -(-width // stride), channels
    out = torch.full(shape, float("nan"), dtype=inputs.dtype, device=device)
    partial = torch.full((len(branches), parts, 3, channels), float("nan"), device=device)
    expected = torch.empty(shape, dtype=torch.float64, device=device)
    precise = None if norm is None else norm.double()

    stencil(inputs, norm, weights, table, stride, out, partial)
    stencil_reference(inputs.double(), precise, weights.double(), table, stride, expected, partial.double())

    assert (out.double() - expected).abs().max() <= tolerance * expected.abs().max()
    count, mean, squares = (part.squeeze(2) for part in partial.double().split(1, 2))
    values = out.double().flatten(1, 3)
    total = count.sum(1)
    assert (total == values.shape[1]).all()
    combined = (count * mean).sum(1) / total
    deviation = (squares + count * (mean - combined[:, None]) ** 2).sum(1)
    scale = float(values.abs().max())
    torch.testing.assert_close(combined, values.mean(1), rtol=1e-5, atol=1e-6 * scale)
    torch.testing.assert_close(deviation, values.var(1, correction=0) * total, rtol=1e-4, atol=1e-6 * scale**2)


def make_norm(maps: int, channels: int, device: str = "cpu") -> Tensor:
    return torch.stack((torch.randn(maps, channels), torch.rand(maps, channels) + 0.5, torch.rand(maps, channels)), 1).to(
        device
    )


@settings(settings.get_profile("kernels"))
@given(
    batch=st.integers(1, 3),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.sampled_from([16, 32, 48, 64]),
    stride=st.sampled_from([1, 2]),
    normalise=st.booleans(),
    parts=st.integers(1, 2),
    branches=st.lists(st.sampled_from(BRANCHES), min_size=1, max_size=2),
)
def test_every_shape_matches_the_reference(
    place: Any,
    batch: int,
    height: int,
    width: int,
    channels: int,
    stride: int,
    normalise: bool,
    parts: int,
    branches: list[tuple[int, int, int]],
) -> None:
    inputs = torch.randn(1, batch, height, width, channels, device=place.device).to(place.dtype)
    norm = make_norm(1, channels, place.device) if normalise else None
    check(inputs, norm, branches, stride, parts, place.tolerance)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("normalise", [False, True])
def test_branches_choose_their_inputs(place: Any, normalise: bool, stride: int) -> None:
    branches = [(2, 3, 1), (0, 5, 2), (2, 5, 1), (1, 3, 2)]
    inputs = torch.randn(3, 2, 7, 9, 32, device=place.device).to(place.dtype)
    norm = make_norm(3, 32, place.device) if normalise else None
    check(inputs, norm, branches, stride, 3, place.tolerance)


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_any_kernel_and_dilation(place: Any, kernel: int, dilation: int, stride: int) -> None:
    inputs = torch.randn(1, 1, 6, 11, 16, device=place.device).to(place.dtype)
    check(inputs, None, [(0, kernel, dilation)], stride, 1, place.tolerance)


@pytest.mark.parametrize("channels", [96, 128, 256])
def test_many_channels(place: Any, channels: int) -> None:
    inputs = torch.randn(1, 1, 3, 5, channels, device=place.device).to(place.dtype)
    check(inputs, make_norm(1, channels, place.device), [(0, 3, 1)], 1, 1, place.tolerance)


def test_several_tiles_a_program_and_programs_without_any(place: Any) -> None:
    inputs = torch.randn(1, 2, 33, 37, 16, device=place.device).to(place.dtype)
    check(inputs, None, [(0, 3, 1)], 1, 2, place.tolerance)
    check(inputs, None, [(0, 3, 1)], 2, 9, place.tolerance)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("pixels", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)])
def test_the_cut_into_tiles_does_not_show(place: Any, monkeypatch: pytest.MonkeyPatch, pixels: int, stride: int) -> None:
    monkeypatch.setattr("ops.kernels.stencil._shape", lambda *_: (16, pixels, 16, 4))
    inputs = torch.randn(1, 2, 7, 9, 32, device=place.device).to(place.dtype)
    check(inputs, make_norm(1, 32, place.device), BRANCHES, stride, 1, place.tolerance)


def test_tiles_that_lie_outside_the_map_count_for_nothing(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A strip of a dilation of 3 reaches beyond a map of one column."""
    monkeypatch.setattr("ops.kernels.stencil._shape", lambda *_: (16, 2, 16, 4))
    inputs = torch.randn(1, 11, 2, 1, 16, device=place.device).to(place.dtype)
    check(inputs, None, [(0, 3, 3)], 1, 5, place.tolerance)


def test_padding_is_zero_after_the_relu(place: Any) -> None:
    """A mean below zero would make a padded input positive, were it padded before the batch norm."""
    inputs = torch.zeros(1, 1, 1, 1, 16, device=place.device, dtype=place.dtype)
    norm = torch.tensor([-5.0, 1.0, 1.0], device=place.device)[None, :, None].repeat(1, 1, 16)
    check(inputs, norm, [(0, 3, 1)], 1, 1, place.tolerance)


def test_a_map_that_is_not_finite_stays_so(place: Any) -> None:
    inputs = torch.full((1, 1, 3, 3, 16), float("nan"), device=place.device, dtype=place.dtype)
    weights, table = (tensor.to(place.device) for tensor in pack([(0, 3, 1)], 16))
    out = torch.zeros_like(inputs)
    stencil(inputs, None, weights, table, 1, out, torch.empty(1, 1, 3, 16, device=place.device))
    assert out.isnan().all()


@pytest.mark.parametrize("ratio", [100, 10_000])
def test_statistics_are_those_of_the_stored_map_however_far_from_zero(place: Any, ratio: float) -> None:
    """|mean| / standard deviation of about `ratio`, with a kernel of one tap and a pointwise identity."""
    inputs = (ratio + torch.randn(1, 2, 33, 35, 16, device=place.device)).to(place.dtype)
    weights = torch.cat((torch.ones(16), torch.eye(16).flatten())).to(place.device)
    table = torch.tensor([[0, 1, 1, 0, 16]], dtype=torch.int32, device=place.device)
    out = torch.full_like(inputs, float("nan"))
    partial = torch.full((1, 2, 3, 16), float("nan"), device=place.device)
    stats = torch.empty(1, 3, 16, device=place.device)

    stencil(inputs, None, weights, table, 1, out, partial)
    statistics(partial, stats)

    variance, mean = torch.var_mean(out.double().flatten(0, 3), dim=0, correction=0)
    torch.testing.assert_close(stats[0, 0].double(), mean, rtol=1e-6, atol=0)
    precise = max(1e-4, ratio * torch.finfo(torch.float32).eps)
    torch.testing.assert_close(stats[0, 1].double(), (variance + EPSILON).rsqrt(), rtol=precise, atol=0)
