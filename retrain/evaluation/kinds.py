"""The tasks that the commands for finished retrainings know: what outputs of a network mean, and
how they are judged, combined, told and drawn."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import torch.nn.functional as F
from torch import Tensor

from base.texts import decimals, label, table
from retrain.evaluation.confusion import draw_confusion
from retrain.evaluation.ensemble import average_log_probabilities, fitted_weights, greedy_weights, majority_vote
from retrain.evaluation.ensemble_of_numbers import average_numbers, fitted_to_numbers, greedy_for_numbers
from retrain.evaluation.scatter import draw_predictions
from training.format import ImageFormat
from training.metrics import Batch
from training.tasks import classification, regression
from training.tasks.classification import AccuracyMeter, ClassificationEvaluation
from training.tasks.regression import MAE, MSE, R2, RegressionEvaluation
from training.tasks.task import Evaluation, Network

if TYPE_CHECKING:
    from matplotlib.figure import Figure

E = TypeVar("E", bound=Evaluation)
Batches = Iterable[Batch]
"""Batches whose targets are as a network is trained for them."""
AVERAGE, VOTE = "average of probabilities", "majority vote"
FITTED, GREEDY = "fitted weights", "greedy selection"
MOST_CLASSES, WORST_CLASSES = 20, 10  # a longer table is cut to the worst
_MOST_CONFUSIONS = 5


class Kind(ABC, Generic[E]):
    """What is done with the networks of one task."""

    columns: ClassVar[Mapping[str, str]]
    """Heading of each column of a table of networks, by the name that the number has in
    `Evaluation.to_dict`."""
    compared: ClassVar[Sequence[str]]
    """Those of the columns that an exported file is compared by."""
    ensembles: ClassVar[Mapping[str, Callable[[Tensor], Tensor]]]
    """Ways in which networks decide together: from their outputs [K, B, ...] to those of all, [B,
    ...], by name."""
    choices: ClassVar[Mapping[str, Callable[[Tensor, Tensor], Tensor]]]
    """Ways to choose the weights of networks, [K], from their outputs [K, N, ...] and the targets
    [N, ...], by name."""
    without: ClassVar[Mapping[str, Sequence[str]]] = {}
    """Numbers that an ensemble does not have, by its name."""
    picture: ClassVar[str]
    """Name of the file with the picture of an evaluation."""

    @abstractmethod
    def average(self, outputs: Tensor, weights: Tensor) -> Tensor:
        """Returns the average of outputs [K, B, ...] of networks with `weights` [K], which are not
        negative and add up to 1."""

    @abstractmethod
    def evaluate(self, outputs_of: Network, batches: Batches, form: ImageFormat) -> E:
        """Evaluates outputs on the CPU. Raises InputError where there is no image."""

    @abstractmethod
    def scores(self, outputs_of: Network, batches: Batches, form: ImageFormat) -> dict[str, float | None]:
        """Returns each of `compared` by name; one that the images do not have is None."""

    @abstractmethod
    def said(self, form: ImageFormat) -> str:
        """Returns what belongs to each image, in words for the head of a report."""

    @abstractmethod
    def details(self, found: E, form: ImageFormat, file: str) -> Iterator[str]:
        """Yields lines on one network; `file` is where all of its numbers are written."""

    @abstractmethod
    def draw(self, found: E, form: ImageFormat) -> "Figure":
        """Draws the evaluation."""


class OfClasses(Kind[ClassificationEvaluation]):
    """Networks that classify."""

    columns: ClassVar[Mapping[str, str]] = {"accuracy": "accuracy", "loss": "loss", "calibration_error": "calibration error"}
    compared = ("accuracy",)
    ensembles: ClassVar[Mapping[str, Callable[[Tensor], Tensor]]] = {
        AVERAGE: average_log_probabilities,
        VOTE: lambda logits: F.one_hot(majority_vote(logits), logits.shape[2]),
    }
    choices: ClassVar[Mapping[str, Callable[[Tensor, Tensor], Tensor]]] = {FITTED: fitted_weights, GREEDY: greedy_weights}
    # A vote gives one class an image, with no probability and no second place.
    without: ClassVar[Mapping[str, Sequence[str]]] = {VOTE: ("loss", "top5", "calibration_error")}
    picture = "confusion.png"

    def average(self, outputs: Tensor, weights: Tensor) -> Tensor:
        return average_log_probabilities(outputs, weights)

    def evaluate(self, outputs_of: Network, batches: Batches, form: ImageFormat) -> ClassificationEvaluation:
        return classification.evaluate(outputs_of, batches, len(form.class_names), "cpu")

    def scores(self, outputs_of: Network, batches: Batches, form: ImageFormat) -> dict[str, float | None]:
        meter = AccuracyMeter("cpu")
        for batch in batches:
            meter.update(batch.inputs.new_zeros(()), outputs_of(batch.inputs), batch)
        return dict(meter.read().values)

    def said(self, form: ImageFormat) -> str:
        return f"{len(form.class_names)} classes"

    def details(self, found: ClassificationEvaluation, form: ImageFormat, file: str) -> Iterator[str]:
        names = [label(name) for name in form.class_names]
        yield from _class_lines(names, found, file)
        yield ""
        yield _confusions(names, found.confusion)

    def draw(self, found: ClassificationEvaluation, form: ImageFormat) -> "Figure":
        return draw_confusion(found.confusion, form.class_names)


class OfNumbers(Kind[RegressionEvaluation]):
    """Networks that predict numbers."""

    columns: ClassVar[Mapping[str, str]] = {score.name: score.words for score in (R2, MSE, MAE)}
    compared = tuple(columns)
    ensembles: ClassVar[Mapping[str, Callable[[Tensor], Tensor]]] = {"average of predictions": average_numbers}
    choices: ClassVar[Mapping[str, Callable[[Tensor, Tensor], Tensor]]] = {
        FITTED: fitted_to_numbers,
        GREEDY: greedy_for_numbers,
    }
    picture = "predictions.png"

    def average(self, outputs: Tensor, weights: Tensor) -> Tensor:
        return average_numbers(outputs, weights)

    def evaluate(self, outputs_of: Network, batches: Batches, form: ImageFormat) -> RegressionEvaluation:
        assert form.values is not None
        return regression.evaluate(outputs_of, batches, form.values)

    def scores(self, outputs_of: Network, batches: Batches, form: ImageFormat) -> dict[str, float | None]:
        found = self.evaluate(outputs_of, batches, form)
        return {name: getattr(found, name) for name in self.columns}

    def said(self, form: ImageFormat) -> str:
        return form.class_names_in_short()

    def details(self, found: RegressionEvaluation, form: ImageFormat, file: str) -> Iterator[str]:
        names = [label(name) for name in form.class_names]
        shown = names[:MOST_CLASSES]
        if len(shown) < len(names):
            yield f"the first {len(shown)} numbers; {file} has all {len(names)}"
        rows = ((name, one.r2, one.mse, one.mae) for name, one in zip(shown, found.per_number, strict=False))
        yield from table(("number", *self.columns.values()), ((name, *map(decimals, numbers)) for name, *numbers in rows))

    def draw(self, found: RegressionEvaluation, form: ImageFormat) -> "Figure":
        return draw_predictions(found, form.class_names)


KINDS: Mapping[str, Kind[Any]] = {"classification": OfClasses(), "regression": OfNumbers()}
"""The kind of each task, by its name."""


def _class_lines(names: Sequence[str], found: ClassificationEvaluation, file: str) -> Iterator[str]:
    """Yields the table of all classes or, if there are many, of those of lowest recall, worst
    first."""
    scores, shown = found.per_class, list(range(len(names)))
    if len(names) > MOST_CLASSES:
        recalls = {number: one.recall for number, one in enumerate(scores) if one.recall is not None}
        shown = sorted(recalls, key=recalls.__getitem__)[:WORST_CLASSES]
        yield f"the {len(shown)} classes of lowest recall; {file} has all {len(names)}"
    chosen = ((names[n], scores[n]) for n in shown)
    rows = ([name, f"{one.images:,}", *map(decimals, (one.precision, one.recall, one.f1))] for name, one in chosen)
    yield from table(("class", "images", "precision", "recall", "F1"), rows)


def _confusions(names: Sequence[str], confusion: Sequence[Sequence[int]]) -> str:
    """Returns the classes that were most often taken for others."""
    wrong = [
        (-count, true, predicted)
        for true, line in enumerate(confusion)
        for predicted, count in enumerate(line)
        if count and true != predicted
    ]
    most = sorted(wrong)[:_MOST_CONFUSIONS]
    named = (f"{names[true]} as {names[predicted]} ({-count:,} of {sum(confusion[true]):,})" for count, true, predicted in most)
    return f"most often confused: {', '.join(named) or 'none'}"
