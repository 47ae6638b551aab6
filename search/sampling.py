"""A search that samples whole architectures, from configuration to genotype."""

from collections.abc import Callable
from typing import TypeVar

from search.methods import Method
from search.samplers import Sampler
from search.samplers.config import SamplingConfig
from supernet import Genotype
from training.config import RunOptions

C = TypeVar("C", bound=SamplingConfig)


def sampling_method(name: str, paper: str, summary: str, sampler: type[Sampler], defaults: Callable[[], C]) -> Method[C]:
    """The method that searches with `sampler`, whose own fields are in the configuration that `defaults` makes."""

    def run(config: C, options: RunOptions, method: str) -> Genotype:
        raise RuntimeError

    return Method(name, paper, summary, defaults, run)
