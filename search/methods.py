"""What a method of search is: a name, where it is from, and its parts as a configuration."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from search.config import SearchConfig
from search.loop import search
from training.command import command
from training.config import RunOptions, parse_command_line


@dataclass(frozen=True)
class Method:
    """A published (or your own) composition of the parts that `SearchConfig` names.

    `defaults` makes the configuration that the method was published with; a config file and the command line change it.
    """

    name: str
    paper: str
    """Authors and year."""
    summary: str
    """What it does, in one line."""
    defaults: Callable[[], SearchConfig]

    @property
    def prog(self) -> str:
        """How it is called: `python -m` this."""
        return f"search.{self.name}"

    def parse(self, argv: Sequence[str] | None = None) -> tuple[SearchConfig, RunOptions]:
        """What the command line `argv` (None: the process's own) asks for; see `training.config.parse_command_line`."""
        return parse_command_line(SearchConfig, argv, self.prog, f"{self.paper}: {self.summary}", defaults=self.defaults())

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Runs the command line; returns the exit status."""

        def run() -> None:
            config, options = self.parse(argv)
            search(config, options, self.name)

        return command(self.prog, run)


METHODS = ("darts", "gdas", "snas", "drnas", "pcdarts", "darts_minus", "beta_darts", "darts_pt")
"""Names of the published methods; each is a module of `search` with a METHOD."""


def get_method(name: str) -> Method:
    """The method of that name. Raises ValueError for an unknown one."""
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}; known: {', '.join(METHODS)}")
    method: Method = importlib.import_module(f"search.{name}").METHOD
    return method
