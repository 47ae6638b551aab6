"""The mix and its backward pass against their references in float64, and against torch's autograd."""

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ops.kernels.launch import INTERPRETED, runs_kernel
from ops.kernels.mix import mix, mix_gradient, mix_gradient_reference, mix_reference, mix_sums, mix_sums_reference
from ops.kernels.pool import AVERAGE, IDENTITY, MAXIMUM, pool, pool_backward
from ops.kernels.statistics import norm_gradient_reference, statistics_reference

pytestmark = pytest.mark.skipif(not (INTERPRETED or torch.cuda.is_available()), reason="Triton is not installed")

few_examples = settings(settings.get_profile("kernels"))
shapes = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.sampled_from((16, 32, 48, 64, 128)))

ENTRIES = [(2, 3, 1), (3, 0, 0), (0, 5, 0), (4, 1, 0), (1, 4, 1), (2, 2, 0), (0, 3, 1)]
"""Of three maps, normalised and not, and of two states: all that an entry may be, and some maps twice."""


def table(*rows: tuple[int, ...] | int, device: str) -> Tensor:
    return torch.tensor(rows, dtype=torch.int32, device=device)


def assert_near(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Errors are judged by the largest value expected."""
    actual, expected = actual.cpu().double(), expected.cpu().double()
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * max(float(expected.abs().max()), 1e-3))


def made_node(size: tuple[int, ...], device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Three maps; three states, the last one of NaN, to be written; the maps' statistics, their means far from 0; weights."""
    torch.manual_seed(0)
    channels = size[-1]
    stats = torch.stack((torch.randn(3, channels) + 5, torch.rand(3, channels) + 0.5, torch.full((3, channels), torch.nan)), 1)
    maps = torch.randn(3, *size) + stats[:, 0].view(3, 1, 1, 1, channels)
    states = torch.randn(3, *size)
    states[2] = torch.nan
    return maps.to(device, dtype), states.to(device, dtype), stats.to(device), torch.randn(2, 3, device=device)


def on_cpu(*tensors: Tensor) -> list[Tensor]:
    return [tensor.cpu().double() for tensor in tensors]


@few_examples
@given(size=shapes, length=st.integers(1, len(ENTRIES)))
def test_a_node_is_the_weighted_sum_of_its_entries(place, size, length):
    maps, states, stats, weights = made_node(size, place.device, place.dtype)
    out = states[2]
    assert runs_kernel(out)
    mix(maps, states[:2], stats, weights, table(*ENTRIES[:length], device=place.device), out)
    expected = torch.empty(size, dtype=torch.double)
    mix_reference(*on_cpu(maps, states[:2], stats, weights), table(*ENTRIES[:length], device="cpu"), expected)
    assert_near(out, expected, place.tolerance)


def test_a_node_may_have_no_states(place):
    maps, states, stats, weights = made_node((1, 3, 3, 16), place.device, place.dtype)
    mix(maps, states[:0], stats, weights, table((1, 0, 0), device=place.device), states[2])
    assert_near(states[2], weights[0, 0].double().cpu() * maps[1].double().cpu(), place.tolerance)


@few_examples
@given(size=shapes, length=st.integers(1, len(ENTRIES)), parts=st.integers(1, 3))
def test_sums_are_those_of_the_reference(place, size, length, parts):
    maps, states, stats, _ = made_node(size, place.device, place.dtype)
    gradient = torch.randn(size).to(place.device, place.dtype)
    sums = torch.full((length, parts, 2, size[-1]), torch.nan, device=place.device)
    assert runs_kernel(gradient)
    mix_sums(gradient, maps, states[:2], stats, table(*ENTRIES[:length], device=place.device), sums)
    expected = torch.empty(length, 1, 2, size[-1], dtype=torch.double)
    mix_sums_reference(*on_cpu(gradient, maps, states[:2], stats), table(*ENTRIES[:length], device="cpu"), expected)
    assert_near(sums.sum(1), expected.sum(1), 1e-5)


def test_sums_over_many_tiles_are_those_of_the_reference(place):
    maps, states, stats, _ = made_node((2, 47, 33, 16), place.device, place.dtype)
    gradient = torch.randn(2, 47, 33, 16).to(place.device, place.dtype)
    sums = torch.full((len(ENTRIES), 3, 2, 16), torch.nan, device=place.device)
    mix_sums(gradient, maps, states[:2], stats, table(*ENTRIES, device=place.device), sums)
    expected = torch.empty(len(ENTRIES), 1, 2, 16, dtype=torch.double)
    mix_sums_reference(*on_cpu(gradient, maps, states[:2], stats), table(*ENTRIES, device="cpu"), expected)
    assert_near(sums.sum(1), expected.sum(1), 1e-5)
    assert (sums[:, :, 0] != 0).all()  # each part had pixels


@few_examples
@given(size=shapes)
def test_gradients_are_those_of_the_reference(place, size):
    torch.manual_seed(0)
    rows = [(1, 2, 0), (0, 0, -1), (1, 1, 2), (0, 3, 2), (0, 1, 1)]
    starts = (0, 2, 2, 5)  # the second output gets nothing: it is 0
    gradients = torch.randn(2, *size).to(place.device, place.dtype)
    maps = torch.randn(3, *size).to(place.device, place.dtype)
    coefficients = torch.randn(4, 3, size[-1], device=place.device)
    out = torch.full_like(maps, torch.nan)
    assert runs_kernel(out)
    at = {"device": place.device}
    mix_gradient(gradients, maps, coefficients, table(*rows, **at), table(*starts, **at), out)
    expected = torch.empty(maps.shape, dtype=torch.double)
    mix_gradient_reference(
        *on_cpu(gradients, maps, coefficients), table(*rows, device="cpu"), table(*starts, device="cpu"), expected
    )
    assert_near(out, expected, place.tolerance)
    assert (out[1] == 0).all()


def test_two_nodes_of_pools_and_a_skip_have_the_gradients_of_autograd(place):
    torch.manual_seed(0)
    size = batch, height, width, channels = 3, 7, 6, 16
    state = torch.randn(1, *size).to(place.device, place.dtype)
    weights = torch.rand(2, 3).to(place.device)
    gradients = torch.randn(2, *size).to(place.device, place.dtype)
    nodes, state_gradient, weight_gradient = autograd_of_two_nodes(state, weights, gradients)

    def floats(*shape: int) -> Tensor:
        return torch.full(shape, torch.nan, device=place.device)

    at = {"device": place.device}
    maps, partial, stats = state.new_empty(2, *size), floats(2, 2, 3, channels), floats(2, 3, channels)
    index = torch.empty(1, *size, dtype=torch.uint8, device=place.device)
    pool(state, table((0, MAXIMUM), (0, AVERAGE), **at), 1, maps, index, partial)
    statistics_reference(partial, stats)
    sums, out = floats(6, 2, 2, channels), torch.full_like(gradients, torch.nan)
    entries = table((0, 0, 1), (1, 1, 1), (2, 2, 0), (0, 3, 1), (1, 4, 1), (2, 5, 0), **at)
    for node in range(2):
        mine = slice(3 * node, 3 * node + 3)
        mix(maps, state, stats, weights, entries[mine], out[node])
        mix_sums(gradients[node], maps, state, stats, entries[mine], sums[mine])
    coefficients, mixing_gradient = floats(6, 3, channels), floats(2, 3)
    norm_gradient_reference(sums, stats, weights, entries, batch * height * width, True, coefficients, mixing_gradient)
    entering, back = state.new_empty(3, *size), torch.zeros_like(state)
    rows = table((0, 0, 0), (1, 3, 0), (0, 1, 1), (1, 4, 1), (0, 2, -1), (1, 5, -1), **at)
    mix_gradient(gradients, maps, coefficients, rows, table(0, 2, 4, 6, **at), entering)
    rows = table((0, MAXIMUM, 0), (1, AVERAGE, 0), (2, IDENTITY, 0), **at)
    pool_backward(entering, index, rows, table(0, 3, **at), 1, back)

    assert_near(out, nodes, place.tolerance)
    assert_near(back[0], state_gradient, place.tolerance)
    assert_near(mixing_gradient, weight_gradient, place.tolerance)


def autograd_of_two_nodes(state: Tensor, weights: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes [2, B, H, W, C], and the gradients of state and weights, by torch in float64."""
    leaf, mixing, incoming = on_cpu(rearrange(state[0], "b h w c -> b c h w"), weights, gradients)
    leaf.requires_grad_()
    mixing.requires_grad_()
    pooled = F.max_pool2d(leaf, 3, 1, 1), F.avg_pool2d(leaf, 3, 1, 1, count_include_pad=False)
    branches = [F.batch_norm(values, None, None, training=True) for values in pooled]
    nodes = torch.einsum("nk,kbchw->nbhwc", mixing, torch.stack([*branches, leaf]))
    state_gradient, weight_gradient = torch.autograd.grad(nodes, (leaf, mixing), incoming)
    return nodes.detach(), rearrange(state_gradient, "b c h w -> b h w c"), weight_gradient
