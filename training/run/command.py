"""Runs what a command line asks for: every foreseeable end is one line and an exit status."""

import errno
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from base.texts import one_line


class TrainingDiverged(RuntimeError):
    """The loss is NaN or infinite; going on is pointless. The message is one line with the step and what to try."""


def command(prog: str, main: Callable[[], None]) -> int:
    """Run `main` and return the exit status: 0, or one line on stderr and

    - 2: something is wrong with the input or the disk (ValueError, OSError), or memory is short,
    - 1: training diverged,
    - 130: stopped by Ctrl-C or SIGTERM.
    """
    try:
        with _terminate_is_interrupt():
            main()
        return 0
    except KeyboardInterrupt:
        print(f"{prog}: stopped; the same --run with --resume goes on from the last checkpoint", file=sys.stderr)
        return 130
    except TrainingDiverged as error:
        message, status = one_line(error), 1
    except OSError as error:
        reason = error.strerror or one_line(error)
        message, status = f"{error.filename}: {reason}" if error.filename is not None else reason, 2
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message += "; make room, then the same --run with --resume goes on from the last checkpoint"
    except ValueError as error:
        message, status = one_line(error), 2
    except (MemoryError, RuntimeError) as error:
        status = 2
        if _is_lack_of_memory(error):
            message = "not enough memory; less is needed with smaller channels, cells, batch_size or data.limit"
        elif "DataLoader worker" in str(error):
            message = "a process that reads images has died, perhaps for lack of memory; try fewer, with data.workers"
        else:
            raise
    print(f"{prog}: error: {message}", file=sys.stderr)
    return status


def _is_lack_of_memory(error: Exception) -> bool:
    # On a GPU torch raises a RuntimeError of its own class, on the CPU a plain one.
    return isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error)


@contextmanager
def _terminate_is_interrupt() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt, as Ctrl-C does. Only the main thread can receive signals."""
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
