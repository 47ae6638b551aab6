"""Reading of files within limits, and atomic writing: a reader never meets half of a file."""

import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TextIO

from base.checks import InputError


def read_limited(path: Path | Traversable, most: int) -> bytes:
    """Returns the content of a file of at most `most` bytes.

    Raises InputError, which names the path, for a larger file, one that cannot be read, and
    anything that is no file: a pipe would be waited for.
    """
    try:
        content = _read(path, most) if isinstance(path, Path) else path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if len(content) > most:
        raise InputError(f"{path}: is too large, above {_size(most)}")
    return content


def _read(path: Path, most: int) -> bytes:
    # A pipe is opened without waiting for a writer, a terminal without becoming this process's own.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        mode = os.fstat(handle).st_mode
        if not stat.S_ISREG(mode):
            fault = "is a folder, where a file is needed" if stat.S_ISDIR(mode) else "is no regular file"
            raise InputError(f"{path}: {fault}")
        with open(handle, "rb", closefd=False) as file:
            return file.read(most + 1)
    finally:
        os.close(handle)


def _size(count: int) -> str:
    return f"{count // 2**20} MiB" if count >= 2**20 else f"{count // 2**10} KiB"


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replaces the file at `path` by `content` (text as UTF-8), wholly or, if that fails, not at
    all; see `replacing`.

    Raises:
        OSError: the file could not be written (no space, no permission, no such directory); it
            names `path`.
    """
    with replacing(path) as write:
        write(content.encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[Callable[[bytes], None]]:
    """Yields a function that writes further bytes of a file, which replaces the one at `path` at
    the end of the block; after an error, or a stop, all is as before.

    The content goes to a file beside it and is on the disk before it takes the name. That file has
    a name that nobody can guess and is made anew: nothing that lies there before, such as a link
    that leads elsewhere, is written to. A process killed in between leaves it; `temporary_pattern`
    finds it.

    Raises:
        OSError: the file could not be written (no space, no permission, no such directory); it
            names `path`.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        # Exclusive creation follows no link. A stop may come as soon as the file is there.
        with naming_errors(path):
            file = open(temporary, "xb")  # noqa: SIM115  # it is closed below
        try:

            def write(content: bytes) -> None:
                with naming_errors(path):
                    file.write(content)

            yield write
            with naming_errors(path):
                file.flush()
                os.fsync(file.fileno())
        finally:
            with naming_errors(path):  # it writes what is left
                file.close()
        with naming_errors(path):
            os.replace(temporary, path)
            _sync_directory(path.parent)
    except FileExistsError:
        raise  # another one has made it
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def check_writable(path: Path, what: str = "", instead: str = "") -> None:
    """Raises InputError, before any work is done, where a file could not be written at `path`.

    `what` begins the message, and `instead`, the way out, ends it.
    """
    fault = None
    if path.is_dir():
        fault = "a directory"
    elif not path.parent.is_dir():
        fault = "no such directory"
    elif not os.access(path.parent, os.W_OK | os.X_OK):
        fault = f"no permission for {path.parent}"
    if fault is not None:
        raise InputError(f"{what}{path} cannot be written: {fault}{instead}")


def open_to_append(path: Path) -> TextIO:
    """Opens a file of text (UTF-8) to write at its end, made where there is none; letters that have
    no UTF-8 are escaped.

    Raises OSError if it cannot be opened, and InputError where there is a link or anything else
    that is no regular file: a link would have a file elsewhere grow.
    """

    def follow_no_link(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY, 0o666)

    if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
        raise InputError(f"{path}: is no regular file but a link or the like; remove it")
    return open(path, "a", encoding="utf-8", errors="backslashreplace", opener=follow_no_link)


def temporary_pattern(name: str) -> str:
    """Returns the pattern of the temporary files that `write_atomically` makes beside files whose
    names have the pattern `name`."""
    return f".{name}.{'[0-9a-f]' * 8}.tmp"


def _sync_directory(directory: Path) -> None:
    """Writes the new name to the disk: without it a power cut may bring back the old file."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def naming_errors(path: Path) -> Iterator[None]:
    """Makes an OSError raised inside name `path`; that of a failed write names no file."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
