"""A folder of images with one folder for each class."""

import hashlib
import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from base.checks import FieldError, InputError, Name
from base.texts import escape, excerpt
from training.format import BYTE, ImageFormat
from training.images.data import DataConfig, Part
from training.images.files import Decoding, ImageFiles
from training.images.listing import Listing, has_pictures, is_picture, said
from training.images.prints import paths_below
from training.images.readers import parts

_Files = Mapping[str, Sequence[str]]
_NAMED = 8  # number of classes that a message names


class EmptyPart(FieldError):
    """The share of a folder that is its test part leaves nothing in one of the parts."""

    def __init__(self, share: float, images: int, part: str) -> None:
        """`part` is what would be empty: "the test part" or a class of the training part."""
        self.found = f"{share} of {images} images leaves {part} empty"
        mend = ("; choose another share or another --", Name("data.split_seed"), ", or give more images")
        super().__init__("data.test_fraction", self.found, *mend)
        self._made_of = (share, images, part)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._made_of


def load(config: DataConfig, part: Part) -> ImageFiles:
    """Reads root/train/CLASS/..., with root/test/CLASS/... or else root/val/CLASS/... as the test
    part; or root/CLASS/... alone. `parts` has the names that they may have.

    Without a test part, about the share `config.test_fraction` is: each file goes by its name and
    `config.split_seed` alone, so that another file moves none. Mean and std of the format that is
    returned are not known yet: 0 and 1.
    """
    root = Path(config.root)
    if not root.is_dir():
        fault = "is a file" if root.exists() else "there is no such folder"
        raise FieldError("data.root", f"{root}: {fault}; name a folder that has one folder of images for each class")
    listing = Listing()
    try:
        found = parts.find(config)
        train, notes = _by_class(found.train, listing, () if found.test is None else (found.test,))
        test, more = ({}, []) if found.test is None else _by_class(found.test, listing)
    except OSError as error:
        raise _unreadable(error) from error
    names = _class_names(train, found.train, root)
    files, labels = _flat(train, names)
    if found.test is None:
        chosen = _test_part(files, labels, config, names, found.train)
        count = int(chosen.sum())
        files = [file for file, of_test in zip(files, chosen.tolist(), strict=True) if of_test == (part == "test")]
        labels = labels[chosen if part == "test" else ~chosen]
    else:
        _check_known(test, names, found.test)
        count = sum(map(len, test.values()))
        if absent := [name for name in names if name not in test]:
            more.append(f"the test part has no image of {_in_short(absent)}")
        if part == "test":
            files, labels = _flat(test, names)
    notes = [f"{found.said}, {count:,} files", *found.notes, *notes, *more]
    decoding = Decoding(config.size, config.resize, config.fit == "stretch", config.gray)
    height, width = (config.size, config.size) if config.size else _first_size(files, decoding)
    channels = 1 if config.gray else 3
    form = ImageFormat((channels, height, width), BYTE, (0.0,) * channels, (1.0,) * channels, names)
    return ImageFiles(tuple(files), labels, decoding, form, notes=(*notes, *listing.notes()))


def training_folder(config: DataConfig) -> str:
    """Returns the folder whose folders are the classes of the training part.

    Raises InputError where it is not clear which one that is.
    """
    try:
        return parts.find(config).train
    except OSError as error:
        raise _unreadable(error) from error


def _unreadable(error: OSError) -> FieldError:
    return FieldError("data.root", f"{error.filename}: cannot be read: {error.strerror}")


def _by_class(folder: str, listing: Listing, without: Sequence[str] = ()) -> tuple[_Files, list[str]]:
    """Returns the images by class, and what there is to say of those that are left out.

    Folders `without` are passed over. Raises InputError for a class whose images are all of formats
    that are not read, and for one folder under two names.
    """
    found: dict[str, Sequence[str]] = {}
    empty, notes = [], []
    entries, beside = listing.folders(folder)
    skipped = [os.path.realpath(path) for path in without]
    for entry in entries:
        if os.path.realpath(entry.path) in skipped:
            continue
        inside = listing.images(entry.path)
        if inside.again is not None:
            ours, before = inside.again
            raise FieldError("data.root", f"{ours} and {before}: are the same folder; take one of the two out")
        if inside.unread and not inside.files:
            raise FieldError(
                "data.root",
                f"{entry.path}: has {said(inside.unread)}, which are not read, and no other images; "
                "convert them to PNG or JPEG, or take the folder out",
            )
        if inside.unread:
            notes.append(f"left out, of formats that are not read: {said(inside.unread)} in {escape(entry.path)}")
        if inside.files:
            name = _class_name(entry.name)
            if name in found:
                raise FieldError("data.root", f"{entry.path}: there are two folders for class {name!r}; put them together")
            found[name] = inside.files
        else:
            empty.append(entry.name)
    if empty:
        notes.append(f"left out, folders without images in {escape(folder)}: {_in_short(empty)}")
    if loose := len(beside.files) + beside.unread.total():
        notes.append(f"left out: {loose:,} images in {escape(folder)} itself, in no folder of a class")
    return found, notes


