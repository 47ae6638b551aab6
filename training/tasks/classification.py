"""Images that belong to classes: cross-entropy, accuracy, and what can be said of each class."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from base.checks import FieldError, InputError
from training.format import ImageFormat
from training.images.data import DataConfig, class_weights
from training.metrics import Batch, Meter, Score
from training.tasks.images import ImageData, ImageTask
from training.tasks.task import Network
from training.vision import import_torchvision

CALIBRATION_BINS = 15
"""Bins of equal width that the confidences are divided into."""
_TOP = 5
_ANSWERS = 3  # classes that a prediction names


ACCURACY = Score.share("accuracy")
"""Share of the images that is recognised."""
CROSS_ENTROPY = Score("loss", larger_is_better=False, lowest=0)
BALANCED_ACCURACY = Score.share("balanced_accuracy")
"""Mean recall of the classes that have images."""
MACRO_RECALL = Score.share("macro_recall")
"""Mean recall of the classes that occur among labels or predictions; that of one without images is
0."""
MACRO_F1 = Score.share("macro_f1", "macro F1")
"""Mean F1 of the classes that occur among labels or predictions."""


class AccuracyMeter(Meter):
    """Measures the accuracy: the share of the images, 0 to 1, whose largest logit is the
    label's."""

    names = ("accuracy",)

    def sums(self, outputs: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        return {"accuracy": (outputs.argmax(1) == batch.targets).sum()}


class ClassMeter(Meter):
    """Measures the accuracy and one score in which every class counts alike, from the numbers of
    images of each class over all batches."""

    def __init__(self, device: torch.device | str, classes: int, score: Score) -> None:
        super().__init__(device, dict.fromkeys(("hits", "images", "predictions"), (classes,)))
        self.names = ACCURACY.name, score.name
        self._score = score.name
        self._none = torch.zeros(classes, dtype=torch.float64, device=self.device)

    def sums(self, outputs: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        predicted, labels = outputs.argmax(1), batch.targets
        one = torch.ones_like(labels, dtype=torch.float64)
        # Sums of whole numbers, exact in any order. (bincount would wait for a GPU.)
        return {
            "hits": self._none.index_add(0, labels, (predicted == labels).double()),
            "images": self._none.index_add(0, labels, one),
            "predictions": self._none.index_add(0, predicted, one),
        }

    def values(self, sums: Mapping[str, Tensor], count: int) -> Mapping[str, float]:
        hits, images, predictions = (sums[name].tolist() for name in ("hits", "images", "predictions"))
        return {ACCURACY.name: math.fsum(hits) / count, self._score: over_classes(hits, images, predictions)[self._score]}


def over_classes(hits: Sequence[float], images: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
    """Returns the scores in which every class counts alike, by name, from the numbers of recognised
    images, images and predictions of each class, of which there is at least one image.

    They are those of scikit-learn: `balanced_accuracy_score`, and `recall_score` and `f1_score` with
    average="macro" over the classes that occur and zero_division=0.
    """
    classes = [(hit, total, taken) for hit, total, taken in zip(hits, images, predictions, strict=True) if total or taken]
    recalls = [hit / total for hit, total, _ in classes if total]
    f1 = [2 * hit / (total + taken) for hit, total, taken in classes]
    return {
        BALANCED_ACCURACY.name: math.fsum(recalls) / len(recalls),
        MACRO_RECALL.name: math.fsum(recalls) / len(classes),
        MACRO_F1.name: math.fsum(f1) / len(classes),
    }


@dataclass(frozen=True)
class ClassScores:
    """The scores of one class against all others; shares are between 0 and 1."""

    images: int
    """Number of images of the class (the support)."""
    precision: float | None
    """Share of images of the class among those that were taken for it; None if none was."""
    recall: float | None
    """Share of the images of the class that was taken for it; None if there are none."""
    f1: float | None
    """Harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN); None where the class occurs
    neither here nor there."""


@dataclass(frozen=True)
class ClassificationEvaluation:
    """The evaluation of a network on a data set; shares are between 0 and 1."""

    images: int
    accuracy: float
    top5: float | None
    """Share of the images whose label is among the five largest logits; None with fewer than six
    classes, of which it says nothing."""
    macro_recall: float
    """Mean over the classes of the share of its images that were recognised; classes that occur
    nowhere are left out."""
    macro_f1: float
    """Mean over the classes of the harmonic mean of precision and recall; classes that occur
    nowhere are left out."""
    balanced_accuracy: float
    """Mean over the classes that have images of the share of them that was recognised."""
    loss: float
    """Mean cross-entropy per image, in nats."""
    calibration_error: float
    """Error of the softmax probability of the predicted class as a forecast of being right:
    expected calibration error (Guo et al. 2017, arXiv:1706.04599, equation 3), of
    `CALIBRATION_BINS` bins."""
    per_class: list[ClassScores]
    """Scores of each class, in the order of the logits."""
    confusion: list[list[int]]
    """Number of images by true class (row) and predicted class (column)."""

    @property
    def count(self) -> int:
        """Number of images."""
        return self.images

    @property
    def values(self) -> Mapping[str, float]:
        """Accuracies, recall and F1 by name, those that say something."""
        names = ("accuracy", "top5", "macro_recall", "macro_f1", "balanced_accuracy")
        values = {name: getattr(self, name) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain numbers and lists, ready for JSON."""
        return asdict(self)


class Classification(ImageTask):
    """Images that belong to one of several classes each; the network makes a logit for each
    class."""

    scores = (ACCURACY, CROSS_ENTROPY, MACRO_RECALL, MACRO_F1, BALANCED_ACCURACY)

    def __init__(self, data: DataConfig, train: ImageData) -> None:
        """Raises InputError for a single class, and where classes are to be weighted and one has no
        image."""
        super().__init__(data, train)
        if self.outputs < 2:
            raise FieldError("classes", f"must be at least 2, not {self.outputs}")
        weights = class_weights(train.images, data)
        self.class_weights = None if weights is None else weights.to(train.hardware.device)
        """Weights of the classes in the loss that is descended, float32 [classes]; None where all
        count alike. Evaluations count all images alike in any case."""

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Returns the cross-entropy of logits [B, classes], in which classes are weighted."""
        return F.cross_entropy(outputs, batch.targets, self.class_weights)

    def evaluation_loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Returns the cross-entropy of logits [B, classes]."""
        return F.cross_entropy(outputs, batch.targets)

    def new_meter(self, device: torch.device | str) -> Meter:
        """Returns a meter of the accuracy and, where it is another one, of the score."""
        if self.scored_by in (ACCURACY, CROSS_ENTROPY):
            return AccuracyMeter(device)
        return ClassMeter(device, self.outputs, self.scored_by)

    def evaluate(self, network: Network, batches: Iterable[Batch], device: torch.device | str) -> ClassificationEvaluation:
        """Returns accuracies, calibration and scores of each class; see `evaluate` below."""
        return evaluate(lambda inputs: network(inputs).float(), batches, self.outputs, device)

    @classmethod
    def words(cls, name: str) -> str:
        """Returns the name of a value as logs and reports write it; outputs are classes."""
        return {"top5": "top-5", "outputs": "classes"}.get(name) or super().words(name)

    def describe(self) -> dict[str, Any]:
        """Returns the format of the training images, and how many there are of each class."""
        images = self.train.images
        return super().describe() | {"train_images_of_class": images.labels.bincount(minlength=images.classes).tolist()}

    @classmethod
    def answer_columns(cls, form: ImageFormat) -> tuple[str, ...]:
        """Returns the names of the columns for the most probable classes, three at most."""
        columns = ("class", "probability", "second", "second_probability", "third", "third_probability")
        return columns[: 2 * len(form.class_names)]

    @classmethod
    def answer_cells(cls, form: ImageFormat, outputs: Tensor) -> list[tuple[str | float, ...]]:
        """Returns names and probabilities of the most probable classes by logits [B, classes]; of
        equal ones the first."""
        # As argmax does, and unlike topk, a stable sort has the first of equals first.
        order = outputs.sort(dim=1, descending=True, stable=True).indices[:, :_ANSWERS]
        chances = outputs.double().softmax(1).gather(1, order)
        return [
            tuple(cell for place, chance in zip(*row, strict=True) for cell in (form.class_names[place], chance))
            for row in zip(order.tolist(), chances.tolist(), strict=True)
        ]

    @classmethod
    def written(cls, name: str, value: float) -> str:
        """Returns a share as 97.22%, the loss as 0.1234."""
        return ACCURACY.written(value) if name == "top5" else super().written(name, value)


@torch.no_grad()
def evaluate(
    logits_of: Network, batches: Iterable[Batch | tuple[Tensor, Tensor]], classes: int, device: torch.device | str
) -> ClassificationEvaluation:
    """Evaluate `logits_of`, images [B, C, H, W] to logits [B, classes], on batches of images and
    labels.

    The caller puts the network into evaluation mode. The images, the labels and the logits live on
    `device`.

    Raises:
        ValueError: there is no image, or the logits are for another number of classes.
    """
    import_torchvision()
    # Imported here because it takes seconds, which only an evaluation should pay.
    from torchmetrics import MetricCollection
    from torchmetrics.classification import (
        MulticlassAccuracy,
        MulticlassConfusionMatrix,
    )

    metrics = MetricCollection(
        {
            "accuracy": MulticlassAccuracy(classes, average="micro"),
            **({"top5": MulticlassAccuracy(classes, top_k=_TOP, average="micro")} if classes > _TOP else {}),
            "confusion": MulticlassConfusionMatrix(classes),
        },
        # With groups the top-5 accuracy can be wrong (findings/metric_collection_groups.sh).
        compute_groups=False,
    ).to(device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    gaps = torch.zeros(CALIBRATION_BINS, dtype=torch.float64, device=device)
    count = 0
    for inputs, labels in batches:
        logits = logits_of(inputs).float()
        if logits.shape != (len(labels), classes):
            raise InputError(f"evaluation: logits of shape {list(logits.shape)} where [{len(labels)}, {classes}] is expected")
        metrics.update(logits, labels)
        loss += F.cross_entropy(logits, labels, reduction="sum").double()
        gaps += _confidence_gaps(logits, labels)
        count += len(labels)
    if count == 0:
        raise InputError("evaluation: the data set has no images")
    found = metrics.compute()
    confusion = found.pop("confusion")
    hits, images, predictions = (counts.tolist() for counts in (confusion.diagonal(), confusion.sum(1), confusion.sum(0)))
    return ClassificationEvaluation(
        images=count,
        loss=loss.item() / count,
        calibration_error=gaps.abs().sum().item() / count,
        per_class=_class_scores(confusion),
        confusion=confusion.tolist(),
        **over_classes(hits, images, predictions),
        **{"top5": None} | {name: value.item() for name, value in found.items()},
    )


def _confidence_gaps(logits: Tensor, labels: Tensor) -> Tensor:
    """Returns the number of recognised images less the sum of the confidences, for each bin:
    float64 [bins].

    The calibration error is the sum of their absolute values over all images. The bins are ((m - 1)
    / M, m / M] as in the paper; those of torchmetrics are one more
    (findings/calibration_error_bins.sh).
    """
    confidence = logits.double().softmax(1).amax(1)
    bins = (confidence * CALIBRATION_BINS).ceil().long().clamp(1, CALIBRATION_BINS) - 1
    right = (logits.argmax(1) == labels).double()
    # A product and not a scattered sum, whose order on a GPU, and so its last bits, would differ
    # from run to run.
    return (right - confidence) @ F.one_hot(bins, CALIBRATION_BINS).double()


def _class_scores(confusion: Tensor) -> list[ClassScores]:
    """Returns the scores of classes from the numbers of images by true class (row) and predicted
    class (column)."""
    hits, images, predictions = (counts.tolist() for counts in (confusion.diagonal(), confusion.sum(1), confusion.sum(0)))
    return [
        ClassScores(total, _share(hit, taken), _share(hit, total), _share(2 * hit, taken + total))
        for hit, total, taken in zip(hits, images, predictions, strict=True)
    ]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
