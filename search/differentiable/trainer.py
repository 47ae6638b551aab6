"""A search from configuration to genotype: what every differentiable method runs."""

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from base.checks import InputError
from search.attribution.players import Players
from search.attribution.update import ShapleyUpdate
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
from search.supernet_build import build_supernet, has_independent_examples
from supernet import Genotype, SearchSpace, Supernet, get_space
from training.graph import GraphedStep, new_capture
from training.hardware import Hardware
from training.loop import Watch
from training.metrics import Batch
from training.optim import load_optimizer, new_optimizer, optimizer_structure, set_lr
from training.run.directory import RunDirectory
from training.run.structure import Part, equal, fields, history, integer, like, numeric, optional, row, text
from training.run.structure import table as table_of
from training.tasks.task import Batches, Dataset, Task

MEASURED_EXAMPLES = 128
"""Validation examples, always the same, on whose loss the curvature is measured: so many, in whole
batches, but at least one batch."""


def new_architecture(
    config: SearchConfig, space: SearchSpace, cells: Mapping[str, int] | None, device: torch.device
) -> Architecture:
    """Makes the architecture that `config` describes; `cells` as `Architecture` takes it."""
    return Architecture(
        space,
        config.candidates(space),
        cells,
        device,
        config.epochs,
        config.seed,
        config.alphas.scale,
        config.edge_normalization,
        config.auxiliary_skip,
        config.relaxation,
        config.regulariser,
        config.extended,
    )


