"""The settings of a part, and its records."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import torch

from base.files import write_atomically
from benchmarks.options import Rates
from benchmarks.search_step import Settings
from benchmarks.timing import Measured, header
from training.hardware import choose_device

SHORT = 120.0
"""A share of fewer seconds leaves time for five runs of a measurement, not for twenty."""


@dataclass(frozen=True)
class Verdict:
    """The verdict on a part, in one line."""

    passed: bool
    words: str


@dataclass(frozen=True)
class Job:
    """The settings that every part gets."""

    device: str
    directory: str
    """Where the records go."""
    outcome: str
    """File that says what has been found so far, and at the end the verdict."""
    data: str | None
    """Folder that holds CIFAR-10."""
    epochs: int
    """Epochs of the whole search."""
    compile_limit: float | None
    """Most seconds for torch.compile, which is left out without them."""
    rates: dict[str, float]
    command: str
    seconds: float | None
    """The share of the budget; the part is killed after it."""
    begun: float
    """The time at which the part began, by `time.time`."""

    @cached_property
    def place(self) -> torch.device:
        """Returns the device. Raises FieldError if it is not there."""
        return choose_device(self.device)

    @property
    def small(self) -> bool:
        """Says whether the device is only there to try the command."""
        return self.place.type == "cpu"

    @property
    def runs(self) -> int:
        """Returns the number of runs of a measurement."""
        return 1 if self.small else 20 if self.seconds is None or self.seconds >= SHORT else 5

    def left(self) -> float | None:
        """Returns the seconds that are left of the share."""
        return None if self.seconds is None else self.seconds - (time.time() - self.begun)

    def settings(self) -> Settings:
        """Returns the settings of the timed steps."""
        rates = Rates(**self.rates)
        if self.small:
            return Settings(self.place, channels=2, cells=3, size=8, runs=self.runs, rates=rates)
        limit = self.compile_limit or 0.0
        if self.seconds is not None:
            limit = min(limit, self.seconds / 3)  # what has been compiled is to be timed, too
        return Settings(self.place, runs=self.runs, compile_limit=limit, rates=rates)

    def write(self, name: str, text: str, values: object = None) -> None:
        """Writes a record: Markdown under a header, and JSON if there are values."""
        facts, path = header(self.place), Path(self.directory) / name
        write_atomically(path.with_suffix(".md"), f"# {name}\n\n{facts}\n\n{self.command}\n\n{text}")
        if values is not None:
            write_atomically(path.with_suffix(".json"), json.dumps({"header": facts, "values": values}, indent=1))

    def tell(self, words: str) -> None:
        """Prints what has been found so far, which is what remains of the part if it is killed."""
        print(words, flush=True)
        write_atomically(Path(self.outcome), json.dumps({"words": words}))


def plain(found: Mapping[str, Measured]) -> list[dict[str, object]]:
    """Returns measurements as values of JSON."""
    return [asdict(measured) for measured in found.values()]


def goals(text: str) -> str:
    """Returns the number of goals met, in the text of a benchmark."""
    lines = [line for line in text.splitlines() if line.startswith("- goal: ")]
    return f"{sum(line.endswith(', met') for line in lines)} of {len(lines)} goals met"
