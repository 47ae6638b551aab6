"""A directory that one process has for itself while a run, or several, are at work there."""

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path

from base.checks import InputError
from training.run.command import RESUME
from training.run.ownership.files import RECORD_FILE, begin_record, remove_halves
from training.run.ownership.lock import Lock, check_free
from training.run.ownership.replaced import (
    discard,
    has_checkpoint,
    has_successor,
    is_aside,
    is_unsettled,
    put_back,
    remove,
    set_aside,
)


class Claim:
    """The claim of this process on a directory; see `claimed`."""

    def __init__(self, lock: Lock) -> None:
        """Use `claimed`."""
        self.path = lock.directory
        self.is_locked = lock.is_kept
        """Whether other processes are kept out: False where the file system has no locks."""
        self._lock = lock
        self._has_begun = False

    def begin(self, replaces: Collection[str] = ()) -> None:
        """Begins a new run, whose record is empty yet.

        `replaces` names the files of the one in its place, which is set aside until `keep`.
        """
        if replaces:
            set_aside(self.path, replaces)
        self._has_begun = True
        begin_record(self.path)

    def confirm(self) -> None:
        """Raises InputError if the directory is no longer this process's; see `Lock.confirm`."""
        self._lock.confirm()

    def keep(self) -> None:
        """Lets the run that was replaced go: the new one has a checkpoint."""
        discard(self.path)

    def end(self, error: BaseException | None) -> None:
        """Ends the run.

        A new one without a checkpoint gives way to the one that it was to replace. Refused, it
        leaves nothing behind.
        """
        if not self._has_begun:
            return
        if has_checkpoint(self.path):
            discard(self.path)
        elif is_aside(self.path):
            _go_back(self.path, with_logs=not isinstance(error, InputError))
            if error is not None and RESUME in getattr(error, "__notes__", ()):
                error.__notes__.remove(RESUME)  # it would go on with the other run
        elif isinstance(error, InputError):
            remove(self.path)


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[Claim]:
    """Claims the directory `path` for this process, from making it, where there is none, to the end
    of the block.

    Raises InputError, which names the other process, if one is at work there, and if the directory
    cannot be written. An error raised in the block before a run has begun leaves nothing
    behind.
    """
    made = [each for each in (path, *path.parents) if not each.exists()]
    try:
        lock = _take(path)
        try:
            recover(path)
            claim = Claim(lock)
            try:
                yield claim
            except BaseException as error:
                claim.end(error)
                raise
            claim.end(None)
        finally:
            lock.release()
    except BaseException:
        for each in made:
            with contextlib.suppress(OSError):
                each.rmdir()
        raise


def restore(path: Path) -> None:
    """Puts right what an --overwrite has left that was killed before its run had a checkpoint.

    Raises InputError if a process is at work in the directory.
    """
    check_free(path)
    if is_unsettled(path):
        with claimed(path):
            pass


def recover(path: Path) -> None:
    """Does what `restore` does in a directory that is claimed already."""
    if is_aside(path) and not has_successor(path):
        _go_back(path, with_logs=True)
    discard(path)
    remove_halves(path, [RECORD_FILE])


def _take(path: Path) -> Lock:
    try:
        return Lock.take(path)
    except OSError as error:
        raise InputError(f"{path}: the run directory cannot be written: {error.strerror}") from error


def _go_back(path: Path, with_logs: bool) -> None:
    put_back(path, with_logs)
    if with_logs:
        print(f"{path}: the new run ended before its first checkpoint; the run that it was to replace is back", flush=True)
