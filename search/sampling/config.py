"""What every sampling search can be told; each method adds the fields of its sampler."""

import math
from dataclasses import dataclass, field
from typing import Literal

from base.checks import FieldError, InputError, between, inside, whole
from search.sampling.encoding import Encoding
from search.sampling.scores.proxies import PROXIES
from supernet import get_space
from supernet.spaces.skeleton import Stem
from training.hardware import Precision
from training.images.data import DataConfig
from training.optim import OptimizerConfig
from training.run.monitor import StopConfig


@dataclass
class PrefilterConfig:
    """Proposals that look bad before any training are never evaluated (Abdelfattah et al. 2021, section 5)."""

    proxy: str | None = None
    """Zero-cost proxy that ranks proposals; null: all of them are evaluated."""
    factor: int = 10
    """Proposals of which the one that ranks highest is evaluated."""

    def __post_init__(self) -> None:
        if self.proxy is not None and self.proxy not in PROXIES:
            raise FieldError("proxy", PROXIES.unknown(self.proxy))
        between(2, 10_000, self, "factor")


@dataclass
class SamplingConfig:
    """A search that samples whole architectures. Defaults train the shared weights as DARTS trains them, one path a step."""

    space: str = "darts"
    """Search space: darts or nasbench201."""
    channels: int = 16
    """Channels C of the first cells."""
    cells: int = 8
    """Number of cells (nasbench201: of each of the three stages)."""
    stem: Stem = "cifar"
    """What stands before the cells: cifar, one convolution; imagenet, three of stride 2, for images of 224 pixels a side."""
    exclude: list[str] = field(default_factory=list)
    """Candidates of the space to leave out."""
    evaluate: str = "supernet"
    """Where scores come from: supernet, the accuracy of a path with the shared weights; table, the accuracy after 12 epochs in
    the benchmark table; or a zero-cost proxy (synflow, jacob_cov, snip, naswot, parameters, multiply_adds)."""
    evaluations: int = 100
    """Architectures to evaluate with the trained weights (or table, or proxy)."""
    round: int = 10
    """Evaluations between two checkpoints, which are also the points of the curves."""
    evaluated_images: int | None = None
    """Validation images of a whole evaluation; null: all of them."""
    recalibrate: int = 20
    """Training batches, at most all, from which a path takes batch-norm statistics of its own before it is evaluated; 0: those
    that the paths of the training have left."""
    guide: int = 0
    """Evaluations after each epoch of the weights that guide the sampler, of one validation batch each."""
    paths: Literal["uniform", "fair", "sampler"] = "uniform"
    """Paths that train the weights: uniform, one a step (SPOS); fair, each operation once a step (FairNAS); sampler, the
    method's own policy."""
    weights_from: str | None = None
    """Run whose trained supernet is used instead of training one: its directory; all settings of the weights must be equal."""
    batch_statistics: bool | None = None
    """Batch norm in cells uses the batch's statistics in evaluation, too; null: as the space was published."""
    epochs: int = 50
    """Passes over the half of the training data that trains the weights; none where nothing has to be trained."""
    batch_size: int = 64
    """Images a step."""
    train_fraction: float = 0.5
    """Share of the training images that trains the weights; architectures are evaluated on the others."""
    best: int = 10
    """Architectures in the report, saved as genotype_1.json and so on."""
    tabular: str | None = None
    """A benchmark table (CSV, .gz): the truth that the report compares scores with, and the score itself with evaluate
    table."""
    latency: str | None = None
    """Adds latency to what architectures cost: measured, the sum of their operations' on this device in ms; or NAME, the
    table's column latency_ms_NAME; null: it is left out."""
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
    threads: int | None = None
    """CPU threads; null: one for each core. On the CPU the same bits come out only from the same number."""
    data: DataConfig = field(default_factory=DataConfig)
    """The images."""
    weights: OptimizerConfig = field(default_factory=OptimizerConfig)
    """How the shared weights are trained."""
    prefilter: PrefilterConfig = field(default_factory=PrefilterConfig)
    """What is not worth an evaluation."""
    stop: StopConfig = field(default_factory=StopConfig)
    """When to end before the last evaluation."""

    def __post_init__(self) -> None:
        try:
            space = get_space(self.space)
        except InputError as error:
            raise FieldError("space", *error.parts) from error
        whole(self, "channels", "cells", "evaluations", "round", "evaluated_images", "epochs", "batch_size", "best")
        whole(self, "log_every", "threads")
        between(0, 1_000_000, self, "recalibrate", "guide", said="from 0 to a million")
        inside(self, "train_fraction")
        for name in self.exclude:
            if name not in space.candidates:
                raise FieldError("exclude", f"space {space.name} has {', '.join(space.candidates)}, not {name!r}")
        Encoding(space, self.exclude)
        for name in ("tabular", "weights_from"):
            if getattr(self, name) == "":
                raise FieldError(name, "is empty; name a path, or null")
        if self.evaluate not in ("supernet", "table", *PROXIES):
            known = ", ".join(("supernet", "table", *PROXIES))
            raise FieldError("evaluate", f"must be one of {known}, not {self.evaluate!r}")
        if self.tabular is not None and space.skeleton.name != "nasbench201":
            cells = f"it has cells of NAS-Bench-201, not of space {space.name}"
            raise FieldError("tabular", f"{cells}; leave it out or set space to nasbench201")
        if self.evaluate == "table" and self.tabular is None:
            raise FieldError("evaluate", "table needs a benchmark table; name its file with --tabular")
        if self.latency not in (None, "measured") and self.tabular is None:
            column = f"{self.latency} is a column of a table, and there is none"
            raise FieldError("latency", f"{column}; set tabular or take measured")
        if self.weights_from is not None and self.evaluate != "supernet":
            raise FieldError(
                "weights_from", f"{self.evaluate} scores without weights; leave it out or set evaluate to supernet"
            )

    @property
    def needs_images(self) -> bool:
        """A benchmark table alone needs no images."""
        return self.evaluate != "table" or self.prefilter.proxy is not None

    @property
    def trained_epochs(self) -> int:
        """Epochs of the shared weights that the search itself runs."""
        return self.epochs if self.evaluate == "supernet" and self.weights_from is None else 0

    @property
    def planned_epochs(self) -> int:
        """Those, and the rounds of evaluations that follow."""
        return self.trained_epochs + math.ceil(self.evaluations / self.round)
