"""Loss and accuracy while training, the evaluation of a trained network, and what a network costs."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from base.checks import InputError
from training.vision import import_torchvision

CALIBRATION_BINS = 15
"""Bins of equal width that the confidences are divided into."""

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
TransposedConvolution = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d

Batch = tuple[Tensor, Tensor]
"""Images [B, C, H, W] and labels [B]."""


@dataclass(frozen=True)
class Reading:
    """What a `Meter` has seen since it was last reset."""

    loss: float
    """Mean loss per image; NaN before the first update."""
    accuracy: float
    """Share of the images whose largest logit is the label's, 0 to 1; NaN before the first update."""
    images: int
    first_bad_step: int | None
    """Number, counted from 0, of the first update whose loss was NaN or infinite; None while all were finite."""


class Meter:
    """Adds up loss and accuracy on the device, in place, so that a CUDA graph can do it; only `read` waits for it."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self._loss = torch.zeros((), dtype=torch.float64, device=self.device)
        self._correct = torch.zeros((), dtype=torch.int64, device=self.device)
        self._images = torch.zeros((), dtype=torch.int64, device=self.device)
        self._steps = torch.zeros((), dtype=torch.int64, device=self.device)
        self._first_bad = torch.full((), -1, dtype=torch.int64, device=self.device)

    def reset(self) -> None:
        """Forget everything."""
        for total in (self._loss, self._correct, self._images, self._steps):
            total.zero_()
        self._first_bad.fill_(-1)

    @torch.no_grad()
    def update(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: its mean loss (scalar), logits [B, classes] and labels [B], all on the meter's device."""
        self._loss += loss.double() * len(labels)
        self._correct += (logits.argmax(1) == labels).sum()
        newly_bad = ~torch.isfinite(loss) & (self._first_bad < 0)
        self._first_bad.copy_(torch.where(newly_bad, self._steps, self._first_bad))
        self._images += len(labels)
        self._steps += 1

    def read(self) -> Reading:
        """The means so far; waits for the device once and changes nothing."""
        counts = [count.double() for count in (self._correct, self._images, self._first_bad)]
        loss, correct, images, first_bad = torch.stack([self._loss, *counts]).tolist()
        return Reading(
            loss=loss / images if images else float("nan"),
            accuracy=correct / images if images else float("nan"),
            images=int(images),
            first_bad_step=int(first_bad) if first_bad >= 0 else None,
        )


def evaluate_batches(logits_of: Callable[[Tensor], Tensor], batches: Iterable[Batch], device: torch.device) -> Reading:
    """Loss and accuracy of `logits_of`, images [B, C, H, W] to logits [B, classes], over `batches`."""
    meter = Meter(device)
    for images, labels in batches:
        logits = logits_of(images)
        meter.update(F.cross_entropy(logits, labels), logits, labels)
    return meter.read()


@dataclass(frozen=True)
class ClassScores:
    """How well the images of one class are told from all others; shares are between 0 and 1."""

    images: int
    """Number of images of the class (the support)."""
    precision: float | None
    """Of the images that were taken for the class, the share that is of it; None where none was."""
    recall: float | None
    """Of the images of the class, the share that was taken for it; None where there are none."""
    f1: float | None
    """Harmonic mean of precision and recall, 2 TP / (2 TP + FP + FN); None where the class occurs neither here nor there."""


@dataclass(frozen=True)
class Evaluation:
    """How a network does on a data set; shares are between 0 and 1."""

    images: int
    accuracy: float
    top5: float
    """Share of the images whose label is among the five largest logits (among all of them with fewer classes)."""
    macro_recall: float
    """Mean over the classes of the share of its images that were recognised; classes that occur nowhere are left out."""
    macro_f1: float
    """Mean over the classes of the harmonic mean of precision and recall; classes that occur nowhere are left out."""
    loss: float
    """Mean cross-entropy per image, in nats."""
    calibration_error: float
    """How far off the softmax probability of the predicted class is as a forecast of being right: expected calibration error
    (Guo et al. 2017, arXiv:1706.04599, equation 3), of `CALIBRATION_BINS` bins."""
    per_class: list[ClassScores]
    """Of each class, in the order of the logits."""
    confusion: list[list[int]]
    """Number of images by true class (row) and predicted class (column)."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain numbers and lists, ready for JSON."""
        return asdict(self)


