"""The stencil's backward kernels against their references, and the references against autograd."""

from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ops.kernels import stencil_backward as module
from ops.kernels.statistics import norm_gradient_reference, statistics_reference
from ops.kernels.stencil import stencil_reference
from ops.kernels.stencil_backward import (
    stencil_backward,
    stencil_backward_reference,
    stencil_input_gradient,
    stencil_input_gradient_reference,
)

FORMS = [(3, 1), (5, 2), (5, 1), (3, 2)]
"""k and dilation of the branches, as DARTS has them."""


class Problem(NamedTuple):
    """Arguments of both ops, in float64; branch n reads input n % I; its weights lie in reverse order of the branches."""

    inputs: Tensor
    norm: Tensor | None
    weights: Tensor
    table: Tensor  # [N, 5], as the stencil takes it
    gradients: Tensor  # of the normalised branches
    maps: Tensor
    coefficients: Tensor
    stride: int
    used: Tensor  # bool, like weights: where weights of the table lie


def problem(
    channels: int,
    image: tuple[int, int, int],
    stride: int,
    normalised: bool,
    forms: list[tuple[int, int]] = FORMS,
    inputs: int = 2,
) -> Problem:
    batch, height, width = image
    rows, offset = [], 16  # what lies before and after the weights is nobody's
    for index, (kernel, dilation) in reversed(list(enumerate(forms))):
        pointwise = offset + channels * kernel**2
        rows.insert(0, (index % inputs, kernel, dilation, offset, pointwise))
        offset = pointwise + channels**2
    used = torch.ones(offset + 16, dtype=torch.bool)
    used[:16] = used[offset:] = False
    weights = torch.randn(offset + 16, dtype=torch.float64) / channels**0.5
    out = len(forms), batch, -(-height // stride), -(-width // stride), channels
    norm = torch.randn(inputs, 3, channels, dtype=torch.float64)
    norm[:, 1] = norm[:, 1].abs() + 0.5
    return Problem(
        torch.randn(inputs, *image, channels, dtype=torch.float64),
        norm if normalised else None,
        weights,
        torch.tensor(rows, dtype=torch.int32),
        torch.randn(out, dtype=torch.float64),
        torch.randn(out, dtype=torch.float64),
        torch.randn(len(forms), 3, channels, dtype=torch.float64),
        stride,
        used,
    )


def rounded(place: Any, given: Problem) -> Problem:
    """The problem with values that the maps' type, and float32 for the rest, can hold."""
    return given._replace(
        **{name: getattr(given, name).to(place.dtype).double() for name in ("inputs", "gradients", "maps")},
        **{name: getattr(given, name).float().double() for name in ("weights", "coefficients")},
        norm=None if given.norm is None else given.norm.float().double(),
    )


def on(place: Any, values: Tensor | None, *, map: bool = False) -> Tensor | None:
    return None if values is None else values.to(place.device, place.dtype if map else torch.float32)


def assert_close(place: Any, actual: Tensor, expected: Tensor) -> None:
    """Errors are relative to the largest value."""
    error = (actual.double().cpu() - expected).abs().max() / expected.abs().max().clamp_min(1e-30)
    assert error <= place.tolerance


def backward_table(given: Problem) -> Tensor:
    """Branch n takes gradient, map and coefficients from the end of those there are."""
    turned = torch.arange(len(given.table), dtype=torch.int32).flip(0)
    return torch.cat((torch.stack((turned, turned, turned), 1), given.table), 1)


def check_backward(place: Any, given: Problem, parts: int | None) -> None:
    given = rounded(place, given)
    table, size = backward_table(given), len(given.weights)
    expected = torch.empty_like(given.gradients)
    expected_parts = None if parts is None else torch.zeros(parts, size, dtype=torch.float64)
    stencil_backward_reference(
        given.gradients, given.maps, given.coefficients, given.inputs, given.norm, given.weights, table, given.stride, expected,
        expected_parts,
    )  # fmt: skip
    out = torch.full_like(expected, torch.nan, dtype=place.dtype, device=place.device)
    partial = None if parts is None else torch.full((parts, size), torch.nan, device=place.device)
    stencil_backward(
        on(place, given.gradients, map=True), on(place, given.maps, map=True), on(place, given.coefficients),
        on(place, given.inputs, map=True), on(place, given.norm), on(place, given.weights), table.to(place.device),
        given.stride, out, partial,
    )  # fmt: skip
    assert_close(place, out, expected)
    if parts is not None:
        assert partial[:, ~given.used].isnan().all()
        assert_close(place, partial[:, given.used].sum(0), expected_parts[:, given.used].sum(0))


def check_input_gradient(place: Any, given: Problem, accumulate: bool, parts: int | None) -> None:
    """Inputs have their rows one after the other; the last input gets none where there are fewer branches than inputs."""
    given = rounded(place, given)
    order = given.table[:, 0].argsort(stable=True)
    table = torch.cat((order[:, None], given.table[order][:, 1:4]), 1).int()
    starts = torch.searchsorted(given.table[order, 0].contiguous(), torch.arange(len(given.inputs) + 1)).int()
    before = torch.randn_like(given.inputs).to(place.dtype).double() if accumulate else torch.full_like(given.inputs, torch.nan)
    expected = before.clone()
    stencil_input_gradient_reference(
        given.gradients, given.inputs, given.norm, given.weights, table, starts, given.stride, accumulate, expected, None
    )
    out = on(place, before, map=True).clone()
    shape = len(given.inputs), parts, 2, given.inputs.shape[-1]
    sums = None if parts is None else torch.full(shape, torch.nan, device=place.device)
    stencil_input_gradient(
        on(place, given.gradients, map=True), on(place, given.inputs, map=True), on(place, given.norm),
        on(place, given.weights), table.to(place.device), starts.to(place.device), given.stride, accumulate, out, sums,
    )  # fmt: skip
    assert_close(place, out, expected)
    if sums is not None:
        stored, values = out.double().cpu(), given.inputs
        if given.norm is not None:
            values = (values - given.norm[:, 0, None, None, None]) * given.norm[:, 1, None, None, None]
        exact = torch.stack((stored.sum((1, 2, 3)), (stored * values).sum((1, 2, 3))), 1)
        # The sums are of what was stored, so that rounding of the maps is no part of their error.
        assert_close(place._replace(tolerance=1e-5), sums.sum(1), exact)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("parts", [None, 2])
def test_backward_is_the_references(place: Any, parts: int | None, stride: int, normalised: bool) -> None:
    check_backward(place, problem(16, (2, 7, 5), stride, normalised), parts)


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("accumulate", [False, True])
def test_input_gradient_is_the_references(place: Any, accumulate: bool, stride: int, normalised: bool) -> None:
    check_input_gradient(place, problem(16, (2, 7, 5), stride, normalised), accumulate, parts=2 if normalised else None)


@pytest.mark.parametrize("channels", [32, 48, 64, pytest.param(128, marks=pytest.mark.slow)])
def test_any_multiple_of_16_channels(place: Any, channels: int) -> None:
    given = problem(channels, (1, 3, 4), 1, True, FORMS[:1], inputs=1)
    check_backward(place, given, parts=1)
    check_input_gradient(place, given, False, parts=1)


def test_kernels_of_seven(place: Any) -> None:
    given = problem(16, (1, 6, 9), 1, False, [(7, 1)], inputs=1)
    check_backward(place, given, parts=1)
    check_input_gradient(place, given, False, parts=1)


@settings(settings.get_profile("kernels"))
@given(
    image=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    form=st.sampled_from(FORMS),
    stride=st.sampled_from([1, 2]),
    normalised=st.booleans(),
)
def test_images_of_any_size(
    place: Any, image: tuple[int, int, int], form: tuple[int, int], stride: int, normalised: bool
) -> None:
    given = problem(16, image, stride, normalised, [form], inputs=1)
    check_backward(place, given, parts=1)
    check_input_gradient(place, given, True, parts=1)


def test_one_pixel(place: Any) -> None:
    given = problem(16, (1, 1, 1), 2, True, FORMS[:2], inputs=1)
    check_backward(place, given, parts=1)
    check_input_gradient(place, given, False, parts=1)


@pytest.mark.parametrize("parts", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("stride", [1, 2])
def test_tiles_are_shared_among_the_parts(place: Any, stride: int, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_backward_shape", lambda maps, rows: (16, 16, 16))
    monkeypatch.setattr(module, "_input_gradient_shape", lambda maps, rows: (16, 16))
    given = problem(32, (2, 5, 5), stride, True, [(3, 1)], inputs=1)
    check_backward(place, given, parts)
    check_backward(place, given, None)
    check_input_gradient(place, given, False, parts)


def test_parts_without_a_tile_are_zero(place: Any) -> None:
    given = problem(16, (1, 2, 2), 1, True, [(3, 1)], inputs=1)
    check_backward(place, given, parts=3)
    check_input_gradient(place, given, False, parts=3)


def test_an_input_without_branches_gets_no_gradient(place: Any) -> None:
    given = problem(16, (1, 3, 3), 1, False, [(3, 1)], inputs=2)
    check_input_gradient(place, given, False, None)
    check_input_gradient(place, given, True, None)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("normalised", [False, True])
def test_references_are_what_autograd_finds(normalised: bool, stride: int) -> None:
    """Through ReLU, both convolutions, batch norm and a weight: coefficients, weight gradients, input gradients and sums."""
    given = problem(16, (2, 5, 6), stride, normalised, FORMS[:3], inputs=2)
    table, count = given.table, len(given.table)
    weights, mixing = given.weights.requires_grad_(), torch.randn(count, dtype=torch.float64, requires_grad=True)
    states = given.inputs if given.norm is None else (
        given.inputs - given.norm[:, 0, None, None, None]
    ) * given.norm[:, 1, None, None, None]  # fmt: skip
    states = states.detach().requires_grad_()
    raw, upstream = torch.empty_like(given.maps), given.gradients
    loss = torch.zeros((), dtype=torch.float64)
    for branch, (index, kernel, dilation, depthwise, pointwise) in enumerate(table.tolist()):
        filters = weights[depthwise : depthwise + 16 * kernel**2].view(16, 1, kernel, kernel)
        matrix = weights[pointwise : pointwise + 256].view(16, 16, 1, 1)
        state = rearrange(states[index], "b h w c -> b c h w").relu()
        z = F.conv2d(F.conv2d(state, filters, None, stride, kernel // 2 * dilation, dilation, 16), matrix)
        raw[branch] = rearrange(z.detach(), "b c h w -> b h w c")
        normalised_z = rearrange(F.batch_norm(z, None, None, training=True), "b c h w -> b h w c")
        loss = loss + mixing[branch] * (normalised_z * upstream[branch]).sum()
    loss.backward()

    with torch.no_grad():
        partial, stats = torch.empty(count, 1, 3, 16, dtype=torch.float64), torch.empty(count, 3, 16, dtype=torch.float64)
        maps = torch.empty_like(raw)
        stencil_reference(given.inputs, given.norm, weights, table, stride, maps, partial)
        torch.testing.assert_close(maps, raw)
        statistics_reference(partial, stats)
        normal = (maps - stats[:, 0, None, None, None]) * stats[:, 1, None, None, None]
        sums = torch.stack((upstream.sum((1, 2, 3)), (upstream * normal).sum((1, 2, 3))), 1).unsqueeze(1)
        entries = torch.tensor([(branch, branch, 1) for branch in range(count)], dtype=torch.int32)
        coefficients, mixing_gradient = torch.empty(count, 3, 16, dtype=torch.float64), torch.empty_like(mixing)
        rows = maps[0, ..., 0].numel()
        norm_gradient_reference(sums, stats, mixing, entries, rows, True, coefficients, mixing_gradient)
        torch.testing.assert_close(mixing_gradient, mixing.grad)

        numbers = torch.arange(count, dtype=torch.int32)[:, None]
        dy, weight_parts = torch.empty_like(maps), torch.zeros(2, len(weights), dtype=torch.float64)
        stencil_backward_reference(
            upstream, maps, coefficients, given.inputs, given.norm, weights, torch.cat((numbers, numbers, numbers, table), 1),
            stride, dy, weight_parts,
        )  # fmt: skip
        torch.testing.assert_close(weight_parts.sum(0), weights.grad)

        order = [0, 2, 1]  # branches 0 and 2 read input 0
        into = torch.tensor([(branch, *table[branch, 1:4].tolist()) for branch in order], dtype=torch.int32)
        starts = torch.tensor([0, 2, 3], dtype=torch.int32)
        out, parts = torch.empty_like(given.inputs), torch.empty(2, 2, 2, 16, dtype=torch.float64)
        stencil_input_gradient_reference(dy, given.inputs, given.norm, weights, into, starts, stride, False, out, parts)
        torch.testing.assert_close(out, states.grad)
        torch.testing.assert_close(parts.sum(1)[:, 0], states.grad.sum((1, 2, 3)))
        torch.testing.assert_close(parts.sum(1)[:, 1], (states.grad * states).sum((1, 2, 3)))
