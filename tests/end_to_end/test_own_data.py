"""Images of one's own, from the files to a trained network, through the commands."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import retrain.__main__
import search.darts
from retrain.config import RetrainConfig
from retrain.trainer import Retraining
from retrain.weights import Trained
from supernet.genotypes.published import get_genotype
from training.format import ImageFormat
from training.hardware import Hardware
from training.images.data import DataConfig
from training.images.files import Decoding
from training.images.sets import ImageSet
from training.tasks.classification import Classification
from training.vision import import_torchvision

SEARCH = {"space": "nasbench201", "cells": 1, "channels": 4, "epochs": 2, "batch_size": 8, "eigenvalue_every": 0, "threads": 1}
SEARCH |= {"device": "cpu", "weights.lr": 0.05}
RETRAIN = {"cells": 1, "channels": 4, "epochs": 3, "batch_size": 8, "auxiliary_weight": 0, "threads": 1, "device": "cpu"}
RETRAIN |= {"weights.lr": 0.05, "drop_path": 0}


def options(*groups: dict[str, Any]) -> list[str]:
    return [f"--{name}={value}" for group in groups for name, value in group.items()]


def searched_and_retrained(where: Path, data: dict[str, Any], found: Path | None = None, **more: Any) -> tuple[Path, Path]:
    """The directories of a search and of a retraining of what it found, or of `found`."""
    data = {f"data.{name}": value for name, value in data.items()}
    runs = where / "search", where / "retrain"
    if found is None:
        assert search.darts.main(["--run", str(runs[0]), *options(SEARCH, data, more)]) == 0
        found = runs[0] / "genotype.json"
    assert retrain.__main__.main(["--run", str(runs[1]), f"--genotype={found}", *options(RETRAIN, data, more)]) == 0
    return runs


def metrics(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "metrics.json").read_text())
    return content


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JPEGs and PNGs of many sizes and modes: what is "cold" is bluish, what is "warm" reddish."""
    root = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(0)
    forms = itertools.cycle([("jpg", "RGB"), ("png", "RGB"), ("png", "RGBA"), ("jpg", "CMYK"), ("png", "P")])
    for part, count in (("train", 24), ("val", 10)):
        for name, colour in (("cold", (60, 90, 200)), ("warm", (200, 90, 60))):
            (root / part / name).mkdir(parents=True)
            for number in range(count):
                height, width = random.integers(14, 60, 2)
                pixels = np.clip(random.normal(colour, 40, (height, width, 3)), 0, 255).astype(np.uint8)
                suffix, mode = next(forms)
                Image.fromarray(pixels).convert(mode).save(root / part / name / f"{number}.{suffix}")
    return root


