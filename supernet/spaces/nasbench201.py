"""The space of NAS-Bench-201 (Dong & Yang 2020, section 2.1), and its skeleton.

6 edges, 5 candidates, one kind of cell.
"""

from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from ops.images import ReluConvNorm
from supernet.spaces.parts import MobileStem, PooledClassifier, small_stem
from supernet.spaces.skeleton import CellPosition, FixedLayer, Size, Skeleton, Stem, TextForm
from supernet.spaces.space import SearchSpace


class ResidualBlock(nn.Module):
    """NAS-Bench-201's basic residual block of stride 2: [B, in, H, W] to
    [B, out, ceil(H/2), ceil(W/2)]."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.first = ReluConvNorm(in_channels, out_channels, kernel=3, stride=2)
        self.second = ReluConvNorm(out_channels, out_channels, kernel=3)
        # ceil_mode leaves even sizes as they are and keeps odd ones in step with the convolutions.
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, 2, ceil_mode=True), nn.Conv2d(in_channels, out_channels, 1, bias=False))

    def forward(self, state: Tensor) -> Tensor:
        return self.shortcut(state) + self.second(self.first(state))


@dataclass(frozen=True)
class NasBench201Skeleton(Skeleton):
    """Three stages of cells, residual blocks of stride 2 between them (Dong & Yang 2020, section
    2.1)."""

    name: str = "nasbench201"
    kinds: tuple[str, ...] = ("cell",)
    inputs: int = 1
    size: tuple[int, int] = (16, 5)
    unit: str = "cells a stage"
    stems: tuple[Stem, ...] = ("cifar", "imagenet")
    concatenates_inputs: tuple[str, ...] = ("cell",)
    one_output: bool = True
    text_form: TextForm = "nasbench201"

    def positions(self, size: Size) -> list[CellPosition | FixedLayer]:
        positions: list[CellPosition | FixedLayer] = []
        entering = channels = size.channels
        for stage in range(3):
            if stage:
                positions.append(FixedLayer(partial(ResidualBlock, entering, 2 * channels), 2 * channels))
                channels *= 2
                entering = channels
            for number in range(size.cells):
                index = stage * size.cells + number
                positions.append(CellPosition(index, "cell", index, channels, (entering,), 1, False))
                entering = size.width["cell"] * channels
        return positions

    def stem(self, image_channels: int, size: Size) -> nn.Module:
        make = MobileStem if size.stem == "imagenet" else small_stem
        return make(image_channels, size.channels)

    def head(self, width: int, classes: int) -> nn.Module:
        return PooledClassifier(width, classes, norm=True)


NASBENCH201_SKELETON = NasBench201Skeleton()

NASBENCH201_SPACE = SearchSpace(
    name="nasbench201",
    skeleton=NASBENCH201_SKELETON,
    nodes=3,
    candidates=("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"),
    concat=(3,),
    batch_statistics=True,
)
