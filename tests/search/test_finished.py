"""Tests of search/finished.py: what any search leaves can be opened again, and what cannot is said in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from base.checks import InputError
from search import DifferentiableMethod, DifferentiableRun, SamplingRun, SearchRun, get_method, list_methods
from search.history import SamplingEpoch, SamplingRound, SearchEpoch
from supernet import Genotype, get_space
from training.run.checkpoint import Checkpoints

Find = Callable[[str], Path]

SIZE: dict[str, Any] = {
    "space": "nasbench201", "cells": 1, "channels": 4, "batch_size": 8, "data.limit": 16, "epochs": 2, "device": "cpu",
    "threads": 1,
}  # fmt: skip
DIFFERENTIABLE: dict[str, Any] = {"eigenvalue_every": 0, "alphas.lr": 0.1, "selection.tune_epochs": 1}
SAMPLING: dict[str, Any] = {"evaluations": 4, "round": 2, "recalibrate": 1}
OF_METHOD: dict[str, dict[str, Any]] = {
    "drnas": {"channels": 12, "stages.keep": [3], "alphas.warmup": 0},
    "evolution": {"evolution.population": 3, "evolution.sample": 2},
    "bayes": {"bayes.initial": 3, "bayes.batch": 2},
    "enas": {"guide": 4, "controller.batch": 2, "controller.hidden": 8},
    "hybrid": {"guide": 4, "controller.batch": 2, "controller.hidden": 8, "hybrid.population": 3},
    "nao": {"nao.initial": 3, "nao.proposals": 2, "nao.hidden": 8, "nao.updates": 5, "nao.steps": 2},
}


def search(method: str, path: Path, **settings: Any) -> None:
    family = DIFFERENTIABLE if isinstance(get_method(method), DifferentiableMethod) else SAMPLING
    together = SIZE | family | OF_METHOD.get(method, {}) | settings
    arguments = [f"--{name}={value}" for name, value in together.items()]
    assert get_method(method).main([*arguments, f"--run={path}"], pictures=False) == 0


@pytest.fixture(scope="module")
def find(tmp_path_factory: pytest.TempPathFactory) -> Find:
    """The directory of a finished search by a method; beside it, in "running", what it was after its first epoch."""
    found: dict[str, Path] = {}

    def find(method: str) -> Path:
        if method not in found:
            path = tmp_path_factory.mktemp(method) / "run"
            with pytest.MonkeyPatch.context() as patch:
                save = Checkpoints.save

                def copied(self: Checkpoints, epoch: int, state: dict[str, Any]) -> Path:
                    saved = save(self, epoch, state)
                    if epoch == 1:
                        shutil.copytree(path, path.with_name("running"))
                    return saved

                patch.setattr(Checkpoints, "save", copied)
                search(method, path)
            found[method] = path
        return found[method]

    return find


def copy_of(run: Path, to: Path) -> Path:
    shutil.copytree(run, to)
    return to


@pytest.mark.parametrize("method", list_methods())
def test_what_a_method_leaves_is_opened(method: str, find: Find) -> None:
    run = SearchRun.open(find(method))
    assert run.method is get_method(method) and type(run.config) is type(get_method(method).defaults())
    assert (run.config.space, run.config.batch_size, run.path) == ("nasbench201", 8, find(method))
    assert run.genotype == Genotype.load(find(method) / "genotype.json") and run.is_complete
    assert [entry.epoch for entry in run.history] == list(range(1, run.epochs + 1))
    assert (isinstance(run, DifferentiableRun), isinstance(run, SamplingRun)) == (method not in SAMPLERS, method in SAMPLERS)
    before = torch.get_rng_state()
    check_differentiable(run) if isinstance(run, DifferentiableRun) else check_sampling(run)
    assert torch.equal(torch.get_rng_state(), before), "the random state of the caller is moved"


SAMPLERS = [name for name in list_methods() if not isinstance(get_method(name), DifferentiableMethod)]


def check_differentiable(run: DifferentiableRun) -> None:
    """The mixture derives the genotype, and the network computes with it and has the weights of the checkpoint."""
    space = get_space("nasbench201")
    assert all(isinstance(entry, SearchEpoch) for entry in run.history)
    assert space.derive(run.mixture) == run.genotype
    assert run.history[-1].genotype == run.genotype.to_text("nasbench201")
    rounded = [[round(value, 4) for value in row] for row in run.mixture["cell"].tolist()]
    assert rounded == run.history[-1].mixture["cell"]
    for name, alpha in run.state["alphas"].items():
        assert torch.equal(run.architecture.alphas[name], alpha)
    check_network(run, run.state["network"], run.mixture)


def check_sampling(run: SamplingRun) -> None:
    """Its evaluations are those of the file, and the best of them is the genotype."""
    lines = [json.loads(line) for line in (run.path / "evaluations.jsonl").read_text().splitlines()]
    found = [(one.genotype.to_text("nasbench201"), one.score, one.share) for one in run.evaluations]
    assert found == [(line["genotype"], line["score"], line["share"]) for line in lines] and len(found) >= 4
    assert max(run.evaluations, key=lambda one: one.score).genotype == run.genotype
    assert [type(entry) for entry in run.history] == [SamplingEpoch, SamplingEpoch, SamplingRound, SamplingRound]
    mixture = {"cell": torch.full((6, 5), 0.2)}
    check_network(run, run.state["weights"]["network"], mixture)


def check_network(run: DifferentiableRun | SamplingRun, expected: dict[str, torch.Tensor], mixture: Any) -> None:
    state = run.network.state_dict()
    assert state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in expected)
    assert not run.network.training and run.network is run.network
    assert run.network(torch.randn(2, 1, 8, 8, generator=torch.Generator()), mixture).shape == (2, 10)


@pytest.mark.parametrize("method", ["darts_pt", "drnas", "random"])
def test_a_running_search_is_opened_as_it_is_and_not_touched(method: str, find: Find, tmp_path: Path) -> None:
    path = copy_of(find(method).with_name("running"), tmp_path / "run")
    # What the process writes at this moment.
    (path / "checkpoints" / ".epoch_0002.pt.0123abcd.tmp").write_bytes(b"half")
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    run = SearchRun.open(path)
    assert run.epochs == len(run.history) == 1 and not run.is_complete
    assert (run.genotype is None) == (method == "random")
    if isinstance(run, DifferentiableRun):
        assert get_space("nasbench201").derive(run.mixture) == run.genotype
    else:
        assert isinstance(run, SamplingRun) and run.evaluations == [] and run.network
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before


def test_a_search_without_a_checkpoint_has_a_configuration_and_no_state(find: Find, tmp_path: Path) -> None:
    path = copy_of(find("darts").with_name("running"), tmp_path / "run")
    shutil.rmtree(path / "checkpoints")
    for name in ("history.jsonl", "genotype.json"):
        (path / name).unlink()
    run = DifferentiableRun.open(path)
    assert (run.config.space, run.epochs, run.history, run.genotype) == ("nasbench201", 0, [], None)
    with pytest.raises(InputError, match=r"run: has no checkpoint yet; the first epoch leaves one$"):
        run.network  # noqa: B018


def test_a_search_in_a_table_has_no_network(tmp_path: Path) -> None:
    search("local", tmp_path / "run", evaluate="parameters")
    run = SamplingRun.open(str(tmp_path / "run"))
    assert len(run.evaluations) == 4
    with pytest.raises(InputError, match=r"run: has no network; its scores are from parameters$"):
        run.network  # noqa: B018


# What cannot be opened


def refused(path: Path, kind: type[SearchRun] = SearchRun) -> str:
    """Returns the message, one line that begins with the path."""
    with pytest.raises(InputError) as raised:
        run = kind.open(path)
        run.state  # noqa: B018
    message = str(raised.value)
    assert "\n" not in message and message.startswith(str(path))
    return message.removeprefix(str(path))


def test_what_is_no_run_of_a_search_is_refused(find: Find, tmp_path: Path) -> None:
    assert refused(tmp_path / "nowhere") == ": no such directory; name that of a run"
    (tmp_path / "file").touch()
    assert refused(tmp_path / "file") == ": not a directory; name that of a run"
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "empty") == ": holds no run; name the directory of one"
    (tmp_path / "empty" / "config.yaml").write_text("space: darts\n")
    assert refused(tmp_path / "empty") == ": holds no run; name the directory of one"
    other = refused(find("darts"), SamplingRun)
    assert other == ": is a run of search.darts, which is none for SamplingRun; SearchRun opens any"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("# Kind: darts", "# Kind: mine"), ": unknown method 'mine'; known: "),
        (("# Kind: darts", "# Kind: retrain"), ": is a retraining and no search; retrain.RetrainRun opens it"),
        (("# Kind: darts", "# Kind: fusenas"), ": is a run of fusenas, whose search is in "),
        (("# Kind: darts\n", ""), ": the run does not say what kind it is of; --resume, "),
        (("# Kind: darts", "# Kind: random"), "/config.yaml, line 14: partial: "),
        (("space: nasbench201", "space: mine"), "/config.yaml, line 3: space: unknown space 'mine'"),
        (("epochs: 2", "epochs: 3"), "/checkpoints/epoch_0002.pt: of another run (config_hash "),
        (("epochs: 2", "epochs: two"), "/config.yaml, line 9: epochs: must be a whole number, not two"),
        (("epochs: 2", "- ["), "/config.yaml, line "),
    ],
)
def test_a_configuration_that_is_not_that_of_a_known_search_is_refused(
    change: tuple[str, str], said: str, find: Find, tmp_path: Path
) -> None:
    path = copy_of(find("darts"), tmp_path / "run")
    content = (path / "config.yaml").read_text()
    assert content.count(change[0]) >= 1
    (path / "config.yaml").write_text(content.replace(*change, 1))
    message = refused(path)
    assert message.startswith(said)
    assert ("one of your own is known once its file is imported" in message) == ("mine" in change[1])


@pytest.mark.parametrize("name", ["history.jsonl", "genotype.json", "checkpoints/epoch_0002.pt", "data.json"])
def test_a_damaged_file_is_named(name: str, find: Find, tmp_path: Path) -> None:
    path = copy_of(find("darts"), tmp_path / "run")
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError) as raised:
        DifferentiableRun.open(path).network  # noqa: B018
    assert str(raised.value).startswith(str(path / name)) and "\n" not in str(raised.value)


def test_a_network_whose_code_has_changed_is_told(find: Find, tmp_path: Path) -> None:
    path = copy_of(find("darts"), tmp_path / "run")
    run = DifferentiableRun.open(path)
    name, _ = run.state["network"].popitem()
    message = f"checkpoint of epoch 2 does not fit, as the code or the file has changed since: network.{name}: is missing$"
    with pytest.raises(InputError, match=message):
        run.network  # noqa: B018
