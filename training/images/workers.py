"""Processes that read images: their start, and their results."""

import os
import signal
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.queues import Queue
from types import FrameType, TracebackType
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from base.checks import InputError
from base.program import SIGNALS
from training.run.command import stops_wait

Request = TypeVar("Request")
Made = TypeVar("Made")

_ENDS = tuple(SIGNALS)
_ROOM = "make room (df -h /dev/shm, ulimit -a), or take a smaller batch_size or fewer data.workers"

# Otherwise torch raises the death of a process in the midst of whatever the program is doing, where
# it may be lost, or come between a lock and the block that gives it back
# (findings/data_loader_death.sh). Without that a loader looks every 5 seconds whether its processes
# live, while it waits for a result.
signal_handling._SIGCHLD_handler_set = True


def available_cores() -> int:
    """Returns the number of cores that this process may use, if the system says which."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def new_loader(
    maker: "Dataset[Made | InputError]", requests: Iterable[Request], workers: int, **options: Any
) -> "DataLoader[Made | InputError]":
    """Returns a loader of the results of `maker` on each of the `requests`, in their order.

    `workers` processes make them; 0: this one.

    A maker returns an error where the input is at fault: raised, it would come back with the
    traceback of its process.
    """
    return DataLoader(
        maker,
        batch_size=None,
        sampler=requests,
        num_workers=workers,
        worker_init_fn=_leave_the_end_to_the_parent,
        # The loader draws a seed, which must not move the random state of the training.
        generator=torch.Generator(),
        **options,
    )


def results(loader: "DataLoader[Made | InputError]") -> Iterator[Made]:
    """Yields the results of the maker.

    Raises the InputError that it returned instead of one, OSError for processes that could not be
    started or a result that one could not hand over, and RuntimeError for a process that has died.
    """
    # A process that is told to end before it is ready for it would be an error at the exit of its
    # parent.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
    try:
        with stops_wait():
            started = iter(loader)
    except OSError as error:
        raise OSError(f"processes that read images could not be started: {error.strerror or error}; {_ROOM}") from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    while True:
        try:
            with stops_wait():
                made = next(started)
        except StopIteration:
            return
        except (EOFError, ConnectionError) as error:
            # A process that dies while it hands over a result breaks the connection before the
            # system says that it has died.
            raise RuntimeError("DataLoader worker (pid unknown) has died while it handed over a result") from error
        except RuntimeError as error:
            # On its way to a GPU a result is taken by a thread, which then ends in the same way.
            if str(error).startswith("Pin memory thread"):
                raise RuntimeError("DataLoader worker (pid unknown) has died before the thread that pins memory") from error
            raise
        if isinstance(made, _Undelivered):
            raise OSError(f"a process that reads images could not put a batch into shared memory: {made.reason}; {_ROOM}")
        if isinstance(made, InputError):
            try:
                raise made
            finally:
                # The error holds this frame by its traceback. If the frame held the error, too,
                # the garbage collector would end the loader, which takes 5 seconds for each
                # process (findings/data_loader_in_a_cycle.sh).
                del made
        yield made


def _leave_the_end_to_the_parent(worker: int) -> None:
    """Ignores the signals that stop a run: they reach all of its processes, and the parent ends its
    workers."""
    for number in _ENDS:
        # With SIGTERM the parent ends a worker, at times before it is ready: to ignore it for a moment
        # would discard one that waits, and the parent would wait for ever. A worker that died of a
        # signal would be a second error.
        signal.signal(number, _exit if number == signal.SIGTERM else signal.SIG_IGN)
    sys.excepthook = _say_nothing_of_connections
    Queue._on_queue_feeder_error = _tell_that_it_is_lost  # type: ignore[attr-defined]
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDS)


def _exit(number: int, frame: FrameType | None) -> None:
    os._exit(0)


@dataclass(frozen=True)
class _Undelivered:
    """The message in the place of a result that could not be handed over."""

    reason: str


def _tell_that_it_is_lost(queue: "Queue[Any]", error: Exception, lost: Any) -> None:
    """Puts a message in the place of a result that could not be put into shared memory.

    Python drops such a result, with a traceback, and the parent would wait for it for ever.
    """
    if not isinstance(lost, tuple):  # the connection itself has failed: the parent is gone
        os._exit(1)
    place, _ = lost
    queue.put((place, _Undelivered(str(error).partition("\n")[0])))


def _say_nothing_of_connections(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Silences the thread that hands over results: it would print a traceback if the parent leaves
    meanwhile."""
    if not isinstance(error, OSError | EOFError):
        sys.__excepthook__(kind, error, trace)
