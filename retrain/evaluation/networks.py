"""The evaluation of retrained networks on the test part, each alone and all as an ensemble."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from base.checks import FieldError, InputError
from retrain.evaluation.ensemble import average_log_probabilities, majority_vote
from retrain.evaluation.speed import Speed, measure_speed
from retrain.finished import RetrainRun
from retrain.weights import WEIGHTS_FILE, Trained
from training.hardware import Hardware, Precision, move_to
from training.images.data import DataConfig, load_images
from training.images.format import Images
from training.metrics import Batch, count_multiply_adds, count_parameters
from training.tasks.classification import ClassificationEvaluation, evaluate
from training.tasks.images import ImageData
from training.tasks.task import Dataset, Evaluation, Network, Task

Forward = Callable[[Network, Batch], Tensor]
AVERAGE, VOTE = "average of probabilities", "majority vote"
_AT_ONCE = 4096  # images whose logits are evaluated together
# What decides, with the network, on the images that it is evaluated on.
_SAME_IMAGES = ("name", "root", "size", "fit", "resize", "gray", "test_fraction", "split_seed")


def evaluate_network(network: nn.Module, task: Task, data: Dataset, batch_size: int, hardware: Hardware) -> Evaluation:
    """Moves `network` to the device and evaluates it there on all of `data`."""
    outputs = network_outputs(network, data, batch_size, hardware, task.forward)
    return task.evaluate(lambda part: part, _parts(outputs), "cpu")


@torch.no_grad()
def network_outputs(
    network: nn.Module, data: Dataset, batch_size: int, hardware: Hardware, forward: Forward | None = None
) -> Batch:
    """Returns the outputs, float32 [N, ...], for all of `data`, with the targets; on the CPU,
    computed on the device.

    The network stays on the device. `forward` is how a batch is given to it (None: its inputs
    alone).
    """
    move_to(network, hardware.device)
    network.eval()
    run = hardware.running(network)
    outputs, targets = [], []
    for batch in data.in_order(batch_size).epoch(0):
        outputs.append(run(batch.inputs).float() if forward is None else forward(run, batch))
        targets.append(batch.targets)
    return Batch(torch.cat(outputs).cpu(), torch.cat(targets).cpu())


def _parts(outputs: Batch) -> Iterator[Batch]:
    """The same in batches that are evaluated together."""
    return map(Batch, outputs.inputs.split(_AT_ONCE), outputs.targets.split(_AT_ONCE))


def _evaluate(combine: Callable[[Tensor], Tensor], logits: Tensor, labels: Tensor, classes: int) -> ClassificationEvaluation:
    """Evaluates what `combine` makes, [B, classes], of the networks' logits [K, N, classes];
    `labels` [N]."""
    batches = zip(logits.split(_AT_ONCE, 1), labels.split(_AT_ONCE), strict=True)
    return evaluate(combine, batches, classes, "cpu")


@dataclass(frozen=True)
class Run:
    """A finished retraining: its network, and what it is evaluated on and with."""

    path: Path
    trained: Trained
    data: DataConfig
    precision: Precision

    @classmethod
    def read(cls, path: Path, data: Mapping[str, Any]) -> "Run":
        """The run in directory `path`; `data`: fields of `DataConfig` that replace those in its
        config.yaml.

        With a name in `data`, config.yaml may be absent: then images become as large as the network
        was trained on, unless `data` has a size. Raises ValueError where the directory or a file is
        absent or damaged.
        """
        run = open_classifier(path)
        return cls(path, run.trained, *run.data(data))


def open_classifier(path: Path) -> RetrainRun:
    """Opens the retraining in the directory `path`.

    Raises InputError where there is none or its task is another one.
    """
    run = RetrainRun.open(path)
    try:
        task = run.config.task
    except InputError:
        return run  # the weights may do without their configuration
    if task != "classification":
        raise InputError(f"{path}: its task is {task}, and this command is for classification; metrics.json has its numbers")
    return run


def read_runs(paths: Sequence[Path], data: Mapping[str, Any]) -> list[Run]:
    """The runs in the directories `paths`, with `data` as in `Run.read`.

    Raises ValueError where one cannot be read, is named twice, or was trained on other images than
    the first.
    """
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise InputError(f"{path}: named twice; in an ensemble each network has one vote")
        seen.add(path.resolve())
    first, *others = runs = [Run.read(path, data) for path in paths]
    for run in others:
        for name in _SAME_IMAGES:
            ours, theirs = getattr(first.data, name), getattr(run.data, name)
            if ours != theirs:
                raise InputError(
                    f"{run.path}: data.{name} is {_plain(theirs)}, but {_plain(ours)} in {first.path}; "
                    f"all have to see the same images: choose with --data.{name}"
                )
        ours, theirs = ((one.trained.format.class_names, one.trained.format.shape[0]) for one in (first, run))
        if ours != theirs:
            raise InputError(
                f"{run.path}: the network is for {_described(run)}, that of {first.path} for {_described(first)}; "
                "evaluate them one by one"
            )
    return runs


def _described(run: Run) -> str:
    form = run.trained.format
    return f"{form.class_names_in_short()} and {form.shape[0]} channels"


def _plain(value: str | float | None) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def load_test_images(runs: Sequence[Run], device: torch.device) -> list[Images]:
    """The test images for each of `runs`, normalised as those that its network was trained on; what
    is equal is read once.

    Raises ValueError where there are none, they cannot be read, or are of other classes or channels
    than the network is for.
    """
    found: list[Images] = []
    for run in runs:
        form = run.trained.format
        images = next((one for one in found if one.format == replace(form, shape=one.format.shape)), None)
        if images is None:
            images = load_images(run.data, "test", device, form, surveyed=True)
        if not len(images):
            raise FieldError("data.name", f"{run.data.name} has no test images")
        found.append(images)
    return found


@dataclass(frozen=True)
class NetworkScore:
    """The score of a network or an ensemble."""

    name: str
    """Directory of the run, or how the ensemble decides."""
    parameters: int
    multiply_adds: int
    """Multiply-adds of one image, as `training.metrics.count_multiply_adds` counts them; of an
    ensemble the sum, as of its parameters."""
    metrics: dict[str, Any]
    """Fields of `ClassificationEvaluation`; loss, top5 and calibration_error of a majority vote are
    None."""
    speed: Speed | None = None
    """Speed of the network; None if it was not measured."""

    def to_dict(self) -> dict[str, Any]:
        """Returns all of it, ready for JSON."""
        size = {"parameters": self.parameters, "multiply_adds": self.multiply_adds}
        speed = {} if self.speed is None else {"speed": asdict(self.speed)}
        return {"name": self.name, **size, **self.metrics, **speed}


def evaluate_runs(
    runs: Sequence[Run], images: Sequence[Images], batch_size: int, device: torch.device, speed: bool
) -> list[NetworkScore]:
    """A row for each of `runs` and, where there are several, those of the ensemble: `AVERAGE` and
    `VOTE`.

    Args:
        images: for each of `runs` the same images, normalised as its network wants them.
        speed: measure how fast each network is, before the evaluation: what fails then has taken no
            time.

    Raises ValueError for a network whose logits are not finite.
    """
    rows, all_logits = [], []
    for run, own in zip(runs, images, strict=True):
        network, shape = run.trained.network, own.format.shape
        measured = measure_speed(network, shape, device, run.precision) if speed else None
        data = ImageData(own, Hardware(device, run.precision))
        logits = network_outputs(network, data, batch_size, data.hardware).inputs
        if not logits.isfinite().all():
            raise InputError(f"{run.path / WEIGHTS_FILE}: gives logits that are NaN or infinite; the training had diverged")
        all_logits.append(logits)
        size = count_parameters(network), count_multiply_adds(network, shape)
        rows.append(
            NetworkScore(str(run.path), *size, _evaluate(_only, logits[None], own.labels, own.classes).to_dict(), measured)
        )
    return rows if len(rows) == 1 else rows + _ensemble_rows(rows, torch.stack(all_logits), images[0])


def _only(logits: Tensor) -> Tensor:
    """The logits [B, classes] of a single network, from [1, B, classes]."""
    return logits[0]


def _ensemble_rows(rows: Sequence[NetworkScore], logits: Tensor, images: Images) -> list[NetworkScore]:
    """Returns the rows of the ensemble of the networks of `rows`, from their logits
    [K, N, classes]."""
    labels, classes = images.labels, images.classes
    average = _evaluate(average_log_probabilities, logits, labels, classes).to_dict()
    vote = _evaluate(lambda batch: F.one_hot(majority_vote(batch), classes), logits, labels, classes).to_dict()
    # A vote gives one class an image, with no probability and no second place.
    vote |= {"loss": None, "top5": None, "calibration_error": None}
    size = sum(row.parameters for row in rows), sum(row.multiply_adds for row in rows)
    return [NetworkScore(AVERAGE, *size, average), NetworkScore(VOTE, *size, vote)]
