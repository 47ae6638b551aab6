"""The schedule of a differentiable search: stages, warm-up of the alphas, rounds of perturbation,
end.

Every answer is a function of the epoch or of the history alone, so that a resumed search comes to
the same ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from search.differentiable.config import SearchConfig, StagesConfig
from search.differentiable.early_stop import Collapse, EarlyStopConfig, reason_to_stop
from search.differentiable.selection import perturbation_rounds
from search.history import SearchEpoch
from supernet import SearchSpace
from training.optim import OptimizerConfig, cosine
from training.schedule import Extension, Phases


@dataclass(frozen=True)
class Stage:
    """A stage after the first one, in which the supernet is narrower and wider (DrNAS, Chen et al.
    2021)."""

    number: int
    """Number of the stage from 0; the first one that prunes is 1."""
    keep: int
    """Number of the strongest candidates that stay on each edge."""
    partial: int
    """1 / partial of the channels go through the candidates."""


@dataclass(frozen=True)
class EpochPlan:
    """The plan of an epoch: its beginning, and the parameters that move in it."""

    rate: float
    """Learning rate of the weights."""
    moves_alphas: bool = True
    """Whether alphas are trained beside the weights, by their gradient."""
    takes_shapley: bool = False
    """Whether alphas move by Shapley values before the weights are trained."""
    begins: tuple[Stage, ...] = ()
    """Stages that begin with the epoch."""
    fresh_optimizer: bool = False
    """Whether the optimiser of the weights forgets its momentum."""
    decides: int | None = None
    """Round of the selection by perturbation, from 0, that begins with the epoch; None if there is
    no decision."""


@dataclass(frozen=True)
class SupernetSchedule:
    """The operations that exist, and the parameters that move, in each epoch of a search.

    The epochs of the search come first, in stages of equal length. If the selection is by
    perturbation, epochs follow in which the supernet is trained between its decisions.
    """

    epochs: int
    """Epochs of the search itself."""
    weights: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimiser of the weights; its learning rates are those of the first and the last epoch of the
    search."""
    stages: StagesConfig = field(default_factory=StagesConfig)
    warmup: float = 0.0
    """Share of each stage in which only the weights are trained."""
    rounds: int = 0
    """Rounds of the selection by perturbation; 0 for another selection."""
    tune_epochs: int = 1
    """Epochs from one round to the next."""
    early_stop: EarlyStopConfig = field(default_factory=EarlyStopConfig)
    extended: Sequence[tuple[int, Extension]] = ()
    """Times that the search went on for longer. Stages and warm-up belong to the epochs that it was
    begun for."""
    by_shapley: bool = False
    """Whether alphas follow Shapley values instead of their gradient (Shapley-NAS)."""

    @classmethod
    def of(cls, config: SearchConfig, space: SearchSpace) -> "SupernetSchedule":
        """Returns the schedule of a search that `config` describes."""
        rounds = perturbation_rounds(space) if config.selection.needs_last_epoch else 0
        return cls(
            config.epochs,
            config.weights,
            config.stages,
            config.alphas.warmup,
            rounds,
            config.selection.tune_epochs,
            config.early_stop,
            tuple(config.extended),
            config.alphas.update == "shapley",
        )

    @property
    def phases(self) -> Phases:
        """Returns the phases of its schedules."""
        return Phases(self.epochs, self.extended)

    @property
    def planned_epochs(self) -> int:
        """Returns the number of all epochs: a single one follows the last round."""
        return self.epochs + ((self.rounds - 1) * self.tune_epochs + 1 if self.rounds else 0)

    def plan(self, epoch: int) -> EpochPlan:
        """Returns the plan of `epoch`, from 0."""
        if epoch >= self.epochs:
            return self._tuning(epoch - self.epochs)
        stage, behind = self._stage(epoch)
        before = self._stage(epoch - 1)[0] if epoch else 0
        begins = tuple(
            Stage(number, self.stages.keep[number - 1], self.stages.partial[number - 1])
            for number in range(before + 1, stage + 1)
        )
        return EpochPlan(
            cosine(*self.phases.place(epoch), self.weights.lr, self.weights.lr_min),
            moves_alphas=behind >= self.warmup and not self.by_shapley,
            takes_shapley=behind >= self.warmup and self.by_shapley,
            begins=begins,
        )

    def has_moved_alphas(self, epochs: int) -> bool:
        """Returns whether alphas were trained by their gradient in one of the first so many
        epochs."""
        return any(self.plan(epoch).moves_alphas for epoch in range(epochs))

    def _stage(self, epoch: int) -> tuple[int, float]:
        first = self.phases.first
        return self.stages.at(min(epoch, first - 1), first)

    def partial_after(self, epochs: int, first: int) -> int:
        """Returns the divisor of the channels after so many epochs, at least one, of a search that
        began with `first`."""
        stage, _ = self._stage(epochs - 1)
        return self.stages.partial[stage - 1] if stage else first

    def _tuning(self, epoch: int) -> EpochPlan:
        """Returns the plan of an epoch after the search, counted from 0.

        The authors of DARTS-PT ran it with a fresh optimiser, at a tenth of the search's first
        rate.
        """
        number, rest = divmod(epoch, self.tune_epochs)
        return EpochPlan(
            self.weights.lr / 10,
            moves_alphas=not self.by_shapley,
            takes_shapley=self.by_shapley,
            fresh_optimizer=epoch == 0,
            decides=None if rest else number,
        )

    def collapse(self, history: Sequence[SearchEpoch]) -> Collapse | None:
        """Returns the collapse that ends the search after the last epoch of `history`, as
        configured; None to go on."""
        return reason_to_stop(history, self.early_stop, self.epochs)
