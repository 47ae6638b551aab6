"""The prefilter: what it passes on, what it tells, and that nothing an inner sampler does makes it stand still."""

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.sampling.encoding import Encoding, Genome
from search.sampling.prefilter import Prefiltered
from search.sampling.samplers.sampler import Sampler, Scored
from search.sampling.samplers.uniform import HalvingConfig, RandomSearchConfig, UniformSampler
from search.sampling.trials import Trials
from supernet import get_space, list_spaces

Ask = tuple[list[Genome], float]


def score(genome: Genome, share: float = 1.0) -> float:
    """The proxy: any number that is an architecture's own."""
    return Random(str(genome)).random()


def truth(genome: Genome, share: float = 1.0) -> float:
    return Random(f"truth {genome}").random()


class Scripted(Sampler):
    """Asks for what the script says, one entry an ask with its share; after the last for nothing. Remembers what it is told."""

    has_policy = True
    learns_while_weights_move = True
    objective = "multiply_adds"

    def __init__(self, script: Sequence[Ask], space: str = "nasbench201") -> None:
        super().__init__(Encoding(get_space(space)), None, 0)
        self.script = list(script)
        self.asks = 0
        self.told: list[list[Scored]] = []

    def ask(self) -> list[Genome]:
        self.asks += 1
        asked, self.evaluation_share = self.script[self.asks - 1] if self.asks <= len(self.script) else ([], 1.0)
        return list(asked)

    def tell(self, scored: Sequence[Scored]) -> None:
        self.told.append(list(scored))

    def gathered(self) -> Sequence[Scored]:
        return [(some(1)[0], 0.25)]

    def readings(self) -> Mapping[str, float]:
        return {"asks": float(self.asks)}


def some(count: int, seed: int = 0, space: str = "nasbench201") -> list[Genome]:
    """Different architectures."""
    encoding, random = Encoding(get_space(space)), Random(seed)
    found: dict[Genome, None] = {}
    while len(found) < count:
        found[encoding.random(random)] = None
    return list(found)


def best(genomes: Sequence[Genome], count: int) -> list[Genome]:
    return sorted(genomes, key=score, reverse=True)[:count]


@pytest.mark.parametrize("space", list_spaces())
def test_the_best_of_a_batch_are_passed_on_and_told(space: str) -> None:
    genomes = some(12, space=space)
    inner = Scripted([(genomes, 1.0)], space)
    sampler = Prefiltered(inner, score, 4)
    asked = sampler.ask()
    assert asked == best(genomes, 3)
    assert sampler.evaluation_share == 1.0 and inner.asks == 1
    scored = [(genome, truth(genome)) for genome in asked[:2]]
    sampler.tell(scored)
    assert inner.told == [scored]


def test_small_batches_are_gathered_until_there_are_enough() -> None:
    genomes = some(9)
    inner = Scripted([(genomes[number : number + 2], 1.0) for number in range(0, 8, 2)])
    sampler = Prefiltered(inner, score, 5)
    assert sampler.ask() == best(genomes[:6], 1)
    assert inner.asks == 3
    assert sampler.ask() == best(genomes[6:8], 1), "the last are fewer"
    assert sampler.ask() == []


def test_an_architecture_that_is_proposed_twice_is_passed_on_once() -> None:
    first, second = best(some(2), 2)
    sampler = Prefiltered(Scripted([([first, first, second, first], 1.0)]), score, 2)
    assert sampler.ask() == [first, second]
    repeating = Scripted([([first], 1.0)] * 50)
    sampler = Prefiltered(repeating, score, 10)
    assert sampler.ask() == [first]
    assert repeating.asks == 10
    assert sampler.ask() == [first]


def test_a_score_that_moves_ranks_by_its_present_value() -> None:
    genomes = some(4)
    worth = {genome: float(place) for place, genome in enumerate(genomes)}
    asked = [(genomes, 1.0), (genomes, 1.0)]
    moving, remembered = (
        Prefiltered(Scripted(asked), lambda genome, share: worth[genome], 4, remembers) for remembers in (False, True)
    )
    assert moving.ask() == remembered.ask() == genomes[-1:]
    worth = {genome: -value for genome, value in worth.items()}
    assert (moving.ask(), remembered.ask()) == (genomes[:1], genomes[-1:])


def test_each_architecture_is_ranked_once_as_a_whole() -> None:
    calls: list[tuple[Genome, float]] = []

    def counting(genome: Genome, share: float) -> float:
        calls.append((genome, share))
        return score(genome)

    genomes = some(4)
    sampler = Prefiltered(Scripted([(genomes, 0.5), (genomes, 0.5)]), counting, 2)
    assert sampler.ask() == sampler.ask() == best(genomes, 2)
    assert sorted(calls) == sorted((genome, 1.0) for genome in genomes)


def test_survivors_are_passed_on_whatever_their_rank() -> None:
    first, second = some(8), some(6, seed=1)
    chosen = best(first, 2)
    worst = chosen[1:]
    script = [(first, 0.25), (worst, 0.5), (worst, 0.5), (second, 0.5), (worst, 1.0), (second[:2], 1.0)]
    sampler = Prefiltered(Scripted(script), score, 4)
    assert (sampler.ask(), sampler.evaluation_share) == (chosen, 0.25)
    assert (sampler.ask(), sampler.evaluation_share) == (worst, 0.5)
    assert (sampler.ask(), sampler.evaluation_share) == (worst, 0.5), "asked for again before it was told"
    assert (sampler.ask(), sampler.evaluation_share) == (best(second, 1), 0.5)
    assert (sampler.ask(), sampler.evaluation_share) == (worst, 1.0)
    assert (sampler.ask(), sampler.evaluation_share) == (best(second[:2], 1), 1.0)


