"""Numbers instead of classes, through every command: the brightness of a blob, and a number far from zero, are learnt."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fusenas
import retrain.__main__
import retrain.evaluate
import retrain.export
import search.darts
import search.darts_pt
import search.random
from fusenas.fit import summarise_data
from retrain.portable import PixelNetwork, onnx_model
from retrain.weights import Trained
from training.images.data import DataConfig, load_images

NAMES = ("far <b>away</b>", "brightness, mV")
COMMON: dict[str, Any] = {"task": "regression", "threads": 1, "device": "cpu", "batch_size": 16}
SEARCH = {"space": "nasbench201", "cells": 1, "channels": 4, "epochs": 1, "eigenvalue_every": 0}
SAMPLING = {"space": "nasbench201", "cells": 1, "channels": 4, "epochs": 1, "evaluations": 4, "round": 2, "recalibrate": 1}
RETRAIN = {"cells": 1, "channels": 8, "epochs": 10, "auxiliary_weight": 0, "drop_path": 0, "weights.lr": 0.05}
GENOTYPE = "|nor_conv_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|avg_pool_3x3~0|skip_connect~1|nor_conv_3x3~2|"


def blobs(count: int, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Images uint8 [N, 12, 12] of a blob under noise; of each a number near 1,000,000 and the blob's brightness."""
    drawn = np.random.default_rng(seed)
    place, bright = drawn.uniform(3, 9, (count, 2, 1, 1)), drawn.uniform(80, 220, count)
    rows, columns = np.mgrid[:12, :12]
    shape = np.exp(-((rows - place[:, 0]) ** 2 + (columns - place[:, 1]) ** 2) / 4)
    images = bright[:, None, None] * shape + drawn.uniform(0, 20, (count, 12, 12))
    return images.astype(np.uint8), np.column_stack([1e6 + bright * 0.01, bright * 7])


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "blobs.npz"
    (x_train, y_train), (x_test, y_test) = blobs(320, 0), blobs(80, 1)
    np.savez(path, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test, y_names=np.array(NAMES))
    return path


def options(file: Path, run: Path, settings: Mapping[str, Any], *more: str) -> list[str]:
    given = COMMON | {"data.name": "npz", "data.root": file, "run": run} | settings
    return [*(f"--{name}={value}" for name, value in given.items()), *more]


def retraining(file: Path, run: Path, *more: str) -> Path:
    assert retrain.__main__.main(options(file, run, RETRAIN, f"--genotype={GENOTYPE}", *more)) == 0
    return run


