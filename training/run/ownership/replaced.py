"""The run that --overwrite replaces is set aside, and goes when the new one has a checkpoint.

Until then it lies in .fusenas/replaced, each file by its name in the directory of the run, moved
there and back by renaming. Its record goes last and comes back first: so whenever a process is
killed, the place of that record tells to which run the other files belong.
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from base.checks import InputError
from training.run.ownership.files import (
    LOG_FILE,
    RECORD_FILE,
    begin_record,
    belongings,
    has_record,
    places,
    recorded,
    remove_folders,
)
from training.run.ownership.lock import OWN_FOLDER

REPLACED = f"{OWN_FOLDER}/replaced"
_DISCARDED = f"{OWN_FOLDER}/discarded"


def set_aside(run: Path, names: Iterable[str]) -> None:
    """Moves these files of a run aside, in their order, and then its record."""
    if not has_record(run):
        begin_record(run)
    moved, folders = [*(name for name in names if name != RECORD_FILE), RECORD_FILE], places(run)
    for name in moved:
        _move(run, run / REPLACED, name)
    remove_folders(run, [*moved, *folders])


def is_aside(run: Path) -> bool:
    """Says whether a run lies aside, wholly or in part."""
    return (run / REPLACED).is_dir()


def is_unsettled(run: Path) -> bool:
    """Says whether a killed process has left a run aside, or one that it was removing."""
    return is_aside(run) or (run / _DISCARDED).is_dir()


def discard(run: Path) -> None:
    """Removes the run that was set aside, if there is one."""
    if is_aside(run):
        os.replace(run / REPLACED, run / _DISCARDED)
    if (run / _DISCARDED).is_dir():
        shutil.rmtree(run / _DISCARDED)


def put_back(run: Path, with_logs: bool) -> None:
    """Removes the run that has begun in the place of the one that was set aside, and moves that one
    back.

    `with_logs` has the lines of the removed run's log.txt follow those of the other. Raises
    InputError for a file in the way that is of neither run.
    """
    aside = run / REPLACED
    logs = {}
    if has_record(aside):
        # It was moved wholly, so that the files in place are those of the new run.
        logs = {name: (run / name).read_bytes() for name in belongings(run) if with_logs and Path(name).name == LOG_FILE}
        remove(run)
        _move(aside, run, RECORD_FILE)
    names = sorted(str(file.relative_to(aside)) for file in aside.rglob("*") if file.is_symlink() or not file.is_dir())
    for name in names:
        _move(aside, run, name)
    shutil.rmtree(aside)  # empty folders
    for name, lines in logs.items():
        if name in names:
            with open(run / name, "ab") as file:
                file.write(lines)


def remove(run: Path) -> None:
    """Removes the files of a run, and its folders that are empty then."""
    folders = places(run)
    for name in list(belongings(run)):
        (run / name).unlink(missing_ok=True)
    remove_folders(run, folders)


def has_checkpoint(run: Path) -> bool:
    """Says whether the run, or one that belongs to it, has a checkpoint of its own."""
    if not has_record(run):
        return False
    return any(
        has_checkpoint(run / name) if name.endswith("/") else name.startswith("checkpoints/") and (run / name).is_file()
        for name in recorded(run)
    )


def has_successor(run: Path) -> bool:
    """Says whether a run in the place of the one that was set aside has a checkpoint."""
    return has_record(run / REPLACED) and has_checkpoint(run)


def _move(source: Path, target: Path, name: str) -> None:
    place = target / name
    if os.path.lexists(place):
        raise InputError(f"{place}: is in the way of a file of the run that is moved there; move it away")
    place.parent.mkdir(parents=True, exist_ok=True)
    os.rename(source / name, place)
