"""Data sets, their parts and their batches."""

import hashlib
import itertools
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training import data
from training.augment import Augmentation
from training.batches import Batches
from training.data import DataConfig, load_images, register_dataset, split_halves
from training.images import ImageSet, channel_statistics
from training.seeds import new_generator
from training.vision import import_torchvision


def numbered_images(count: int) -> ImageSet:
    """Random images of 6x5 pixels whose label is their index."""
    images = torch.randint(256, (count, 3, 6, 5), dtype=torch.uint8)
    return ImageSet(images, torch.arange(count), count, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


@pytest.fixture(scope="module")
def digits() -> tuple[ImageSet, ImageSet]:
    return load_images(DataConfig(), "train"), load_images(DataConfig(), "test")


def test_digits_are_split_by_class(digits: tuple[ImageSet, ImageSet]) -> None:
    train, test = digits
    assert (len(train), len(test)) == (1437, 360)
    assert train.images.shape[1:] == test.images.shape[1:] == (1, 8, 8)
    assert train.classes == 10
    of_train, of_test = train.labels.bincount(), test.labels.bincount()
    assert (of_test - (of_train + of_test) * 0.2).abs().max() < 1


def test_digits_are_all_there_once(digits: tuple[ImageSet, ImageSet]) -> None:
    from sklearn.datasets import load_digits

    rows = [
        (int(label), *image.flatten().tolist())
        for part in digits
        for image, label in zip(part.images, part.labels, strict=True)
    ]
    original = load_digits()
    pixels = [[round(value * 255 / 16) for value in image] for image in original.data.tolist()]
    assert sorted(rows) == sorted((label, *image) for label, image in zip(original.target.tolist(), pixels, strict=True))


def test_digits_are_normalised_by_their_training_part(digits: tuple[ImageSet, ImageSet]) -> None:
    train, test = digits
    assert train.mean == test.mean == pytest.approx((train.images.double().mean().item() / 255,))
    assert train.std == test.std == pytest.approx((train.images.double().std(correction=0).item() / 255,))
    ((images, _),) = Batches(train, len(train), "cpu", dtype=torch.float64).epoch(0)
    assert images.mean().item() == pytest.approx(0, abs=1e-9)
    assert images.std(correction=0).item() == pytest.approx(1)


def test_digits_are_the_same_each_time(digits: tuple[ImageSet, ImageSet]) -> None:
    torch.manual_seed(123)
    again = load_images(DataConfig(), "train")
    assert torch.equal(again.images, digits[0].images)
    assert torch.equal(again.labels, digits[0].labels)


def test_limit_keeps_the_proportions_of_the_classes(digits: tuple[ImageSet, ImageSet]) -> None:
    limited = load_images(DataConfig(limit=203), "train")
    expected = digits[0].labels.bincount() * (203 / 1437)
    assert len(limited) == 203
    assert (limited.labels.bincount() - expected).abs().max() <= 1
    assert limited.mean == digits[0].mean
    assert torch.equal(limited.images, load_images(DataConfig(limit=203), "train").images)
    assert len(load_images(DataConfig(limit=203), "test")) == 360
    assert torch.equal(load_images(DataConfig(limit=1437), "train").images, digits[0].images)


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=5).filter(any), st.data())
def test_limit_by_class_for_any_labels(sizes: list[int], draw: st.DataObject) -> None:
    total, classes = sum(sizes), len(sizes) - sizes.count(0)
    labels = torch.repeat_interleave(torch.tensor(sizes))
    count = draw.draw(st.integers(1, total))
    chosen = data.stratified(labels, count, new_generator("limit"))
    assert len(set(chosen.tolist())) == count
    for size, found in zip(sizes, labels[chosen].bincount(minlength=len(sizes)).tolist(), strict=True):
        # Each class is rounded by at most a half, and all of them together shift the shares by what they were rounded.
        assert abs(found - count * size / total) <= 0.5 + 0.5 * classes * size / total + 1e-9
    assert set(data.stratified(labels, max(1, count - 1), new_generator("limit")).tolist()) <= set(chosen.tolist())


def test_limit_keeps_a_rare_class_rare() -> None:
    labels = torch.tensor([0] * 90 + [1] * 10)
    assert labels[data.stratified(labels, 20, new_generator("limit"))].bincount().tolist() == [18, 2]


