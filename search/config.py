"""The common part of the configurations of all searches."""

from dataclasses import dataclass, field
from typing import Literal

from base.checks import FieldError, InputError, inside, whole
from base.texts import show
from supernet import SearchSpace, get_space
from supernet.spaces.skeleton import Stem
from training.optim import OptimizerConfig
from training.run.base import MAY_CHANGE
from training.tasks.config import TrainingConfig


@dataclass
class SupernetSearchConfig(TrainingConfig):
    """The settings of any search: its space, its supernet, and how the weights of that are
    trained."""

    space: str = "darts"
    """Search space: darts or nasbench201."""
    channels: int = 16
    """Channels C of the first cells."""
    cells: int = 8
    """Number of cells (nasbench201: of each of the three stages)."""
    stem: Stem = "cifar"
    """The layers before the cells: cifar, one convolution; imagenet, three of stride 2, for images
    of 224 pixels a side."""
    exclude: list[str] = field(default_factory=list)
    """Candidates of the space to leave out."""
    batch_statistics: bool | None = None
    """Batch norm in cells uses the batch's statistics in evaluation, too; null: as the space was
    published."""
    epochs: int = 50
    """Passes over the share of the training data that trains the weights; none where nothing has to
    be trained."""
    batch_size: int = 64
    """Images a step, for each of the two levels where alphas are trained."""
    train_fraction: float = 0.5
    """Share of the training images that trains the weights; the others train alphas, or
    architectures are evaluated on them."""
    tabular: str | None = field(default=None, metadata=MAY_CHANGE)
    """A benchmark table (CSV, .gz) in which genotypes are looked up, for the log, the curves and
    the report alone."""
    kernels: Literal["auto", "reference"] = "auto"
    """auto: Triton kernels on a GPU, compiled ones on the CPU, plain torch where these cannot run;
    reference: plain torch everywhere."""
    weights: OptimizerConfig = field(default_factory=OptimizerConfig)
    """The training of the shared weights."""

    def __post_init__(self) -> None:
        super().__post_init__()
        space = self.search_space
        whole(self, "channels", "cells", "epochs", "batch_size")
        inside(self, "train_fraction")
        for name in self.exclude:
            if name not in space.candidates:
                raise FieldError("exclude", f"space {space.name} has {', '.join(space.candidates)}, not {show(name)}")
        if self.tabular == "":
            raise FieldError("tabular", "is empty; name a path, or null")
        if self.tabular is not None and space.skeleton.name != "nasbench201":
            cells = f"it has cells of NAS-Bench-201, not of space {space.name}"
            raise FieldError("tabular", f"{cells}; leave it out or set space to nasbench201")

    def changing(self) -> list[str]:
        """Returns the fields whose effect depends on the number of epochs."""
        return [] if self.weights.lr_min == self.weights.lr else ["weights.lr_min"]

    @property
    def search_space(self) -> SearchSpace:
        """Returns the space of that name. Raises FieldError for an unknown one."""
        try:
            return get_space(self.space)
        except InputError as error:
            raise FieldError("space", *error.parts) from error
