"""Rank correlation of scores with a benchmark table."""

import math
from collections.abc import Sequence

import pytest

from search.costs.tabular import TableRow
from search.sampling.findings import Findings, Rank
from supernet.genotypes.published import get_genotype


def tau(scores: Sequence[float], truths: Sequence[float | None]) -> float | None:
    rows = [None if truth is None else TableRow(truth, 0.0, 0.0, 0, 0, {}) for truth in truths]
    ranks = [Rank(get_genotype("DARTS_V2"), score, {}, row) for score, row in zip(scores, rows, strict=True)]
    return Findings(ranks, "parameters", len(ranks), float(len(ranks))).tau


def test_there_is_none_where_either_is_constant_or_nothing_is_known() -> None:
    assert tau([0.5], [90.0]) is None
    assert tau([0.5, 0.5, 0.5], [90.0, 91.0, 92.0]) is None
    assert tau([0.3, 0.4, 0.5], [90.0, 90.0, 90.0]) is None
    assert tau([0.3, 0.4, 0.5], [None, None, None]) is None
    assert tau([0.3, 0.4, 0.5], [90.0, None, 90.0]) is None


def test_it_is_that_of_pairs_with_ties_in_either() -> None:
    """tau-b (Kendall 1945): pairs in order less the others, over the roots of the numbers of pairs without a tie."""
    scores, truths = [0.1, 0.2, 0.2, 0.4, 1e-300], [90.0, 91.0, 92.0, 92.0, 89.0]
    order = untied_scores = untied_truths = 0
    for one in range(5):
        for other in range(one):
            s, t = scores[one] - scores[other], truths[one] - truths[other]
            order += int(math.copysign(1, s * t)) if s and t else 0
            untied_scores += s != 0
            untied_truths += t != 0
    assert tau(scores, truths) == pytest.approx(order / math.sqrt(untied_scores * untied_truths), rel=1e-12)
    assert tau([1.0, 2.0], [90.0, 90.0 + 1e-12]) == pytest.approx(1)
