"""A task of a user's own, which is no classification, through the commands: one number is learnt from each image."""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import retrain.__main__
import retrain.evaluate
import retrain.export
import search.darts
import search.random
from retrain.weights import Trained
from training.format import ImageFormat
from training.hardware import Hardware
from training.images.data import DataConfig
from training.metrics import Batch, Meter, Reading, Score
from training.tasks.images import ImageTask
from training.tasks.task import TASKS, register_task

COMMON = {"task": "digit_value", "threads": 1, "device": "cpu", "batch_size": 16, "data.limit": 96, "weights.lr": 0.02}
SEARCH = COMMON | {"space": "nasbench201", "cells": 1, "channels": 4, "epochs": 2}
RETRAIN = COMMON | {"cells": 1, "channels": 4, "epochs": 5, "auxiliary_weight": 0, "drop_path": 0, "validation_fraction": 0.2}


class ErrorMeter(Meter):
    """Measures the mean squared error."""

    names = ("squared_error",)

    def sums(self, outputs: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        return {"squared_error": (outputs.squeeze(1) - batch.targets).square().sum()}


class DigitValue(ImageTask):
    """The digit that an image shows, as a number from 0 to 1."""

    scores = (Score("squared_error", larger_is_better=False, lowest=0),)

    @classmethod
    def answers(cls, form: ImageFormat) -> Tensor:
        return torch.tensor([int(name) / 9 for name in form.class_names])

    @classmethod
    def output_names(cls, form: ImageFormat) -> tuple[str, ...]:
        return ("value",)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return F.mse_loss(outputs.squeeze(1), batch.targets)

    def new_meter(self, device: torch.device | str) -> Meter:
        return ErrorMeter(device)


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    with TASKS.temporarily():
        register_task("digit_value")(DigitValue)
        yield


def options(run: Path, settings: Mapping[str, Any], *more: str) -> list[str]:
    return ["--run", str(run), *(f"--{name}={value}" for name, value in settings.items()), *more]


def history(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def says_nothing_of_classes(run: Path) -> bool:
    """Neither the report nor the log, of which settings are no part, speaks of a classification."""
    page, log = ((run / name).read_text() for name in ("report.html", "log.txt"))
    told = page.partition("What was asked")[0] + page.partition("<h2>Images</h2>")[2] + log
    return not any(word in told.lower() for word in ("accurac", "recall", "top-5", "classes", "class_weights"))


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("searched") / "run"
    assert search.darts.main(options(run, SEARCH)) == 0
    return run


@pytest.fixture(scope="module")
def retrained(searched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("retrained") / "run"
    genotype = f"--genotype={searched / 'genotype.json'}"
    assert retrain.__main__.main(options(run, RETRAIN, genotype, "--random_genotypes=1")) == 0
    return run


def test_a_differentiable_search_descends_its_loss(searched: Path) -> None:
    first, last = history(searched)
    assert last["train/loss"] == pytest.approx(last["train/squared_error"]) and last["train/loss"] < first["train/loss"]
    assert {"valid/squared_error", "supernet_squared_error", "derived_squared_error"} <= set(last)
    assert not any("accuracy" in name for name in last)
    assert says_nothing_of_classes(searched)
    page = (searched / "report.html").read_text()
    assert f"<dt>squared error of the supernet</dt><dd>{last['supernet_squared_error']:.4f}</dd>" in page
    assert "1 outputs" in page


def test_a_sampling_search_maximises_its_score(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert search.random.main(options(run, SEARCH | {"epochs": 1, "evaluations": 4, "round": 2, "recalibrate": 1})) == 0
    trained, *rounds = history(run)
    assert trained["train/loss"] == pytest.approx(trained["train/squared_error"])
    scores = [json.loads(line)["score"] for line in (run / "evaluations.jsonl").read_text().splitlines()]
    assert rounds[-1]["best_score"] == min(scores) > 0
    assert says_nothing_of_classes(run)


def test_a_retraining_has_numbers_of_its_own(retrained: Path) -> None:
    metrics = json.loads((retrained / "metrics.json").read_text())
    assert {"count", "loss", "squared_error"} <= set(metrics) and "accuracy" not in metrics
    assert metrics["count"] == 360 and metrics["loss"] == pytest.approx(metrics["squared_error"])
    entries = history(retrained)
    assert entries[-1]["train/squared_error"] < entries[0]["train/squared_error"] and "valid/squared_error" in entries[0]
    assert says_nothing_of_classes(retrained)
    page = (retrained / "report.html").read_text()
    assert f"<dt>test squared error</dt><dd>{metrics['squared_error']:.4f}</dd>" in page
    assert "Its squared error is " in page and "that of all 1 random genotype" in page


def test_the_evaluation_is_that_of_the_saved_network(retrained: Path) -> None:
    task = DigitValue.open(DataConfig(limit=96), Hardware(torch.device("cpu")))
    network = Trained.load(retrained).network
    (batch,) = task.load_test().in_order(1000).epoch(0)
    with torch.no_grad():
        outputs = network(batch.inputs)
    assert outputs.shape == (360, 1)
    error = (outputs[:, 0] - batch.targets).square().mean().item()
    assert json.loads((retrained / "metrics.json").read_text())["squared_error"] == pytest.approx(error, rel=1e-5)


def test_a_run_goes_on_to_the_same_bits(searched: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(searched, tmp_path / "run"))
    (run / "checkpoints" / "epoch_0002.pt").unlink()
    (run / "history.jsonl").unlink()
    assert search.darts.main(options(run, SEARCH, "--resume")) == 0
    assert (run / "history.jsonl").read_bytes() == (searched / "history.jsonl").read_bytes()


@pytest.mark.parametrize("command", [search.darts.main, search.random.main, retrain.__main__.main])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"stop.score": -0.5}, "stop.score: squared error must be at least 0 to stop at, not -0.5"),
        ({"score": "accuracy"}, "score: unknown score 'accuracy'; the task has squared_error, loss"),
        (
            {"score": "squared_eror"},
            "score: unknown score 'squared_eror'; did you mean squared_error? the task has",
        ),
    ],
)
def test_a_score_or_target_that_it_does_not_have_is_refused(
    command: Any, given: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = (RETRAIN if command is retrain.__main__.main else SEARCH) | given
    more = ["--genotype=DARTS_V2"] if command is retrain.__main__.main else []
    with pytest.raises(SystemExit, match="2"):
        raise SystemExit(command(options(tmp_path / "run", settings, *more)))
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_unknown_task_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert search.darts.main(options(tmp_path / "run", SEARCH | {"task": "digit_valve"})) == 2
    assert (
        "task: unknown task 'digit_valve'; did you mean digit_value? known: classification, regression"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("command", ["evaluate", "export"])
def test_commands_for_classifiers_refuse_it(command: str, retrained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main = {"evaluate": retrain.evaluate.main, "export": retrain.export.main}[command]
    assert main([str(retrained), *(["--format=torch_export"] if command == "export" else [])]) == 2
    assert "its task is digit_value, and this command is for classification" in capsys.readouterr().err


def test_a_meter_of_its_own_gives_the_reading() -> None:
    meter = ErrorMeter("cpu")
    meter.update(torch.tensor(0.5), torch.tensor([[1.0], [0.0]]), Batch(torch.zeros(2), torch.tensor([0.0, 0.0])))
    assert meter.read() == Reading(0.5, {"squared_error": 0.5}, 2)
    task = DigitValue.open(DataConfig(limit=96), Hardware(torch.device("cpu")))
    assert task.value(meter.read()) == 0.5 and task.score(meter.read()) == -0.5
