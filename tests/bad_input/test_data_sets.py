"""Folders of images and files of arrays that are wrong."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

Refuse = Callable[..., str]
Run = Callable[..., int | str | None]
both = pytest.mark.parametrize("command", ["search.darts", "retrain"])
FOLDER = ("--data.name=folder", "--data.root=images", "--data.limit=null", "--batch_size=4", "--data.crop_padding=0")
NPZ = ("--data.name=npz", "--data.root=images.npz", "--data.limit=null", "--batch_size=4", "--data.crop_padding=0")
loadings = pytest.mark.parametrize("loading", ["resident", "workers"])


def write(folder: Path, *classes: str, count: int = 10, size: tuple[int, int] = (8, 8)) -> None:
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", size, (number, 0, 0)).save(folder / name / f"{number}.png")


@both
def test_a_folder_without_images(refuse: Refuse, here: Path, command: str) -> None:
    assert refuse(command, *FOLDER).startswith("data.root: images: there is no such folder; name a folder that has one folder")
    (here / "images").mkdir()
    assert refuse(command, *FOLDER).startswith("data.root: images: no images found; expected are folders with images in them")
    write(here / "images", "cat", "dog", count=0)
    assert refuse(command, *FOLDER).startswith("data.root: images: no images found; expected are folders with images in them")
    write(here / "images", "owl")
    assert refuse(command, *FOLDER).startswith("data.root: images: only one class, 'owl', has images; expected are folders ")


@both
def test_a_file_instead_of_a_folder(refuse: Refuse, here: Path, command: str) -> None:
    (here / "images").touch()
    assert refuse(command, *FOLDER).startswith("data.root: images: is a file; name a folder that has one folder of images for")


@both
def test_a_class_that_is_not_trained(refuse: Refuse, here: Path, command: str) -> None:
    write(here / "images/train", "cat", "dog")
    write(here / "images/val", "dog", "owl")
    assert refuse(command, *FOLDER) == "data.root: images/val/owl: the training part has no class 'owl', only cat, dog"


@both
@loadings
def test_images_of_several_sizes(refuse: Refuse, here: Path, command: str, loading: str) -> None:
    write(here / "images/train", "cat", "dog")
    write(here / "images/train/dog", "puppies", size=(9, 8))
    message = refuse(command, *FOLDER, f"--data.loading={loading}")
    assert message == (
        "data.size: images/train/dog/puppies/0.png has 9x8 pixels where another image has 8x8; "
        "images of different sizes need one that all are brought to, such as --data.size 64"
    )


@both
@loadings
def test_an_unreadable_image(
    refuse: Refuse, run: Run, here: Path, command: str, loading: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(here / "images/train", "cat", "dog", count=12)
    write(here / "images/test", "cat", "dog", count=4)
    (here / "images/train/dog/3.png").write_bytes(b"no image")
    (here / "images/train/cat/5.png").write_bytes((here / "images/train/cat/5.png").read_bytes()[:-30])
    given = [*FOLDER, f"--data.loading={loading}", "--data.workers=1"]
    message = refuse(command, *given)
    assert message.startswith("data.root: images/train/cat/5.png: cannot be read as an image (")
    assert message.endswith(", and 1 more; mend or delete it, or leave such files out, --data.skip_unreadable true")
    capsys.readouterr()
    assert run(command, *given, "--data.skip_unreadable=true", "--run=run", "--epochs=1") == 0
    log = (here / "run/log.txt").read_text()
    assert "left out, unreadable: 2 of 24 train images" in log
    assert "left out: images/train/cat/5.png: cannot be read as an image (" in log
    assert "left out: images/train/dog/3.png: cannot be read as an image (" in log


@pytest.mark.slow
def test_log_and_report_say_how_the_images_were_read(run: Run, here: Path) -> None:
    """Also of a run that is resumed, which decodes no file in advance."""
    write(here / "images/Train", "cat", "dog", count=12)
    write(here / "images/validation", "cat", "dog", count=4)
    (here / "images/Train/@eaDir").mkdir()
    write(here / "images", "extra/cat", count=1)
    frames = [Image.new("RGB", (8, 8), (shade, 0, 0)) for shade in (1, 2)]
    frames[0].save(here / "images/Train/cat/several.tiff", save_all=True, append_images=frames[1:])
    given = [*FOLDER, "--data.workers=1", "--data.loading=workers", "--data.train_folder=Train"]
    lines = [
        "training part: 25 images of 2 classes: cat 13, dog 12",
        "training part: images/Train; test part: images/validation, 8 files",
        "left out, neither training nor test part: extra",
        "left out: 1 made by the system (@eaDir 1)",
        "1 train files have several pictures, of which the first is read",
    ]
    for command in ("search.darts", "retrain"):
        assert run(command, *given, f"--run={command}", "--epochs=1") == 0
        log, page = ((here / command / name).read_text() for name in ("log.txt", "report.html"))
        assert [line for line in lines if line not in log] == []
        assert [line for line in lines[1:] if line not in page] == []
    assert "test part: 8 images of 2 classes: cat 4, dog 4" in log
    (here / "retrain/report.html").unlink()
    assert run("retrain", *given, "--run=retrain", "--resume", "--epochs=1") == 0
    assert lines[-1] in (here / "retrain/report.html").read_text()


def test_an_image_that_goes_bad_during_the_run(refuse: Refuse, run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(here / "images/train", "cat", "dog", count=12)
    write(here / "images/test", "cat", "dog", count=4)
    given = [*FOLDER, "--data.loading=workers", "--data.workers=1", "--run=run"]
    assert run("retrain", *given) == 0
    (here / "images/test/dog/3.png").write_bytes(b"no image")
    message = refuse("retrain", *given, "--resume", may_write=True)
    assert message.startswith("images/test/dog/3.png: cannot be read as an image (")


@loadings
def test_a_test_image_that_is_bad(refuse: Refuse, here: Path, loading: str) -> None:
    write(here / "images/train", "cat", "dog", count=12)
    write(here / "images/test", "cat", "dog", count=4)
    (here / "images/test/dog/3.png").write_bytes(b"no image")
    given = [*FOLDER, f"--data.loading={loading}", "--data.workers=1"]
    assert refuse("retrain", *given).startswith("data.root: images/test/dog/3.png: cannot be read as an image (")
    for file in (here / "images/test").rglob("*.png"):
        Image.new("RGB", (6, 6)).save(file)
    assert refuse("retrain", *given).startswith("data.size: test images have 6x6 pixels and training images 8x8; ")


@both
def test_a_share_for_testing_that_leaves_nothing(refuse: Refuse, here: Path, command: str) -> None:
    write(here / "images", "cat", "dog", count=2)
    message = refuse(command, *FOLDER, "--data.test_fraction=0.01")
    assert message.startswith("data.test_fraction: 0.01 of 4 images leaves the test part empty; ")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--data.test_fraction=0.7"], "data.test_fraction: must be above 0 and at most 0.5, not 0.7"),
        (["--data.test_fraction=nan"], "data.test_fraction: must be a"),
        (["--data.crop_area=0"], "data.crop_area: must be a share above 0 and at most 1, not 0.0"),
        (["--data.crop_area=0.5", "--data.loading=resident"], "data.crop_area: only worker processes cut parts out; "),
        (["--data.resize=256"], "data.resize: must be from data.size to 8192 pixels, and needs it and data.fit crop, not 256"),
        (["--data.fit=pad"], "data.fit: must be one of crop, stretch, not pad"),
        (["--data.loading=disk"], "data.loading: must be one of auto, resident, workers, not disk"),
        (["--data.workers=0"], "data.workers: must be from 1 to 1024 processes, or null, not 0"),
        (["--data.class_weights=heavy"], "data.class_weights: must be one of none, balanced, not heavy"),
        (
            ["--data.size=8", "--data.crop_padding=8"],
            "data.crop_padding: 8 pixels could hide all of an image of 8x8; use fewer",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options(refuse: Refuse, here: Path, argv: list[str], message: str) -> None:
    write(here / "images", "cat", "dog")
    assert refuse("retrain", *FOLDER, *argv).startswith(message)


# Arrays


class Bomb:
    """Makes a directory when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("pwned",)


