"""The double backward against a worked example and against finite differences through torch's own optimiser."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.plain.network import CANDIDATES, EDGES, KINDS, PlainSupernet
from benchmarks.plain.second_order import plain_unrolled_gradient, unrolled_gradient

XI, MOMENTUM, DECAY = 0.1, 0.9, 0.03


@pytest.mark.parametrize("a", [-1.0, 0.0, 0.75, 2.0])
def test_the_toy_problem_of_the_paper(a: float) -> None:
    """L_train = w^2 - 2 a w + a^2, L_val = a w - 2 a + 1 (DARTS, figure 2): xi = 0.5: w' = a, and the gradient is 2 a - 2."""
    weights, alphas = {"w": torch.tensor(-2.0)}, {"a": torch.tensor(a)}

    def gradient(xi: float, **options: object) -> float:
        result = unrolled_gradient(
            lambda w, v: w["w"] ** 2 - 2 * v["a"] * w["w"] + v["a"] ** 2,
            lambda w, v: v["a"] * w["w"] - 2 * v["a"] + 1,
            weights,
            alphas,
            xi,
            **options,  # type: ignore[arg-type]
        )
        return result["a"].item()

    assert gradient(0.5) == 2 * a - 2
    assert gradient(0.0) == -4  # first order: w - 2
    # w' = a - 0.5 * (0.5 * 4 + 0.25 * -2) = a - 0.75
    assert gradient(0.5, momentum=0.5, momentum_buffers=[torch.tensor(4.0)], weight_decay=0.25) == 2 * a - 2.75
    assert gradient(0.5, momentum=0.5, momentum_buffers=[None]) == 2 * a - 2


def test_a_weight_without_a_part_in_the_training_loss_takes_no_step() -> None:
    weights, alphas = {"w": torch.tensor(1.0), "idle": torch.tensor(3.0)}, {"a": torch.tensor(2.0), "b": torch.tensor(1.0)}
    result = unrolled_gradient(
        lambda w, a: w["w"] * a["a"],
        lambda w, a: a["a"] * w["idle"] + w["w"],
        weights,
        alphas,
        xi=0.5,
        momentum=0.9,
        momentum_buffers=[None, torch.tensor(7.0)],
        weight_decay=0.1,
    )
    assert result["a"].item() == 3.0 - 0.5
    assert result["b"].item() == 0.0


def relax(alphas: dict[str, Tensor]) -> dict[str, Tensor]:
    return {kind: alpha.softmax(-1) for kind, alpha in alphas.items()}


def validation_loss_after_a_step(
    net: PlainSupernet, alphas: dict[str, Tensor], train: tuple, valid: tuple, buffers: list[Tensor]
) -> float:
    stepped = copy.deepcopy(net).train()
    optimiser = torch.optim.SGD(stepped.parameters(), lr=XI, momentum=MOMENTUM, weight_decay=DECAY)
    for parameter, buffer in zip(stepped.parameters(), buffers, strict=True):
        optimiser.state[parameter]["momentum_buffer"] = buffer.clone()
    F.cross_entropy(stepped(train[0], relax(alphas)), train[1]).backward()
    optimiser.step()
    with torch.no_grad():
        return F.cross_entropy(stepped(valid[0], relax(alphas)), valid[1]).item()


@pytest.mark.parametrize(("space", "cells"), [("darts", 3), ("nasbench201", 1)])
def test_agrees_with_finite_differences(space: str, cells: int) -> None:
    net = PlainSupernet(space, 2, cells, classes=3).double().eval()
    shape = (len(EDGES[space]), len(CANDIDATES[space]))
    alphas = {kind: torch.randn(shape, dtype=torch.float64) for kind in KINDS[space]}
    train, valid = ((torch.randn(4, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 2, 0])) for _ in range(2))
    buffers: list[Tensor] = [0.1 * torch.randn_like(parameter) for parameter in net.parameters()]
    before = copy.deepcopy(net.state_dict())

    def gradient(xi: float) -> dict[str, Tensor]:
        return plain_unrolled_gradient(net, alphas, relax, train, valid, xi, MOMENTUM, buffers, DECAY)

    exact = gradient(XI)
    assert {kind: g.shape for kind, g in exact.items()} == dict.fromkeys(alphas, shape)
    for _ in range(2):
        direction = {kind: torch.randn_like(alpha) for kind, alpha in alphas.items()}
        # A step of 1e-6 already crosses kinks of ReLU and max pooling.
        high, low = (
            validation_loss_after_a_step(net, {k: v + h * direction[k] for k, v in alphas.items()}, train, valid, buffers)
            for h in (1e-7, -1e-7)
        )
        along = sum((exact[kind] * direction[kind]).sum() for kind in exact)
        assert (high - low) / 2e-7 == pytest.approx(float(along), rel=1e-6, abs=1e-8)
    # The second-order part is no rounding error: without a step the gradient is another one.
    first_order = gradient(0.0)
    assert max((exact[kind] - first_order[kind]).abs().max().item() for kind in exact) > 1e-4

    assert not net.training
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(alpha.grad is None and not alpha.requires_grad for alpha in alphas.values())
