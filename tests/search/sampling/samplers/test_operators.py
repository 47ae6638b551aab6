"""Selection against its exact probabilities, crossover against what it may and may not mix."""

from collections import Counter
from itertools import combinations, product
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from search.sampling.encoding import Encoding
from search.sampling.samplers.operators import crossover, roulette, tournament
from supernet import get_space, list_spaces

DRAWS = 20_000
SIGNIFICANT = 1e-4
ENCODINGS = {name: Encoding(get_space(name)) for name in list_spaces()}


def assert_drawn(counts: Counter[int], chances: list[float]) -> None:
    """Chi-square of the counts; what has no chance was not drawn."""
    assert all(counts[index] == 0 for index, chance in enumerate(chances) if chance == 0)
    possible = [index for index, chance in enumerate(chances) if chance > 0]
    observed, total = [counts[index] for index in possible], sum(counts.values())
    assert chisquare(observed, [total * chances[index] for index in possible]).pvalue > SIGNIFICANT


# Selection


@pytest.mark.parametrize("scores", [[0.3, 0.9, 0.1, 0.5, 0.7], [-4.0, -1.0, -3.0, -2.0]])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_tournament_selects_as_strongly_as_its_size_says(scores: list[float], size: int) -> None:
    """((n - r + 1)^size - (n - r)^size) / n^size for the r-th best of n."""
    random, n = Random(0), len(scores)
    counts = Counter(tournament(scores, size, random) for _ in range(DRAWS))
    ranks = [1 + sum(other > score for other in scores) for score in scores]
    assert_drawn(counts, [((n - rank + 1) ** size - (n - rank) ** size) / n**size for rank in ranks])


def test_a_tournament_of_equals_is_a_draw() -> None:
    """All draws of three from four are enumerated, of which two are best: each of these wins half of them."""
    scores, random = [1.0, 2.0, 2.0, 0.0], Random(0)
    counts = Counter(tournament(scores, 3, random) for _ in range(DRAWS))
    wins = Counter(max(drawn, key=lambda index: scores[index]) for drawn in product(range(4), repeat=3))
    assert wins[1] == wins[2]
    assert_drawn(counts, [wins[index] / 4**3 for index in range(4)])


@pytest.mark.parametrize("scores", [[0.3, 0.9, 0.1, 0.5, 0.5], [-4.0, -1.0, -3.0, -2.0], [1e-12, 2e-12, 4e-12]])
def test_roulette_draws_in_proportion_to_the_distance_from_the_worst(scores: list[float]) -> None:
    random = Random(0)
    counts = Counter(roulette(scores, random) for _ in range(DRAWS))
    total = sum(score - min(scores) for score in scores)
    assert_drawn(counts, [(score - min(scores)) / total for score in scores])


@pytest.mark.parametrize("score", [0.7, 0.0, -3.0])
def test_roulette_of_equals_is_a_draw(score: float) -> None:
    random = Random(0)
    assert_drawn(Counter(roulette([score] * 6, random) for _ in range(DRAWS)), [1 / 6] * 6)


# Crossover


@settings(max_examples=200)
@given(st.sampled_from(list_spaces()), st.integers(0, 2**31 - 1), st.data())
def test_a_child_is_an_architecture_and_has_each_block_from_one_parent(name: str, seed: int, data: st.DataObject) -> None:
    encoding, random = ENCODINGS[name], Random(seed)
    blocks = encoding.blocks
    one, other = encoding.random(random), encoding.random(random)
    points = data.draw(st.integers(1, len(blocks) - 1))
    child = crossover(one, other, blocks, points, random)
    encoding.check(child)
    origins = []
    for block in blocks:
        parts = [[genome[place] for place in block] for genome in (child, one, other)]
        assert parts[0] in parts[1:]
        origins.append({number for number in (0, 1) if parts[0] == parts[1 + number]})
    # Some choice of cuts explains it: the first block from `one`, and the other parent after each.
    assert any(
        all((sum(cut <= number for cut in cuts) % 2) in origins[number] for number in range(len(blocks)))
        for cuts in combinations(range(1, len(blocks)), points)
    )


@pytest.mark.parametrize("points", [1, 2, 3])
def test_all_cuts_have_the_same_chance(points: int) -> None:
    random = Random(0)
    blocks = [(0, 1), (2,), (3, 4, 5), (6,), (7,)]
    counts = Counter(crossover((0,) * 8, (1,) * 8, blocks, points, random) for _ in range(5000))
    expected = set()
    for cuts in combinations(range(1, 5), points):
        origins = [sum(cut <= number for cut in cuts) % 2 for number in range(5)]
        expected.add(tuple(origin for block, origin in zip(blocks, origins, strict=True) for _ in block))
    assert set(counts) == expected
    assert chisquare(list(counts.values())).pvalue > SIGNIFICANT


def test_more_cuts_than_there_are_places_are_refused() -> None:
    with pytest.raises(ValueError):
        crossover((0, 0), (1, 1), [(0,), (1,)], 2, Random(0))
