"""The first seconds of a program, `python -m search.darts` or the like, while all the rest is
imported.

Packages that hold programs import this first. It takes nothing but Python, and does nothing in a
process that was started in another way.

Nothing has begun yet, so that a signal can end the process at once: an exception would end as a
traceback, at times out of a library that catches it.
"""

import atexit
import contextlib
import os
import signal
import sys
import types

_PACKAGES = ("benchmarks", "fusenas", "retrain", "search")
SIGNALS = {
    getattr(signal, name): said
    for name, said in {"SIGINT": "Ctrl-C", "SIGTERM": "SIGTERM", "SIGHUP": "SIGHUP"}.items()
    if hasattr(signal, name)
}
"""The signals that stop a program, with their names in messages."""
STOPPED = 130
"""Exit status of a program that was stopped."""


def _program() -> str | None:
    """Returns the name of the program of ours that is being started with `python -m`, if it is
    one."""
    if sys.argv[:1] != ["-m"]:  # as it is called until its module is found
        return None
    name = sys.orig_argv[-len(sys.argv)].removeprefix("-m")
    return name if name.partition(".")[0] in _PACKAGES else None


def leave(number: int, frame: types.FrameType | None) -> None:
    """Ends the process with one line; the handler of signals until `command` has its own."""
    with contextlib.suppress(OSError):
        os.write(2, f"{_program_name}: stopped by {SIGNALS[number]} before it had begun\n".encode(errors="replace"))
    os._exit(STOPPED)


def leave_silently(number: int, frame: types.FrameType | None) -> None:
    """Ends the process, which is on its way out and has said all."""
    os._exit(STOPPED)


def _ignore() -> None:
    """Ignores the signals in the last moments: Python gives up its handlers then, and a signal would
    be the status of the process."""
    for number in SIGNALS:
        if signal.getsignal(number) is leave_silently:
            signal.signal(number, signal.SIG_IGN)


def _open_standard_streams() -> None:
    """Opens those that are closed, to nowhere: else the next file that is opened would take their
    number, and get all that libraries write there."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(handle, True)
    os.close(handle)


_program_name = _program()
if _program_name is not None:
    _open_standard_streams()
    atexit.register(_ignore)  # the first to be registered, so that it is the last to run
    for _number in SIGNALS:
        # What is ignored from the start, as under nohup, stays so.
        if signal.getsignal(_number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(_number, leave)