@pytest.fixture(scope="module")
def folder_runs(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Returns the directories of a search and a retraining for each way of making batches."""
    data = {"name": "folder", "root": photographs, "size": 16, "flip": True, "crop_padding": 2, "cutout": 4, "workers": 1}
    return {
        loading: searched_and_retrained(tmp_path_factory.mktemp(loading), data | {"loading": loading})
        for loading in ("resident", "workers")
    }


def test_a_folder_becomes_a_network(folder_runs: dict[str, tuple[Path, Path]], photographs: Path) -> None:
    searched, retrained = folder_runs["workers"]
    assert metrics(retrained)["accuracy"] > 0.8 and metrics(retrained)["images"] == 20
    content = json.loads((retrained / "data.json").read_text())
    assert (content["class_names"], content["shape"]) == (["cold", "warm"], [3, 16, 16])
    assert (content["train_images"], content["train_images_of_class"]) == (48, [24, 24])
    assert (searched / "data.json").read_bytes() == (retrained / "data.json").read_bytes()
    # With the weights alone any image can be classified.
    trained = Trained.load(retrained)
    files = sorted((photographs / "val").glob("*/*"))
    decoding = Decoding(16, None, False, False)
    pixels = torch.stack([decoding.read(str(file)) for file in files])
    with torch.no_grad():
        answers = trained.network(trained.format.normalised(pixels)).argmax(1).tolist()
    right = [trained.format.class_names[answer] == file.parent.name for answer, file in zip(answers, files, strict=True)]
    assert sum(right) / len(right) == pytest.approx(metrics(retrained)["accuracy"])


def test_what_makes_the_batches_changes_nothing(folder_runs: dict[str, tuple[Path, Path]]) -> None:
    (searched, retrained), (other_searched, other_retrained) = folder_runs["resident"], folder_runs["workers"]
    assert _without_hash(searched / "genotype.json") == _without_hash(other_searched / "genotype.json")
    assert (searched / "data.json").read_bytes() == (other_searched / "data.json").read_bytes()
    assert _without_hash(retrained / "metrics.json") == _without_hash(other_retrained / "metrics.json")
    states = [Trained.load(run).network.state_dict() for run in (retrained, other_retrained)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def _without_hash(path: Path) -> dict[str, Any]:
    """The settings differ, by what makes the batches."""
    content: dict[str, Any] = json.loads(path.read_text())
    return {name: value for name, value in content.items() if name != "config_hash"}


@pytest.mark.parametrize("loading", ["resident", "workers"])
def test_a_run_that_goes_on_takes_the_statistics_that_it_kept(photographs: Path, tmp_path: Path, loading: str) -> None:
    data = {"data.name": "folder", "data.root": photographs, "data.size": 8, "data.loading": loading, "data.workers": 1}
    given = ["--run", str(tmp_path / "run"), f"--genotype={tmp_path}/cell.txt", *options(RETRAIN | {"epochs": 1}, data)]
    (tmp_path / "cell.txt").write_text("|nor_conv_1x1~0|+|none~0|skip_connect~1|+|none~0|skip_connect~1|none~2|")
    assert retrain.__main__.main(given) == 0
    path = tmp_path / "run/data.json"
    kept = json.loads(path.read_text())
    changed = kept | {"mean": [0.25, 0.5, 0.75]}
    path.write_text(json.dumps(changed))
    (tmp_path / "run/metrics.json").unlink()
    assert retrain.__main__.main([*given, "--resume"]) == 0
    assert json.loads(path.read_text()) == changed
    trained = Trained.load(tmp_path / "run")
    assert trained.format == ImageFormat((3, 8, 8), 255.0, (0.25, 0.5, 0.75), tuple(kept["std"]), ("cold", "warm"))


@pytest.mark.parametrize("kind", ["bytes in colour", "numbers in grey"])
def test_arrays_become_a_network(kind: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)

    def part(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(count) % 2
        if kind == "bytes in colour":
            colours = np.array([(60, 90, 200), (200, 90, 60)])[labels]
            return np.clip(random.normal(colours[:, None, None], 40, (count, 16, 16, 3)), 0, 255).astype(np.uint8), labels
        return random.normal(labels[:, None, None] * 2.0 - 5, 1, (count, 16, 16)), labels

    (x_train, y_train), (x_test, y_test) = part(64), part(20)
    np.savez(tmp_path / "images.npz", x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    _, run = searched_and_retrained(tmp_path, {"name": "npz", "root": tmp_path / "images.npz"})
    assert metrics(run)["accuracy"] > 0.8
    form = Trained.load(run).format
    assert (form.shape[0], form.scale) == ((3, 255.0) if kind == "bytes in colour" else (1, 1.0))


def test_fashion_mnist_becomes_a_network(fashion_mnist: Path, tmp_path: Path) -> None:
    data = {"name": "fashion_mnist", "root": fashion_mnist, "limit": 800, "size": 14}
    _, run = searched_and_retrained(tmp_path, data, batch_size=32)
    assert metrics(run)["accuracy"] > 0.3 and metrics(run)["images"] == 10000
    assert json.loads((run / "data.json").read_text())["class_names"][9] == "Ankle boot"


def test_cifar10_in_a_folder_becomes_a_network(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    """2,000 of its images as PNGs."""
    root = shared_data("cifar10/cifar-10-batches-py").parent
    images = import_torchvision().datasets.CIFAR10(str(root), train=True)
    for number in range(2000):
        picture, label = images[number]
        file = tmp_path / "images" / images.classes[label] / f"{number:04}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        picture.save(file)
    data = {"name": "folder", "root": tmp_path / "images", "flip": True, "crop_padding": 2, "size": 16}
    _, run = searched_and_retrained(tmp_path, data, batch_size=32, channels=8)
    assert metrics(run)["images"] == 400 and metrics(run)["accuracy"] > 0.2


@pytest.mark.parametrize("auxiliary_weight", [0.0, 0.4])
def test_rare_classes_weigh_more_in_the_loss(auxiliary_weight: float) -> None:
    labels = torch.tensor([0] * 12 + [1] * 3 + [2] * 5)
    images = ImageSet(torch.randint(256, (20, 1, 8, 8), dtype=torch.uint8), labels, 3, (0.5,), (0.3,))
    data = DataConfig(class_weights="balanced")
    config = RetrainConfig(channels=2, cells=3, batch_size=20, auxiliary_weight=auxiliary_weight, drop_path=0, data=data)
    hardware = Hardware.of(config, config.graph)
    task = Classification.of_images(config.data, images, hardware)
    trainer = Retraining(config, get_genotype("DARTS_V2"), task, hardware)
    trainer.network.train()
    batch = next(iter(trainer.train_batches.epoch(0)))
    order = batch.targets
    loss, logits, auxiliary = trainer._loss(batch)
    weight = (20 / (3 * np.array([12, 3, 5])))[order.numpy()]

    def expected(logits: torch.Tensor) -> float:
        probabilities = logits.double().softmax(1)[torch.arange(20), order].detach().numpy()
        return float((weight * -np.log(probabilities)).sum() / weight.sum())

    assert loss.item() == pytest.approx(expected(logits), rel=1e-5)
    unweighted = torch.nn.functional.cross_entropy(logits, order).item()
    assert abs(loss.item() - unweighted) > 1e-4
    assert (torch.as_tensor(auxiliary).item() > 0) == (auxiliary_weight > 0)
