"""Classes of three folders with names that a terminal, a page or a spreadsheet would obey."""

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import retrain.__main__
import retrain.evaluate
from retrain.weights import Trained
from supernet.discrete import DiscreteNetwork
from supernet.genotypes.published import get_genotype
from training.format import ImageFormat

CLASSES = ["=SUM(A1)", "<b>&amp;|`*", "猫 cafe\u0301 $x$ " + "long " * 20]
NAMES = [unicodedata.normalize("NFC", name) for name in CLASSES]  # as folders are read
SHOWN = ["=SUM(A1)", "<b>&amp;|`*", "猫 café $x$ long"]
OPTIONS = ["--genotype=DARTS_V2", "--cells=3", "--channels=2", "--epochs=1", "--batch_size=6", "--threads=1"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures")
    noise = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in CLASSES:
            folder = path / part / name
            folder.mkdir(parents=True)
            for number in range(4):
                Image.fromarray(noise.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{number}.png")
    return path


@pytest.mark.slow
def test_names_of_classes_are_shown_and_not_obeyed(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], read_page: Callable[[Path], str]
) -> None:
    run = tmp_path / "run\x1b[0m"
    data = ["--data.name=folder", f"--data.root={pictures}", "--data.size=8"]
    assert retrain.__main__.main([*OPTIONS, *data, f"--run={run}"], pictures=False) == 0
    trained = capsys.readouterr()
    log = (run / "log.txt").read_text(encoding="utf-8")
    assert retrain.evaluate.main([str(run), "--speed=false", "--threads=1"]) == 0
    evaluated = capsys.readouterr().out
    assert "run\\x1b[0m" in trained.out and "run\\x1b[0m" in log
    for text in (trained.out, trained.err, log, evaluated):
        assert all(line.isprintable() for line in text.splitlines()), text
    assert [name for name in SHOWN if name not in evaluated] == []
    page = read_page(run)
    assert page.replace("\n", "").isprintable() and "run\\x1b[0m" in page
    assert [name for name in NAMES if name.strip() not in page] == []

    # Of three classes the first five say nothing.
    assert "top-5" not in trained.out + log + evaluated + page
    assert json.loads((run / "metrics.json").read_text())["top5"] is None
    assert json.loads((run / "evaluation.json").read_text())["top5"] is None
    # Machines read the names as they are.
    assert json.loads((run / "data.json").read_text())["class_names"] == sorted(NAMES)


def test_names_that_somebody_has_written_into_a_file_are_not_obeyed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("\x1b[2Jcat", "\u202egnp.exe\n", "\udcff", *map(str, range(3, 10)))
    form = ImageFormat((1, 8, 8), 255.0, (0.5,), (0.25,), names)
    network = DiscreteNetwork(get_genotype("DARTS_V2"), channels=2, cells=3, classes=10, image_channels=1)
    Trained(network.eval(), form).save(tmp_path)
    assert form.class_names_in_short() == "10 classes (\\x1b[2Jcat, \\u202egnp.exe, \\udcff, ...)"
    assert retrain.evaluate.main([str(tmp_path), "--data.name=digits", "--threads=1"]) == 2
    assert "(\\x1b[2Jcat, \\u202egnp.exe, \\udcff, ...)" in capsys.readouterr().err
