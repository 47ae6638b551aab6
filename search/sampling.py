"""A search that samples whole architectures, from configuration to genotype."""

import math
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import Any, TypeVar

import torch

from search.evaluators import TableScores
from search.loop import EVALUATED_PIXELS
from search.methods import Method
from search.objectives import architecture_costs
from search.page import Told, sampling_page
from search.paths import GuideScores, PathNetwork, PathSteps, SupernetScores
from search.proxies import ProxyScores
from search.samplers import Encoding, Sampler
from search.samplers.config import SamplingConfig
from search.samplers.prefilter import Prefiltered
from search.sampling_report import SamplingReport
from search.tabular import Table
from search.trials import Evaluate, Trials
from supernet import Genotype, Supernet, get_space
from supernet.skeleton import check_size
from training.batches import Batches
from training.checkpoint import Checkpoints, RunDirectory
from training.config import RunOptions, config_to_dict
from training.data import class_weights, load_images, save_format, saved_format, split_halves
from training.images import Images
from training.loop import Watch, choose_device, opened, run_epochs
from training.metrics import Meter
from training.optim import cosine, load_optimizer, set_lr
from training.page import Process
from training.plain_yaml import read_yaml
from training.repeat import Spread
from training.seeds import derive_seed

C = TypeVar("C", bound=SamplingConfig)

SHARED = ("space", "channels", "cells", "stem", "exclude", "batch_statistics", "batch_size", "train_fraction", "seed", "data")
"""Settings in which a search and the run that its weights come from are equal: the network, and the images it has not seen."""


@dataclass(frozen=True)
class SamplingMethod(Method[C]):
    """A method that samples whole architectures with `sampler`, whose own fields are in the configuration."""

    sampler: type[Sampler] = field(kw_only=True)

    def run(self, config: C, options: RunOptions) -> Genotype | None:
        """Searches into the directory of the run; see `sample`."""
        return sample(self.sampler, config, options, self.name, self.paper, self.defaults())

    def repeat(self, config: C, options: RunOptions) -> list[Spread]:
        """Searches once for each of `options.seeds`."""
        if config.weights_from is not None:
            raise ValueError("--seeds: weights_from has the weights of one seed; leave one of them out")
        return super().repeat(config, options)

    def may_change(self, config: C) -> Collection[str]:
        return changeable(config)


