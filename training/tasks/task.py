"""Tasks: the seam between all training here and the kind of data, loss and score.

A task has a training part, `Dataset`, from which searches and retrainings take their batches, a
loss that is descended, and meters and evaluations that put numbers to the result under the task's
own names. Trainers know no more of it than this file.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

import torch
from torch import Tensor

from base.checks import FieldError, InputError
from base.registry import Registry
from base.texts import did_you_mean, show
from training.format import AS_THEY_ARE, DATA_FILE, ImageFormat, Resizing
from training.hardware import Hardware
from training.images.data import DataConfig
from training.metrics import LOSS, Batch, Meter, Reading, Score
from training.run import profile
from training.run.config import RunOptions
from training.run.ownership.files import write_file

Rest = Literal["keep", "drop", "drop_single"]
"""The treatment of a last batch that is short: it is kept, left out, or left out if it is a single
example, which has no statistics for batch norm."""
Log = Callable[[str], None]
"""A function that takes a line for the user."""
Network = Callable[[Tensor], Tensor]
"""A network with all that is not of the data given already: inputs [B, ...] to outputs [B, ...]."""


class Batches(Protocol):
    """The batches of a dataset.

    What they hold depends on the seed of the run and the epoch alone.
    """

    def __len__(self) -> int:
        """Returns the number of batches an epoch."""

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yields the batches of epoch `number`, on the device."""

    def close(self) -> None:
        """Lets go of the data and of the processes that read them; there is no epoch after this."""


class Dataset(ABC):
    """Examples of one part of the data, from which batches are made on the device of the run."""

    @property
    @abstractmethod
    def format(self) -> ImageFormat:
        """The form of the inputs, and the names of the outputs."""

    @property
    def resizing(self) -> Resizing:
        """The way in which inputs of other sizes are brought to that form; where a dataset does not
        say, they are not."""
        return AS_THEY_ARE

    @abstractmethod
    def __len__(self) -> int:
        """Returns the number of examples."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A short text that differs where the examples, their answers or their order do."""

    def summary(self) -> list[str]:
        """Returns lines for the log: how many examples of which classes there are and, each in its
        own line, how they were read and what was left out."""
        return [f"{len(self):,} examples"]

    @abstractmethod
    def split(self, fraction: float, seed: int) -> tuple[Self, Self]:
        """Divides the examples by chance into the share `fraction` and the others.

        Raises InputError for an empty part.
        """

    @abstractmethod
    def take(self, count: int) -> Self:
        """Returns the first `count` examples, or all where there are fewer."""

    @abstractmethod
    def shuffled(self, batch_size: int, seed: int, stream: str, augment: bool = True, rest: Rest = "drop") -> Batches:
        """Returns batches to train on, in a random order that differs from epoch to epoch.

        `stream` names the random numbers: two streams of one seed differ. `augment` changes the
        examples at random as the settings of the data say. Raises InputError for more examples a
        batch than there are.
        """

    @abstractmethod
    def in_order(self, batch_size: int, rest: Rest = "keep", independent: bool = False) -> Batches:
        """Returns batches to measure on: the examples as they are, in their own order, at most all
        in one batch.

        With `independent` the result of an example depends on no other one, as it does through the
        statistics of its batch: then as many are taken together as fill the device, but at least
        `batch_size`.
        """


class Evaluation(Protocol):
    """The evaluation of a trained network on a whole dataset.

    A `Reading` is one, and a task may have a richer one.
    """

    @property
    def count(self) -> int:
        """Number of examples."""

    @property
    def loss(self) -> float:
        """Mean loss per example."""

    @property
    def values(self) -> Mapping[str, float]:
        """The numbers that matter most, by name."""

    def to_dict(self) -> dict[str, Any]:
        """Returns all of it as plain numbers and lists, ready for JSON."""


