"""Signs that a search collapses, and the decision to end it for them.

A differentiable search that goes on for too long tends to cells of skip connections, and before it
does, the validation loss becomes sharp in the architecture parameters. Zela et al., "Understanding
and Robustifying Differentiable Architecture Search", ICLR 2020, section 4.3, stop when the dominant
eigenvalue of its Hessian, averaged over some epochs, has outgrown the one from some epochs earlier
(the ratio of the earlier to the later falls below 0.75), and take the genotype of that earlier
epoch.

All verdicts are functions of the history alone, so that a resumed run comes to the same ones.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, Protocol

from base.checks import at_least, between, choices, whole

When = Literal["never", "skips", "eigenvalue", "either"]


@dataclass(frozen=True)
class EarlyStopConfig:
    """The signs by which a search has collapsed, and those that end it."""

    when: When = "never"
    """The sign that ends the search: never, skips, eigenvalue or either; the log tells of both
    signs whatever it is."""
    skip_share: float = 0.5
    """A larger share of skip connections among the operations of one kind of cell is a collapse."""
    ratio: float = 1.3
    """Growth of the averaged eigenvalue, as a factor, above which it is a collapse."""
    window: int = 5
    """Readings of the eigenvalue that are averaged."""
    back: int = 4
    """Number of readings between the present average and the earlier one that it is compared
    with."""
    start: float = 0.2
    """Share of the epochs before which nothing is judged, nor any reading of the eigenvalue taken
    into account."""

    def __post_init__(self) -> None:
        choices(self)
        between(0, 1, self, "skip_share", said="a share from 0 to 1")
        at_least(1, self, "ratio", most=1e9)
        whole(self, "window", "back")
        between(0, 1, self, "start", said="a share from 0 to 1")


class Epoch(Protocol):
    """The part of a `search.history.SearchEpoch` that is judged."""

    @property
    def skip_share(self) -> Mapping[str, float]:
        """Returns the share of skip connections in each kind of cell (`measures.skip_share`)."""

    @property
    def eigenvalue(self) -> float | None:
        """Returns the dominant eigenvalue of the Hessian at its end; None if it was not
        measured."""


@dataclass(frozen=True)
class Collapse:
    """A sign of collapse."""

    reason: str
    """The reason in words, one line."""
    cause: Literal["skips", "eigenvalue"]
    epoch: int
    """The epoch, from 0, whose genotype is to be taken instead of the latest."""


def collapse(history: Sequence[Epoch], config: EarlyStopConfig, epochs: int) -> list[Collapse]:
    """Returns the signs of collapse after the last epoch of `history`, of `epochs` planned.

    There is at most one of each cause: skips, then the eigenvalue. There is none before the share
    `config.start` of the epochs is done.
    """
    if not history or len(history) / epochs < config.start:
        return []
    return [sign for sign in (_too_many_skips(history, config), _too_sharp(history, config, epochs)) if sign is not None]


def reason_to_stop(history: Sequence[Epoch], config: EarlyStopConfig, epochs: int) -> Collapse | None:
    """Returns the first sign of `collapse` that `config.when` asks to stop for; None to go on.

    Entries of `history` beyond the planned `epochs`, in which a selection goes on, are not judged.
    """
    signs = collapse(history[:epochs], config, epochs)
    return next((sign for sign in signs if config.when in ("either", sign.cause)), None)


def told(collapse: Collapse) -> str:
    """Returns why a search ends for `collapse`, and which genotype it ends with, in one line."""
    return f"{collapse.reason}; the genotype is that of epoch {collapse.epoch + 1}"


def new_signs(history: Sequence[Epoch], config: EarlyStopConfig, epochs: int) -> Iterator[tuple[int, Collapse]]:
    """Yields each new sign of collapse with the number, from 1, of the epoch that brought it.

    Entries of `history` beyond the planned `epochs` are not judged.
    """
    known: set[str] = set()
    for epoch in range(1, min(len(history), epochs) + 1):
        signs = collapse(history[:epoch], config, epochs)
        yield from ((epoch, sign) for sign in signs if sign.cause not in known)
        known = {sign.cause for sign in signs}


def _too_many_skips(history: Sequence[Epoch], config: EarlyStopConfig) -> Collapse | None:
    """Returns the collapse by skip connections, if there is one.

    The genotype to take is that of the last epoch without a collapse; without one, the latest.
    """
    shares = history[-1].skip_share
    kind = max(shares, key=lambda kind: shares[kind])
    if not shares[kind] > config.skip_share:
        return None
    latest = len(history) - 1
    sound = (index for index in range(latest, -1, -1) if max(history[index].skip_share.values()) <= config.skip_share)
    reason = f'skip connections are {100 * shares[kind]:.3g}% of the cell "{kind}", more than {100 * config.skip_share:.3g}%'
    return Collapse(reason, "skips", next(sound, latest))


def _too_sharp(history: Sequence[Epoch], config: EarlyStopConfig, epochs: int) -> Collapse | None:
    """Returns the collapse by the eigenvalue, if the latest epoch has one and it has outgrown.

    An eigenvalue that is not finite counts as not measured.

    In the first epochs of any search the curvature grows from nothing, so their readings are no
    measure of later ones.
    """
    readings = [
        (index, epoch.eigenvalue)
        for index, epoch in enumerate(history)
        if epoch.eigenvalue is not None and math.isfinite(epoch.eigenvalue) and index / epochs >= config.start
    ]
    if len(readings) < config.window + config.back or readings[-1][0] != len(history) - 1:
        return None
    eigenvalues = [eigenvalue for _, eigenvalue in readings]
    now = fmean(eigenvalues[-config.window :])
    before = fmean(eigenvalues[-config.window - config.back : -config.back])
    if not now > config.ratio * before > 0:
        return None
    reason = (
        f"the dominant eigenvalue of the Hessian grew from {before:.3g} to {now:.3g} (averages of {config.window} readings), "
        f"more than {config.ratio:g} times (Zela et al. 2020)"
    )
    return Collapse(reason, "eigenvalue", readings[-1 - config.back][0])
