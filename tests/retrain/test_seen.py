"""A network is never tested on images that it was trained on, and changes of its images are said."""

import contextlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import retrain.__main__
import retrain.evaluate

TRAINING = [
    *("--genotype=DARTS_V2", "--channels=4", "--cells=3", "--epochs=2", "--batch_size=16", "--auxiliary_weight=0"),
    *("--data.name=folder", "--threads=1", "--device=cpu", "--data.crop_padding=0", "--data.cutout=0"),
]


def noise(folder: Path, first: int, last: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(first, last):
        drawn = np.random.default_rng(number).integers(256, size=(8, 8, 3), dtype=np.uint8)
        Image.fromarray(drawn).save(folder / f"{number:04}.png")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 2 x 50 images of noise, and a network retrained on it."""
    here = tmp_path_factory.mktemp("noise")
    noise(here / "images/a", 0, 50)
    noise(here / "images/b", 50, 100)
    with contextlib.chdir(here):
        assert retrain.__main__.main([*TRAINING, "--data.root=images", "--run=run"]) == 0
    return here


@pytest.fixture
def here(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "here")
    return tmp_path / "here"


def evaluate(here: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str, str]:
    capsys.readouterr()
    status = retrain.evaluate.main([str(here / "run"), "--speed=false", f"--data.root={here}/images", *more])
    return status, *capsys.readouterr()


def test_another_file_changes_nothing_but_itself(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, before, _ = evaluate(here, capsys)
    noise(here / "images/a", 1000, 1001)
    status, after, _ = evaluate(here, capsys)
    images = int(before.split(": ")[1].split()[0])
    assert status == 0 and int(after.split(": ")[1].split()[0]) - images in (0, 1)


def test_a_test_image_that_was_trained_on_is_refused_by_name(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another division of the same files, and the file under another name."""
    status, out, err = evaluate(here, capsys, "--data.split_seed=1")
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert err.startswith("retrain.evaluate: error: data.root: test image ") and " was trained on by " in err
    assert ".png" in err and " more of " in err
    noise(here / "others/train/a", 0, 5)
    noise(here / "others/train/b", 50, 55)
    noise(here / "others/test/a", 0, 50)
    noise(here / "others/test/b", 200, 210)
    status, _, err = evaluate(here, capsys, f"--data.root={here}/others")
    assert status == 2 and "test image test/a/00" in err
    shutil.rmtree(here / "others/test/a")
    noise(here / "others/test/a", 300, 310)
    assert evaluate(here, capsys, f"--data.root={here}/others")[0] == 0


def test_a_run_at_its_end_has_seen_nothing_more(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Images that come later are not taken for those that it was trained on."""
    before = (here / "run/images.safetensors").read_bytes()
    noise(here / "images/a", 2000, 2030)
    with contextlib.chdir(here):
        assert retrain.__main__.main([*TRAINING, "--data.root=images", "--run=run", "--resume"]) == 0
    assert (here / "run/images.safetensors").read_bytes() == before
    assert evaluate(here, capsys, "--data.split_seed=0")[0] == 0


def test_changed_images_are_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half of a class is exchanged, then the run goes on."""
    for number in range(50, 75):
        drawn = np.random.default_rng(5000 + number).integers(256, size=(8, 8, 3), dtype=np.uint8)
        Image.fromarray(drawn).save(here / f"images/b/{number:04}.png")
    capsys.readouterr()
    with contextlib.chdir(here):
        assert retrain.__main__.main([*TRAINING, "--data.root=images", "--run=run", "--resume"]) == 0
    said = capsys.readouterr().out
    assert "the training images have changed since the run began: " in said and " of other content" in said
    assert "the test images have changed since the run began: " in said


def test_images_held_out_were_not_trained_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another image, with which other ones are held out, is refused where the run goes on."""
    noise(tmp_path / "images/a", 0, 20)
    noise(tmp_path / "images/b", 20, 40)
    options = [*TRAINING, "--epochs=1", "--batch_size=8", "--validation_fraction=0.5", "--data.root=images", "--run=run"]
    with contextlib.chdir(tmp_path):
        assert retrain.__main__.main(options) == 0
        assert retrain.__main__.main([*options, "--resume"]) == 0
        noise(tmp_path / "images/b", 40, 50)
        files = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
        capsys.readouterr()
        assert retrain.__main__.main([*options, "--resume"]) == 2
        assert files == {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and ": error: data.root: validation image " in error and " was trained on by run" in error
