"""Commands: every end of one is a line and an exit status."""

import contextlib
import errno
import os
import re
import signal
import sys
import threading
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TextIO, cast

from base.checks import InputError
from base.program import SIGNALS, STOPPED, leave, leave_silently
from base.texts import escape, one_line

_LACK_OF_MEMORY = re.compile("out of memory|can't allocate memory")
_GONE = (errno.EPIPE, errno.EIO, errno.EBADF)
_BREAKS = re.compile("([\r\n])")
LESS = "recompute cells, or smaller channels, cells, batch_size or data.limit"
"""What makes a run need less memory."""
RESUME = "the same --run with --resume goes on"


class TrainingDiverged(RuntimeError):
    """The loss is NaN or infinite; going on is pointless.

    The message is one line with the step and what to try.
    """


class Stopped(KeyboardInterrupt):
    """A program was stopped from outside; the message says how."""


def command(prog: str, main: Callable[[], int | None], less: str = LESS) -> int:
    """Runs `main` and returns the exit status: its own (None: 0), or one line on stderr and

    - 2: something is wrong with the input or the disk (InputError, OSError), or memory is short,
    - 1: training diverged, or an error of ours, whose traceback is in the log of the run that was
      open (`Monitor`),
    - 130: stopped by Ctrl-C, SIGTERM or SIGHUP, or because nobody reads its output any more.

    Text that it prints in between reaches the terminal as `standard_streams` has it. `less` says
    what would need less memory.
    """
    with standard_streams(), stops_are_interrupts() as ignore_further:
        try:
            return main() or 0
        except KeyboardInterrupt as stop:
            ignore_further()
            print(f"{prog}: {_line(stop_of(stop), stop)}", file=sys.stderr)
            return STOPPED
        except Exception as error:
            ignore_further()
            end = foreseen(error, less)
            if end is None:
                # The notes of an error that was raised while a run was open say where its traceback
                # is.
                said = _line(f"internal error: {type(error).__name__}: {error}", error)
                where = "" if _notes(error) else f"; raised {_place(error)}, while no run was open to log more"
                end = End(one_line(said + where), 1)
            print(f"{prog}: error: {end.message}", file=sys.stderr)
            return end.status


class End(NamedTuple):
    """The end of a command by an error."""

    message: str
    status: int


