"""Tests of training/run/base.py."""

from dataclasses import dataclass, field

import pytest

from base.checks import FieldError
from search.differentiable.config import SearchConfig
from search.sampling.config import SamplingConfig
from search.sampling.samplers.evolution import EvolutionSearchConfig
from training.run.base import MAY_CHANGE, RunConfig


@dataclass
class Config(RunConfig):
    """A run with a field that may change."""

    longer: int = field(default=1, metadata=MAY_CHANGE)
    wider: int = 2


@dataclass
class Wider(Config):
    """Another default."""

    longer: int = 5


def test_marked_fields_may_change_whatever_their_default():
    assert RunConfig().may_change() == frozenset()
    assert Config().may_change() == Wider().may_change() == {"longer"}


def test_what_a_search_may_change():
    assert SearchConfig().may_change() == {"stop", "graph", "recompute", "tabular", "histograms_every"}
    sampling = {"stop", "recompute", "evaluations", "tabular", "histograms_every"}
    assert SamplingConfig().may_change() == EvolutionSearchConfig().may_change() == sampling
    table = SamplingConfig(space="nasbench201", evaluate="table", tabular="table.csv")
    assert table.may_change() == sampling - {"tabular"}


def test_threads_are_checked_in_every_run():
    with pytest.raises(FieldError, match=r"^threads: must be at least 1, not 0$"):
        Wider(threads=0)
