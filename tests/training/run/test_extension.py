"""Tests of training/run/extension.py: a run that went on for longer is one that was begun so."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import retrain.__main__
from search import get_method

SIZE: dict[str, Any] = {
    "data.name": "digits", "data.limit": 32, "batch_size": 16, "cells": 1, "channels": 2, "threads": 1, "device": "cpu",
}  # fmt: skip
SEARCH = {"space": "nasbench201"}
GRADIENT = {"eigenvalue_every": 0, "validate_every": 5}
SAMPLING = {"evaluations": 2, "round": 1, "recalibrate": 1, "evaluated_images": 8}
CHANGING = {"relaxation.temperature": 2, "relaxation.temperature_end": 1, "alphas.warmup": 0.4}
CONSTANT = {"weights.lr": 0.05, "weights.lr_min": 0.05}
CELL = "|nor_conv_1x1~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|skip_connect~1|nor_conv_1x1~2|"
RUNS: dict[str, dict[str, Any]] = {
    "darts": SEARCH | GRADIENT | CHANGING,
    "random": SEARCH | SAMPLING | {"stop.hours": 1e-9},
    "retrain": {"genotype": CELL, "auxiliary_weight": 0, "drop_path": 0.3},
}


def start(name: str, path: Path, *more: str, **settings: Any) -> int | str | None:
    main: Callable[..., int] = retrain.__main__.main if name == "retrain" else get_method(name).main
    arguments = [f"--{option}={value}" for option, value in settings.items()]
    try:
        return main([*arguments, f"--run={path}", *more])
    except SystemExit as stopped:
        return stopped.code


def results(path: Path) -> dict[str, bytes]:
    """The last checkpoint, with the hash of the configuration, and what came of it."""
    files = [max((path / "checkpoints").iterdir()), path / "history.jsonl", path / "genotype.json", path / "config.yaml"]
    return {file.name: file.read_bytes() for file in files if file.is_file()}


@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("darts", "restart"),
        pytest.param("darts", "tail", marks=pytest.mark.slow),
        pytest.param("retrain", "restart", marks=pytest.mark.slow),
        pytest.param("retrain", "tail", marks=pytest.mark.slow),
    ],
)
def test_the_bits_are_those_of_a_run_with_the_same_record(
    name: str, way: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = SIZE | RUNS[name]
    assert start(name, tmp_path / "run", **settings, epochs=2) == 0
    before = results(tmp_path / "run")
    assert start(name, tmp_path / "run", "--resume", "--epochs=3") == 2
    changing = "weights.lr_min, drop_path" if name == "retrain" else (
        "weights.lr_min, alphas.warmup, relaxation.temperature_end"
    )  # fmt: skip
    told = capsys.readouterr().err
    assert f"with epochs 2, not 3, and its schedules ({changing}) change with them; add --extend restart (" in told
    assert told.count("\n") == 1 and results(tmp_path / "run") == before
    assert start(name, tmp_path / "run", "--resume", "--epochs=4", f"--extend={way}", "--stop.hours=1e-9") == 0
    assert start(name, tmp_path / "run", "--resume", "--epochs=4", f"--extend={way}", "--stop.hours=null") == 0, "once more"
    capsys.readouterr()
    assert start(name, tmp_path / "new", "--config", str(tmp_path / "run/config.yaml")) == 0
    assert results(tmp_path / "run") == results(tmp_path / "new")
    said = "The run was begun for 2 epochs and went on for longer; its schedules "
    assert said in (tmp_path / "run/log.txt").read_text() and said in (tmp_path / "run/report.html").read_text()
    assert start(name, tmp_path / "run", "--resume") == 0
    assert results(tmp_path / "run") == results(tmp_path / "new")


@pytest.mark.parametrize("name", [pytest.param("darts", marks=pytest.mark.slow), "retrain"])
def test_where_nothing_changes_more_epochs_are_enough(name: str, tmp_path: Path) -> None:
    settings = SIZE | RUNS[name] | CONSTANT
    for changing in ("relaxation.temperature_end", "alphas.warmup", "drop_path"):
        settings.pop(changing, None)
    settings |= {"drop_path": 0} if name == "retrain" else {"validate_every": 1}
    assert start(name, tmp_path / "run", **settings, epochs=1) == 0
    config = tmp_path / "mine.yaml"
    config.write_bytes((tmp_path / "run/config.yaml").read_bytes())
    for _ in ("first", "once more"):
        assert start(name, tmp_path / "run", "--resume", "--config", str(config), "--epochs=2") == 0
    assert start(name, tmp_path / "new", **settings, epochs=2) == 0
    assert "nothing of its schedule depends on that" in (tmp_path / "run/log.txt").read_text()
    one, other = results(tmp_path / "run"), results(tmp_path / "new")
    assert one["history.jsonl"] == other["history.jsonl"]
    weights = "weights.safetensors"
    if name == "retrain":
        assert (tmp_path / "run" / weights).read_bytes() == (tmp_path / "new" / weights).read_bytes()


@pytest.mark.slow
def test_a_search_whose_evaluations_have_begun_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = SIZE | RUNS["random"]
    assert start("random", tmp_path / "run", **settings, epochs=2) == 0
    # It was stopped before its second epoch: the weights may have more of them.
    assert start("random", tmp_path / "run", "--resume", "--epochs=3", "--extend=tail", "--stop.hours=null") == 0
    said = (tmp_path / "run/log.txt").read_text()
    assert "epoch 3/5" in said and "round 5/5" in said
    capsys.readouterr()
    assert start("random", tmp_path / "run", "--resume", "--epochs=4", "--extend=tail") == 2
    assert "was begun with 3 and its selection or its evaluations have begun" in capsys.readouterr().err


def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert start("darts", tmp_path / "run", **SIZE | RUNS["darts"] | {"alphas.warmup": 0}, epochs=1) == 0
    before = results(tmp_path / "run")
    for more, said in (
        (["--extend=tail"], "--extend: goes on with a run that is there, for longer; it needs --resume"),
        (["--extend=tail", "--resume"], "--extend: needs more than the 1 epochs of the run; set --epochs"),
        (["--extend=slow", "--resume"], "--extend: invalid choice: 'slow' (choose from"),
        (["--resume", "--batch_size=8", "--epochs=2", "--extend=tail"], "the run was started with batch_size 16, not 8;"),
    ):
        capsys.readouterr()
        assert start("darts", tmp_path / ("run" if "--resume" in more else "new"), *more) == 2
        assert said in capsys.readouterr().err
        assert results(tmp_path / "run") == before and not (tmp_path / "new").exists()
