"""Margins: the interval against Student's t, and operations that are taken away one after another."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.explain.supernets.margins import Margin, in_order, paired
from search.explain.supernets.trained import Candidate, Scores


def scores(right: np.ndarray, counts: np.ndarray) -> Scores:
    return Scores(float(right.sum() / counts.sum()), right / counts, counts)


@given(st.integers(2, 12), st.integers(0, 1000))
def test_the_interval_is_that_of_students_t_over_equal_batches(batches: int, seed: int) -> None:
    from scipy.stats import ttest_1samp

    generator = np.random.default_rng(seed)
    counts = np.full(batches, 50)
    whole, without = (scores(generator.integers(10, 50, batches), counts) for _ in range(2))
    margin = paired(whole, without)
    falls = whole.parts - without.parts
    expected = ttest_1samp(falls, 0).confidence_interval(0.95)
    assert margin.fall == pytest.approx(falls.mean())
    assert (margin.low, margin.high) == pytest.approx((expected.low, expected.high))


def test_batches_weigh_by_their_examples() -> None:
    """By hand: falls of 0.1 on 30 examples and 0.4 on 10 are 0.175 on all of them."""
    counts = np.array([30, 10])
    margin = paired(scores(np.array([27, 9]), counts), scores(np.array([24, 5]), counts))
    assert margin.fall == pytest.approx(0.175)
    # sqrt(2 ((0.75 (0.1 - 0.175))^2 + (0.25 (0.4 - 0.175))^2)) = 0.1125, and t(1) = 12.706
    assert margin.high - margin.fall == pytest.approx(12.706 * 0.1125, rel=1e-3)


def test_nine_of_ten_intervals_and_more_hold_the_truth() -> None:
    """Of 95% it is 95 of 100, within chance."""
    generator = np.random.default_rng(0)
    counts, held = np.full(6, 40), 0
    for _ in range(1000):
        whole, without = generator.binomial(40, 0.8, 6), generator.binomial(40, 0.7, 6)
        margin = paired(scores(whole, counts), scores(without, counts))
        held += margin.low <= 0.1 <= margin.high
    assert 930 <= held <= 970


def test_an_interval_that_covers_0_says_that_the_part_could_be_left_out() -> None:
    assert Margin(0.01, -0.001, 0.021).can_be_left_out
    assert Margin(-0.01, -0.02, -0.005).can_be_left_out
    assert not Margin(0.01, 0.001, 0.019).can_be_left_out


def test_operations_are_taken_away_until_too_much_is_lost() -> None:
    """By hand: each alone costs nothing, two of them cost 0.005, three 0.3, as one stands in for another."""
    order = [Candidate("cell", edge, 1) for edge in range(5)]
    falls = {0: 0.0, 1: 0.0, 2: 0.005, 3: 0.3, 4: 0.4, 5: 0.5}

    def measure(gone: object) -> Margin:
        fall = falls[len(list(gone))]  # type: ignore[call-overload]
        return Margin(fall, fall, fall)

    found = in_order(order, lambda one: 0.001 * (one.edge + 1), measure, tolerated=0.01)
    assert [len(step.candidates) for step in found] == [1, 2, 3]
    assert [step.margin.fall for step in found] == [0.0, 0.005, 0.3]
    assert [step.sum for step in found] == pytest.approx([0.001, 0.003, 0.006])
    assert found[1].candidates == tuple(order[:2])
