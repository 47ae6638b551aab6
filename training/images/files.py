"""Images that stay in their files until a batch of them is asked for."""

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.utils.data import Dataset

from base.checks import FieldError, InputError, Name
from training.format import BYTE, ImageFormat, Resizing
from training.images.depth import ANSWER, BeyondBits, Seen, is_cut_colour, to_bytes
from training.images.prints import Prints
from training.images.sets import Crop, ImageSet, statistics_of_sums
from training.images.workers import new_loader, results

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PIXELS = 2**26  # of an image as it is decoded, which takes some 4 to 16 bytes for each
_OF_SEVERAL = (".apng", ".avif", ".gif", ".tif", ".tiff", ".webp")
AT_ONCE = 64  # images that a worker of a survey decodes before it reports
WORTH_WORKERS = 256  # images that are decoded faster than processes start


@dataclass(frozen=True)
class Decoding:
    """The way from a file to pixels: colours or shades of grey, upright, transparency on white."""

    size: int | None
    """Pixels a side; None keeps the size of the image."""
    shorter: int | None
    """Pixels that the shorter side has before a square of `size` is cut from the middle; None:
    `size`, so that nothing of it is cut off."""
    stretch: bool
    """Whether each side is resized by itself instead, so that nothing is cut off."""
    gray: bool
    """Whether there is one channel instead of three."""
    bits: int | None = None
    """Bits that are used of the 16 of a pixel; None: all, or not known yet."""

    def read(self, path: str, crop: Crop | None = None, seen: Seen | None = None) -> Tensor:
        """Returns the image, or that part of it, uint8 [C, H, W].

        `seen` takes in the largest values of files of 16 bits. Raises ValueError, naming the file,
        if it cannot be read.
        """
        seen = Seen() if seen is None else seen
        from PIL import Image, ImageOps, UnidentifiedImageError  # slow to import

        if not os.path.isfile(path):  # a pipe would be waited for
            raise InputError(f"{_one_line(path)}: cannot be read as an image (no such file)")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # warnings of odd files, which are read or not
                with Image.open(path) as file:
                    if self.size is not None:
                        # A JPEG many times as large is decoded at a half, a quarter or an eighth,
                        # much faster.
                        file.draft("L" if self.gray else "RGB", (self._needed(file, crop),) * 2)
                    if file.width * file.height > MOST_PIXELS:
                        raise InputError(f"{file.width}x{file.height} pixels, more than the {MOST_PIXELS:,} that are decoded")
                    is_cut = is_cut_colour(file)
                    ImageOps.exif_transpose(file, in_place=True)
                    image = _in_bytes(file, self.gray, self.bits or 16, seen)
                    if is_cut:
                        seen.colour = max(seen.colour, int(np.asarray(image).max()))
                    pixels = np.array(self._resized(image, crop))
        except BeyondBits as error:
            raise Mismatch("data.root", f"{path} ", *error.parts, *ANSWER) from error
        except UnidentifiedImageError as error:
            raise InputError(f"{_one_line(path)}: cannot be read as an image (of no known format)") from error
        except Exception as error:  # errors of any type: each format has a decoder of its own
            said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            reason = _one_line(said) or type(error).__name__
            raise InputError(f"{_one_line(path)}: cannot be read as an image ({reason})") from error
        return rearrange(torch.from_numpy(pixels), "h w -> 1 h w" if self.gray else "h w c -> c h w")

    def of_pixels(self, pixels: Tensor) -> Tensor:
        """Returns an image of bytes [C, H, W], one or three channels, as `read` returns a file of
        these pixels."""
        from PIL import Image

        planes = rearrange(pixels, "1 h w -> h w" if len(pixels) == 1 else "c h w -> h w c")
        found = torch.from_numpy(np.array(self._resized(Image.fromarray(planes.contiguous().numpy()), None)))
        return rearrange(found, "h w -> 1 h w" if len(pixels) == 1 else "h w c -> c h w")

    def _resized(self, image: "Image", crop: Crop | None) -> "Image":
        from PIL import Image

        box = self._box(image) if crop is None else crop.box(image.height, image.width)
        size = image.size if self.size is None else (self.size, self.size)
        if size == image.size and box == (0, 0, *image.size):
            return image
        return image.resize(size, Image.Resampling.BILINEAR, box, reducing_gap=3.0)

    def _needed(self, image: "Image", crop: Crop | None) -> int:
        """Returns the pixels that the shorter side must have so that no pixel of the result is made
        up."""
        assert self.size is not None
        if crop is None:
            return max(self.size, 0 if self.stretch else self.shorter or 0)
        # The image may be turned on its side afterwards.
        boxes = crop.box(image.height, image.width), crop.box(image.width, image.height)
        shortest = min(min(right - left, bottom - top) for left, top, right, bottom in boxes)
        return math.ceil(self.size * min(image.size) / max(1.0, shortest))

    def _box(self, image: "Image") -> tuple[float, float, float, float]:
        """Returns left, top, right and bottom of the part that is kept of the image."""
        if self.size is None or self.stretch:
            return 0, 0, image.width, image.height
        side = min(image.size) * self.size / max(self.size, self.shorter or self.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        return left, top, left + side, top + side


def _in_bytes(image: "Image", gray: bool, bits: int, seen: Seen) -> "Image":
    """Converts to bytes of red, green and blue, or of grey; transparent pixels become white."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):
        image = to_bytes(image, bits, seen)
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", colours.size, "white"), colours)
    mode = "L" if gray else "RGB"
    return image if image.mode == mode else image.convert(mode)


def _one_line(text: str) -> str:
    """Returns text on one line, also if it has line breaks or is no Unicode, as a file name may."""
    return " ".join(text.split()).encode(errors="backslashreplace").decode()


class Mismatch(FieldError):
    """An image can be read but does not fit the others: a setting has to say what is meant."""


class OfOtherSize(Mismatch):
    """An image has another size than the others, and no size was given that all are brought to."""


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """Labelled image files."""

    files: tuple[str, ...]
    labels: Tensor
    """Class of each image, int64 [N]."""
    decoding: Decoding
    format: ImageFormat
    workers: int = 1
    notes: tuple[str, ...] = ()
    """Lines that say how the data were read: which folder is which part, and what was left out."""
    prints: Prints | None = None
    """Names and prints of the images; None where they were not taken."""

    @property
    def classes(self) -> int:
        return len(self.format.class_names)

    @property
    def resizing(self) -> Resizing:
        size, shorter = self.decoding.size, self.decoding.shorter
        if self.decoding.stretch:
            return Resizing(size, "stretch")
        return Resizing(size, "crop", shorter if size and shorter and shorter >= size else None)

    def __len__(self) -> int:
        return len(self.files)

    def take(self, indices: Tensor) -> "ImageFiles":
        """Returns the images at `indices` [n], in that order, with the same classes and
        statistics."""
        files = tuple(self.files[index] for index in indices.tolist())
        prints = None if self.prints is None else self.prints.take(indices)
        return replace(self, files=files, labels=self.labels[indices], prints=prints)

    def pixels(self, indices: Tensor | None = None) -> Tensor:
        """Decodes the images at `indices` [n], or all: uint8 [n, C, H, W].

        Raises ValueError for an image that cannot be read.
        """
        places = range(len(self)) if indices is None else indices.tolist()
        return self._stacked([self._read(self.files[place]) for place in places])

    def one(self, place: int, seen: Seen) -> Tensor:
        """Decodes one image, uint8 [C, H, W]; `seen` as in `Decoding.read`."""
        return self._read(self.files[place], seen=seen)

    def crops(self, indices: Tensor, crops: Sequence[Crop]) -> Tensor:
        """Returns parts of the images at `indices` [n], resized to [n, C, H, W].

        Raises ValueError for an image that cannot be read.
        """
        named = zip(indices.tolist(), crops, strict=True)
        return self._stacked([self._read(self.files[place], crop) for place, crop in named])

    def _read(self, file: str, crop: Crop | None = None, seen: Seen | None = None) -> Tensor:
        image = self.decoding.read(file, crop, seen)
        if tuple(image.shape) != self.format.shape:
            ours, others = (f"{width}x{height}" for _, height, width in (image.shape, self.format.shape))
            raise OfOtherSize(
                "data.size",
                f"{_one_line(file)} has {ours} pixels where another image has {others}; "
                "images of different sizes need one that all are brought to, such as --",
                Name("data.size"),
                " 64",
            )
        return image

    def _stacked(self, images: list[Tensor]) -> Tensor:
        return torch.stack(images) if images else torch.empty(0, *self.format.shape, dtype=torch.uint8)


@dataclass(frozen=True)
class Survey:
    """The findings of decoding every file once."""

    readable: Tensor
    """Indices of the files that can be read, ascending, [n]."""
    unreadable: tuple[str, ...]
    """The problem of each of the others, in one line that names the file."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Standard deviation of pixel / 255 over the readable images, one a channel; 1 if all pixels
    are alike."""
    pixels: Tensor | None
    """Pixels of the readable images, uint8 [n, C, H, W], if they were to be kept."""
    seen: Seen
    """The largest values in files of 16 bits."""
    several: int
    """Number of files with several pictures, of which the first is read."""


def survey(images: ImageFiles, keep: bool, workers: int) -> Survey:
    """Decodes every file once, in `workers` processes if that is worth while.

    Raises ValueError for images of different sizes if the decoding does not resize them.
    """
    parts = [range(start, min(start + AT_ONCE, len(images))) for start in range(0, len(images), AT_ONCE)]
    loader = new_loader(_Surveyor(images, keep), parts, workers if len(images) >= WORTH_WORKERS else 0)
    channels, height, width = images.format.shape
    total, squares = torch.zeros(2, channels, dtype=torch.int64)
    readable: list[int] = []
    unreadable: list[str] = []
    kept = torch.empty(len(images), *images.format.shape, dtype=torch.uint8) if keep else None
    seen, several = Seen(), 0
    for found in results(loader):
        if kept is not None:
            kept[len(readable) : len(readable) + len(found.readable)] = found.pixels
        readable.extend(found.readable)
        unreadable.extend(found.unreadable)
        total += found.total
        squares += found.squares
        seen.add(found.seen)
        several += found.several
    mean, std = statistics_of_sums(total, squares, max(1, len(readable) * height * width), BYTE)
    indices = torch.tensor(readable, dtype=torch.int64)
    pixels = None if kept is None else kept[: len(readable)]
    return Survey(indices, tuple(unreadable), mean, std, pixels, seen, several)


@dataclass(frozen=True)
class _Found:
    readable: list[int]
    unreadable: list[str]
    total: Tensor
    squares: Tensor
    pixels: Tensor
    """Pixels of the readable images; empty if they are not to be kept."""
    seen: Seen
    several: int


class _Surveyor(Dataset[_Found | InputError]):
    """Decodes, in a worker, some of the images and adds up their pixels exactly, in whole
    numbers."""

    def __init__(self, images: ImageFiles, keep: bool) -> None:
        self._images = images
        self._keep = keep

    def __getitem__(self, places: range) -> _Found | InputError:
        readable, unreadable, pixels = [], [], []
        seen, several = Seen(), 0
        for place in places:
            try:
                pixels.append(self._images.one(place, seen)[None])
                readable.append(place)
                several += _has_several(self._images.files[place])
            except Mismatch as error:
                return error
            except InputError as error:
                unreadable.append(str(error))
        values = torch.cat([torch.empty(0, *self._images.format.shape, dtype=torch.uint8), *pixels])
        by_channel = rearrange(values, "n c h w -> c (n h w)").long()
        return _Found(
            readable,
            unreadable,
            by_channel.sum(1),
            by_channel.square().sum(1),
            values if self._keep else values[:0],
            seen,
            several,
        )


def _has_several(file: str) -> bool:
    """Says whether a file of a format that may hold several pictures does; of one that breaks off
    behind the first, no."""
    if os.path.splitext(file)[1].lower() not in _OF_SEVERAL:
        return False
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(file) as image:
                return bool(getattr(image, "is_animated", False)) and image.format != "MPO"
    except Exception:  # errors of any type: each format has a decoder of its own
        return False


def in_memory(images: ImageFiles, found: Survey) -> ImageSet:
    """Returns the same images as a survey kept them."""
    assert found.pixels is not None
    form = images.format
    left = images.take(found.readable)
    made = ImageSet(found.pixels, left.labels, images.classes, form.mean, form.std, form.class_names)
    return replace(made, notes=images.notes, bits=form.bits, prints=left.prints, resizing=images.resizing)
