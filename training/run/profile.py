"""A trace of some steps by torch's profiler, and the named ranges that it shows.

Ranges cost nothing to speak of while no trace is recorded. A CUDA graph that is replayed runs no
Python: of its steps a trace has the kernels, and ranges around the step as a whole.
"""

import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

from base.checks import InputError
from base.files import naming_errors, write_atomically

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
Span = Literal[
    "step",
    "loading",
    "forward",
    "backward",
    "architecture step",
    "optimiser of weights",
    "optimiser of alphas",
    "evaluation",
]
"""Ranges: a step is a batch of training with all that is done for it, an evaluation a batch of one;
loading is the wait for either. The others are within them, those of an architecture step twice."""

WARM_UP = 5
"""Steps before the first one that is recorded, or half of the steps that are left if these are
fewer: kernels load, memory is found and a CUDA graph is captured meanwhile."""
RECORDED = 10
"""Batches that are recorded, of training or of evaluations between epochs."""
TRACE_FILE = "trace.json"

_NOTHING: AbstractContextManager[object] = nullcontext()
_profile: "Profile | None" = None


def span(name: Span) -> AbstractContextManager[object]:
    """Returns a context that is the range `name` in a trace that is being recorded, and nothing
    without one."""
    if _profile is None or not _profile.records:
        return _NOTHING
    from torch.profiler import record_function

    return record_function(name)


def batches(loader: Iterable[T], name: Literal["step", "evaluation"]) -> Iterator[T]:
    """Yields the batches of `loader`: waiting for one is the range "loading", and all that is done
    with it until the next one is asked for the range `name`."""
    iterator, end, is_first = iter(loader), object(), True
    while True:
        if _profile is not None:
            _profile.ask(name, is_first)
        is_first = False
        with span("loading"):
            batch: Any = next(iterator, end)
        if batch is end:
            return
        with span(name):
            yield batch
        if _profile is not None:
            _profile.count(name)


def check(directory: Path, run: Path) -> None:
    """Raises InputError if the trace of `run` cannot be written into `directory`; writes
    nothing."""
    if directory.exists() and not directory.is_dir():
        raise InputError(f"--profile {directory}: is a file; name a directory")
    if directory.resolve().is_relative_to(run.resolve()):
        raise InputError(f"--profile {directory}: is in the directory of the run, {run}; name one outside")
    if os.path.lexists(directory / TRACE_FILE):
        raise InputError(f"--profile {directory}: holds a {TRACE_FILE}, which stays as it is; name another directory")


def prepare(directory: Path, run: Path) -> None:
    """Makes `directory` for the trace of `run`.

    Raises InputError as `check` does, and OSError if no file can be written there.
    """
    check(directory, run)
    with naming_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass


@contextmanager
def profiled(
    directory: Path | None, epochs: int, steps: int, device: "torch.device", log: Callable[[str], None]
) -> Iterator[None]:
    """Records some steps of the `epochs` of `steps` each that run within it into `directory`; None
    records nothing.

    The trace is written as soon as enough batches have been recorded, or else at the end. `log`
    gets a line on what was recorded and a table of the ranges. A process that is stopped before
    leaves no trace.
    """
    global _profile
    if directory is None:
        yield
        return
    _profile = Profile(directory, epochs, steps, device, log)
    try:
        yield
        _profile.finish()
    finally:
        _profile.stop()
        _profile = None


def first_recorded(epochs: int, steps: int) -> int:
    """Returns the number of the step, from 0, with which the recording of a run of `epochs` of
    `steps` each begins.

    Where an evaluation would come before the last step that is to be recorded, it is the first one
    of the next epoch, if there is one.
    """
    first = min(WARM_UP, epochs * steps // 2)
    behind = first % steps
    following = first + steps - behind
    return following if behind and steps - behind < RECORDED and following < epochs * steps else first


class Profile:
    """The profiler of one run: begins to record after the warm-up and ends after enough batches."""

    def __init__(self, directory: Path, epochs: int, steps: int, device: "torch.device", log: Callable[[str], None]) -> None:
        self.records = False
        """Whether a trace is being recorded."""
        self._path = directory / TRACE_FILE
        self._device = device
        self._log = log
        self._steps = steps
        self._first = first_recorded(epochs, steps)
        self._counts = {"step": 0, "evaluation": 0}
        self._is_done = False

    def ask(self, name: Literal["step", "evaluation"], is_first: bool) -> None:
        """Begins to record if the batch that is asked for, the first one of an epoch or a later one,
        is the first one to be recorded."""
        if self._is_done or self.records or name != "step" or self._counts["step"] != self._first:
            return
        # Behind the last batch of an epoch there is none, though it is asked for.
        if is_first or self._first % self._steps:
            self._begin()

    def count(self, name: Literal["step", "evaluation"]) -> None:
        """Counts a batch that is done."""
        self._counts[name] += 1
        if self.records and sum(self._counts.values()) >= RECORDED:
            self.finish()

    def _begin(self) -> None:
        # Else the profiler tells its developers on stderr that it starts and stops.
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU]
        if self._device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._counts = dict.fromkeys(self._counts, 0)
        self._profiler = profile(activities=activities)
        self._profiler.start()
        self._began = time.perf_counter()
        self.records = True

    def stop(self) -> None:
        """Ends the recording, if it goes on, and drops it."""
        self._is_done = True
        if self.records:
            self.records = False
            self._profiler.stop()

    def finish(self) -> None:
        """Ends the recording, if it goes on, and writes it."""
        if self._is_done:
            return
        if not self.records:
            self._log("profile: nothing is recorded, as the run ended before that")
            return
        if self._device.type == "cuda":
            import torch

            torch.cuda.synchronize(self._device)
        seconds = time.perf_counter() - self._began
        self.stop()
        with tempfile.TemporaryDirectory() as folder:
            exported = Path(folder, TRACE_FILE)
            self._profiler.export_chrome_trace(str(exported))
            write_atomically(self._path, exported.read_bytes())
        steps, evaluated = self._counts["step"], self._counts["evaluation"]
        found = f"{steps} steps" + (f" and {evaluated} batches of evaluations" if evaluated else "")
        self._log(f"profile: {found} after {self._first} others, {seconds:.3f} s, in {self._path}")
        for line in _table(self._profiler.key_averages(), seconds, self._device.type == "cuda"):
            self._log(f"profile: {line}")


def _table(events: Collection[Any], seconds: float, with_kernels: bool) -> list[str]:
    """Returns the lines of a table of the ranges, in their order: calls, time on the host and its
    share of the recording and, on a GPU, the time of the kernels that were started within."""
    found = {event.key: event for event in events if event.key in get_args(Span) and event.cpu_time_total}
    lines = [
        f"{'range':<20} {'calls':>6} {'ms':>10} {'ms a call':>10} {'share':>6}" + ("  ms of kernels" if with_kernels else "")
    ]
    for name in get_args(Span):
        if (event := found.get(name)) is not None:
            ms = event.cpu_time_total / 1000
            kernels = f" {event.device_time_total / 1000:>14.1f}" if with_kernels else ""
            share = ms / 1000 / seconds
            lines.append(f"{name:<20} {event.count:>6} {ms:>10.1f} {ms / event.count:>10.2f} {share:>6.1%}{kernels}")
    return lines
