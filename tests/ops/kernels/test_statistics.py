"""Statistics of batch norm from parts, the coefficients of its gradient, and taking grouped convolutions apart."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ops.kernels.statistics import (
    collect,
    collect_reference,
    norm_gradient,
    norm_gradient_reference,
    statistics,
    statistics_reference,
)
from ops.mixing import EPSILON

few = settings(settings.get_profile("kernels"), max_examples=6)


def poison(*shape: int, **options: Any) -> Tensor:
    return torch.full(shape, float("nan"), **options)


def part(values: Tensor) -> Tensor:
    """[3, C] of `values` [rows, C]."""
    mean = values.mean(0)
    return torch.stack((torch.full_like(mean, len(values)), mean, (values - mean).square().sum(0)))


@pytest.mark.parametrize("ratio", [0, 1, 100, 10_000])
@pytest.mark.parametrize(("parts", "channels"), [(1, 16), (5, 32), (37, 48)])
def test_combined_statistics_are_those_of_the_whole_batch(place: Any, parts: int, channels: int, ratio: float) -> None:
    values = torch.randn(2, parts, 6, channels, dtype=torch.float64) + ratio
    partial = torch.stack([torch.stack([part(rows) for rows in map]) for map in values]).float().to(place.device)
    stats = poison(2, 3, channels, device=place.device)

    statistics(partial, stats)

    variance, mean = torch.var_mean(values.flatten(1, 2), dim=1, correction=0)
    unbiased = values.flatten(1, 2).var(1)
    torch.testing.assert_close(stats[:, 0].cpu().double(), mean, rtol=1e-5, atol=1e-5)
    # The means of the parts are float32, too.
    precise = max(1e-4, ratio * torch.finfo(torch.float32).eps)
    torch.testing.assert_close(stats[:, 1].cpu().double(), (variance + EPSILON).rsqrt(), rtol=precise, atol=0)
    torch.testing.assert_close(stats[:, 2].cpu().double(), unbiased, rtol=precise, atol=0)


def test_empty_parts_count_for_nothing(place: Any) -> None:
    partial = torch.zeros(1, 7, 3, 16, device=place.device)
    partial[0, 2] = part(torch.randn(4, 16)).to(place.device)
    partial[0, 5] = part(torch.randn(9, 16)).to(place.device)
    stats, expected = poison(1, 3, 16, device=place.device), poison(1, 3, 16, device=place.device)

    statistics(partial, stats)
    statistics_reference(partial[:, [2, 5]], expected)

    torch.testing.assert_close(stats, expected)


def test_the_statistics_of_a_constant_map_are_finite(place: Any) -> None:
    partial = torch.zeros(1, 2, 3, 16, device=place.device)
    partial[0, :, 0], partial[0, :, 1], partial[0, :, 2] = 8, 3, -1e-6  # as rounding may leave it
    stats = poison(1, 3, 16, device=place.device)

    statistics(partial, stats)

    expected = torch.tensor([3, EPSILON**-0.5, 0], device=place.device)
    torch.testing.assert_close(stats[0], expected[:, None].expand(3, 16))


@pytest.mark.parametrize("batch_statistics", [True, False])
@pytest.mark.parametrize(("parts", "channels"), [(1, 16), (5, 48)])
def test_coefficients_of_the_gradient_match_the_reference(
    place: Any, parts: int, channels: int, batch_statistics: bool
) -> None:
    sums = torch.randn(4, parts, 2, channels, device=place.device)
    stats = torch.rand(2, 3, channels, device=place.device) + 0.5
    weights = torch.randn(3, 2, device=place.device)
    # the map of an entry that is not normalised is counted elsewhere
    entries = torch.tensor([[1, 5, 1], [0, -1, 1], [7, 0, 0], [9, -1, 0]], dtype=torch.int32, device=place.device)
    coefficients = poison(4, 3, channels, device=place.device)
    gradient, expected_gradient = torch.full_like(weights, 7), torch.full_like(weights, 7).double()
    expected = poison(4, 3, channels, dtype=torch.float64, device=place.device)

    norm_gradient(sums, stats, weights, entries, 60, batch_statistics, coefficients, gradient)
    norm_gradient_reference(
        sums.double(), stats.double(), weights.double(), entries, 60, batch_statistics, expected, expected_gradient
    )

    torch.testing.assert_close(coefficients.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-5, atol=1e-5)


def test_the_gradient_is_that_of_autograd(place: Any) -> None:
    z = torch.randn(60, 16, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    incoming = torch.randn(60, 16, dtype=torch.float64)
    normalised = torch.nn.functional.batch_norm(z, None, None, training=True, eps=EPSILON)
    (weight * normalised * incoming).sum().backward()
    stats = poison(1, 3, 16, device=place.device)
    statistics(part(z.detach()).float().to(place.device)[None, None], stats)
    sums = torch.stack((incoming.sum(0), (incoming * normalised.detach()).sum(0))).float().to(place.device)
    coefficients = poison(1, 3, 16, device=place.device)
    gradient = poison(1, device=place.device)
    entries = torch.tensor([[0, 0, 1]], dtype=torch.int32, device=place.device)

    norm_gradient(
        sums[None, None], stats, weight.detach().float().to(place.device)[None], entries, 60, True, coefficients, gradient
    )

    c1, c2, c3 = coefficients[0].cpu().double()
    torch.testing.assert_close(c1 * incoming + c2 * z + c3, z.grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(gradient[0].cpu().double(), weight.grad, rtol=1e-5, atol=1e-5)


@few
@given(
    maps=st.integers(1, 3),
    batch=st.integers(1, 3),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    channels=st.sampled_from([16, 32, 48, 64]),
    parts=st.integers(1, 3),
)
def test_collected_maps_are_the_grouped_ones_with_their_statistics(
    place: Any, maps: int, batch: int, height: int, width: int, channels: int, parts: int
) -> None:
    check_collect(torch.randn(batch, height, width, maps * channels, device=place.device).to(place.dtype), maps, parts)


def test_maps_of_either_type_are_collected(place: Any) -> None:
    check_collect(torch.randn(2, 5, 7, 2 * 48, device=place.device).to(place.dtype), 2, 3)


def check_collect(grouped: Tensor, maps: int, parts: int) -> None:
    batch, height, width, channels = *grouped.shape[:3], grouped.shape[3] // maps
    options = {"dtype": grouped.dtype, "device": grouped.device}
    out = poison(maps, batch, height, width, channels, **options)
    partial = poison(maps, parts, 3, channels, device=grouped.device)
    expected = poison(*out.shape, **options)
    expected_partial = poison(maps, parts, 3, channels, dtype=torch.float64, device=grouped.device)

    collect(grouped, out, partial)
    collect_reference(grouped, expected, expected_partial)

    assert out.equal(expected)
    stats = torch.empty(maps, 3, channels, dtype=torch.float64, device=grouped.device)
    expected_stats = torch.empty_like(stats)
    statistics_reference(partial.double(), stats)
    statistics_reference(expected_partial, expected_stats)
    torch.testing.assert_close(stats, expected_stats, rtol=1e-4, atol=1e-5, equal_nan=True)
    assert partial.isfinite().all()


def test_statistics_of_a_map_far_from_zero_are_exact(place: Any) -> None:
    """|mean| / standard deviation of 100, first tile unlike the rest."""
    values = (100 + torch.randn(4, 16, 32, 16)).to(place.dtype)
    values[0, 0] = 0
    out = poison(1, 4, 16, 32, 16, dtype=place.dtype, device=place.device)
    partial = poison(1, 2, 3, 16, device=place.device)
    stats = poison(1, 3, 16, device=place.device)

    collect(values.to(place.device), out, partial)
    statistics(partial, stats)

    variance, mean = torch.var_mean(values.double().flatten(0, 2), dim=0, correction=0)
    torch.testing.assert_close(stats[0, 0].cpu().double(), mean, rtol=1e-6, atol=0)
    torch.testing.assert_close(stats[0, 1].cpu().double(), (variance + EPSILON).rsqrt(), rtol=1e-4, atol=0)
