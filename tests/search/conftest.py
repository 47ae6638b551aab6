"""What tests of whole searches share."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from search.costs import latency as measuring
from search.sampling.encoding import Encoding, Genome
from supernet import DiscreteNetwork
from supernet.spaces.skeleton import Stem
from training.metrics import count_multiply_adds, count_parameters


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
