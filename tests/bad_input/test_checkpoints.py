"""Checkpoints that load and are built otherwise: every part in every wrong form is refused by name,
and a run goes on from the last one that is good."""

import copy
import dataclasses
import hashlib
import io
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from base.checks import InputError
from base.texts import show
from retrain.config import RetrainConfig
from retrain.trainer import Retraining
from search import DifferentiableMethod, get_method, list_methods
from search.differentiable.trainer import BilevelSearch
from search.sampling.encoding import Encoding
from search.sampling.method import SamplingMethod
from search.sampling.prefilter import Prefiltered
from search.sampling.samplers.sampler import Sampler
from search.sampling.trainer import SamplingSearch
from search.sampling.trials import Trials
from search.testing import example_costs, example_score
from supernet import Genotype, get_space
from training.hardware import Hardware
from training.loop import Trainer
from training.run.config import CONFIG_FILE, RunOptions, config_from_file
from training.run.directory import RunDirectory
from training.run.structure import fields
from training.tasks.task import open_task

Refuse = Callable[..., str]
Run = Callable[..., int | str | None]
Files = Callable[[Path], Mapping[str, bytes | str | None]]
Edit = tuple[str, Any]
"""Name of the part that was edited, and the whole state with it."""


LAST = "checkpoints/epoch_0002.pt"


# Every edit of a state


def named(name: str, key: Any) -> str:
    own = key if isinstance(key, str) else show(key)
    return f"{name}.{own}" if name else own


def entries(value: Any) -> list[tuple[Any, Any]]:
    """Returns the entries to look into: of a container with many that are alike the first and the last."""
    found = list(value.items() if isinstance(value, dict) else enumerate(value))
    alike = len(found) > 8 and len({type(entry) for _, entry in found}) == 1
    return [found[0], found[-1]] if alike else found


def with_entry(container: Any, key: Any, value: Any) -> Any:
    if isinstance(container, dict):
        return {**container, key: value}
    return type(container)([*container[:key], value, *container[key + 1 :]])


def others(value: Any) -> Iterator[Any]:
    """Yields values of another kind, or another shape, than `value`."""
    kinds = [None, "text", [1, 2], {"x": 1}, True, 7, -0.5, torch.zeros(1, 7)]
    numbers = (int, float)
    for other in kinds:
        if type(other) is not type(value) and not (type(other) in numbers and type(value) in numbers):
            yield other
    if isinstance(value, Tensor):
        yield value.to(torch.int32)
        yield value.unsqueeze(0)
        yield value.to("meta")
        yield value.to_sparse() if value.ndim else value.double()
        if value.is_floating_point():
            yield torch.full_like(value, float("nan"))


def edits(value: Any, name: str = "") -> Iterator[Edit]:
    """Yields every edit of every part below `value`."""
    if isinstance(value, dict):
        yield f"{named(name, 'unknown')}", {**value, "unknown": 1}
        yield f"{named(name, '(1, 2)')}", {**value, (1, 2): 1}
    elif isinstance(value, list | tuple):
        yield name, type(value)([*value, None])
    if not isinstance(value, dict | list | tuple):
        return
    for key, entry in entries(value):
        own = named(name, key)
        if isinstance(value, dict):
            yield own, {other: kept for other, kept in value.items() if other != key}
        elif isinstance(value, tuple):
            yield name, value[:key] + value[key + 1 :]
        for other in others(entry):
            yield own, with_entry(value, key, other)
        for inner, changed in edits(entry, own):
            yield inner, with_entry(value, key, changed)


# Edits that a run may have made itself, or that it does not read.
HARMLESS = [
    r"param_groups\.0\.(foreach|maximize|capturable|differentiable|fused|amsgrad|nesterov|decoupled_weight_decay)$",
    r"param_groups\.0\.(unknown|\(1, 2\))$",
    r"(scores|proposed|passed|running|losses)\.[^.]*$",  # one more is known, or one less
    r"history\.\d+\.(unknown|\(1, 2\)|valid/\w+|supernet_accuracy|derived_accuracy)$",
    r"history\.\d+\.(baseline|entropy|prediction|reconstruction)$",
    r"history\.\d+\.(mean_score|best_score|genotype|test_accuracy|exhausted|eigenvalue|evaluations|decided)$",
    r"history\.\d+\.decided(\.[^.]+)*$",  # scores that were compared, of which there may be fewer or more
    r"(baseline|entropy|here|theta|waiting|accuracy)$",  # None is one of their values
    r"random\.2$",
    r"trials\.\d+\.2$",
    r"^(weights\.weight_optimizer|optimizer)\.state\.\d+$",  # of a parameter that no step has changed
    r"sampler(\.inner)?\.evaluation_share$|^evaluation_share$",
]


