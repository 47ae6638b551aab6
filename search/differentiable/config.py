"""The configuration of a differentiable search: the schema of its YAML and of its command line."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from base.checks import FieldError, above_zero, at_least, below_one, between, choices, whole
from base.texts import show
from search.attribution.update import ShapleyConfig
from search.config import SupernetSearchConfig
from search.differentiable.early_stop import EarlyStopConfig
from search.differentiable.regularisers import RegulariserConfig, get_regulariser
from search.differentiable.relaxations import RelaxationConfig, get_relaxation
from search.differentiable.selection import SelectionConfig
from supernet import SearchSpace
from training.run.base import MAY_CHANGE

Order = Literal["first", "second"]
HessianVector = Literal["finite", "exact"]


@dataclass
class AlphaConfig:
    """The training of architecture parameters: Adam (DARTS, appendix A.1), unless they follow
    Shapley values."""

    lr: float = 3e-4
    """Learning rate, constant."""
    beta1: float = 0.5
    """Adam's decay of the first moment."""
    beta2: float = 0.999
    """Adam's decay of the second moment."""
    weight_decay: float = 1e-3
    """Weight decay (L2 penalty)."""
    scale: float = 1e-3
    """Standard deviation of the initial values."""
    warmup: float = 0.0
    """Share of the epochs (of each stage) in which only the weights are trained, before the alphas
    are."""
    update: Literal["gradient", "shapley"] = "gradient"
    """gradient: in every step, by Adam; shapley: once an epoch, along the contributions of the
    candidates to the score on validation images (Shapley-NAS), which takes many evaluations."""

    def __post_init__(self) -> None:
        choices(self)
        at_least(0, self, "lr", "weight_decay", "scale", most=1000)
        below_one(self, "beta1", "beta2")
        below_one(self, "warmup")


