"""What a pass of the fused supernet costs, counted on fake tensors: DARTS space, C=16, 8 cells, batch 64, bfloat16."""

from collections import Counter
from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.plain.counting import launches, saved_bytes
from supernet import Supernet, get_space

BATCH = 64
PLAIN = 15_000
"""The plain network starts more kernels than that, as tests/benchmarks/plain/test_counting.py counts."""
FLOOR = 14.5e6
"""Bytes an image that the raw branch outputs and the states of all cells take."""


@cache
def counted(cells: int = 8, frozen: bool = False) -> tuple[Counter[str], float]:
    """Launches of a forward and backward pass, and bytes an image that it keeps."""
    with FakeTensorMode():
        network = Supernet(get_space("darts"), 16, cells, 10, kernels="fused").requires_grad_(not frozen)
        mixture = {kind: alpha.detach().requires_grad_() for kind, alpha in network.space.new_alphas().items()}
        images = torch.empty(BATCH, 3, 32, 32)

        def forward() -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return network(images, mixture)

        forward()  # what is made once: the tables
        counts = launches(lambda: forward().sum().backward())
        return counts, saved_bytes(forward, [*network.parameters(), *network.buffers()]) / BATCH


@pytest.mark.slow
def test_a_pass_starts_a_twentieth_of_the_plain_networks_kernels() -> None:
    counts, _ = counted()
    assert counts.total() < PLAIN / 20
    assert counts["fusenas.stencil"] == 8 * 4 * 2  # cells, rounds, halves


@pytest.mark.slow
def test_what_is_kept_for_backward_is_near_the_least() -> None:
    _, kept = counted()
    assert FLOOR < kept < 1.25 * FLOOR


@pytest.mark.slow
def test_a_cell_starts_each_kernel_once_a_round() -> None:
    counts, _ = counted(cells=3)
    assert counts["fusenas.stencil"] == 3 * 4 * 2
    assert counts.total() < 3 * PLAIN / 8 / 15  # a short network has its stem and head, too


@pytest.mark.slow
@pytest.mark.parametrize("count", [lambda counts: counts.total(), lambda counts: counts["convolution_backward"]])
def test_an_architecture_step_costs_less(count: Callable[[Counter[str]], int]) -> None:
    assert count(counted(cells=3, frozen=True)[0]) < count(counted(cells=3)[0])
