"""The image files below a folder: what is read, what is not, and each real folder once."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from base.checks import FieldError
from base.texts import excerpt

SUFFIXES = frozenset([
    ".apng", ".avif", ".bmp", ".dib", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm",
    ".tif", ".tiff", ".webp",
])  # fmt: skip
"""Suffixes of the files that are taken for images, in lower case."""
UNREAD = frozenset([
    ".arw", ".cr2", ".cr3", ".dcm", ".dng", ".eps", ".exr", ".hdr", ".heic", ".heics", ".heif", ".hif", ".ico", ".j2k",
    ".jp2", ".jpf", ".jpx", ".jxl", ".jxr", ".mha", ".mhd", ".nef", ".nii", ".npy", ".nrrd", ".orf", ".pcx", ".pef",
    ".psd", ".raf", ".raw", ".rw2", ".svg", ".svgz", ".tga", ".xcf",
])  # fmt: skip
"""Suffixes of pictures in formats that are not read, in lower case."""
OF_SYSTEMS = frozenset([
    "#recycle", "$recycle.bin", "@eadir", "@recently-snapshot", "@recycle", "@tmp", "__macosx", "__pycache__",
    "desktop.ini", "found.000", "lost+found", "recycler", "system volume information", "thumbs.db",
])  # fmt: skip
"""Names, in lower case, of folders and files that systems make beside a user's own."""
MOST_FILES = 4_000_000
"""Files and folders that a data set may have; their names take below 1 GiB."""
MOST_DEEP = 100
"""Folders within one another."""


@dataclass
class Listed:
    """The contents of one folder, with all below it."""

    files: list[str] = field(default_factory=list)
    """Paths of the images, by name."""
    unread: Counter[str] = field(default_factory=Counter)
    """Number of pictures in formats that are not read, by suffix."""
    again: tuple[str, str] | None = None
    """The folder itself, and the one under whose name it was listed before; None: it was not."""


class Listing:
    """Lists the folders of one data set, and keeps count of what is left out.

    A folder that several links lead to is listed once, so that no image belongs to two classes.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], str] = {}
        self._entries = 0
        self._hidden = 0
        self._links = 0
        self._of_systems: Counter[str] = Counter()
        self._others: Counter[str] = Counter()

    def images(self, folder: str, add: Callable[[str], object] | None = None) -> Listed:
        """Lists all images in and below `folder`, by name, without hidden files and those of the
        system.

        `add` is called with the path of each image, which then is not kept in the result.

        Raises OSError if a folder cannot be read, and InputError for too many files or folders too
        deep within one another.
        """
        found = Listed()
        before = self._enter(folder)
        if before is not None:
            found.again = folder, before
            return found
        waiting = [self._sorted(folder)]
        while waiting:
            entry = next(waiting[-1], None)
            if entry is None:
                waiting.pop()
            elif is_folder(entry):
                if self._enter(entry.path) is not None:
                    self._links += 1
                    continue
                if len(waiting) >= MOST_DEEP:
                    raise FieldError("data.root", f"{folder}: has folders more than {MOST_DEEP} deep in one another")
                waiting.append(self._sorted(entry.path))
            else:
                self._sort(entry.name, entry.path, found, add or found.files.append)
        return found

    def folders(self, folder: str) -> tuple[list[os.DirEntry[str]], Listed]:
        """Returns the folders in `folder`, by name, and the files that lie beside them."""
        beside = Listed()
        self._enter(folder)
        entries: list[os.DirEntry[str]] = []
        for entry in self._sorted(folder):
            if is_folder(entry):
                entries.append(entry)
            else:
                self._sort(entry.name, entry.path, beside, beside.files.append)
        return entries, beside

    def notes(self) -> list[str]:
        """Returns lines that say what was left out, and why."""
        reasons = []
        if self._of_systems:
            reasons.append(f"{self._of_systems.total():,} made by the system ({_first(self._of_systems)})")
        if self._hidden:
            reasons.append(f"{self._hidden:,} hidden")
        if self._links:
            reasons.append(f"{self._links:,} links to folders that are listed already")
        if self._others:
            reasons.append(f"{self._others.total():,} files that are no images by their names ({_first(self._others)})")
        return [f"left out: {', '.join(reasons)}"] if reasons else []

    def _enter(self, folder: str) -> str | None:
        """Returns the name under which the folder was listed before; None, and remembers it, where
        it was not."""
        found = os.stat(folder)
        place = found.st_dev, found.st_ino
        if place in self._seen:
            return self._seen[place]
        self._seen[place] = folder
        return None

    def _sorted(self, folder: str) -> Iterator[os.DirEntry[str]]:
        with os.scandir(folder) as entries:
            seen = []
            for entry in entries:
                self._entries += 1
                if self._entries > MOST_FILES:
                    raise FieldError("data.root", f"{folder}: the data set has more than {MOST_FILES:,} files")
                if entry.name.startswith("."):
                    self._hidden += 1
                elif entry.name.lower() in OF_SYSTEMS:
                    self._of_systems[entry.name] += 1
                else:
                    seen.append(entry)
        return iter(sorted(seen, key=lambda entry: entry.name))

    def _sort(self, name: str, path: str, found: Listed, add: Callable[[str], object]) -> None:
        suffix = _suffix(name)
        if is_read(suffix):
            add(path)
        elif suffix in UNREAD or suffix in SUFFIXES:
            found.unread[suffix] += 1
        else:
            self._others[suffix or "no suffix"] += 1


def has_pictures(folder: str) -> bool:
    """Says whether any picture, of a format that is read or not, lies in or below a folder that is
    not too deep.

    Raises OSError if it cannot be read.
    """
    waiting, seen = [folder], set[tuple[int, int]]()
    while waiting:
        place = waiting.pop()
        found = os.stat(place)
        if (found.st_dev, found.st_ino) in seen or len(seen) > MOST_FILES:
            continue
        seen.add((found.st_dev, found.st_ino))
        folders = []
        with os.scandir(place) as entries:
            for entry in entries:
                if is_left_out(entry.name):
                    continue
                if is_picture(entry.name) and not is_folder(entry):
                    return True
                if is_folder(entry):
                    folders.append(entry.path)
        waiting += folders
    return False


def is_picture(name: str) -> bool:
    """Says whether a file is a picture by its name, of a format that is read or not."""
    return not is_left_out(name) and _suffix(name) in SUFFIXES | UNREAD


def is_left_out(name: str) -> bool:
    """Says whether a file or folder is hidden, or made by the system."""
    return name.startswith(".") or name.lower() in OF_SYSTEMS


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Says whether it is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link that leads back to itself
        return False


def is_read(suffix: str) -> bool:
    """Says whether files of that suffix, in lower case, are read here."""
    return suffix in SUFFIXES and (suffix != ".avif" or _reads_avif())


def _reads_avif() -> bool:
    from PIL import features  # slow to import

    # Pillow knows the word from 11.2 on; a file of its own for each platform has the format from 11.3 on.
    return "avif" in features.modules and bool(features.check("avif"))


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _first(counts: Counter[str], most: int = 4) -> str:
    shown = [f"{excerpt(name)} {count:,}" for name, count in counts.most_common(most)]
    return ", ".join([*shown, "..."] if len(counts) > most else shown)


def said(unread: Counter[str]) -> str:
    """Returns a text for pictures that are not read: 12 .heic files."""
    return " and ".join(f"{count:,} {suffix} file{'s' if count > 1 else ''}" for suffix, count in unread.most_common(3))
