"""NAO: what it asks for, when, and on the benchmark table."""

import statistics
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

from base.seeds import derive_seed
from search.costs.tabular import Table, best_of_random
from search.sampling.encoding import Encoding, Genome
from search.sampling.samplers.nao import NaoConfig, NaoSampler, NaoSearchConfig, scaled, train
from search.sampling.samplers.sampler import Scored
from search.sampling.scores.table import TableScores
from search.sampling.trials import Trials
from supernet import get_space, list_spaces
from training.run.checkpoint import Checkpoints

FEW = ("none", "avg_pool_3x3", "skip_connect")
"""Without these there are 64 architectures in nasbench201."""
QUICK: dict[str, Any] = {"initial": 12, "proposals": 8, "seeds": 5, "hidden": 8, "updates": 10, "steps": 4}

every_space = pytest.mark.parametrize("space", list_spaces())


def new_sampler(space: str = "nasbench201", seed: int = 0, exclude: tuple[str, ...] = (), **options: Any) -> NaoSampler:
    config = NaoSearchConfig(space=space, exclude=list(exclude), nao=NaoConfig(**{**QUICK, **options}))
    return NaoSampler(Encoding(get_space(space), exclude), config, seed)


def score(genome: Genome) -> float:
    """The number of one operation, and a little that is different for all architectures."""
    return sum(column == 3 for column in genome) + 0.1 * Random(str(genome)).random()


def scored(genomes: list[Genome]) -> list[Scored]:
    return [(genome, score(genome)) for genome in genomes]


def begun(space: str = "nasbench201", **options: Any) -> tuple[NaoSampler, list[Genome]]:
    """A sampler that was told the scores of its first, random architectures, and these."""
    sampler = new_sampler(space, **options)
    first = sampler.ask()
    sampler.tell(scored(first))
    return sampler, first


# What it asks for


@every_space
def test_random_architectures_come_first(space: str) -> None:
    sampler = new_sampler(space)
    first, again = sampler.ask(), sampler.ask()
    assert len(first) == len(again) == 12 and len({*first, *again}) == 24
    sampler.tell(scored(first[:5]))
    missing = sampler.ask()
    assert len(missing) == 7 and not {*missing} & {*first, *again}
    assert not sampler.readings()


@every_space
def test_then_proposals_that_are_new(space: str) -> None:
    sampler, first = begun(space)
    seen = [*first]
    for _ in range(3):
        asked = sampler.ask()
        assert len(asked) == 8
        for genome in asked:
            sampler.encoding.check(genome)
        seen += asked
        assert len({*seen}) == len(seen)
        sampler.tell(scored(asked[::2]))
    assert {*sampler.readings()} == {"prediction", "reconstruction", "entropy"}


@every_space
def test_proposals_are_the_decoded_moves_of_the_best(space: str) -> None:
    """The shortest move of all seeds, from the best to the worst, then the next."""
    sampler, first = begun(space, step=0.5, steps=20, updates=20)
    encoding = sampler.encoding
    values = torch.tensor([encoding.values(genome) for genome in first])
    targets = scaled([score(genome) for genome in first], "rank")
    model = train(encoding.variables, values, targets, sampler.config.nao, derive_seed(0, "nao", 12))
    best = sorted(first, key=score, reverse=True)[:5]
    states = model.encode(torch.tensor([encoding.values(genome) for genome in best]))
    expected: list[Genome] = []
    for step in (0.5 * number for number in range(1, 21)):
        decoded = [encoding.of_values(row) for row in model.decode(model.move(states, step)).tolist()]
        expected += [genome for genome in dict.fromkeys(decoded) if genome not in [*first, *expected]]
    assert len(expected) >= 8
    assert sampler.ask() == expected[:8]


@pytest.mark.parametrize(("step", "filled"), [(1e-6, 2), (1.0, 0)])
def test_random_ones_make_up_for_missing_proposals(step: float, filled: int) -> None:
    """Moves of no length lead back to the seeds, which have been evaluated."""
    options: dict[str, Any] = {"proposals": 2, "hidden": 32, "updates": 60, "step": step, "steps": 8}
    sampler, _ = begun(**options)
    again, _ = begun(**options)
    again.random.seed(1)
    assert len({*sampler.ask()} - {*again.ask()}) == filled


@pytest.mark.parametrize("told", [1, 3])
def test_every_architecture_of_a_small_space_is_asked_for_once(told: int) -> None:
    """And once all have been, those of which the score never came, until there is nothing left."""
    sampler = new_sampler(exclude=FEW)
    every, seen, late = {*sampler.encoding.all()}, [], set()
    while len(seen) < len(every):
        asked = sampler.ask()
        seen += asked
        sampler.tell(scored(asked[::told]))
        late |= {*asked} - {*asked[::told]}
    assert len(seen) == 64 and {*seen} == every
    assert {*sampler.ask()} == late
    sampler.tell(scored([*late]))
    assert sampler.ask() == []


