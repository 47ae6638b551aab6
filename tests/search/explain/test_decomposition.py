"""Tests of search/explain/decomposition.py: definitions by enumeration, and known answers."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.explain.decomposition import (
    additive,
    anova,
    by_order,
    effects,
    main_effects,
    marginal_means,
    operation_importance,
    ranks,
    shap,
    shapley_effects,
    total_effects,
)

SHAPES = st.lists(st.integers(1, 3), min_size=1, max_size=3).filter(lambda shape: math.prod(shape) > 1)
ARRAYS = st.tuples(SHAPES, st.integers(0, 2**32 - 1)).map(lambda drawn: np.random.default_rng(drawn[1]).normal(size=drawn[0]))


def expected(values: np.ndarray, chosen: frozenset[int]) -> np.ndarray:
    """E[A | x_U], of the shape of `values`, one architecture after another."""
    found = np.empty_like(values)
    for place in np.ndindex(values.shape):
        alike = [other for other in np.ndindex(values.shape) if all(other[slot] == place[slot] for slot in chosen)]
        found[place] = np.mean([values[other] for other in alike])
    return found


def subsets(count: int) -> list[frozenset[int]]:
    return [frozenset(chosen) for size in range(count + 1) for chosen in itertools.combinations(range(count), size)]


@settings(max_examples=25)
@given(ARRAYS)
def test_effects_are_those_of_the_definition(values: np.ndarray) -> None:
    by_definition: dict[frozenset[int], np.ndarray] = {}
    for chosen in subsets(values.ndim):  # smaller ones first
        smaller = [by_definition[part] for part in by_definition if part < chosen]
        by_definition[chosen] = expected(values, chosen) - sum(smaller, np.zeros_like(values))
    found = dict(effects(values))
    assert found.keys() == by_definition.keys()
    for chosen, part in found.items():
        np.testing.assert_allclose(np.broadcast_to(part, values.shape), by_definition[chosen], atol=1e-12)
    for chosen, variance in anova(values).items():
        assert variance == pytest.approx(np.mean(by_definition[chosen] ** 2), abs=1e-12)


@settings(max_examples=25)
@given(ARRAYS)
def test_shares_add_up(values: np.ndarray) -> None:
    variances = anova(values)
    assert sum(variances.values()) == pytest.approx(values.var())
    assert by_order(variances).sum() == pytest.approx(1)
    main, shapley, total = main_effects(values), shapley_effects(values), total_effects(values)
    assert shapley.sum() == pytest.approx(1)
    assert (main <= shapley + 1e-12).all() and (shapley <= total + 1e-12).all()
    for slot in range(values.ndim):
        others = expected(values, frozenset(range(values.ndim)) - {slot})
        assert main[slot] == pytest.approx(expected(values, frozenset({slot})).var() / values.var(), abs=1e-12)
        assert total[slot] == pytest.approx(((values - others) ** 2).mean() / values.var(), abs=1e-12)


@settings(max_examples=25)
@given(ARRAYS)
def test_shap_is_the_shapley_value_of_the_game(values: np.ndarray) -> None:
    place = tuple(number % options for number, options in enumerate(values.shape, start=1))
    count = values.ndim
    game = {chosen: expected(values, chosen)[place] for chosen in subsets(count)}
    by_definition = np.zeros(count)
    for slot in range(count):
        for chosen in subsets(count):
            if slot not in chosen:
                weight = math.factorial(len(chosen)) * math.factorial(count - len(chosen) - 1) / math.factorial(count)
                by_definition[slot] += weight * (game[chosen | {slot}] - game[chosen])
    found = shap(values, place)
    np.testing.assert_allclose(found, by_definition, atol=1e-12)
    assert found.sum() == pytest.approx(values[place] - values.mean())


@settings(max_examples=25)
@given(ARRAYS)
def test_operation_importance_compares_with_the_neighbours(values: np.ndarray) -> None:
    found = operation_importance(values)
    assert found.shape == (*values.shape, values.ndim)
    for place in np.ndindex(values.shape):
        for slot, options in enumerate(values.shape):
            others = [(*place[:slot], other, *place[slot + 1 :]) for other in range(options) if other != place[slot]]
            if others:
                assert found[*place, slot] == pytest.approx(np.mean([values[place] - values[other] for other in others]))
            else:
                assert np.isnan(found[*place, slot])


def test_known_answers() -> None:
    """A sum has no interaction; a product of signs has nothing else."""
    first, second = np.array([0.0, 1.0, 5.0]), np.array([-1.0, 1.0])
    together = first[:, None] + second
    assert main_effects(together) == pytest.approx([first.var() / together.var(), second.var() / together.var()])
    assert total_effects(together) == pytest.approx(main_effects(together))
    np.testing.assert_allclose(additive(together), together)
    assert marginal_means(together)[0] == pytest.approx(first)
    product = second[:, None, None] * second[:, None] * second
    assert main_effects(product) == pytest.approx([0, 0, 0])
    assert shapley_effects(product) == pytest.approx([1 / 3] * 3) and total_effects(product) == pytest.approx([1, 1, 1])
    assert by_order(anova(product)) == pytest.approx([0, 0, 1])


def test_ranks_share_the_places_of_equals() -> None:
    assert ranks(np.array([[3.0, 1.0], [1.0, 7.0]])).tolist() == [[62.5, 25.0], [25.0, 87.5]]
    assert ranks(np.random.default_rng(0).normal(size=(4, 5))).mean() == pytest.approx(50)


def test_equal_values_have_no_shares() -> None:
    with pytest.raises(ValueError, match="all values are equal"):
        shapley_effects(np.full((2, 3), 0.1))
