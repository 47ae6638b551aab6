"""The data sets that torchvision reads."""

import hashlib
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from training.data import DataConfig, load_images
from training.images import channel_statistics
from training.vision import import_torchvision


@pytest.mark.parametrize("root", ["absent", "file"])
def test_cifar10_absent(tmp_path: Path, root: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"^data\.root: there is no folder .*cifar-10-batches-py; .*--data\.download true$"):
        load_images(DataConfig("cifar10", str(tmp_path / root)), "train")


def write_cifar10(root: Path) -> Path:
    """A folder with the names of CIFAR-10's files and other contents."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"):
        (folder / name).write_bytes(b"not the published file")
    return folder


def test_cifar10_damaged(tmp_path: Path) -> None:
    folder = write_cifar10(tmp_path)
    (folder / "data_batch_3").unlink()
    (folder / "data_batch_4").unlink()
    (folder / "data_batch_4").mkdir()
    for part in ("train", "test"):
        with pytest.raises(ValueError) as caught:
            load_images(DataConfig("cifar10", str(tmp_path)), part)
        names = "data_batch_1, data_batch_2, data_batch_3, data_batch_4, data_batch_5, test_batch, batches.meta"
        assert str(caught.value) == (
            f"data.root: CIFAR-10 in {folder} is incomplete or damaged ({names}); "
            "delete the folder and download it again with --data.download true"
        )


def test_cifar10_that_cannot_be_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = import_torchvision().datasets

    def no_network(*_: object, **__: object) -> None:
        raise OSError("no route\nto host")

    monkeypatch.setattr(datasets.cifar, "download_and_extract_archive", no_network)
    with pytest.raises(ValueError, match=r"^data\.root: cannot download or read CIFAR-10 in [^\n]*: no route to host$"):
        load_images(DataConfig("cifar10", str(tmp_path), download=True), "test")

    def damaged(*_: object, **__: object) -> None:
        raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr(datasets.cifar, "download_and_extract_archive", damaged)
    with pytest.raises(ValueError, match=r"^data\.root: .* is incomplete or damaged \(.*\); try the download again$"):
        load_images(DataConfig("cifar10", str(tmp_path), download=True), "test")


@pytest.fixture
def small_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the published form with 20 images a file, whose checksums torchvision takes for the published ones."""
    datasets = import_torchvision().datasets
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()

    def write(name: str, content: object) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def batch(number: int) -> dict[str, object]:
        pixels = np.random.default_rng(number).integers(0, 256, (20, 3072), np.uint8)
        return {"data": pixels, "labels": [label % 10 for label in range(20)]}

    train = [write(f"data_batch_{number}", batch(number)) for number in range(1, 6)]
    test = [write("test_batch", batch(6))]
    _, md5 = write("batches.meta", {"label_names": [str(label) for label in range(10)]})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", train)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", test)
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": md5})
    return folder


def test_cifar10_is_read_image_by_image(small_cifar10: Path) -> None:
    config = DataConfig("cifar10", str(small_cifar10.parent))
    train, test = (load_images(config, part) for part in ("train", "test"))
    assert train.images.shape == (100, 3, 32, 32) and test.images.shape == (20, 3, 32, 32)
    assert train.labels.tolist() == [label % 10 for label in range(20)] * 5
    with (small_cifar10 / "data_batch_3").open("rb") as file:
        third = pickle.load(file)["data"]
    assert torch.equal(train.images[45], torch.from_numpy(third[5]).view(3, 32, 32))
    assert len(load_images(replace(config, limit=30), "train")) == 30


def test_cifar10_with_a_truncated_file(small_cifar10: Path) -> None:
    content = (small_cifar10 / "data_batch_2").read_bytes()
    (small_cifar10 / "data_batch_2").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"is incomplete or damaged \(data_batch_2\); delete the folder"):
        load_images(DataConfig("cifar10", str(small_cifar10.parent)), "train")


def test_cifar10_itself(shared_data: Callable[[str], Path]) -> None:
    root = shared_data("cifar10/cifar-10-batches-py").parent
    train, test = (load_images(DataConfig("cifar10", str(root)), part) for part in ("train", "test"))
    assert train.images.shape == (50000, 3, 32, 32)
    assert train.labels.bincount().tolist() == [5000] * 10
    assert test.images.shape == (10000, 3, 32, 32)
    assert test.labels.bincount().tolist() == [1000] * 10
    mean, std = channel_statistics(train.images)
    assert train.mean == test.mean == pytest.approx(mean, abs=1e-6)
    assert train.std == test.std == pytest.approx(std, abs=1e-6)