@pytest.fixture(scope="module")
def retrained(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return retraining(file, tmp_path_factory.mktemp("retrained") / "run", "--validation_fraction=0.2")


def history(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def test_a_network_learns_it(file: Path, retrained: Path) -> None:
    from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

    metrics = json.loads((retrained / "metrics.json").read_text())
    assert metrics["r2"] > 0.95
    last = history(retrained)[-1]
    assert {f"{level}/{name}" for level in ("train", "valid") for name in ("loss", "r2", "mse", "mae")} <= set(last)
    # The numbers are those of the exported module on the pixels themselves, in the unit of the file.
    pixels, true = blobs(80, 1)
    with torch.no_grad():
        predicted = PixelNetwork(Trained.load(retrained))(torch.from_numpy(pixels)[:, None] / 255).numpy()
    for scores, which in ((metrics, slice(None)), *zip(metrics["per_number"], (slice(1), slice(1, 2)), strict=True)):
        there, found = true[:, which], predicted[:, which]
        assert scores["mse"] == pytest.approx(mean_squared_error(there, found), rel=1e-4)
        assert scores["mae"] == pytest.approx(mean_absolute_error(there, found), rel=1e-4)
        assert scores["r2"] == pytest.approx(r2_score(there, found), rel=1e-4)


def test_its_page_says_it_in_numbers(retrained: Path) -> None:
    page, metrics = (retrained / "report.html").read_text(), json.loads((retrained / "metrics.json").read_text())
    assert f"<dt>test R2</dt><dd>{metrics['r2']:.4f}</dd>" in page
    assert f"<dt>mean absolute error</dt><dd>{metrics['mae']:.4g}</dd>" in page
    assert "Predicted over true numbers" in page and "Confusion" not in page
    assert "far &lt;b&gt;away&lt;/b&gt;" in page and NAMES[0] not in page
    told = page.partition("What was asked")[0] + page.partition("<h2>Images</h2>")[2]
    assert not any(word in told.lower() for word in ("accurac", "recall", "classes", "cross-entropy"))


def test_a_run_goes_on_to_the_same_bits(file: Path, retrained: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(retrained, tmp_path / "run"))
    for epoch in range(7, 11):
        (run / "checkpoints" / f"epoch_{epoch:04}.pt").unlink(missing_ok=True)
    (run / "history.jsonl").unlink()
    retraining(file, run, "--validation_fraction=0.2", "--resume")
    for name in ("history.jsonl", "weights.safetensors"):
        assert (run / name).read_bytes() == (retrained / name).read_bytes()


def test_the_evaluation_is_that_of_the_retraining(
    file: Path, retrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Path(shutil.copytree(retrained, tmp_path / "run"))
    metrics = json.loads((run / "metrics.json").read_text())
    for given in ([], ["--data.name=npz", f"--data.root={file}"]):
        if given:  # the weights do without their configuration
            (run / "config.yaml").unlink()
        assert retrain.evaluate.main([str(run), "--threads=1", "--speed=false", *given]) == 0
        said, found = capsys.readouterr().out, json.loads((run / "evaluation.json").read_text())
        assert {name: found[name] for name in ("r2", "mse", "mae", "per_number")} == {
            name: metrics[name] for name in ("r2", "mse", "mae", "per_number")
        }
        assert "80 test images of 1x12x12, 2 numbers an image (far <b>away</b>, brightness, mV)" in said
        assert found["data"]["number_names"] == list(NAMES)
        assert (run / "predictions.png").stat().st_size > 1000 and not (run / "confusion.png").exists()


def test_test_numbers_that_are_all_alike_have_no_r2(
    file: Path, retrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = dict(np.load(file)) | {"y_test": np.full((80, 2), 5.0)}
    np.savez(tmp_path / "alike.npz", **arrays)
    output = tmp_path / "all.json"
    given = [str(retrained), f"--data.root={tmp_path / 'alike.npz'}", "--speed=false", "--files=false", f"--output={output}"]
    assert retrain.evaluate.main(given) == 0
    found = json.loads(output.read_text())["networks"][0]
    assert found["r2"] is None and found["mse"] > 0 and [one["r2"] for one in found["per_number"]] == [None, None]
    assert "nan" not in capsys.readouterr().out.lower()


def test_an_ensemble_is_the_mean(file: Path, retrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also of networks that were trained on numbers of another mean and deviation, and nobody votes."""
    arrays = dict(np.load(file))
    keep = arrays["y_train"][:, 0] > 1e6 + 1.2
    other = tmp_path / "other.npz"
    np.savez(other, **(arrays | {"x_train": arrays["x_train"][keep], "y_train": arrays["y_train"][keep]}))
    second = retraining(other, tmp_path / "second", "--epochs=3")
    assert Trained.load(second).format.values != Trained.load(retrained).format.values
    output = tmp_path / "all.json"
    runs = [str(retrained), str(second)]
    assert retrain.evaluate.main([*runs, f"--data.root={file}", "--speed=false", "--files=false", f"--output={output}"]) == 0
    assert "vote" not in capsys.readouterr().out
    content = json.loads(output.read_text())
    (ensemble,) = content["ensembles"]
    pixels, true = blobs(80, 1)
    with torch.no_grad():
        found = [PixelNetwork(Trained.load(Path(run)))(torch.from_numpy(pixels)[:, None] / 255).numpy() for run in runs]
    assert ensemble["name"] == "average of predictions"
    assert ensemble["mse"] == pytest.approx(float(((sum(found) / 2 - true) ** 2).mean()), rel=1e-4)
    for network, predicted in zip(content["networks"], found, strict=True):
        assert network["mae"] == pytest.approx(float(np.abs(predicted - true).mean()), rel=1e-4)


def test_exported_files_answer_in_the_unit_of_the_data(
    retrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    run = Path(shutil.copytree(retrained, tmp_path / "run"))
    assert retrain.export.main([str(run), "--format=torch_export", "--threads=1"]) == 0
    assert retrain.export.main([str(run), "--format=onnx", "--int8", "--calibration=64", "--threads=1"]) == 0
    said = capsys.readouterr().out
    assert "largest difference of a number, in standard deviations: " in said and "logit" not in said
    content = json.loads((run / "export" / "model.json").read_text())
    values = Trained.load(run).format.values
    assert values is not None
    assert content["output"] == {"name": "values", "type": "float64", "shape": ["batch", 2], "unit": content["output"]["unit"]}
    assert [(one["name"], one["mean"], one["std"]) for one in content["values"]] == list(
        zip(NAMES, values.mean, values.std, strict=True)
    )
    assert "softmax" not in json.dumps(content) and "classes" not in content
    metrics = json.loads((run / "metrics.json").read_text())
    pixels = torch.from_numpy(blobs(80, 1)[0])[:, None] / 255
    with torch.no_grad():
        expected = PixelNetwork(Trained.load(run))(pixels)
        found = {
            "model.pt2": torch.export.load(run / "export" / "model.pt2").module()(pixels),
            "model.onnx": onnx_model((run / "export" / "model.onnx").read_bytes())(pixels),
        }
    spread = torch.tensor(values.std, dtype=torch.float64)
    for name, answers in found.items():
        assert answers.dtype == torch.float64
        # Image by image, to 1e-4 of the numbers' own spread, which float32 does not have at 1,000,000.
        assert ((answers - expected).abs() / spread).max() < 1e-4
        for score in ("r2", "mse", "mae"):
            assert content["files"][name][score] == pytest.approx(metrics[score], rel=1e-4)
    small = content["files"]["model_int8.onnx"]
    assert small["r2_before"] == content["files"]["model.onnx"]["r2"] and small["r2"] > 0.9


@pytest.mark.parametrize(("main", "more"), [(search.darts.main, {}), (search.darts_pt.main, {"selection.tune_epochs": 1})])
def test_a_differentiable_search(file: Path, tmp_path: Path, main: Any, more: dict[str, Any]) -> None:
    run = tmp_path / "run"
    assert main(options(file, run, SEARCH | more | {"data.limit": 96})) == 0
    entry = history(run)[-1]
    assert {"train/r2", "valid/mse", "supernet_r2", "derived_r2"} <= set(entry)
    page = (run / "report.html").read_text()
    told = page.partition("What was asked")[0] + page.partition("<h2>Images</h2>")[2]
    assert "2 numbers an image" in told and "far &lt;b&gt;away&lt;/b&gt;" in told
    assert not any(word in told.lower() for word in ("accurac", "classes"))


@pytest.mark.parametrize(("score", "best"), [("mse", min), ("r2", max)])
def test_a_sampling_search(file: Path, tmp_path: Path, score: str, best: Any) -> None:
    run = tmp_path / "run"
    assert search.random.main(options(file, run, SAMPLING | {"score": score})) == 0
    scores = [json.loads(line)["score"] for line in (run / "evaluations.jsonl").read_text().splitlines()]
    assert history(run)[-1]["best_score"] == best(scores)
    assert min(scores) > 0 if score == "mse" else max(scores) <= 1


@pytest.mark.parametrize("y", [0, slice(None)])
def test_a_fit(file: Path, tmp_path: Path, y: Any) -> None:
    """Floating y are numbers, mirrored and shifted by nobody."""
    (x, numbers), run = blobs(150, 2), tmp_path / "run"
    fitted = fusenas.fit((x, numbers[:, y]), run=run, effort="quick", threads=1, device="cpu")
    assert set(fitted.test.values) == {"r2", "mse", "mae"} and fitted.test.values["r2"] > 0.8
    answers = fitted.module(torch.from_numpy(x[:5])[:, None] / 255).detach().numpy()
    assert answers.dtype == np.float64
    np.testing.assert_allclose(answers[:, 0], numbers[:5, 0], atol=0.3)
    data = fitted.result.trained
    assert data.task == "regression" and data.format.class_names == (("y",) if y == 0 else ("y0", "y1"))
    for part in ("search", "retrain"):
        config = (run / part / "config.yaml").read_text()
        assert "task: regression" in config and "crop_padding: 0" in config and "flip: false" in config


def test_the_example_of_the_docs_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[2] / "docs" / "own_data.md").read_text(encoding="utf-8")
    section = page.partition("## Numbers instead of classes")[2].partition("\n## ")[0]
    (block,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(block, {})
    given = ["--task=regression", "--data.name=npz", "--data.root=blobs.npz", "--data.limit=null", "--epochs=1"]
    small = ["--config=digits", "--space=nasbench201", "--cells=1", "--channels=4", "--eigenvalue_every=0", "--run=run"]
    assert search.darts.main([*small, *given, "--threads=1", "--device=cpu"]) == 0
    assert "light, mV from" in (tmp_path / "run" / "log.txt").read_text()


def test_the_npz_of_a_fit_may_have_numbers(file: Path) -> None:
    images = load_images(DataConfig("npz", str(file)), "train", numbers=True)
    summary = summarise_data(DataConfig("npz", str(file)))
    assert summary.numbers and summary.images == len(images) == 320
