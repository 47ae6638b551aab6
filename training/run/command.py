"""Commands: every end of one is a line and an exit status."""

import errno
import re
import signal
import sys
import threading
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from base.checks import InputError
from base.texts import one_line

_LACK_OF_MEMORY = re.compile("out of memory|can't allocate memory")


class TrainingDiverged(RuntimeError):
    """The loss is NaN or infinite; going on is pointless.

    The message is one line with the step and what to try.
    """


def command(prog: str, main: Callable[[], None]) -> int:
    """Runs `main` and returns the exit status: 0, or one line on stderr and

    - 2: something is wrong with the input or the disk (InputError, OSError), or memory is short,
    - 1: training diverged, or an error of ours, whose traceback is in the log of the run that was
      open (`Monitor`),
    - 130: stopped by Ctrl-C or SIGTERM.
    """
    try:
        with terminate_is_interrupt():
            main()
        return 0
    except KeyboardInterrupt:
        print(f"{prog}: stopped; the same --run with --resume goes on from the last checkpoint", file=sys.stderr)
        return 130
    except Exception as error:
        end = foreseen(error)
        if end is None:
            # The notes of an error that was raised while a run was open say where its traceback is.
            notes = getattr(error, "__notes__", None) or [f"raised {_place(error)}, while no run was open to log more"]
            end = End(one_line(f"internal error: {type(error).__name__}: {error}; {'; '.join(notes)}"), 1)
        print(f"{prog}: error: {end.message}", file=sys.stderr)
        return end.status


class End(NamedTuple):
    """The end of a command by an error."""

    message: str
    status: int


def foreseen(error: BaseException) -> End | None:
    """Returns the end by an error that is no mistake of ours; None for one that is."""
    if isinstance(error, TrainingDiverged):
        return End(one_line(error), 1)
    if isinstance(error, OSError):
        reason = error.strerror or one_line(error)
        message = f"{error.filename}: {reason}" if error.filename is not None else reason
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message += "; make room, then the same --run with --resume goes on from the last checkpoint"
        return End(message, 2)
    if isinstance(error, InputError):
        return End(one_line(error), 2)
    # On a GPU torch raises a RuntimeError of its own class, on the CPU a plain one.
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _LACK_OF_MEMORY.search(str(error))):
        less = "recompute cells, or smaller channels, cells, batch_size or data.limit"
        return End(f"not enough memory; less is needed with {less}", 2)
    if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid"):
        return End("a process that reads images has died, perhaps for lack of memory; try fewer, with data.workers", 2)
    return None


def _place(error: Exception) -> str:
    """Returns the place where an error was raised: file, line and function."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"in {frame.filename}, line {frame.lineno}, {frame.name}"


@contextmanager
def terminate_is_interrupt() -> Iterator[None]:
    """Makes SIGTERM raise KeyboardInterrupt, as Ctrl-C does.

    Only the main thread can receive signals.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: types.FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
