"""The architecture gradient against an independent double backward, and against the toy problem's known answer."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from benchmarks.plain.network import PlainSupernet
from benchmarks.plain.pairing import copy_weights, pairs, part, softmax
from benchmarks.plain.second_order import plain_unrolled_gradient
from search.differentiable.bilevel import VirtualStep, first_order, second_order
from supernet import Supernet, get_space
from training.optim import OptimizerConfig, new_optimizer

TINY = {"darts": {"channels": 2, "cells": 3}, "nasbench201": {"channels": 2, "cells": 1}}


@pytest.mark.parametrize("hessian_vector", ["finite", "exact"])
@pytest.mark.parametrize("value", [-1.5, 0.0, 0.5, 2.0, 7.0])
def test_toy_problem(hessian_vector: str, value: float) -> None:
    """L_train = w^2 - 2 a w + a^2, L_valid = a w - 2 a + 1, xi = 0.5: the unrolled gradient is 2 a - 2."""
    a = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    weights = {"w": torch.tensor(1.7, dtype=torch.float64)}
    gradient = second_order(
        lambda w: w["w"] ** 2 - 2 * a * w["w"] + a**2,
        lambda w: a * w["w"] - 2 * a + 1,
        weights,
        [a],
        VirtualStep(rate=0.5),
        hessian_vector,
    )
    torch.testing.assert_close(gradient, [2 * a.detach() - 2], rtol=0, atol=1e-12)


def test_first_order_is_the_gradient_at_the_present_weights() -> None:
    a = torch.tensor(3.0, requires_grad=True)
    unused = torch.tensor(1.0, requires_grad=True)
    assert first_order(a * 1.7 - 2 * a + 1, [a, unused]) == [torch.tensor(1.7) - 2, torch.tensor(0.0)]


class Problem:
    """A tiny supernet in float64 with an optimiser that has momentum, its plain twin, and two batches."""

    def __init__(self, space: str):
        self.network = Supernet(get_space(space), **TINY[space], classes=4).double()
        self.plain = PlainSupernet(space, **TINY[space], classes=4).double()
        self.alphas = {kind: a.detach().double() for kind, a in self.network.space.new_alphas(scale=0.5).items()}
        self.train, self.valid = ((torch.randn(6, 3, 6, 6, dtype=torch.float64), torch.arange(6) % 4) for _ in range(2))
        self.optimizer = new_optimizer(OptimizerConfig(lr=0.05, weight_decay=0.01), self.network.parameters())
        for _ in range(2):
            self.optimizer.zero_grad()
            F.cross_entropy(self.network(self.train[0], softmax(self.alphas)), self.train[1]).backward()
            self.optimizer.step()
        copy_weights(self.network, self.plain)

    def gradient(self, hessian_vector: str, epsilon: float = 0.01) -> dict[str, torch.Tensor]:
        leaves = {kind: alpha.clone().requires_grad_() for kind, alpha in self.alphas.items()}

        def loss(weights, batch):
            statistics = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
            logits = functional_call(self.network, (weights, statistics), (batch[0], softmax(leaves)))
            return F.cross_entropy(logits, batch[1])

        weights = dict(self.network.named_parameters())
        step = VirtualStep.of(self.optimizer, weights)
        assert step.rate == 0.05 and step.momentum == 0.9 and len(step.buffers) == len(weights)
        found = second_order(
            lambda w: loss(w, self.train),
            lambda w: loss(w, self.valid),
            weights,
            list(leaves.values()),
            step,
            hessian_vector,
            epsilon,
        )
        return dict(zip(leaves, found, strict=True))

    def reference(self) -> dict[str, torch.Tensor]:
        """Returns the gradient by an independent double backward through the plain network."""
        momenta = {
            other: part(self.optimizer.state[parameter]["momentum_buffer"], row)
            for parameter, row, other in pairs(self.network, self.plain)
        }
        buffers = [momenta[parameter] for parameter in self.plain.parameters()]
        return plain_unrolled_gradient(
            self.plain, self.alphas, softmax, self.train, self.valid, 0.05, 0.9, buffers, weight_decay=0.01
        )


@pytest.mark.parametrize("space", sorted(TINY))
def test_exact_equals_an_independent_double_backward(space: str) -> None:
    problem = Problem(space)
    expected = problem.reference()
    torch.testing.assert_close(problem.gradient("exact"), expected, rtol=1e-10, atol=1e-10)
    first = first_order(
        F.cross_entropy(
            problem.network(
                problem.valid[0], softmax(leaves := {k: a.clone().requires_grad_() for k, a in problem.alphas.items()})
            ),
            problem.valid[1],
        ),
        list(leaves.values()),
    )
    assert (first[0] - next(iter(expected.values()))).abs().max() > 1e-3, "the second-order term is not small here"


@pytest.mark.parametrize("space", sorted(TINY))
def test_finite_differences_approach_exact(space: str, record_property) -> None:
    """They agree at a tiny step; at the published one kinks of ReLU and max pooling show, which is recorded only."""
    problem = Problem(space)
    exact = problem.gradient("exact")
    torch.testing.assert_close(problem.gradient("finite", epsilon=1e-6), exact, rtol=1e-6, atol=1e-6)
    published = problem.gradient("finite")
    error = max((published[kind] - exact[kind]).abs().max().item() for kind in exact)
    size = max(value.abs().max().item() for value in exact.values())
    record_property("error at the published epsilon", json.dumps({"space": space, "absolute": error, "relative": error / size}))


def test_a_rate_may_be_a_tensor() -> None:
    problem = Problem("nasbench201")
    expected = problem.gradient("finite")
    rate = problem.optimizer.param_groups[0]["lr"] = torch.tensor(0.05, dtype=torch.float64)
    torch.testing.assert_close(problem.gradient("finite"), expected, rtol=1e-12, atol=1e-12)
    assert problem.optimizer.param_groups[0]["lr"] is rate


def test_a_precise_loss_is_for_the_differences_alone() -> None:
    a = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    weights = {"w": torch.tensor(1.7, dtype=torch.float64)}
    seen: list[str] = []

    def loss(name: str):
        def train_loss(w):
            seen.append(name)
            return w["w"] ** 2 - 2 * a * w["w"] + a**2

        return train_loss

    def valid_loss(w):
        return a * w["w"] - 2 * a + 1

    step = VirtualStep(rate=0.5)
    for form in ("finite", "exact"):
        found = second_order(loss("rough"), valid_loss, weights, [a], step, form, precise_train_loss=loss("precise"))
        torch.testing.assert_close(found, [2 * a.detach() - 2], rtol=0, atol=1e-12)
    assert seen == ["rough", "precise", "precise", "rough"]


def test_where_the_validation_loss_is_flat_the_product_is_zero() -> None:
    a = torch.tensor(2.0, requires_grad=True)
    gradient = second_order(
        lambda w: (w["w"] - a) ** 2, lambda w: a**2 + 0 * w["w"], {"w": torch.tensor(1.0)}, [a], VirtualStep(rate=0.5)
    )
    assert gradient == [torch.tensor(4.0)]


def test_a_search_in_second_order_leaves_running_statistics_alone(tmp_path: Path) -> None:
    problem = Problem("darts")
    before = {name: buffer.clone() for name, buffer in problem.network.named_buffers()}
    problem.gradient("finite")
    assert all(torch.equal(buffer, before[name]) for name, buffer in problem.network.named_buffers())
