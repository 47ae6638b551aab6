"""Ensembles: from the logits of several networks to the probabilities or the class of all, and the
weights of the networks in them."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from base.checks import InputError

ROUNDS = 50
"""Networks that the greedy selection takes, one after the other; a weight is a multiple of 1 / 50."""
LARGEST_GAP = 1e-6
"""Nats that fitted weights may lie above the least loss."""
_ABSENT = 1e-7  # a weight below it is none


def average_log_probabilities(logits: Tensor, weights: Tensor | None = None) -> Tensor:
    """Returns the logarithm of the weighted mean of the softmax probabilities of K networks.

    `logits` are [K, B, classes], the result is float64 [B, classes]. `weights` [K] are not negative
    and add up to 1; None: all count alike.

    It is itself a logit of the ensemble. Even probabilities of very sure networks do not underflow;
    the order of the networks changes no bit.
    """
    found = logits.double().log_softmax(2)
    if weights is not None:
        kept = weights > 0
        found = found[kept] + weights[kept].double().log()[:, None, None]
    ordered = found.sort(0).values  # floating sums depend on the order
    return ordered.logsumexp(0) - (math.log(len(logits)) if weights is None else 0)


def majority_vote(logits: Tensor) -> Tensor:
    """Returns the class [B] that most of K networks with `logits` [K, B, classes] rank first.

    Among classes with equal votes it is the one with the highest average probability, then the
    first.
    """
    votes = F.one_hot(logits.argmax(2), logits.shape[2]).sum(0)
    fewer = votes < votes.amax(1, keepdim=True)
    return average_log_probabilities(logits).masked_fill(fewer, -math.inf).argmax(1)


def fitted_weights(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the weights, float64 [K], not negative and of sum 1, with the least log loss of the
    weighted mean of the probabilities of K networks.

    `logits` are [K, N, classes], `labels` [N]. The loss is convex in the weights. With g_k the mean
    over the images of network k's probability of the label over the ensemble's, max g - 1 is at
    least as large as the distance to the least loss, which is reached where g_k is 1 for each
    network that has a weight and at most 1 for the others (the conditions of Karush, Kuhn and
    Tucker). Weights start equal, so equal networks keep equal ones.

    Raises InputError where the gap stays above `LARGEST_GAP`.
    """
    from scipy.optimize import minimize  # slow to import

    chances = logits.double().log_softmax(2)[:, torch.arange(len(labels)), labels]
    # A factor that all networks have for an image changes the loss by a constant.
    ratios = (chances - chances.amax(0)).exp()
    count = len(logits)

    def loss(weights: object) -> tuple[float, object]:
        mixed = (torch.as_tensor(weights) @ ratios).clamp_min(1e-300)
        return -mixed.log().mean().item(), -(ratios / mixed).mean(1).numpy()

    found = minimize(
        loss,
        torch.full((count,), 1 / count, dtype=torch.float64).numpy(),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * count,
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1, "jac": lambda weights: 0 * weights + 1},
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    weights = torch.where((given := torch.tensor(found.x)) < _ABSENT, 0, given)
    weights /= weights.sum()
    gap = _gains(weights, ratios).max().item() - 1
    if not gap <= LARGEST_GAP:
        raise InputError(f"the least loss is not found: it may lie {gap:.1e} nats below that of the weights that were found")
    return weights


def _gains(weights: Tensor, ratios: Tensor) -> Tensor:
    """Returns the mean over N images of the ratios [K, N] over their weighted mean, [K]."""
    return (ratios / (weights @ ratios)).mean(1)


def greedy_weights(logits: Tensor, labels: Tensor, rounds: int = ROUNDS) -> Tensor:
    """Returns the weights, float64 [K], by greedy forward selection with replacement (Caruana et
    al., "Ensemble selection from libraries of models", ICML 2004, section 2).

    `logits` are [K, N, classes], `labels` [N]. In each of the rounds the network is taken with which
    the mean of the probabilities of all that were taken has the highest accuracy; of equal ones the
    one with the lowest log loss, then the first: otherwise a network that adds nothing would be
    taken wherever it does no harm. The weights are the shares of the rounds.
    """
    chances = logits.double().softmax(2)
    images = torch.arange(len(labels))
    taken = torch.zeros(len(logits), dtype=torch.float64)
    total = torch.zeros_like(chances[0])
    for _ in range(rounds):
        scores = []
        for one in chances:
            mean = total + one
            scores.append((int((mean.argmax(1) == labels).sum()), mean[images, labels].log().sum().item()))
        best = scores.index(max(scores))
        taken[best] += 1
        total += chances[best]
    return taken / rounds
