"""Deferred batch norm and the weighted sum against their direct form."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ops.mixing import Branch, DeferredNorm, mix, spread, weighted

MEMORY = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("memory_format", MEMORY)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("tracked", [True, False])
def test_deferred_norm_is_batch_norm_times_weight(memory_format, training: bool, tracked: bool) -> None:
    norm = nn.BatchNorm2d(6, affine=False, track_running_stats=tracked).double().train(training)
    statistics = (torch.zeros(6).double(), torch.ones(6).double()) if tracked else (None, None)
    raw = (3 + torch.randn(4, 6, 5, 3, dtype=torch.float64)).contiguous(memory_format=memory_format)
    upstream = torch.randn_like(raw)
    found = []
    for form in ("deferred", "direct"):
        leaf, weight = raw.clone().requires_grad_(), torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        if form == "deferred":
            result = weighted(Branch(leaf, DeferredNorm(*statistics, training)), weight)
        else:
            result = weight * norm(leaf)
        result.backward(upstream)
        found.append((result.detach(), leaf.grad, weight.grad))
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)
    if tracked:
        torch.testing.assert_close(statistics, (norm.running_mean, norm.running_var))


def test_deferred_norm_can_be_differentiated_twice() -> None:
    raw = torch.randn(2, 3, 4, 4, dtype=torch.float64).contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    norm = DeferredNorm(None, None, True)
    assert torch.autograd.gradgradcheck(lambda r, w: norm(r, w).sin(), (raw, weight))


@settings(max_examples=30, deadline=None)
@given(
    targets=st.integers(1, 5),
    count=st.integers(1, 4),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5), st.integers(1, 5)),
    memory_format=st.sampled_from(MEMORY),
)
def test_spread_is_a_weighted_sum_for_each_target(targets: int, count: int, shape: tuple[int, ...], memory_format) -> None:
    maps = [torch.randn(shape, dtype=torch.float64).contiguous(memory_format=memory_format) for _ in range(count)]
    weights = torch.randn(targets, count, dtype=torch.float64)
    expected = [sum(weight * one for weight, one in zip(row, maps, strict=True)) for row in weights]
    torch.testing.assert_close(spread(maps, weights), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_mix_sums_raw_and_finished_branches(count: int) -> None:
    maps = [torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True) for _ in range(count)]
    weights = [None if number % 2 else torch.rand((), dtype=torch.float64, requires_grad=True) for number in range(count)]
    norm = DeferredNorm(None, None, True)
    branches = [
        Branch(one, norm if number % 3 == 0 and weights[number] is not None else None) for number, one in enumerate(maps)
    ]
    expected = sum(
        branch.map if weight is None else weight * (branch.map if branch.norm is None else norm(branch.map))
        for branch, weight in zip(branches, weights, strict=True)
    )
    before = [one.detach().clone() for one in maps]
    result = mix(branches, weights)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    leaves = [*maps, *(weight for weight in weights if weight is not None)]
    upstream = torch.randn_like(result)
    torch.testing.assert_close(
        torch.autograd.grad(result, leaves, upstream), torch.autograd.grad(expected, leaves, upstream), rtol=1e-12, atol=1e-12
    )
    assert all(torch.equal(one, old) for one, old in zip(maps, before, strict=True)), "the branches are left as they are"
