"""What tests of whole searches share."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from search.costs import latency as measuring
from search.differentiable.config import AlphaConfig, SearchConfig
from search.sampling.encoding import Encoding, Genome
from supernet import DiscreteNetwork
from supernet.spaces.parts import PooledClassifier, small_stem
from supernet.spaces.skeleton import SKELETONS, CellPosition, Size, Skeleton, Stem, register_skeleton
from supernet.spaces.space import SPACES, SearchSpace, register_space
from training.images.data import DATASETS, DataConfig, register_dataset
from training.images.sets import ImageSet
from training.metrics import count_multiply_adds, count_parameters
from training.optim import OptimizerConfig
from training.run.monitor import StopConfig


def _assert_same(found: Any, expected: Any, where: str = "") -> None:
    """Nested containers with the same tensors, bit for bit, and the same values."""
    assert type(found) is type(expected), where
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            _assert_same(found[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for index, values in enumerate(zip(found, expected, strict=True)):
            _assert_same(*values, f"{where}[{index}]")
    elif isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype and torch.equal(found, expected), where
    else:
        assert found == expected, where


@pytest.fixture
def assert_same() -> Callable[[Any, Any], None]:
    """Raises AssertionError, naming the place, unless both hold the same."""
    return _assert_same


class Clock:
    """Stands for measuring: the n-th call takes n milliseconds, and the frame 1000."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        monkeypatch.setattr(measuring, "_milliseconds", self)

    def __call__(self, calls: list, device: torch.device, turns: int) -> list[float]:
        for call in calls:
            call()  # each of them can run
        self.calls = len(calls)
        return [1000.0, *map(float, range(1, len(calls)))]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which latencies are measured in the test."""
    return Clock(monkeypatch)


def _counted(
    encoding: Encoding,
    genome: Genome,
    channels: int,
    cells: int,
    classes: int,
    shape: tuple[int, int, int],
    stem: Stem = "cifar",
) -> dict[str, float]:
    """Counts the costs of an architecture by the network itself."""
    network = DiscreteNetwork(encoding.genotype(genome), channels, cells, classes, shape[0], stem=stem)
    return {"parameters": count_parameters(network), "multiply_adds": count_multiply_adds(network, shape)}


@pytest.fixture
def counted() -> Callable[..., dict[str, float]]:
    """Counts the costs of an architecture: (encoding, genome, channels, cells, classes, shape, stem)."""
    return _counted


# A made problem


class Flat(Skeleton):
    """One cell whose four edges all read the stem: only the operation on an edge decides how far it sees."""

    def positions(self, size: Size) -> list[CellPosition]:
        return [CellPosition(0, "cell", 0, size.channels, (size.channels,) * 4, 1, False)]

    def stem(self, image_channels: int, size: Size) -> nn.Module:
        return small_stem(image_channels, size.channels)

    def head(self, width: int, classes: int) -> nn.Module:
        return PooledClassifier(width, classes)


NARROW = ("none", "skip_connect", "avg_pool_3x3", "max_pool_3x3", "nor_conv_1x1", "nor_conv_3x3")
WIDE = ("sep_conv_5x5", "dil_conv_5x5")
PERIOD = 5  # pixels: further than stem and a 3x3 operation see together (5 wide), within what stem and a 5x5 one see (7)


class MadeProblem(NamedTuple):
    """A problem that some operations can solve, and a search for them."""

    wide: tuple[str, ...]
    """The operations that see the label."""
    config: Callable[[str, int], SearchConfig]
    """A search on the data set of that name ("periods", "shuffled_periods") with a seed."""


@pytest.fixture
def made_problem() -> Iterator[MadeProblem]:
    """The space, its skeleton and two data sets: rows of random signs that repeat with the period or do not, honestly labelled
    or with shuffled labels. In any window narrower than the period both classes are the same noise."""

    def config(name: str, seed: int) -> SearchConfig:
        return SearchConfig(
            space="made", channels=8, cells=1, epochs=8, batch_size=32, validate_every=8, log_every=100, seed=seed,
            device="cpu", data=DataConfig(name=name), weights=OptimizerConfig(lr=0.2), alphas=AlphaConfig(lr=0.03),
            stop=StopConfig(), eigenvalue_every=0,
        )  # fmt: skip

    def images(shuffled: bool) -> ImageSet:
        generator = torch.Generator().manual_seed(7)
        count, side = 1024, 10
        noise = torch.randint(0, 2, (count, 1, side, side), generator=generator)
        labels = torch.arange(count) % 2
        periodic = noise[..., torch.arange(side) % PERIOD]
        flipped = torch.rand(periodic.shape, generator=generator) < 0.05
        pixels = torch.where(labels.view(-1, 1, 1, 1) == 1, periodic ^ flipped, noise)
        if shuffled:
            labels = labels[torch.randperm(count, generator=generator)]
        return ImageSet((255 * pixels).to(torch.uint8), labels, 2, (0.5,), (0.5,))

    def load(shuffled: bool, config: DataConfig, part: str) -> ImageSet:
        return images(shuffled)

    with DATASETS.temporarily(), SKELETONS.temporarily(), SPACES.temporarily():
        flat = register_skeleton(Flat("flat", ("cell",), inputs=4, size=(8, 1)))
        register_space(SearchSpace("made", flat, 1, (*NARROW, *WIDE), (4,), batch_statistics=True, derived_inputs=2))
        for name, shuffled in (("periods", False), ("shuffled_periods", True)):
            register_dataset(name)(partial(load, shuffled))
        yield MadeProblem(WIDE, config)
