"""The data sets that torchvision reads."""

import hashlib
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from training.images.data import DataConfig, Part, load_images
from training.images.sets import channel_statistics
from training.vision import import_torchvision

PARTS: tuple[Part, ...] = ("train", "test")


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


# ----------------------------------------------------------------------------------------------- CIFAR-100, SVHN, MNIST


@pytest.fixture
def small_cifar100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a folder of the published form whose checksums torchvision takes for the published ones."""
    datasets = import_torchvision().datasets
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()

    def write(name: str, content: object) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    def part(count: int) -> dict[str, object]:
        pixels = np.random.default_rng(count).integers(0, 256, (count, 3072), np.uint8)
        return {"data": pixels, "fine_labels": list(range(count))}

    monkeypatch.setattr(datasets.CIFAR100, "train_list", [write("train", part(100))])
    monkeypatch.setattr(datasets.CIFAR100, "test_list", [write("test", part(30))])
    _, md5 = write("meta", {"fine_label_names": [f"thing {label}" for label in range(100)]})
    monkeypatch.setattr(datasets.CIFAR100, "meta", {"filename": "meta", "key": "fine_label_names", "md5": md5})
    return tmp_path


def test_cifar100(small_cifar100: Path) -> None:
    config = DataConfig("cifar100", str(small_cifar100))
    train, test = (load_images(config, part) for part in PARTS)
    pixels = np.random.default_rng(30).integers(0, 256, (30, 3072), np.uint8)
    assert np.array_equal(test.pixels().flatten(1).numpy(), pixels)
    assert (len(train), len(test), train.classes) == (100, 30, 100)
    assert train.labels.tolist() == list(range(100)) and train.format.class_names[7] == "thing 7"
    assert (test.format.mean, test.format.std) == channel_statistics(train.pixels())
    (small_cifar100 / "cifar-100-python/test").write_bytes(b"")
    with pytest.raises(ValueError, match=r"^data\.root: CIFAR-100 in .* is incomplete or damaged \(test\); delete the folder"):
        load_images(config, "test")


def test_svhn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat

    splits = dict(import_torchvision().datasets.SVHN.split_list)
    pixels = {part: np.random.default_rng(0).integers(0, 256, (32, 32, 3, 12), np.uint8) for part in PARTS}
    for part in PARTS:
        file = tmp_path / f"{part}_32x32.mat"
        savemat(file, {"X": pixels[part], "y": np.arange(1, 13)[:, None] % 10 + 1})
        splits[part] = ["", file.name, hashlib.md5(file.read_bytes()).hexdigest()]
    monkeypatch.setattr(import_torchvision().datasets.SVHN, "split_list", splits)
    config = DataConfig("svhn", str(tmp_path))
    train, test = (load_images(config, part) for part in PARTS)
    assert np.array_equal(train.pixels().numpy(), pixels["train"].transpose(3, 2, 0, 1))
    # In the file the digit 0 is the number 10.
    assert test.labels.tolist() == [2, 3, 4, 5, 6, 7, 8, 9, 0, 1, 2, 3]
    assert test.format.class_names == tuple("0123456789")
    assert (test.format.mean, test.format.std) == channel_statistics(train.pixels())
    (tmp_path / "test_32x32.mat").write_bytes(b"not the published file")
    with pytest.raises(ValueError, match=r"^data\.root: SVHN in .* is incomplete or damaged \(test_32x32\.mat\); delete"):
        load_images(config, "test")
    with pytest.raises(ValueError, match=r"^data\.root: there is no folder .*nowhere; name its folder with --data\.root or"):
        load_images(DataConfig("svhn", str(tmp_path / "nowhere")), "train")


def idx(array: np.ndarray) -> bytes:
    """The form of MNIST's files."""
    sizes = b"".join(length.to_bytes(4, "big") for length in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def write_mnist(root: Path, folder: str, train: int = 40, test: int = 20) -> Path:
    """Files of the published form in root/folder/raw, which is returned."""
    raw = root / folder / "raw"
    raw.mkdir(parents=True)
    for name, count in (("train", train), ("t10k", test)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 28, 28), np.uint8)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(idx(pixels))
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(idx(np.arange(count) % 10))
    return raw


@pytest.mark.parametrize(
    ("name", "folder", "ninth"), [("mnist", "MNIST", "9"), ("fashion_mnist", "FashionMNIST", "Ankle boot")]
)
def test_mnist(tmp_path: Path, name: str, folder: str, ninth: str) -> None:
    write_mnist(tmp_path, folder)
    train, test = (load_images(DataConfig(name, str(tmp_path)), part) for part in PARTS)
    assert train.format.shape == test.format.shape == (1, 28, 28)
    assert np.array_equal(test.pixels()[:, 0].numpy(), np.random.default_rng(20).integers(0, 256, (20, 28, 28), np.uint8))
    assert train.labels.tolist() == [number % 10 for number in range(40)]
    assert train.format.class_names[9] == ninth
    assert (test.format.mean, test.format.std) == channel_statistics(train.pixels())


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("t10k-images-idx3-ubyte", b""),
        ("t10k-images-idx3-ubyte", None),
        ("t10k-images-idx3-ubyte", idx(np.zeros((20, 28, 28)))[:-50]),
        ("t10k-images-idx3-ubyte", idx(np.zeros((19, 28, 28)))),
        ("t10k-images-idx3-ubyte", idx(np.zeros((20, 784)))),
        ("t10k-images-idx3-ubyte", b"\0\0\x08\x03" + b"\xff" * 12),
        ("train-labels-idx1-ubyte", idx(np.full(40, 10))),
        ("train-labels-idx1-ubyte", idx(np.zeros(41))),
        ("train-labels-idx1-ubyte", b"\x1f\x8b a gzip"),
    ],
    ids=range(9),
)
def test_mnist_damaged(tmp_path: Path, file: str, content: bytes | None) -> None:
    raw = write_mnist(tmp_path, "MNIST")
    if content is None:
        (raw / file).unlink()
    else:
        (raw / file).write_bytes(content)
    with pytest.raises(
        ValueError, match=r"^data\.root: MNIST in \S+/raw is incomplete or damaged[^\n]*; delete the folder and"
    ):
        load_images(DataConfig("mnist", str(tmp_path)), "test")


def test_mnist_absent(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no folder \S+/MNIST/raw; name the folder above MNIST with --data\.root or download"):
        load_images(DataConfig("mnist", str(tmp_path)), "test")


def test_fashion_mnist_itself(fashion_mnist: Path) -> None:
    train, test = (load_images(DataConfig("fashion_mnist", str(fashion_mnist)), part) for part in PARTS)
    assert train.labels.bincount().tolist() == [6000] * 10 and test.labels.bincount().tolist() == [1000] * 10
    assert (train.format.mean, train.format.std) == ((pytest.approx(0.2860, abs=1e-4),), (pytest.approx(0.3530, abs=1e-4),))
