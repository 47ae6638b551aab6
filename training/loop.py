"""Epochs of any training: resumed, checkpointed, watched, stopped.

What happens within an epoch is the trainer's.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch.utils._pytree import tree_leaves

from base.checks import InputError
from base.seeds import derive_seed
from training.histograms import histograms
from training.metrics import Meter, Score
from training.run import profile
from training.run.base import RunConfig
from training.run.checkpoint import Checkpoints
from training.run.command import resumable
from training.run.config import RunOptions, config_to_yaml
from training.run.directory import RunDirectory, kind_of_run
from training.run.monitor import Bar, Monitor, StopConditions, StopConfig, check_finite, peak_memory_mb
from training.run.structure import Part, fields, numeric, optional

Batch = TypeVar("Batch")


class Watch:
    """The readings of one epoch: those of `meters`, emptied at its start, every `log_every` steps
    and at the end."""

    def __init__(
        self,
        monitor: Monitor,
        bar: Bar,
        device: torch.device,
        meters: dict[str, Meter],
        epoch: int,
        steps: int,
        log_every: int,
    ) -> None:
        self.monitor = monitor
        self.meters = meters
        for meter in meters.values():
            meter.reset()
        self.images = 0
        """Images processed so far; the trainer counts them."""
        self.step = (epoch + 1) * steps
        """Global step at the end of this epoch: where its curves have their points."""
        self._bar = bar
        self._device = device
        self._first_step = epoch * steps
        self._log_every = log_every
        self._started = time.perf_counter()

    def batches(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """The batches of `loader`; between them the bar moves on and, at times, the meters are
        read."""
        for step, batch in enumerate(profile.batches(loader, "step"), start=1):
            yield batch
            self._bar.advance()
            if step % self._log_every == 0:
                self._check()

    def advance(self, steps: int) -> None:
        """So many steps are done that were no batches."""
        self._bar.advance(steps)

    def finish(self) -> dict[str, float]:
        """The epoch's readings, "train/loss" and so on, which also become points on the curves.

        Raises TrainingDiverged if a loss was not finite.
        """
        values = self._check()
        values["memory/peak_mb"] = peak_memory_mb(self._device)
        self.monitor.scalars(self.step, values)
        return values

    def _check(self) -> dict[str, float]:
        values: dict[str, float] = {}
        for level, meter in self.meters.items():
            reading = meter.read()
            if not reading.count:
                continue
            check_finite(reading.first_bad_step, self._first_step, f"{level} loss")
            values |= reading.named(level)
        if self.images:
            values["speed/images_per_second"] = self.images / (time.perf_counter() - self._started)
        trained = {name.removeprefix("train/"): value for name, value in values.items() if name.startswith("train/")}
        self._bar.show(trained, values.get("speed/images_per_second"))
        return values


class Trainer(Protocol):
    """The trainer that `run_epochs` runs."""

    epochs: int
    """Epochs in all."""
    trained_epochs: int
    """The first of them, which train weights; the others have no steps."""
    steps: int
    """Steps an epoch."""
    meters: dict[str, Meter]
    """Meters by level: "train", and "valid" if alphas are trained. They are the same in every
    epoch, as a CUDA graph refers to them."""
    device: torch.device
    scored_by: Score
    """The score that `run_epoch` returns."""

    def run_epoch(self, epoch: int, watch: Watch) -> float | None:
        """Trains epoch `epoch` (from 0); returns the score on the validation data, in its own sign,
        where there is one."""

    def reason_to_stop(self) -> str | None:
        """Why no further epoch should be run, in words, as far as the trainer itself can tell; None
        to go on."""

    def trained(self) -> Iterable[tuple[str, torch.nn.Parameter]]:
        """Returns the parameters that the last epoch has trained, by names as
        `training.histograms.histograms` takes them; each has the gradient of its last step."""

    def state_dict(self) -> dict[str, Any]:
        """Returns all state that an epoch changes, as tensors, numbers, text and containers of
        them."""

    def structure(self, epochs: int) -> Part:
        """Returns the structure that `state_dict` has after so many epochs, for this trainer as it
        is when it is new."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes `state_dict` back, once its structure is known to be right."""


class LoopConfig(Protocol):
    """The part of a configuration that `run_epochs` reads."""

    seed: int
    log_every: int
    histograms_every: int
    stop: StopConfig


@dataclass(frozen=True)
class Progress:
    """The progress of a run."""

    epochs: int = 0
    """Epochs behind."""
    score: float | None = None
    """Score on the validation data after the last of them, in its own sign, where there is one."""
    skipped: tuple[str, ...] = ()
    """A line for each later checkpoint that the run does not go on from: its file, and why."""