def check_every_edit(state: Any, structure: Callable[[str, Any], None]) -> int:
    """Each edit is refused in a line that begins with the name of the part; returns their number."""
    structure("", state)
    count, taken = 0, []
    for name, edited in edits(state):
        count += 1
        try:
            structure("", edited)
        except InputError as error:
            told = str(error)
            beside = name.rsplit(".", 2)[0]
            # The history and the trials are compared with one another.
            is_cost = name.endswith(".evaluations") and told.startswith("trials.done: costs ")
            assert is_cost or told.startswith((name, f"key of {name}", beside)), (name, told)
            assert "\n" not in told and len(told) < 700
        else:
            taken.append(name)
    unexpected = [name for name in taken if not any(re.search(pattern, name) for pattern in HARMLESS)]
    assert not unexpected, sorted(set(unexpected))
    return count


# Samplers


def sampler_of(method: str, **more: Any) -> Sampler:
    """Returns a new sampler with some fields of its configuration changed."""
    chosen = get_method(method)
    assert isinstance(chosen, SamplingMethod)
    config = dataclasses.replace(chosen.defaults(), space="nasbench201")
    for name, value in more.items():
        setattr(getattr(config, name.partition("__")[0]), name.partition("__")[2], value)
    return chosen.sampler(Encoding(get_space("nasbench201")), config, 0, example_costs)


SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in list_methods(SamplingMethod)},
    "evolution generational": ("evolution", {"evolution__name": "generational"}),
    "evolution nsga2": ("evolution", {"evolution__name": "nsga2"}),
    "random halving": ("random", {"halving__eta": 3}),
    "bayes gp": ("bayes", {"bayes__model": "gp"}),
    "bayes optuna_tpe": ("bayes", {"bayes__model": "optuna_tpe"}),
    "local all": ("local", {"local__first_improvement": False}),
}


QUICK = ("random", "evolution", "local", "random halving")
"""Samplers whose states are small."""


@pytest.mark.parametrize(
    ("name", "prefiltered"),
    [
        *(pytest.param(name, False, marks=[] if name in QUICK else pytest.mark.slow) for name in SAMPLERS),
        ("random halving", True),
    ],
)
def test_states_of_samplers(name: str, prefiltered: bool) -> None:
    """Whole and halfway through a generation, of every sampler and every variant of one."""
    method, more = SAMPLERS[name]
    if "optuna" in name:
        pytest.importorskip("optuna")
    small = {
        "evolution": {"evolution__population": 6, "evolution__sample": 3},
        "nao": {"nao__initial": 4, "nao__proposals": 2, "nao__updates": 2, "nao__hidden": 4},
        "bayes": {"bayes__initial": 4, "bayes__batch": None if "optuna" in name else 2},
        "enas": {"controller__hidden": 4, "controller__batch": 4, "controller__replay_epochs": 1},
        "hybrid": {"controller__hidden": 4, "controller__batch": 4, "hybrid__population": 4},
    }

    def whole() -> Trials:
        sampler = sampler_of(method, **small.get(method, {}), **more)
        if prefiltered:
            sampler = Prefiltered(sampler, lambda genome, share: float(sum(genome)), 2)
        return Trials(sampler, lambda genome, share: example_score(genome))

    trials = whole()
    count = 0
    for until in (3, 9):
        trials.advance(until)
        count += check_every_edit({"trials": trials.state_dict()}, fields({"trials": whole().structure()}))
    assert count > 150


# Trainers