def _class_name(name: str) -> str:
    """Returns the name of a folder as that of a class, which a mark that was put together from two
    signs does not change.

    Raises InputError for a name that cannot be printed.
    """
    if any(unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") for sign in name):
        raise FieldError("data.root", f"{name!r} is no name for a class, as it cannot be printed; rename the folder")
    return unicodedata.normalize("NFC", name)


def _in_short(names: Sequence[str]) -> str:
    return f"{', '.join(map(excerpt, names[:_NAMED]))}{', ...' if len(names) > _NAMED else ''}"


def _class_names(train: _Files, folder: str, root: Path) -> tuple[str, ...]:
    expected = "expected are folders with images in them, one for each class, such as cats/1.jpg and dogs/1.jpg"
    if not train:
        raise FieldError("data.root", f"{_nothing_in(folder, root)}; {expected}, in it or in a folder train in it")
    if len(train) == 1:
        only = next(iter(train))
        within = Path(folder) / only
        deeper = sum(has_pictures(str(entry)) for entry in within.iterdir() if entry.is_dir()) if within.is_dir() else 0
        mend: tuple[str, ...] = ()
        if deeper > 1 and Path(folder) == root:
            mend = (f"; or is {within} the folder to name?",)
        elif deeper > 1:
            # Beside it lies a test part, which may be packed in the same way.
            own = f" {excerpt(os.path.relpath(within, root))}"
            mend = ("; if that is the folder of the classes, --", Name("data.train_folder"), own, ", with --")
            mend += (Name("data.test_folder"), " for that of the test part")
        raise FieldError("data.root", f"{root}: only one class, {excerpt(only)!r}, has images; {expected}", *mend)
    return tuple(train)


def _nothing_in(folder: str, root: Path | None = None) -> str:
    """Returns what is wrong with the folder of a part, of the data set `root`, whose folders have no
    images."""
    loose = sum(is_picture(name) for name in os.listdir(folder))
    return f"{folder}: {loose:,} images in no folder of a class" if loose else f"{root or folder}: no images found"


def _check_known(test: _Files, names: Sequence[str], folder: str) -> None:
    if not test:
        raise FieldError(
            "data.root",
            f"{_nothing_in(folder)}; make folders as those of the training part, or have a share of that part: --",
            Name("data.test_folder"),
            f" {parts.NONE}",
        )
    known = set(names)
    if unknown := [name for name in test if name not in known]:
        path = Path(folder) / unknown[0]
        raise FieldError(
            "data.root", f"{path}: the training part has no class {excerpt(unknown[0])!r}, only {_in_short(names)}"
        )


def _flat(files: _Files, names: Sequence[str]) -> tuple[list[str], torch.Tensor]:
    counts = torch.tensor([len(files.get(name, ())) for name in names])
    return [file for name in names for file in files.get(name, ())], torch.arange(len(names)).repeat_interleave(counts)


def _test_part(
    files: Sequence[str], labels: torch.Tensor, config: DataConfig, names: Sequence[str], folder: str
) -> torch.Tensor:
    """Says which images are the test part, bool [N].

    It depends on a file's class and its path below the folder of the class, and on no other file.
    """
    places = paths_below(folder, files)
    drawn = [_drawn(unicodedata.normalize("NFC", place), config.split_seed) for place in places]
    chosen = torch.tensor(drawn, dtype=torch.float64) < config.test_fraction
    left = labels[~chosen].bincount(minlength=len(names))
    if not chosen.any() or not left.all():
        short = f"class {names[int(left.argmin())]!r} of the training part" if chosen.any() else "the test part"
        raise EmptyPart(config.test_fraction, len(labels), short)
    return chosen


def _drawn(name: str, seed: int) -> float:
    """Returns a number from 0 to below 1 that is drawn for the name of a file."""
    text = f"{seed}/{name}".encode(errors="surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=6).digest(), "big") / 2**48


def _first_size(files: Sequence[str], decoding: Decoding) -> tuple[int, int]:
    """Returns height and width of the first image that can be read."""
    problem = None
    for file in files:
        try:
            _, height, width = decoding.read(file).shape
            return height, width
        except InputError as error:
            problem = problem or error
    raise FieldError("data.root", f"no image can be read: {problem}")
