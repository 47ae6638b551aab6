"""Images without labels: files, folders and arrays, read as those of a training were, part by part."""

import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from base.checks import FieldError, InputError, Name
from base.texts import show
from training.format import BYTE, ImageFormat, Layout, Resizing
from training.images.depth import Seen
from training.images.files import WORTH_WORKERS, Decoding, Mismatch
from training.images.listing import Listing, said
from training.images.readers.npz import as_pixels, load_pixels
from training.images.sets import resized
from training.images.workers import available_cores, new_loader, results


@dataclass(frozen=True)
class PixelReader:
    """The way from an image to the pixels that a network is for, as its training went it."""

    form: ImageFormat
    """The form of the images of the training."""
    resizing: Resizing
    """The way in which these were brought to one size."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Returns C, H, W of the pixels."""
        size = self.resizing.size
        return self.form.shape if size is None else (self.form.shape[0], size, size)

    def check_files(self) -> None:
        """Raises InputError for a network whose images cannot come from image files."""
        channels = self.form.shape[0]
        what = "floating numbers" if self.form.scale != BYTE else "" if channels in (1, 3) else f"{channels} channels"
        if what:
            raise InputError(f"the network was trained on images of {what}, which image files do not hold; give an .npz file")

    def of_file(self, path: str) -> Tensor:
        """Returns the image in a file, uint8 [C, H, W].

        Raises InputError, which does not name the file, where it cannot be read or used.
        """
        seen = Seen()
        try:
            pixels = self._decoding.read(path, seen=seen)
        except Mismatch as error:
            raise InputError(error.problem.removeprefix(f"{path} ")) from error
        except InputError as error:
            raise InputError(str(error).partition(": cannot be read as an image ")[2].strip("()") or str(error)) from error
        if seen.gray and self.form.bits is None:
            raise InputError("has 16 bits a pixel, as no training image had; say how many are used with --", Name("data.bits"))
        if self.resizing.filter == "area":
            pixels = resized(pixels[None], self.resizing)[0]
        self._check_size(pixels)
        return pixels

    def of_pixels(self, image: Tensor) -> Tensor:
        """Returns an image [C, H, W], bytes or float32, in the size of the training.

        Raises InputError where it cannot be used.
        """
        if image.is_floating_point() and not image.isfinite().all():
            raise InputError("has pixels that are NaN or infinite, or beyond the range of float32")
        if self.resizing.filter == "area" or image.is_floating_point() or len(image) not in (1, 3):
            pixels = resized(image[None], self.resizing)[0]
        else:
            pixels = self._decoding.of_pixels(image)
        self._check_size(pixels)
        return pixels

    @cached_property
    def _decoding(self) -> Decoding:
        form, resizing = self.form, self.resizing
        size, shorter = (None, None) if resizing.filter == "area" else (resizing.size, resizing.resize)
        return Decoding(size, shorter, resizing.fit == "stretch", form.shape[0] == 1, form.bits)

    def _check_size(self, pixels: Tensor) -> None:
        if tuple(pixels.shape) != self.shape:
            ours, theirs = (f"{width}x{height}" for _, height, width in (pixels.shape, self.shape))
            raise InputError(
                f"has {ours} pixels and the network was trained on {theirs}; images are brought to one size with --",
                Name("data.size"),
            )


class Paths:
    """Paths of files, in little more memory than their letters take."""

    def __init__(self) -> None:
        self._letters = bytearray()
        self._ends = array("Q", [0])

    def append(self, path: str) -> None:
        """Adds a path at the end."""
        self._letters += os.fsencode(path)
        self._ends.append(len(self._letters))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, place: int) -> str:
        if not 0 <= place < len(self):
            raise IndexError(place)
        return os.fsdecode(bytes(self._letters[self._ends[place] : self._ends[place + 1]]))


@dataclass(frozen=True)
class ReadPart:
    """Some images, one after the other."""

    names: Sequence[str]
    pixels: Tensor
    """Pixels of those that could be read, uint8 or float32 [n, C, H, W]."""
    faults: Mapping[int, str]
    """Why each of the others could not, in one line, by its place among `names`."""


class Source(Protocol):
    """Images of one kind."""

    def __len__(self) -> int: ...

    def read(self, reader: PixelReader, batch_size: int, workers: int) -> Iterator[ReadPart]:
        """Yields all images in their order, `batch_size` at once."""


@dataclass(frozen=True)
class FileSource:
    """Image files."""

    paths: Paths = field(default_factory=Paths)

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, reader: PixelReader, batch_size: int, workers: int) -> Iterator[ReadPart]:
        """Yields the images; `workers` processes decode them, ahead by a few batches, where they
        are worth their start."""
        requests = (
            [self.paths[place] for place in range(start, min(start + batch_size, len(self)))]
            for start in range(0, len(self), batch_size)
        )
        yield from results(new_loader(_Maker(reader), requests, workers if len(self) >= WORTH_WORKERS else 0))