class Weights:
    """The supernet of a search, how it is trained, and the scores that it gives."""

    def __init__(self, config: SamplingConfig, encoding: Encoding, sampler: Sampler, images: Images, device: torch.device):
        self.config = config
        self.sampler = sampler
        check_size(*images.format.shape[1:])
        torch.manual_seed(derive_seed(config.seed, "weights"))
        self.network = Supernet(
            encoding.space,
            config.channels,
            config.cells,
            images.classes,
            images.format.shape[0],
            candidates=_candidates(encoding),
            batch_statistics=config.batch_statistics,
            kernels=config.kernels,
            stem=config.stem,
        ).to(device)
        self.paths = PathNetwork(self.network, encoding, device, config.precision)
        self.steps = PathSteps(config, self.paths, sampler, class_weights(images, config.data))
        train, valid = split_halves(images, config.train_fraction, config.seed)
        augment = config.data.augmentation()
        self.train = Batches(train, config.batch_size, device, config.seed, augment, True, True, stream="train")
        guided = min(config.batch_size, len(valid))
        self.valid = Batches(valid, guided, device, config.seed, shuffle=True, drop_last=True, stream="valid")
        together = config.batch_size
        if not (encoding.space.batch_statistics if config.batch_statistics is None else config.batch_statistics):
            # An image's result depends on no other image, so that as many are evaluated together as fill a GPU.
            together = max(together, EVALUATED_PIXELS // math.prod(images.format.shape[1:]))
        self.scores = SupernetScores(config, self.paths, self.train, valid, together)

    def run_epoch(self, epoch: int, watch: Watch) -> float:
        """Trains one epoch, then lets the sampler learn; returns the learning rate."""
        rate = cosine(epoch, self.config.epochs, self.config.weights.lr, self.config.weights.lr_min)
        set_lr(self.steps.optimizer, rate)
        self.steps.begin_epoch(epoch)
        self.network.train()
        for images, labels in watch.batches(self.train.epoch(epoch)):
            self.steps(images, labels)
            watch.images += len(labels)
        self._guide(epoch)
        return rate

    def _guide(self, epoch: int) -> None:
        score = GuideScores(self.paths, self.valid, epoch)
        left = self.config.guide
        while left > 0 and (asked := self.sampler.ask()[:left]):
            self.sampler.tell([(genome, score(genome)) for genome in asked])
            left -= len(asked)

    def state_dict(self) -> dict[str, Any]:
        return {"network": dict(self.network.state_dict()), "weight_optimizer": self.steps.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        load_optimizer(self.steps.optimizer, state["weight_optimizer"])

    def take_from(self, directory: FilePath) -> None:
        """Takes the trained weights of the run in `directory`.

        Raises ValueError where there is no such run, it is of other settings, or its weights are not fully trained.
        """
        file = directory / "config.yaml"
        if not file.is_file():
            raise ValueError(f"weights_from: {directory} is no run of a search; name its directory")
        saved, own = read_yaml(file), config_to_dict(self.config)
        if other := [name for name in SHARED if saved.get(name) != own[name]]:
            raise ValueError(f"weights_from: {directory} was begun with other settings: {', '.join(other)}; set the same here")
        latest = Checkpoints(directory).load_latest()
        done, epochs = 0 if latest is None else latest[0], 1 if saved.get("weights_from") else saved.get("epochs")
        if latest is None or not isinstance(epochs, int) or done < epochs:
            raise ValueError(f"weights_from: {directory} has {done} of {epochs} epochs behind; finish it with --resume")
        try:
            self.network.load_state_dict(latest[1]["trainer"]["weights"]["network"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise ValueError(
                f"weights_from: {directory} holds no weights of such a supernet; name a search that trained one"
            ) from error


def _candidates(encoding: Encoding) -> dict[str, torch.Tensor]:
    """The operations that architectures can have, {kind: bool [edges, candidates]}."""
    space = encoding.space
    allowed = torch.tensor([column in encoding.operations for column in range(len(space.candidates))])
    return {kind: allowed.expand(len(space.edges), -1) for kind in space.kinds}


class SamplingSearch:
    """One search; a `training.loop.Trainer`.

    First the epochs that train the shared weights, where there are any; then rounds of evaluations, which the loop takes for
    epochs as well: each ends with a checkpoint.
    """

    def __init__(
        self,
        sampler: type[Sampler],
        config: SamplingConfig,
        images: Images | None,
        run: RunDirectory,
        table: Table | None,
    ):
        self.config = config
        self.run = run
        self.device = choose_device(config.device, config.threads)
        self.encoding = Encoding(get_space(config.space), config.exclude)
        self.costs = architecture_costs(config, self.encoding, images, table, self.device)
        self.sampler: Sampler = sampler(self.encoding, config, config.seed, self.costs)
        if config.prefilter.proxy is not None:
            assert images is not None
            score = self._proxy(config.prefilter.proxy, images)
            self.sampler = Prefiltered(self.sampler, score, config.prefilter.factor)
        _check_sampler(config, self.sampler)
        self.weights: Weights | None = None
        evaluate: Evaluate
        if config.evaluate == "table":
            assert table is not None
            evaluate = TableScores(self.encoding, table)
        elif config.evaluate == "supernet":
            assert images is not None
            self.weights = Weights(config, self.encoding, self.sampler, images, self.device)
            if config.weights_from is not None:
                self.weights.take_from(FilePath(config.weights_from))
            evaluate = self.weights.scores
        else:
            assert images is not None
            evaluate = self._proxy(config.evaluate, images)
        self.trials = Trials(self.sampler, evaluate)
        self.epochs = config.planned_epochs
        self.steps = len(self.weights.train) if config.trained_epochs and self.weights else config.round
        self.meters = {"train": Meter(self.device) if self.weights is None else self.weights.steps.meter}
        self.report = SamplingReport(config, self.encoding, self.costs, table, run, self.epochs)

    def _proxy(self, name: str, images: Images) -> ProxyScores:
        config = self.config
        batches = Batches(images.take(torch.arange(min(len(images), config.batch_size))), config.batch_size, self.device)
        batch, labels = next(iter(batches.epoch(0)))
        size = config.channels, config.cells
        return ProxyScores(self.encoding, name, *size, batch, labels, images.classes, config.seed, self.device, config.stem)

    def run_epoch(self, epoch: int, watch: Watch) -> float | None:
        """An epoch of the weights, or a round of evaluations: then returns the best accuracy so far, where scores are one."""
        if epoch < self.config.trained_epochs:
            assert self.weights is not None
            rate = self.weights.run_epoch(epoch, watch)
            self.report.epoch(epoch, watch, rate, self.sampler.readings())
            return None
        number = epoch - self.config.trained_epochs + 1
        new = self.trials.advance(min(number * self.config.round, self.config.evaluations))
        watch.advance(self.steps)
        self.report.round(epoch, watch, self.trials, new, self.sampler.readings())
        best = self.trials.best()
        return best.score if best is not None and self.config.evaluate in ("supernet", "table") else None

    def reason_to_stop(self) -> str | None:
        return "there is nothing left to evaluate" if self.trials.exhausted else None

    def state_dict(self) -> dict[str, Any]:
        weights = {} if self.weights is None else {"weights": self.weights.state_dict()}
        own = {"trials": self.trials.state_dict(), "costs": self.costs.state_dict(), "history": self.report.history}
        return weights | own

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.weights is not None:
            self.weights.load_state_dict(state["weights"])
        self.costs.load_state_dict(state["costs"])
        self.trials.load_state_dict(state["trials"])
        self.report.history = list(state["history"])


def _check_sampler(config: SamplingConfig, sampler: Sampler) -> None:
    """Raises ValueError where the configuration asks of the sampler what it cannot."""
    if config.trained_epochs and config.paths == "sampler" and not sampler.has_policy:
        raise ValueError("paths: this method has no policy of its own while weights are trained; set it to uniform or fair")
    if config.trained_epochs and config.guide and not sampler.learns_while_weights_move:
        raise ValueError("guide: this method compares scores, which must be of the same weights; set it to 0")


def changeable(config: SamplingConfig) -> tuple[str, ...]:
    """Fields that a resumed run may change. More evaluations go on from those that are made; where scores come from the table,
    another one would change them."""
    return ("stop", "evaluations") if config.evaluate == "table" else ("stop", "evaluations", "tabular")


def sample(
    sampler: type[Sampler],
    config: SamplingConfig,
    options: RunOptions,
    method: str,
    paper: str = "",
    defaults: SamplingConfig | None = None,
) -> Genotype | None:
    """Runs a whole search into the directory of the run and returns the best architecture, also saved there as genotype.json.

    The report there, report.html, introduces the method with its `paper` and with what differs from its `defaults` (None:
    those of its configuration's class). Returns None where `stop` ended it before any architecture was evaluated wholly.
    Raises ValueError, before anything is written, for a configuration that cannot be run; see `training.loop.run_epochs` for
    what may happen later.
    """
    began = time.monotonic()
    may_change = changeable(config)
    RunDirectory.check(options.run, config, options.resume, options.overwrite, may_change)
    table = None if config.tabular is None else Table.read(config.tabular)
    notes: list[str] = []
    images = None
    if config.needs_images:
        device, known = choose_device(config.device, config.threads), saved_format(options)
        images = load_images(config.data, "train", device, known, notes.append, surveyed=known is not None)
    trainer = SamplingSearch(sampler, config, images, RunDirectory(options.run, config, may_change), table)
    with opened(trainer, config, options, method, may_change) as (run, monitor, start):
        if images is not None:
            save_format(images, run.path)
        for note in notes:
            monitor.log(note)
        done = run_epochs(trainer, config, run, monitor, method, start)
        findings = trainer.report.conclude(trainer.trials, monitor, done * trainer.steps)
        genotype = None if findings is None else findings.genotype
        if genotype is None:
            monitor.log(f"{method}: no architecture has been evaluated wholly yet, so there is no genotype; --resume goes on")
        else:
            monitor.log(f"{method}: {len(trainer.trials.done)} evaluations; genotype in {run.path / 'genotype.json'}:")
            monitor.log(genotype.to_text(genotype.text_form))
        process = Process(start.epochs, done, time.monotonic() - began)
        told = Told(method, paper, defaults or type(config)(), process)
        monitor.log(f"{method}: report in {sampling_page(trainer, findings, told).write(run.path)}")
    return genotype
