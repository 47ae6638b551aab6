"""The parts of a folder of images: which folder in it is to train on, which to test on."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from base.checks import FieldError, Name
from base.texts import escape, excerpt
from training.images.data import DataConfig
from training.images.listing import has_pictures, is_folder, is_left_out, is_picture

WHOLE = "."
"""The name, among settings, of the folder of the data set itself."""
NONE = "none"
"""The name, among settings, of a test folder that is not there."""
_WORDS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev", "eval", "evaluation"),
    "test": ("test", "testing", "tst"),
}
_ENDINGS = re.compile(r"(set|data|images|imgs|part|split)$")
_TRAIN, _TEST = Name("data.train_folder"), Name("data.test_folder")


@dataclass(frozen=True)
class Parts:
    """The folders of the parts."""

    train: str
    """Folder with a folder for each class."""
    test: str | None
    """Folder with a folder for each class; None: a share of the training folder is the test
    part."""
    said: str
    """The two in words."""
    notes: tuple[str, ...]
    """Lines on folders beside them."""


def find(config: DataConfig) -> Parts:
    """Finds the parts of the folder `config.root`: by their settings, or else by the usual names in
    upper or lower case.

    A folder is a part only if it has folders with images of its own, or no images at all; it is a
    class otherwise. Raises InputError where names leave open what is meant, with the setting that
    answers, and OSError for a folder that cannot be read.
    """
    root = config.root
    beside = _folders(root)
    train = _named(config.train_folder, root, _TRAIN) or _by_name(root, beside)
    if config.test_folder == NONE or (train == root and config.test_folder is None):
        test = None
    else:
        test = _named(config.test_folder, root, _TEST) or _test(root, train, beside, asked=config.train_folder is None)
    if test is not None and os.path.realpath(test) == os.path.realpath(train):
        raise FieldError("data.test_folder", f"{test}: is the training folder, too; name another one")
    share = f"a share of {config.test_fraction:g} of the files"
    notes = []
    others = [name for name in beside if os.path.join(root, name) not in (train, test)]
    if train != root and (unused := [name for name in others if has_pictures(os.path.join(root, name))]):
        notes.append(f"left out, neither training nor test part: {_listed(unused)}")
    said = f"training part: {escape(train)}; test part: {share if test is None else escape(test)}"
    return Parts(train, test, said, tuple(notes))


def _folders(folder: str) -> list[str]:
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not is_left_out(entry.name) and is_folder(entry))


def _named(name: str | None, root: str, field: Name) -> str | None:
    """Returns the folder that a setting names."""
    if name is None:
        return None
    folder = root if name == WHOLE else os.path.join(root, name)
    if not os.path.isdir(folder):
        raise FieldError(field, f"{folder}: there is no such folder; there are {_listed(_folders(root)) or 'none'}")
    return folder


def _by_name(root: str, beside: Sequence[str]) -> str:
    """Returns the training folder: the one of that name, or the whole if its folders are classes."""
    parts = {role: [name for name in beside if _role(name) == role and _is_part(os.path.join(root, name))] for role in _WORDS}
    if len(parts["train"]) > 1:
        raise _open(root, f"{_listed(parts['train'])} are each a training part by name; name it with --", _TRAIN)
    if parts["train"]:
        return os.path.join(root, parts["train"][0])
    full = [name for name in beside if has_pictures(os.path.join(root, name))]
    held_out = [name for name in (*parts["val"], *parts["test"]) if name in full]
    if held_out:
        they = f"{_listed(held_out)}: a part to test on by name, but no folder is called train"
        raise _open(root, f"{they}; name the training part with --", _TRAIN, " FOLDER", *_or_classes())
    if named := [name for name in full if _role(name)]:
        they = f"{_listed(named)}: a part by name, but without a folder for each class in it"
        raise _open(root, f"{they}; make such folders, or take it out", *_or_classes())
    if len({_word(name) for name in full}) > 1 and all(_word(name) for name in full):
        they = f"{_listed(full)}: parts or classes? Name the parts with --"
        raise _open(root, they, _TRAIN, " FOLDER and --", _TEST, " FOLDER", *_or_classes())
    inside = [set(_folders(os.path.join(root, name))) for name in full]
    if len(full) > 1 and len(set.intersection(*inside)) > 1 and not any(_has_own(os.path.join(root, name)) for name in full):
        within = f"{_listed(sorted(set.intersection(*inside)))} are in each of {_listed(full)}: which are the classes?"
        raise _open(root, f"{within} Put the folders of the classes together, with --", _TRAIN, " FOLDER", *_or_classes())
    return root


def _test(root: str, train: str, beside: Sequence[str], asked: bool) -> str | None:
    """Returns the test folder beside a training folder: test, else val.

    `asked` says that a folder of no usual name, with classes of the training part, is asked about.
    """
    others = [name for name in beside if os.path.join(root, name) != train]
    for role in ("test", "val"):
        named = [name for name in others if _role(name) == role]
        if len(named) > 1:
            raise _open(root, f"{_listed(named)} are each a part to test on by name; name it with --", _TEST, " FOLDER")
        if named:
            return os.path.join(root, named[0])
    classes = set(_folders(train))
    for name in others if asked else ():
        if len(classes.intersection(_folders(os.path.join(root, name)))) > 1 and has_pictures(os.path.join(root, name)):
            they = f"{excerpt(name)} has classes of {os.path.basename(train)}: is it the test part? Say --"
            raise _open(root, they, _TEST, f" {excerpt(name)}, or --", _TEST, f" {NONE} for a share of the training part")
    return None


def _or_classes() -> tuple[str, ...]:
    return "; if each folder is a class, --", _TRAIN, f" {WHOLE}"


def _open(root: str, *question: str) -> FieldError:
    return FieldError("data.root", f"{root}: ", *question)


def _role(name: str) -> str | None:
    """Returns the part that a folder is by its name: train, val or test; None: it is not said."""
    word = re.sub(r"[\W_\d]+", "", name.lower())
    return next((role for role, words in _WORDS.items() if word in words or _ENDINGS.sub("", word) in words), None)


def _word(name: str) -> str | None:
    """Returns the part that one of the words in a name stands for, as in asl_alphabet_train."""
    return next((role for word in re.split(r"[\W_\d]+", name.lower()) if (role := _role(word))), None)


def _is_part(folder: str) -> bool:
    """Says whether a folder of a part's name is one rather than a class of that name."""
    return any(has_pictures(os.path.join(folder, name)) for name in _folders(folder)) or not has_pictures(folder)


def _has_own(folder: str) -> bool:
    """Says whether there are images in a folder itself, in no folder of it."""
    with os.scandir(folder) as entries:
        return any(is_picture(entry.name) and not is_folder(entry) for entry in entries)


def _listed(names: Sequence[str], most: int = 8) -> str:
    return ", ".join([*map(excerpt, names[:most]), "..."] if len(names) > most else map(excerpt, names))
