"""The space of DARTS (Liu et al. 2019, section 3.1), and its skeleton.

14 edges, 8 candidates, a normal and a reduction cell.
"""

from dataclasses import dataclass

from torch import nn

from supernet.spaces.parts import MobileStem, PooledClassifier, projections, small_stem
from supernet.spaces.skeleton import CellPosition, Size, Skeleton, Stem, TextForm
from supernet.spaces.space import SearchSpace


@dataclass(frozen=True)
class DartsSkeleton(Skeleton):
    """One chain of cells that read the last two states (Liu et al. 2019, section 3.1 and appendix
    A).

    Reduction cells, which double the channels and halve the sides, stand at a third and two thirds
    of the depth.
    """

    name: str = "darts"
    kinds: tuple[str, ...] = ("normal", "reduce")
    inputs: int = 2
    size: tuple[int, int] = (36, 20)
    imagenet_size: tuple[int, int] | None = (48, 14)
    fewest_cells: int = 3
    stems: tuple[Stem, ...] = ("cifar", "imagenet")
    concatenates_inputs: tuple[str, ...] = ("normal",)
    text_form: TextForm = "darts"
    stem_multiplier: int = 3
    """The stem for small images has this many times C channels."""

    def _stem_channels(self, size: Size) -> int:
        return size.channels if size.stem == "imagenet" else self.stem_multiplier * size.channels

    def positions(self, size: Size) -> list[CellPosition]:
        positions = []
        channels, cells = size.channels, size.cells
        older = newer = self._stem_channels(size)
        halve_first = size.stem == "imagenet"
        counts = dict.fromkeys(self.kinds, 0)
        for index in range(cells):
            kind = "reduce" if index in (cells // 3, 2 * cells // 3) else "normal"
            if kind == "reduce":
                channels *= 2
            stride = 2 if kind == "reduce" else 1
            positions.append(CellPosition(index, kind, counts[kind], channels, (older, newer), stride, halve_first))
            counts[kind] += 1
            older, newer = newer, size.width[kind] * channels
            halve_first = kind == "reduce"
        return positions

    def stem(self, image_channels: int, size: Size) -> nn.Module:
        make = MobileStem if size.stem == "imagenet" else small_stem
        return make(image_channels, self._stem_channels(size))

    def head(self, width: int, classes: int) -> nn.Module:
        return PooledClassifier(width, classes)

    def preprocessing(self, position: CellPosition, affine: bool) -> nn.ModuleList:
        return projections(position, affine)

    def auxiliary_cell(self, cells: int) -> int:
        return 2 * cells // 3


DARTS_SKELETON = DartsSkeleton()

DARTS_SPACE = SearchSpace(
    name="darts",
    skeleton=DARTS_SKELETON,
    nodes=4,
    candidates=(
        "none",
        "max_pool_3x3",
        "avg_pool_3x3",
        "skip_connect",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "dil_conv_3x3",
        "dil_conv_5x5",
    ),
    concat=(2, 3, 4, 5),
    searched_as={"max_pool_3x3": "max_pool_3x3_bn", "avg_pool_3x3": "avg_pool_3x3_bn"},
    derived_inputs=2,
)
