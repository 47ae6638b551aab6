"""The files of an explanation: a folder of its own, which belongs to the run that it explains."""

import json
from pathlib import Path

from base.checks import InputError
from search.explain.explanation import FOLDER, NUMBERS_FILE, PAGE_FILE, Explanation
from search.finished import SearchRun
from training.run.directory import kind_of_run
from training.run.monitor import Monitor
from training.run.ownership.files import begin_record, belongings, has_record, record, recorded, write_file
from training.run.ownership.lock import check_free

_EVENTS = "events."


def place_in(run: Path) -> Path:
    """Returns the directory of the explanation of a run.

    Raises InputError where something is there that is no explanation of it, or a process is at work
    in the run.
    """
    check_free(run)
    place = run / FOLDER
    own = has_record(run) and f"{FOLDER}/" in recorded(run)
    if place.is_symlink() or (place.exists() and not (own and place.is_dir())):
        raise InputError(f"{place}: is there already, and none of this run's files; move it away, then try again")
    return place


def check_run(run: SearchRun) -> None:
    """Raises InputError for a search that has not come to its end."""
    if not run.is_complete:
        planned = run.method.planned_epochs(run.config)
        raise InputError(
            f"{run.path}: is not finished, after {run.epochs} of {planned} epochs; "
            f"python -m {run.method.prog} with the same options and --resume goes on"
        )


def check_place(place: Path, overwrite: bool) -> None:
    """Raises InputError unless the explanation of a table can go into the directory `place`: a new
    or an empty one, or with `overwrite` one with such an explanation."""
    if not place.exists() and not place.is_symlink():
        return
    if not place.is_dir():
        raise InputError(f"{place}: is no directory; choose another one with --output")
    if not any(place.iterdir()):
        return
    if not has_record(place) or NUMBERS_FILE not in recorded(place) or kind_of_run(place) is not None:
        raise InputError(f"{place}: not empty and no explanation of a table; choose another directory with --output")
    if not overwrite:
        raise InputError(
            f"{place}: holds an explanation already; replace it with --overwrite, or choose another one with --output"
        )


def write(explanation: Explanation, place: Path) -> Path:
    """Writes page, numbers and events into the directory `place`, in the place of those of an
    earlier explanation, and returns the path of the page.

    Raises InputError or OSError where that cannot be done.
    """
    numbers = json.dumps(explanation.numbers, indent=2, allow_nan=False) + "\n"
    html = explanation.page.html()
    above = place.parent
    if has_record(above):
        record(above, f"{place.name}/")
    if not has_record(place):
        begin_record(place)
    earlier = [name for name in belongings(place) if name.startswith(_EVENTS)]
    write_file(place, NUMBERS_FILE, numbers)
    page = write_file(place, PAGE_FILE, html)
    with Monitor(place) as monitor:
        monitor.text("explanation", "\n".join(explanation.sentences))
        for tag, figure in explanation.figures.items():
            monitor.figure(tag, figure, 0)
    for name in earlier:
        (place / name).unlink(missing_ok=True)
    return page
