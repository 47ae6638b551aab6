"""Methods of search: a name, a source, and parts as a configuration."""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from base.registry import Registry
from search.config import SupernetSearchConfig
from search.history import SearchEntry
from search.outcome import outcome
from supernet import Genotype
from training.run.command import command
from training.run.config import RunOptions, parse_command_line
from training.run.repeat import Spread, repeat

C = TypeVar("C", bound=SupernetSearchConfig)
Percent = tuple[float, float | None]
"""Mean and standard deviation over seeds, in percent; None where a single number was published."""


@dataclass(frozen=True)
class Published:
    """The results of a method in publications; each is None where there is none."""

    cifar10_error: Percent | None = None
    """Test error on CIFAR-10 of the retrained cell of the DARTS space."""
    nasbench201: Percent | None = None
    """CIFAR-10 test accuracy of the derived cell, looked up in the table of NAS-Bench-201."""
    nasbench201_validation: Percent | None = None
    """Validation accuracy from the same table."""
    nasbench201_source: str | None = None
    """Authors and year of the publication that has those two."""


@dataclass(frozen=True)
class Method(ABC, Generic[C]):
    """A published (or your own) composition of the parts that its configuration names.

    `defaults` makes the configuration that the method was published with; a config file and the
    command line change it. A `DifferentiableMethod` descends a gradient, a `SamplingMethod` samples
    whole architectures.
    """

    name: str
    paper: str
    """Authors and year."""
    summary: str
    """A description in one line."""
    defaults: Callable[[], C]
    published: Published = field(default=Published(), kw_only=True)

    @property
    def prog(self) -> str:
        """Returns the name of the program, for `python -m`."""
        return f"search.{self.name}"

    def parse(self, argv: Sequence[str] | None = None) -> tuple[C, RunOptions]:
        """Reads the command line `argv` (None: the process's own); see
        `training.run.config.parse_command_line`."""
        defaults = self.defaults()
        return parse_command_line(type(defaults), argv, self.prog, f"{self.paper}: {self.summary}", defaults=defaults)

    @abstractmethod
    def run(self, config: C, options: RunOptions) -> Genotype | None:
        """Searches into the directory of the run.

        Returns None if it was stopped with nothing found.
        """

    @abstractmethod
    def planned_epochs(self, config: C) -> int:
        """Returns the epochs of a search that nothing stops, with rounds of a selection or of
        evaluations."""

    def is_complete(self, config: C, history: Sequence[SearchEntry]) -> bool:
        """Returns whether a search with this history has come to its end, on which --resume would
        not go.

        A search that `stop` ended before is not complete.
        """
        return len(history) >= self.planned_epochs(config)

    @abstractmethod
    def reopen(self, path: Path) -> object:
        """Reads the run of this method in the directory `path` back: a `search.finished.SearchRun`,
        whose `open` calls it.

        Raises InputError for a run that is damaged, or not of this method.
        """

    def repeat(self, config: C, options: RunOptions) -> list[Spread]:
        """Searches once for each of `options.seeds`; see `training.run.repeat.repeat`."""

        def measure(one: C, theirs: RunOptions) -> dict[str, float]:
            self.run(one, theirs)
            return outcome(theirs.run)

        return repeat(measure, config, options)

    def main(self, argv: Sequence[str] | None = None, pictures: bool = True) -> int:
        """Runs the command line; returns the exit status. For `pictures` see `RunOptions`."""

        def run() -> None:
            config, options = self.parse(argv)
            options = replace(options, pictures=pictures)
            if options.seeds:
                self.repeat(config, options)
            else:
                self.run(config, options)

        return command(self.prog, run)


def _shipped() -> dict[str, str]:
    """Finds the modules of this folder that make a METHOD, {name: place}, without importing
    them."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    found = [file.stem for file in files if re.search(r"^METHOD = ", file.read_text(encoding="utf-8"), re.MULTILINE)]
    return {name: f"search.{name}:METHOD" for name in found}


METHODS: Registry[Method[Any]] = Registry("method", _shipped())


def register_method(method: Method[C]) -> Method[C]:
    """Makes `method` known by its name to `search.run` and `fusenas.fit`, and returns it.

    Raises InputError if another one has the name.
    """
    METHODS.add(method.name, method)
    return method


def get_method(name: str) -> Method[Any]:
    """Returns the method of that name. Raises InputError for an unknown one."""
    return METHODS[name]


def list_methods(family: type[Method[Any]] | None = None) -> list[str]:
    """Returns the names of all methods, or of those of a `family`: `DifferentiableMethod` or
    `SamplingMethod`."""
    return [name for name in METHODS if family is None or isinstance(METHODS[name], family)]
