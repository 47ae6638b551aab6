"""Processes that read images, and how their death is told."""

import errno
import gc
import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Callable

import pytest
import torch
from torch.utils.data import Dataset

from base.checks import InputError
from training.images.workers import new_loader, results
from training.run.command import command


class Ones(Dataset[torch.Tensor | InputError]):
    """Tensors of as many ones as asked for; none is wrong."""

    def __getitem__(self, count: int) -> torch.Tensor | InputError:
        return torch.ones(count) if count else InputError("none")


class Broken:
    """A result whose process has broken the connection when the parent asks it for the rest."""

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return break_off, ()


def break_off() -> None:
    raise EOFError


class Dying(Dataset[Broken | InputError]):
    """Broken results of a process whose death is told some time later, or not at all."""

    def __getitem__(self, is_told: bool) -> Broken:
        if is_told:
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGKILL)).start()
        return Broken()


def test_results_come_in_the_order_of_the_requests() -> None:
    sizes = [3, 1, 2]
    for count in (0, 2):
        assert [len(ones) for ones in results(new_loader(Ones(), sizes, count))] == sizes
        with pytest.raises(InputError, match=r"^none$"):
            list(results(new_loader(Ones(), [3, 0], count)))


def test_an_error_ends_the_processes_without_the_garbage_collector() -> None:
    """Collected, a loader waits in vain for each of its processes."""
    before = set(multiprocessing.active_children())
    gc.disable()
    try:
        with pytest.raises(InputError, match=r"^none$"):
            list(results(new_loader(Ones(), [3, 0, *[3] * 8], 2)))
        assert set(multiprocessing.active_children()) <= before
    finally:
        gc.enable()


@pytest.mark.parametrize("is_told", [True, False])
def test_a_process_that_dies_while_it_hands_over_a_result(is_told: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Its connection is broken before the system says that it has died."""
    assert command("prog", lambda: list(results(new_loader(Dying(), [is_told], 1))) and None) == 2
    assert capsys.readouterr().err == f"prog: error: {DEATH}\n"


@pytest.mark.parametrize("stay", [False, True])
def test_a_result_that_shared_memory_has_no_room_for(stay: bool, capfd: pytest.CaptureFixture[str]) -> None:
    """Python drops it, and the parent would wait for it for ever."""

    def main() -> None:
        for ones in results(new_loader(Ones(), [8, 100_000, 8], 1, persistent_workers=stay)):
            lengths.append(len(ones))

    lengths: list[int] = []
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        assert command("prog", main) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert lengths == [8]
    said = capfd.readouterr().err
    assert said.startswith("prog: error: a process that reads images could not put a batch into shared memory: unable to ")
    assert said.endswith(f"; {ROOM}\n")
    assert said.count("\n") == 1


def test_processes_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def start(process: multiprocessing.process.BaseProcess) -> None:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", start)
    monkeypatch.setattr("sys.unraisablehook", lambda _: None)  # torch's own, of the loader that has not begun
    assert command("prog", lambda: len(list(results(new_loader(Ones(), [1], 1))))) == 2
    cause = "processes that read images could not be started: Resource temporarily unavailable"
    assert capsys.readouterr().err == f"prog: error: {cause}; {ROOM}\n"


ROOM = "make room (df -h /dev/shm, ulimit -a), or take a smaller batch_size or fewer data.workers"


DEATH = "a process that reads images has died, perhaps for lack of memory; try fewer, with data.workers"


@pytest.mark.parametrize(("said", "status"), [("Pin memory thread exited unexpectedly", 2), ("shapes differ", 1)])
def test_a_process_that_dies_on_the_way_to_a_gpu(said: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    """As torch words it."""

    class Unpinned(Dataset[int | InputError]):
        def __getitem__(self, place: int) -> int:
            raise RuntimeError(said)

    assert command("prog", lambda: list(results(new_loader(Unpinned(), [0], 0))) and None) == status
    assert (capsys.readouterr().err == f"prog: error: {DEATH}\n") == (status == 2)


@pytest.mark.slow
@pytest.mark.parametrize("stay", [False, True])
@pytest.mark.parametrize("when", ["at once", "while it reads", "later"])
def test_a_process_that_is_killed(
    when: str, stay: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its death is found within seconds, and raised where the result is waited for."""
    before = set(multiprocessing.active_children())

    def kill_one() -> None:
        max(set(multiprocessing.active_children()) - before, key=lambda process: process.pid or 0).kill()

    if when == "at once":
        start = multiprocessing.process.BaseProcess.start

        def start_dying(process: multiprocessing.process.BaseProcess) -> None:
            start(process)
            process.kill()

        monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", start_dying)
    if when == "while it reads":
        threading.Timer(0.5, kill_one).start()

    def main() -> None:
        for number, _ in enumerate(results(new_loader(Slow(), [1] * 100, 2, persistent_workers=stay))):
            if when == "later" and number == 3:
                kill_one()
                time.sleep(0.5)
                undisturbed.append(number)

    undisturbed: list[int] = []
    began = time.monotonic()
    assert command("prog", main) == 2
    assert time.monotonic() - began < 9
    assert undisturbed == ([3] if when == "later" else [])
    assert capsys.readouterr().err == f"prog: error: {DEATH}\n"
    monkeypatch.undo()
    assert set(multiprocessing.active_children()) <= before


class Slow(Dataset[int | InputError]):
    """Results that take their time."""

    def __getitem__(self, number: int) -> int:
        time.sleep(0.02)
        return number


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_comes_between_two_results(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    """Anywhere else it may leave a lock behind, for which the exit then waits."""
    made = []

    class Interrupting(Dataset[int | InputError]):
        def __getitem__(self, place: int) -> int:
            os.kill(os.getpid(), number)
            made.append(place)
            return place

    def main() -> None:
        for _ in results(new_loader(Interrupting(), range(3), 0)):
            pytest.fail("the stop has come too late")

    assert command("prog", main) == 130
    assert made == [0]
    assert capsys.readouterr().err == f"prog: stopped by {'Ctrl-C' if number == signal.SIGINT else number.name}\n"