def restore(trainer: Trainer, checkpoints: Checkpoints) -> Progress:
    """Puts `trainer` where the last good one of `checkpoints` has it; changes nothing where there
    is none.

    Nothing is loaded of a checkpoint that is not wholly as this trainer has to find it. Raises
    InputError if there are checkpoints and none is good.
    """

    def structure(epochs: int) -> Part:
        return fields({"trainer": trainer.structure(epochs), "score": optional(numeric)})

    found = checkpoints.last_good(structure)
    if found is None:
        return Progress()
    epochs, state, skipped = found
    try:
        trainer.load_state_dict(state["trainer"])
    except Exception as error:  # parts of a user's own may raise anything
        raise InputError(
            f"{checkpoints.directory}: the checkpoint of epoch {epochs} cannot be loaded ({type(error).__name__}: {error}); "
            "begin anew with --overwrite"
        ) from error
    return Progress(epochs, state["score"], skipped)


@contextmanager
def open_run(
    trainer: Trainer,
    config: RunConfig,
    options: RunOptions,
    kind: str,
) -> Iterator[tuple[RunDirectory, Monitor, Progress]]:
    """Prepares the run directory and yields it with its monitor and progress; on resume, `trainer`
    is restored first.

    To be entered when all other input is known to be good: before, nothing is written. For errors
    see `RunDirectory.open`.
    """
    began_as = kind_of_run(options.run) if options.resume else None
    if began_as not in (None, kind):
        raise InputError(f"{options.run}: is a run of {began_as}, not of {kind}; resume it with the command that began it")
    if options.profile is not None:
        profile.prepare(options.profile, options.run)
    with RunDirectory.open(options.run, config, options.resume, options.overwrite) as run:
        start = restore(trainer, run.checkpoints(kind)) if options.resume else Progress()
        run.begin(kind)
        # The last point of an epoch is at the step at which the next begins.
        with resumable(), Monitor(run.path, first_step=start.epochs * trainer.steps + 1 if start.epochs else 0) as monitor:
            if not run.is_locked:
                monitor.log(f"warning: the file system of {run.path} has no locks; let no second process work there")
            if not start.epochs:
                monitor.text("config", config_to_yaml(config))
            yield run, monitor, start


def run_epochs(
    trainer: Trainer,
    config: LoopConfig,
    run: RunDirectory,
    monitor: Monitor,
    kind: str,
    start: Progress,
    trace: Path | None = None,
) -> int:
    """Trains from `start` until the last epoch or a stop condition; returns the number of epochs
    behind. A trace of some steps is written into the directory `trace`, if there is one.

    Every epoch starts from random states that depend on seed and epoch alone and ends with a
    checkpoint, so a run that was killed goes on from the last one and, on the CPU, ends with the
    same bits. Raises TrainingDiverged for a loss that is not finite, before the epoch's checkpoint
    is written.
    """
    checkpoints = run.checkpoints(kind)
    done, score = start.epochs, start.score
    for line in start.skipped:
        monitor.log(f"not gone on from: {line}")
    if done:
        monitor.log(f"resumed after epoch {done} of {trainer.epochs}")
    stop = StopConditions(config.stop, trainer.scored_by)
    with (
        monitor.bar(trainer.epochs * trainer.steps, done * trainer.steps, kind) as bar,
        profile.profiled(trace, max(0, trainer.trained_epochs - done), trainer.steps, trainer.device, monitor.log),
    ):
        while done < trainer.epochs:
            # A run without an epoch has nothing to show: neither a trained network nor a measurement.
            if done and (reason := stop.reason(score) or trainer.reason_to_stop()):
                monitor.log(f"stopped after epoch {done}: {reason}")
                break
            torch.manual_seed(derive_seed(config.seed, "epoch", done))
            watch = Watch(monitor, bar, trainer.device, trainer.meters, done, trainer.steps, config.log_every)
            score = trainer.run_epoch(done, watch)
            if config.histograms_every and not (done + 1) % config.histograms_every:
                monitor.histograms(watch.step, histograms(trainer.trained()))
            state = trainer.state_dict()
            # The loss of an epoch's last step may be finite and the weights that it leads to not.
            check_finite(None if _is_finite(state, trainer.device) else watch.step - 1, 0, "result of the step")
            done += 1
            monitor.flush()
            run.confirm()
            checkpoints.save(done, {"trainer": state, "score": score})
            run.keep()
    return done


def _is_finite(state: dict[str, Any], device: torch.device) -> bool:
    """Whether no tensor in nested containers holds a NaN or an infinity; waits for the device
    once."""
    leaves = [leaf for leaf in tree_leaves(state) if isinstance(leaf, torch.Tensor)]
    # Some optimisers count their steps on the CPU. (There may be nothing to count: a sampler
    # without a network.)
    found = [leaf.isfinite().all().to(device) for leaf in leaves]
    return not found or bool(torch.stack(found).all())
