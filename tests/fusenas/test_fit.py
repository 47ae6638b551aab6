"""Tests of fusenas/fit.py and of `python -m fusenas`."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import fusenas.__main__
from fusenas import settings
from fusenas.fit import fit, summarise_data
from fusenas.settings import FitConfig
from retrain.weights import Trained
from training.images.data import DataConfig
from training.run.directory import RunDirectory

# The package has a function of the name of the module.
fitting = sys.modules["fusenas.fit"]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few steps of small networks."""
    quick = settings.BUDGETS["quick"]
    search = replace(quick.search, steps=6, shortest=1, channels=2)
    retraining = replace(quick.retrain, steps=40, shortest=1, channels=4, cells=3)
    monkeypatch.setitem(settings.BUDGETS, "quick", replace(quick, search=search, retrain=retraining))


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


@pytest.mark.slow
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
    (photos / "red" / "39.png").write_bytes(b"nothing")
    (photos / "blue" / "40.jpg").write_bytes((photos / "blue" / "0.jpg").read_bytes()[:-300])
    assert fusenas.__main__.main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"fusenas: error: data: {photos}")
    assert error.endswith("; mend or delete it, or leave such files out, --skip_unreadable true\n")
    assert not run.exists()
    command += ["--skip_unreadable=true", f"--profile={tmp_path / 'traces'}"]
    (tmp_path / "traces" / "retrain").mkdir(parents=True)
    (tmp_path / "traces" / "retrain" / "trace.json").touch()
    assert fusenas.__main__.main(command) == 2
    assert "holds a trace.json, which stays as it is" in capsys.readouterr().err
    assert not run.exists()
    (tmp_path / "traces" / "retrain" / "trace.json").unlink()
    assert fusenas.__main__.main(command) == 0
    said = capsys.readouterr().out
    assert "test accuracy 1.0000" in said
    for file in ("search/genotype.json", "search/report.html", "retrain/report.html", "retrain/export/model.pt2"):
        assert (run / file).is_file()
    assert (run / "retrain" / "random_0" / "metrics.json").is_file()
    traces = sorted((tmp_path / "traces").glob("**/trace.json"))
    assert [path.parent.name for path in traces] == ["retrain", "search"]
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


@pytest.mark.slow
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


def test_files_are_looked_at(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summary = summarise_data(DataConfig("folder", str(photos)))
    assert (summary.counts, summary.channels, summary.alike) == ((34, 23), 3, False)
    assert 30 <= summary.side <= 45
    for file in photos.rglob("*.*"):
        Image.new("L", (28, 28)).save(file)
    assert summarise_data(DataConfig("folder", str(photos))) == settings.DataSummary((34, 23), 1, 28, True)
    for number, mode in enumerate(("1", "LA", "I", "I;16")):
        Image.new(mode, (28, 28)).save(photos / "red" / f"grey_{number}.{('png', 'tif')[mode == 'I']}")
    assert summarise_data(DataConfig("folder", str(photos))).channels == 1
    monkeypatch.setattr(fitting, "LOOKED_AT", 2)
    for file in photos.rglob("1*.png"):
        Image.new("RGB", (28, 28)).save(file)
    assert summarise_data(DataConfig("folder", str(photos))).channels == 3
    for file in photos.rglob("*.*"):
        file.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"^data: .*photos: no image can be read"):
        summarise_data(DataConfig("folder", str(photos)))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda x, y: (x,), r"^data: give \(x, y\) or \(x_train, y_train, x_test, y_test\), not 1 arrays$"),
        (
            lambda x, y: (x, y == 0),
            r"^data: y must be a whole number from 0, or floating numbers, for each of 80 .* bool \[80\]$",
        ),
        (lambda x, y: (x, y[:3]), r"^data: y must be a whole number from 0, or floating numbers, for each .* int64 \[3\]$"),
        (
            lambda x, y: (x, y[:3] / 2),
            r"^data: y must be a whole number from 0, or floating numbers, for each .* float64 \[3\]$",
        ),
        (lambda x, y: (x, 0.5 + 0 * y), r"^data: y_train: the number is the same in all images; there is nothing to learn$"),
        (
            lambda x, y: (x, y / 2, x, 0.5 + 0 * y),
            r"^data: y is the same in all 80 test images, which have no R2; give others$",
        ),
        (lambda x, y: (x, y * 10**13), r"^data: y: label 10000000000000 is out of range; classes are counted from 0"),
        (lambda x, y: (x, y * (2**31 - 1)), r"^data: y_train: class 1 has no images and 2147483647 has some"),
        (
            lambda x, y: (x, y, x[:, 1:], y),
            r"^data: x_train and x_test: must be of one size, or .* with --size, not 8x8 and 7x8",
        ),
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
        (["--data=none.npz"], "data: none.npz: there is no such file"),
        (["--data=digits", "--seeds=0,1"], "--seeds: no such option; did you mean --seed?"),
        (["--data=x", "--data.skip_unreadable", "true"], "--data.skip_unreadable: no such option; did you mean --skip_unread"),
        (
            ["--data=cifar10", "--root=no"],
            "root: there is no folder no/cifar-10-batches-py; name the folder above cifar-10-batches-py with --root or "
            "download CIFAR-10 with --download true",
        ),
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