@torch.no_grad()
def evaluate(
    logits_of: Callable[[Tensor], Tensor], batches: Iterable[tuple[Tensor, Tensor]], classes: int, device: torch.device | str
) -> Evaluation:
    """Evaluate `logits_of`, images [B, C, H, W] to logits [B, classes], on batches of images and labels.

    The caller puts the network into evaluation mode. The images, the labels and the logits live on `device`.

    Raises:
        ValueError: there is no image, or the logits are for another number of classes.
    """
    import_torchvision()
    # Imported here because it takes seconds, which only an evaluation should pay.
    from torchmetrics import MetricCollection
    from torchmetrics.classification import (
        MulticlassAccuracy,
        MulticlassConfusionMatrix,
        MulticlassF1Score,
        MulticlassRecall,
    )

    metrics = MetricCollection(
        {
            "accuracy": MulticlassAccuracy(classes, average="micro"),
            "top5": MulticlassAccuracy(classes, top_k=min(5, classes), average="micro"),
            "macro_recall": MulticlassRecall(classes, average="macro"),
            "macro_f1": MulticlassF1Score(classes, average="macro"),
            "confusion": MulticlassConfusionMatrix(classes),
        },
        # With groups the top-5 accuracy can be wrong (findings/metric_collection_groups.sh).
        compute_groups=False,
    ).to(device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    gaps = torch.zeros(CALIBRATION_BINS, dtype=torch.float64, device=device)
    count = 0
    for images, labels in batches:
        logits = logits_of(images).float()
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
    return Evaluation(
        images=count,
        loss=loss.item() / count,
        calibration_error=gaps.abs().sum().item() / count,
        per_class=_class_scores(confusion),
        confusion=confusion.tolist(),
        **{name: value.item() for name, value in found.items()},
    )


def _confidence_gaps(logits: Tensor, labels: Tensor) -> Tensor:
    """By how much the images that were recognised outnumber the sum of the confidences, for each bin: float64 [bins].

    The calibration error is the sum of their absolute values over all images. The bins are ((m - 1) / M, m / M] as in the
    paper; those of torchmetrics are one more (findings/calibration_error_bins.sh).
    """
    confidence = logits.double().softmax(1).amax(1)
    bins = (confidence * CALIBRATION_BINS).ceil().long().clamp(1, CALIBRATION_BINS) - 1
    right = (logits.argmax(1) == labels).double()
    # A product and not a scattered sum, whose order on a GPU, and so its last bits, would differ from run to run.
    return (right - confidence) @ F.one_hot(bins, CALIBRATION_BINS).double()


def _class_scores(confusion: Tensor) -> list[ClassScores]:
    """From the numbers of images by true class (row) and predicted class (column)."""
    hits, images, predictions = (counts.tolist() for counts in (confusion.diagonal(), confusion.sum(1), confusion.sum(0)))
    return [
        ClassScores(total, _share(hit, taken), _share(hit, total), _share(2 * hit, taken + total))
        for hit, total, taken in zip(hits, images, predictions, strict=True)
    ]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def count_parameters(module: nn.Module) -> int:
    """Number of trainable parameters of `module`; a tensor that several places share counts once."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def count_multiply_adds(
    module: nn.Module, image_shape: tuple[int, int, int], forward: Callable[[Tensor], object] | None = None
) -> int:
    """Multiply-adds that `module` spends on one image of `image_shape` (C, H, W), in evaluation mode.

    Counts as NAS-Bench-201 does (Dong and Yang, arXiv:2001.00326): convolutions without their bias, linear layers with it,
    no batch norm, no pooling. Only layers that are `torch.nn` modules are seen. The module is run once where its parameters
    live (a module on the meta device is counted without computing anything) and is left as it was, random state included.

    Args:
        forward: what to call with the images [2, C, H, W] in place of the module itself, where that needs more arguments.
    """
    parameter = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    # Two images because batch statistics are undefined for a single value per channel.
    images = torch.zeros(2, *image_shape, device=parameter.device, dtype=parameter.dtype)
    total = 0

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += _multiply_adds(layer, inputs[0], output)

    was_training = [(part, part.training) for part in module.modules()]
    counted = Convolution | TransposedConvolution | nn.Linear
    hooks = [part.register_forward_hook(add) for part in module.modules() if isinstance(part, counted)]
    devices = [parameter.device] if parameter.is_cuda else []
    try:
        module.eval()
        with torch.no_grad(), torch.random.fork_rng(devices):
            (forward or module)(images)
    finally:
        for hook in hooks:
            hook.remove()
        for part, training in was_training:
            part.training = training
    return total // len(images)


def _multiply_adds(layer: nn.Module, images: Tensor, output: Tensor) -> int:
    """Multiply-adds of one call of a convolution or linear layer, for the whole batch."""
    if isinstance(layer, nn.Linear):
        return output.numel() * (layer.in_features + (layer.bias is not None))
    assert isinstance(layer.weight, Tensor)
    # Weights are [out, in / groups, *kernel]; a transposed convolution's are [in, out / groups, *kernel].
    values = images if isinstance(layer, TransposedConvolution) else output
    return values.numel() * layer.weight[0].numel()
