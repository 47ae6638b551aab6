"""Tests of search/explain/tables/forest.py: estimates and intervals against the exact decomposition."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from search.costs.tabular import Table
from search.explain import decomposition
from search.explain.landscape import landscape
from search.explain.tables.exact import analyse
from search.explain.tables.forest import LEAST_TREES, ForestEffects, Share, _Data, _joint_means, forest_effects

SHAPE = (4, 3, 2, 3)


def surface(seed: int = 0) -> np.ndarray:
    """A sum of effects of single slots and of one pair; slot 3 has none."""
    random = np.random.default_rng(seed)
    first, second = random.normal(size=(4, 1, 1, 1)), random.normal(size=(1, 3, 1, 1))
    both = random.normal(size=(4, 1, 2, 1))
    return np.broadcast_to(3 * first + 2 * second + both, SHAPE).copy()


def draw(values: np.ndarray, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    chosen = np.random.default_rng(seed).choice(values.size, count, replace=False)
    return np.stack(np.unravel_index(chosen, values.shape), 1), values.ravel()[chosen]


def covers(shares: tuple[Share, ...], truths: np.ndarray) -> np.ndarray:
    return np.array([share.low <= truth <= share.high for share, truth in zip(shares, truths, strict=True)])


def estimate(values: np.ndarray, count: int, seed: int = 0, trees: int = 30) -> ForestEffects:
    choices, scores = draw(values, count, seed)
    return forest_effects(choices, values.shape, scores, trees, seed)


def test_boxes_of_a_tree_have_the_means_of_its_predictions_over_the_whole_space() -> None:
    """The plain way: predict every architecture, and take the mean of those with an option, or two."""
    from sklearn.tree import DecisionTreeRegressor

    choices, scores = draw(surface(), 40)
    data = _Data(choices, SHAPE, scores, np.random.default_rng(0))
    tree = DecisionTreeRegressor(random_state=0).fit(data.encoded, scores)
    joint = _joint_means(tree.tree_, data)
    every = np.stack(np.unravel_index(np.arange(np.prod(SHAPE)), SHAPE), 1)
    predicted, encoded = tree.predict(data.encode(every)), data.encode(every) > 0
    slot_of = np.repeat(np.arange(4), SHAPE)
    for one, other in np.ndindex(joint.shape):
        if one == other or slot_of[one] != slot_of[other]:
            assert joint[one, other] == pytest.approx(predicted[encoded[:, one] & encoded[:, other]].mean())


def test_with_every_architecture_the_estimates_are_exact_up_to_the_error_of_the_forest() -> None:
    values = surface()
    found = estimate(values, values.size, trees=100)
    assert found.explained > 0.9
    assert [share.value for share in found.main] == pytest.approx(decomposition.main_effects(values), abs=0.05)
    assert [share.value for share in found.total] == pytest.approx(decomposition.total_effects(values), abs=0.08)
    assert found.variance == pytest.approx(values.var(), rel=0.1)
    for means, truths in zip(found.means, decomposition.marginal_means(values), strict=True):
        assert means == pytest.approx(truths, abs=0.25)
    exact = decomposition.anova(values)
    pairs = {pair: exact[pair] / values.var() for pair in found.pairs}
    assert max(found.pairs, key=lambda pair: found.pairs[pair].value) == max(pairs, key=lambda pair: pairs[pair]) == {0, 2}


def test_intervals_cover_the_exact_effects_of_made_surfaces() -> None:
    main, total = [], []
    for seed in range(6):
        values = surface(seed)
        found = estimate(values, 45, seed)
        main.append(covers(found.main, decomposition.main_effects(values)))
        total.append(covers(found.total, decomposition.total_effects(values)))
        assert all(0 <= share.low <= share.high <= 1 for share in (*found.main, *found.total, *found.pairs.values()))
    assert np.mean(main) >= 0.85 and np.mean(total) >= 0.85, (np.mean(main), np.mean(total))


def test_intervals_shrink_with_more_trials() -> None:
    values = surface(1)
    few, many = (estimate(values, count) for count in (25, 70))
    assert sum(share.high - share.low for share in many.total) < 0.7 * sum(share.high - share.low for share in few.total)


def test_scores_without_a_pattern_are_not_explained() -> None:
    values = np.random.default_rng(3).normal(size=SHAPE)
    found = estimate(values, 50)
    assert found.explained < 0.3
    assert all(share.low < 0.25 for share in found.main)


def test_large_spaces_are_asked_about_by_draws() -> None:
    """Above 2^15 architectures; the sum of two slots of ten has known shares."""
    shape = (4,) * 10
    random = np.random.default_rng(0)
    choices = random.integers(4, size=(300, 10))
    scores = 2.0 * choices[:, 0] + choices[:, 1]
    found = forest_effects(choices, shape, scores, 40)
    assert [share.value for share in found.main] == pytest.approx([0.8, 0.2, *[0] * 8], abs=0.05)
    assert covers(found.total, np.array([0.8, 0.2, *[0] * 8])).all()


def test_the_same_seed_gives_the_same_estimates() -> None:
    ones, others, another = (estimate(surface(), 50, seed=4, trees=LEAST_TREES) for _ in range(3))
    assert ones.main == others.main == another.main and ones.total == others.total
    choices, scores = draw(surface(), 50, 4)
    assert forest_effects(choices, SHAPE, scores, LEAST_TREES, seed=5).main != ones.main


def test_input_that_cannot_be_explained() -> None:
    choices, scores = draw(surface(), 40)
    with pytest.raises(ValueError, match="20 trees are needed"):
        forest_effects(choices, SHAPE, scores, LEAST_TREES - 1)
    with pytest.raises(ValueError, match="all scores are equal"):
        forest_effects(choices, SHAPE, np.full(40, 0.1))


@pytest.mark.slow
def test_intervals_cover_the_exact_effects_of_the_published_table(shared_data: Callable[[str], Path]) -> None:
    """10 samples of 500; `python -m benchmarks.explanations.forest` takes 100."""
    land = landscape(Table.read(shared_data("nasbench201/cifar10.csv.gz")))
    for measure in analyse(land):
        found = [estimate(measure.values, 500, seed, 60) for seed in range(10)]
        main = np.array([covers(one.main, measure.main) for one in found])
        total = np.array([covers(one.total, measure.total) for one in found])
        assert main.mean() >= 0.9 and total.mean() >= 0.9
        assert main.mean(0).min() >= 0.8 and total.mean(0).min() >= 0.8