@pytest.mark.parametrize("place", ["arrays.npz", "link.npz", "linked/arrays.npz", "images", ".", "elsewhere.npz"])
def test_overwriting_spares_the_data(place: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with RunDirectory.open(run, FitConfig("x"), resume=False, overwrite=False) as directory:
        directory.begin("fusenas")
    (run / "images" / "a").mkdir(parents=True)
    x, y = arrays()
    np.savez(run / "arrays.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    (tmp_path / "link.npz").symlink_to(run / "arrays.npz")
    (tmp_path / "linked").symlink_to(run)
    (tmp_path / "other.npz").write_bytes(b"")
    (run / "elsewhere.npz").symlink_to(tmp_path / "other.npz")
    data = tmp_path / place if place.startswith("link") else run / place
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"^data: .* is in .*run, whose files --overwrite deletes; choose another directory"):
        fit(data, run=run, overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_among_the_images_is_refused(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    with pytest.raises(ValueError, match=r"^runs/fusenas: is in the folder of the images, .* choose a directory outside with"):
        fit(".")
    assert not (photos / "runs").exists()
    # A hidden folder is no class.
    with pytest.raises(ValueError, match=r"^device: "):
        fit(".", run=".runs/a", device="tpu")


def test_an_image_of_another_size_is_found_before_anything_is_written(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in photos.rglob("*.*"):
        Image.new("RGB", (12, 12)).save(file)
    Image.new("RGB", (14, 12)).save(photos / "blue" / "8.jpg")
    monkeypatch.setattr(fitting, "LOOKED_AT", 1)
    with pytest.raises(ValueError, match=r"^size: .*8\.jpg has 14x12 pixels where .*, such as --size 64$"):
        fit(photos, run=tmp_path / "run", threads=1, device="cpu")
    assert not (tmp_path / "run").exists()


def test_too_few_images_for_a_test_part(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (12, 12)).save(tmp_path / "photos" / name / "1.png")
    expected = (
        r"^data: the share 0\.2 of 2 images leaves the test part empty, where there is no folder test or val; give more images$"
    )
    with pytest.raises(ValueError, match=expected):
        fit(tmp_path / "photos", run=tmp_path / "run")


def test_both_parts_are_brought_to_a_size_that_is_given(tmp_path: Path) -> None:
    x, y = arrays(8)
    parts = (x, y, x[:, 1:], y)
    np.savez(tmp_path / "arrays.npz", **dict(zip(("x_train", "y_train", "x_test", "y_test"), parts, strict=True)))
    for data in (parts, tmp_path / "arrays.npz"):
        with pytest.raises(ValueError, match=r"must be of one size"):
            fit(data, run=tmp_path / "run")
        with pytest.raises(ValueError, match=r"^data: 8 images to train on are too few"):
            fit(data, run=tmp_path / "run", size=8)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"efort": "quick"}, r"^efort: no such setting; did you mean effort\? known: root, .*, threads$"),
        ({"zzz": 1}, r"^zzz: no such setting; known: root, "),
        ({"export": "ONNX"}, r"^export: must be one of none, torch_export, onnx, not ONNX$"),
    ],
)
def test_wrong_settings_in_python(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    for data in (arrays(), "digits"):
        with pytest.raises(ValueError, match=message):
            fit(data, run=tmp_path / "run", **given)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_class_that_is_almost_absent(tmp_path: Path) -> None:
    x, y = arrays(2000)
    y[7] = y[1900] = 2
    fitted = fit((x, y), run=tmp_path / "run", threads=1, device="cpu", export="none", effort="quick")
    assert fitted.class_names == ("0", "1", "2")
    assert "class_weights: none" in (tmp_path / "run" / "search" / "config.yaml").read_text()