class Task(ABC):
    """Something that a network can be trained for, with its training part; register a class of your
    own with `register_task`.

    A network is given `Batch.inputs` and makes outputs [B, `outputs`], or whatever shape the loss
    is made for.
    """

    scores: ClassVar[tuple[Score, ...]] = (LOSS,)
    """The scores that networks can be compared by, the one that is taken unless another is wanted
    first. The loss is always one of them, and need not be named."""

    def __init__(self, data: DataConfig, train: Dataset) -> None:
        self.data = data
        self.train = train
        self.scored_by = self.scores[0]
        """The score that networks are compared by: what is searched for, selected by, stopped at and
        reported. `open_task` puts the one that was asked for."""

    @classmethod
    @abstractmethod
    def open(cls, data: DataConfig, hardware: Hardware, options: RunOptions | None = None, log: Log = print) -> Self:
        """Reads the training part for a run on `hardware`.

        A run that `options` resume finds the data as they were when it began. Raises InputError for
        data that cannot be used.
        """

    @abstractmethod
    def load_test(self, log: Log = print) -> Dataset:
        """Reads the test part, in the form of the training part.

        Raises InputError where it cannot be read or differs.
        """

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Returns what data.json in the directory of a run says of the training part, ready for
        JSON."""

    def save_description(self, run: Path, trains: bool = True) -> None:
        """Writes data.json in the directory of a run: what `describe` returns.

        A task that also keeps which examples a run has seen does so if it `trains` on them now, and
        not in a run that is at its end.
        """
        write_file(run, DATA_FILE, json.dumps(self.describe(), indent=2) + "\n")

    def summary(self, test: Dataset | None = None) -> list[str]:
        """Returns lines for the log on the training part or, without those that were said of it, on
        the `test` part."""
        first, *notes = self.train.summary()
        if test is None:
            return [f"training part: {first}", *notes]
        of_test, *others = test.summary()
        return [f"test part: {of_test}", *(note for note in others if note not in notes)]

    def check_unseen(self, run: Path, fraction: float, seed: int) -> str:
        """Compares the training part with that of the search in the directory `run`, which may be
        this one before it was stopped, and whose weights are to be judged further; both split it
        into the share `fraction` and the others with `seed`.

        Returns how the training part differs, in words with counts; empty where it does not, or
        nothing is known of it. Raises InputError, which names the first, where examples that
        weights are to be judged on were trained on.
        """
        return ""

    @property
    def outputs(self) -> int:
        """Number of outputs of the network."""
        return len(self.train.format.class_names)

    @classmethod
    def output_names(cls, form: ImageFormat) -> tuple[str, ...]:
        """Returns a name for each output of a network that is trained on inputs of that form: those
        of the classes."""
        return form.class_names

    def forward(self, network: Network, batch: Batch) -> Tensor:
        """Returns the outputs of `network` for a batch, in float32.

        A task that carries a state from batch to batch, as for text, hands it to the network here
        and takes it back.
        """
        return network(batch.inputs).float()

    @abstractmethod
    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Returns the mean loss of a batch, a scalar: what the training descends."""

    def evaluation_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Returns the mean loss of a batch, a scalar, as evaluations report it: without weights
        that help the training."""
        return self.loss(outputs, batch)

    @abstractmethod
    def new_meter(self, device: torch.device | str) -> Meter:
        """Returns a meter whose readings hold the value called `scored_by.name`, if that is not the
        loss."""

    def read(self, network: Network, batches: Iterable[Batch], device: torch.device | str) -> Reading:
        """Returns the mean loss and values of `network`, in whichever mode the caller put it, over
        `batches`."""
        meter = self.new_meter(device)
        for batch in profile.batches(batches, "evaluation"):
            outputs = self.forward(network, batch)
            meter.update(self.evaluation_loss(outputs, batch), outputs, batch)
        return meter.read()

    @torch.no_grad()
    def evaluate(self, network: Network, batches: Iterable[Batch], device: torch.device | str) -> Evaluation:
        """Returns all that is said of a trained network: for metrics.json, and for the report of
        its training."""
        return self.read(network, batches, device)

    @classmethod
    def score_named(cls, name: str | None) -> Score:
        """Returns the score of that name; the first for None.

        Raises FieldError if there is none.
        """
        if name is None:
            return cls.scores[0]
        known = cls._known_scores()
        if name not in known:
            near = did_you_mean(name, known) or ";"
            raise FieldError("score", f"unknown score {show(name)}{near} the task has {', '.join(known)}")
        return known[name]

    @classmethod
    def _known_scores(cls) -> dict[str, Score]:
        """Returns all scores by name; a task may describe its loss in a way of its own."""
        own = {score.name: score for score in cls.scores}
        return own if LOSS.name in own else own | {LOSS.name: LOSS}

    def value(self, found: Evaluation) -> float:
        """Returns the score in its own sign, as people read it."""
        return found.loss if self.scored_by.name == LOSS.name else found.values[self.scored_by.name]

    def score(self, found: Evaluation) -> float:
        """Returns what a search maximises; more is better: of an error the negative."""
        return self.scored_by.maximised(self.value(found))

    @classmethod
    def words(cls, name: str) -> str:
        """Returns the name of a value, such as a score, as logs and reports write it, or what they
        call "outputs"."""
        return cls._known_scores().get(name, Score(name)).words

    @classmethod
    def answer_columns(cls, form: ImageFormat) -> tuple[str, ...]:
        """Returns the names of the columns in which a table has the answers of a network for inputs
        of that form: those of the outputs."""
        return cls.output_names(form)

    @classmethod
    def answer_cells(cls, form: ImageFormat, outputs: Tensor) -> list[tuple[str | float, ...]]:
        """Returns the content of these columns for each of the outputs [B, ...]: the numbers, in the
        unit of the data.

        Raises InputError for outputs that are not one number for each column.
        """
        columns = len(cls.answer_columns(form))
        if outputs.shape[1:] != (columns,):
            raise InputError(f"outputs of shape {list(outputs.shape[1:])} are no row of {columns} numbers")
        return [tuple(row) for row in (outputs if form.values is None else form.values.restored(outputs)).tolist()]

    @classmethod
    def written(cls, name: str, value: float) -> str:
        """Returns the value of that name as reports write it."""
        return cls._known_scores().get(name, Score(name)).written(value)


class TaskConfig(Protocol):
    """The part of a configuration that says what is to be learnt from what data."""

    task: str
    score: str | None
    data: DataConfig


def asked_score(config: TaskConfig) -> Score:
    """Returns the score that `config` asks for of its task.

    Raises FieldError for a task or a score that is not known.
    """
    if config.task not in TASKS:
        raise FieldError("task", TASKS.unknown(config.task))
    return TASKS[config.task].score_named(config.score)


def open_task(config: TaskConfig, hardware: Hardware, options: RunOptions | None = None, log: Log = print) -> Task:
    """Reads the training part of the task that `config` names; see `Task.open`. Logs its summary.

    Raises InputError for a task or a score that is not known.
    """
    score = asked_score(config)
    task = TASKS[config.task].open(config.data, hardware, options, log)
    task.scored_by = score
    for line in task.summary():
        log(line)
    return task


def check_parts(task: Task, run: Path, fraction: float, seed: int) -> None:
    """Raises FieldError where a run that goes on in the directory `run`, which splits its examples
    with `fraction` and `seed`, would judge weights on examples that have trained them: any other
    number of examples is split otherwise."""
    try:
        task.check_unseen(run, fraction, seed)
    except InputError as error:
        raise FieldError("data.root", *error.parts) from error


TASKS: Registry[type[Task]] = Registry(
    "task",
    {
        "classification": "training.tasks.classification:Classification",
        "regression": "training.tasks.regression:Regression",
    },
)
register_task = TASKS.register
