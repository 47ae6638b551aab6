"""The hybrid: who proposes, who lives, and from what the controller learns."""

import io
from dataclasses import replace
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from torch import Tensor

from search.sampling.encoding import Encoding, Genome
from search.sampling.samplers.hybrid import HybridConfig, HybridSampler, HybridSearchConfig
from search.sampling.samplers.reinforce import ControllerConfig, Experience
from search.sampling.samplers.sampler import Scored
from search.sampling.trials import Trials
from supernet import get_space, list_spaces

ENCODINGS = {name: Encoding(get_space(name)) for name in list_spaces()}
SMALL = Encoding(get_space("nasbench201"), ("none", "skip_connect", "avg_pool_3x3"))
"""64 architectures."""
SIGNIFICANT = 1e-4

every_space = pytest.mark.parametrize("encoding", ENCODINGS.values(), ids=ENCODINGS.keys())


def new_sampler(
    encoding: Encoding, seed: int = 0, batch: int = 10, replay_epochs: int = 0, **options: float | str
) -> HybridSampler:
    hybrid = replace(HybridConfig(), **options)
    controller = ControllerConfig(hidden=16, batch=batch, replay_epochs=replay_epochs)
    config = HybridSearchConfig(space=encoding.space.name, controller=controller, hybrid=hybrid)
    return HybridSampler(encoding, config, seed)


def score(genome: Genome) -> float:
    """The share of 3 by 3 convolutions, and something that no edge has by itself."""
    return sum(column == 3 for column in genome) / len(genome) + 0.05 * Random(str(genome)).random()


def tell(sampler: HybridSampler, genomes: list[Genome]) -> None:
    sampler.tell([(genome, score(genome)) for genome in genomes])


def weights(sampler: HybridSampler) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in sampler.policy.controller.parameters()]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(one, other, strict=True))


def edits(one: Genome, other: Genome) -> int:
    return sum(a != b for a, b in zip(one, other, strict=True))


def part(genome: Genome, block: tuple[int, ...]) -> Genome:
    return tuple(genome[place] for place in block)


@every_space
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_controller_has_its_share_of_the_proposals(encoding: Encoding, share: float) -> None:
    sampler = new_sampler(encoding, share=share, population=5)
    total, own = 0, 0
    for _ in range(25):
        asked = sampler.ask()
        assert len(asked) == 10
        own += sum(genome in sampler.proposed for genome in asked)
        total += len(asked)
        for genome in asked:
            encoding.check(genome)
        tell(sampler, asked)
    assert own == share * total if share in (0, 1) else binomtest(own, total, share).pvalue > SIGNIFICANT


@every_space
def test_children_are_mutated_winners(encoding: Encoding) -> None:
    """Tournaments are among so many that the best nearly always takes part; before there is a population they are random."""
    sampler = new_sampler(encoding, share=0, population=6, tournament=60, crossover_share=0, edge_share=0)
    first = sampler.ask()
    assert len(set(first)) > 6
    tell(sampler, first)
    best = max(first[-6:], key=score)
    for _ in range(5):
        assert {edits(child, best) for child in sampler.ask()} == {1}


@every_space
def test_crossed_children_have_the_blocks_of_two_winners(encoding: Encoding) -> None:
    sampler = new_sampler(encoding, share=0, population=2, tournament=1, crossover_share=1, edge_share=0)
    one, other = (encoding.random(Random(seed)) for seed in (0, 1))
    tell(sampler, [one, other])
    mixed = 0
    for child in (child for _ in range(10) for child in sampler.ask()):
        changed = [
            block for block in encoding.blocks if all(part(child, block) != part(parent, block) for parent in (one, other))
        ]
        assert len(changed) <= 1, "only the mutation is from neither"
        mixed += edits(child, one) > 1 < edits(child, other)
    assert mixed > 10


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.sampled_from([*SMALL.all()][:5]), st.sampled_from([0.1, 0.2, 0.3])), max_size=12),
    st.integers(1, 5),
    st.integers(1, 4),
)
def test_who_lives(scored: list[Scored], count: int, together: int) -> None:
    """However many are told at once: ageing keeps the last; elitist the best, each architecture with its latest score."""
    ageing = new_sampler(SMALL, population=count)
    elitist = new_sampler(SMALL, population=count, survival="elitist")
    alive: list[Scored] = []
    for start in range(0, len(scored), together):
        part = scored[start : start + together]
        ageing.tell(part)
        elitist.tell(part)
        left = list((dict(alive) | dict(part)).items())
        alive = []
        while left and len(alive) < count:
            alive.append(left.pop(left.index(max(left, key=lambda one: one[1]))))
    assert [(genome, points) for genome, points, _ in ageing.population] == scored[-count:]
    assert [(genome, points) for genome, points, _ in elitist.population] == alive


