"""A search finds the operation that a problem needs, and finds nothing where there is nothing to find."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from search.differentiable.config import AlphaConfig, SearchConfig
from search.differentiable.method import search
from supernet.spaces.parts import PooledClassifier, small_stem
from supernet.spaces.skeleton import SKELETONS, CellPosition, Size, Skeleton, register_skeleton
from supernet.spaces.space import SPACES, SearchSpace, register_space
from training.images.data import DATASETS, DataConfig, register_dataset
from training.images.sets import ImageSet
from training.optim import OptimizerConfig
from training.run.config import RunOptions
from training.run.monitor import StopConfig


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


@pytest.fixture
def made_problem() -> Iterator[None]:
    """The space, its skeleton and two data sets: rows of random signs that repeat with the period or do not, honestly labelled
    or with shuffled labels. In any window narrower than the period both classes are the same noise."""

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

    with DATASETS.temporarily(), SKELETONS.temporarily(), SPACES.temporarily():
        flat = register_skeleton(Flat("flat", ("cell",), inputs=4, size=(8, 1)))
        register_space(SearchSpace("made", flat, 1, (*NARROW, *WIDE), (4,), batch_statistics=True, derived_inputs=2))
        for name, shuffled in (("periods", False), ("shuffled_periods", True)):
            register_dataset(name)(lambda config, part, shuffled=shuffled: images(shuffled))
        yield


def share_of_wide_edges(name: str, seed: int, directory: Path) -> float:
    config = SearchConfig(
        space="made", channels=8, cells=1, epochs=8, batch_size=32, validate_every=8, log_every=100, seed=seed, device="cpu",
        data=DataConfig(name=name), weights=OptimizerConfig(lr=0.2), alphas=AlphaConfig(lr=0.03), stop=StopConfig(),
        eigenvalue_every=0,
    )  # fmt: skip
    genotype = search(config, RunOptions(directory / f"{name}_{seed}", False, False), "darts")
    operations = [operation for feeds in genotype.cells["cell"].nodes for operation, _ in feeds]
    assert len(operations) == 2
    return sum(operation in WIDE for operation in operations) / len(operations)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_operation_that_sees_the_label_wins(made_problem: None, seed: int, tmp_path: Path) -> None:
    assert share_of_wide_edges("periods", seed, tmp_path) >= 0.9


@pytest.mark.slow
def test_with_shuffled_labels_it_does_not(made_problem: None, tmp_path: Path) -> None:
    # By chance both edges of a seed are wide in one case of twelve, of two of three seeds in one case of fifty.
    assert sum(share_of_wide_edges("shuffled_periods", seed, tmp_path) >= 0.9 for seed in range(3)) <= 1
