"""Settings of data sets, and how images are chosen, prepared and divided."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from base.seeds import new_generator
from training.format import saved_format
from training.hardware import Hardware
from training.images import data
from training.images.augment import Augmentation
from training.images.batches import Batches
from training.images.data import (
    DATASETS,
    DataConfig,
    Part,
    class_weights,
    load_images,
    register_dataset,
    split_halves,
)
from training.images.sets import ImageSet, resize, resized
from training.run.config import RunOptions
from training.tasks.classification import Classification

PARTS: tuple[Part, ...] = ("train", "test")


Numbered = Callable[[int], ImageSet]


@pytest.fixture(scope="module")
def digits() -> tuple[ImageSet, ImageSet]:
    return load_images(DataConfig(), "train"), load_images(DataConfig(), "test")


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
        ("crop_area", 0.0),
        ("crop_area", 1.5),
        ("resize", 64),
        ("test_fraction", 0.0),
        ("test_fraction", 0.6),
        ("workers", 0),
        ("workers", 1025),
    ],
)
def test_settings_out_of_range(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: must [^\n]*{value}$"):
        DataConfig(**{field: value})


def test_settings_name_the_augmentation() -> None:
    assert DataConfig().augmentation() == Augmentation()
    config = DataConfig(crop_padding=4, flip=True, cutout=16, crop_area=0.5, limit=9, size=8)
    assert config.augmentation() == Augmentation(4, True, 16, 0.5)
    assert config.as_they_are() == DataConfig(size=8)


def test_settings_that_do_not_go_together() -> None:
    with pytest.raises(ValueError, match=r"^crop_area: only worker processes cut parts out; set loading to auto or workers$"):
        DataConfig(crop_area=0.5, loading="resident")
    for fields in ({"size": 32, "resize": 31}, {"size": 32, "resize": 64, "fit": "stretch"}, {"resize": 64}):
        with pytest.raises(ValueError, match=r"^resize: must be from size to 8192 pixels, and needs it"):
            DataConfig(**fields)  # type: ignore[arg-type]


def test_unknown_data_set() -> None:
    with pytest.raises(
        ValueError,
        match=r"^data\.name: unknown data set 'cifar1000'; did you mean cifar100\? known: cifar10, cifar100, [a-z0-9, _]*svhn$",
    ):
        load_images(DataConfig("cifar1000"), "train")


@pytest.fixture
def registry() -> Iterator[None]:
    with DATASETS.temporarily():
        yield


@pytest.mark.usefixtures("registry")
def test_own_data_set(numbered_images: Numbered) -> None:
    @register_dataset("numbered")
    def load(config: DataConfig, part: data.Part) -> ImageSet:
        return numbered_images(20 if part == "train" else 8)

    assert len(load_images(DataConfig("numbered"), "train")) == 20
    assert len(load_images(DataConfig("numbered", limit=5), "train")) == 5
    assert len(load_images(DataConfig("numbered", limit=5), "test")) == 8
    with pytest.raises(ValueError, match="'numbered' is registered already"):
        register_dataset("numbered")(lambda config, part: numbered_images(20))


def test_size_averages_blocks(digits: tuple[ImageSet, ImageSet]) -> None:
    both = load_images(DataConfig(size=4), "train"), load_images(DataConfig(size=4), "test")
    for small, original in zip(both, digits, strict=True):
        blocks = original.images.numpy().astype(np.float64).reshape(len(original), 1, 4, 2, 4, 2)
        assert small.images.dtype == torch.uint8
        assert small.images.shape == (len(original), 1, 4, 4)
        assert np.array_equal(small.images.numpy(), blocks.mean((3, 5)).round())
        assert torch.equal(small.labels, original.labels)
        assert (small.mean, small.std) == (original.mean, original.std)


def test_the_same_size_copies_nothing(digits: tuple[ImageSet, ImageSet], numbered_images: Numbered) -> None:
    assert torch.equal(load_images(DataConfig(size=8), "train").images, digits[0].images)
    images = numbered_images(3).images[..., :5, :]
    assert resize(images, 5) is images


@pytest.mark.parametrize("size", [4, 12])
def test_limit_picks_the_same_images_at_any_size(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = load_images(DataConfig(limit=50), "train")
    expected = resize(images.images, size)
    counts = []

    def counted(images: torch.Tensor, *how: Any) -> torch.Tensor:
        counts.append(len(images))
        return resized(images, *how)

    monkeypatch.setattr(data, "resized", counted)
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


def axis_weights(old: int, new: int) -> np.ndarray:
    """Share of each old pixel in each of fewer new ones along an axis, float64 [new, old]."""
    weights = np.zeros((new, old))
    for pixel in range(new):
        first, last = pixel * old // new, -(-(pixel + 1) * old // new)
        weights[pixel, first:last] = 1 / (last - first)
    return weights


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_a_data_set_that_is_not_square_becomes_so(fit: Any, numbered_images: Numbered) -> None:
    original = numbered_images(9)
    register_dataset("numbered")(lambda config, part: original)
    square = load_images(DataConfig("numbered", size=4, fit=fit), "train")
    # Of the 6 rows of 5 pixels the middle 5 stay, or all.
    kept = (original.images[:, :, :5] if fit == "crop" else original.images).numpy().astype(np.float64)
    expected = np.einsum("nchw,yh,xw->ncyx", kept, axis_weights(kept.shape[2], 4), axis_weights(5, 4))
    np.testing.assert_allclose(square.pixels().numpy(), expected, rtol=0, atol=0.5 + 1e-9)
    images, _ = next(Batches(square, 9, "cpu", augment=Augmentation(crop_padding=2, flip=True, cutout=2)).epoch(0))
    assert images.shape == (9, 3, 4, 4)


@pytest.mark.usefixtures("registry")
def test_what_lies_around_the_middle_is_cut_off() -> None:
    pixels = torch.arange(24 * 24, dtype=torch.float32).view(1, 1, 24, 24).repeat(2, 1, 1, 1)
    whole = ImageSet(pixels, torch.arange(2), 2, (0.0,), (1.0,))
    register_dataset("ramp")(lambda config, part: whole)
    # The shorter side to 12 pixels, of which the middle 8: the middle 16 of the 24, halved.
    small = load_images(DataConfig("ramp", size=8, resize=12), "train")
    assert torch.equal(small.pixels(), torch.nn.functional.avg_pool2d(pixels[:, :, 4:20, 4:20], 2))


@pytest.mark.usefixtures("registry")
def test_where_batches_come_from(monkeypatch: pytest.MonkeyPatch, numbered_images: Numbered) -> None:
    register_dataset("numbered")(lambda config, part: numbered_images(20))
    needed = 20 * 3 * (6 + 2 * 2) * (5 + 2 * 2)

    def workers(free: int, **fields: Any) -> int:
        monkeypatch.setattr(data, "free_on", lambda device: free)
        return load_images(DataConfig("numbered", crop_padding=2, **fields), "train").workers

    assert workers(4 * needed) == 0
    assert workers(4 * needed - 1, workers=3) == 3
    assert workers(0, loading="resident") == 0
    assert workers(10**12, loading="workers", workers=5) == 5
    assert workers(10**12, crop_area=0.5, workers=2) == 2
    assert workers(0) >= 1


@pytest.mark.usefixtures("registry")
def test_images_are_normalised_as_those_of_an_earlier_run(numbered_images: Numbered) -> None:
    register_dataset("numbered")(lambda config, part: numbered_images(4))
    form = numbered_images(4).format
    known = replace(form, mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    for part in PARTS:
        assert load_images(DataConfig("numbered"), part, known=known).format == known
    for other, message in (
        (
            replace(known, class_names=tuple("abcd")),
            r"4 classes \(0, 1, 2, \.\.\.\), .* trained on 4 classes \(a, b, c, \.\.\.\); name images of the same classes$",
        ),
        (
            replace(known, shape=(1, 6, 5), mean=(0.0,), std=(1.0,)),
            "3 channels, those that the network was trained on 1 channels$",
        ),
        (replace(known, scale=1.0), "pixels that are divided by 255, those that the network was trained on pixels that .* 1$"),
    ):
        with pytest.raises(ValueError, match=rf"^data: the images have {message}"):
            load_images(DataConfig("numbered"), "test", known=other)


def test_the_format_is_kept_in_the_directory_of_the_run(tmp_path: Path) -> None:
    labels = torch.tensor([0, 0, 0, 2])
    images = ImageSet(torch.zeros(4, 1, 8, 8), labels, 3, (1 / 3,), (0.1,), ("a", "\u00e9\u4e00", 'c"'))
    Classification.of_images(DataConfig(), images, Hardware(torch.device("cpu"))).save_description(tmp_path)
    content = json.loads((tmp_path / "data.json").read_text())
    assert (content["train_images"], content["train_images_of_class"]) == (4, [3, 0, 1])
    assert (content["shape"], content["scale"], content["mean"], content["std"]) == ([1, 8, 8], 1.0, [1 / 3], [0.1])
    assert saved_format(RunOptions(tmp_path, resume=True, overwrite=False)) == images.format
    assert saved_format(RunOptions(tmp_path, resume=False, overwrite=True)) is None
    assert saved_format(RunOptions(tmp_path / "new", resume=True, overwrite=False)) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"shape": ',
        b"[" * 10**5,
        b"\xff",
        b'{"scale": 1e999, "shape": [1, 4, 4], "mean": [0], "std": [1], "class_names": []}',
    ],
    ids=range(7),
)
def test_a_damaged_format(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"data\.json: damaged \([^\n]+\); delete it to have it computed again$"):
        saved_format(RunOptions(tmp_path, resume=True, overwrite=False))


def test_class_weights() -> None:
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    images = ImageSet(torch.zeros(10, 1, 4, 4), labels, 3, (0.0,), (1.0,), ("a", "b", "c"))
    assert class_weights(images, DataConfig()) is None
    weights = class_weights(images, DataConfig(class_weights="balanced"))
    assert weights is not None and weights.tolist() == pytest.approx([10 / 18, 10 / 9, 10 / 3])
    assert weights[labels].mean().item() == pytest.approx(1)
    with pytest.raises(ValueError, match=r"^data\.class_weights: class 'c' has no training image; "):
        class_weights(images.take(torch.arange(9)), DataConfig(class_weights="balanced"))


def test_split_halves(numbered_images: Numbered) -> None:
    images = numbered_images(21)
    first, second = split_halves(images, 0.5, seed=4)
    assert (len(first), len(second)) == (10, 11)
    assert sorted([*first.labels.tolist(), *second.labels.tolist()]) == list(range(21))
    assert first.labels.tolist() != list(range(10))
    assert torch.equal(first.images, images.images[first.labels])
    assert torch.equal(split_halves(images, 0.5, seed=4)[0].labels, first.labels)
    assert not torch.equal(split_halves(images, 0.5, seed=5)[0].labels, first.labels)


@pytest.mark.parametrize("fraction", [0.01, 1.0])
def test_split_that_leaves_nothing(fraction: float, numbered_images: Numbered) -> None:
    with pytest.raises(ValueError, match=rf"^train_fraction: {fraction} of 20 images leaves one of the two parts empty$"):
        split_halves(numbered_images(20), fraction, seed=0)
