"""Tests of retrain/page.py: what the report of a retraining says is what came of it."""

import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from retrain.api import retrain
from retrain.config import RetrainConfig
from retrain.page import verdict
from retrain.result import Compared
from supernet.genotypes.genotype import Genotype
from training.images.data import DataConfig, load_images
from training.optim import OptimizerConfig
from training.run.config import RunOptions, config_from_file, parse_command_line
from training.run.monitor import StopConfig

Read = Callable[[Path], str]


def small(**fields: Any) -> RetrainConfig:
    defaults: dict[str, Any] = {
        "genotype": "DARTS_V2", "channels": 4, "cells": 3, "epochs": 2, "batch_size": 30, "auxiliary_weight": 0.0,
        "validation_fraction": 0.25, "device": "cpu", "threads": 1,
        "data": DataConfig(limit=80, class_weights="balanced"), "weights": OptimizerConfig(lr=0.1, lr_min=0.0),
    }  # fmt: skip
    return RetrainConfig(**(defaults | fields))


def options(path: Path, resume: bool = False) -> RunOptions:
    return RunOptions(path, resume, False)


def history(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "history.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "a run"
    retrain(small(), options(path))
    return path


def test_a_page_has_the_numbers_of_the_metrics(finished: Path, read_page: Read) -> None:
    text, metrics = read_page(finished), json.loads((finished / "metrics.json").read_text())
    assert f"|test accuracy|{100 * metrics['accuracy']:.2f}%|macro recall|{100 * metrics['macro_recall']:.2f}%|" in text
    assert (
        f"{metrics['parameters']:,} parameters and {metrics['multiply_adds']:,} multiply-adds an image: C = 4, 3 cells." in text
    )
    assert f"On the {metrics['images']} test images" in text
    for name, key in (
        ("top-5 accuracy", "top5"),
        ("macro F1", "macro_f1"),
        ("expected calibration error", "calibration_error"),
    ):
        assert f"|{name}|{100 * metrics[key]:.2f}%|" in text
    assert f"|cross-entropy|{metrics['loss']:.4f} nats|" in text
    for number, scores in enumerate(metrics["per_class"]):
        shares = ["-" if scores[name] is None else f"{100 * scores[name]:.2f}%" for name in ("precision", "recall", "f1")]
        assert f"|{number}|{scores['images']}|{'|'.join(shares)}|" in text
    assert metrics["genotype"] in text and metrics["config_hash"] in text
    assert "|cells|3|null|" in text and "|weights of classes in the loss|balanced|" in text
    assert "Beside random genotypes" not in text
    assert f"report in {finished / 'report.html'}" in (finished / "log.txt").read_text()


def test_the_curves_are_those_of_the_history(finished: Path, read_page: Read) -> None:
    text, entries = read_page(finished), history(finished)
    assert [entry["epoch"] for entry in entries] == [1, 2]
    assert set(entries[0]) == {"epoch", "train/loss", "train/accuracy", "valid/loss", "valid/accuracy", "lr"}
    for entry in entries:
        for name, key in (("train", "train/loss"), ("validation", "valid/loss"), ("train", "train/accuracy"), ("lr", "lr")):
            assert f"|{name}, {entry['epoch']}: {entry[key]:.6g}|" in text
    assert "Classes are weighted in the training loss and not in that of the validation images." in text


def test_the_commands_do_what_they_say(finished: Path, read_page: Read) -> None:
    lines = re.findall(r"python -m [^|\n]+", read_page(finished).partition("How to use and repeat it")[2])
    evaluate, export, again = map(shlex.split, lines)
    assert evaluate == ["python", "-m", "retrain.evaluate", str(finished)]
    assert export == ["python", "-m", "retrain.export", str(finished), "--format", "onnx"]
    config, repeated = parse_command_line(RetrainConfig, again[3:], "retrain", "")
    genotype = str(finished / "genotype.json")
    assert config == replace(config_from_file(RetrainConfig, finished / "config.yaml"), genotype=genotype)
    assert repeated.run == finished.with_name("a run_again")
    assert Genotype.load(genotype).space == "darts"


def test_a_run_that_is_stopped_and_goes_on_says_so_and_keeps_its_curves(
    finished: Path, tmp_path: Path, read_page: Read
) -> None:
    path = tmp_path / "run"
    retrain(small(stop=StopConfig(score=1e-9)), options(path))
    text = read_page(path)
    assert "|epochs|1 of 2|" in text and "Ended after epoch 1 of 2, as asked by stop.score 1e-09" in text
    assert len(history(path)) == 1
    retrain(small(), options(path, resume=True))
    text = read_page(path)
    assert "with epochs 2 to 2" in text and "Ended after" not in text
    assert (path / "history.jsonl").read_bytes() == (finished / "history.jsonl").read_bytes()
    charts = [page.partition("|Curves|")[2].partition("|What was asked|")[0] for page in (text, read_page(finished))]
    assert charts[0] == charts[1] and charts[0]


def test_without_images_to_validate_on_there_are_no_curves_of_them(tmp_path: Path, read_page: Read) -> None:
    retrain(small(epochs=1, validation_fraction=0.0), options(tmp_path / "run"))
    text = read_page(tmp_path / "run")
    assert "validation" not in text.partition("|Curves|")[2].partition("|What was asked|")[0]
    assert set(history(tmp_path / "run")[0]) == {"epoch", "train/loss", "train/accuracy", "lr"}


def test_a_run_without_time_has_an_epoch_to_show(tmp_path: Path, read_page: Read) -> None:
    retrain(small(stop=StopConfig(hours=1e-9)), options(tmp_path / "run"))
    assert "|epochs|1 of 2|" in read_page(tmp_path / "run")


def test_random_genotypes_are_beside_it_the_best_first(tmp_path: Path, read_page: Read) -> None:
    path = tmp_path / "run"
    result = retrain(small(epochs=1, random_genotypes=2), options(path))
    text = read_page(path).partition("|Beside random genotypes|")[2].partition("|Curves|")[0]
    ranked = sorted([result, *result.others], key=lambda one: -one.test.accuracy)
    rows = "|".join(
        f"{'this genotype' if one is result else one.run.name}|{100 * one.test.accuracy:.2f}%|{one.parameters:,}|"
        f"{one.multiply_adds / 1e6:.2f}"
        for one in ranked
    )
    assert rows in text and "2 random genotypes of the space" in text
    assert all("Beside random" not in read_page(path / f"random_{number}") for number in range(2))


@pytest.mark.parametrize(
    ("accuracy", "others", "said"),
    [
        (0.9, [0.8, 0.7], "better than that of all 2 random genotypes of the space, trained in the same way (70.00% to "
                          "80.00%)."),
        (0.6, [0.8], "worse than that of all 1 random genotype of the space, trained in the same way (80.00%): here the "
                     "search"),
        (0.8, [0.8, 0.7], "within the range of 2 random genotypes of the space, trained in the same way (70.00% to 80.00%), "
                          "of which 1 did at least as well."),
    ],
)  # fmt: skip
def test_the_verdict_claims_what_the_numbers_allow(accuracy: float, others: list[float], said: str) -> None:
    found = verdict(compared(accuracy), [compared(value) for value in others], "accuracy")
    assert said in found and found.endswith(f"the more so with only {len(others)}.")


def compared(accuracy: float) -> Compared:
    return Compared("one", 1, 1, accuracy, f"{100 * accuracy:.2f}%")


def test_many_random_genotypes_are_not_called_few() -> None:
    others = [compared(number / 40) for number in range(20)]
    assert verdict(compared(0.9), others, "accuracy").endswith("the order may be another one.")


def test_names_of_classes_are_but_text(tmp_path: Path, read_page: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = "<img src=x onerror=alert(1)> & \"'"
    load = load_images

    def renamed(config: DataConfig, part: Any, device: Any, known: Any, *more: Any, **named: Any) -> Any:
        return replace(
            load(config, part, device, None, *more, **named), class_names=tuple(f"{hostile} {one}" for one in range(10))
        )

    monkeypatch.setattr("training.tasks.images.load_images", renamed)
    retrain(small(epochs=1), options(tmp_path / "run"))
    assert read_page(tmp_path / "run").count(f"|{hostile} 3|") == 2


def test_a_page_without_pictures_has_all_the_rest(tmp_path: Path, read_page: Read) -> None:
    retrain(small(epochs=1), replace(options(tmp_path / "run"), pictures=False))
    page, text = (tmp_path / "run" / "report.html").read_text(), read_page(tmp_path / "run")
    assert "Confusion matrix" not in page and "The cells of" not in page
    assert Genotype.load(tmp_path / "run" / "genotype.json").to_text("darts") in text and "|macro F1|" in text
