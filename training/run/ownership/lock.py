"""A lock on a directory, held as long as the process that took it works there.

It is a POSIX record lock (fcntl) on one byte of a file in the directory. The system lets go of it
when the process ends, however that happens. Other processes do not inherit it: workers that outlive
a killed run keep nothing, as they would with flock, on which libraries such as filelock stand. And
it is valid across the machines that share a network file system (NFS, Lustre, SMB), as far as that
file system has locks.

The byte is far behind the end of the file, so that its text, which says who holds the lock, can be
read where locks are mandatory. A process loses all its record locks on a file with any of its
descriptors of that file: so the file is opened in this module alone, and never while it is held.
"""

import contextlib
import errno
import fcntl
import json
import os
import socket
import stat
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from base.checks import InputError

OWN_FOLDER = ".fusenas"
"""The folder, in that of a run, of files that are about the run: its lock and the list of its
files."""
LOCK_FILE = f"{OWN_FOLDER}/lock"

_BYTE = 2**30
_WAITS = (0.01, 0.02, 0.05, 0.1, 0.2)  # seconds; one who only looks is done in less
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_LONGEST = 4096  # characters of the text
_ATTEMPTS = 100


class _Identity(NamedTuple):
    """A file, whatever its name is."""

    device: int
    number: int


_guard = threading.Lock()
_held: dict[_Identity, int] = {}
"""Lock files of this process, with its id: a forked process has a copy and holds none of them."""


class Lock:
    """The lock on one directory; see `take`."""

    def __init__(self, directory: Path, handle: int, identity: _Identity, is_kept: bool) -> None:
        """Use `take`."""
        self.directory = directory
        self.is_kept = is_kept
        """Whether other processes are kept out: False where the file system has no locks."""
        self._handle = handle
        self._identity = identity
        self._owner = os.getpid()

    @classmethod
    def take(cls, directory: Path) -> "Lock":
        """Takes the lock on a directory, which is made where there is none.

        Raises InputError, which names the holder, if it is held, and OSError if the directory or
        the file of the lock cannot be made.
        """
        for wait in (*_WAITS, None):
            with _guard:
                lock = cls._try(directory)
            if lock is not None:
                return lock
            if wait is None:
                raise _refusal(directory)
            time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    @classmethod
    def _try(cls, directory: Path) -> "Lock | None":
        """One attempt; None if another process holds the lock."""
        path = directory / LOCK_FILE
        for attempt in range(_ATTEMPTS, -1, -1):
            try:
                _check_ours(directory)
                path.parent.mkdir(parents=True, exist_ok=True)
                handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
            except FileNotFoundError:
                # The process before has just removed its folder; there are also places without any.
                if not attempt:
                    raise
                continue
            try:
                is_kept = _lock(handle, fcntl.LOCK_EX)
                identity = _of(os.fstat(handle))
                # Otherwise the process before has removed the file as this one opened it.
                if is_kept is not None and identity == _present(path):
                    who = {"host": socket.gethostname(), "pid": os.getpid(), "since": datetime.now().isoformat(" ", "seconds")}
                    with contextlib.suppress(OSError):  # on a full disk the lock is one without a name
                        os.ftruncate(handle, 0)
                        os.pwrite(handle, json.dumps(who).encode() + b"\n", 0)
                    lock = cls(directory, handle, identity, is_kept)
                    _held[identity] = os.getpid()
                    handle = -1
                    return lock
                if is_kept is None:
                    return None
            finally:
                if handle >= 0:
                    os.close(handle)
        return None

    def confirm(self) -> None:
        """Makes sure that the lock is held still.

        Raises InputError if the directory was removed, or another process has taken it since, as
        can happen when a network file system was cut off.
        """
        with _guard:
            is_same = _present(self.directory / LOCK_FILE) == self._identity
            if not is_same or _lock(self._handle, fcntl.LOCK_EX) is None:
                raise InputError(
                    f"{self.directory}: was removed, or taken by another process, while this one was at work in it; "
                    "nothing more is written"
                )

    def release(self) -> None:
        """Lets go of the lock and removes its file; a forked process leaves both to the one that
        took it."""
        if os.getpid() != self._owner:
            return
        with _guard:
            path = self.directory / LOCK_FILE
            with contextlib.suppress(OSError):
                if _present(path) == self._identity:
                    path.unlink()
                path.parent.rmdir()  # if it is empty
            _held.pop(self._identity, None)
            os.close(self._handle)


def check_free(directory: Path) -> None:
    """Raises InputError, which names the holder, if the lock on a directory is held; changes
    nothing."""
    path = directory / LOCK_FILE
    with _guard:
        _check_ours(directory)
        if _present(path) is None:
            return
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        try:
            is_free = _lock(handle, fcntl.LOCK_SH) is not None
        finally:
            os.close(handle)
    if not is_free:
        raise _refusal(directory)


def _check_ours(directory: Path) -> None:
    """Raises InputError if this process holds the lock itself, or its file is none that a run has
    made."""
    path = directory / LOCK_FILE
    if os.path.lexists(path.parent) and (path.parent.is_symlink() or not path.parent.is_dir()):
        raise InputError(f"{path.parent}: is no folder; remove it")
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{path}: is no regular file; remove it")
    if _held.get(_of(found)) == os.getpid():
        raise InputError(f"{directory}: this process is at work in it already; choose another directory with --run")


def _lock(handle: int, kind: int) -> bool | None:
    """Locks the byte; False where the file system has no locks, None if another process is in the
    way."""
    try:
        fcntl.lockf(handle, kind | fcntl.LOCK_NB, 1, _BYTE)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return None
        raise
    return True


def _of(found: os.stat_result) -> _Identity:
    return _Identity(found.st_dev, found.st_ino)


def _present(path: Path) -> _Identity | None:
    try:
        return _of(os.lstat(path))
    except (FileNotFoundError, NotADirectoryError):
        return None


def _refusal(directory: Path) -> InputError:
    """Makes the error that names the holder, as far as it can be read."""
    with _guard:
        _check_ours(directory)
        holder = _holder(directory)
    return InputError(f"{directory}: {holder}; wait for its end or stop it, or choose another directory with --run")


def _holder(directory: Path) -> str:
    try:
        with open(directory / LOCK_FILE, encoding="utf-8", errors="replace") as file:
            who = json.loads(file.read(_LONGEST))
        return f"process {who['pid']} on {who['host']} has been at work in it since {who['since']}"
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return "another process is at work in it"
