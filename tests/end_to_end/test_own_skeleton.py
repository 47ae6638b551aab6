"""A skeleton of a user's own, unlike those that ship, on the way from search to retrained network."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import retrain
import search
from retrain.config import RetrainConfig
from retrain.weights import Trained
from search.costs.counted import CostTable
from search.differentiable.config import SearchConfig
from supernet import DiscreteNetwork, Genotype, SearchSpace, Skeleton, register_skeleton, register_space
from supernet import Path as OnePath
from supernet.spaces.parts import projections
from supernet.spaces.skeleton import SKELETONS, CellPosition, FixedLayer, Size
from supernet.spaces.space import SPACES
from training.images.data import DataConfig
from training.metrics import count_parameters

CLASSES = 10


class MeanAndMax(nn.Module):
    """Mean and maximum over all pixels, side by side: [B, C, H, W] to [B, 2 C]."""

    def forward(self, state: Tensor) -> Tensor:
        return torch.cat((state.mean((2, 3)), state.amax((2, 3))), dim=1)


class Ladder(Skeleton):
    """Cells of one kind that read three states and reduce nothing, a pool in their midst, two linear layers behind them."""

    def positions(self, size: Size) -> Sequence[CellPosition | FixedLayer]:
        positions: list[CellPosition | FixedLayer] = []
        entering = [size.channels // 2, size.channels, size.channels]
        for index in range(size.cells):
            positions.append(CellPosition(index, "step", index, size.channels, tuple(entering), 1, False))
            entering = [*entering[1:], size.width["step"] * size.channels]
        return [*positions, FixedLayer(lambda: nn.MaxPool2d(2), entering[-1])]

    def stem(self, image_channels: int, size: Size) -> nn.Module:
        return Pyramid(image_channels, size.channels)

    def head(self, width: int, classes: int) -> nn.Module:
        return nn.Sequential(MeanAndMax(), nn.Linear(2 * width, 8), nn.ReLU(), nn.Linear(8, classes))

    def preprocessing(self, position: CellPosition, affine: bool) -> nn.ModuleList:
        return projections(position, affine)

    def auxiliary_cell(self, cells: int) -> int:
        return 0


class Pyramid(nn.Module):
    """Three states, of half as many channels the oldest."""

    def __init__(self, image_channels: int, channels: int):
        super().__init__()
        self.first = nn.Conv2d(image_channels, channels // 2, 3, padding=1)
        self.second = nn.Conv2d(channels // 2, channels, 3, padding=1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        oldest = self.first(images)
        newer = self.second(oldest)
        return oldest, newer, newer.relu()


@pytest.fixture
def space() -> Iterator[SearchSpace]:
    with SKELETONS.temporarily(), SPACES.temporarily():
        ladder = register_skeleton(Ladder("ladder", kinds=("step",), inputs=3, size=(4, 2), unit="rungs", smallest_image=2))
        operations = ("none", "skip_connect", "nor_conv_3x3", "sep_conv_3x3", "avg_pool_3x3")
        yield register_space(SearchSpace("rungs", ladder, 2, operations, (3, 4), derived_inputs=2))


@pytest.fixture
def found(space: SearchSpace, tmp_path: Path) -> Genotype:
    config = SearchConfig(
        space="rungs", channels=4, cells=2, epochs=2, batch_size=32, device="cpu", threads=1, eigenvalue_every=1,
        data=DataConfig(name="digits", limit=128, crop_padding=1),
    )  # fmt: skip
    return search.run(config, run=tmp_path / "search")


def test_it_is_searched_retrained_and_read_again(space: SearchSpace, found: Genotype, tmp_path: Path) -> None:
    assert (found.space, found.skeleton, found.text_form) == ("rungs", space.skeleton, "json")
    assert [len(feeds) for feeds in found.cells["step"].nodes] == [2, 2] and found.cells["step"].concat == (3, 4)
    found.save(tmp_path / "mine.json")
    assert Genotype.load(tmp_path / "mine.json") == found == Genotype.load(tmp_path / "search/genotype.json")
    assert "2 rungs" in (tmp_path / "search/report.html").read_text(encoding="utf-8")

    config = RetrainConfig(
        epochs=1, batch_size=32, device="cpu", threads=1, auxiliary_weight=0.4,
        data=DataConfig(name="digits", limit=128, crop_padding=1),
    )  # fmt: skip
    result = retrain.run(tmp_path / "mine.json", config, tmp_path / "retrained")
    network = DiscreteNetwork(found, classes=CLASSES, image_channels=1)
    assert result.parameters == count_parameters(network)
    trained = Trained.load(tmp_path / "retrained")
    assert trained.network.genotype == found and (trained.network.channels, trained.network.cell_count) == (4, 2)
    assert trained.network(torch.randn(3, 1, 8, 8)).shape == (3, CLASSES)


def test_its_facts_are_those_that_others_read(space: SearchSpace) -> None:
    genotype = space.random(torch.Generator().manual_seed(0))
    table = CostTable(space, *space.skeleton.default_size(), CLASSES, (1, 8, 8))
    network = DiscreteNetwork(genotype, classes=CLASSES, image_channels=1)
    assert table(OnePath.of_genotype(genotype, space).flat(space))["parameters"] == count_parameters(network)
    assert len(network.cells) == 2 and len(network.layers) == 3
    assert network(torch.randn(2, 1, 2, 2)).shape == (2, CLASSES)
    with pytest.raises(ValueError, match=r"^images: 1x5 is too small, the network needs at least 2x2$"):
        network(torch.randn(2, 1, 1, 5))
    with pytest.raises(ValueError, match=r"^stem: the ladder skeleton has none but cifar, not imagenet$"):
        DiscreteNetwork(genotype, stem="imagenet")
    with pytest.raises(ValueError, match=r"^cells: the ladder skeleton needs at least 1 rungs, not 0$"):
        DiscreteNetwork(genotype, cells=0)
    with pytest.raises(ValueError, match=r"^a genotype of space rungs has no darts text: its skeleton is ladder; "):
        genotype.to_text("darts")


def test_its_genotypes_are_read_where_it_is_registered() -> None:
    with SKELETONS.temporarily():
        ladder = register_skeleton(Ladder("ladder", kinds=("step",), inputs=3, size=(4, 2)))
        text = SearchSpace("rungs", ladder, 1, ("skip_connect",), (3,)).random(torch.Generator()).to_text("json")
        assert Genotype.parse(text).skeleton == ladder
    with pytest.raises(ValueError, match=r"^space: unknown skeleton 'ladder'; known: darts, nasbench201$"):
        Genotype.parse(text)