class BilevelSearch:
    """One search; a `training.loop.Trainer`.

    `epochs` of the configuration are the search itself, in stages where there are several; with
    selection by perturbation the epochs that follow decide edge by edge.
    """

    def __init__(
        self,
        config: SearchConfig,
        task: Task,
        run: RunDirectory,
        hardware: Hardware,
        table: Table | None = None,
        pictures: bool = True,
    ) -> None:
        self.config = config
        self.task = task
        self.scored_by = task.scored_by
        self.run = run
        self.device = hardware.device
        self.space = get_space(config.space)
        self.format = task.train.format
        self.space.skeleton.check(self.format.shape)
        train, valid = task.train.split(config.train_fraction, config.seed)
        self.train_batches, self.valid_batches, self.evaluation_batches, self.measured_batches = self._batches(train, valid)
        self.steps = min(len(batches) for batches in (self.train_batches, self.valid_batches) if batches is not None)
        # A kernel has no second derivative, which a double backward needs.
        exact = config.order == "second" and config.hessian_vector == "exact"
        self.network = build_supernet(
            config,
            task.outputs,
            self.format.shape[0],
            config.candidates(self.space),
            partial=config.partial,
            tie_cells=config.tie_cells,
            kernels="reference" if exact else config.kernels,
        ).to(self.device)
        cells = None if config.tie_cells else self.network.cells_of_kind
        self.architecture = new_architecture(config, self.space, cells, self.device)
        self.shapley = None
        if config.alphas.update == "shapley":
            alphas = self.architecture.alphas
            self.shapley = ShapleyUpdate(config.shapley, valid, alphas, config.seed, config.alphas.scale)
        self.step = Steps(
            self.network,
            self.architecture,
            task,
            hardware,
            config.weights,
            config.alphas,
            config.order,
            config.hessian_vector,
            config.hessian_epsilon,
        )
        self.step.moves_alphas = self.shapley is None
        self.meters = self.step.meters
        self._one_path = get_relaxation(config.relaxation.name).one_path
        self.graphed = GraphedStep(self.step, new_capture(hardware.graph, self.device, config.weights.name, not self._one_path))
        self.schedule = SupernetSchedule.of(config, self.space)
        self.epochs = self.trained_epochs = self.schedule.planned_epochs
        self.perturbation = Perturbation(self.space, config.seed) if self.schedule.rounds else None
        self.decided: dict[str, dict[str, dict[str, float]]] = {}
        """The scores that the decisions before this epoch compared; see `SearchEpoch.decided`."""
        self.recorder = Recorder(
            self.step,
            self.evaluation_batches,
            self.measured_batches,
            table,
            run.path,
            self.schedule,
            config.seed,
            config.validate_every,
            config.eigenvalue_every,
            pictures,
        )

    def _batches(self, train: Dataset, valid: Dataset) -> tuple[Batches, Batches | None, Batches, Batches]:
        """Makes four sets of batches: training, validation (None where no step takes one), all
        validation examples as they are, and the few used to measure curvature."""
        config = self.config
        takes_valid = config.bilevel and config.alphas.update == "gradient"
        # In batches of the size that the memory is known to hold.
        measured = valid.take(max(MEASURED_EXAMPLES, config.batch_size))
        return (
            train.shuffled(config.batch_size, config.seed, "train"),
            valid.shuffled(config.batch_size, config.seed, "valid") if takes_valid else None,
            valid.in_order(config.batch_size, "drop_single", has_independent_examples(config)),
            measured.in_order(config.batch_size, "drop"),
        )

    def genotype(self) -> Genotype:
        """Returns the genotype that the space's rule derives from the present alphas or, after an
        early stop, from those before the collapse."""
        if (collapse := self.schedule.collapse(self.recorder.history)) is not None:
            cells = Genotype.parse(self.recorder.history[collapse.epoch].genotype).cells
            return Genotype(cells, self.space.skeleton, self.space.name, self.config.seed, self.run.config_hash)
        return self.space.derive(self.architecture.mean(), self.config.seed, self.run.config_hash)

    def reason_to_stop(self) -> str | None:
        collapse = self.schedule.collapse(self.recorder.history)
        return None if collapse is None else told(collapse)

    def run_epoch(self, epoch: int, watch: Watch) -> float | None:
        """One epoch of both levels.

        Returns the supernet's validation score where it is due, otherwise None.
        """
        plan = self.begin_epoch(epoch, watch.monitor.log)
        found = self.take_shapley(epoch, watch.monitor.log) if plan.takes_shapley else {}
        for batch in watch.batches(self.batches_of(epoch)):
            self.graphed(*batch)
            watch.images += sum(part.size for part in batch)
        watch.monitor.scalars(watch.step, found)
        readings = watch.finish() | found
        return self.recorder.epoch(epoch, watch, plan.rate, readings, self.genotype(), self.decided or None)

    def batches_of(self, epoch: int) -> Iterator[tuple[Batch, ...]]:
        """The batches of each step: one of the training part and, where alphas descend the loss on
        another one, one of the validation part."""
        streams = [batches.epoch(epoch) for batches in (self.train_batches, self.valid_batches) if batches is not None]
        yield from zip(*streams, strict=False)

    def begin_epoch(self, epoch: int, log: Callable[[str], None]) -> EpochPlan:
        """Brings network, architecture and optimisers where the schedule has them in that epoch,
        and returns its plan."""
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
        self.decided = {}
        if plan.decides is not None:
            self._decide(plan.decides, log)
        set_lr(self.step.weight_optimizer, plan.rate)
        self.architecture.begin_epoch(epoch)
        self.network.train()
        return plan

    def take_shapley(self, epoch: int, log: Callable[[str], None]) -> dict[str, float]:
        """Moves the alphas by the Shapley values of the candidates that there are; returns readings
        of their estimate."""
        assert self.shapley is not None
        architecture, began = self.architecture, time.monotonic()
        players = Players({kind: architecture.keep[kind].expand(alpha.shape) for kind, alpha in architecture.alphas.items()})
        log(self.shapley.cost(len(players)))
        mixture = {kind: table.detach() for kind, table in architecture.mean().items()}
        found = self.shapley.estimate(
            epoch, players, mixture, lambda batches, left: self.step.score(batches, architecture.with_skip(left))
        )
        self.shapley.move(architecture.alphas, players, found)
        return {
            "shapley/evaluations": found.evaluations,
            "shapley/reached": float(found.reached.double().mean()),
            "speed/shapley_seconds": time.monotonic() - began,
        }

    def _decide(self, number: int, log: Callable[[str], None]) -> None:
        """Makes the decisions of that round of the selection by perturbation."""
        assert self.perturbation is not None
        for kind in self.space.kinds:
            found = self.perturbation.decide(number, kind, self.architecture.keep[kind], self.architecture.mean(), self._score)
            self._rebuild(self.architecture.keep | {kind: found.keep}, self.network.partial)
            self.decided[kind] = {
                f"{source}->{target}": dict(found.scores[edge])
                for edge, (source, target) in enumerate(self.space.edges)
                if edge in found.scores
            }
        left = sum(int((table.sum(-1) > 1).sum()) for table in self.architecture.keep.values())
        log(f"selection, round {number + 1} of {self.perturbation.rounds}: {left} edges are undecided")

    def _score(self, mixture: Mixture) -> float:
        return self.step.score(self.evaluation_batches.epoch(0), mixture)

    def _rebuild(self, keep: Candidates, partial: int) -> None:
        """Leaves only the candidates in `keep`, and sends 1 / `partial` of the channels through
        them."""
        self.network.rebuild(keep, partial, [self.step.weight_optimizer])
        self.architecture.restrict(keep)
        self.graphed.release()

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self.network.named_parameters()
        if self.step.moves_alphas:
            for part in ("alphas", "betas"):
                yield from ((f"{part}_{kind}", table) for kind, table in getattr(self.architecture, part).items())

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": dict(self.network.state_dict()),
            "partial": self.network.partial,
            **self.architecture.state_dict(),
            "weight_optimizer": self.step.weight_optimizer.state_dict(),
            "alpha_optimizer": self.step.alpha_optimizer.state_dict(),
            "history": [entry.to_plain() for entry in self.recorder.history],
            **({} if self.shapley is None else {"shapley": self.shapley.average}),
        }

    def structure(self, epochs: int) -> Part:
        def check(name: str, value: Any) -> None:
            built = choices(self.config, self.space, self.schedule, epochs)
            fields(built, may_have_more=True)(name, value)
            network = self._built(value["keep"], value["partial"])
            fields(
                {
                    **built,
                    "network": like(dict(network.state_dict())),
                    **{part: like(table) for part, table in self.architecture.state_dict().items() if part != "keep"},
                    "weight_optimizer": optimizer_structure(
                        self.step.weight_optimizer, list(network.parameters()), "some" if self._one_path else "all"
                    ),
                    "alpha_optimizer": optimizer_structure(
                        self.step.alpha_optimizer,
                        self.architecture.parameters(),
                        "all" if self.schedule.has_moved_alphas(epochs) else "none",
                    ),
                    "history": history([SearchEpoch] * epochs, {SearchEpoch: self._entry()}),
                    **({} if self.shapley is None else {"shapley": like(self.shapley.average)}),
                }
            )(name, value)

        return check

    def _built(self, keep: Candidates, partial: int) -> Supernet:
        """Returns a supernet with these candidates and channels: this one, if it has them."""
        own = self.architecture.keep
        if partial == self.network.partial and all(torch.equal(table, own[kind]) for kind, table in keep.items()):
            return self.network
        config = self.config
        with torch.random.fork_rng([]):
            return build_supernet(
                config, self.task.outputs, self.format.shape[0], keep, partial=partial, tie_cells=config.tie_cells
            )

    def _entry(self) -> Part:
        """Returns the parts of an entry of the history that depend on the search."""
        edges, candidates = len(self.space.edges), len(self.space.candidates)
        mixture = row(*[row(*[numeric] * candidates, kind=list)] * edges, kind=list)
        of_kinds = {"entropy": numeric, "skips": integer(), "skip_share": numeric, "mixture": mixture}
        # While alphas rest there are none of the other level.
        readings = [f"train/{name}" for name in ("loss", *self.meters["train"].names)]
        parts = {name: fields(dict.fromkeys(self.space.kinds, part)) for name, part in of_kinds.items()}
        entry = fields({**parts, **dict.fromkeys(readings, numeric), "genotype": _genotype}, may_have_more=True)
        estimate = fields({"shapley/evaluations": integer(1), "shapley/reached": numeric}, may_have_more=True)
        pair = [f"{whose}_{self.task.scored_by.name}" for whose in ("supernet", "derived")]

        decided = optional(table_of(text, table_of(text, table_of(text, numeric))))

        def check(name: str, value: Any) -> None:
            entry(name, value)
            if self.schedule.plan(value["epoch"] - 1).takes_shapley:
                estimate(name, value)
            decided(f"{name}.decided", value.get("decided"))
            for one, other in (pair, reversed(pair)):
                if one in value and other not in value:
                    raise InputError(f"{name}.{other}: is missing")

        return check

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rebuild(state["keep"], state["partial"])
        self.network.load_state_dict(state["network"])
        self.architecture.load_state_dict(state)
        load_optimizer(self.step.weight_optimizer, state["weight_optimizer"])
        load_optimizer(self.step.alpha_optimizer, state["alpha_optimizer"])
        if self.shapley is not None:
            self.shapley.average = {kind: table.clone() for kind, table in state["shapley"].items()}
        self.recorder.history = [SearchEpoch.from_plain(entry) for entry in state["history"]]
        self.graphed.release()


def choices(config: SearchConfig, space: SearchSpace, schedule: SupernetSchedule, epochs: int) -> dict[str, Part]:
    """Returns the structure of the parts that say of what the network was built after so many
    epochs: candidates that are left, and the channels through them."""
    whole_space = config.candidates(space)

    def left(kind: str) -> Part:
        begun = whole_space[kind]

        def check(name: str, value: Any) -> None:
            like(begun)(name, value)
            if (value & ~begun).any():
                raise InputError(f"{name}: has a candidate that the search began without")
            if not schedule.rounds and not value.any(-1).all():
                raise InputError(f"{name}: leaves an edge without a candidate")

        return check

    return {
        "partial": equal(schedule.partial_after(epochs, config.partial)),
        "keep": fields({kind: left(kind) for kind in space.kinds}),
    }


def _genotype(name: str, value: Any) -> None:
    text(name, value)
    try:
        Genotype.parse(value)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