def test_limit_above_the_data() -> None:
    with pytest.raises(ValueError, match=r"^data\.limit: 1438 is more than the 1437 training images of digits$"):
        load_images(DataConfig(limit=1438), "train")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("crop_padding", -1),
        ("cutout", -2),
        ("limit", 0),
        ("size", 3),
        ("size", 4097),
        ("size", 0),
    ],
)
def test_settings_out_of_range(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^data\.{field}: must [^\n]*{value}$"):
        DataConfig(**{field: value})


def test_settings_name_the_augmentation() -> None:
    assert DataConfig().augmentation() == Augmentation()
    assert DataConfig(crop_padding=4, flip=True, cutout=16).augmentation() == Augmentation(4, True, 16)


def test_unknown_data_set() -> None:
    with pytest.raises(ValueError, match=r"^data\.name: unknown data set 'cifar1000'; known: cifar10, [a-z0-9, _]*svhn$"):
        load_images(DataConfig("cifar1000"), "train")


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_OWN", dict(data._OWN))


@pytest.mark.usefixtures("registry")
def test_own_data_set() -> None:
    @register_dataset("numbered")
    def load(config: DataConfig, part: data.Part) -> ImageSet:
        return numbered_images(20 if part == "train" else 8)

    assert len(load_images(DataConfig("numbered"), "train")) == 20
    assert len(load_images(DataConfig("numbered", limit=5), "train")) == 5
    assert len(load_images(DataConfig("numbered", limit=5), "test")) == 8
    with pytest.raises(ValueError, match="'numbered' is registered already"):
        register_dataset("numbered")(load)


def test_image_sets_are_checked() -> None:
    good = numbered_images(4)
    with pytest.raises(ValueError, match=r"^images: must be uint8 or float32"):
        replace(good, images=good.images.double())
    with pytest.raises(ValueError, match=r"^images: must be uint8 or float32 \[N, C, H, W\], not torch.uint8 \[4, 6, 5\]"):
        replace(good, images=good.images[:, 0])
    with pytest.raises(ValueError, match=r"^labels: must be int64 \[4\]"):
        replace(good, labels=good.labels[:3])
    with pytest.raises(ValueError, match=r"^labels: must be int64 \[4\]"):
        replace(good, labels=good.labels.int())
    with pytest.raises(ValueError, match=r"^labels: must be from 0 to 2"):
        replace(good, classes=3)
    with pytest.raises(ValueError, match=r"^labels: must be from 0"):
        replace(good, labels=good.labels - 1)
    with pytest.raises(ValueError, match=r"^mean, std: must be 3 numbers each"):
        replace(good, mean=(0.5,))
    with pytest.raises(ValueError, match=r"^mean, std: must be 3 numbers each, std positive"):
        replace(good, std=(0.5, 0.0, 0.5))


def test_channel_statistics() -> None:
    images = torch.tensor([[[[0, 255]], [[51, 51]]], [[[255, 0]], [[51, 51]]]], dtype=torch.uint8)
    assert channel_statistics(images) == ((0.5, pytest.approx(0.2)), (0.5, 1.0))


# ----------------------------------------------------------------------------------------------------------------- size


def axis_weights(old: int, new: int) -> np.ndarray:
    """Share of each old pixel in each new one along an axis, float64 [new, old]: means of areas, or lines between centres."""
    weights = np.zeros((new, old))
    for pixel in range(new):
        if new <= old:
            first, last = pixel * old // new, -(-(pixel + 1) * old // new)
            weights[pixel, first:last] = 1 / (last - first)
        else:
            place = min(max((pixel + 0.5) * old / new - 0.5, 0), old - 1)
            left = int(place)
            weights[pixel, left] += left + 1 - place
            weights[pixel, min(left + 1, old - 1)] += place - left
    return weights


def resized(images: torch.Tensor, size: int) -> np.ndarray:
    """The reference, not rounded: float64 [N, C, size, size]."""
    down, across = (axis_weights(old, size) for old in images.shape[2:])
    return np.einsum("nchw,yh,xw->ncyx", images.numpy().astype(np.float64), down, across)


def test_size_averages_blocks(digits: tuple[ImageSet, ImageSet]) -> None:
    both = load_images(DataConfig(size=4), "train"), load_images(DataConfig(size=4), "test")
    for small, original in zip(both, digits, strict=True):
        blocks = original.images.numpy().astype(np.float64).reshape(len(original), 1, 4, 2, 4, 2)
        assert small.images.dtype == torch.uint8
        assert small.images.shape == (len(original), 1, 4, 4)
        assert np.array_equal(small.images.numpy(), blocks.mean((3, 5)).round())
        assert torch.equal(small.labels, original.labels)
        assert (small.mean, small.std) == (original.mean, original.std)


@settings(deadline=None, max_examples=50)
@given(
    height=st.integers(1, 24),
    width=st.integers(1, 24),
    size=st.integers(1, 24),
    channels=st.integers(1, 3),
    count=st.integers(0, 3),
)
def test_size_of_any_shape(height: int, width: int, size: int, channels: int, count: int) -> None:
    generator = torch.Generator().manual_seed(height * 24 + width)
    images = torch.randint(256, (count, channels, height, width), dtype=torch.uint8, generator=generator)
    result = data._resize(images, size)
    assert result.dtype == torch.uint8 and result.shape == (count, channels, size, size)
    # Rounding takes at most a half, and at a half either way is right.
    np.testing.assert_allclose(result.numpy(), resized(images, size), rtol=0, atol=0.5 + 1e-9)


def test_the_same_size_copies_nothing(digits: tuple[ImageSet, ImageSet]) -> None:
    assert torch.equal(load_images(DataConfig(size=8), "train").images, digits[0].images)
    images = numbered_images(3).images[..., :5, :]
    assert data._resize(images, 5) is images


def test_resizing_in_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    images = numbered_images(7).images
    at_once = [data._resize(images, size) for size in (4, 9)]
    # Two images at a time, then less than one.
    for values in (2 * 3 * 9 * 9, 10):
        monkeypatch.setattr(data, "_VALUES_AT_ONCE", values)
        assert all(torch.equal(data._resize(images, size), whole) for size, whole in zip((4, 9), at_once, strict=True))


@pytest.mark.parametrize("pixel", [129, 255])
def test_a_plain_image_stays_so_at_any_size(pixel: int) -> None:
    for side, size in ((4096, 4), (7, 5), (5, 48)):
        image = torch.full((1, 1, side, side), pixel, dtype=torch.uint8)
        assert data._resize(image, size).unique().tolist() == [pixel]


@pytest.mark.parametrize("size", [4, 12])
def test_limit_picks_the_same_images_at_any_size(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = load_images(DataConfig(limit=50), "train")
    expected = data._resize(images.images, size)
    counts = []

    def counted(images: torch.Tensor, size: int, resize: Callable[..., torch.Tensor] = data._resize) -> torch.Tensor:
        counts.append(len(images))
        return resize(images, size)

    monkeypatch.setattr(data, "_resize", counted)
    small = load_images(DataConfig(limit=50, size=size), "train")
    assert counts == [50]
    assert torch.equal(small.images, expected)
    assert torch.equal(small.labels, images.labels)
    assert len(load_images(DataConfig(limit=50, size=size), "test")) == 360


@pytest.mark.parametrize("field", ["crop_padding", "cutout"])
def test_changes_are_checked_against_the_new_size(field: str) -> None:
    def changed(size: int, pixels: Any) -> DataConfig:
        return DataConfig(size=size, **{field: pixels})

    for part in ("train", "test"):
        with pytest.raises(ValueError, match=rf"^data\.{field}: 4 pixels could hide all of an image of 4x4; use fewer$"):
            load_images(changed(4, 4), part)
    assert load_images(changed(4, 3), "train").images.shape == (1437, 1, 4, 4)
    assert load_images(changed(16, 15), "train").images.shape == (1437, 1, 16, 16)


@pytest.mark.usefixtures("registry")
def test_a_data_set_that_is_not_square_becomes_so() -> None:
    original = numbered_images(9)
    register_dataset("numbered")(lambda config, part: original)
    square = load_images(DataConfig("numbered", size=5), "train")
    np.testing.assert_allclose(square.images.numpy(), resized(original.images, 5), rtol=0, atol=0.5 + 1e-9)
    images, _ = next(Batches(square, 9, "cpu", augment=Augmentation(crop_padding=2, flip=True, cutout=2)).epoch(0))
    assert images.shape == (9, 3, 5, 5)


# ------------------------------------------------------------------------------------------------------------- CIFAR-10


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


# --------------------------------------------------------------------------------------------------------------- splits


def test_split_halves() -> None:
    images = numbered_images(21)
    first, second = split_halves(images, 0.5, seed=4)
    assert (len(first), len(second)) == (10, 11)
    assert sorted([*first.labels.tolist(), *second.labels.tolist()]) == list(range(21))
    assert first.labels.tolist() != list(range(10))
    assert torch.equal(first.images, images.images[first.labels])
    assert torch.equal(split_halves(images, 0.5, seed=4)[0].labels, first.labels)
    assert not torch.equal(split_halves(images, 0.5, seed=5)[0].labels, first.labels)


@pytest.mark.parametrize("fraction", [0.01, 1.0])
def test_split_that_leaves_nothing(fraction: float) -> None:
    with pytest.raises(ValueError, match=rf"^train_fraction: {fraction} of 20 images leaves one of the two parts empty$"):
        split_halves(numbered_images(20), fraction, seed=0)


# -------------------------------------------------------------------------------------------------------------- batches


def all_of(batches: Batches, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The images and labels of an epoch, end to end."""
    images, labels = zip(*batches.epoch(epoch), strict=True)
    return torch.cat(images), torch.cat(labels)


AUGMENT = Augmentation(crop_padding=2, flip=True, cutout=2)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 30), size=st.integers(1, 30), shuffle=st.booleans(), drop_last=st.booleans())
def test_every_image_once_an_epoch(count: int, size: int, shuffle: bool, drop_last: bool) -> None:
    size = min(size, count)
    batches = Batches(numbered_images(count), size, "cpu", 1, AUGMENT, shuffle, drop_last)
    sizes = [len(labels) for _, labels in batches.epoch(2)]
    labels = all_of(batches, 2)[1].tolist()
    rest = count % size
    assert sizes == [size] * (count // size) + ([rest] if rest and not drop_last else [])
    assert len(batches) == len(sizes)
    assert len(set(labels)) == len(labels) == count - rest * drop_last
    if not shuffle:
        assert labels == list(range(len(labels)))


def test_an_epoch_can_be_repeated() -> None:
    images = numbered_images(40)
    batches = Batches(images, 8, "cpu", 3, AUGMENT, shuffle=True, stream="weights")
    expected = all_of(batches, 7)
    for _ in itertools.islice(batches.epoch(2), 3):
        torch.rand(5)
    restarted = Batches(images, 8, "cpu", 3, AUGMENT, shuffle=True, stream="weights")
    for again in (all_of(batches, 7), all_of(restarted, 7)):
        assert torch.equal(again[0], expected[0])
        assert torch.equal(again[1], expected[1])


def test_the_order_of_an_epoch_is_known() -> None:
    """Written down once: another order would make every old run unrepeatable."""
    batches = Batches(numbered_images(10), 5, "cpu", seed=0, shuffle=True)
    assert all_of(batches, 0)[1].tolist() == [8, 4, 3, 7, 0, 2, 9, 6, 1, 5]


def test_global_random_state_is_left_alone() -> None:
    images = numbered_images(8)
    before = torch.get_rng_state()
    all_of(Batches(images, 4, "cpu", 3, AUGMENT, shuffle=True), 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_epochs_seeds_and_streams_differ() -> None:
    images = numbered_images(40)

    def epoch(seed: int = 0, number: int = 0, stream: str = "weights") -> tuple[torch.Tensor, torch.Tensor]:
        return all_of(Batches(images, 40, "cpu", seed, AUGMENT, shuffle=True, stream=stream), number)

    runs = [epoch(), epoch(seed=1), epoch(number=1), epoch(stream="alphas")]
    for (images_a, labels_a), (images_b, labels_b) in itertools.combinations(runs, 2):
        assert not torch.equal(labels_a, labels_b)
        # Also in the same order the images differ: the augmentation is another one.
        assert not torch.equal(images_a[labels_a.argsort()], images_b[labels_b.argsort()])


@pytest.mark.parametrize("augment", [None, AUGMENT])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_layout_and_type(augment: Augmentation | None, dtype: torch.dtype) -> None:
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]] = Batches(
        numbered_images(6), 4, "cpu", augment=augment, dtype=dtype
    ).epoch(0)
    images, labels = next(batches)
    assert images.shape == (4, 3, 6, 5)
    assert images.dtype == dtype
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.shape == (4,)
    assert labels.dtype == torch.int64


def test_batch_size_out_of_range() -> None:
    images = numbered_images(100)
    with pytest.raises(ValueError, match=r"^batch_size: 512 is larger than the 100 images"):
        Batches(images, 512, "cpu")
    with pytest.raises(ValueError, match=r"^batch_size: must be at least 1, not 0$"):
        Batches(images, 0, "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_device_gets_the_same_images() -> None:
    images = numbered_images(40)
    on_cpu, on_gpu = (all_of(Batches(images, 8, device, 3, AUGMENT, shuffle=True), 1) for device in ("cpu", "cuda"))
    assert on_gpu[0].is_cuda
    torch.testing.assert_close(on_gpu[0].cpu(), on_cpu[0])
    assert torch.equal(on_gpu[1].cpu(), on_cpu[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_batch_waits_for_the_host() -> None:
    batches = Batches(numbered_images(40), 8, "cuda", 3, AUGMENT, shuffle=True).epoch(0)
    next(batches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert len(list(batches)) == 4
    finally:
        torch.cuda.set_sync_debug_mode("default")
