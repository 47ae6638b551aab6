"""Augmentation of a batch at once does what a loop over the images does."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from training.images.augment import Augmentation
from training.images.batches import Batches
from training.images.sets import ImageSet

CHOICES = ("top", "left", "mirrored", "row", "column")


def numbered_images(count: int, channels: int, height: int, width: int) -> ImageSet:
    """Random images whose label is their index."""
    images = torch.randint(256, (count, channels, height, width), dtype=torch.uint8)
    mean, std = tuple(0.1 * (c + 1) for c in range(channels)), tuple(0.2 + 0.1 * c for c in range(channels))
    return ImageSet(images, torch.arange(count), count, mean, std)


def slow_augmentation(image: NDArray[Any], augment: Augmentation, draw: list[int], mean: Any, std: Any) -> NDArray[Any]:
    """One image [C, H, W] in the order of DARTS: crop, flip, normalise, cutout."""
    top, left, mirrored, row, column = draw
    channels, height, width = image.shape
    result = np.zeros(image.shape)
    for c in range(channels):
        for y in range(height):
            for x in range(width):
                from_y = y + top - augment.crop_padding
                from_x = (width - 1 - x if mirrored else x) + left - augment.crop_padding
                pixel = image[c, from_y, from_x] if 0 <= from_y < height and 0 <= from_x < width else 0
                result[c, y, x] = (pixel / 255 - mean[c]) / std[c]
    y0, x0 = row - augment.cutout // 2, column - augment.cutout // 2
    result[:, max(y0, 0) : max(y0 + augment.cutout, 0), max(x0, 0) : max(x0 + augment.cutout, 0)] = 0
    return result


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 3), st.integers(4, 9), st.integers(4, 9)),
    padding=st.integers(0, 10),
    flip=st.booleans(),
    cutout=st.integers(0, 12),
    seed=st.integers(0, 100),
)
def test_equals_a_loop_over_the_images(size: tuple[int, int, int], padding: int, flip: bool, cutout: int, seed: int) -> None:
    images = numbered_images(7, *size)
    augment = Augmentation(padding, flip, cutout)
    batches = Batches(images, 3, "cpu", seed, augment, shuffle=True, dtype=torch.float64, stream="weights")
    draws = augment.draw(7, *size[1:], seed, "weights", 5)
    position = 0
    for batch, labels in batches.epoch(5):
        for found, label in zip(batch, labels, strict=True):
            draw = [int(values[position]) * (name != "mirrored" or flip) for name, values in zip(CHOICES, draws, strict=False)]
            expected = slow_augmentation(images.images[label].numpy(), augment, draw, images.mean, images.std)
            np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
            position += 1
    assert position == 7


def test_draws_are_uniform() -> None:
    draws = Augmentation(crop_padding=2, flip=True, cutout=3).draw(20000, 5, 4, 1)
    assert not draws.part.any()
    for values, choices in zip(draws[:5], (5, 5, 2, 5, 4), strict=True):
        shares = torch.bincount(values.long(), minlength=choices) / 20000
        assert len(shares) == choices
        assert (shares - 1 / choices).abs().max() < 0.02
    row, column = draws.row.double(), draws.column.double()
    assert (
        torch.corrcoef(torch.stack([row, column, draws.top, draws.left, draws.mirrored])).fill_diagonal_(0).abs().max() < 0.03
    )


def test_each_choice_has_its_own_stream() -> None:
    everything = Augmentation(4, True, 16).draw(50, 32, 32, 3)
    no_crop = Augmentation(0, True, 16).draw(50, 32, 32, 3)
    assert not no_crop.top.any() and not no_crop.left.any()
    assert everything.top.any() and everything.left.any()
    for name in ("mirrored", "row", "column"):
        assert torch.equal(getattr(everything, name), getattr(no_crop, name))


@pytest.mark.parametrize(("cutout", "blank"), [(2, 4), (3, 9), (16, 64)])
def test_cutout_is_as_wide_as_it_says(cutout: int, blank: int) -> None:
    augment = Augmentation(cutout=cutout)
    draws = augment.draw(1, 8, 8, 0)._replace(row=torch.tensor([4]), column=torch.tensor([4]))
    assert int((augment.cut_out(torch.ones(1, 8, 8, 3), draws) == 0).all(-1).sum()) == blank


def test_nothing_is_changed_by_default() -> None:
    images = numbered_images(6, 3, 5, 7)
    (batch, labels), *rest = Batches(images, 6, "cpu", augment=Augmentation(), dtype=torch.float64).epoch(0)
    assert not rest and labels.tolist() == list(range(6))
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (images.mean, images.std))
    torch.testing.assert_close(batch, (images.images / 255.0 - mean) / std, check_dtype=False, atol=1e-6, rtol=1e-6)


def test_parts_are_drawn_as_asked() -> None:
    augment = Augmentation(crop_area=0.08)
    draws = augment.draw(20000, 5, 4, 1)
    crops = augment.crops(draws)
    assert crops is not None and len(crops) == 20000
    ranges = {"area": (0.08, 1), "aspect": (3 / 4, 4 / 3), "down": (0, 1), "right": (0, 1)}
    for name, (least, most) in ranges.items():
        values = torch.tensor([getattr(crop, name) for crop in crops], dtype=torch.float64)
        spread = values.log() if name == "aspect" else values
        low, high = (math.log(least), math.log(most)) if name == "aspect" else (least, most)
        assert low - 1e-6 <= spread.min() < low + 0.01 and high - 0.01 < spread.max() <= high + 1e-6
        assert spread.mean().item() == pytest.approx((low + high) / 2, abs=0.01)
    assert torch.corrcoef(draws.part.T).fill_diagonal_(0).abs().max() < 0.03
    assert Augmentation().crops(draws) is None


def test_parts_have_a_stream_of_their_own() -> None:
    whole, parts = (Augmentation(4, True, 16, area).draw(50, 32, 32, 3) for area in (1.0, 0.5))
    assert all(torch.equal(getattr(whole, name), getattr(parts, name)) for name in CHOICES)
    assert torch.equal(parts.part, Augmentation(crop_area=0.5).draw(50, 32, 32, 3).part)
    assert not torch.equal(parts.part, Augmentation(crop_area=0.5).draw(50, 32, 32, 4).part)
