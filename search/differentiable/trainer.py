"""A search from configuration to genotype: what every differentiable method runs."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from base.seeds import derive_seed
from search.costs.tabular import Table
from search.differentiable.architecture import Architecture
from search.differentiable.config import SearchConfig
from search.differentiable.early_stop import told
from search.differentiable.recorder import Recorder
from search.differentiable.relaxations import Mixture, get_relaxation
from search.differentiable.schedule import EpochPlan, SupernetSchedule
from search.differentiable.selection import Candidates, Perturbation, strongest
from search.differentiable.steps import Steps
from search.history import SearchEpoch
from supernet import Genotype, Supernet, get_space
from training.graph import GraphedStep, new_capture
from training.hardware import choose_device
from training.images.batches import EVALUATED_PIXELS, Batches
from training.images.data import class_weights, split_halves
from training.images.format import Images
from training.loop import Watch
from training.optim import load_optimizer, new_optimizer, set_lr
from training.run.checkpoint import RunDirectory

MEASURED_IMAGES = 128
"""Validation images, always the same, whose loss's curvature is measured: so many, in whole batches, but at least one batch."""


class BilevelSearch:
    """One search; a `training.loop.Trainer`.

    `epochs` of the configuration are the search itself, in stages where there are several; with selection by perturbation the
    epochs that follow decide edge by edge.
    """

    def __init__(
        self,
        config: SearchConfig,
        images: Images,
        run: RunDirectory,
        table: Table | None = None,
        pictures: bool = True,
    ):
        self.config = config
        self.run = run
        self.device = choose_device(config.device, config.threads)
        self.space = get_space(config.space)
        self.format = images.format
        self.space.skeleton.check(self.format.shape)
        self.train_batches, self.valid_batches, self.evaluation_batches, self.measured_batches = self._batches(images)
        self.steps = min(len(batches) for batches in (self.train_batches, self.valid_batches) if batches is not None)
        # A kernel has no second derivative, which a double backward needs.
        exact = config.order == "second" and config.hessian_vector == "exact"
        torch.manual_seed(derive_seed(config.seed, "weights"))
        self.network = Supernet(
            self.space,
            config.channels,
            config.cells,
            images.classes,
            self.format.shape[0],
            candidates=config.candidates(self.space),
            partial=config.partial,
            tie_cells=config.tie_cells,
            batch_statistics=config.batch_statistics,
            kernels="reference" if exact else config.kernels,
            stem=config.stem,
        ).to(self.device)
        cells = None if config.tie_cells else self.network.cells_of_kind
        self.architecture = Architecture(self.space, config, cells, self.device)
        self.step = Steps(config, self.network, self.architecture, self.device, class_weights(images, config.data))
        self.meters = self.step.meters
        same_each_step = not get_relaxation(config.relaxation.name).one_path
        self.graphed = GraphedStep(self.step, new_capture(config.graph, self.device, config.weights.name, same_each_step))
        self.schedule = SupernetSchedule.of(config, self.space)
        self.epochs = self.schedule.planned_epochs
        self.perturbation = Perturbation(self.space, config.seed) if self.schedule.rounds else None
        self.recorder = Recorder(
            self.step, self.evaluation_batches, self.measured_batches, table, run.path, self.epochs, pictures
        )

    def _batches(self, images: Images) -> tuple[Batches, Batches | None, Batches, Batches]:
        """Of both levels, of the whole validation part as it is, and of those of its images that curvature is measured on."""
        config = self.config
        train, valid = split_halves(images, config.train_fraction, config.seed)
        augment = config.data.augmentation()

        def batches(part: Images, stream: str) -> Batches:
            return Batches(part, config.batch_size, self.device, config.seed, augment, True, True, stream=stream)

        together = config.batch_size
        if not (self.space.batch_statistics if config.batch_statistics is None else config.batch_statistics):
            # An image's result depends on no other image, so that as many are evaluated together as fill a GPU.
            together = max(together, EVALUATED_PIXELS // math.prod(images.format.shape[1:]))
        together = min(together, len(valid))
        # A single image that might be left over has no statistics.
        whole = Batches(valid, together, self.device, drop_last=len(valid) % together == 1)
        # In batches of the size that the memory is known to hold.
        measured = valid.take(torch.arange(min(len(valid), max(MEASURED_IMAGES, config.batch_size))))
        parts = Batches(measured, min(config.batch_size, len(measured)), self.device, drop_last=True)
        return batches(train, "train"), batches(valid, "valid") if config.bilevel else None, whole, parts

    def genotype(self) -> Genotype:
        """What the space's rule derives from the present alphas; after an early stop, from those before the collapse."""
        if (collapse := self.schedule.collapse(self.recorder.history)) is not None:
            cells = Genotype.parse(self.recorder.history[collapse.epoch].genotype).cells
            return Genotype(cells, self.space.skeleton, self.space.name, self.config.seed, self.run.config_hash)
        return self.space.derive(self.architecture.mean(), self.config.seed, self.run.config_hash)

    def reason_to_stop(self) -> str | None:
        collapse = self.schedule.collapse(self.recorder.history)
        return None if collapse is None else told(collapse)

    def run_epoch(self, epoch: int, watch: Watch) -> float | None:
        """One epoch of both levels. Returns the supernet's validation accuracy where it is due, otherwise None."""
        plan = self.begin_epoch(epoch, watch.monitor.log)
        for batch in watch.batches(self.batches_of(epoch)):
            self.graphed(*batch)
            watch.images += sum(len(labels) for labels in batch[1::2])
        readings = watch.finish()
        return self.recorder.epoch(epoch, watch, plan.rate, readings, self.genotype())

    def batches_of(self, epoch: int) -> Iterator[tuple[Tensor, ...]]:
        """Images and labels of each step: of a training batch and, where the levels are two, of a validation batch."""
        if self.valid_batches is None:
            yield from self.train_batches.epoch(epoch)
            return
        for train, valid in zip(self.train_batches.epoch(epoch), self.valid_batches.epoch(epoch), strict=False):
            yield *train, *valid

    def begin_epoch(self, epoch: int, log: Callable[[str], None]) -> EpochPlan:
        """Brings network, architecture and optimisers where the schedule has them in that epoch, and returns its plan."""
        plan = self.schedule.plan(epoch)
        for stage in plan.begins:
            keep = strongest(self.space, self.architecture.keep, self.architecture.mean(), stage.keep)
            self._rebuild(keep, stage.partial)
            log(f"stage {stage.number + 1}: {stage.keep} candidates an edge, 1/{stage.partial} of the channels through them")
        if plan.moves_alphas != self.step.moves_alphas:
            self.step.moves_alphas = plan.moves_alphas
            self.graphed.release()
        if plan.fresh_optimizer:
            self.step.weight_optimizer = new_optimizer(self.config.weights, self.network.parameters())
            self.graphed.release()
        if plan.decides is not None:
            self._decide(plan.decides, log)
        set_lr(self.step.weight_optimizer, plan.rate)
        self.architecture.begin_epoch(epoch)
        self.network.train()
        return plan

    def _decide(self, number: int, log: Callable[[str], None]) -> None:
        """Makes the decisions of that round of the selection by perturbation."""
        assert self.perturbation is not None
        for kind in self.space.kinds:
            keep = self.perturbation.decide(number, kind, self.architecture.keep[kind], self.architecture.mean(), self._score)
            self._rebuild(self.architecture.keep | {kind: keep}, self.network.partial)
        left = sum(int((table.sum(-1) > 1).sum()) for table in self.architecture.keep.values())
        log(f"selection, round {number + 1} of {self.perturbation.rounds}: {left} edges are undecided")

    def _score(self, mixture: Mixture) -> float:
        """Accuracy under a mixture from which something was taken away.

        Channels that pass the operations by stay as they are, until the whole edge is gone: the operation is what is missing.
        """
        shares = {kind: table.sum(-1) * mixture[kind].any(-1) for kind, table in self.architecture.mean().items()}
        return self.step.evaluate(self.evaluation_batches, mixture, training=True, bypass=shares).accuracy

    def _rebuild(self, keep: Candidates, partial: int) -> None:
        """Leaves only the candidates in `keep`, and sends 1 / `partial` of the channels through them."""
        self.network.rebuild(keep, partial, [self.step.weight_optimizer])
        self.architecture.restrict(keep)
        self.graphed.release()

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": dict(self.network.state_dict()),
            "partial": self.network.partial,
            **self.architecture.state_dict(),
            "weight_optimizer": self.step.weight_optimizer.state_dict(),
            "alpha_optimizer": self.step.alpha_optimizer.state_dict(),
            "history": [entry.to_plain() for entry in self.recorder.history],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rebuild(state["keep"], state["partial"])
        self.network.load_state_dict(state["network"])
        self.architecture.load_state_dict(state)
        load_optimizer(self.step.weight_optimizer, state["weight_optimizer"])
        load_optimizer(self.step.alpha_optimizer, state["alpha_optimizer"])
        self.recorder.history = [SearchEpoch.from_plain(entry) for entry in state["history"]]
        self.graphed.release()
