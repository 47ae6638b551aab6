"""What holds for the sampler of every method: see `search.sampling.samplers.Sampler`."""

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch

from search.methods import get_method, list_methods
from search.sampling.encoding import Encoding, Genome
from search.sampling.method import SamplingMethod
from search.sampling.samplers.sampler import Sampler, Scored
from supernet import get_space, list_spaces
from training.run.checkpoint import Checkpoints

SMALL_EVOLUTION = ("--evolution.population=6", "--evolution.elite=2")
VARIANTS: dict[str, list[tuple[str, ...]]] = {
    "random": [(), ("--halving.eta=3", "--halving.smallest=0.1")],
    "local": [("--local.first_improvement=true",), ("--local.first_improvement=false",)],
    "evolution": [
        ("--evolution.name=ageing", *SMALL_EVOLUTION),
        ("--evolution.name=generational", *SMALL_EVOLUTION),
        ("--evolution.name=generational", "--evolution.selection=roulette", *SMALL_EVOLUTION),
        ("--evolution.name=nsga2", *SMALL_EVOLUTION),
    ],
    "bayes": [
        ("--bayes.model=bananas", "--bayes.initial=4", "--bayes.batch=3"),
        ("--bayes.model=gp", "--bayes.initial=4", "--bayes.batch=3"),
        ("--bayes.model=optuna_tpe", "--bayes.initial=4"),
    ],
    "enas": [("--controller.batch=3",), ("--controller.batch=3", "--controller.replay_epochs=2")],
    "hybrid": [("--controller.batch=3", "--hybrid.population=5")],
    "nao": [("--nao.initial=12", "--nao.proposals=8", "--nao.hidden=8", "--nao.updates=10", "--nao.steps=4")],
}
"""Options that make another sampler of a method, or a small one; what is not here is tried as it is published."""
CASES = [
    pytest.param(name, options, space, id="-".join([name, *(option.lstrip("-") for option in options), space]))
    for name in list_methods(SamplingMethod)
    for options in VARIANTS.get(name, [()])
    for space in list_spaces()
]
ASKS = 7  # of the sampler in each part of a test; enough for several generations, rungs and neighbourhoods

every_sampler = pytest.mark.parametrize(("name", "options", "space"), CASES)


@cache
def configured(name: str, options: tuple[str, ...], space: str) -> Any:
    """The configuration that the method's command line makes of its defaults."""
    config, _ = get_method(name).parse([f"--space={space}", *options])
    return config


@cache
def encoding_of(space: str) -> Encoding:
    return Encoding(get_space(space))


def costs(genome: Genome) -> dict[str, float]:
    """Some costs, the more the later the operations are in the list of candidates."""
    return {"parameters": float(sum(genome)), "multiply_adds": 10.0 * max(genome), "latency_ms": sum(genome) / 10 + 1.0}


def new_sampler(name: str, options: tuple[str, ...], space: str, seed: int = 0) -> Sampler:
    return get_method(name).sampler(encoding_of(space), configured(name, options, space), seed, costs)


def score(genome: Genome) -> float:
    """The share of the edges with one operation, and a little that is different for all architectures."""
    return sum(column == 3 for column in genome) / len(genome) + 0.1 * Random(str(genome)).random()


def scored(genomes: list[Genome]) -> list[Scored]:
    return [(genome, score(genome)) for genome in genomes]


Asked = list[tuple[list[Genome], float]]


def advance(sampler: Sampler, asks: int = ASKS, told: Callable[[list[Genome]], list[Genome]] = list) -> Asked:
    """What it asks for, with the share, while it is told the scores of what `told` leaves of that."""
    asked = []
    for _ in range(asks):
        genomes = sampler.ask()
        asked.append((list(genomes), sampler.evaluation_share))
        sampler.tell(scored(told(genomes)))
    return asked


def assert_valid(asked: Asked, space: str) -> None:
    for genomes, share in asked:
        assert genomes, "the space is far from exhausted"
        assert 0 < share <= 1
        for genome in genomes:
            assert isinstance(genome, tuple) and all(type(column) is int for column in genome)
            encoding_of(space).check(genome)


def disturb() -> None:
    """Random states that no sampler may depend on."""
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)


@every_sampler
def test_proposals_are_architectures_of_the_space(name: str, options: tuple[str, ...], space: str) -> None:
    sampler = new_sampler(name, options, space)
    asked = advance(sampler)
    assert_valid(asked, space)
    for _ in range(5):
        encoding_of(space).check(sampler.draw())
    for genome, _ in sampler.gathered():
        encoding_of(space).check(genome)
    assert all(isinstance(value, (int, float)) for value in sampler.readings().values())


@every_sampler
def test_it_may_be_asked_again_before_it_is_told(name: str, options: tuple[str, ...], space: str) -> None:
    sampler = new_sampler(name, options, space)
    for _ in range(ASKS):
        first, second, third = ([*sampler.ask()] for _ in range(3))
        assert_valid([(genomes, sampler.evaluation_share) for genomes in (first, second, third)], space)
        sampler.tell(scored(first + third))
    # What was asked for in between may come late.
    sampler.tell(scored(second))
    assert_valid(advance(sampler), space)


@every_sampler
@pytest.mark.parametrize("kept", [0, 1, 2], ids=["nothing", "one", "half"])
def test_a_part_may_be_told(name: str, options: tuple[str, ...], space: str, kept: int) -> None:
    """Nothing at all, one of each ask, or every second: what is left out is never heard of again."""
    sampler = new_sampler(name, options, space)
    parts: list[Callable[[list[Genome]], list[Genome]]] = [
        lambda genomes: [],
        lambda genomes: genomes[-1:],
        lambda genomes: genomes[::2],
    ]
    assert_valid(advance(sampler, told=parts[kept]), space)
    assert_valid(advance(sampler), space)


@every_sampler
@pytest.mark.parametrize("before", [0, 1, 2, ASKS])
def test_it_goes_on_bit_for_bit_from_a_checkpoint(
    name: str, options: tuple[str, ...], space: str, before: int, tmp_path: Path
) -> None:
    """Saved before an ask, and again before it is told; of what was asked for before, a part has been told."""
    sampler, seen = new_sampler(name, options, space), {}
    advance(sampler, before, told=lambda genomes: genomes[::2])
    Checkpoints(tmp_path / "idle").save(before, sampler.state_dict())
    asked = sampler.ask()
    Checkpoints(tmp_path / "asked").save(before, sampler.state_dict())
    sampler.tell(scored(asked))
    expected = advance(sampler), [sampler.draw() for _ in range(3)]
    for moment in ("idle", "asked"):
        disturb()
        resumed = new_sampler(name, options, space)
        saved = Checkpoints(tmp_path / moment).load_latest()
        assert saved is not None
        resumed.load_state_dict(saved[1])
        assert moment == "asked" or resumed.ask() == asked
        resumed.tell(scored(asked))
        seen[moment] = advance(resumed), [resumed.draw() for _ in range(3)]
    assert seen == {"idle": expected, "asked": expected}


@every_sampler
def test_the_seed_alone_decides(name: str, options: tuple[str, ...], space: str) -> None:
    first = advance(new_sampler(name, options, space, seed=1))
    disturb()
    assert advance(new_sampler(name, options, space, seed=1)) == first
    assert advance(new_sampler(name, options, space, seed=2)) != first
