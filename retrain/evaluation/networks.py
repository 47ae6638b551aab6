"""The evaluation of retrained networks on the test part, each alone and all as an ensemble."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from base.checks import InputError
from base.texts import excerpt
from retrain.config import RetrainConfig
from retrain.evaluation.kinds import KINDS, Kind
from retrain.evaluation.speed import Speed, measure_speed
from retrain.finished import RetrainRun
from retrain.weights import WEIGHTS_FILE, Trained
from training.format import ImageFormat
from training.hardware import Hardware, move_to
from training.metrics import Batch, count_multiply_adds, count_parameters
from training.tasks.task import Dataset, Evaluation, Network, Task

Forward = Callable[[Network, Batch], Tensor]
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


def open_trained(path: Path, tasks: Collection[str] = KINDS) -> RetrainRun:
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
    """The numbers of `evaluation` for JSON; those that an ensemble does not have are None."""
    evaluation: Evaluation
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
    """Returns a row for each of `runs`, all of one task, and, if there are several, those of the
    ensemble: one for each of the ways that the task has, and with images that were `held_out` from
    all trainings one for each way to choose weights.

    Args:
        datasets: for each of `runs` the same images, normalised as its network wants them.
        speed: measure how fast each network is, before the evaluation: a failure then has taken no
            time.
        held_out: the same for the images that weights of the networks are chosen on.

    Raises InputError for a network whose outputs are not finite.
    """
    rows, all_outputs = [], []
    kind, first = KINDS[runs[0].trained.task], runs[0].trained.format
    for run, data in zip(runs, datasets, strict=True):
        network, shape = run.trained.network, data.format.shape
        hardware = Hardware(device, run.settings.precision)
        measured = measure_speed(network, shape, device, hardware.precision) if speed else None
        outputs = network_outputs(network, data, batch_size, hardware)
        if not outputs.inputs.isfinite().all():
            raise InputError(f"{run.path / WEIGHTS_FILE}: gives outputs that are NaN or infinite; the training had diverged")
        outputs = _comparable(outputs, run, first)
        all_outputs.append(outputs)
        size = count_parameters(network), count_multiply_adds(network, shape)
        found = kind.evaluate(lambda part: part, _parts(outputs), first)
        rows.append(NetworkScore(str(run.path), *size, found.to_dict(), found, measured))
    if len(rows) == 1:
        return rows
    together = torch.stack([outputs.inputs for outputs in all_outputs])
    rows += _ensemble_rows(rows, kind, together, all_outputs[0].targets, first)
    if held_out:
        found = [
            _comparable(
                network_outputs(run.trained.network, data, batch_size, Hardware(device, run.settings.precision)), run, first
            )
            for run, data in zip(runs, held_out, strict=True)
        ]
        chosen_on = Batch(torch.stack([outputs.inputs for outputs in found]), found[0].targets)
        rows += _weighted_rows(rows[: len(runs)], kind, chosen_on, together, all_outputs[0].targets, first)
    return rows


def _comparable(outputs: Batch, run: Run, first: ImageFormat) -> Batch:
    """Returns outputs and targets of a run's network in the unit of those of the `first` one:
    networks that learnt numbers of other means and deviations answer in units of their own."""
    own = run.trained.format.values
    if own is None or first.values is None or own == first.values:
        return outputs
    return Batch(*(first.values.standardised(own.restored(part)) for part in outputs))


def _ensemble_rows(
    rows: Sequence[NetworkScore], kind: Kind[Any], outputs: Tensor, targets: Tensor, form: ImageFormat
) -> list[NetworkScore]:
    """Returns the rows of the ensemble of the networks of `rows`, from their outputs [K, N, ...]
    and the targets [N, ...]."""
    size = sum(row.parameters for row in rows), sum(row.multiply_adds for row in rows)
    made = []
    for name, combine in kind.ensembles.items():
        found = _evaluate(kind, combine, outputs, targets, form)
        absent = dict.fromkeys(kind.without.get(name, ()))
        made.append(NetworkScore(name, *size, found.to_dict() | absent, found))
    return made


def _weighted_rows(
    rows: Sequence[NetworkScore], kind: Kind[Any], chosen_on: Batch, outputs: Tensor, targets: Tensor, form: ImageFormat
) -> Iterator[NetworkScore]:
    """Yields the rows of weighted averages, whose weights are chosen on outputs [K, M, ...] and
    targets [M, ...] of other images than those that are evaluated."""
    for name, choose in kind.choices.items():
        weights = choose(chosen_on.inputs, chosen_on.targets)
        found = _evaluate(kind, partial(kind.average, weights=weights), outputs, targets, form)
        # Networks without a weight need not be run.
        used = [row for row, weight in zip(rows, weights.tolist(), strict=True) if weight]
        size = sum(row.parameters for row in used), sum(row.multiply_adds for row in used)
        shares = tuple(weights.tolist())
        yield NetworkScore(name, *size, found.to_dict(), found, weights=shares, validation_images=len(chosen_on.targets))


def _evaluate(
    kind: Kind[Any], combine: Callable[[Tensor], Tensor], outputs: Tensor, targets: Tensor, form: ImageFormat
) -> Evaluation:
    """Evaluates what `combine` makes, [B, ...], of the networks' outputs [K, N, ...]."""
    found: Evaluation = kind.evaluate(combine, map(Batch, outputs.split(_AT_ONCE, 1), targets.split(_AT_ONCE)), form)
    return found
