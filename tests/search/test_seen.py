"""A search that goes on compares architectures on no image that has trained its weights."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import search.darts
import search.random

OPTIONS = [
    *("--space=nasbench201", "--channels=4", "--cells=1", "--epochs=1", "--batch_size=4", "--device=cpu", "--threads=1"),
    *("--data.name=folder", "--data.root=images", "--data.crop_padding=0", "--data.cutout=0", "--run=run"),
]


def noise(name: str, seed: int) -> None:
    drawn = np.random.default_rng(seed).integers(256, size=(8, 8, 3), dtype=np.uint8)
    Image.fromarray(drawn).save(name)


@pytest.mark.parametrize(
    ("method", "more"),
    [
        pytest.param(search.darts, [], marks=pytest.mark.slow),
        (search.random, ["--evaluations=2", "--recalibrate=1"]),
    ],
)
def test_other_images(
    method: object, more: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another content of an image is said; another image, with which the halves are others, is
    refused."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(16):
            noise(f"images/{name}/{number:02}.png", 100 * ord(name) + number)
    main = method.main  # type: ignore[attr-defined]
    assert main([*OPTIONS, *more]) == 0
    for number in range(16):
        noise(f"images/a/{number:02}.png", number)
    capsys.readouterr()
    assert main([*OPTIONS, *more, "--resume"]) == 0
    assert "the training images have changed since the run began: " in capsys.readouterr().out
    files = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    for number in range(16, 26):
        noise(f"images/b/{number:02}.png", number)
    assert main([*OPTIONS, *more, "--resume"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and ": error: data.root: validation image " in error and " was trained on by run" in error
    assert files == {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
