"""The common part of the configurations of searches and of retraining."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from base.checks import FieldError, between, whole
from supernet.recompute import Recompute
from training.hardware import Precision
from training.images.data import DataConfig
from training.run.base import MAY_CHANGE, RunConfig
from training.run.monitor import StopConfig
from training.schedule import Extension, Phases, check_extended


@dataclass(kw_only=True)
class TrainingConfig(RunConfig):
    """The settings of any run that trains networks."""

    if TYPE_CHECKING:
        epochs: int

    precision: Precision = "auto"
    """Floating type of convolutions and linear layers: bfloat16 (autocast, weights stay float32),
    float32; auto: bfloat16 on a GPU."""
    recompute: Recompute = field(default="none", metadata=MAY_CHANGE)
    """none: all maps that backward needs are kept; cells: the states between cells are, and
    backward computes each cell again, which takes less memory and more time and changes no
    result."""
    log_every: int = 50
    """Steps between two readings of the loss and the other values."""
    histograms_every: int = field(default=0, metadata=MAY_CHANGE)
    """Epochs between two histograms of the weights and of the gradients of an epoch's last step,
    for TensorBoard; 0: never."""
    task: str = "classification"
    """The task that networks are trained for: classification; regression, of images that have
    numbers (npz with floating y); or a task that was added with @register_task."""
    score: str | None = None
    """The score of the task that is searched for, selected by, stopped at and reported, over all
    validation images: accuracy, loss, macro_recall, macro_f1 or balanced_accuracy of classification
    (the last three count every class alike), r2, mse, mae or loss of regression; null: the task's
    first one."""
    data: DataConfig = field(default_factory=DataConfig)
    """The images."""
    stop: StopConfig = field(default_factory=StopConfig, metadata=MAY_CHANGE)
    """When to end before the last epoch."""

    extended: list[tuple[int, Extension]] = field(default_factory=list)
    """Record of a run that went on for longer, which --extend writes: [[50, restart]] was begun for
    50 epochs. A new run with it comes to the same result."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_extended(self.epochs, self.extended)
        whole(self, "log_every")
        between(0, 1_000_000, self, "histograms_every", said="from 0 to a million")
        if self.histograms_every and not self.trains:
            raise FieldError("histograms_every", "this run trains no weights; set it to 0")

    @property
    def phases(self) -> Phases:
        """Returns the phases of its schedules."""
        return Phases(self.epochs, self.extended)

    @property
    def trains(self) -> bool:
        """Says whether the run has epochs that train."""
        return True

    def changing(self) -> list[str]:
        """Returns the names of the fields whose effect depends on the number of epochs."""
        return []

    def before(self) -> Sequence["TrainingConfig"]:
        numbers = range(len(self.extended))
        return [replace(self, epochs=self.extended[number][0], extended=self.extended[:number]) for number in numbers]
