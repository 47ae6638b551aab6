"""Schedules over the epochs of a run, also of one that went on for longer than it was begun for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from base.checks import FieldError

Extension = Literal["constant", "restart", "tail"]
"""The way on after the epochs that were planned: constant, nothing changes with the epochs; restart,
every number that follows a schedule begins anew and has the further epochs for it; tail, every
number stays as it was in the last epoch."""


@dataclass(frozen=True)
class Phases:
    """The phases of a run of so many `epochs`, which `extended` divides.

    An entry of `extended` is the number of epochs that were planned before, and the way on.
    """

    epochs: int
    extended: Sequence[tuple[int, Extension]] = ()

    def place(self, epoch: int) -> tuple[int, int]:
        """Returns the place of `epoch` (from 0) in the schedule that it belongs to: the epochs of
        that schedule that are behind, and its length."""
        changes = [(begin, way) for begin, way in self.extended if way != "constant"]
        ends = [*(begin for begin, _ in changes), self.epochs]
        entered = [number for number, (begin, _) in enumerate(changes) if begin <= epoch]
        if not entered:
            return epoch, ends[0]
        begin, way = changes[entered[-1]]
        return (epoch - begin, ends[entered[-1] + 1] - begin) if way == "restart" else self.place(begin - 1)

    @property
    def first(self) -> int:
        """Returns the length of the first schedule, which what happens once belongs to."""
        return self.place(0)[1]

    @property
    def ends(self) -> frozenset[int]:
        """Returns the numbers of epochs, from 1, with which the run has ended or is to end."""
        return frozenset([self.epochs, *(begin for begin, _ in self.extended)])


def check_extended(epochs: int, extended: Sequence[tuple[int, Extension]]) -> None:
    """Raises FieldError unless the entries rise and lie below the number of epochs."""
    begins = [begin for begin, _ in extended]
    if begins and begins == sorted(set(begins)) and epochs <= begins[-1]:
        raise FieldError("epochs", f"the run went on for longer after {begins[-1]}, so there are more; not {epochs}")
    if begins != sorted(set(begins)) or any(not 1 <= begin < epochs for begin in begins):
        raise FieldError("extended", f"numbers of epochs rise, from 1 to below epochs = {epochs}, not {begins}")


def in_words(extended: Sequence[tuple[int, Extension]]) -> list[str]:
    """Returns a sentence for each extension."""
    ways = {
        "constant": "nothing of its schedule depends on that",
        "restart": "its schedules began anew",
        "tail": "its schedules stayed at their last values",
    }
    return [f"The run was begun for {begin} epochs and went on for longer; {ways[way]}." for begin, way in extended]
