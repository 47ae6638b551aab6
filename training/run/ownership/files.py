"""The files of a run, as it has recorded them: --overwrite takes these away and no others.

The record is a list of names in the directory of the run, one a line, which only grows: commands
that come later, such as an export, add theirs. A name is there before its file.
"""

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from base.checks import InputError
from base.files import naming_errors, read_limited, temporary_pattern, write_atomically
from training.run.ownership.lock import OWN_FOLDER

RECORD_FILE = f"{OWN_FOLDER}/files"
LOG_FILE = "log.txt"
_MOST = 64 * 2**20  # bytes of a record


def begin_record(run: Path) -> None:
    """Makes the record of a new run, without a name yet."""
    (run / OWN_FOLDER).mkdir(parents=True, exist_ok=True)
    write_atomically(run / RECORD_FILE, "")


def has_record(run: Path) -> bool:
    """Says whether there is a record in the directory of a run."""
    return not leads_elsewhere(run, RECORD_FILE) and _is_regular(run / RECORD_FILE)


def record(run: Path, *names: str) -> None:
    """Adds files that are about to be written to the record of a run: their names in its directory.

    A name that ends with a slash is the directory of another run, which belongs to this one. Where
    there is no record, as in a directory that is no run's, there is nothing to add to.

    Raises InputError as `check_own` does.
    """
    if new := check_own(run, *names):
        path = run / RECORD_FILE
        # A line that a full disk has cut short must not run into the next.
        start = "" if read_limited(path, _MOST)[-1:] in (b"", b"\n") else "\n"
        with naming_errors(path), open(path, "ab") as file:
            file.write((start + "".join(f"{name}\n" for name in new)).encode())


def check_own(run: Path, *names: str) -> list[str]:
    """Returns those of the names that are not in the record of a run, if it has one.

    Raises InputError for one of them whose file is there already: it is not the run's.
    """
    if not has_record(run):
        return []
    known = set(recorded(run))
    new = [name for name in dict.fromkeys(names) if name not in known]
    for name in new:
        if not name.endswith("/") and os.path.lexists(run / name):
            raise InputError(f"{run / name}: is there already, and none of this run's files; move it away, then try again")
    return new


def write_file(run: Path, name: str, content: bytes | str) -> Path:
    """Writes a file of a run atomically and records it; makes its folder and returns its path.

    Raises OSError if it cannot be written, and InputError as `record` does.
    """
    path = run / name
    record(run, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    return path


def recorded(run: Path) -> list[str]:
    """Returns the names in the record of a run; those that would lead elsewhere, which no run
    writes, are left out.

    Raises InputError where there is no record.
    """
    lines = read_limited(run / RECORD_FILE, _MOST).decode(errors="replace").split("\n")
    return [name for name in dict.fromkeys(lines) if _is_inside(name)]


def belongings(run: Path) -> Iterator[str]:
    """Yields the names of all files of a run that are there, those of runs that belong to it
    included: the record last.

    Halves of files, which a killed process has left, are among them. Links and folders are not: no
    run has made them.
    """
    if not has_record(run):
        return
    for name in recorded(run):
        if name.endswith("/"):
            if not leads_elsewhere(run, name):
                yield from (f"{name}{theirs}" for theirs in belongings(run / name))
        elif not leads_elsewhere(run, name):
            if _is_regular(run / name):
                yield name
            yield from leftovers(run, name)
    yield from leftovers(run, RECORD_FILE)
    yield RECORD_FILE


def places(run: Path) -> list[str]:
    """Returns the names of all files that a run has recorded, with those of runs that belong to it,
    whether they are there or not."""
    if not has_record(run):
        return []
    own = [name for name in recorded(run) if not leads_elsewhere(run, name)]
    below = [f"{name}{theirs}" for name in own if name.endswith("/") for theirs in places(run / name)]
    return [*(name for name in own if not name.endswith("/")), *below, RECORD_FILE]


def leftovers(run: Path, name: str) -> Iterator[str]:
    """Yields the names of what killed processes have left of that file of a run."""
    whole = PurePosixPath(name)
    for file in (run / whole.parent).glob(temporary_pattern(_escaped(whole.name))):
        yield str(whole.with_name(file.name))


def remove_halves(run: Path, names: Iterable[str]) -> None:
    """Removes what killed processes have left of these files of a run."""
    for name in names:
        for half in list(leftovers(run, name)):
            (run / half).unlink(missing_ok=True)


def remove_folders(run: Path, names: Iterable[str]) -> None:
    """Removes the folders of these files of a run that are empty."""
    folders = {parent for name in names for parent in PurePosixPath(name).parents if parent != PurePosixPath(".")}
    for folder in sorted(folders, key=lambda each: len(each.parts), reverse=True):
        with contextlib.suppress(OSError):
            (run / folder).rmdir()


def leads_elsewhere(run: Path, name: str) -> bool:
    """Says whether a folder on the way to that file of a run is a link, or none."""
    ways = [run / parent for parent in PurePosixPath(name.rstrip("/") + "/file" if name.endswith("/") else name).parents]
    return any(way != run and (way.is_symlink() or (way.exists() and not way.is_dir())) for way in ways)


def _is_inside(name: str) -> bool:
    parts = name.rstrip("/").split("/")
    return all(part not in ("", ".", "..", OWN_FOLDER) for part in parts) and "\0" not in name


def _is_regular(path: Path) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _escaped(name: str) -> str:
    """Returns a pattern for that name alone."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
