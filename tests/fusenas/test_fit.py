"""Tests of fusenas/fit.py and of `python -m fusenas`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fusenas.__main__
from fusenas import settings
from fusenas.fit import fit, look
from retrain.weights import Trained
from training.data import DataConfig


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few steps of small networks."""
    quick = settings._BUDGETS["quick"]
    search = replace(quick.search, steps=6, shortest=1, channels=2)
    retraining = replace(quick.retrain, steps=40, shortest=1, channels=4, cells=3)
    monkeypatch.setitem(settings._BUDGETS, "quick", replace(quick, search=search, retrain=retraining))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Red and blue pictures of several sizes and kinds of file."""
    generator = np.random.default_rng(0)
    for name, colour in (("blue", (20, 30, 200)), ("red", (210, 30, 20))):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for number in range(40):
            height, width = generator.integers(30, 60, 2)
            noise = generator.integers(-20, 20, (height, width, 3))
            pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.{('jpg', 'png')[number % 2]}")
    return tmp_path / "photos"


def arrays(count: int = 80) -> tuple[Any, Any]:
    """Bright and dark squares."""
    generator = np.random.default_rng(0)
    labels = np.arange(count) % 2
    return (generator.integers(0, 90, (count, 8, 8)) + 160 * labels[:, None, None]).astype(np.uint8), labels


def test_a_folder_becomes_a_network(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    command = [
        f"--data={photos}",
        f"--run={run}",
        "--threads=1",
        "--device=cpu",
        "--random_genotypes=1",
        "--size=16",
        "--seed=4",
    ]
    assert fusenas.__main__.main(command) == 0
    said = capsys.readouterr().out
    assert "test accuracy 1.0000" in said
    for file in ("search/genotype.json", "search/report.html", "retrain/report.html", "retrain/export/model.pt2"):
        assert (run / file).is_file()
    assert (run / "retrain" / "random_0" / "metrics.json").is_file()
    assert all("seed: 4\n" in (run / part / "config.yaml").read_text() for part in ("search", "retrain"))
    trained = Trained.load(run / "retrain")
    assert trained.format.class_names == ("blue", "red")
    assert trained.format.shape == (3, 16, 16)
    red = torch.tensor([210, 30, 20])[:, None, None].expand(3, 16, 16) / 255
    loaded = torch.export.load(run / "retrain" / "export" / "model.pt2").module()
    assert loaded(torch.stack([red, red.flip(0), red])).argmax(1).tolist() == [1, 0, 1]
    # Everything is there: nothing is trained again.
    before = (run / "retrain" / "metrics.json").read_bytes()
    assert fusenas.__main__.main(["--resume", f"--run={run}"]) == 0
    assert (run / "retrain" / "metrics.json").read_bytes() == before
    assert fusenas.__main__.main(command) == 2
    assert "holds a run already" in capsys.readouterr().err


def test_arrays_become_a_module(tmp_path: Path) -> None:
    x, y = arrays()
    fitted = fit((x, y), run=tmp_path / "run", threads=1, device="cpu", export="none", effort="quick")
    assert fitted.test.images == 16
    assert fitted.test.accuracy == 1
    assert fitted.module(torch.from_numpy(x[:6, None]) / 255).argmax(1).tolist() == [0, 1, 0, 1, 0, 1]
    assert fitted.class_names == ("0", "1")
    assert fitted.report.is_file()
    assert fitted.files == ()
    again = fit((x, y), run=tmp_path / "run", threads=1, device="cpu", export="none", effort="quick", resume=True)
    assert again.test == fitted.test
    with pytest.raises(ValueError, match=r"arrays\.npz: the run was begun with other arrays"):
        fit((255 - x, y), run=tmp_path / "run", threads=1, device="cpu", export="none", effort="quick", resume=True)
    given = fit(
        (x[:64], y[:64], 255 - x[64:], y[64:]), run=tmp_path / "run", threads=1, device="cpu", export="none", effort="quick",
        overwrite=True,
    )  # fmt: skip
    assert (given.test.images, given.test.accuracy) == (16, 0)


def test_files_are_looked_at(photos: Path) -> None:
    sight = look(DataConfig("folder", str(photos)))
    assert (sight.counts, sight.channels, sight.alike) == ((32, 32), 3, False)
    assert 30 <= sight.side <= 45
    for file in photos.rglob("*.*"):
        Image.new("L", (28, 28)).save(file)
    assert look(DataConfig("folder", str(photos))) == settings.Sight((32, 32), 3, 28, True)
    for file in photos.rglob("*.*"):
        file.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"^data: .*photos: no image can be read"):
        look(DataConfig("folder", str(photos)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda x, y: (x,), r"^data: give \(x, y\) or \(x_train, y_train, x_test, y_test\), not 1 arrays$"),
        (lambda x, y: (x, y + 0.5), r"^data: y must be a whole number from 0 for each of 80 images, not float64 \[80\]$"),
        (lambda x, y: (x, y[:3]), r"^data: y must be a whole number from 0 for each of 80 images, not int64 \[3\]$"),
        (lambda x, y: (x, y + 1), r"^data: y_train: class 0 has no images"),
        (lambda x, y: (x, 0 * y), r"^data: y_train: all images are of one class"),
        (lambda x, y: (x / np.float32(0), y), r"^data: x_train: image 0 has pixels that are NaN or infinite"),
        (lambda x, y: (x.astype(object), y), r"^data: x_train: must be uint8 or floating numbers, not object"),
        (lambda x, y: (x[:6], y[:6]), r"^data: 5 images to train on are too few"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
def test_wrong_arrays(data: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        fit(data(*arrays()), run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "data: give a folder of images, an .npz file or the name of a data set with --data"),
        (["--data=nowhere"], "data: nowhere: no such folder or .npz file, and no data set of that name; known: cifar10, "),
        (["--data=none.npz"], "data.root: none.npz: there is no such file"),
        (["--data=digits", "--seeds=0,1"], "--seeds: "),
        (["--data=digits", "--effort=more"], "effort: must be one of auto, quick, normal, full, not more"),
        (["--data=digits", "--method=best"], "method: unknown method 'best'"),
        (["--data=digits", "--device=tpu"], "device: 'tpu' cannot be used here"),
    ],
)
def test_wrong_options(options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        status = fusenas.__main__.main([*options, f"--run={tmp_path / 'run'}"])
    except SystemExit as end:
        status = end.code  # type: ignore[assignment]
    assert status == 2
    error = capsys.readouterr().err
    assert error.startswith(f"fusenas: error: {message}")
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()
