"""Tests of training/schedule.py."""

import pytest

from base.checks import FieldError
from training.schedule import Phases, check_extended


def places(phases: Phases) -> list[tuple[int, int]]:
    return [phases.place(epoch) for epoch in range(phases.epochs)]


def test_a_run_that_was_not_extended_has_one_schedule() -> None:
    assert places(Phases(3)) == places(Phases(3, [(1, "constant")])) == [(0, 3), (1, 3), (2, 3)]
    assert Phases(3).place(5) == (5, 3), "epochs of a selection follow"
    assert Phases(3, [(1, "constant")]).ends == {1, 3}


def test_a_restart_has_the_further_epochs_and_a_tail_the_last_value() -> None:
    assert places(Phases(5, [(2, "restart")])) == [(0, 2), (1, 2), (0, 3), (1, 3), (2, 3)]
    assert places(Phases(4, [(2, "tail")])) == [(0, 2), (1, 2), (1, 2), (1, 2)]
    assert places(Phases(6, [(2, "restart"), (4, "tail")]))[2:] == [(0, 2), (1, 2), (1, 2), (1, 2)]
    assert places(Phases(6, [(2, "tail"), (4, "restart")]))[2:] == [(1, 2), (1, 2), (0, 2), (1, 2)]
    assert Phases(6, [(2, "tail"), (4, "restart")]).first == 2


@pytest.mark.parametrize("begins", [[0], [2, 1], [1, 1]])
def test_entries_rise_below_the_epochs(begins: list[int]) -> None:
    with pytest.raises(FieldError, match="extended: numbers of epochs rise"):
        check_extended(3, [(begin, "tail") for begin in begins])


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_run_does_not_become_shorter(epochs: int) -> None:
    with pytest.raises(FieldError, match=f"^epochs: the run went on for longer after 3, so there are more; not {epochs}$"):
        check_extended(epochs, [(2, "tail"), (3, "restart")])