def test_a_space_of_one_architecture() -> None:
    sampler = new_sampler(exclude=(*FEW, "nor_conv_1x1"))
    sampler.tell(scored(sampler.ask()))
    assert sampler.ask() == []


@every_space
def test_it_climbs(space: str) -> None:
    """After 50 random architectures one training is enough for proposals better than the best of these, on average."""
    encoding = Encoding(get_space(space))
    sampler = NaoSampler(encoding, NaoSearchConfig(space=space), 0)
    first = sampler.ask()
    sampler.tell(scored(first))
    asked = sampler.ask()
    assert len(first) == 50 and len(asked) == 25
    # Of nasbench201 the few best are soon evaluated: there are not 25 better ones.
    reached = {"darts": statistics.fmean, "nasbench201": max}[space](map(score, asked))
    assert reached > max(map(score, first))
    assert statistics.fmean(map(score, asked)) > statistics.fmean(map(score, first)) + 2 * statistics.pstdev(map(score, first))


# What it learns from


def test_targets() -> None:
    assert scaled([0.3, 0.1, 0.9, 0.3], "rank").tolist() == pytest.approx([0.5, 0.0, 1.0, 0.5])
    assert scaled([0.3, 0.1, 0.9, 0.3], "score").tolist() == pytest.approx([0.25, 0.0, 1.0, 0.25])
    for target in ("rank", "score"):
        assert scaled([0.2, 0.2], target).tolist() == [0.5, 0.5]


def test_a_score_that_is_told_again_replaces_the_old_one() -> None:
    sampler, first = begun()
    worst = min(first, key=score)
    before = sampler.ask()
    sampler.tell([(worst, 100.0)])
    assert sampler.scores[worst] == 100.0 and sampler.ask() != before


def test_training_depends_on_its_seed_alone() -> None:
    """Not on the state of torch's generator, which it leaves alone, nor on whether gradients are recorded."""
    encoding = Encoding(get_space("darts"))
    random = Random(0)
    values = torch.tensor([encoding.values(encoding.random(random)) for _ in range(12)])

    def weights(seed: int) -> list[torch.Tensor]:
        model = train(encoding.variables, values, torch.linspace(0, 1, 12), NaoConfig(**QUICK), seed)
        return [parameter.detach() for parameter in model.parameters()]

    state = torch.get_rng_state()
    one = weights(0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(7)
    with torch.no_grad():
        assert all(map(torch.equal, one, weights(0)))
    assert not any(map(torch.equal, one, weights(1)))


@every_space
@pytest.mark.parametrize("moment", ["trained", "told"])
def test_it_goes_on_bit_for_bit_in_the_middle_of_a_search(space: str, moment: str, tmp_path: Path) -> None:
    sampler, _ = begun(space)
    sampler.tell(scored(sampler.ask()[::2]))
    asked = sampler.ask()
    if moment == "told":
        sampler.tell(scored(asked))
    Checkpoints(tmp_path).save(1, sampler.state_dict())
    saved = Checkpoints(tmp_path).latest()
    assert saved is not None
    resumed = new_sampler(space)
    resumed.load_state_dict(saved[1])
    assert resumed.readings() == sampler.readings()
    for _ in range(2):
        expected = sampler.ask()
        assert resumed.ask() == expected and resumed.readings() == sampler.readings()
        for each in (sampler, resumed):
            each.tell(scored(expected[1:]))


# Configuration


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initial": 0}, "initial: must be at least 1, not 0"),
        ({"proposals": 0}, "proposals: must be at least 1, not 0"),
        ({"hidden": 7}, "hidden: must be even, not 7"),
        ({"target": "range"}, "target: must be one of rank, score, not range"),
        ({"step": 0.0}, "step: must be above 0, not 0.0"),
        ({"lr": float("nan")}, "lr: must be above 0, not nan"),
        ({"prediction": 1.0}, "prediction: must lie between 0 and 1, both excluded, not 1.0"),
        ({"entropy": float("inf")}, "entropy: must be from -1000 to 1000, not inf"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        NaoConfig(**options)
    assert str(error.value) == message


def test_something_has_to_be_learned() -> None:
    with pytest.raises(ValueError, match=r"^nao.initial: must be below evaluations = 50, or nothing is learned, not 50$"):
        NaoSearchConfig(evaluations=50)


# On the table


@pytest.mark.slow
def test_it_beats_random_search_on_the_table(shared_data: Callable[[str], Path]) -> None:
    """Mean test accuracy of the incumbent after 100 evaluations; random search has an exact one."""
    table, encoding = Table.read(shared_data("nasbench201/cifar10.csv.gz")), Encoding(get_space("nasbench201"))
    found = []
    for seed in range(4):
        trials = Trials(NaoSampler(encoding, NaoSearchConfig(), seed), TableScores(encoding, table))
        trials.advance(100)
        best = trials.best()
        assert best is not None
        found.append(table[encoding.genotype(best.genome)].test_accuracy)
    assert statistics.fmean(found) > best_of_random(table, 100)[0]
