"""Margins: the fall of the supernet's score without a part of it, with an interval over batches."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from search.explain.supernets.trained import Candidate, Scores

CONFIDENCE = 0.95
TOLERATED = 0.01
"""The fall of the score, as a share of the whole score, up to which operations are taken away
together: one point of an accuracy of 100%."""


@dataclass(frozen=True)
class Margin:
    """The fall of the score without a part, in the unit of the score; above 0 where it is
    missed."""

    fall: float
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end."""

    @property
    def can_be_left_out(self) -> bool:
        """Returns whether the interval covers 0, or lies below it: nothing says that the part is
        missed."""
        return self.low <= 0


def paired(whole: Scores, without: Scores) -> Margin:
    """Returns the fall from `whole` to `without`, both on the same batches, of which there are two or
    more.

    The interval is that of Student's t over the differences of the batches, weighted by their
    examples: fall +- t(B - 1) s / sqrt(B) for B equal batches.
    """
    from scipy.special import stdtrit  # takes a moment to import

    fall = whole.score - without.score
    falls = whole.parts - without.parts
    weights = whole.counts / whole.counts.sum()
    count = len(falls)
    spread = float(np.sqrt(count / (count - 1) * (weights**2 * (falls - weights @ falls) ** 2).sum()))
    reach = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * spread
    return Margin(fall, fall - reach, fall + reach)


@dataclass(frozen=True)
class Together:
    """Several operations of the derived cells that are taken away at once."""

    candidates: tuple[Candidate, ...]
    margin: Margin
    sum: float
    """Sum of their single margins, which it would be if none stood in for another."""


def in_order(
    order: Sequence[Candidate],
    singles: Callable[[Candidate], float],
    measure: Callable[[Iterable[Candidate]], Margin],
    tolerated: float,
) -> list[Together]:
    """Takes away the operations in that order, one after another, until the score has fallen by more
    than `tolerated`; that last step is among those that are returned."""
    steps: list[Together] = []
    for number in range(1, len(order) + 1):
        gone = tuple(order[:number])
        steps.append(Together(gone, measure(gone), sum(map(singles, gone))))
        if steps[-1].margin.fall > tolerated:
            break
    return steps
