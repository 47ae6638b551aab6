"""The trained supernet of a differentiable search and its validation examples, as an explanation
measures them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from base.checks import InputError
from search.differentiable.method import DifferentiableRun
from search.differentiable.relaxations import Mixture
from search.differentiable.selection import choosable
from search.differentiable.steps import Steps
from search.differentiable.trainer import new_architecture
from search.explain.explanation import ExplainOptions
from search.supernet_build import has_independent_examples
from supernet import Path, get_space
from training.hardware import Hardware
from training.metrics import Batch
from training.run.config import RunOptions
from training.tasks.task import Batches, Log, check_parts, open_task

LEAST_BATCHES = 4
"""Batches that an interval needs at least."""


@dataclass(frozen=True, order=True)
class Candidate:
    """An operation on an edge of a kind of cell."""

    kind: str
    edge: int
    """Row of the mixture."""
    column: int
    """Column of the mixture."""


@dataclass(frozen=True, eq=False)
class Scores:
    """The score of a supernet on all examples, and on each batch."""

    score: float
    parts: np.ndarray
    """Score of each batch, float64 [batches]."""
    counts: np.ndarray
    """Examples of each batch, [batches]."""


class TrainedSupernet:
    """The supernet of a run with its weights, on a device, and the examples that judged it.

    Everything is measured as a selection by perturbation does it (`Steps.score`): under the mixture
    that the genotype is derived from, with the statistics of each batch. A candidate that is taken
    away weighs 0, in all cells of its kind; the other weights stay as they are. Of a search whose
    steps run a single path that is the whole mixture, too.
    """

    def __init__(self, run: DifferentiableRun, options: ExplainOptions, log: Log = print) -> None:
        """Reads the images. Raises InputError where they or the checkpoint cannot be used, and for
        too few validation examples."""
        config = replace(run.config, data=replace(run.config.data, **options.data))
        self.config = config
        self.space = get_space(config.space)
        network = run.network.to(options.device)
        hardware = Hardware(options.device, config.precision)
        self.task = open_task(config, hardware, RunOptions(run.path, resume=True, overwrite=False), log)
        check_parts(self.task, run.path, config.train_fraction, config.seed)
        train, self.valid = self.task.train.split(config.train_fraction, config.seed)
        if len(self.valid) < 2 * LEAST_BATCHES:
            raise InputError(
                f"{run.path}: its {len(self.valid)} validation examples are too few for {LEAST_BATCHES} batches, which an "
                f"interval needs; search with {2 * LEAST_BATCHES} or more"
            )
        self.has_alpha_steps = config.bilevel and config.alphas.update == "gradient"
        """Whether alphas descend a loss of their own."""
        parts = (train, self.valid) if self.has_alpha_steps else (train,)
        self.steps_of_epoch = min(len(part) // config.batch_size for part in parts)
        """Steps of an epoch of the search."""
        cells = None if config.tie_cells else network.cells_of_kind
        self.architecture = new_architecture(config, self.space, cells, options.device)
        self.architecture.load_state_dict(run.architecture.state_dict())
        self.steps = Steps(network, self.architecture, self.task, hardware, config.weights, config.alphas)
        self.mixture: Mixture = {kind: table.detach() for kind, table in self.architecture.mean().items()}
        self.keep = self.architecture.keep
        assert run.genotype is not None, "a finished search has one"
        self.path = Path.of_genotype(run.genotype, self.space)

    @cached_property
    def candidates(self) -> list[Candidate]:
        """Returns the candidates that are left and that a genotype of the space can have."""
        possible = choosable(self.space)
        return [
            Candidate(kind, edge, column)
            for kind in self.space.kinds
            for edge, column in (self.keep[kind] & possible).nonzero().tolist()
        ]

    @cached_property
    def chosen(self) -> list[Candidate]:
        """Returns the operations of the derived cells, by kind and edge."""
        choices = {kind: torch.as_tensor(row).tolist() for kind, row in self.path.choices.items()}
        return [
            Candidate(kind, edge, column)
            for kind in self.space.kinds
            for edge, column in enumerate(choices[kind])
            if column >= 0
        ]

    @property
    def weighed(self) -> list[Candidate]:
        """Returns those of the derived cells that a margin says something of: the supernet still has
        them, and they are not inert."""
        return [one for one in self.chosen if self.has(one) and not self.is_inert(one)]

    @property
    def in_percent(self) -> bool:
        """Returns whether the score is a share that reports write as a percentage."""
        return self.task.scored_by.percent

    def has(self, candidate: Candidate) -> bool:
        """Returns whether the supernet still has it."""
        return bool(self.keep[candidate.kind][candidate.edge, candidate.column])

    def is_inert(self, candidate: Candidate) -> bool:
        """Returns whether it cannot change anything that another one is there beside: `none`, whose
        output is 0."""
        others = self.keep[candidate.kind][candidate.edge].sum() > 1
        return self.space.candidates[candidate.column] == "none" and bool(others)

    def edge(self, candidate: Candidate) -> str:
        """Returns the name of its edge: "0 to 3"."""
        source, target = self.space.edges[candidate.edge]
        return f"{source} to {target}"

    def operation(self, candidate: Candidate) -> str:
        """Returns the name of the operation."""
        return self.space.candidates[candidate.column]

    def without(self, candidates: Iterable[Candidate]) -> Mixture:
        """Returns the mixture with the weight 0 for all of them."""
        tables = {kind: table.clone() for kind, table in self.mixture.items()}
        for candidate in candidates:
            tables[candidate.kind][..., candidate.edge, candidate.column] = 0
        return tables

    @cached_property
    def most_in_batch(self) -> int:
        """Returns the number of examples in a whole batch of the selection by perturbation."""
        return next(self._as_selected(len(self.valid)).epoch(0)).size

    def first(self, count: int, least: int = 1) -> Batches:
        """Returns the first `count` validation examples, drawn by chance when the data were split, in
        at least so many batches.

        They have the size of those of a selection by perturbation, or less where there would be too
        few. So all of the examples are the batches of the selection, if it has as many.
        """
        if count >= least * self.most_in_batch:
            return self._as_selected(count)
        return self.valid.take(count).in_order(count // least, "drop_single")

    def _as_selected(self, count: int) -> Batches:
        config = self.config
        return self.valid.take(count).in_order(config.batch_size, "drop_single", has_independent_examples(config))

    def scores(self, batches: Batches, mixture: Mapping[str, Tensor]) -> Scores:
        """Returns the scores over `batches` under a mixture from which candidates were taken
        away."""
        outputs: list[Tensor] = []
        parts: list[float] = []
        counts: list[int] = []

        def passing() -> Iterator[Batch]:
            for batch in batches.epoch(0):
                yield batch
                parts.append(self._score_of(batch, outputs.pop()))
                counts.append(batch.size)

        hook = self.steps.network.register_forward_hook(lambda _network, _inputs, output: outputs.append(output))
        try:
            score = self.steps.score(passing(), dict(mixture))
        finally:
            hook.remove()
        return Scores(score, np.array(parts), np.array(counts))

    @torch.no_grad()
    def _score_of(self, batch: Batch, outputs: Tensor) -> float:
        return self.task.score(self.task.read(lambda _: outputs, [batch], self.steps.hardware.device))
