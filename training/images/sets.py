"""Labelled images in memory, all of one size."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from base.checks import InputError
from training.format import BYTE, ImageFormat, Resizing, Standardisation
from training.images.prints import Prints

# The number of values of 4096 images of CIFAR-10, 100 MB in float64.
VALUES_AT_ONCE = 4096 * 3 * 32 * 32
LONGEST = 4 / 3
"""Longer over shorter side of a part of an image that is drawn at random (Szegedy et al.,
arXiv:1409.4842)."""
_AS_ARRAYS = Resizing(filter="area")


class Images(Protocol):
    """Labelled images of one size: an `ImageSet`, or `training.images.files.ImageFiles`."""

    @property
    def labels(self) -> Tensor:
        """Class of each image, int64 [N], from 0 to `classes` - 1; or its numbers, float64 [N,
        numbers]."""

    @property
    def format(self) -> ImageFormat: ...

    @property
    def workers(self) -> int:
        """Number of processes that make batches of them; 0: all stay on the device."""

    @property
    def classes(self) -> int:
        """Number of classes, or of numbers that each image has."""

    @property
    def resizing(self) -> Resizing:
        """The way in which they were brought to one size."""

    @property
    def prints(self) -> Prints | None:
        """Names and prints of the images; None where they were not taken."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Lines that say how the data were read: the part of each folder or array, and what was
        left out."""

    def __len__(self) -> int: ...

    def take(self, indices: Tensor) -> Self:
        """Returns the images at `indices` [n], in that order, of the same format."""

    def pixels(self, indices: Tensor | None = None) -> Tensor:
        """Returns the pixels at `indices` [n] (None: all), [n, C, H, W]: uint8 or, if the scale is
        1, float32."""

    def crops(self, indices: Tensor, crops: "Sequence[Crop]") -> Tensor:
        """Returns parts of the images at `indices` [n], resized to the size of the whole: [n, C, H,
        W]."""


@dataclass(frozen=True)
class Crop:
    """A part of an image, drawn before the image's size is known."""

    area: float
    """Share of the area of the image, above 0 and at most 1."""
    aspect: float
    """Width over height, from 1 / `LONGEST` to `LONGEST`."""
    down: float
    """Place from top to bottom: the part above it as a share, 0 to 1, of the room above and
    below."""
    right: float
    """Place from left to right: the part to its left as a share, 0 to 1, of the room beside it."""

    def box(self, height: int, width: int) -> tuple[float, float, float, float]:
        """Returns left, top, right and bottom in an image of that size.

        If a side would be longer than the image's, the aspect gives way as far as it may, then the
        area.
        """
        whole = width / height
        aspect = min(max(self.aspect, whole * self.area), whole / self.area)
        aspect = min(max(aspect, 1 / LONGEST), LONGEST)
        tall = min(height, width / aspect, math.sqrt(self.area * height * width / aspect))
        wide = min(width, tall * aspect)
        top, left = self.down * (height - tall), self.right * (width - wide)
        return left, top, left + wide, top + tall


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images in the memory of the host."""

    images: Tensor
    """Pixels, uint8 or float32 [N, C, H, W]."""
    labels: Tensor
    """Class of each image, int64 [N], from 0 to `classes` - 1; or its numbers, float64 [N,
    `classes`], in their own unit."""
    classes: int
    """Number of classes, or of numbers that each image has."""
    mean: tuple[float, ...]
    """Mean for each of the C channels, of pixel / 255 where pixels are bytes."""
    std: tuple[float, ...]
    """Standard deviation for each of the C channels, of pixel / 255 where pixels are bytes."""
    class_names: tuple[str, ...] = ()
    """Names of the classes; left out, their numbers. Of numbers that images have: y, or y0, y1
    ..."""
    workers: int = 0
    """Number of processes that make batches of them; 0: all stay on the device."""
    notes: tuple[str, ...] = ()
    """Lines that say how the data were read: the part of each folder or array, and what was left
    out."""
    bits: int | None = None
    """Bits that were used of the 16 of a pixel in files; None: there are no such files."""
    prints: Prints | None = None
    """Names and prints of the images; None where they were not taken."""
    values: Standardisation | None = None
    """Mean and standard deviation of numbers over the training part; None where images belong to
    classes."""
    resizing: Resizing = _AS_ARRAYS
    """The way in which they were brought to one size."""

    def __post_init__(self) -> None:
        if self.images.dtype not in (torch.uint8, torch.float32) or self.images.ndim != 4:
            given = f"{self.images.dtype} {list(self.images.shape)}"
            raise InputError(f"images: must be uint8 or float32 [N, C, H, W], not {given}")
        self._check_labels()
        names = tuple(map(str, range(self.classes)))
        if self.values is not None:
            names = tuple(f"y{name}" for name in names) if self.classes > 1 else ("y",)
        object.__setattr__(self, "class_names", self.class_names or names)
        if len(self.class_names) != self.classes:
            raise InputError(f"class_names: must be {self.classes}, one a class, not {len(self.class_names)}")
        self.format  # noqa: B018  # checks mean and std

    def _check_labels(self) -> None:
        count, given = len(self.images), f"{self.labels.dtype} {list(self.labels.shape)}"
        if self.values is not None:
            if self.labels.dtype != torch.float64 or tuple(self.labels.shape) != (count, self.classes):
                raise InputError(f"labels: must be float64 [{count}, {self.classes}], as values are given, not {given}")
            if not self.labels.isfinite().all():
                raise InputError("labels: must be finite")
            return
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise InputError(f"labels: must be int64 [{count}], one for each image, not {given}")
        if count and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < self.classes:
            raise InputError(f"labels: must be from 0 to {self.classes - 1}")

    @property
    def format(self) -> ImageFormat:
        channels, height, width = self.images.shape[1:]
        scale = BYTE if self.images.dtype == torch.uint8 else 1.0
        return ImageFormat((channels, height, width), scale, self.mean, self.std, self.class_names, self.bits, self.values)

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: Tensor) -> "ImageSet":
        """Returns the images at `indices` [n], in that order, with the same classes and
        statistics."""
        prints = None if self.prints is None else self.prints.take(indices)
        return replace(self, images=self.images[indices], labels=self.labels[indices], prints=prints)

    def pixels(self, indices: Tensor | None = None) -> Tensor:
        """Returns the pixels at `indices` [n], or all."""
        return self.images if indices is None else self.images[indices]

    def crops(self, indices: Tensor, crops: Sequence[Crop]) -> Tensor:
        """Returns parts of the images at `indices` [n], resized with a filter as wide as they
        shrink: [n, C, H, W]."""
        height, width = self.images.shape[2:]
        made = self.images.new_empty(len(indices), *self.images.shape[1:])
        for image, crop, target in zip(self.images[indices], crops, made, strict=True):
            left, top, right, bottom = crop.box(height, width)
            rows = slice(math.floor(top), max(math.floor(top) + 1, round(bottom)))
            columns = slice(math.floor(left), max(math.floor(left) + 1, round(right)))
            part = image[None, :, rows, columns].float()
            resized = F.interpolate(part, (height, width), mode="bilinear", antialias=True)[0]
            target.copy_(resized if made.is_floating_point() else resized.round_().clamp_(0, BYTE))
        return made


def resize(images: Tensor, size: int, stretch: bool = True, shorter: int | None = None) -> Tensor:
    """Resizes images [N, C, H, W] to [N, C, size, size]; images of that size are returned
    themselves.

    With `stretch` each axis is resized by itself; otherwise the shorter side is made `shorter`
    pixels (None: `size`), and a square is cut from the middle.

    Along an axis that shrinks, a pixel becomes the mean of the old pixels that its area touches. If
    `size` divides the axis this is the box filter with which ImageNet was downsampled (Chrabaszcz
    et al., arXiv:1707.08819). An axis that grows is interpolated linearly between the centres of
    the pixels.
    """
    if not stretch:
        side = max(1, round(min(images.shape[2:]) * size / max(size, shorter or size)))
        top, left = ((length - side) // 2 for length in images.shape[2:])
        images = images[:, :, top : top + side, left : left + side]
    channels, height, width = images.shape[1:]
    if height == width == size:
        return images
    between = min(height, size), min(width, size)
    resized = images.new_empty(len(images), channels, size, size)
    count = max(1, VALUES_AT_ONCE // (channels * max(height * width, size * size)))
    for part, target in zip(images.split(count), resized.split(count), strict=True):
        # In float32 the sum over a large area is so inexact (findings/average_pool_large_area.sh)
        # that white would become 256, which is black in uint8.
        values = F.interpolate(part.double(), between, mode="area")
        if between != (size, size):
            values = F.interpolate(values, (size, size), mode="bilinear", align_corners=False)
        target.copy_(values if images.is_floating_point() else values.round_())
    return resized


def resized(images: Tensor, resizing: Resizing) -> Tensor:
    """Returns images [N, C, H, W] as `resizing` has them, by its filter for arrays."""
    if resizing.size is None:
        return images
    return resize(images, resizing.size, resizing.fit == "stretch", resizing.resize)


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation over images [N, C, H, W], one of each for a channel.

    They are those of pixel / 255 if the images are uint8.
    """
    channels = images.shape[1]
    # Bytes are added up exactly, in whole numbers.
    exact = torch.float64 if images.is_floating_point() else torch.int64
    total, squares = torch.zeros(2, channels, dtype=exact)
    count = max(1, VALUES_AT_ONCE // images[0].numel())
    for part in images.split(count):
        values = rearrange(part, "n c h w -> c (n h w)").to(exact)
        total += values.sum(1)
        squares += values.square().sum(1)
    return statistics_of_sums(total, squares, images.numel() // channels, 1.0 if images.is_floating_point() else BYTE)


def statistics_of_sums(total: Tensor, squares: Tensor, count: int, scale: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation of pixel / scale, one of each for a channel.

    They are computed from the sums [C] of `count` pixels and of their squares. If all pixels are
    alike the deviation is 1, so that pixels can be divided by it.
    """
    mean = total.double() / count
    variance = squares.double() / count - mean.square()
    # The rest of a variance of 0 after rounding is no variance.
    constant = variance <= 1e-12 * (squares.double() / count)
    std = torch.where(constant, 1.0, variance.clamp(min=0).sqrt() / scale)
    return tuple((mean / scale).tolist()), tuple(std.tolist())
