"""Predictions of a network that was trained on files of many formats: those of its evaluation and of its exported files."""

import csv
import importlib.util
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import retrain.__main__
import retrain.evaluate
import retrain.export
import retrain.predict
from retrain.weights import Trained
from training.images.data import DataConfig, load_images

CLASSES = ("cold", "dark", "warm")
COLOURS = {"cold": (60, 90, 200), "dark": (40, 40, 40), "warm": (200, 90, 60)}
FORMS = [
    ("jpg", "RGB"), ("png", "RGB"), ("png", "RGBA"), ("jpg", "CMYK"), ("png", "P"), ("webp", "RGB"), ("gif", "P"),
    ("tif", "RGB"), ("bmp", "RGB"), ("png", "L"),
]  # fmt: skip
SMALL = [
    "--cells=1",
    "--channels=4",
    "--epochs=2",
    "--batch_size=8",
    "--auxiliary_weight=0",
    "--threads=1",
    "--device=cpu",
    "--drop_path=0",
]
CELL = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|skip_connect~1|none~2|"


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photographs")
    random, forms = np.random.default_rng(0), itertools.cycle(FORMS)
    for part, name, number in itertools.product(("train", "test"), CLASSES, range(20)):
        (root / part / name).mkdir(parents=True, exist_ok=True)
        height, width = random.integers(14, 60, 2)
        pixels = np.clip(random.normal(COLOURS[name], 90, (height, width, 3)), 0, 255).astype(np.uint8)
        suffix, mode = next(forms)
        exif = Image.Exif()
        exif[0x0112] = int(random.integers(1, 9))
        Image.fromarray(pixels).convert(mode).save(root / part / name / f"{number}.{suffix}", exif=exif)
    return root


@pytest.mark.parametrize("fit", ["--data.fit=crop", "--data.fit=stretch", "--data.resize=20", "--data.gray=true"])
def test_predictions_are_those_of_the_evaluation_and_of_exported_files(photographs: Path, tmp_path: Path, fit: str) -> None:
    run, table = str(tmp_path / "run"), tmp_path / "out.csv"
    (tmp_path / "cell.txt").write_text(CELL)
    data = ["--data.name=folder", f"--data.root={photographs}", "--data.size=16", fit]
    assert retrain.__main__.main(["--run", run, f"--genotype={tmp_path}/cell.txt", *SMALL, *data]) == 0
    assert retrain.predict.main([run, str(photographs / "test"), f"--csv={table}", "--batch_size=7"]) == 0
    with table.open(newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert len(rows) == 60

    # The evaluation: the same confusion, class by class, and the same loss.
    assert retrain.evaluate.main([run, "--speed=false"]) == 0
    found = json.loads((Path(run) / "evaluation.json").read_text())
    confusion, loss = np.zeros((3, 3), int), 0.0
    for name, row in rows.items():
        true = Path(name).parent.name
        confusion[CLASSES.index(true), CLASSES.index(row["class"])] += 1
        chances = {row[kind]: row[chance] for kind, chance in zip(list(row)[1:7:2], list(row)[2:8:2], strict=True)}
        loss -= np.log(float(chances[true])) / 60
    assert confusion.tolist() == found["confusion"]
    assert loss == pytest.approx(found["loss"], abs=1e-4)

    # The exported files, image by image.
    kind, _, value = fit.removeprefix("--data.").partition("=")
    settings = {kind: {"gray": True, "resize": 20}.get(kind, value)}
    images = load_images(DataConfig(name="folder", root=str(photographs), size=16, **settings), "test")
    assert images.prints is not None
    pixels = images.pixels().float() / 255
    assert retrain.export.main([run, "--format=torch_export", "--threads=1"]) == 0
    logits = [torch.export.load(f"{run}/export/model.pt2").module()(pixels).detach()]
    if importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnxscript"):
        import onnxruntime

        assert retrain.export.main([run, "--format=onnx", "--threads=1"]) == 0
        (one,) = onnxruntime.InferenceSession(f"{run}/export/model.onnx").run(None, {"images": pixels.numpy()})
        logits.append(torch.from_numpy(one))
    predicted = Trained.load(Path(run)).predict(photographs / "test")
    places = [predicted.names.index(f"{photographs}/{name}") for name in images.prints.names]
    for one in logits:
        chances = one.double().softmax(1)
        torch.testing.assert_close(predicted.outputs[places], chances, rtol=0, atol=1e-4)
        assert predicted.classes[places].tolist() == one.argmax(1).tolist()
        for name, chance in zip(images.prints.names, chances, strict=True):
            row = rows[f"{photographs}/{name}"]
            assert float(row["probability"]) == pytest.approx(chance.max().item(), abs=1e-4)
            assert row["class"] == CLASSES[int(chance.argmax())]