def save(here: Path, **changed: Any) -> None:
    """40 images of 8x8 pixels to train, 10 to test, two classes. None: the array is not there."""
    good: dict[str, Any] = {"x_train": np.zeros((40, 8, 8), np.uint8), "y_train": np.arange(40) % 2}
    good |= {"x_test": np.zeros((10, 8, 8), np.uint8), "y_test": np.arange(10) % 2}
    np.savez(here / "images.npz", **{name: array for name, array in (good | changed).items() if array is not None})


def bombs() -> np.ndarray[Any, Any]:
    made = np.empty(40, object)
    made[:] = [Bomb()] * 40
    return made


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"x_test": None}, "has no array x_test, only x_train, y_test, y_train; write it with numpy.savez, arrays x_train, y_"),
        ({"y_train": bombs()}, "y_train: holds Python objects, which are never unpickled; save an array of numbers"),
        ({"x_train": bombs()}, "x_train: holds Python objects, which are never unpickled; save an array of numbers"),
        (
            {"y_train": np.arange(40) % 2 * 0.5},
            "y_train: must be whole numbers, the classes counted from 0, not float64; numbers to be predicted are for --task "
            "regression",
        ),
        ({"y_train": np.arange(40) % 2 - 1}, "y_train: label -1 is out of range; classes are counted from 0"),
        (
            {"y_train": np.arange(40) % 2 * 5},
            "y_train: class 1 has no images and 5 has some; count classes from 0, without gaps",
        ),
        ({"y_train": np.zeros(40, int)}, "y_train: all images are of one class; at least two are needed"),
        ({"y_test": np.arange(10)}, "y_test: label 9 is out of range, the training part has classes 0 to 1"),
        (
            {"x_train": np.full((40, 8, 8), np.nan), "x_test": np.zeros((10, 8, 8))},
            "x_train: image 0 has pixels that are NaN or infinite",
        ),
        ({"x_test": np.zeros((10, 9, 8), np.uint8)}, "x_train and x_test: must be of one size, or be brought to one with "),
        ({"x_test": np.zeros((10, 8, 8), np.float32)}, "x_train and x_test: must be of one type, not uint8 and float32"),
    ],
    ids=range(11),
)
def test_arrays(refuse: Refuse, here: Path, changed: dict[str, Any], message: str) -> None:
    save(here, **changed)
    assert refuse("search.darts", *NPZ).startswith(f"data.root: images.npz: {message}")
    assert not (here / "pwned").exists()


