"""Functional ANOVA, Shapley effects, SHAP and operation importance of a score that is known for
every architecture.

`values` is float64 of shape (k_1, ..., k_d): its element at (x_1, ..., x_d) is the score A(x) of the
architecture with the option x_i in slot i. All architectures count alike: the distribution is
uniform, and the slots are independent. Then A is the sum over all subsets U of the slots of

    f_U(x_U) = E[A | x_U] - sum over T in U, T != U, of f_T(x_T),

and the f_U are orthogonal: the variance V of A is the sum of V_U = E[f_U^2] over all U that are not
empty (functional ANOVA: Hoeffding 1948; Hutter, Hoos & Leyton-Brown 2014, section 3). Everything
here is exact, by sums over all 2^d subsets.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

Slots = frozenset[int]
"""A subset U of the slots, by their numbers."""


def effects(values: np.ndarray) -> Iterator[tuple[Slots, np.ndarray]]:
    """Yields each subset U of the slots, the empty one included, with f_U: an array of as many axes
    as `values`, of length 1 along the slots outside U."""

    def split(part: np.ndarray, slot: int, chosen: Slots) -> Iterator[tuple[Slots, np.ndarray]]:
        if slot == part.ndim:
            yield chosen, part
            return
        mean = part.mean(slot, keepdims=True)
        yield from split(mean, slot + 1, chosen)
        yield from split(part - mean, slot + 1, chosen | {slot})

    return split(np.asarray(values, np.float64), 0, frozenset())


def anova(values: np.ndarray) -> dict[Slots, float]:
    """Returns the variance V_U of every subset U of the slots that is not empty, in the square of
    the unit of `values`; their sum is the variance of `values`."""
    return {chosen: float((part**2).mean()) for chosen, part in effects(values) if chosen}


def by_order(variances: Mapping[Slots, float]) -> np.ndarray:
    """Returns the share of V that the interactions of each order have: [d], of single slots first."""
    shares = np.zeros(max(map(len, variances)))
    for chosen, share in _shares(variances).items():
        shares[len(chosen) - 1] += share
    return shares


def main_effects(values: np.ndarray) -> np.ndarray:
    """Returns the share V_{i} / V that each slot has by itself: [d].

    Raises ValueError where all values are equal.
    """
    return _gathered(values, lambda chosen: float(len(chosen) == 1))


def total_effects(values: np.ndarray) -> np.ndarray:
    """Returns the share of V that each slot takes part in, the sum of V_U / V over all U with the
    slot: [d]. The sum over the slots is 1 or more.

    Raises ValueError where all values are equal.
    """
    return _gathered(values, lambda chosen: 1.0)


def shapley_effects(values: np.ndarray) -> np.ndarray:
    """Returns the Shapley effect of each slot as a share of V, the sum of V_U / (|U| V) over all U
    with the slot (Owen 2014): [d], of sum 1.

    Raises ValueError where all values are equal.
    """
    return _gathered(values, lambda chosen: 1 / len(chosen))


def marginal_means(values: np.ndarray) -> list[np.ndarray]:
    """Returns, for each slot, the mean of the architectures with each of its options:
    E[A | x_i], [k_i]."""
    values = np.asarray(values, np.float64)
    return [values.mean(tuple(other for other in range(values.ndim) if other != slot)) for slot in range(values.ndim)]


def additive(values: np.ndarray) -> np.ndarray:
    """Returns the additive explanation of `values`, of their shape: the mean, and the main effect of
    each slot. No sum of terms of single slots is nearer to `values` in the mean square."""
    return sum((part for chosen, part in effects(values) if len(chosen) <= 1), np.zeros_like(values, np.float64))


def shap(values: np.ndarray, index: Sequence[int]) -> np.ndarray:
    """Returns the Shapley value of each slot of the architecture `index`, against an architecture
    drawn at random (SHAP, Lundberg & Lee 2017, equation 4): [d], in the unit of `values`.

    With v(U) = E[A | x_U = index_U], the value of slot i is the sum over all U without i of
    |U|! (d - |U| - 1)! / d! (v(U + i) - v(U)). The f_U(index_U) are the dividends of this game, of
    which each member of U has an equal part. The sum is A(index) minus the mean of `values`.
    """
    found = np.zeros(np.ndim(values))
    for chosen, part in effects(values):
        place = tuple(one if slot in chosen else 0 for slot, one in enumerate(index))
        for slot in chosen:
            found[slot] += part[place] / len(chosen)
    return found


def ablation_path(values: np.ndarray, base: Sequence[int], index: Sequence[int]) -> list[tuple[int, float]]:
    """Returns the greedy path from the architecture `base` to that at `index`: (slot, score) of each
    step.

    At each step the slot whose option of `index` gives the highest score is changed, of equals the
    first (Fawcett & Hoos 2016, ablation analysis). Slots in which the two are equal are not on it.
    """
    now, path = list(base), []
    while missing := [slot for slot, (one, other) in enumerate(zip(now, index, strict=True)) if one != other]:
        scores = [float(values[(*now[:slot], index[slot], *now[slot + 1 :])]) for slot in missing]
        step = int(np.argmax(scores))
        now[missing[step]] = index[missing[step]]
        path.append((missing[step], scores[step]))
    return path


def operation_importance(values: np.ndarray) -> np.ndarray:
    """Returns the operation importance of every slot of every architecture: [k_1, ..., k_d, d], in
    the unit of `values`.

    It is the mean of A(x) - A(y) over the neighbours y of x, the architectures with another option
    in that slot alone (Wan et al. 2022, section 4). A slot with one option has no neighbours, and
    NaN.
    """
    values = np.asarray(values, np.float64)
    found = np.full((*values.shape, values.ndim), np.nan)
    for slot, options in enumerate(values.shape):
        if options > 1:
            # The mean of the others is (k * mean - A) / (k - 1).
            found[..., slot] = (values - values.mean(slot, keepdims=True)) * options / (options - 1)
    return found


def ranks(values: np.ndarray) -> np.ndarray:
    """Returns the rank of each value, of the shape of `values`: the percentage of all values that
    are below it, and half of those that are equal, itself included. The mean is 50."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    below = np.cumsum(counts) - counts
    return (100 * (below + counts / 2) / counts.sum())[place].reshape(np.shape(values))


def _shares(variances: Mapping[Slots, float]) -> dict[Slots, float]:
    whole = sum(variances.values())
    return {chosen: variance / whole for chosen, variance in variances.items()}


def _gathered(values: np.ndarray, weight: Callable[[Slots], float]) -> np.ndarray:
    """Returns, for each slot, the sum over all U with the slot of `weight(U)` times the share of
    V_U."""
    if np.min(values) == np.max(values):  # rounding would leave a variance, and shares of it
        raise ValueError("all values are equal, so that no slot has an effect")
    found = np.zeros(np.ndim(values))
    for chosen, share in _shares(anova(values)).items():
        found[list(chosen)] += weight(chosen) * share
    return found
