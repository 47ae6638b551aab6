"""Every score through the commands of every family: searched for, selected by, stopped at, reported, and kept on resume."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

import fusenas.__main__
import retrain.__main__
from retrain.finished import RetrainRun
from search.methods import get_method
from search.sampling.method import SamplingMethod, SamplingRun
from training.tasks.classification import Classification

SCORES = {score.name: score for score in Classification.scores}
COMMON = {"threads": 1, "device": "cpu", "batch_size": 16, "weights.lr": 0.05}
SEARCH = COMMON | {"space": "nasbench201", "cells": 1, "channels": 4, "epochs": 2, "train_fraction": 0.5}
SAMPLED = {"evaluations": 4, "round": 2, "recalibrate": 1, "best": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "darts": {"eigenvalue_every": 0},
    "darts_pt": {"eigenvalue_every": 0, "epochs": 1, "selection.tune_epochs": 1},
    "random": SAMPLED,
    "local": SAMPLED,
    "evolution": SAMPLED | {"evolution.population": 2, "evolution.sample": 2},
    "enas": SAMPLED | {"guide": 4, "controller.batch": 2, "controller.hidden": 8},
}
RETRAIN = COMMON | {"cells": 3, "channels": 4, "epochs": 3, "auxiliary_weight": 0, "drop_path": 0, "validation_fraction": 0.3}


@pytest.fixture(scope="module")
def imbalanced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits, of which most are a 0 or a 1."""
    digits = load_digits()
    parts = {}
    for part, most, few, start in (("train", 100, 8, 0), ("test", 40, 4, 120)):
        places = [np.flatnonzero(digits.target == label)[start:][: most if label < 2 else few] for label in range(10)]
        chosen = np.concatenate(places)
        parts |= {f"x_{part}": (digits.images[chosen] * 15).astype(np.uint8), f"y_{part}": digits.target[chosen]}
    path = tmp_path_factory.mktemp("data") / "imbalanced.npz"
    np.savez(path, **parts)
    return path


def options(data: Path, run: Path, settings: dict[str, Any], *more: str) -> list[str]:
    given = {"data.name": "npz", "data.root": data, "run": run} | settings
    return [*(f"--{name}={value}" for name, value in given.items()), *more]


def search(method: str, arguments: list[str]) -> int:
    return get_method(method).main(arguments, pictures=False)


def history(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("method", FAMILIES)
def test_a_search_has_the_score_in_all_that_it_says(
    method: str, name: str, imbalanced: Path, tmp_path: Path, read_page: Callable[[Path], str]
) -> None:
    run, score = tmp_path / "run", SCORES[name]
    assert search(method, options(imbalanced, run, SEARCH | FAMILIES[method] | {"score": name})) == 0
    entries, log = history(run), (run / "log.txt").read_text()
    page = read_page(run)
    assert f"train/{name}" in entries[0] and "train/accuracy" in entries[0]
    if not isinstance(get_method(method), SamplingMethod):
        supernet = entries[-1][f"supernet_{name}"]
        assert supernet > 0 and f"supernet {score.words} {supernet:.4f}, derived cell " in log
        assert f"{score.words} of the supernet|{score.written(supernet)}|" in page
        return
    assert {entry["score"] for entry in entries if "evaluations" in entry} == {name}
    opened = SamplingRun.open(run)
    assert isinstance(opened, SamplingRun) and opened.scored_by == score
    values = [one.score for one in opened.evaluations]
    best = (max if score.larger_is_better else min)(values)
    assert entries[-1]["best_score"] == best >= 0 and values == [
        json.loads(line)["score"] for line in (run / "evaluations.jsonl").read_text().splitlines()
    ]
    assert opened.genotype == opened.evaluations[values.index(best)].genotype
    assert f"mean {score.words} of the round " in log and f", best {best:.4f}" in log
    assert f"|best {score.words}|{score.written(best)}|" in page
    assert float(next(csv.DictReader((run / "architectures.csv").open()))[f"score_{name}"]) == best
    assert f"scored by: {score.words} (from: supernet)" in (run / "report.md").read_text()


@pytest.mark.parametrize("method", ["darts_pt", "enas"])
def test_a_resumed_search_keeps_its_score(
    method: str, imbalanced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    settings = SEARCH | FAMILIES[method] | {"score": "macro_f1"}
    assert search(method, options(imbalanced, run, settings)) == 0
    results = [(run / file).read_bytes() for file in ("history.jsonl", "genotype.json")]
    latest = max((run / "checkpoints").glob("epoch_*.pt"))
    latest.unlink()
    assert search(method, ["--run", str(run), "--resume", "--score=accuracy"]) == 2
    assert "score" in capsys.readouterr().err
    assert search(method, ["--run", str(run), "--resume"]) == 0
    assert results == [(run / file).read_bytes() for file in ("history.jsonl", "genotype.json")]


@pytest.mark.parametrize(
    ("method", "name", "target"), [("darts", "loss", 50.0), ("random", "loss", 50.0), ("enas", "macro_f1", 1e-6)]
)
def test_a_search_stops_at_its_score(method: str, name: str, target: float, imbalanced: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = SEARCH | FAMILIES[method] | {"score": name, "stop.score": target}
    assert search(method, options(imbalanced, run, settings)) == 0
    assert f"validation {SCORES[name].words} " in (run / "log.txt").read_text()
    assert f" has reached the target of {target}" in (run / "log.txt").read_text()


@pytest.mark.parametrize("name", SCORES)
def test_a_retraining_reports_and_stops_at_the_score(
    name: str, imbalanced: Path, tmp_path: Path, read_page: Callable[[Path], str]
) -> None:
    run, score = tmp_path / "run", SCORES[name]
    target = 50.0 if name == "loss" else 1e-6
    more = ["--genotype=DARTS_V2", f"--score={name}", f"--stop.score={target}"]
    assert retrain.__main__.main(options(imbalanced, run, RETRAIN | {"epochs": 2}, *more)) == 0
    first = history(run)[0]
    assert {f"{level}/{value}" for level in ("train", "valid") for value in (name, "accuracy")} <= set(first)
    value = first[f"valid/{name}"]
    assert f"validation {score.words} {value:.4f} has reached the target of {target}" in (run / "log.txt").read_text()
    tested = (RetrainRun.open(run).metrics or {})[name]
    page = read_page(run)
    assert f"test {score.words}|{score.written(tested)}|" in page
    assert "balanced accuracy|" in page


def test_a_fit_refuses_a_score_that_there_is_not(imbalanced: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fusenas.__main__.main([f"--data={imbalanced}", f"--run={tmp_path / 'run'}", "--score=balanced_acuracy"]) == 2
    said = "fusenas: error: score: unknown score 'balanced_acuracy'; did you mean balanced_accuracy? "
    assert capsys.readouterr().err.startswith(said) and not (tmp_path / "run").exists()
