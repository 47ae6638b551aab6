"""Ensembles of networks that predict numbers: their mean, and the weights of the networks in it."""

import torch
from torch import Tensor

from base.checks import InputError
from retrain.evaluation.ensemble import LARGEST_GAP, ROUNDS

_ABSENT = 1e-7  # a weight below it is none


def average_numbers(outputs: Tensor, weights: Tensor | None = None) -> Tensor:
    """Returns the weighted mean, float64 [B, numbers], of the outputs [K, B, numbers] of K networks;
    `weights` [K] are not negative and add up to 1; None: all count alike."""
    if weights is None:
        return outputs.double().mean(0)
    return (weights.double()[:, None, None] * outputs.double()).sum(0)


def fitted_to_numbers(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the weights, float64 [K], not negative and of sum 1, with the least mean squared error
    of the weighted mean of K networks (Breiman, "Stacked regressions", 1996, with a sum of 1).

    `outputs` are [K, N, numbers], `targets` [N, numbers], both standardised. The error is convex in
    the weights w: with its gradient g, w . g - min g is at least as large as the distance to the
    least error. Weights start equal, so equal networks keep equal ones.

    Raises InputError where that gap stays above `LARGEST_GAP`.
    """
    from scipy.optimize import minimize  # slow to import

    errors = (outputs.double() - targets.double()).flatten(1)
    # As weights add up to 1, the error of the mean is the mean of the errors.
    products = errors @ errors.T / errors.shape[1]
    count = len(outputs)

    def error(weights: object) -> tuple[float, object]:
        by_product = products @ torch.as_tensor(weights)
        return float(torch.as_tensor(weights) @ by_product), (2 * by_product).numpy()

    found = minimize(
        error,
        torch.full((count,), 1 / count, dtype=torch.float64).numpy(),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * count,
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1, "jac": lambda weights: 0 * weights + 1},
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    weights = torch.where((given := torch.tensor(found.x)) < _ABSENT, 0, given)
    weights /= weights.sum()
    gradient = 2 * products @ weights
    gap = float(weights @ gradient - gradient.min())
    if not gap <= LARGEST_GAP * max(1.0, float(products.diagonal().min())):
        raise InputError(f"the least error is not found: it may lie {gap:.1e} below that of the weights that were found")
    return weights


def greedy_for_numbers(outputs: Tensor, targets: Tensor, rounds: int = ROUNDS) -> Tensor:
    """Returns the weights, float64 [K], by greedy forward selection with replacement (Caruana et
    al., "Ensemble selection from libraries of models", ICML 2004, section 2).

    `outputs` are [K, N, numbers], `targets` [N, numbers], both standardised. In each of the rounds
    the network is taken with which the mean of all that were taken has the least squared error, the
    first of equal ones. The weights are the shares of the rounds.
    """
    errors = (outputs.double() - targets.double()).flatten(1)
    taken, total = torch.zeros(len(outputs), dtype=torch.float64), torch.zeros_like(errors[0])
    for number in range(1, rounds + 1):
        best = int(((total + errors) / number).square().mean(1).argmin())
        taken[best] += 1
        total += errors[best]
    return taken / rounds
