"""A retraining that was run, read back from its directory: finished, or running still."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from base.checks import FieldError, InputError
from base.plain_json import read_json
from retrain.config import RetrainConfig
from retrain.history import RetrainEpoch
from retrain.weights import WEIGHTS_FILE, Trained
from supernet.discrete import DiscreteNetwork
from supernet.genotypes.genotype import GENOTYPE_FILE, Genotype
from training.run.config import CONFIG_FILE, config_from_file
from training.run.directory import RunDirectory, check_directory, kind_of_run
from training.run.history import read_history
from training.run.structure import Part, fields, history

KIND = "retrain"
METRICS_FILE = "metrics.json"


@dataclass(frozen=True)
class RetrainRun:
    """The run of a retraining; of a finished one weights.safetensors alone may be left.

    Everything is read when it is first asked for; an InputError then says, in one line, that a part
    is absent or damaged. A running one is read as it is then; open it again to see more of it.
    """

    path: Path
    """Directory of the run."""

    @classmethod
    def open(cls, path: Path | str) -> "RetrainRun":
        """Opens the retraining in the directory `path`.

        Raises InputError if there is no run, or one of another kind.
        """
        path = Path(path)
        check_directory(path)
        kind = kind_of_run(path)
        if kind == "fusenas":
            raise InputError(f"{path}: is a run of fusenas, whose retraining is in {path / 'retrain'}; open that")
        if kind not in (None, KIND):
            raise InputError(f"{path}: is a run of {kind} and no retraining; search.SearchRun opens one of a search")
        if kind is None and not (path / WEIGHTS_FILE).is_file():
            raise InputError(f"{path / WEIGHTS_FILE}: no such file; retrain a genotype into this directory first")
        return cls(path)

    @cached_property
    def config(self) -> RetrainConfig:
        """Returns the configuration that it was begun with."""
        return config_from_file(RetrainConfig, self.path / CONFIG_FILE)

    @cached_property
    def genotype(self) -> Genotype:
        """Returns the genotype that is trained."""
        path = self.path / GENOTYPE_FILE
        return Genotype.load(path) if path.exists() else self.network.genotype

    @cached_property
    def history(self) -> Sequence[RetrainEpoch]:
        """Returns an entry for each epoch that is done; none if neither a checkpoint nor
        history.jsonl is left."""
        if self._checkpoint is None:
            return read_history(self.path, RetrainEpoch.from_plain)
        return [RetrainEpoch.from_plain(entry) for entry in self._checkpoint["trainer"]["history"]]

    @property
    def epochs(self) -> int:
        """Returns the number of epochs that are done."""
        return len(self.history)

    @cached_property
    def metrics(self) -> Mapping[str, Any] | None:
        """Returns the measurements on the test part, as metrics.json has them; None before the
        end."""
        path = self.path / METRICS_FILE
        if not path.is_file():
            return None
        again = "--resume writes it again"
        try:
            content = read_json(path)
        except InputError as error:
            raise InputError(f"{error}; {again}") from error
        if not isinstance(content, dict):
            raise InputError(f"{path}: damaged (no mapping of names to values); {again}")
        return content

    @cached_property
    def trained(self) -> Trained:
        """Returns the trained network, on the CPU and in evaluation mode, with the format of its
        images."""
        return Trained.load(self.path)

    @property
    def network(self) -> DiscreteNetwork:
        """Returns the trained network, on the CPU and in evaluation mode.

        Raises InputError before the end.
        """
        return self.trained.network

    def settings(self, data: Mapping[str, Any] | None = None) -> RetrainConfig:
        """Returns the configuration with the images as they are, all of them and without random
        changes.

        `data` are fields of `DataConfig` that replace those of the configuration. With a name among
        them config.yaml may be absent: then images become as large as the network was trained on,
        unless there is a size, too.
        """
        changes = data or {}
        try:
            config = self.config
        except InputError as error:
            if "name" not in changes:
                raise InputError(f"{error}; to do without this file, name the data set with --data.name") from error
            config = RetrainConfig(task=self.trained.task)
            _, height, width = self.trained.format.shape
            if height == width:
                changes = {"size": height, **changes}
        try:
            return replace(config, data=replace(config.data.as_they_are(), **changes))
        except FieldError as error:
            raise error.within("data") from error

    @cached_property
    def _checkpoint(self) -> dict[str, Any] | None:
        if not (self.path / "checkpoints").is_dir():
            return None

        def structure(epochs: int) -> Part:
            read = fields({"history": history([RetrainEpoch] * epochs)}, may_have_more=True)
            return fields({"trainer": read}, may_have_more=True)

        found = RunDirectory(self.path, self.config).checkpoints(KIND).latest(structure)
        return None if found is None else found[1]
