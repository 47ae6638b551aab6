"""The common part of the configurations of searches and of retraining."""

from dataclasses import dataclass, field

from base.checks import whole
from supernet.recompute import Recompute
from training.hardware import Precision
from training.images.data import DataConfig
from training.run.base import MAY_CHANGE, RunConfig
from training.run.monitor import StopConfig


@dataclass(kw_only=True)
class TrainingConfig(RunConfig):
    """The settings of any run that trains networks."""

    precision: Precision = "auto"
    """Floating type of convolutions and linear layers: bfloat16 (autocast, weights stay float32),
    float32; auto: bfloat16 on a GPU."""
    recompute: Recompute = field(default="none", metadata=MAY_CHANGE)
    """none: all maps that backward needs are kept; cells: the states between cells are, and
    backward computes each cell again, which takes less memory and more time and changes no
    result."""
    log_every: int = 50
    """Steps between two readings of loss and accuracy."""
    task: str = "classification"
    """The task that networks are trained for: classification, or a task that was added with
    @register_task."""
    data: DataConfig = field(default_factory=DataConfig)
    """The images."""
    stop: StopConfig = field(default_factory=StopConfig, metadata=MAY_CHANGE)
    """When to end before the last epoch."""

    def __post_init__(self) -> None:
        super().__post_init__()
        whole(self, "log_every")
