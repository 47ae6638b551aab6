"""Atomic writing of files: a reader never meets half of one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replaces the file at `path` by `content` (text as UTF-8), wholly or, if that fails, not at
    all.

    The content goes to `<name>.tmp` in the same directory and is on the disk before it takes the
    name. The temporary name is fixed so that a process killed in between leaves at most one such
    file, which the next write replaces.

    Raises:
        OSError: the file could not be written (no space, no permission, no such directory); it
            names `path`.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.tmp")
    with naming_errors(path):
        try:
            with open(temporary, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_directory(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


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
