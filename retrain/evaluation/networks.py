"""The evaluation of retrained networks on the test part, each alone and all as an ensemble."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from base.checks import InputError
from base.texts import excerpt
from retrain.config import RetrainConfig
from retrain.evaluation.ensemble import average_log_probabilities, fitted_weights, greedy_weights, majority_vote
from retrain.evaluation.speed import Speed, measure_speed
from retrain.finished import RetrainRun
from retrain.weights import WEIGHTS_FILE, Trained
from training.hardware import Hardware, move_to
from training.metrics import Batch, count_multiply_adds, count_parameters
from training.tasks.classification import ClassificationEvaluation, evaluate
from training.tasks.task import Dataset, Evaluation, Network, Task

Forward = Callable[[Network, Batch], Tensor]
AVERAGE, VOTE = "average of probabilities", "majority vote"
FITTED, GREEDY = "fitted weights", "greedy selection"
EVALUATED = ("classification",)
"""The tasks whose networks the commands for finished retrainings know how to use."""
_AT_ONCE = 4096  # images whose logits are evaluated together


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
    """A finished retraining: its network, and the settings that it is evaluated with."""

    path: Path
    trained: Trained
    settings: RetrainConfig
    has_own_images: bool = True
    """Whether it is evaluated on the test part of its configuration."""
    limit: int | None = None
    """Training images that it used; None: all."""

    @classmethod
    def read(cls, path: Path, data: Mapping[str, Any]) -> "Run":
        """Reads the run in directory `path`; for `data` see `RetrainRun.settings`.

        Raises InputError if the directory or a file is absent or damaged.
        """
        run = open_trained(path)
        settings = run.settings(data)
        limit = run.config.data.limit if settings.validation_fraction else None
        return cls(path, run.trained, settings, not data, limit)


def open_trained(path: Path, tasks: Sequence[str] = EVALUATED) -> RetrainRun:
    """Opens the finished retraining in the directory `path`.

    Raises InputError where there is none, or its task is none of `tasks`.
    """
    run = RetrainRun.open(path)
    task = run.trained.task
    if task not in tasks:
        known = " and ".join(tasks)
        raise InputError(f"{path}: its task is {excerpt(task)}, and this command is for {known}; metrics.json has its numbers")
    return run


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
    weights: tuple[float, ...] | None = None
    """Weight of each network in an ensemble; None: all count alike."""
    validation_images: int | None = None
    """Number of images that the weights were chosen on; None: they were not chosen."""

    def to_dict(self) -> dict[str, Any]:
        """Returns all of it, ready for JSON."""
        size = {"parameters": self.parameters, "multiply_adds": self.multiply_adds}
        speed = {} if self.speed is None else {"speed": asdict(self.speed)}
        chosen = {} if self.weights is None else {"weights": self.weights, "validation_images": self.validation_images}
        return {"name": self.name, **size, **chosen, **self.metrics, **speed}


def evaluate_runs(
    runs: Sequence[Run],
    datasets: Sequence[Dataset],
    batch_size: int,
    device: torch.device,
    speed: bool,
    held_out: Sequence[Dataset] = (),
) -> list[NetworkScore]:
    """Returns a row for each of `runs` and, if there are several, those of the ensemble: `AVERAGE`
    and `VOTE`, and with images that were `held_out` from all trainings `FITTED` and `GREEDY`.

    Args:
        datasets: for each of `runs` the same images, normalised as its network wants them.
        speed: measure how fast each network is, before the evaluation: a failure then has taken no
            time.
        held_out: the same for the images that weights of the networks are chosen on.

    Raises InputError for a network whose logits are not finite.
    """
    rows, all_outputs = [], []
    for run, data in zip(runs, datasets, strict=True):
        network, shape, classes = run.trained.network, data.format.shape, len(data.format.class_names)
        hardware = Hardware(device, run.settings.precision)
        measured = measure_speed(network, shape, device, hardware.precision) if speed else None
        outputs = network_outputs(network, data, batch_size, hardware)
        if not outputs.inputs.isfinite().all():
            raise InputError(f"{run.path / WEIGHTS_FILE}: gives logits that are NaN or infinite; the training had diverged")
        all_outputs.append(outputs)
        size = count_parameters(network), count_multiply_adds(network, shape)
        scores = _evaluate(_only, outputs.inputs[None], outputs.targets, classes).to_dict()
        rows.append(NetworkScore(str(run.path), *size, scores, measured))
    if len(rows) == 1:
        return rows
    logits, labels = torch.stack([outputs.inputs for outputs in all_outputs]), all_outputs[0].targets
    found = [
        network_outputs(run.trained.network, data, batch_size, Hardware(device, run.settings.precision))
        for run, data in zip(runs, held_out, strict=False)
    ]
    rows += _ensemble_rows(rows, logits, labels)
    if found:
        chosen_on = torch.stack([outputs.inputs for outputs in found]), found[0].targets
        rows += _weighted_rows(rows[: len(runs)], chosen_on, logits, labels)
    return rows


def _only(logits: Tensor) -> Tensor:
    """The logits [B, classes] of a single network, from [1, B, classes]."""
    return logits[0]


def _ensemble_rows(rows: Sequence[NetworkScore], logits: Tensor, labels: Tensor) -> list[NetworkScore]:
    """Returns the rows of the ensemble of the networks of `rows`, from their logits
    [K, N, classes] and the labels [N]."""
    classes = logits.shape[2]
    average = _evaluate(average_log_probabilities, logits, labels, classes).to_dict()
    vote = _evaluate(lambda batch: F.one_hot(majority_vote(batch), classes), logits, labels, classes).to_dict()
    # A vote gives one class an image, with no probability and no second place.
    vote |= {"loss": None, "top5": None, "calibration_error": None}
    size = sum(row.parameters for row in rows), sum(row.multiply_adds for row in rows)
    return [NetworkScore(AVERAGE, *size, average), NetworkScore(VOTE, *size, vote)]


def _weighted_rows(
    rows: Sequence[NetworkScore], chosen_on: tuple[Tensor, Tensor], logits: Tensor, labels: Tensor
) -> Iterator[NetworkScore]:
    """Yields the rows of weighted averages, whose weights are chosen on logits [K, M, classes] and
    labels [M] of other images than those that are evaluated."""
    for name, choose in ((FITTED, fitted_weights), (GREEDY, greedy_weights)):
        weights = choose(*chosen_on)
        combine = partial(average_log_probabilities, weights=weights)
        metrics = _evaluate(combine, logits, labels, logits.shape[2]).to_dict()
        # Networks without a weight need not be run.
        used = [row for row, weight in zip(rows, weights.tolist(), strict=True) if weight]
        size = sum(row.parameters for row in used), sum(row.multiply_adds for row in used)
        yield NetworkScore(name, *size, metrics, weights=tuple(weights.tolist()), validation_images=len(chosen_on[1]))
