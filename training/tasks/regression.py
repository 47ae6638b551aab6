"""Images with numbers to be predicted: the squared error, and what can be said in the numbers' own
unit.

A network is trained for standardised numbers (`training.format.Standardisation`), whose errors
count alike whatever their unit. Errors that are reported are in the unit of the data.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from base.checks import FieldError, InputError, Name
from training.format import Standardisation
from training.images.data import DataConfig, constant
from training.metrics import Batch, Meter, Score
from training.tasks.images import ImageData, ImageTask
from training.tasks.task import Log, Network


@dataclass(frozen=True)
class ErrorScore(Score):
    """An error in a unit of the data, which may be of any size."""

    def written(self, value: float) -> str:
        """Returns the value with four digits."""
        return f"{value:.4g}"


R2 = Score("r2", highest=1, title="R2")
"""Coefficient of determination: 1 - sum of squared errors / sum of squared deviations from the
mean; the mean of all numbers of an image."""
MSE = ErrorScore("mse", larger_is_better=False, lowest=0, title="mean squared error")
"""Mean squared error in the square of the numbers' unit; the mean of all numbers of an image."""
MAE = ErrorScore("mae", larger_is_better=False, lowest=0, title="mean absolute error")
"""Mean absolute error in the numbers' unit; the mean of all numbers of an image."""
MOST_POINTS = 1000
"""Number of images whose predicted and true numbers an evaluation keeps for a picture."""
# A sum of squares in float64 has no more digits for deviations below this share of it.
_NO_SPREAD = 1e-12


