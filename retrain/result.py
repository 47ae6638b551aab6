"""The outcome of a retraining."""

from dataclasses import dataclass, field
from pathlib import Path

from retrain.weights import Trained
from supernet.genotypes.genotype import Genotype
from training.tasks.task import Evaluation, Task


@dataclass(frozen=True)
class Result:
    """The result of a retraining."""

    genotype: Genotype
    epochs: int
    """Epochs trained."""
    parameters: int
    """Weights of the network, without the auxiliary head."""
    multiply_adds: int
    """Multiply-adds of one image, as `training.metrics.count_multiply_adds` counts them."""
    test: Evaluation
    """On the test part, with the weights in weights.safetensors."""
    trained: Trained = field(compare=False, repr=False)
    """The network with those weights, in evaluation mode, and the format of its images."""
    run: Path
    """Directory of the run."""
    others: "tuple[Result, ...]" = ()
    """The random genotypes that were trained for comparison."""


@dataclass(frozen=True)
class Compared:
    """A genotype that was trained in the same way."""

    name: str
    parameters: int
    multiply_adds: int
    score: float
    """The task's score on the test part; more is better."""
    written: str
    """The value on the test part that the score is made from, as reports write it."""

    @classmethod
    def of(cls, name: str, result: Result, task: Task) -> "Compared":
        """Returns what `result` is compared by."""
        value = task.scored_by.written(task.value(result.test))
        return cls(name, result.parameters, result.multiply_adds, task.score(result.test), value)
