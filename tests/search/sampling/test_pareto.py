"""Non-dominated sorting against its definition, crowding against the formula of NSGA-II."""

import math
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.sampling.pareto import crowding_distances, dominates, non_dominated_fronts, pareto_front

Points = list[tuple[float, ...]]

# Few values make ties and equal points; the others are anything.
NUMBERS = st.one_of(st.integers(-2, 2).map(float), st.floats(-1e6, 1e6))
POINTS = st.integers(1, 4).flatmap(lambda objectives: st.lists(st.tuples(*[NUMBERS] * objectives), max_size=25))


def beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """No objective is larger, and some one is smaller."""
    pairs = list(zip(one, other, strict=True))
    return not any(a > b for a, b in pairs) and any(a < b for a, b in pairs)


@settings(max_examples=200)
@given(POINTS)
def test_the_pareto_front_is_what_nothing_dominates(points: Points) -> None:
    expected = [number for number, point in enumerate(points) if not any(beats(other, point) for other in points)]
    assert pareto_front(points) == expected
    for one in points:
        for other in points:
            assert dominates(one, other) == beats(one, other)


@settings(max_examples=200)
@given(POINTS)
def test_the_front_of_a_point_is_its_longest_chain_of_dominating_points(points: Points) -> None:
    @cache
    def depth(number: int) -> int:
        return 1 + max((depth(other) for other in range(len(points)) if beats(points[other], points[number])), default=-1)

    fronts = non_dominated_fronts(points)
    assert sorted(number for front in fronts for number in front) == list(range(len(points)))
    for rank, front in enumerate(fronts):
        assert front and front == sorted(front)
        assert all(depth(number) == rank for number in front)


@settings(max_examples=200)
@given(POINTS)
def test_crowding_is_the_sum_of_the_normalised_distances_between_neighbours(points: Points) -> None:
    """I[i] += (f[i+1] - f[i-1]) / (f_max - f_min) for each objective, infinite at both ends (Deb et al. 2002, III.B)."""
    expected = [0.0] * len(points)
    for column in zip(*points, strict=True):
        order = sorted(range(len(points)), key=lambda number, column=column: (column[number], number))
        for place, number in enumerate(order):
            if place in (0, len(points) - 1):
                expected[number] = math.inf
            elif max(column) > min(column):
                expected[number] += (column[order[place + 1]] - column[order[place - 1]]) / (max(column) - min(column))
    assert crowding_distances(points) == pytest.approx(expected)


def test_an_example() -> None:
    points = [(1.0, 5.0), (2.0, 3.0), (4.0, 1.0), (2.0, 5.0), (5.0, 5.0), (2.0, 3.0)]
    assert pareto_front(points) == [0, 1, 2, 5]
    assert non_dominated_fronts(points) == [[0, 1, 2, 5], [3], [4]]
    assert crowding_distances([(0.0, 10.0), (1.0, 6.0), (4.0, 0.0)]) == [math.inf, 2.0, math.inf]
    assert crowding_distances([(0.0, 10.0), (1.0, 6.0), (2.0, 5.0), (4.0, 0.0)]) == [
        math.inf,
        pytest.approx(2 / 4 + 5 / 10),
        pytest.approx(3 / 4 + 6 / 10),
        math.inf,
    ]


def test_there_may_be_no_points() -> None:
    assert pareto_front([]) == [] and non_dominated_fronts([]) == [] and crowding_distances([]) == []
