"""A folder of images with one folder for each class."""

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from base.checks import FieldError, InputError
from base.seeds import new_generator
from training.format import BYTE, ImageFormat
from training.images.data import DataConfig, Part, stratified
from training.images.files import Decoding, ImageFiles, image_files

TEST_FOLDERS = ("test", "val")
_Files = Mapping[str, Sequence[Path]]
_NAMED = 8  # number of classes that a message names


class EmptyPart(FieldError):
    """The share of a folder that is its test part leaves nothing in one of the parts."""

    def __init__(self, share: float, images: int, part: str) -> None:
        """`part` is what would be empty: "the test part" or a class of the training part."""
        self.found = f"{share} of {images} images leaves {part} empty"
        super().__init__("data.test_fraction", f"{self.found}; choose another share or give more images")
        self._made_of = (share, images, part)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._made_of


def load(config: DataConfig, part: Part) -> ImageFiles:
    """Reads root/train/CLASS/..., with root/test/CLASS/... or else root/val/CLASS/... as the test
    part; or root/CLASS/... alone.

    Without a test part, or without a folder "train", the share `config.test_fraction` of each class
    is the test part, chosen by `config.split_seed`. A folder "train" with images and no folders of
    images in it is a class. Mean and std of the format that is returned are not known yet: 0 and 1.
    """
    root = Path(config.root)
    if not root.is_dir():
        fault = "is a file" if root.exists() else "there is no such folder"
        raise FieldError("data.root", f"{root}: {fault}; name a folder that has one folder of images for each class")
    try:
        has_train = _has_train(root)
        train = _by_class(root / "train" if has_train else root)
        test_folder = next((root / name for name in TEST_FOLDERS if has_train and (root / name).is_dir()), None)
        test = None if test_folder is None else _by_class(test_folder)
    except OSError as error:
        raise FieldError("data.root", f"{error.filename}: cannot be read: {error.strerror}") from error
    names = _class_names(train, root)
    if test is not None:
        assert test_folder is not None
        _check_known(test, names, test_folder)
    files, labels = _flat(train, names)
    if test is None:
        chosen = _test_part(labels, config, names)
        files = [file for file, of_test in zip(files, chosen.tolist(), strict=True) if of_test == (part == "test")]
        labels = labels[chosen if part == "test" else ~chosen]
    elif part == "test":
        files, labels = _flat(test, names)
    decoding = Decoding(config.size, config.resize, config.fit == "stretch", config.gray)
    height, width = (config.size, config.size) if config.size else _first_size(files, decoding)
    channels = 1 if config.gray else 3
    form = ImageFormat((channels, height, width), BYTE, (0.0,) * channels, (1.0,) * channels, names)
    return ImageFiles(tuple(map(str, files)), labels, decoding, form)


def _has_train(root: Path) -> bool:
    """Says whether the folder "train" is that of the training part rather than the class of that
    name."""
    folder = root / "train"
    return folder.is_dir() and (bool(_by_class(folder)) or not list(image_files(folder)))


def _by_class(folder: Path) -> _Files:
    """Returns the images by class; a folder without images is no class."""
    found = {}
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.name.startswith(".") and (files := list(image_files(entry))):
            if any(unicodedata.category(character) in ("Cc", "Cs") for character in entry.name):
                raise FieldError(
                    "data.root", f"{entry.name!r} is no name for a class, as it cannot be printed; rename the folder"
                )
            found[entry.name] = files
    return found


def _class_names(train: _Files, root: Path) -> tuple[str, ...]:
    expected = "expected are folders with images in them, one for each class, such as cats/1.jpg and dogs/1.jpg"
    if not train:
        raise FieldError("data.root", f"{root}: no images found; {expected}, in it or in a folder train in it")
    if len(train) == 1:
        raise FieldError("data.root", f"{root}: only one class, {next(iter(train))!r}, has images; {expected}")
    return tuple(train)


def _check_known(test: _Files, names: Sequence[str], folder: Path) -> None:
    if not test:
        raise FieldError(
            "data.root", f"{folder}: no images found; delete the folder to have a share of the others as test part"
        )
    if unknown := [name for name in test if name not in names]:
        known = f"{', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''}"
        raise FieldError("data.root", f"{folder / unknown[0]}: the training part has no class {unknown[0]!r}, only {known}")


def _flat(files: _Files, names: Sequence[str]) -> tuple[list[Path], torch.Tensor]:
    counts = torch.tensor([len(files.get(name, ())) for name in names])
    return [file for name in names for file in files.get(name, ())], torch.arange(len(names)).repeat_interleave(counts)


def _test_part(labels: torch.Tensor, config: DataConfig, names: Sequence[str]) -> torch.Tensor:
    """Says which images are the test part, bool [N]."""
    count = round(config.test_fraction * len(labels))
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[stratified(labels, count, new_generator("test part", config.split_seed))] = True
    left = labels[~chosen].bincount(minlength=len(names))
    if count == 0 or not left.all():
        short = "the test part" if count == 0 else f"class {names[int(left.argmin())]!r} of the training part"
        raise EmptyPart(config.test_fraction, len(labels), short)
    return chosen


def _first_size(files: Sequence[Path], decoding: Decoding) -> tuple[int, int]:
    """Returns height and width of the first image that can be read."""
    problem = None
    for file in files:
        try:
            _, height, width = decoding.read(str(file)).shape
            return height, width
        except InputError as error:
            problem = problem or error
    raise FieldError("data.root", f"no image can be read: {problem}")
