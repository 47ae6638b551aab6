"""The configuration of a retraining: the schema of its YAML and of its command line."""

from dataclasses import dataclass, field
from typing import Literal

from base.checks import FieldError, at_least, below_one, between, whole
from base.texts import show
from supernet.spaces.skeleton import Stem
from training.optim import OptimizerConfig
from training.run.base import MAY_CHANGE
from training.tasks.config import TrainingConfig


@dataclass
class RetrainConfig(TrainingConfig):
    """Training the network of one genotype from scratch.

    Defaults are DARTS as published (Liu et al. 2019, appendix A.2).
    """

    genotype: str = ""
    """The genotype to train: a file, in any text form or a log, FILE#NUMBER or FILE#NAME for one of
    several in it, the name of a published one (DARTS_V2, NASNet-A ...), or the text itself."""
    channels: int | None = None
    """Channels C of the first cells; null: as the skeleton has it (darts 36, with stem imagenet 48;
    nasbench201 16)."""
    cells: int | None = None
    """Number of cells (nasbench201: of each of the three stages); null: as the skeleton has it
    (darts 20, with stem imagenet 14; nasbench201 5)."""
    stem: Stem = "cifar"
    """The layers before the cells: cifar, one convolution; imagenet, three of stride 2, for images
    of 224 pixels a side."""
    epochs: int = 600
    """Passes over the training data."""
    batch_size: int = 96
    """Images a step."""
    auxiliary_weight: float = 0.4
    """Weight of the auxiliary head's loss; 0: no head (nasbench201 has no place for one)."""
    drop_path: float = 0.2
    """Probability that an operation's output is dropped for an image: rises linearly from 0 to just
    below this value."""
    random_genotypes: int = field(default=0, metadata=MAY_CHANGE)
    """Number of random genotypes of the same space that are trained afterwards in the same way,
    each in a run of its own below this one, and compared with: a search is worth its time if its
    genotype does better than they do. No stop ends them."""
    validation_fraction: float = 0.0
    """Share of the training images that is held out and evaluated after each epoch; 0: train on all
    of them."""
    kernels: Literal["auto", "reference"] = "auto"
    """auto: compiled kernels for the cells on the CPU, plain torch where these cannot run;
    reference: plain torch everywhere."""
    graph: bool | None = field(default=None, metadata=MAY_CHANGE)
    """Replay the step as a CUDA graph, which changes no result; null: where it can, i.e. on CUDA
    (not with adagrad)."""
    weights: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(lr_min=0.0))
    """The training of the weights."""

    def changing(self) -> list[str]:
        """Returns the fields whose effect depends on the number of epochs."""
        found = {"weights.lr_min": self.weights.lr_min != self.weights.lr, "drop_path": self.drop_path > 0}
        return [name for name, changes in found.items() if changes]

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, "channels", "cells", "epochs")
        if self.batch_size < 2:
            raise FieldError("batch_size", f"must be at least 2, which batch norm needs, not {show(self.batch_size)}")
        whole(self, "batch_size")
        at_least(0, self, "auxiliary_weight", most=1000)
        between(0, 1000, self, "random_genotypes")
        below_one(self, "drop_path", "validation_fraction")
        if self.stop.score is not None and self.validation_fraction == 0:
            raise FieldError("stop.score", "needs images to validate on; hold some out with validation_fraction above 0")
