"""The sampler of every method keeps the contract of `search.Sampler`: see `search.testing.check_sampler`."""

from functools import cache
from typing import Any

import pytest

from search.methods import get_method, list_methods
from search.sampling.encoding import Encoding
from search.sampling.method import SamplingMethod
from search.testing import check_sampler, example_costs
from supernet import get_space, list_spaces

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
ASKS = {"bayes": 4, "enas": 4, "hybrid": 4, "nao": 4}
"""Asks of those whose models take time to train, in the smaller space; 7 of the others, for several generations, rungs and
neighbourhoods."""


@cache
def configured(name: str, options: tuple[str, ...], space: str) -> Any:
    """The configuration that the method's command line makes of its defaults."""
    config, _ = get_method(name).parse([f"--space={space}", *options])
    return config


QUICK = [case for case in CASES if case.values[0] not in ASKS or case.values[2] == "nasbench201"]


@pytest.mark.parametrize(("name", "options", "space"), QUICK)
def test_every_sampler_keeps_the_contract(name: str, options: tuple[str, ...], space: str) -> None:
    check_sampler(get_method(name).sampler, configured(name, options, space), ASKS.get(name, 7))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options", "space"), [case for case in CASES if case.values[0] in ASKS])
def test_models_that_are_trained_more_often_keep_it(name: str, options: tuple[str, ...], space: str) -> None:
    check_sampler(get_method(name).sampler, configured(name, options, space), 7)


@pytest.mark.parametrize(("name", "options", "space"), CASES)
def test_another_seed_makes_other_proposals(name: str, options: tuple[str, ...], space: str) -> None:
    encoding, config = Encoding(get_space(space)), configured(name, options, space)
    one, other = (get_method(name).sampler(encoding, config, seed, example_costs) for seed in (1, 2))
    assert one.ask() != other.ask()