SIZE = {"space": "nasbench201", "cells": 1, "channels": 2, "batch_size": 16, "data.limit": 64, "epochs": 2, "threads": 1}
OF_METHOD: dict[str, dict[str, Any]] = {
    "drnas": {"channels": 12, "stages.keep": [3], "alphas.warmup": 0},
    "pcdarts": {"channels": 8},
    "shapley": {"channels": 4, "alphas.warmup": 0, "shapley.permutations": 1},
    "darts_pt": {"epochs": 1, "selection.tune_epochs": 1},
    "evolution": {"evolution.population": 3, "evolution.sample": 2},
    "bayes": {"bayes.initial": 3, "bayes.batch": 2},
    "enas": {"guide": 4, "controller.batch": 2, "controller.hidden": 8},
    "hybrid": {"guide": 4, "controller.batch": 2, "controller.hidden": 8, "hybrid.population": 3},
    "nao": {"nao.initial": 3, "nao.proposals": 2, "nao.hidden": 8, "nao.updates": 2},
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{method: (method, {}) for method in (*list_methods(), "retrain")},
    "adam": ("darts", {"weights.name": "adam", "tie_cells": False}),
    "adagrad": ("darts", {"weights.name": "adagrad"}),
    "without momentum": ("darts", {"weights.momentum": 0}),
    "latency": ("random", {"latency": "measured"}),
    "validated": ("retrain", {"validation_fraction": 0.25}),
}


def run_of(method: str, more: Mapping[str, Any], run: Run, finished: Mapping[str, Path]) -> Path:
    """Returns the directory of a run: of one that is there already, if it is such a one."""
    if not more and f"search.{method}" in finished:
        return finished[f"search.{method}"]
    if method == "retrain":
        return finished["retrain"] if not more else run_retrain(run, more)
    family = {"eigenvalue_every": 0} if isinstance(get_method(method), DifferentiableMethod) else SAMPLING
    settings = SIZE | family | OF_METHOD.get(method, {}) | more
    assert (
        get_method(method).main([*(f"--{name}={value}" for name, value in settings.items()), "--run=run"], pictures=False) == 0
    )
    return Path("run")


SAMPLING = {"evaluations": 4, "round": 2, "recalibrate": 1, "evaluated_images": 16}


def run_retrain(run: Run, more: Mapping[str, Any]) -> Path:
    assert run("retrain", *(f"--{name}={value}" for name, value in more.items()), "--run=run") == 0
    return Path("run")


def new_trainer(path: Path, method: str) -> Trainer:
    """Returns the trainer of the run as a new process makes it."""
    if method == "retrain":
        config = config_from_file(RetrainConfig, path / CONFIG_FILE)
        hardware = Hardware.of(config, config.graph)
        task = open_task(config, hardware, RunOptions(path, True, False), lambda line: None)
        return Retraining(config, Genotype.load(path / "genotype.json"), task, hardware)
    chosen = get_method(method)
    settings = config_from_file(type(chosen.defaults()), path / CONFIG_FILE)
    hardware = Hardware.of(settings)
    task, directory = (
        open_task(settings, hardware, RunOptions(path, True, False), lambda line: None),
        RunDirectory(path, settings),
    )
    if isinstance(chosen, SamplingMethod):
        return SamplingSearch(chosen.sampler, settings, task, directory, hardware, None, False)
    return BilevelSearch(settings, task, directory, hardware, None, False)


@pytest.mark.parametrize(
    "name", [name if name == "retrain" else pytest.param(name, marks=pytest.mark.slow) for name in VARIANTS]
)
def test_states_of_trainers(name: str, here: Path, run: Run, finished: dict[str, Path]) -> None:
    """A new trainer takes what was saved, and loads nothing; every edit is refused."""
    method, more = VARIANTS[name]
    path = run_of(method, more, run, finished)
    trainer = new_trainer(path, method)
    before = copy.deepcopy(trainer.state_dict())
    for file in sorted((path / "checkpoints").iterdir()):
        content = torch.load(io.BytesIO(file.read_bytes().partition(b"\n")[2]), weights_only=True)
        epochs, state = content["epoch"], content["state"]["trainer"]
        trainer.structure(epochs)("", state)
    assert same(trainer.state_dict(), before)
    # One that has the candidates of the state spares building a network for each edit.
    trainer.load_state_dict(state)
    assert check_every_edit(state, trainer.structure(epochs)) > 250


@pytest.mark.slow
def test_what_a_search_has_chosen(finished: dict[str, Path]) -> None:
    """The parts of a search that descends a gradient, without those that every trainer has."""
    path = finished["search.darts"]
    trainer = new_trainer(path, "darts")
    content = torch.load(io.BytesIO((path / LAST).read_bytes().partition(b"\n")[2]), weights_only=True)
    state = content["state"]["trainer"]
    own = {part: state[part] for part in ("partial", "alphas", "betas", "keep", "alpha_optimizer")}

    def structure(name: str, value: Any) -> None:
        trainer.structure(2)(name, {**value, **others})

    others = {part: state[part] for part in state if part not in own}
    assert check_every_edit(own, structure) > 50


