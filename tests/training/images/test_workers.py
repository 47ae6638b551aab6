"""Processes that read images, and how their death is told."""

import gc
import multiprocessing
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch.utils.data import Dataset

from base.checks import InputError
from training.images import workers
from training.images.workers import new_loader, results


class Ones(Dataset[torch.Tensor | InputError]):
    """Tensors of as many ones as asked for; none is wrong."""

    def __getitem__(self, count: int) -> torch.Tensor | InputError:
        return torch.ones(count) if count else InputError("none")


@contextmanager
def death_is_not_told() -> Iterator[None]:
    """Holds back the signal that says that a process has died."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def kill_all_workers() -> None:
    for child in multiprocessing.active_children():
        assert child.pid is not None
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)


def test_results_come_in_the_order_of_the_requests() -> None:
    sizes = [3, 1, 2]
    for count in (0, 2):
        assert [len(ones) for ones in results(new_loader(Ones(), sizes, count))] == sizes
        with pytest.raises(InputError, match=r"^none$"):
            list(results(new_loader(Ones(), [3, 0], count)))


def test_an_error_ends_the_processes_without_the_garbage_collector() -> None:
    """Collected, a loader waits in vain for each of its processes."""
    before = multiprocessing.active_children()
    gc.disable()
    try:
        with pytest.raises(InputError, match=r"^none$"):
            list(results(new_loader(Ones(), [3, 0, *[3] * 8], 2)))
        assert multiprocessing.active_children() == before
    finally:
        gc.enable()


def test_a_process_that_dies_while_it_hands_over_a_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection is broken before the system says that it has died."""
    monkeypatch.setattr(workers, "_UNTIL_ITS_DEATH_IS_KNOWN", 0.0)
    made = results(new_loader(Ones(), [2] * 8, 2))
    next(made)
    with death_is_not_told(), pytest.raises(RuntimeError, match=r"^DataLoader worker \(pid"):
        kill_all_workers()
        list(made)