@dataclass
class StagesConfig:
    """Stages of equal length after the first, in which the supernet gets narrower and wider (DrNAS,
    Chen et al. 2021, progressive learning)."""

    keep: list[int] = field(default_factory=list)
    """Strongest candidates that stay on each edge, one number a further stage: [4]; []: there is
    one stage."""
    partial: list[int] = field(default_factory=list)
    """The value of partial, one number a further stage: [4]."""

    def __post_init__(self) -> None:
        if len(self.keep) != len(self.partial):
            raise FieldError(
                "", f"keep and partial need one number each a further stage, not {show(self.keep)} and {show(self.partial)}"
            )
        for name in ("keep", "partial"):
            if any(not 1 <= number <= 4096 for number in getattr(self, name)):
                raise FieldError(name, f"numbers from 1 to 4096, not {show(getattr(self, name))}")
        if any(later >= earlier for earlier, later in pairwise(self.keep)):
            raise FieldError("keep", f"each stage prunes, so numbers fall, not {show(self.keep)}")

    def at(self, epoch: int, epochs: int) -> tuple[int, float]:
        """Returns the stage (from 0) that `epoch` (from 0) of a search of so many epochs belongs
        to, and the share of that stage that is behind when the epoch begins."""
        stages = 1 + len(self.keep)
        number = min(epoch * stages // epochs, stages - 1)
        return number, (epoch * stages - number * epochs) / epochs


@dataclass
class SearchConfig(SupernetSearchConfig):
    """A differentiable search. Defaults are DARTS as published (Liu et al. 2019)."""

    partial: int = 1
    """Send 1 / partial of the channels through operations; the rest bypasses them (PC-DARTS)."""
    edge_normalization: bool = False
    """An edge has a weight of its own, a softmax over the edges into its node (PC-DARTS)."""
    auxiliary_skip: float = 0.0
    """Weight of a skip connection that is added to every edge, in the first epoch; it falls
    linearly to 0 (DARTS-)."""
    tie_cells: bool = True
    """All cells of a kind share one table of alphas; false: each has its own, and their mean is
    derived."""
    bilevel: bool = True
    """Alphas descend the loss of validation images; false: that of the same training images as the
    weights (SNAS)."""
    order: Order = "first"
    """Architecture gradient: first order, or second order through one virtual step of the
    weights."""
    hessian_vector: HessianVector = "finite"
    """Second order: Hessian-vector product by central differences (as published) or by double
    backward."""
    hessian_epsilon: float = 0.01
    """Second order, finite: step of the differences, as a length in the space of weights."""
    validate_every: int = 1
    """Epochs between two evaluations, of the supernet and of the derived cell with its weights, on
    the other half."""
    eigenvalue_every: int = 1
    """Epochs between two readings of the dominant eigenvalue of the validation Hessian of the
    alphas; 0: never."""
    graph: bool | None = field(default=None, metadata=MAY_CHANGE)
    """Replay the step as a CUDA graph, which changes no result; null: where it can, i.e. on CUDA
    (not with adagrad)."""
    alphas: AlphaConfig = field(default_factory=AlphaConfig)
    """The training of the architecture parameters."""
    shapley: ShapleyConfig = field(default_factory=ShapleyConfig)
    """The estimate of Shapley values, with alphas.update shapley."""
    relaxation: RelaxationConfig = field(default_factory=RelaxationConfig)
    """The way from alphas to weights of the candidates."""
    regulariser: RegulariserConfig = field(default_factory=RegulariserConfig)
    """A penalty on the alphas."""
    stages: StagesConfig = field(default_factory=StagesConfig)
    """Pruning and widening on the way."""
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    """The choice of the genotype."""
    early_stop: EarlyStopConfig = field(default_factory=EarlyStopConfig)
    """The reaction to a collapse of the search."""

    def __post_init__(self) -> None:
        super().__post_init__()
        space = self.search_space
        whole(self, "partial", "validate_every")
        above_zero(self, "hessian_epsilon", least=1e-12, most=1000)
        between(0, 1_000_000, self, "eigenvalue_every", said="from 0 (never) to a million")
        between(0, 1000, self, "auxiliary_skip")
        if set(space.candidates) - {"none"} <= set(self.exclude):
            raise FieldError("exclude", f"nothing is left of space {space.name} but none")
        self._check_stages(space)
        self._check_auxiliary_skip(space)
        self._check_gradient()
        self._check_shapley()
        self._check_early_stop(space)

    def changing(self) -> list[str]:
        """Returns the fields whose effect depends on the number of epochs."""
        relaxation, regulariser = self.relaxation, self.regulariser
        found = {
            "stages": bool(self.stages.keep),
            "alphas.warmup": self.alphas.warmup > 0,
            "relaxation.temperature_end": relaxation.temperature_end not in (None, relaxation.temperature),
            "regulariser.weight_end": regulariser.weight_end not in (None, regulariser.weight),
            "auxiliary_skip": self.auxiliary_skip > 0,
        }
        return [*super().changing(), *(name for name, changes in found.items() if changes)]

    def _check_stages(self, space: SearchSpace) -> None:
        """Raises FieldError if a stage cannot divide the channels, prunes nothing, widens backwards
        or trains no alphas."""
        keep, left = self.stages.keep, len(space.candidates) - len(set(self.exclude))
        partials = [self.partial, *self.stages.partial]
        if any(self.channels % partial for partial in partials):
            cut = f"{self.channels} channels cannot be cut into equal parts by each of {show(partials)}"
            raise FieldError("partial", f"{cut}; set other channels or other parts")
        if keep and keep[0] >= left:
            raise FieldError("stages.keep", f"{keep[:1]} prunes none of the {left} candidates in space {space.name}; keep less")
        if any(later > earlier for earlier, later in pairwise(partials)):
            rule = "a stage widens or leaves it, so numbers fall or stay from partial on"
            raise FieldError("stages.partial", f"{rule}, not {show(partials)}")
        first = self.phases.first
        stages = [self.stages.at(epoch, first) for epoch in range(first)]
        if len({number for number, behind in stages if behind >= self.alphas.warmup}) <= len(keep):
            none = f"with {first} epochs a stage has none that trains the alphas"
            raise FieldError("alphas.warmup", f"{none}; take more epochs, a smaller share or fewer stages")
        if self.selection.name == "perturbation" and keep[-1:] == [1]:
            mend = "keep more, or set selection.name to strength"
            raise FieldError("stages.keep", f"1 leaves perturbation nothing to choose; {mend}")

    def _check_auxiliary_skip(self, space: SearchSpace) -> None:
        """Raises FieldError for a skip connection beside candidates that it does not go with."""
        if not self.auxiliary_skip:
            return
        if not self._has_skip(space):
            raise FieldError("auxiliary_skip", "it is the weight of skip_connect, which is no candidate here; set it to 0")
        if get_relaxation(self.relaxation.name).one_path:
            second = "an added skip connection would be a second one; set it to 0 or take another relaxation"
            raise FieldError("auxiliary_skip", f"{self.relaxation.name} runs one operation an edge, and {second}")
        if self.stages.keep:
            mend = "set it to 0 or take stages away"
            raise FieldError("auxiliary_skip", f"stages would prune skip connections that it needs; {mend}")

    def _check_gradient(self) -> None:
        """Raises FieldError if the regulariser, the order or the graph does not go with the
        relaxation."""
        regulariser, relaxation = get_regulariser(self.regulariser.name), get_relaxation(self.relaxation.name)
        if regulariser.needs_relaxation not in (None, self.relaxation.name):
            mend = f"set relaxation.name to {regulariser.needs_relaxation} or take another regulariser"
            raise FieldError("regulariser.name", f"{self.regulariser.name} {regulariser.because}; {mend}")
        if not self.bilevel and self.order == "second":
            raise FieldError(
                "order",
                "second looks from the validation loss through a step on the training loss, and with bilevel false there is "
                "only one loss; set order to first",
            )
        if relaxation.one_path and self.graph:
            other = "runs other operations in every step, which no CUDA graph can; set it to null"
            raise FieldError("graph", f"{self.relaxation.name} {other}")

    def _check_shapley(self) -> None:
        """Raises FieldError if alphas that follow Shapley values meet parts that need their
        gradient, or paths from which no candidate can leave."""
        if self.alphas.update != "shapley":
            return
        mend = "or set alphas.update to gradient"
        if get_relaxation(self.relaxation.name).one_path:
            runs = f"shapley takes candidates out of a mixture, and {self.relaxation.name} runs one operation an edge"
            raise FieldError("alphas.update", f"{runs}; take another relaxation, {mend}")
        followed = {
            "edge_normalization": (self.edge_normalization, "weights of edges follow the gradient", "false"),
            "regulariser.name": (self.regulariser.name != "none", f"{self.regulariser.name} adds to the gradient", "none"),
            "order": (self.order == "second", "second is a way to the gradient", "first"),
            "bilevel": (not self.bilevel, "false says that alphas follow the gradient of the training loss", "true"),
        }
        for name, (is_set, gradient, usual) in followed.items():
            if is_set:
                raise FieldError(name, f"{gradient}, which alphas.update shapley does not take; set it to {usual}, {mend}")

    def _check_early_stop(self, space: SearchSpace) -> None:
        """Raises FieldError if the search cannot end early, or if the sign that it ends for cannot
        be seen."""
        stop = self.early_stop
        if stop.when != "never" and self.selection.needs_last_epoch:
            later = f"{self.selection.name} selects after the last epoch, which an early stop would leave out"
            raise FieldError("early_stop.when", f"{later}; set it to never")
        if stop.when in ("eigenvalue", "either"):
            if not self.eigenvalue_every:
                raise FieldError("early_stop.when", "needs the eigenvalue; set eigenvalue_every to 1")
            needed, readings = stop.window + stop.back, self._eigenvalues_judged()
            if readings < needed:
                raise FieldError(
                    "early_stop.when",
                    f"{needed} readings of the eigenvalue are compared (window + back), and there are {readings} from start to "
                    "the last epoch but one; set eigenvalue_every to 1, or a smaller window",
                )
        if stop.when in ("skips", "either") and not self._has_skip(space):
            raise FieldError("early_stop.when", "skip_connect is no candidate here; take eigenvalue or never")

    def _has_skip(self, space: SearchSpace) -> bool:
        return "skip_connect" in space.candidates and "skip_connect" not in self.exclude

    def _eigenvalues_judged(self) -> int:
        """Returns the number of readings from the start of early stopping to the last epoch but
        one."""
        begin = self.early_stop.start
        epochs = (epoch for epoch in range(self.epochs - 1) if epoch / self.epochs >= begin)
        return sum((epoch + 1) % self.eigenvalue_every == 0 for epoch in epochs)

    def candidates(self, space: SearchSpace) -> dict[str, Tensor]:
        """Returns the candidates of `space` that the search begins with, {kind: bool
        [edges, candidates]}."""
        left = torch.tensor([name not in self.exclude for name in space.candidates])
        return {kind: left.expand(len(space.edges), -1).clone() for kind in space.kinds}
