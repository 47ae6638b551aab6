"""The network that cells stand in: stem, the sequence of cells, classifier.

A search space says what a cell may be made of; its skeleton says how many cells there are, how wide, and what surrounds them.
The supernet and the retrained network are built on the same skeleton, so that they cannot drift apart.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from base.checks import InputError
from ops.images import FactorizedReduce, ReluConvNorm, batch_norm

SMALLEST_IMAGE = 4  # pixels a side: both skeletons halve twice what the stem makes of the image

Stem = Literal["cifar", "imagenet"]
"""What stands before the cells: cifar, one convolution that keeps the size of the image; imagenet, the mobile stem, three that
halve it."""


@dataclass(frozen=True)
class CellPosition:
    """Where one cell stands: all that its builder needs to know of the network around it."""

    index: int  # among the cells of the network, from 0
    kind: str  # "normal", "reduce", "cell"
    of_kind: int  # among the cells of its kind, from 0
    channels: int  # C: channels of every node
    in_channels: tuple[int, ...]  # channels of each input state
    stride: int  # of the edges that leave the cell's inputs
    halve_first: bool  # the cell before reduced, or the mobile stem did, so the older input is still twice as large


@dataclass(frozen=True)
class ResidualPosition:
    """A residual block of stride 2 between two stages of cells."""

    in_channels: int
    out_channels: int


@dataclass(frozen=True)
class Skeleton:
    """How cells are strung together.

    `name` chooses the layout; `kinds` are the kinds of cell in it; a cell has `inputs` input states and sees them after a
    preprocessing layer where `preprocess` is true; `default_cells` and `fewest_cells` are in the unit that `cells_unit` names.
    With the mobile stem the defaults are those of `imagenet_size`, channels and cells; None: the same ones.
    """

    name: str
    kinds: tuple[str, ...]
    inputs: int
    stem_multiplier: int  # the stem for small images has this many times C channels
    preprocess: bool
    head_norm: bool  # batch norm and ReLU before the pooling
    auxiliary: bool  # has a place for an auxiliary head
    default_cells: int
    fewest_cells: int
    cells_unit: str
    default_channels: int
    imagenet_size: tuple[int, int] | None = None

    def default_size(self, stem: Stem = "cifar") -> tuple[int, int]:
        """Channels and cells of the networks that are retrained."""
        if stem == "imagenet" and self.imagenet_size is not None:
            return self.imagenet_size
        return self.default_channels, self.default_cells

    def stem_channels(self, channels: int, stem: Stem) -> int:
        """Channels of each state that `stem` gives to the cells, the first of which have `channels` C."""
        return channels if stem == "imagenet" else self.stem_multiplier * channels

    def positions(
        self, channels: int, cells: int, width: Mapping[str, int], stem: Stem = "cifar"
    ) -> list[CellPosition | ResidualPosition]:
        """What stands between stem and classifier, in order.

        `width[kind]` is the number of nodes that a cell of that kind concatenates. Raises ValueError for too few cells, an
        unknown stem, and a mobile stem that does not fit.
        """
        if stem not in get_args(Stem):
            raise InputError(f"stem: must be {' or '.join(get_args(Stem))}, not {stem!r}")
        if cells < self.fewest_cells:
            raise InputError(
                f"cells: the {self.name} skeleton needs at least {self.fewest_cells} {self.cells_unit}, not {cells}"
            )
        if channels < 1:
            raise InputError(f"channels: must be at least 1, not {channels}")
        if stem == "imagenet" and self.inputs > 2:
            raise InputError(
                f"stem: imagenet makes two states, and cells in the {self.name} skeleton read {self.inputs}; set it to cifar"
            )
        if stem == "imagenet" and channels % 2:
            raise InputError(f"channels: must be even with stem imagenet, which begins with half of them, not {channels}")
        return LAYOUTS[self.name](channels, cells, width, stem)


def _darts_layout(channels: int, cells: int, width: Mapping[str, int], stem: Stem) -> list[CellPosition | ResidualPosition]:
    """DARTS (Liu et al. 2019): reduction cells, which double the channels, at a third and two thirds of the depth."""
    positions: list[CellPosition | ResidualPosition] = []
    older = newer = DARTS.stem_channels(channels, stem)
    halve_first = stem == "imagenet"
    counts = {"normal": 0, "reduce": 0}
    for index in range(cells):
        kind = "reduce" if index in (cells // 3, 2 * cells // 3) else "normal"
        if kind == "reduce":
            channels *= 2
        stride = 2 if kind == "reduce" else 1
        positions.append(CellPosition(index, kind, counts[kind], channels, (older, newer), stride, halve_first))
        counts[kind] += 1
        older, newer = newer, width[kind] * channels
        halve_first = kind == "reduce"
    return positions


def _nasbench201_layout(
    channels: int, cells: int, width: Mapping[str, int], stem: Stem
) -> list[CellPosition | ResidualPosition]:
    """NAS-Bench-201 (Dong & Yang 2020): three stages of `cells` cells, residual blocks of stride 2 between them.

    The state that comes out of either stem has C channels.
    """
    positions: list[CellPosition | ResidualPosition] = []
    entering = channels
    for stage in range(3):
        if stage:
            positions.append(ResidualPosition(entering, 2 * channels))
            channels *= 2
            entering = channels
        for number in range(cells):
            index = stage * cells + number
            positions.append(CellPosition(index, "cell", index, channels, (entering,), 1, False))
            entering = width["cell"] * channels
    return positions


LAYOUTS = {"darts": _darts_layout, "nasbench201": _nasbench201_layout}

DARTS = Skeleton(
    "darts", ("normal", "reduce"), inputs=2, stem_multiplier=3, preprocess=True, head_norm=False, auxiliary=True,
    default_cells=20, fewest_cells=3, cells_unit="cells", default_channels=36, imagenet_size=(48, 14),
)  # fmt: skip
NASBENCH201 = Skeleton(
    "nasbench201", ("cell",), inputs=1, stem_multiplier=1, preprocess=False, head_norm=True, auxiliary=False,
    default_cells=5, fewest_cells=1, cells_unit="cells a stage", default_channels=16,
)  # fmt: skip
SKELETONS = {skeleton.name: skeleton for skeleton in (DARTS, NASBENCH201)}


def preprocessing(skeleton: Skeleton, position: CellPosition, affine: bool) -> nn.ModuleList:
    """What brings each input state of a cell to [B, channels, H, W]: one module an input."""
    if not skeleton.preprocess:
        return nn.ModuleList(nn.Identity() for _ in position.in_channels)
    layers = nn.ModuleList()
    for number, entering in enumerate(position.in_channels):
        halve = position.halve_first and number == 0
        make = FactorizedReduce if halve else ReluConvNorm
        layers.append(make(entering, position.channels, affine=affine))
    return layers


class ResidualBlock(nn.Module):
    """NAS-Bench-201's basic residual block of stride 2: [B, in, H, W] to [B, out, ceil(H/2), ceil(W/2)]."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.first = ReluConvNorm(in_channels, out_channels, kernel=3, stride=2)
        self.second = ReluConvNorm(out_channels, out_channels, kernel=3)
        # ceil_mode changes nothing on even sizes and keeps odd ones in step with the convolutions.
        self.shortcut = nn.Sequential(nn.AvgPool2d(2, 2, ceil_mode=True), nn.Conv2d(in_channels, out_channels, 1, bias=False))

    def forward(self, state: Tensor) -> Tensor:
        return self.shortcut(state) + self.second(self.first(state))


