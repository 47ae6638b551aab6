"""The images that a run has seen: a name and a print of the content for each, kept in the run.

They tell a test image that was trained on from one that was not, and images that have changed since
a run began from those that have not.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from base.checks import InputError
from base.files import read_limited
from base.texts import excerpt
from training.run.ownership.files import write_file

PRINTS_FILE = "images.safetensors"
"""The file in the directory of a run that has the prints of its images."""
_LARGEST_FILE = 2**28  # bytes: five million images
_BYTES = 8  # of a print: among ten million images two are alike by chance once in 400,000 data sets
_MEND = "bring back the images that the run began with, or train it anew on those that are there now"
_READERS = 8  # files that are read at the same time


@dataclass(frozen=True, eq=False)
class Prints:
    """Names and prints of some images, in their order."""

    names: tuple[str, ...]
    """The path of each file below the folder of its part, or the place of each image in its
    array."""
    labels: Tensor
    """Class of each image, int64 [N]; of an image with numbers their print, from 0 to 2^31 - 1."""
    contents: Tensor
    """Print of each image's content, the bytes of its file or its pixels, int64 [N]."""

    def __len__(self) -> int:
        return len(self.names)

    def take(self, indices: Tensor) -> Self:
        """Returns those of the images at `indices` [n], in that order."""
        names = tuple(self.names[index] for index in indices.tolist())
        return type(self)(names, self.labels[indices], self.contents[indices])

    @property
    def fingerprint(self) -> str:
        """Returns a short text that differs where images, labels or their order do."""
        of_all = hashlib.blake2b(digest_size=_BYTES)
        for values in (self.labels, self.contents):
            of_all.update(values.numpy().tobytes())
        return of_all.hexdigest()

    def change(self, before: "Prints") -> str:
        """Returns how these images differ from those of `before`, in words with counts; empty where
        they do not."""
        old, new = ({name: place for place, name in enumerate(one.names)} for one in (before, self))
        both = [name for name in new if name in old]
        now, then = (torch.tensor([places[name] for name in both], dtype=torch.int64) for places in (new, old))
        other = self.contents[now] != before.contents[then]
        moved = ~other & (self.labels[now] != before.labels[then])
        counts = {
            "added": len(new) - len(both),
            "removed": len(old) - len(both),
            "of other content": int(other.sum()),
            "labelled otherwise": int(moved.sum()),
        }
        return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)


def of_files(files: Sequence[str], labels: Tensor, folder: str) -> Prints:
    """Makes the prints of image files [N], whose names are their paths below `folder`.

    A file that cannot be read has the print 0; whoever decodes it says so.
    """
    with ThreadPoolExecutor(_READERS) as readers:
        contents = list(readers.map(_of_file, files))
    return Prints(tuple(paths_below(folder, files)), labels, torch.tensor(contents, dtype=torch.int64))


def paths_below(folder: str, files: Sequence[str]) -> list[str]:
    """Returns the paths of files below `folder`, with slashes; where they lie elsewhere, with
    dots."""
    start = os.path.join(folder, "")
    # relpath takes 30 us a file, which is a minute for each part of ImageNet.
    below = (file[len(start) :] if file.startswith(start) else os.path.relpath(file, folder) for file in files)
    return [path.replace(os.sep, "/") for path in below]


def of_pixels(images: Tensor, labels: Tensor) -> Prints:
    """Makes the prints of images [N, C, H, W], whose names are their places; `labels` are classes
    [N] or numbers [N, numbers]."""
    contents = _of_rows(images)
    if labels.is_floating_point():
        labels = _of_rows(labels) & 0x7FFF_FFFF
    return Prints(tuple(map(str, range(len(images)))), labels, contents)


def _of_rows(values: Tensor) -> Tensor:
    rows = values.contiguous().numpy()
    return torch.tensor([_number(hashlib.blake2b(row, digest_size=_BYTES)) for row in rows], dtype=torch.int64)


def _of_file(path: str) -> int:
    try:
        if not os.path.isfile(path):  # a pipe would be waited for
            return 0
        with open(path, "rb") as file:
            return _number(hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_BYTES)))
    except OSError:
        return 0


def _number(digest: "hashlib._Hash | hashlib.blake2b") -> int:
    return int.from_bytes(digest.digest(), "little", signed=True)