def same(one: Any, other: Any) -> bool:
    leaves, others = tree_leaves(one), tree_leaves(other)
    equal = (torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(leaves, others, strict=True))
    return all(equal)


# Runs


def edited(file: Path, edit: Callable[[Any], Any], header: str | None = None) -> None:
    """Writes the checkpoint with its content changed and a checksum that is right."""
    content = torch.load(io.BytesIO(file.read_bytes().partition(b"\n")[2]), weights_only=True)
    buffer = io.BytesIO()
    torch.save(edit(content), buffer)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    file.write_bytes(f"fusenas checkpoint 1 {digest}\n".encode() + buffer.getvalue())


def in_state(**parts: Any) -> Callable[[Any], Any]:
    return lambda content: {**content, "state": {**content["state"], **parts}}


def in_trainer(**parts: Any) -> Callable[[Any], Any]:
    return lambda content: in_state(trainer={**content["state"]["trainer"], **parts})(content)


DAMAGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "epoch": (lambda content: {**content, "epoch": None}, "epoch: is None, where a whole number from 1 is needed"),
    "none": (lambda content: {**content, "epoch": 0}, "epoch: is 0, where a whole number from 1 is needed"),
    "true": (lambda content: {**content, "epoch": True}, "epoch: is True, where a whole number from 1 is needed"),
    "state": (lambda content: {**content, "state": None}, "state: is None, where a dictionary is needed"),
    "score": (in_state(score="best"), "score: is the text 'best', where a number is needed"),
    "part": (in_trainer(network=None), "trainer.network: is None, where a dictionary is needed"),
    "history": (in_trainer(history=[]), "trainer.history: is a list of 0, where an entry for each of "),
    "more": (in_trainer(random=7), "trainer.random: does not belong there"),
}


@pytest.mark.parametrize("command", ["search.darts", "retrain"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_no_good_checkpoint(refuse: Refuse, here: Path, command: str, damage: str, finished: dict[str, Path]) -> None:
    shutil.copytree(finished[command], here / "run")
    edit, message = DAMAGES[damage]
    for file in (here / "run/checkpoints").iterdir():
        edited(file, edit)
    told = refuse(command, "--run=run", "--resume")
    assert told.startswith(f"run/checkpoints/epoch_0002.pt: {message}")
    assert told.endswith("; of 2 checkpoints none is good; undo what has changed since, or begin anew with --overwrite")
    (here / "run/checkpoints/epoch_0001.pt").unlink()
    assert "none is good" not in refuse(command, "--run=run", "--resume")


@pytest.mark.parametrize("command", ["search.darts", "retrain"])
@pytest.mark.parametrize("damage", ["part", "pipe", "cut"])
def test_the_last_good_checkpoint_leads_to_the_same_bits(
    here: Path, command: str, damage: str, finished: dict[str, Path], run: Run, files: Files
) -> None:
    shutil.copytree(finished[command], here / "run")
    whole = files(here / "run")
    file = here / "run/checkpoints/epoch_0002.pt"
    if damage == "part":
        edited(file, DAMAGES["part"][0])
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        file.unlink()
        os.mkfifo(file)
    assert run(command, "--run=run", "--resume") == 0
    result = "genotype.json" if command != "retrain" else "weights.safetensors"
    for name in ("checkpoints/epoch_0001.pt", "checkpoints/epoch_0002.pt", "history.jsonl", result):
        assert files(here / "run")[name] == whole[name]
    reason = {"part": "trainer.network: is None, ", "cut": "the checkpoint is damaged", "pipe": "is no regular file"}[damage]
    log = (here / "run/log.txt").read_text()
    assert f" not gone on from: run/checkpoints/epoch_0002.pt: {reason}" in log and "resumed after epoch 1 of 2" in log


def test_a_folder_in_the_place_of_a_checkpoint(refuse: Refuse, here: Path, finished: dict[str, Path]) -> None:
    """It would stand in the way of the checkpoint to be written."""
    shutil.copytree(finished["search.darts"], here / "run")
    (here / "run/checkpoints/epoch_0003.pt").mkdir()
    told = refuse("search.darts", "--run=run", "--resume")
    assert (
        told == "run/checkpoints/epoch_0003.pt: is a folder, where a file is needed; delete it, or begin anew with --overwrite"
    )
