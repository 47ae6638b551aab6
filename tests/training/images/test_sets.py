"""Image sets, and resizing."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.images import sets as images
from training.images.sets import LONGEST, Crop, ImageSet, channel_statistics, resize

Numbered = Callable[[int], ImageSet]


def test_image_sets_are_checked(numbered_images: Numbered) -> None:
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
    result = resize(images, size)
    assert result.dtype == torch.uint8 and result.shape == (count, channels, size, size)
    # Rounding takes at most a half, and at a half either way is right.
    np.testing.assert_allclose(result.numpy(), resized(images, size), rtol=0, atol=0.5 + 1e-9)


def test_resizing_in_parts_is_the_same(monkeypatch: pytest.MonkeyPatch, numbered_images: Numbered) -> None:
    pixels = numbered_images(7).images
    at_once = [resize(pixels, size) for size in (4, 9)]
    # Two images at a time, then less than one.
    for values in (2 * 3 * 9 * 9, 10):
        monkeypatch.setattr(images, "VALUES_AT_ONCE", values)
        assert all(torch.equal(resize(pixels, size), whole) for size, whole in zip((4, 9), at_once, strict=True))


@pytest.mark.parametrize("pixel", [129, 255])
def test_a_plain_image_stays_so_at_any_size(pixel: int) -> None:
    for side, size in ((4096, 4), (7, 5), (5, 48)):
        image = torch.full((1, 1, side, side), pixel, dtype=torch.uint8)
        assert resize(image, size).unique().tolist() == [pixel]


def test_statistics_of_numbers_that_are_no_bytes() -> None:
    pixels = torch.randn(50, 2, 8, 8) * torch.tensor([1e-20, 1e5]).view(1, 2, 1, 1) + torch.tensor([0, 1e6]).view(1, 2, 1, 1)
    mean, std = channel_statistics(pixels)
    exact = pixels.double().transpose(0, 1).flatten(1)
    assert mean == pytest.approx(exact.mean(1).tolist(), rel=1e-9)
    assert std == pytest.approx(exact.std(1, correction=0).tolist(), rel=1e-9)
    assert channel_statistics(torch.full((3, 1, 4, 4), 0.1)) == ((pytest.approx(0.1),), (1.0,))


# ---------------------------------------------------------------------------------------------------------------- crops


@settings(max_examples=300)
@given(
    area=st.floats(0.001, 1),
    aspect=st.floats(1 / LONGEST, LONGEST),
    down=st.floats(0, 1),
    right=st.floats(0, 1),
    height=st.integers(1, 5000),
    width=st.integers(1, 5000),
)
def test_a_part_lies_within_the_image(area: float, aspect: float, down: float, right: float, height: int, width: int) -> None:
    left, top, r, bottom = Crop(area, aspect, down, right).box(height, width)
    assert 0 <= left < r <= width * (1 + 1e-12) and 0 <= top < bottom <= height * (1 + 1e-12)
    wide, tall = r - left, bottom - top
    share = wide * tall / (height * width)
    assert 1 / LONGEST - 1e-6 <= wide / tall <= LONGEST + 1e-6
    assert share <= area + 1e-6
    if 1 / LONGEST <= width / height <= LONGEST:
        assert share == pytest.approx(area, rel=1e-6)
    elif share < area - 1e-6:
        # It is as large as a part of that aspect can be.
        assert wide == pytest.approx(width) or tall == pytest.approx(height)


def test_a_part_has_the_aspect_and_the_place_that_were_drawn() -> None:
    assert Crop(0.25, 1.0, 0.0, 0.0).box(100, 100) == pytest.approx((0, 0, 50, 50))
    assert Crop(0.25, 1.0, 1.0, 0.5).box(100, 100) == pytest.approx((25, 50, 75, 100))
    left, top, right, bottom = Crop(0.12, 4 / 3, 0.0, 0.0).box(100, 100)
    assert (right - left, bottom - top) == pytest.approx((40, 30))


def test_parts_of_images_in_memory() -> None:
    ramp = torch.arange(16.0).expand(2, 1, 16, 16).contiguous()
    set_ = ImageSet(ramp, torch.arange(2), 2, (0.0,), (1.0,))
    parts = set_.crops(torch.tensor([1, 0]), [Crop(0.25, 1.0, 0.0, 0.5), Crop(1.0, 1.0, 0.0, 0.0)])
    # The middle half, columns 4 to 11, drawn out to 16.
    assert torch.allclose(parts[0, 0, 0, 1:-1], 4 - 0.25 + 0.5 * torch.arange(1, 15))
    assert torch.equal(parts[1], ramp[0])
    pixels = torch.randint(256, (1, 3, 12, 12), dtype=torch.uint8)
    crops = ImageSet(pixels, torch.zeros(1).long(), 2, (0.0,) * 3, (1.0,) * 3).crops(torch.tensor([0]), [Crop(0.3, 1, 0, 0)])
    assert crops.dtype == torch.uint8 and crops.shape == pixels.shape


@pytest.mark.parametrize("ratio", [0.0, 1e2, 1e4, 1e5])
def test_statistics_of_floating_pixels_far_from_zero(ratio: float) -> None:
    """Against NumPy's, which takes the mean off first."""
    torch.manual_seed(0)
    images = torch.randn(50, 2, 9, 7) + ratio * torch.tensor([1.0, -3.0]).view(2, 1, 1)
    mean, std = channel_statistics(images)
    values = images.double().numpy()
    assert mean == pytest.approx(values.mean((0, 2, 3)).tolist(), rel=1e-12, abs=1e-14)
    assert std == pytest.approx(values.std((0, 2, 3)).tolist(), rel=1e-5)
    assert channel_statistics(torch.full((3, 1, 4, 4), 0.1 + ratio)) == ((pytest.approx(0.1 + ratio),), (1.0,))


def test_statistics_of_bytes_that_hardly_differ() -> None:
    """One pixel of 20,000 is another, by one."""
    images = torch.full((50, 1, 20, 20), 255, dtype=torch.uint8)
    images[7, 0, 3, 4] = 254
    share = 1 / images.numel()
    mean, std = channel_statistics(images)
    assert mean == pytest.approx(((255 - share) / 255,), rel=1e-12)
    assert std == pytest.approx((math.sqrt(share * (1 - share)) / 255,), rel=1e-6)