@dataclass(frozen=True, eq=False)
class SeenImages:
    """The images of a run: what it was trained on, and the parts that it has."""

    parts: Mapping[str, Prints]
    """Prints of the parts by name: "train", and "test" once the run has one."""
    earlier: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    """Prints of contents that it was trained on before its images changed, int64 [n]."""

    @property
    def trained(self) -> Tensor:
        """Returns the prints of all contents that were trained on, int64 [n]."""
        return torch.cat([self.earlier, self.parts["train"].contents]) if "train" in self.parts else self.earlier

    def change(self, part: str, now: Prints) -> str:
        """Returns how a part differs from what it was, in words with counts; empty where it does
        not, or where there was none."""
        return now.change(self.parts[part]) if part in self.parts else ""

    def then(self, parts: Mapping[str, Prints]) -> "SeenImages":
        """Returns the images of the run once it has gone on with these parts."""
        return SeenImages({**self.parts, **parts}, self.trained)

    def leaked(self, test: Prints) -> Tensor:
        """Returns the places in `test` of images that were trained on, ascending.

        An image that the run has in both parts itself is none: such is its division.
        """
        found = torch.isin(test.contents, self.trained)
        if "test" in self.parts:
            found &= ~torch.isin(test.contents, self.parts["test"].contents)
        return found.nonzero()[:, 0]

    def check(self, test: Prints, of: object, what: str = "test image", mend: str = _MEND) -> None:
        """Raises InputError, which names the first, where images of `test` were trained on; `of`
        names the run, `what` is the word for one of these images, `mend` the way out."""
        places = self.leaked(test)
        if len(places):
            first = excerpt(test.names[int(places[0])])
            more = f", and so were {len(places) - 1:,} more of {len(test):,}" if len(places) > 1 else ""
            raise InputError(f"{what} {first} was trained on by {of}{more}: an accuracy on it says nothing; {mend}")

    def both(self) -> str:
        """Returns a line on test images that are training images as well, which a copy of a file
        makes; empty where there is none."""
        if not {"train", "test"} <= set(self.parts):
            return ""
        test = self.parts["test"]
        places = torch.isin(test.contents, self.parts["train"].contents).nonzero()[:, 0]
        if not len(places):
            return ""
        example = excerpt(test.names[int(places[0])])
        return f"the same in both parts: {len(places):,} of {len(test):,} test images are training images, {example} for one"

    def save(self, run: Path) -> None:
        """Writes images.safetensors in the directory of a run. Raises OSError where it cannot."""
        now = self.parts["train"].contents if "train" in self.parts else self.earlier[:0]
        tensors = {"earlier": self.earlier[~torch.isin(self.earlier, now)].unique()}
        for part, prints in self.parts.items():
            names = "\0".join(prints.names).encode(errors="surrogateescape")
            tensors[f"{part}.names"] = torch.frombuffer(bytearray(names or b"\0"), dtype=torch.uint8)
            tensors[f"{part}.labels"] = prints.labels.int()
            tensors[f"{part}.contents"] = prints.contents.contiguous()
        write_file(run, PRINTS_FILE, save(tensors))

    @classmethod
    def read(cls, run: Path) -> "SeenImages | None":
        """Reads what `save` has written in the directory of a run; None where there is no file.

        Raises InputError for a damaged one.
        """
        path = run / PRINTS_FILE
        if not os.path.lexists(path):
            return None
        content = read_limited(path, _LARGEST_FILE)
        try:
            tensors = load(content)
            earlier = _checked(tensors["earlier"], torch.int64)
            parts = {part: _prints(tensors, part) for part in ("train", "test") if f"{part}.names" in tensors}
        except (SafetensorError, KeyError, ValueError) as error:
            raise InputError(f"{path}: damaged ({excerpt(error)}); delete it to go without the comparison of images") from error
        return cls(parts, earlier)


def check_seen(run: Path, prints: Prints | None, are_own: bool = True) -> str:
    """Compares test images with those that the run in a directory has seen; `are_own`: they are
    those of its configuration.

    Returns a line where they differ from its test part, with counts, or there is nothing to compare
    them with; else an empty one. Raises InputError, which names the first, where some were trained
    on.
    """
    if prints is None:
        return ""
    seen = SeenImages.read(run)
    if seen is None:
        return f"{run}: has no {PRINTS_FILE}: the test images are not compared with those that it was trained on"
    others = "evaluate it on images that it has not seen, or on its own: leave out the options --data..."
    seen.check(prints, run, mend=_MEND if are_own else others)
    change = seen.change("test", prints) if are_own else ""
    return f"{run}: the test images have changed since the training: {change}" if change else ""


def _prints(tensors: Mapping[str, Tensor], part: str) -> Prints:
    names = _checked(tensors[f"{part}.names"], torch.uint8).numpy().tobytes().decode(errors="surrogateescape").split("\0")
    labels = _checked(tensors[f"{part}.labels"], torch.int32).long()
    contents = _checked(tensors[f"{part}.contents"], torch.int64)
    if not len(contents):
        names = []
    if not len(names) == len(labels) == len(contents):
        raise InputError(f"{len(names)} names, {len(labels)} labels and {len(contents)} prints in the {part} part")
    return Prints(tuple(names), labels, contents)


def _checked(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    if tensor.dtype != dtype or tensor.ndim != 1:
        raise InputError(f"a tensor of {tensor.dtype} {list(tensor.shape)}")
    return tensor
