"""Writing files so that a reader never meets half of one."""

import os
from pathlib import Path


def write_atomically(path: Path, content: bytes | str) -> None:
    """Replace the file at `path` by `content` (text as UTF-8): afterwards it holds all of it or, after a failure, what it held.

    The content goes to `<name>.tmp` in the same directory and is on the disk before it takes the name. The temporary name is
    fixed so that a process killed in between leaves at most one such file, which the next write replaces.

    Raises:
        OSError: the file could not be written (no space, no permission, no such directory); it names `path`.
    """
    path = Path(path)
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        try:
            with open(temporary, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        # A failed write or fsync does not say which file it was about.
        raise OSError(error.errno, error.strerror, str(path)) from error
