"""Images that stay in their files until a batch of them is asked for."""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from training.images import BYTE, Crop, ImageFormat, ImageSet, statistics_of_sums

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = frozenset([".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"])
"""Of the files that are taken for images, in lower case."""
_AT_ONCE = 64  # images that a worker of a survey decodes before it reports
_WORTH_WORKERS = 256  # images that are decoded faster than processes start


@dataclass(frozen=True)
class Decoding:
    """From a file to pixels."""

    size: int | None
    """Pixels a side; None: as the image is."""
    shorter: int | None
    """Pixels that the shorter side has before a square of `size` is cut from the middle; None: `size`, so all of it is left."""
    stretch: bool
    """Resize each side by itself instead, so that nothing is cut off."""
    gray: bool
    """One channel, not three."""

    def read(self, path: str, crop: Crop | None = None) -> Tensor:
        """The image, or that part of it, uint8 [C, H, W]. Raises ValueError, naming the file, where there is none."""
        from PIL import Image, ImageOps  # slow to import

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of odd files, which are read or not
                with Image.open(path) as file:
                    if self.size is not None:
                        # A JPEG of many times that size is decoded at a half, a quarter or an eighth, which is much faster.
                        file.draft("L" if self.gray else "RGB", (self._needed(file, crop),) * 2)
                    image = _in_bytes(ImageOps.exif_transpose(file), self.gray)
                box = self._box(image) if crop is None else crop.box(image.height, image.width)
                size = image.size if self.size is None else (self.size, self.size)
                if size != image.size or crop is not None:
                    image = image.resize(size, Image.Resampling.BILINEAR, box, reducing_gap=3.0)
        except Exception as error:  # of any type: each format has a decoder of its own
            reason = "no such file" if isinstance(error, FileNotFoundError) else _one_line(error)
            raise ValueError(f"{path}: cannot be read as an image ({reason})") from error
        return rearrange(torch.from_numpy(np.array(image)), "h w -> 1 h w" if self.gray else "h w c -> c h w")

    def _needed(self, image: "Image", crop: Crop | None) -> int:
        """Pixels that the shorter side must have so that no pixel of the result is made up."""
        assert self.size is not None
        if crop is None:
            return max(self.size, 0 if self.stretch else self.shorter or 0)
        left, top, right, bottom = crop.box(image.height, image.width)
        return math.ceil(self.size * min(image.size) / max(1.0, min(right - left, bottom - top)))

    def _box(self, image: "Image") -> tuple[float, float, float, float]:
        """Left, top, right and bottom of what is left of the image."""
        if self.size is None or self.stretch:
            return 0, 0, image.width, image.height
        side = min(image.size) * self.size / max(self.size, self.shorter or self.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        return left, top, left + side, top + side


def _in_bytes(image: "Image", gray: bool) -> "Image":
    """A byte for each of red, green and blue, or for the shade of grey; what is transparent becomes white."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        if values.dtype.kind == "f" or values.min() < 0 or values.max() > 0xFFFF:
            raise ValueError(f"pixels of mode {image.mode}, which have no known largest value; an .npz file can hold them")
        image = Image.fromarray((values.astype(np.uint32) // 0x101).astype(np.uint8))
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
    return image.convert("L" if gray else "RGB")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Labelled image files."""

    files: tuple[str, ...]
    labels: Tensor
    """Class of each image, int64 [N]."""
    decoding: Decoding
    format: ImageFormat
    workers: int = 1

    @property
    def classes(self) -> int:
        return len(self.format.class_names)

    def __len__(self) -> int:
        return len(self.files)

    def take(self, indices: Tensor) -> "ImageFiles":
        """The images at `indices` [n], in that order, with the same classes and statistics."""
        return replace(self, files=tuple(self.files[index] for index in indices.tolist()), labels=self.labels[indices])

    def pixels(self, indices: Tensor | None = None) -> Tensor:
        """Those at `indices` [n], or all, decoded: uint8 [n, C, H, W]. Raises ValueError for one that cannot be read."""
        places = range(len(self)) if indices is None else indices.tolist()
        return self._stacked([self._read(self.files[place]) for place in places])

    def crops(self, indices: Tensor, crops: Sequence[Crop]) -> Tensor:
        """Parts of the images at `indices` [n], resized to [n, C, H, W]. Raises ValueError for an image that cannot be read."""
        named = zip(indices.tolist(), crops, strict=True)
        return self._stacked([self._read(self.files[place], crop) for place, crop in named])

    def _read(self, file: str, crop: Crop | None = None) -> Tensor:
        image = self.decoding.read(file, crop)
        if tuple(image.shape) != self.format.shape:
            (_, height, width), (_, expected_height, expected_width) = image.shape, self.format.shape
            raise ValueError(
                f"{file}: has {width}x{height} pixels where another image has {expected_width}x{expected_height}; "
                "images of different sizes need one that all are brought to, --data.size"
            )
        return image

    def _stacked(self, images: list[Tensor]) -> Tensor:
        return torch.stack(images) if images else torch.empty(0, *self.format.shape, dtype=torch.uint8)


@dataclass(frozen=True)
class Survey:
    """What was found where every file was decoded once."""

    readable: Tensor
    """Indices of the files that can be read, ascending, [n]."""
    unreadable: tuple[str, ...]
    """What is wrong with each of the others, in one line that names the file."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Of pixel / 255 over the readable images, one a channel; 1 where all pixels are alike."""
    pixels: Tensor | None
    """Those of the readable images, uint8 [n, C, H, W], where they were to be kept."""


def survey(images: ImageFiles, keep: bool, workers: int) -> Survey:
    """Decodes every file once, in `workers` processes where that is worth while."""
    parts = torch.arange(len(images)).split(_AT_ONCE)
    loader = DataLoader(
        _Surveyor(images, keep),
        batch_size=None,
        sampler=parts,
        num_workers=workers if len(images) >= _WORTH_WORKERS else 0,
        generator=torch.Generator(),
    )
    channels = images.format.shape[0]
    total, squares = torch.zeros(2, channels, dtype=torch.int64)
    readable, unreadable, kept, count = [], [], [], 0
    for found in loader:
        readable.append(found.readable)
        unreadable.extend(found.unreadable)
        kept.append(found.pixels)
        total += found.total
        squares += found.squares
        count += len(found.readable) * math.prod(images.format.shape[1:])
    mean, std = statistics_of_sums(total, squares, max(1, count), BYTE)
    pixels = torch.cat(kept) if keep and kept else None
    return Survey(torch.cat(readable), tuple(unreadable), mean, std, pixels)


@dataclass(frozen=True)
class _Found:
    readable: Tensor
    unreadable: list[str]
    total: Tensor
    squares: Tensor
    pixels: Tensor | None


class _Surveyor(Dataset[_Found]):
    """In a worker: decodes some of the images and adds up their pixels, exactly, in whole numbers."""

    def __init__(self, images: ImageFiles, keep: bool) -> None:
        self._images = images
        self._keep = keep

    def __getitem__(self, places: Tensor) -> _Found:
        readable, unreadable, pixels = [], [], []
        for place in places.tolist():
            try:
                pixels.append(self._images.pixels(torch.tensor([place])))
                readable.append(place)
            except ValueError as error:
                unreadable.append(str(error))
        values = torch.cat([torch.empty(0, *self._images.format.shape, dtype=torch.uint8), *pixels])
        by_channel = rearrange(values, "n c h w -> c (n h w)").long()
        return _Found(
            torch.tensor(readable, dtype=torch.int64),
            unreadable,
            by_channel.sum(1),
            by_channel.square().sum(1),
            values if self._keep else None,
        )


def in_memory(images: ImageFiles, found: Survey) -> ImageSet:
    """The same images as a survey kept them."""
    assert found.pixels is not None
    form = images.format
    return ImageSet(found.pixels, images.labels[found.readable], images.classes, form.mean, form.std, form.class_names)


def image_files(folder: Path) -> Iterator[Path]:
    """All image files in and below `folder`, by name; hidden ones are none. Raises OSError where it cannot be read."""
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from image_files(entry)
        elif entry.suffix.lower() in SUFFIXES:
            yield entry