def test_all_that_are_told_enter_the_population_whoever_proposed_them() -> None:
    sampler = new_sampler(SMALL, share=0.5, population=20)
    first, second = sampler.ask(), sampler.ask()
    assert {genome in sampler.proposed for genome in first + second} == {True, False}
    tell(sampler, second[::2])
    tell(sampler, first[::2])
    assert [genome for genome, _, _ in sampler.population] == second[::2] + first[::2]


def test_reinforce_takes_the_controllers_own_proposals_alone() -> None:
    sampler, other = new_sampler(SMALL), new_sampler(SMALL)
    before = weights(sampler)
    asked = sampler.ask()
    own, children = ([genome for genome in asked if (genome in sampler.proposed) == is_own] for is_own in (True, False))
    assert len(own) > 2 and children
    tell(sampler, children)
    assert same(weights(sampler), before) and sampler.readings() == {}
    tell(sampler, own)
    other.policy.learn([(genome, score(genome), *other.policy.log_prob([genome])) for genome in own])
    for found, expected in zip(weights(sampler), weights(other), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert not same(weights(sampler), before)


def test_a_child_that_the_controller_once_proposed_is_not_its_own() -> None:
    sampler = new_sampler(SMALL, share=0, population=1)
    sampler.propose(50)
    assert len(sampler.proposed) > 20
    tell(sampler, [*sampler.proposed][:1])
    asked = sampler.ask()
    assert not {*asked} & {*sampler.proposed}


def test_the_controller_learns_from_the_population_with_importance_weights() -> None:
    """The further steps are those of a policy whose memory the population is; children have their present probability."""
    sampler, other = new_sampler(SMALL, share=0, replay_epochs=3), new_sampler(SMALL, replay_epochs=3)
    members: list[Experience] = []
    for _ in range(5):
        asked = sampler.ask()
        members += [
            (genome, score(genome), log_prob) for genome, log_prob in zip(asked, other.policy.log_prob(asked), strict=True)
        ]
        other.policy.replay(members[-30:])
        tell(sampler, asked)
    assert same(weights(sampler), weights(other))
    assert sampler.population == members[-30:]
    everything = [*SMALL.all()]
    log_probs = sampler.policy.log_prob(everything)
    best, worst = max(everything, key=score), min(everything, key=score)
    assert log_probs[everything.index(best)] > log_probs[everything.index(worst)] + 0.5


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("survival", ["ageing", "elitist"])
def test_it_finds_the_best_of_the_small_space(seed: int, survival: str) -> None:
    """Within 60 evaluations; at random, one of 64 would be found by 61 in 100 seeds."""
    sampler = new_sampler(SMALL, seed, batch=5, replay_epochs=4, population=10, survival=survival)
    trials = Trials(sampler, lambda genome, share: score(genome))
    trials.advance(60)
    found = trials.best()
    assert found is not None and found.genome == max(SMALL.all(), key=score)


@every_space
@pytest.mark.parametrize("survival", ["ageing", "elitist"])
def test_a_state_goes_on_to_the_bit(encoding: Encoding, survival: str) -> None:
    """Through a file, between two draws, with proposals that are not told yet."""

    def new() -> HybridSampler:
        return new_sampler(encoding, 4, replay_epochs=2, population=12, survival=survival)

    def go_on(sampler: HybridSampler) -> list[Genome]:
        tell(sampler, asked[1:])
        seen = [sampler.draw()]
        for _ in range(3):
            genomes = sampler.ask()
            seen += [*genomes, sampler.draw()]
            tell(sampler, genomes)
        return seen

    sampler = new()
    for _ in range(2):
        tell(sampler, sampler.ask())
    asked = sampler.ask()
    sampler.draw()
    file = io.BytesIO()
    torch.save(sampler.state_dict(), file)
    file.seek(0)
    expected = go_on(sampler)
    torch.manual_seed(99)
    resumed = new()
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert go_on(resumed) == expected
    assert same(weights(resumed), weights(sampler)) and resumed.population == sampler.population


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("share", 1.1, "must be from 0 to 1, not 1.1"),
        ("population", 0, "must be at least 1, not 0"),
        ("survival", "all", "must be one of ageing, elitist, not all"),
        ("tournament", 0, "must be at least 1, not 0"),
        ("crossover_share", -0.1, "must be from 0 to 1, not -0.1"),
        ("crossover_points", 0, "must be at least 1, not 0"),
        ("edge_share", 2.0, "must be from 0 to 1, not 2.0"),
    ],
)
def test_values_out_of_range_are_refused(field: str, value: float | str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: {message}$"):
        replace(HybridConfig(), **{field: value})


def test_a_space_that_cannot_be_cut_so_often_is_refused() -> None:
    HybridSearchConfig(space="nasbench201", hybrid=HybridConfig(crossover_points=5))
    with pytest.raises(ValueError, match=r"^hybrid\.crossover_points: space nasbench201 can be cut in 5 places, not in 6$"):
        HybridSearchConfig(space="nasbench201", hybrid=HybridConfig(crossover_points=6))
    HybridSearchConfig(space="nasbench201", hybrid=HybridConfig(crossover_points=6, crossover_share=0))
