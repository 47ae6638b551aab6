"""Ensembles of networks that predict numbers."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retrain.evaluation.ensemble import ROUNDS
from retrain.evaluation.ensemble_of_numbers import average_numbers, fitted_to_numbers, greedy_for_numbers


def error(weights: torch.Tensor, outputs: torch.Tensor, targets: torch.Tensor) -> float:
    return (average_numbers(outputs, weights) - targets).square().mean().item()


def test_the_average_is_the_mean() -> None:
    outputs = torch.randn(3, 5, 2)
    torch.testing.assert_close(average_numbers(outputs), outputs.double().mean(0))
    weights = torch.tensor([0.5, 0.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(average_numbers(outputs, weights), (outputs[0].double() + outputs[2].double()) / 2)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32), networks=st.integers(2, 4), images=st.integers(2, 40))
def test_no_other_weights_have_a_smaller_error(seed: int, networks: int, images: int) -> None:
    drawn = torch.Generator().manual_seed(seed)
    targets = torch.randn(images, 2, generator=drawn)
    outputs = targets + torch.randn(networks, images, 2, generator=drawn)
    weights = fitted_to_numbers(outputs, targets)
    assert weights.min() >= 0 and weights.sum().item() == pytest.approx(1)
    least = error(weights, outputs, targets)
    shares = torch.rand(200, networks, generator=drawn, dtype=torch.float64)
    others = [*torch.eye(networks, dtype=torch.float64), *(shares / shares.sum(1, keepdim=True))]
    assert all(error(other, outputs, targets) >= least - 1e-6 for other in others)


def test_weights_of_opposite_errors_cancel() -> None:
    """Errors of 1 and -3 cancel with weights of 3/4 and 1/4; equal networks have equal weights."""
    targets = torch.zeros(6, 1)
    outputs = torch.stack([targets + 1, targets - 3])
    assert fitted_to_numbers(outputs, targets).tolist() == pytest.approx([0.75, 0.25], abs=1e-4)
    noise = torch.randn(6, 1)
    assert fitted_to_numbers(torch.stack([noise, noise]), targets).tolist() == pytest.approx([0.5, 0.5])


def test_a_greedy_selection_by_hand() -> None:
    """Of errors 1 and -3 the first is taken, and again, until the other makes the mean smaller."""
    targets = torch.zeros(4, 1)
    outputs = torch.stack([targets + 1, targets - 3, targets + 5])
    assert greedy_for_numbers(outputs, targets, rounds=1).tolist() == [1, 0, 0]
    assert greedy_for_numbers(outputs, targets, rounds=4).tolist() == [0.75, 0.25, 0]
    found = greedy_for_numbers(outputs, targets)
    assert found.sum().item() == pytest.approx(1) and (ROUNDS * found).round().tolist() == pytest.approx(
        (ROUNDS * found).tolist()
    )
