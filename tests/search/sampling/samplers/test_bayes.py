"""What the method `bayes` can be told, and which sampler that makes."""

import subprocess
import sys
from pathlib import Path

import pytest

from search.bayes import METHOD
from search.sampling.encoding import Encoding
from search.sampling.samplers.bayes import BayesConfig, BayesSampler
from search.sampling.samplers.model_based import ModelBasedSampler
from search.sampling.samplers.optuna_study import OptunaSampler
from supernet import get_space


def new_sampler(*options: str) -> BayesSampler:
    config, _ = METHOD.parse(["--space=nasbench201", *options])
    return BayesSampler(Encoding(get_space("nasbench201")), config, seed=0)


@pytest.mark.parametrize(
    ("model", "other", "kind"),
    [
        ("bananas", "gp", ModelBasedSampler),
        ("gp", "bananas", ModelBasedSampler),
        ("optuna_tpe", "optuna_gp", OptunaSampler),
        ("optuna_gp", "optuna_tpe", OptunaSampler),
    ],
)
def test_a_model_proposes_its_own_architectures(model: str, other: str, kind: type) -> None:
    found = []
    for name in (model, model, other):
        sampler = new_sampler(f"--bayes.model={name}", "--bayes.initial=4")
        asked = []
        for _ in range(7):
            asked += (new := sampler.ask())
            sampler.tell([(genome, float(sum(genome))) for genome in new])
        found.append(asked)
        assert isinstance(sampler._model, kind) or name == other
    assert found[0] == found[1] != found[2]


def test_bananas_with_paths_and_a_process_with_operations_are_the_defaults() -> None:
    assert METHOD.parse([])[0].bayes == BayesConfig("bananas")
    for model, encoding in (("bananas", "path"), ("gp", "one_hot")):
        asked = []
        for options in ((), (f"--bayes.encoding={encoding}", "--bayes.batch=10")):
            sampler = new_sampler(f"--bayes.model={model}", *options)
            sampler.tell([(genome, float(sum(genome))) for genome in sampler.ask()])
            asked.append(sampler.ask())
        assert asked[0] == asked[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "tpe"}, "model: must be one of bananas, gp, optuna_tpe, optuna_gp, not tpe"),
        ({"model": None}, "model: must be one of bananas, gp, optuna_tpe, optuna_gp, not null"),
        ({"encoding": "paths"}, "encoding: must be one of path, one_hot, null, not paths"),
        ({"initial": 0}, "initial: must be at least 1, not 0"),
        ({"batch": 0}, "batch: must be at least 1, not 0"),
        ({"storage": "x"}, "storage: has no meaning for bananas; leave it out"),
        ({"model": "gp", "study": "x"}, "study: has no meaning for gp; leave it out"),
        ({"model": "optuna_tpe", "encoding": "path"}, "encoding: has no meaning for optuna_tpe; leave it out"),
        ({"model": "optuna_gp", "batch": 3}, "batch: has no meaning for optuna_gp; leave it out"),
        ({"model": "optuna_gp", "study": "x"}, "study: a study has a name in a storage alone; set storage, or"),
        ({"model": "optuna_gp", "storage": ""}, "storage: must not be empty"),
        ({"model": "optuna_gp", "storage": "x", "study": ""}, "study: must not be empty"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError) as refused:
        BayesConfig(**options)
    assert str(refused.value).startswith(message)


def test_without_optuna_its_samplers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "search.sampling.samplers.optuna_study", raising=False)
    monkeypatch.setitem(sys.modules, "optuna", None)
    new_sampler("--bayes.model=gp")
    with pytest.raises(ValueError, match=r"^bayes.model: optuna_tpe needs Optuna: pip install 'fusenas\[bayes\]'$"):
        new_sampler("--bayes.model=optuna_tpe")


@pytest.mark.slow
def test_optuna_is_imported_for_its_own_samplers_alone(tmp_path: Path) -> None:
    program = """
import sys
from search.bayes import METHOD
from search.sampling.encoding import Encoding
from supernet import get_space
config, _ = METHOD.parse(["--space=nasbench201"])
METHOD.sampler(Encoding(get_space("nasbench201")), config, 0).ask()
print("optuna" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
