"""What a search can be told: the schema of its YAML and of its command line."""

import math
from dataclasses import dataclass, field
from typing import Literal

from supernet import get_space
from training.data import DataConfig
from training.monitor import StopConfig
from training.optim import OptimizerConfig
from training.precision import Precision
from training.ranges import check_whole


@dataclass
class AlphaConfig:
    """How architecture parameters are trained: Adam (DARTS, appendix A.1)."""

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

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lr) and self.lr >= 0):
            raise ValueError(f"alphas.lr: must be at least 0, not {self.lr}")
        for name, beta in (("beta1", self.beta1), ("beta2", self.beta2)):
            if not 0 <= beta < 1:
                raise ValueError(f"alphas.{name}: must be from 0 to below 1, not {beta}")
        if not (math.isfinite(self.weight_decay) and self.weight_decay >= 0):
            raise ValueError(f"alphas.weight_decay: must be at least 0, not {self.weight_decay}")
        if not (math.isfinite(self.scale) and self.scale >= 0):
            raise ValueError(f"alphas.scale: must be at least 0, not {self.scale}")


@dataclass
class SearchConfig:
    """A differentiable search. Defaults are DARTS as published (Liu et al. 2019)."""

    space: str = "darts"
    """Search space: darts or nasbench201."""
    channels: int = 16
    """Channels C of the first cells."""
    cells: int = 8
    """Number of cells (nasbench201: of each of the three stages)."""
    partial: int = 1
    """Send 1 / partial of the channels through operations; the rest bypasses them (PC-DARTS)."""
    tie_cells: bool = True
    """All cells of a kind share one table of alphas; false: each has its own, and their mean is derived."""
    batch_statistics: bool | None = None
    """Batch norm in cells uses the batch's statistics in evaluation, too; null: as the space was published."""
    order: Literal["first", "second"] = "first"
    """Architecture gradient: first order, or second order through one virtual step of the weights."""
    hessian_vector: Literal["finite", "exact"] = "finite"
    """Second order: Hessian-vector product by central differences (as published) or by double backward."""
    hessian_epsilon: float = 0.01
    """Second order, finite: step of the differences, as a length in the space of weights."""
    epochs: int = 50
    """Passes over the half of the training data that trains the weights."""
    batch_size: int = 64
    """Images a step, for each of the two levels."""
    train_fraction: float = 0.5
    """Share of the training images that trains the weights; the others train the alphas."""
    validate_every: int = 1
    """Epochs between two evaluations of the supernet on the other half."""
    log_every: int = 50
    """Steps between two readings of loss and accuracy."""
    seed: int = 0
    """Seed of everything random."""
    device: str = "auto"
    """auto (cuda where there is one), cpu, cuda, cuda:1 ..."""
    precision: Precision = "auto"
    """Of convolutions and linear layers: bfloat16 (autocast, weights stay float32), float32; auto: bfloat16 on a GPU."""
    kernels: Literal["auto", "reference"] = "auto"
    """auto: Triton kernels on a GPU that they support; reference: plain torch everywhere."""
    graph: bool | None = None
    """Replay the step as a CUDA graph, which changes no result; null: where it can, i.e. on CUDA (not with adagrad)."""
    threads: int | None = None
    """CPU threads; null: one for each core. On the CPU the same bits come out only from the same number."""
    data: DataConfig = field(default_factory=DataConfig)
    """The images."""
    weights: OptimizerConfig = field(default_factory=OptimizerConfig)
    """How the shared weights are trained."""
    alphas: AlphaConfig = field(default_factory=AlphaConfig)
    """How the architecture parameters are trained."""
    stop: StopConfig = field(default_factory=StopConfig)
    """When to end before the last epoch."""

    def __post_init__(self) -> None:
        try:
            get_space(self.space)
        except ValueError as error:
            raise ValueError(f"space: {error}") from error
        for name in ("channels", "cells", "partial", "epochs", "batch_size", "validate_every", "log_every", "threads"):
            check_whole(name, getattr(self, name))
        if not 0 < self.train_fraction < 1:
            raise ValueError(f"train_fraction: must lie between 0 and 1, both excluded, not {self.train_fraction}")
        if not (math.isfinite(self.hessian_epsilon) and self.hessian_epsilon > 0):
            raise ValueError(f"hessian_epsilon: must be above 0, not {self.hessian_epsilon}")