NUMBERS = np.arange(40) / 4


@both
@pytest.mark.parametrize(
    ("argv", "changed", "message"),
    [
        (
            [],
            {"y_train": np.where(NUMBERS == 1, np.nan, NUMBERS)},
            "data.root: images.npz: y_train: image 4 has a number that is ",
        ),
        ([], {"y_test": np.full(10, -np.inf)}, "data.root: images.npz: y_test: image 0 has a number that is NaN, infinite or "),
        (
            [],
            {"y_train": np.ones(40)},
            "data.root: images.npz: y_train: the number is the same in all images; there is nothing ",
        ),
        (
            [],
            {"y_train": np.ones((40, 2, 2))},
            "data.root: images.npz: y_train: must be one number an image, [N], or some, [N, n",
        ),
        ([], {"y_train": np.full(40, "old")}, "data.root: images.npz: y_train: must be numbers, floating or whole, not <U3"),
        (["--data.name=digits"], {}, "data.name: digits has classes and no numbers to be predicted; a regression takes npz"),
        (["--data.name=folder"], {}, "data.name: folder has classes and no numbers to be predicted; a regression takes npz"),
        (["--data.class_weights=balanced"], {}, "data.class_weights: is for classes, of which task regression has none; leave"),
        (["--score=accuracy"], {}, "score: unknown score 'accuracy'; the task has r2, mse, mae, loss"),
    ],
    ids=range(9),
)
def test_numbers(refuse: Refuse, here: Path, command: str, argv: list[str], changed: dict[str, Any], message: str) -> None:
    save(here, **({"y_train": NUMBERS, "y_test": NUMBERS[:10]} | changed))
    assert refuse(command, *NPZ, "--task=regression", *argv).startswith(message)


def test_test_numbers_without_r2(refuse: Refuse, here: Path) -> None:
    save(here, y_train=NUMBERS, y_test=np.ones(10))
    message = refuse("retrain", *NPZ, "--task=regression")
    assert message.startswith("data.root: y is the same in all 10 test images, which have no R2; choose --score mse or mae")


@both
def test_what_is_no_npz(refuse: Refuse, here: Path, command: str) -> None:
    advice = "; name an .npz file that holds x_train, y_train, x_test, y_test"
    assert refuse(command, *NPZ) == f"data.root: images.npz: there is no such file{advice}"
    (here / "images.npz").mkdir()
    assert refuse(command, *NPZ) == f"data.root: images.npz: is a folder{advice}"
    (here / "images.npz").rmdir()
    (here / "images.npz").write_bytes(b"no arrays")
    assert refuse(command, *NPZ).startswith("data.root: images.npz: damaged, or no .npz file (File is not a zip file); write ")
    save(here)
    (here / "images.npz").write_bytes((here / "images.npz").read_bytes()[:3000])
    assert refuse(command, *NPZ).startswith("data.root: images.npz: damaged, or no .npz file (File is not a zip file); write ")