def test_what_was_passed_on_whole_competes_again() -> None:
    genomes = best(some(5), 5)
    sampler = Prefiltered(Scripted([(genomes[1:3], 1.0), (genomes[:2], 1.0)]), score, 2)
    assert sampler.ask() == genomes[1:2]
    assert sampler.ask() == genomes[:1]


def test_survivors_among_new_ones_are_not_ranked() -> None:
    first, second = some(4), some(5, seed=1)
    chosen = best(first, 1)
    sampler = Prefiltered(Scripted([(first, 0.5), (chosen + second[:2], 1.0), (second[2:], 1.0)]), score, 4)
    sampler.ask()
    assert sampler.ask() == chosen + best(second, 1)


def test_proposals_of_different_shares_are_not_compared() -> None:
    first, second = some(3), some(6, seed=1)
    sampler = Prefiltered(Scripted([(first, 0.5), (second[:3], 1.0), (second[3:], 1.0)]), score, 6)
    assert (sampler.ask(), sampler.evaluation_share) == (best(first, 1), 0.5)
    state = sampler.state_dict()
    assert (sampler.ask(), sampler.evaluation_share) == (best(second, 1), 1.0)
    again = Prefiltered(Scripted([(first, 0.5), (second[:3], 1.0), (second[3:], 1.0)]), score, 6)
    again.load_state_dict(state)
    assert (again.ask(), again.evaluation_share) == (best(second, 1), 1.0), "those that wait are part of the state"


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 5), max_size=5), st.sampled_from([0.25, 0.5, 1.0])), max_size=8),
    st.integers(2, 6),
)
def test_whatever_is_asked_there_is_an_end(script: list[tuple[list[int], float]], factor: int) -> None:
    """It asks for nothing only after the inner sampler did; all that it passes on has been proposed, with that share."""
    genomes = some(6)
    asks = [([genomes[number] for number in numbers], share) for numbers, share in script]
    inner = Scripted(asks)
    sampler = Prefiltered(inner, score, factor)
    proposed = {(genome, share) for asked, share in asks for genome in asked}
    for _ in range(len(script) + 1):
        before = inner.asks
        asked = sampler.ask()
        assert inner.asks <= before + 1 + factor
        assert {(genome, sampler.evaluation_share) for genome in asked} <= proposed
        if not asked:
            assert any(not ask for ask, _ in asks) or inner.asks > len(script)
    assert inner.asks >= len(script)


def hyperband(factor: int) -> Sampler:
    config = RandomSearchConfig(space="nasbench201", halving=HalvingConfig(3, 1 / 9))
    inner = UniformSampler(Encoding(get_space("nasbench201")), config, 0)
    return Prefiltered(inner, score, factor) if factor else inner


def test_hyperband_has_its_rungs_and_better_architectures_in_them() -> None:
    """The truth itself is the proxy: all scores are higher, at the same cost."""
    plain, filtered = Trials(hyperband(0), score), Trials(hyperband(5), score)
    for trials in (plain, filtered):
        trials.advance(30.0)

    def mean_of_first_rungs(trials: Trials) -> float:
        scores = [trial.score for trial in trials.done if trial.share < 0.2]
        return sum(scores) / len(scores)

    assert mean_of_first_rungs(filtered) > mean_of_first_rungs(plain) + 0.2
    shares = [[trial.share for trial in trials.done] for trials in (plain, filtered)]
    assert sorted(shares[0]) == sorted(shares[1])


@pytest.mark.parametrize("make", [lambda: hyperband(4), lambda: Prefiltered(plain_sampler(), score, 3)])
@pytest.mark.parametrize("cost", [2.0, 7.0])
def test_a_search_goes_on_as_if_it_had_not_been_stopped(make: Callable[[], Sampler], cost: float) -> None:
    whole = Trials(make(), truth)
    whole.advance(20.0)
    first = Trials(make(), truth)
    first.advance(cost)
    state = copied(first.state_dict())
    second = Trials(make(), truth)
    second.load_state_dict(state)
    second.advance(20.0)
    assert second.done == whole.done


def plain_sampler() -> Sampler:
    return UniformSampler(Encoding(get_space("darts")), RandomSearchConfig(), 5)


def copied(value: Any) -> Any:
    """Returns the value as a checkpoint gives it back; fails for one that a checkpoint does not hold."""
    if isinstance(value, dict):
        return {copied(key): copied(entry) for key, entry in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(copied(entry) for entry in value)
    assert value is None or type(value) in (bool, int, float, str)
    return value


def test_everything_else_is_the_inner_samplers() -> None:
    inner = Scripted([])
    sampler = Prefiltered(inner, score, 2)
    assert (sampler.has_policy, sampler.learns_while_weights_move, sampler.objective) == (True, True, "multiply_adds")
    assert sampler.gathered() == inner.gathered()
    assert sampler.readings() == {"asks": 0.0}
    other = Scripted([])
    assert [sampler.draw() for _ in range(3)] == [other.draw() for _ in range(3)]
    outer = Prefiltered(plain_sampler(), score, 2)
    assert not outer.has_policy and outer.objective == "parameters"
