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
        self.steps_of_epoch = min(len(train) // config.batch_size, len(self.valid) // config.batch_size or 1) or 1
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

    def first(self, count: int) -> Batches:
        """Returns the first `count` validation examples, drawn by chance when the data were split, in
        at least `LEAST_BATCHES` batches.

        They have the size of those of a selection by perturbation, or a fourth of the examples
        where that is less. So all of them are the batches of the selection, if there are as many.
        """
        if count >= LEAST_BATCHES * self.most_in_batch:
            return self._as_selected(count)
        return self.valid.take(count).in_order(count // LEAST_BATCHES, "drop_single")

    def _as_selected(self, count: int) -> Batches:
        config = self.config
        return self.valid.take(count).in_order(config.batch_size, "drop_single", has_independent_examples(config))

    def scores(self, batches: Batches, mixture: Mapping[str, Tensor]) -> Scores:
        """Returns the scores over `batches` under a mixture from which candidates were taken
        away."""
        outputs: list[Tensor] = []
        taken: list[Batch] = []

        def passing() -> Iterator[Batch]:
            for batch in batches.epoch(0):
                # The outputs are kept for a second reading, which needs the answers alone.
                taken.append(Batch(batch.inputs[:0], batch.targets))
                yield batch

        hook = self.steps.network.register_forward_hook(lambda _network, _inputs, output: outputs.append(output))
        try:
            score = self.steps.score(passing(), dict(mixture))
        finally:
            hook.remove()
        parts = [self._score_of(batch, found) for batch, found in zip(taken, outputs, strict=True)]
        return Scores(score, np.array(parts), np.array([batch.size for batch in taken]))

    @torch.no_grad()
    def _score_of(self, batch: Batch, outputs: Tensor) -> float:
        return self.task.score(self.task.read(lambda _: outputs, [batch], self.steps.hardware.device))