class MobileStem(nn.Module):
    """What DARTS (Liu et al. 2019) begins with on ImageNet: three convolutions of stride 2, from 224 to 28 pixels a side.

    [B, image_channels, H, W] to the older state [B, channels, ceil(H/4), ceil(W/4)] and the newer [B, channels, ceil(H/8),
    ceil(W/8)].
    """

    def __init__(self, image_channels: int, channels: int):
        super().__init__()
        half = channels // 2
        self.older = nn.Sequential(
            nn.Conv2d(image_channels, half, 3, stride=2, padding=1, bias=False),
            batch_norm(half),
            ReluConvNorm(half, channels, kernel=3, stride=2),
        )
        self.newer = ReluConvNorm(channels, channels, kernel=3, stride=2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        older = self.older(images)
        return older, self.newer(older)


class Backbone(nn.Module):
    """Stem, cells made by `make_cell`, and classifier of a skeleton.

    Cells with one input state read the newer one of the mobile stem.
    """

    def __init__(
        self,
        skeleton: Skeleton,
        make_cell: Callable[[CellPosition], nn.Module],
        width: Mapping[str, int],
        channels: int,
        cells: int,
        classes: int,
        image_channels: int,
        stem: Stem,
    ):
        super().__init__()
        positions = skeleton.positions(channels, cells, width, stem)
        if classes < 2:
            raise InputError(f"classes: must be at least 2, not {classes}")
        if image_channels < 1:
            raise InputError(f"image_channels: must be at least 1, not {image_channels}")
        self.skeleton = skeleton
        self.image_channels = image_channels
        self.stem_name = stem
        entering = skeleton.stem_channels(channels, stem)
        self.stem: nn.Sequential | MobileStem
        if stem == "imagenet":
            self.stem = MobileStem(image_channels, entering)
        else:
            self.stem = nn.Sequential(nn.Conv2d(image_channels, entering, 3, padding=1, bias=False), batch_norm(entering))
        self.layers = nn.ModuleList()
        for position in positions:
            if isinstance(position, ResidualPosition):
                self.layers.append(ResidualBlock(position.in_channels, position.out_channels))
                entering = position.out_channels
            else:
                self.layers.append(make_cell(position))
                entering = width[position.kind] * position.channels
        self.norm = nn.Sequential(batch_norm(entering), nn.ReLU()) if skeleton.head_norm else nn.Identity()
        self.classifier = nn.Linear(entering, classes)

    @property
    def cells(self) -> list[nn.Module]:
        """The cells alone, in order, without the residual blocks."""
        return [layer for layer in self.layers if not isinstance(layer, ResidualBlock)]

    def run(self, images: Tensor, run_cell: Callable[[nn.Module, Sequence[Tensor]], Tensor]) -> Tensor:
        """Images [B, image_channels, H, W] to logits [B, classes]; `run_cell(cell, states)` runs one cell."""
        check_images(images, self.image_channels)
        states = self._stem_states(images)
        for layer in self.layers:
            state = layer(states[-1]) if isinstance(layer, ResidualBlock) else run_cell(layer, states)
            states = [*states[1:], state]
        features = self.norm(states[-1]).mean((2, 3))
        return self.classifier(features)

    def _stem_states(self, images: Tensor) -> list[Tensor]:
        """The input states of the first cell, the newest last."""
        # Every kernel behind the stem is at its best on NHWC memory (docs/performance.md); what follows keeps it. (With one
        # image channel the two layouts look alike, so what the stem makes is converted, too.)
        found = self.stem(images.contiguous(memory_format=torch.channels_last))
        if isinstance(self.stem, MobileStem):
            return [state.contiguous(memory_format=torch.channels_last) for state in found[-self.skeleton.inputs :]]
        return [found.contiguous(memory_format=torch.channels_last)] * self.skeleton.inputs


def check_images(images: Tensor, image_channels: int) -> None:
    """Raises ValueError unless `images` is [B, image_channels, H, W] with H and W of at least 4."""
    if images.ndim != 4 or images.shape[1] != image_channels:
        raise ValueError(f"images: expected [batch, {image_channels}, height, width], got {list(images.shape)}")
    check_size(*images.shape[2:])


def check_size(height: int, width: int) -> None:
    """Raises ValueError unless both are at least 4, which every network here needs."""
    if min(height, width) < SMALLEST_IMAGE:
        raise InputError(f"images: {height}x{width} is too small, the network needs at least {SMALLEST_IMAGE}x{SMALLEST_IMAGE}")