class ErrorMeter(Meter):
    """Measures mean squared error, mean absolute error and R2, from sums over all batches."""

    names = (R2.name, MSE.name, MAE.name)

    def __init__(self, device: torch.device | str, values: Standardisation) -> None:
        numbers = (len(values.std),)
        super().__init__(device, dict.fromkeys(("squares", "absolutes", "targets", "squared_targets"), numbers))
        self._std = torch.tensor(values.std, dtype=torch.float64)

    def sums(self, outputs: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        targets = batch.targets.double()
        errors = outputs.double() - targets
        return {
            "squares": errors.square().sum(0),
            "absolutes": errors.abs().sum(0),
            "targets": targets.sum(0),
            "squared_targets": targets.square().sum(0),
        }

    def values(self, sums: Mapping[str, Tensor], count: int) -> Mapping[str, float]:
        """Returns the three; R2 of numbers that are all alike is as scikit-learn has it, 1 without
        an error and else 0, so that the readings of a few batches are finite, too."""
        squares, squared = sums["squares"], sums["squared_targets"]
        spread = squared - sums["targets"].square() / count
        known = spread > _NO_SPREAD * squared
        r2 = torch.where(known, 1 - squares / spread.where(known, 1.0), (squares == 0).double())
        return {
            R2.name: r2.mean().item(),
            MSE.name: (squares / count * self._std.square()).mean().item(),
            MAE.name: (sums["absolutes"] / count * self._std).mean().item(),
        }


@dataclass(frozen=True)
class NumberScores:
    """The scores of one of the numbers that are predicted."""

    mse: float
    """Mean squared error, in the square of the number's unit."""
    mae: float
    """Mean absolute error, in the number's unit."""
    r2: float | None
    """Coefficient of determination; None where the true number is the same in all images."""


@dataclass(frozen=True)
class RegressionEvaluation:
    """The evaluation of a network on a data set."""

    images: int
    mse: float
    """Mean squared error in the square of the data's unit, averaged over the numbers of an
    image."""
    mae: float
    """Mean absolute error in the data's unit, averaged over the numbers of an image."""
    r2: float | None
    """Coefficient of determination, averaged over the numbers of an image; None where one of these
    is the same in all images."""
    loss: float
    """Mean squared error of the standardised numbers."""
    per_number: list[NumberScores]
    """Scores of each number, in the order of the outputs."""
    predicted: Tensor = field(repr=False, compare=False)
    """Predicted numbers of at most `MOST_POINTS` images, evenly spaced over all, float64 [n,
    numbers], in the unit of the data."""
    true: Tensor = field(repr=False, compare=False)
    """True numbers of the same images."""

    @property
    def count(self) -> int:
        """Number of images."""
        return self.images

    @property
    def values(self) -> Mapping[str, float]:
        """R2, if there is one, and the mean errors by name."""
        values = {score.name: getattr(self, score.name) for score in (R2, MSE, MAE)}
        return {name: value for name, value in values.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """The scores as plain numbers and lists, ready for JSON; without the single images."""
        scores = {name: getattr(self, name) for name in ("images", "mse", "mae", "r2", "loss")}
        return scores | {"per_number": [asdict(one) for one in self.per_number]}


class Regression(ImageTask):
    """Images that have one or several numbers each; the network makes an output for each number."""

    scores = (R2, MSE, MAE)
    numbers = True

    def __init__(self, data: DataConfig, train: ImageData) -> None:
        """Raises InputError for images without numbers, for a number that is the same in all, and
        for weights of classes."""
        super().__init__(data, train)
        values = train.format.values
        if values is None:
            raise FieldError("data.name", f"{data.name} has classes and no numbers to be predicted")
        if data.class_weights != "none":
            raise FieldError("data.class_weights", "is for classes, of which task regression has none; leave it out")
        if (name := constant(train.images)) is not None:
            raise FieldError("data.root", f"{name} is the same in all {len(train)} training images; there is nothing to learn")
        self.values = values
        """The standardisation of the numbers."""

    def load_test(self, log: Log = print) -> ImageData:
        """Reads the test images.

        Raises InputError where they cannot be read, have another size than the training images, or
        have no R2 and that is the score.
        """
        test = super().load_test(log)
        if self.scored_by == R2 and (name := constant(test.images)) is not None:
            said = f"{name} is the same in all {len(test)} test images, which have no R2; choose --"
            raise FieldError("data.root", said, Name("score"), " mse or mae, or give others")
        return test

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Returns the mean squared error of standardised numbers [B, numbers]."""
        return F.mse_loss(outputs, batch.targets)

    def new_meter(self, device: torch.device | str) -> ErrorMeter:
        """Returns a meter of all scores."""
        return ErrorMeter(device, self.values)

    def evaluate(self, network: Network, batches: Iterable[Batch], device: torch.device | str) -> RegressionEvaluation:
        """Returns the errors in the unit of the data, of each number and of all; see `evaluate`
        below."""
        return evaluate(lambda inputs: network(inputs).float(), batches, self.values)

    @classmethod
    def words(cls, name: str) -> str:
        """Returns the name of a value as logs and reports write it; outputs are numbers."""
        return {"outputs": "numbers an image"}.get(name) or super().words(name)

    def describe(self) -> dict[str, Any]:
        """Returns the format of the training images, how many there are, and the smallest and the
        largest value of each number."""
        least, most = (one.tolist() for one in self.train.images.labels.aminmax(dim=0))
        return super().describe() | {"train_range": [list(pair) for pair in zip(least, most, strict=True)]}


@torch.no_grad()
def evaluate(
    outputs_of: Network, batches: Iterable[Batch | tuple[Tensor, Tensor]], values: Standardisation
) -> RegressionEvaluation:
    """Evaluates `outputs_of`, images [B, C, H, W] to standardised numbers [B, numbers], on batches
    of images and standardised numbers.

    The caller puts the network into evaluation mode. All outputs are held in memory at once: sums
    of squares are then taken about the mean, and lose no digits.

    Raises:
        ValueError: there is no image, or the outputs are another count of numbers.
    """
    outputs, targets = [], []
    for images, numbers in batches:
        found = outputs_of(images)
        if found.shape != numbers.shape:
            raise InputError(f"evaluation: outputs of shape {list(found.shape)} where {list(numbers.shape)} is expected")
        outputs.append(found.double().cpu())
        targets.append(numbers.double().cpu())
    count = sum(map(len, targets))
    if count == 0:
        raise InputError("evaluation: the data set has no images")
    predicted, true = torch.cat(outputs), torch.cat(targets)
    errors, std = predicted - true, torch.tensor(values.std, dtype=torch.float64)
    squares, absolutes = errors.square().mean(0), errors.abs().mean(0)
    spread = (true - true.mean(0)).square().mean(0)
    alike = (true == true[0]).all(0).tolist()
    scores = [
        NumberScores(mse, mae, None if same else 1 - ratio)
        for mse, mae, ratio, same in zip(
            (squares * std.square()).tolist(), (absolutes * std).tolist(), (squares / spread).tolist(), alike, strict=True
        )
    ]
    known = [one.r2 for one in scores if one.r2 is not None]
    shown = torch.linspace(0, count - 1, min(count, MOST_POINTS), dtype=torch.float64).round().long()
    return RegressionEvaluation(
        images=count,
        mse=math.fsum(one.mse for one in scores) / len(scores),
        mae=math.fsum(one.mae for one in scores) / len(scores),
        r2=None if any(alike) else math.fsum(known) / len(known),
        loss=squares.mean().item(),
        per_number=scores,
        predicted=values.restored(predicted[shown]),
        true=values.restored(true[shown]),
    )
