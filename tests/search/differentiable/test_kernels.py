"""A search on the fused kernels goes the way of a search in plain torch."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ops.kernels import launch
from search.differentiable.config import SearchConfig
from search.differentiable.trainer import BilevelSearch
from supernet.spaces.darts import DARTS_SKELETON
from supernet.spaces.space import SPACES, SearchSpace, register_space
from training.hardware import Hardware
from training.images.data import DataConfig
from training.run.directory import RunDirectory
from training.tasks.classification import Classification

OPERATIONS = ("none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "dil_conv_3x3")


@pytest.fixture
def one_node() -> Iterator[None]:
    """A space of two edges: what the interpreter can train in seconds."""
    pools = {name: f"{name}_bn" for name in ("max_pool_3x3", "avg_pool_3x3")}
    found = SearchSpace("test_kernels", DARTS_SKELETON, 1, OPERATIONS, (2,), searched_as=pools)
    with SPACES.temporarily():
        register_space(found)
        yield


def curve(kernels: str, path: Path, steps: int) -> tuple[list[list[float]], torch.Tensor]:
    """Training and validation loss of the first steps of a search, and the alphas that they lead to."""
    data = DataConfig(limit=8 * steps)
    config = SearchConfig(space="test_kernels", channels=16, cells=3, batch_size=4, device="cpu", data=data)
    config.alphas.lr = 0.1
    hardware = Hardware.of(config, config.graph)
    trainer = BilevelSearch(config, Classification.open(data, hardware), RunDirectory(path, config), hardware)
    for cell in trainer.network.mixed_cells():
        cell.kernels = kernels  # type: ignore[assignment]
    losses = []
    for batch in trainer.batches_of(0):
        trainer.step(*batch)
        losses.append([meter.read().loss for meter in trainer.meters.values()])
    return losses, torch.cat([alpha.detach().flatten() for alpha in trainer.architecture.alphas.values()])


@pytest.mark.slow
@pytest.mark.skipif(
    not launch.INTERPRETED, reason="needs Triton's interpreter; on a GPU benchmarks.gpu compares longer searches"
)
def test_the_kernels_give_the_loss_curve_of_the_reference(tmp_path: Path, one_node: None) -> None:
    (losses, alphas), (expected, expected_alphas) = (curve(kernels, tmp_path, 3) for kernels in ("fused", "reference"))
    assert len(losses) == 3
    assert losses[0] != losses[-1]
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(expected), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(alphas, expected_alphas, rtol=0, atol=0.02)
    assert (alphas - alphas.mean()).abs().max() > 0.1
