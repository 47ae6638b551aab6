"""A search that was run, read back from its directory: finished, or running still."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any, Self

from base.checks import InputError
from search.history import SearchEntry, read_search_history
from search.methods import Method, get_method
from supernet import Genotype
from supernet.genotypes.genotype import GENOTYPE_FILE
from training.format import ImageFormat, read_format
from training.run.config import CONFIG_FILE, config_from_file
from training.run.directory import RunDirectory, read_kind
from training.run.structure import Part, anything, fields, numeric, optional, table, text

_KNOWN = "; one of your own is known once its file is imported"


def _structure(epochs: int) -> Part:
    """Returns the structure of a checkpoint, as far as it is the same for all searches."""
    return fields({"trainer": table(text, anything), "score": optional(numeric)})


@dataclass(frozen=True)
class SearchRun:
    """The run of a search. A running one is read as it is now; open it again to see more of it.

    Large parts, such as weights, are read when they are first asked for. An InputError then says,
    in one line, that one is absent or damaged.
    """

    path: FilePath
    """Directory of the run."""
    method: Method[Any]
    config: Any
    """The configuration that it was begun with, of the class that its method takes."""
    history: Sequence[SearchEntry]
    """An entry for each epoch that is done, and for each round of evaluations."""
    genotype: Genotype | None
    """The genotype that was found so far; None if there is none yet."""

    @classmethod
    def open(cls, path: FilePath | str) -> Self:
        """Opens the search in the directory `path`, as a `DifferentiableRun` or a `SamplingRun` by
        its method.

        Raises InputError for a directory without a run or with one of another kind, for an unknown
        method or space, and for a damaged file.
        """
        path = FilePath(path)
        kind = read_kind(path)
        if kind == "fusenas":
            raise InputError(f"{path}: is a run of fusenas, whose search is in {path / 'search'}; open that")
        if kind == "retrain":
            raise InputError(f"{path}: is a retraining and no search; retrain.RetrainRun opens it")
        try:
            method = get_method(kind)
        except InputError as error:
            raise InputError(f"{path}: {error}{_KNOWN} and registers it") from error
        run = method.reopen(path)
        if not isinstance(run, cls):
            raise InputError(f"{path}: is a run of {method.prog}, which is none for {cls.__name__}; SearchRun opens any")
        return run

    @classmethod
    def read(cls, path: FilePath, method: Method[Any]) -> Self:
        """Reads the run of `method` in the directory `path`. Raises InputError as `open` does."""
        try:
            config = config_from_file(type(method.defaults()), path / CONFIG_FILE)
        except InputError as error:
            raise InputError(f"{error}{_KNOWN if ': unknown ' in str(error) else ''}") from error
        genotype = path / GENOTYPE_FILE
        found = Genotype.load(genotype) if genotype.exists() else None
        return cls(path, method, config, read_search_history(path), found)

    @property
    def epochs(self) -> int:
        """Returns the epochs that are done, rounds of evaluations included, at the newest
        checkpoint."""
        return 0 if self._checkpoint is None else self._checkpoint[0]

    @property
    def is_complete(self) -> bool:
        """Whether it has come to its end, and neither runs still nor was stopped before."""
        return self.method.is_complete(self.config, self.history)

    @property
    def state(self) -> dict[str, Any]:
        """Returns the state of the search at the newest checkpoint, in plain values and tensors on
        the CPU.

        Raises InputError if there is none yet, or if it is damaged.
        """
        if self._checkpoint is None:
            raise InputError(f"{self.path}: has no checkpoint yet; the first epoch leaves one")
        state: dict[str, Any] = self._checkpoint[1]["trainer"]
        return state

    @cached_property
    def format(self) -> ImageFormat:
        """Returns the format of the images of the search.

        Raises InputError for a search without images, as in a table.
        """
        return read_format(self.path)

    @cached_property
    def _checkpoint(self) -> tuple[int, dict[str, Any]] | None:
        directory = RunDirectory(self.path, self.config)
        return directory.checkpoints(self.method.name).latest(_structure)

    @contextmanager
    def restoring(self) -> Iterator[None]:
        """Raises InputError, in one line, if the code inside finds a part of the run that does not
        fit."""
        try:
            yield
        except InputError as error:
            raise InputError(f"{self.path}: {error}{_KNOWN if str(error).startswith('unknown ') else ''}") from error
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{self.path}: the checkpoint of epoch {self.epochs} does not fit the network, whose code has changed since"
            ) from error

    def expect(self, **parts: Part) -> None:
        """Compares these parts of the state. Raises InputError, which names the one that is another
        than it must be."""
        try:
            fields(parts, may_have_more=True)("", self.state)
        except InputError as error:
            at = f"the checkpoint of epoch {self.epochs} does not fit, as the code or the file has changed since"
            raise InputError(f"{at}: {error}") from error
