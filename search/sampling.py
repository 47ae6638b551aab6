"""A search that samples whole architectures, from configuration to genotype."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from search.methods import Method
from search.samplers import Sampler
from search.samplers.config import SamplingConfig
from supernet import Genotype
from training.config import RunOptions

C = TypeVar("C", bound=SamplingConfig)


@dataclass(frozen=True)
class SamplingMethod(Method[C]):
    """A method that samples whole architectures with `sampler`, whose own fields are in the configuration."""

    sampler: type[Sampler] = field(kw_only=True)

    def run(self, config: C, options: RunOptions) -> Genotype:
        raise RuntimeError


def sampling_method(
    name: str, paper: str, summary: str, sampler: type[Sampler], defaults: Callable[[], C]
) -> SamplingMethod[C]:
    return SamplingMethod(name, paper, summary, defaults, sampler=sampler)
