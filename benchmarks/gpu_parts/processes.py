"""Ends processes for certain, with all that they have started."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

MARK = "FUSENAS_GPU_PART"
"""Environment variable that a part and all processes it starts share."""
SECONDS = 5.0
"""Time that processes have to be gone after they were killed."""


def marked(mark: str) -> list[int]:
    """Returns the ids of all other processes that have the mark, in whatever group they are; none
    where the system has no /proc."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        # A process may end meanwhile, or be another user's.
        with suppress(OSError):
            if f"{MARK}={mark}".encode() in path.read_bytes().split(b"\0") and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
    return found


def kill_marked(mark: str) -> None:
    """Kills all other processes that have the mark, those that they start meanwhile, too."""
    end = time.monotonic() + SECONDS
    while (left := marked(mark)) and time.monotonic() < end:
        for process in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.05)


def kill(group: int, mark: str) -> None:
    """Kills a group of processes, and all that have the mark."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
    kill_marked(mark)
