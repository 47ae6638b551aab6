"""Every bank against the modules of its edges, for every registered operation."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ops import build_op, list_ops
from ops.banks import ChainBank, ModuleBank, PoolBank, ReduceBank, SharedBank, SharedState, SkipBank, make_bank
from ops.mixing import weighted

EDGES = 3


def modules_of(name: str, channels: int, stride: int, batch_statistics: bool = False) -> list[nn.Module]:
    return [build_op(name, channels, stride, affine=False, batch_statistics=batch_statistics).double() for _ in range(EDGES)]


def run_bank(bank, state: Tensor, weights: Tensor) -> list[Tensor]:
    """weight * finished map of every edge."""
    source = SharedState(state)
    if isinstance(bank, SharedBank):
        finished = bank(source)
        return [weight * finished for weight in weights]
    return [weighted(branch, weight) for branch, weight in zip(bank(source, range(EDGES)), weights, strict=True)]


def assert_bank_equals_modules(name: str, channels: int, stride: int, height: int, width: int, batch_statistics: bool) -> None:
    modules = modules_of(name, channels, stride, batch_statistics)
    bank = make_bank(modules)
    if bank is None:
        assert name == "none"
        return
    for training in (True, False):  # the second pass sees the running statistics that the first has moved
        bank.train(training)
        state = torch.randn(2, channels, height, width, dtype=torch.float64)
        weights, target = torch.rand(EDGES, dtype=torch.float64), None
        found = []
        for run in ("bank", "modules"):
            leaf, scale = state.clone().requires_grad_(), weights.clone().requires_grad_()
            torch.manual_seed(1)  # for noise
            if run == "bank":
                outputs = run_bank(bank, leaf, scale)
            else:
                outputs = [s * module.train(training)(leaf) for s, module in zip(scale, modules, strict=True)]
            target = torch.randn(outputs[0].shape, dtype=torch.float64) if target is None else target
            loss = sum((output * target * (edge + 1)).sum() for edge, output in enumerate(outputs))
            gradients = torch.autograd.grad(loss, [leaf, scale], allow_unused=True, retain_graph=True)
            found.append((outputs, gradients, loss))
        (ours, our_gradients, our_loss), (theirs, their_gradients, their_loss) = found
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(our_gradients, their_gradients, rtol=1e-10, atol=1e-10)
        parameters = list(bank.parameters())
        if not parameters:
            continue
        our_weights = torch.autograd.grad(our_loss, parameters)
        for edge, module in enumerate(modules):
            their_weights = torch.autograd.grad(their_loss, list(module.parameters()), retain_graph=True)
            count = len(their_weights)
            # Weights are stacked, or one after the other.
            of_edge = (
                our_weights[edge * count :][:count] if isinstance(bank, ModuleBank) else [stack[edge] for stack in our_weights]
            )
            for ours, reference in zip(of_edge, their_weights, strict=True):
                torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", list_ops())
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("batch_statistics", [False, True])
def test_bank_equals_its_modules(name: str, stride: int, batch_statistics: bool) -> None:
    assert_bank_equals_modules(name, 4, stride, 7, 6, batch_statistics)


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(list_ops()),
    channels=st.sampled_from([2, 4, 6]),
    stride=st.sampled_from([1, 2]),
    height=st.integers(1, 9),
    width=st.integers(2, 9),
)
def test_bank_equals_its_modules_at_any_size(name: str, channels: int, stride: int, height: int, width: int) -> None:
    if stride == 2 and height <= 2 and width <= 2:
        width = 3  # one pixel a channel and two images leave batch norm nothing but rounding errors
    assert_bank_equals_modules(name, channels, stride, height, width, False)


@pytest.mark.parametrize(
    ("name", "stride", "kind"),
    [
        ("skip_connect", 1, SkipBank),
        ("skip_connect", 2, ReduceBank),
        ("max_pool_3x3_bn", 1, PoolBank),
        ("avg_pool_3x3", 2, PoolBank),
        ("sep_conv_5x5", 2, ChainBank),
        ("dil_conv_3x3", 1, ChainBank),
        ("nor_conv_3x3", 1, ChainBank),
        ("noise", 1, ModuleBank),
        ("se", 2, ModuleBank),
        ("self_attention", 1, ModuleBank),
    ],
)
def test_operations_get_the_bank_that_shares_most(name: str, stride: int, kind: type) -> None:
    assert type(make_bank(modules_of(name, 4, stride))) is kind


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, affine=False)),  # bias
        nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4)),  # affine
        nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4, eps=1e-3, affine=False)),
        nn.Sequential(
            nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect", bias=False), nn.BatchNorm2d(4, affine=False)
        ),
        nn.Sequential(nn.GELU(), nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4, affine=False)),
        nn.Sequential(nn.MaxPool2d(3, 1, 1), nn.BatchNorm2d(4)),
    ],
    ids=["bias", "affine", "epsilon", "padding mode", "activation", "affine pool"],
)
def test_what_a_bank_cannot_share_runs_as_modules(module: nn.Module) -> None:
    bank = make_bank([module])
    assert isinstance(bank, ModuleBank)
    state = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(bank(SharedState(state), [0])[0].map, module(state))


def test_users_chain_with_counters_is_shared() -> None:
    """An ordinary BatchNorm2d counts its batches; the bank has no use for the counter."""
    modules = [nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4, affine=False)) for _ in range(2)]
    bank = make_bank(modules)
    assert isinstance(bank, ChainBank)
    state = torch.randn(2, 4, 5, 5)
    for edge, branch in enumerate(bank(SharedState(state), [0, 1])):
        torch.testing.assert_close(branch.norm(branch.map), modules[edge](state))
    torch.testing.assert_close(bank.stacked("2.running_mean")[1], modules[1][2].running_mean)
