"""Local search against plain hill climbing."""

import itertools
from collections import Counter
from functools import cache
from random import Random

import pytest

from search.sampling.encoding import Encoding, Genome
from search.sampling.samplers.local import LocalConfig, LocalSampler, LocalSearchConfig
from search.sampling.trials import Trials
from supernet import get_space, list_spaces

both = pytest.mark.parametrize("first_improvement", [False, True])


def new_sampler(
    first_improvement: bool, seed: int = 0, space: str = "nasbench201", exclude: tuple[str, ...] = ()
) -> LocalSampler:
    config = LocalSearchConfig(space=space, exclude=list(exclude), local=LocalConfig(first_improvement))
    return LocalSampler(Encoding(get_space(space), exclude), config, seed)


@cache
def part(*edges: tuple[int, int]) -> float:
    return Random(str(edges)).random()


@cache
def score(genome: Genome) -> float:
    """Some local optima: a random number for each edge's operation and each two edges' that follow each other."""
    edges = list(enumerate(genome))
    return sum(map(part, edges)) + sum(itertools.starmap(part, itertools.pairwise(edges)))


def tell(sampler: LocalSampler, genomes: list[Genome]) -> None:
    sampler.tell([(genome, score(genome)) for genome in genomes])


@pytest.mark.parametrize("space", list_spaces())
def test_the_best_of_all_neighbours_is_moved_to(space: str) -> None:
    sampler = new_sampler(False, space=space)
    known: dict[Genome, float] = {}
    here: Genome | None = None
    climbs = restarts = 0
    for _ in range(40):
        asked = sampler.ask()
        # What hill climbing would do with what is known.
        while here is not None and not (fresh := [g for g in sampler.encoding.neighbours(here) if g not in known]):
            best = max(sampler.encoding.neighbours(here), key=lambda genome: known[genome])
            here = best if known[best] > known[here] else None
            climbs += here is not None
        if here is None:
            (here,) = asked
            assert here not in known
            restarts += 1
        else:
            assert sorted(asked) == sorted(fresh)
        tell(sampler, asked)
        known |= {genome: score(genome) for genome in asked}
    assert climbs > 5 and restarts > 1


@pytest.mark.parametrize("space", list_spaces())
def test_the_first_better_neighbour_is_moved_to(space: str) -> None:
    sampler = new_sampler(True, space=space)
    known: dict[Genome, float] = {}
    here: Genome | None = None
    climbs = restarts = 0
    for _ in range(600):
        (asked,) = sampler.ask()
        assert asked not in known
        if here is not None and asked not in sampler.encoding.neighbours(here):
            assert all(known.get(genome, 9e9) <= known[here] for genome in sampler.encoding.neighbours(here)), "an optimum"
            here = None
        tell(sampler, [asked])
        known[asked] = score(asked)
        if here is None:
            here, restarts = asked, restarts + 1
        # A better one that is known already is moved to without another evaluation.
        while better := [g for g in sampler.encoding.neighbours(here) if known.get(g, -1.0) > known[here]]:
            here, climbs = max(better, key=lambda genome: known[genome]), climbs + 1
    assert climbs > 5 and restarts > 1


def test_neighbours_come_in_random_order() -> None:
    first = []
    for seed in range(200):
        sampler = new_sampler(True, seed)
        (start,) = sampler.ask()
        tell(sampler, [start])
        first.append(sampler.encoding.neighbours(start).index(sampler.ask()[0]))
    assert set(first) == set(range(24)) and max(Counter(first).values()) < 30


@both
def test_it_ends_when_the_whole_space_is_known(first_improvement: bool) -> None:
    space = get_space("nasbench201")
    sampler = new_sampler(first_improvement, exclude=space.candidates[:3])
    trials = Trials(sampler, lambda genome, share: score(genome))
    trials.advance(1000)
    assert trials.exhausted and sampler.ask() == []
    found = [trial.genome for trial in trials.done]
    assert sorted(found) == sorted(sampler.encoding.all()), "each of the 64 once"


@both
def test_a_known_score_is_not_asked_for_again(first_improvement: bool) -> None:
    trials = Trials(new_sampler(first_improvement), lambda genome, share: score(genome))
    done = [trial.genome for trial in trials.advance(2000)]
    assert len(set(done)) == len(done)


def test_neighbours_that_are_left_out_count_as_no_better() -> None:
    sampler = new_sampler(False)
    tell(sampler, start := sampler.ask())
    neighbours = sorted(sampler.ask(), key=score)
    assert sampler.ask() == sampler.ask() and sorted(sampler.ask(), key=score) == neighbours, "until some are told"
    better = [genome for genome in neighbours if score(genome) > score(start[0])]
    tell(sampler, better[:1])
    assert set(sampler.ask()) == set(sampler.encoding.neighbours(better[0])) - {start[0], better[0]}
    sampler = new_sampler(False)
    tell(sampler, sampler.ask())
    sampler.ask()
    tell(sampler, neighbours[:1])
    (elsewhere,) = sampler.ask()
    assert elsewhere not in (*start, *neighbours)


def test_the_best_of_several_beginnings_is_begun_at() -> None:
    sampler = new_sampler(False)
    starts = [sampler.ask()[0] for _ in range(5)]
    assert len(set(starts)) == 5
    tell(sampler, starts)
    asked = sampler.ask()
    assert set(asked) | set(starts) >= set(sampler.encoding.neighbours(max(starts, key=score)))