@dataclass(frozen=True)
class ArraySource:
    """Images in memory."""

    images: Tensor
    """Pixels, uint8 or float32 [N, C, H, W]."""
    file: str = ""
    """The file that they are from; empty: none."""

    def __len__(self) -> int:
        return len(self.images)

    def read(self, reader: PixelReader, batch_size: int, workers: int) -> Iterator[ReadPart]:
        """Yields the images, which are named by their places in the array: FILE#0."""
        before = f"{self.file}#" if self.file else ""
        for start in range(0, len(self), batch_size):
            part = self.images[start : start + batch_size]
            yield _read([f"{before}{start + place}" for place in range(len(part))], part, reader.of_pixels, reader)


class _Maker(Dataset[ReadPart | InputError]):
    """Decodes, in a worker, the files of a batch."""

    def __init__(self, reader: PixelReader) -> None:
        self._reader = reader

    def __getitem__(self, paths: list[str]) -> ReadPart | InputError:
        return _read(paths, paths, self._reader.of_file, self._reader)


def _read(names: Sequence[str], images: Any, read: Any, reader: PixelReader) -> ReadPart:
    pixels: list[Tensor] = []
    faults: dict[int, str] = {}
    for place, image in enumerate(images):
        try:
            pixels.append(read(image))
        except InputError as error:
            faults[place] = str(error)
    dtype = torch.uint8 if reader.form.scale == BYTE else torch.float32
    return ReadPart(names, torch.stack(pixels) if pixels else torch.empty(0, *reader.shape, dtype=dtype), faults)


@dataclass(frozen=True)
class Inputs:
    """Images to predict."""

    sources: Sequence[Source]
    notes: Sequence[str] = ()
    """Lines that say what was left out of folders."""

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def read(self, reader: PixelReader, batch_size: int, workers: int | None = None) -> Iterator[ReadPart]:
        """Yields all images in their order, `batch_size` at once at most; `workers` processes (None:
        one for each core) decode files."""
        for source in self.sources:
            yield from source.read(reader, batch_size, workers or available_cores())

    @classmethod
    def open(cls, given: Sequence[str], reader: PixelReader, array: str | None = None, layout: Layout = "auto") -> "Inputs":
        """Lists the images of folders, with all below them, image files, and .npz files, of which
        `array` is read; see `load_pixels`.

        Raises InputError for what is not there, for a folder without images, and for an .npz file
        or a network that does not fit.
        """
        listing, notes = Listing(), list[str]()
        sources: list[Source] = []
        for path in given:
            if path.lower().endswith(".npz") and not os.path.isdir(path):
                if not os.path.isfile(path):
                    raise InputError(f"{path}: there is no such file")
                pixels = load_pixels(Path(path), reader.form, array, layout)
                if not len(pixels):
                    raise InputError(f"{path}: has no images")
                sources.append(ArraySource(pixels, path))
                continue
            reader.check_files()
            if not sources or not isinstance(sources[-1], FileSource):
                sources.append(FileSource())
            assert isinstance(sources[-1], FileSource)
            paths = sources[-1].paths
            if os.path.isdir(path):
                notes += _list(path, listing, paths)
            elif os.path.lexists(path):
                paths.append(path)
            else:
                raise InputError(f"{path}: there is no such file or folder")
        return cls(sources, [*notes, *listing.notes()])

    @classmethod
    def of(cls, images: object, reader: PixelReader, layout: Layout = "auto") -> "Inputs":
        """Makes the inputs of a folder or file, a sequence of these, or an array or tensor of
        images; see `open` and `as_pixels`."""
        if isinstance(images, str | os.PathLike):
            images = [images]
        if isinstance(images, Tensor):
            images = images.detach().cpu()
            images = (images.float() if images.is_floating_point() else images).numpy()
        if isinstance(images, np.ndarray):
            pixels = as_pixels("images", images, reader.form, layout)
            if not len(pixels):
                raise InputError("images: there are none")
            return cls([ArraySource(pixels)])
        if not isinstance(images, Sequence) or not all(isinstance(path, str | os.PathLike) for path in images):
            raise InputError(f"images: must be a folder, files, an array or a tensor, not {show(images)}")
        if not images:
            raise InputError("images: there are none")
        return cls.open([os.fspath(path) for path in images], reader, layout=layout)


def _list(folder: str, listing: Listing, paths: Paths) -> Iterator[str]:
    """Adds the images in and below a folder to `paths`; yields what there is to say of others."""
    before = len(paths)
    try:
        found = listing.images(folder, paths.append)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from error
    except FieldError as error:
        raise InputError(error.problem) from error
    if found.again is not None:
        raise InputError(f"{folder} and {found.again[1]}: are the same folder, or one lies in the other; name it once")
    if len(paths) == before:
        others = f", only {said(found.unread)}, which are not read" if found.unread else ""
        raise InputError(f"{folder}: no images found{others}; name a folder with images in it or below it")
    if found.unread:
        yield f"left out, of formats that are not read: {said(found.unread)} in {folder}"
