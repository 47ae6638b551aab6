"""Shapley values against games whose values are known, and by sampling against enumeration."""

from collections.abc import Callable
from itertools import permutations, repeat, takewhile
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from search.attribution.shapley import MOST_ENUMERATED, Value, exact_shapley, sample_shapley

WORTH = torch.tensor([3.0, -1.0, 0.5, 0.0], dtype=torch.float64)


def additive(present: Tensor) -> float:
    return float(WORTH[present].sum())


def glove(present: Tensor) -> float:
    """Players 0 and 1 have left gloves, player 2 a right one; a pair is worth 1."""
    return float((present[0] or present[1]) and present[2])


def majority(present: Tensor) -> float:
    """Votes of 4, 2, 1 and 1 are in the majority from 5 on."""
    return float((torch.tensor([4, 2, 1, 1]) * present).sum() >= 5)


GAMES = [
    (additive, WORTH.tolist()),
    (glove, [1 / 6, 1 / 6, 4 / 6]),
    (majority, [3 / 4, 1 / 12, 1 / 12, 1 / 12]),
]
"""Games with the values that textbooks have for them."""


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_game(players: int, seed: int) -> Callable[[Tensor], float]:
    table = torch.rand(2**players, generator=seeded(seed), dtype=torch.float64)
    return lambda present: float(table[int((present.long() << torch.arange(players)).sum())])


def by_all_orders(players: int, value: Value) -> Tensor:
    """The definition, word by word."""
    total, orders = torch.zeros(players, dtype=torch.float64), list(permutations(range(players)))
    for order in orders:
        present = torch.ones(players, dtype=torch.bool)
        for player in order:
            before = value(present)
            present[player] = False
            total[player] += before - value(present)
    return total / len(orders)


@pytest.mark.parametrize(("game", "known"), GAMES)
def test_enumeration_gives_the_known_values(game: Value, known: list[float]) -> None:
    torch.testing.assert_close(exact_shapley(len(known), game), torch.tensor(known, dtype=torch.float64))


@given(st.integers(1, 5), st.integers(0, 1000))
def test_enumeration_is_the_mean_over_all_orders(players: int, seed: int) -> None:
    value = random_game(players, seed)
    torch.testing.assert_close(exact_shapley(players, value), by_all_orders(players, value))


@pytest.mark.parametrize(("game", "known"), GAMES)
def test_samples_without_a_stop_come_to_the_known_values(game: Value, known: list[float]) -> None:
    found = sample_shapley(len(known), repeat(game, 2000), seeded(0))
    error = found.sd / 2000**0.5
    assert ((found.mean - torch.tensor(known)).abs() <= 4 * error + 1e-12).all()


def test_one_permutation_of_an_additive_game_is_exact() -> None:
    assert torch.allclose(sample_shapley(4, [additive], seeded(5)).mean, WORTH)


@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 1000))
def test_the_values_add_up_to_what_all_players_have_over_none(players: int, count: int, seed: int) -> None:
    value = random_game(players, seed)
    all_less_none = value(torch.ones(players, dtype=torch.bool)) - value(torch.zeros(players, dtype=torch.bool))
    found = sample_shapley(players, repeat(value, count), seeded(seed))
    assert float(found.mean.sum()) == pytest.approx(all_less_none)
    assert float(exact_shapley(players, value).sum()) == pytest.approx(all_less_none)
    assert found.reached.all() and found.counts.tolist() == [count] * players
    assert found.evaluations == count * (players + 1)


def test_a_permutation_stops_once_too_little_is_left() -> None:
    """By hand: of 1.0, players take 0.25 each; after the third one 0.25 is below half, and the
    fourth has contributed nothing."""
    asked = []

    def value(present: Tensor) -> float:
        asked.append(int(present.sum()))
        return float(present.sum()) / 4

    found = sample_shapley(4, repeat(value, 1), seeded(3), stop=0.5)
    order = torch.randperm(4, generator=seeded(3))
    assert found.contributions[0, order].tolist() == [0.25, 0.25, 0.25, 0.0]
    assert found.reached[0, order].tolist() == [True, True, True, False]
    assert asked == [4, 3, 2, 1] and found.evaluations == 4  # 2 of 4 is half, and not below it


def test_mean_and_deviation_count_who_was_not_reached_as_nothing() -> None:
    """By hand: player 1 alone makes the value, so that a permutation ends with it."""
    found = sample_shapley(2, repeat(lambda present: float(present[1]), 40), seeded(0), stop=0.5)
    first = sum(int(torch.randperm(2, generator=generator)[0] == 1) for generator in [seeded(0)] for _ in range(40))
    assert 0 < first < 40
    assert found.counts.tolist() == [40 - first, 40]
    assert found.mean.tolist() == [0.0, 1.0] and found.sd.tolist() == [0.0, 0.0]
    assert found.evaluations == 40 + first + 2 * (40 - first)


def test_the_deviation_is_that_of_the_population() -> None:
    values = [lambda present, worth=worth: worth * float(present[0]) for worth in (1.0, 3.0)]
    found = sample_shapley(1, values, seeded(0))
    assert found.mean.tolist() == [2.0] and found.sd.tolist() == [1.0] and found.whole.tolist() == [1.0, 3.0]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_stop_holds_for_values_of_either_sign(sign: int) -> None:
    """A loss with its sign changed, which falls from -1 to -3, stops below -1.5."""
    wholes = {1: [4.0, 3.0, 2.0, 1.0], -1: [-1.0, -1.5, -2.0, -3.0]}[sign]
    found = sample_shapley(3, repeat(lambda present: wholes[3 - int(present.sum())], 1), seeded(0), stop=0.5)
    assert found.evaluations == {1: 4, -1: 3}[sign]


def test_stop_0_never_stops() -> None:
    assert sample_shapley(3, repeat(lambda present: float(present.sum()) - 9, 1), seeded(0)).evaluations == 4


def test_each_permutation_has_its_own_value_function() -> None:
    """Those that are not asked for are left alone, and so is a generator that ends on a budget."""
    left = iter(range(5))
    values = (lambda present, number=number: float(number * present.sum()) for number in takewhile(lambda n: n < 3, left))
    found = sample_shapley(2, values, seeded(0))
    assert found.contributions.tolist() == [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]
    assert list(left) == [4]


def test_the_generator_alone_draws() -> None:
    value = random_game(5, 0)
    first, again, other = (sample_shapley(5, repeat(value, 3), seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first.contributions, again.contributions)
    assert not torch.equal(first.contributions, other.contributions)


def test_a_value_function_may_keep_what_it_is_given() -> None:
    seen: list[Tensor] = []

    def value(present: Tensor) -> float:
        seen.append(present)
        return 0.0

    sample_shapley(3, [value], seeded(0))
    assert [int(present.sum()) for present in seen] == [3, 2, 1, 0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((0, [additive], seeded(0)), "players: at least 1"),
        ((4, [], seeded(0)), "values: there is none"),
        ((4, [additive], seeded(0), 1.5), "stop: from 0"),
        ((4, [additive], seeded(0), -0.1), "stop: from 0"),
        ((4, [additive], seeded(0), float("nan")), "stop: from 0"),
    ],
)
def test_what_cannot_be_sampled_is_named(arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        sample_shapley(*arguments)


@pytest.mark.parametrize("players", [0, MOST_ENUMERATED + 1])
def test_what_cannot_be_enumerated_is_named(players: int) -> None:
    with pytest.raises(ValueError, match=f"players: from 1 to {MOST_ENUMERATED}"):
        exact_shapley(players, additive)
