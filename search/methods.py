"""What a method of search is: a name, where it is from, and its parts as a configuration."""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from base.checks import InputError
from search.outcome import outcome
from supernet import Genotype
from training.run.checkpoint import MAY_CHANGE
from training.run.command import command
from training.run.config import RunOptions, parse_command_line
from training.run.repeat import Spread, repeat

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

C = TypeVar("C", bound="DataclassInstance")


@dataclass(frozen=True)
class Method(ABC, Generic[C]):
    """A published (or your own) composition of the parts that its configuration names.

    `defaults` makes the configuration that the method was published with; a config file and the command line change it.
    A `DifferentiableMethod` descends a gradient, a `SamplingMethod` samples whole architectures.
    """

    name: str
    paper: str
    """Authors and year."""
    summary: str
    """What it does, in one line."""
    defaults: Callable[[], C]

    @property
    def prog(self) -> str:
        """How it is called: `python -m` this."""
        return f"search.{self.name}"

    def parse(self, argv: Sequence[str] | None = None) -> tuple[C, RunOptions]:
        """What the command line `argv` (None: the process's own) asks for; see `training.run.config.parse_command_line`."""
        defaults = self.defaults()
        return parse_command_line(type(defaults), argv, self.prog, f"{self.paper}: {self.summary}", defaults=defaults)

    @abstractmethod
    def run(self, config: C, options: RunOptions) -> Genotype | None:
        """Searches into the directory of the run. Returns None where it was stopped with nothing found."""

    def may_change(self, config: C) -> Collection[str]:
        """Fields of the configuration that a resumed run may change."""
        return MAY_CHANGE

    def repeat(self, config: C, options: RunOptions) -> list[Spread]:
        """Searches once for each of `options.seeds`; see `training.run.repeat.repeat`."""

        def measure(one: C, theirs: RunOptions) -> dict[str, float]:
            self.run(one, theirs)
            return outcome(theirs.run)

        return repeat(measure, config, options, self.may_change(config))

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Runs the command line; returns the exit status."""

        def run() -> None:
            config, options = self.parse(argv)
            if options.seeds:
                self.repeat(config, options)
            else:
                self.run(config, options)

        return command(self.prog, run)


METHODS = ("darts", "gdas", "snas", "drnas", "pcdarts", "darts_minus", "beta_darts", "darts_pt")
"""Names of the published methods that descend a gradient; each is a module of `search` with a METHOD."""
SAMPLING_METHODS = ("random", "local", "evolution", "bayes", "enas", "hybrid", "nao")
"""Names of those that sample whole architectures."""


def get_method(name: str) -> Method[Any]:
    """The method of that name. Raises ValueError for an unknown one."""
    if name not in (known := (*METHODS, *SAMPLING_METHODS)):
        raise InputError(f"unknown method {name!r}; known: {', '.join(known)}")
    method: Method[Any] = importlib.import_module(f"search.{name}").METHOD
    return method
