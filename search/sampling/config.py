"""The configuration of all sampling searches; each method adds the fields of its sampler."""

import math
from dataclasses import dataclass, field
from typing import Literal

from base.checks import FieldError, between, whole
from base.texts import excerpt, show
from search.config import SupernetSearchConfig
from search.sampling.encoding import Encoding
from search.sampling.scores.proxies import PROXIES
from training.run.base import MAY_CHANGE

PathPolicy = Literal["uniform", "fair", "sampler"]


@dataclass
class PrefilterConfig:
    """Proposals that look bad before any training are never evaluated (Abdelfattah et al. 2021,
    section 5)."""

    proxy: str | None = None
    """The measure that ranks proposals: supernet, the score (see --score) on one batch of the
    validation images with the shared weights; a zero-cost proxy, which has a score of its own; null:
    all of them are evaluated."""
    factor: int = 10
    """Proposals of which the one that ranks highest is evaluated."""

    def __post_init__(self) -> None:
        if self.proxy not in (None, "supernet", *PROXIES):
            raise FieldError("proxy", f"must be one of {', '.join(('supernet', *PROXIES))}, not {show(self.proxy)}")
        between(2, 10_000, self, "factor")


@dataclass
class SamplingConfig(SupernetSearchConfig):
    """A search that samples whole architectures.

    Defaults train the shared weights as DARTS trains them, one path a step.
    """

    evaluate: str = "supernet"
    """The source of scores: supernet, the task's score (see --score) of a path with the shared
    weights; table, the accuracy after 12 epochs in the benchmark table; or a zero-cost proxy
    (synflow, jacob_cov, snip, naswot, parameters, multiply_adds)."""
    evaluations: int = field(default=100, metadata=MAY_CHANGE)
    """Architectures to evaluate with the trained weights (or table, or proxy)."""
    round: int = 10
    """Evaluations between two checkpoints, which are also the points of the curves."""
    evaluated_images: int | None = None
    """Validation images of a whole evaluation; null: all of them."""
    recalibrate: int = 20
    """Training batches, at most all, from which a path takes batch-norm statistics of its own
    before it is evaluated; 0: those that the paths of the training have left."""
    guide: int = 0
    """Evaluations after each epoch of the weights that guide the sampler, each the score of one
    validation batch."""
    paths: PathPolicy = "uniform"
    """Paths that train the weights: uniform, one a step (SPOS); fair, each operation once a step
    (FairNAS); sampler, the method's own policy."""
    weights_from: str | None = None
    """Run whose trained supernet is used instead of training one: its directory; all settings of
    the weights must be equal."""
    best: int = 10
    """Architectures in the report, saved as genotype_1.json and so on."""
    tabular: str | None = None
    """A benchmark table (CSV, .gz): the truth that the report compares scores with, and the score
    itself with evaluate table."""
    latency: str | None = None
    """Adds latency to the costs of architectures: measured, the sum of their operations' on this
    device in ms; or NAME, the table's column latency_ms_NAME; null: it is left out."""
    prefilter: PrefilterConfig = field(default_factory=PrefilterConfig)
    """The filter of proposals before their evaluation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, "evaluations", "round", "evaluated_images", "best")
        between(0, 1_000_000, self, "recalibrate", "guide", said="from 0 to a million")
        Encoding(self.search_space, self.exclude)
        if self.weights_from == "":
            raise FieldError("weights_from", "is empty; name a path, or null")
        if self.evaluate not in ("supernet", "table", *PROXIES):
            known = ", ".join(("supernet", "table", *PROXIES))
            raise FieldError("evaluate", f"must be one of {known}, not {show(self.evaluate)}")
        if self.evaluate == "table" and self.tabular is None:
            raise FieldError("evaluate", "table needs a benchmark table; name its file with --tabular")
        if self.latency not in (None, "measured") and self.tabular is None:
            column = f"{excerpt(self.latency)} is a column of a table, and there is none"
            raise FieldError("latency", f"{column}; set tabular or take measured")
        if self.score is not None and self.evaluate != "supernet":
            raise FieldError("score", f"{self.evaluate} has a score of its own; leave it out or set evaluate to supernet")
        if self.prefilter.proxy == "supernet" and self.evaluate != "supernet":
            mend = "take a zero-cost proxy, or set evaluate to supernet"
            raise FieldError("prefilter.proxy", f"{self.evaluate} scores without the weights that supernet ranks with; {mend}")
        if self.weights_from is not None and self.evaluate != "supernet":
            raise FieldError(
                "weights_from", f"{self.evaluate} scores without weights; leave it out or set evaluate to supernet"
            )

    def may_change(self) -> frozenset[str]:
        """Returns the fields that a resumed run may change: more evaluations go on from earlier
        ones, but another table would change scores that come from it."""
        return super().may_change() - ({"tabular"} if self.evaluate == "table" else set())

    @property
    def needs_images(self) -> bool:
        """Says whether images are needed; a benchmark table alone needs none."""
        return self.evaluate != "table" or self.prefilter.proxy is not None

    @property
    def trains(self) -> bool:
        return self.trained_epochs > 0

    @property
    def trained_epochs(self) -> int:
        """Returns the epochs of the shared weights that the search itself runs."""
        return self.epochs if self.evaluate == "supernet" and self.weights_from is None else 0

    @property
    def planned_epochs(self) -> int:
        """Returns the number of these epochs and of the rounds of evaluations that follow."""
        return self.trained_epochs + math.ceil(self.evaluations / self.round)
