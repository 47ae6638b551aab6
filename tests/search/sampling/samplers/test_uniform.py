"""Random search, and Hyperband against the algorithm as it was published."""

import math
from random import Random

import pytest

from search.sampling.encoding import Encoding, Genome
from search.sampling.samplers.uniform import HalvingConfig, RandomSearchConfig, UniformSampler
from search.sampling.trials import Trials
from supernet import get_space, list_spaces

Rungs = list[tuple[int, int]]


def new_sampler(eta: int = 0, smallest: float = 0.037, seed: int = 0, space: str = "nasbench201") -> UniformSampler:
    config = RandomSearchConfig(space=space, halving=HalvingConfig(eta, smallest))
    return UniformSampler(Encoding(get_space(space)), config, seed)


def score(genome: Genome) -> float:
    return Random(str(genome)).random()


def rungs_of_the_paper(eta: int, largest: int) -> Rungs:
    """(n_i, R / r_i) of each rung of all brackets for R = `largest` (Li et al. 2018, algorithm 1)."""
    deepest = 0
    while eta ** (deepest + 1) <= largest:
        deepest += 1
    budget = (deepest + 1) * largest
    rungs = []
    for s in range(deepest, -1, -1):
        count = math.ceil(round(budget / largest * eta**s / (s + 1), 9))
        for rung in range(s + 1):
            rungs.append((math.floor(count * eta**-rung), eta ** (s - rung)))
    return rungs


@pytest.mark.parametrize("space", list_spaces())
def test_without_halving_one_architecture_is_wholly_evaluated_an_ask(space: str) -> None:
    sampler = new_sampler(space=space)
    seen = set()
    for _ in range(50):
        (genome,) = sampler.ask()
        sampler.encoding.check(genome)
        assert sampler.evaluation_share == 1.0
        sampler.tell([(genome, score(genome))])
        seen.add(genome)
    assert len(seen) > 45


def test_the_published_brackets() -> None:
    """s_max = 4, B = 5 R for R = 81 and eta = 3; its n for s = 4, ..., 0 by the formula of algorithm 1."""
    halving = HalvingConfig(3, 1 / 81)
    assert halving.deepest == 4
    assert [halving.first(s) for s in (4, 3, 2, 1, 0)] == [81, 34, 15, 8, 5]


@pytest.mark.parametrize(("eta", "largest"), [(2, 2), (2, 8), (3, 27), (3, 30), (4, 64), (10, 10)])
def test_each_rung_is_as_large_and_as_dear_as_in_the_paper(eta: int, largest: int) -> None:
    sampler = new_sampler(eta, 1 / largest)
    rungs = rungs_of_the_paper(eta, largest)
    before: list[Genome] = []
    for count, part in rungs + rungs:  # the brackets come again
        asked = sampler.ask()
        assert (len(asked), sampler.evaluation_share) == (count, 1 / part)
        if sampler.rung:
            assert asked == sorted(before, key=score, reverse=True)[:count], "the best of the rung before"
        before = asked
        sampler.tell([(genome, score(genome)) for genome in asked])


def test_the_last_rung_of_a_bracket_is_exactly_a_whole_evaluation() -> None:
    for eta in range(2, 11):
        trials = Trials(new_sampler(eta, min(0.037, 1 / eta)), lambda genome, share: score(genome))
        trials.advance(100)
        best = trials.best()
        assert best is not None and best.share == 1
        assert {trial.share for trial in trials.done} > {1.0}


def test_the_first_rung_is_filled_up_with_others() -> None:
    sampler = new_sampler(3)
    first, again = sampler.ask(), sampler.ask()
    assert len(first) == len(again) == 27 and not set(first) & set(again)
    sampler.tell([(genome, score(genome)) for genome in first[:20]])
    more = sampler.ask()
    assert len(more) == 7 and sampler.evaluation_share == 1 / 27
    told = first[:20] + more
    sampler.tell([(genome, score(genome)) for genome in more])
    assert sampler.ask() == sorted(told, key=score, reverse=True)[:9]


def test_a_later_rung_is_the_same_until_some_of_it_is_told() -> None:
    sampler = new_sampler(3)
    first = sampler.ask()
    sampler.tell([(genome, score(genome)) for genome in first])
    rung = sampler.ask()
    assert sampler.ask() == rung and sampler.evaluation_share == 1 / 9
    # A late score of the first rung is from fewer images, and none of this one's.
    late = next(genome for genome in first if genome not in rung)
    sampler.tell([(late, 9.0)])
    assert sampler.ask() == rung
    sampler.tell([(genome, score(genome)) for genome in rung[3:]])
    assert sampler.ask() == rung[3:5], "the best third of those told, of which there are six"
    assert sampler.evaluation_share == 1 / 3


def test_one_goes_on_where_a_part_would_be_none() -> None:
    sampler = new_sampler(3)
    sampler.tell([(genome, score(genome)) for genome in sampler.ask()])
    rung = sampler.ask()
    for share in (1 / 3, 1.0):
        sampler.tell([(rung[-1], 0.5)])
        rung = sampler.ask()
        assert len(rung) == 1 and sampler.evaluation_share == share
    sampler.tell([(rung[0], 0.5)])
    assert len(sampler.ask()) == 12 and sampler.evaluation_share == 1 / 9, "the next bracket"


@pytest.mark.parametrize(
    ("eta", "smallest", "message"),
    [
        (1, 0.1, r"eta: must be 0 \(whole evaluations\) or at least 2, not 1"),
        (-3, 0.1, r"eta: must be 0 \(whole evaluations\) or at least 2, not -3"),
        (3, 0.5, r"smallest: must be from 0.0001 to 1 / eta = 0.3333, not 0.5"),
        (0, 1.5, r"smallest: must be from 0.0001 to 1, not 1.5"),
        (3, 0.0, r"smallest: must be from 0.0001 to 1 / eta = 0.3333, not 0.0"),
        (3, math.nan, r"smallest: must be from 0.0001 to 1 / eta = 0.3333, not nan"),
    ],
)
def test_wrong_options_are_refused(eta: int, smallest: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HalvingConfig(eta, smallest)