def foreseen(error: BaseException, less: str = LESS) -> End | None:
    """Returns the end by an error that is no mistake of ours; None for one that is.

    `less` says what would need less memory.
    """
    if isinstance(error, TrainingDiverged):
        return End(one_line(error), 1)
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        message = f"{error.filename}: {reason}" if error.filename is not None else reason
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            message += ", then ".join(["; make room", *_notes(error)])
        return End(one_line(message), 2)
    if isinstance(error, InputError):
        return End(one_line(error), 2)
    # On a GPU torch raises a RuntimeError of its own class, on the CPU a plain one.
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _LACK_OF_MEMORY.search(str(error))):
        return End(f"not enough memory; less is needed with {less}", 2)
    if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker (pid"):
        return End("a process that reads images has died, perhaps for lack of memory; try fewer, with data.workers", 2)
    return None


def stop_of(stop: KeyboardInterrupt) -> str:
    """Returns the end by a stop from outside, in words."""
    return f"stopped by {stop}" if str(stop) else "stopped"


@contextmanager
def resumable() -> Iterator[None]:
    """Within it a run has a directory: the line that ends the command by a stop or a full disk says
    that --resume goes on."""
    try:
        yield
    except (KeyboardInterrupt, OSError) as error:
        if RESUME not in _notes(error):
            error.add_note(RESUME)
        raise


def _notes(error: BaseException) -> list[str]:
    return getattr(error, "__notes__", [])


def _line(message: str, error: BaseException) -> str:
    return "; ".join([message, *_notes(error)])


def _place(error: Exception) -> str:
    """Returns the place where an error was raised: file, line and function."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"in {frame.filename}, line {frame.lineno}, {frame.name}"


@contextmanager
def stops_are_interrupts() -> Iterator[Callable[[], None]]:
    """Makes the signals that stop a program (SIGTERM, SIGHUP, Ctrl-C) raise `Stopped`, and yields a
    function after which they do nothing more.

    One that is ignored already, as SIGHUP under nohup, stays so. Only the main thread can receive
    signals.
    """
    before: dict[int, Any] = {}

    def interrupt(number: int, frame: types.FrameType | None) -> None:
        if _held and _held[-1] is None:
            _held[-1] = Stopped(SIGNALS[number])
            signal.signal(signal.SIGALRM, lambda *_: _raise_held())
            signal.setitimer(signal.ITIMER_REAL, _LONGEST_HELD)
        else:
            raise Stopped(SIGNALS[number])

    def ignore() -> None:
        for number in before:
            signal.signal(number, signal.SIG_IGN)

    if threading.current_thread() is threading.main_thread():
        before = {number: known for number in SIGNALS if (known := signal.getsignal(number)) not in (signal.SIG_IGN, None)}
    try:
        for number in before:
            signal.signal(number, interrupt)
        yield ignore
    finally:
        for number, handler in before.items():
            signal.signal(number, leave_silently if handler is leave else handler)


_held: list[Stopped | None] = []
"""The stop that waits, for each `stops_wait` that is entered."""
_LONGEST_HELD = 2.0


@contextmanager
def stops_wait() -> Iterator[None]:
    """Within it a stop from outside waits: it is raised at the end, or after two seconds, or if a
    second one comes.

    An exception that a signal raises in the midst of the bookkeeping of a library may come between
    a lock and the block that gives it back, for which the exit then waits for ever.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _held.append(None)
    try:
        yield
    finally:
        _raise_held()


def _raise_held() -> None:
    stop = _held.pop() if _held else None
    if stop is not None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise stop


@contextmanager
def standard_streams() -> Iterator[None]:
    """Makes stdout and stderr show all texts safely.

    Characters that a terminal would obey (control characters, marks that turn the direction), and
    those that its encoding lacks, are shown escaped. Each line is shown at once. What cannot be
    written to stderr is dropped, as log.txt of a run has it, too. Where stdout is closed, `Stopped`
    is raised, once; where it cannot be written for another reason, OSError. A program that ignores
    SIGHUP goes on without its terminal.
    """
    before = sys.stdout, sys.stderr
    with contextlib.ExitStack() as opened:
        # A stream that was closed when the process began is None.
        out, err = (stream or opened.enter_context(open(os.devnull, "w")) for stream in before)
        for stream in (out, err):
            # Another program may have left the terminal, or the pipe, in a state in which a write
            # that would have to wait is an error.
            with contextlib.suppress(OSError, ValueError):
                os.set_blocking(stream.fileno(), True)
        sys.stdout, sys.stderr = cast(TextIO, _Shown(out, "\n", needed=True)), cast(TextIO, _Shown(err, "\r\n", needed=False))
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before


class _Shown:
    """A text stream of which `standard_streams` says how it shows texts.

    The terminal obeys the `breaks` alone. A stream that is `needed` raises an error where it cannot
    be written.
    """

    def __init__(self, stream: TextIO, breaks: str, needed: bool) -> None:
        self._stream = stream
        self._breaks = breaks
        self._needed = needed
        self._is_lost = False

    def write(self, text: str) -> int:
        if not self._is_lost:
            try:
                self._stream.write(self._safe(text))
                if "\n" in text:
                    self._stream.flush()
            except (OSError, ValueError) as error:  # ValueError: closed by the program itself
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        if not self._is_lost:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._lose(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _safe(self, text: str) -> str:
        shown = "".join(part if part in self._breaks else escape(part) for part in _BREAKS.split(text) if part)
        encoding = self._stream.encoding or "utf-8"
        return shown.encode(encoding, "backslashreplace").decode(encoding)

    def _lose(self, error: OSError | ValueError) -> None:
        """Leads to nowhere from now on whatever is written here or by libraries, and what waits to
        be written, which Python would write at the exit."""
        self._is_lost = True
        with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self._stream.fileno())
        outlives_terminal = isinstance(error, OSError) and error.errno == errno.EIO and _hangup_is_ignored()
        if not self._needed or outlives_terminal:
            return
        if isinstance(error, ValueError) or error.errno in _GONE:
            raise Stopped("the end of its output, which nobody reads any more") from error
        raise OSError(error.errno, error.strerror, "standard output") from error


def _hangup_is_ignored() -> bool:
    return hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
