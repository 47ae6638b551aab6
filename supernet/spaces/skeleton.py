"""Skeletons: the networks that cells stand in, with stem, sequence of cells and head.

A search space says what a cell may be made of; its skeleton says how many cells there are, how
wide, and what surrounds them. The supernet and the retrained network are built on the same
skeleton, so that they cannot drift apart. A skeleton of one's own is a class with three methods,
made known by `register_skeleton`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import nn

from base.checks import InputError
from base.registry import Registry

Stem = Literal["cifar", "imagenet"]
"""The layers before the cells: cifar, one convolution that keeps the size of the image; imagenet,
the mobile stem, three that halve it."""

TextForm = Literal["json", "darts", "nasbench201"]
"""A form of text that genotypes are written in: json takes every genotype, the others those of
their field."""


@dataclass(frozen=True)
class Size:
    """The numbers of one network on a skeleton.

    `channels` is C of the first cells, `cells` their number in the unit of the skeleton,
    `width[kind]` the number of states that a cell of that kind concatenates.
    """

    channels: int
    cells: int
    width: Mapping[str, int]
    stem: Stem = "cifar"


@dataclass(frozen=True)
class CellPosition:
    """The place of one cell: all that its builder needs to know of the network around it."""

    index: int  # among the cells of the network, from 0
    kind: str  # "normal", "reduce", "cell"
    of_kind: int  # among the cells of its kind, from 0
    channels: int  # C: channels of every node
    in_channels: tuple[int, ...]  # channels of each input state
    stride: int  # of the edges that leave the cell's inputs
    halve_first: bool  # the cell before reduced, or the mobile stem did, so the older input is still twice as large


@dataclass(frozen=True)
class FixedLayer:
    """A layer between cells that is not searched: `make` builds it, its output has `channels`.

    The module maps the newest state [B, C, H, W] to the next one.
    """

    make: Callable[[], nn.Module]
    channels: int


@dataclass(frozen=True)
class Skeleton(ABC):
    """The network around the cells: their order, and the layers before and behind them.

    The fields are facts that searches, genotypes, reports and retraining read; the methods build
    the network. A cell reads the newest `inputs` states.
    """

    name: str
    kinds: tuple[str, ...]
    """The kinds of cell in it, each of which is searched by itself."""
    inputs: int
    size: tuple[int, int]
    """Channels and cells of the networks that are retrained."""
    imagenet_size: tuple[int, int] | None = None
    """The same with the mobile stem; None: as without."""
    unit: str = "cells"
    """The unit of the number of cells, such as "cells a stage"."""
    fewest_cells: int = 1
    stems: tuple[Stem, ...] = ("cifar",)
    """The stems that there are; the first one is the usual one."""
    smallest_image: int = 4
    """Pixels a side that images have at least."""
    concatenates_inputs: tuple[str, ...] = ()
    """Kinds of cell that may concatenate their inputs, too: these have the size of the nodes
    there."""
    one_output: bool = False
    """A cell concatenates exactly one state, since the next one takes its input as it is."""
    text_form: TextForm = "json"
    """The form that genotypes are printed in; one other than json is for the cells of its field."""

    def __post_init__(self) -> None:
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise InputError(f"skeleton {self.name}: kinds must be distinct and at least one, not {self.kinds}")
        if self.inputs < 1:
            raise InputError(f"skeleton {self.name}: a cell has at least one input, not {self.inputs}")

    @abstractmethod
    def positions(self, size: Size) -> Sequence[CellPosition | FixedLayer]:
        """Returns the cells and layers between stem and head, in order.

        `size` has passed `check_size`.
        """

    @abstractmethod
    def stem(self, image_channels: int, size: Size) -> nn.Module:
        """Returns the module that makes the first states of images [B, image_channels, H, W].

        Its output is one state [B, C, H, W], which all inputs of the first cell read, or a tuple
        of states, the oldest first, of which the first cell reads the newest.
        """

    @abstractmethod
    def head(self, width: int, classes: int) -> nn.Module:
        """Returns the module that maps the last state [B, width, H, W] to logits [B, classes]."""

    def preprocessing(self, position: CellPosition, affine: bool) -> nn.ModuleList:
        """Returns the modules that bring each input state of a cell to [B, channels, H, W], one an
        input.

        `affine` says whether batch norms have weights; in the supernet they have none. Unless a
        skeleton overrides it, inputs stay as they are.
        """
        return nn.ModuleList(nn.Identity() for _ in position.in_channels)

    def auxiliary_cell(self, cells: int) -> int | None:
        """Returns the index of the cell whose output an auxiliary head reads, None without a place.

        Unless a skeleton overrides it, there is no place.
        """
        return None

    @property
    def auxiliary(self) -> bool:
        """Says whether there is a place for an auxiliary head."""
        return self.auxiliary_cell(self.fewest_cells) is not None

    def default_size(self, stem: Stem = "cifar") -> tuple[int, int]:
        """Returns channels and cells of the networks that are retrained."""
        return self.imagenet_size if stem == "imagenet" and self.imagenet_size is not None else self.size

    def check(self, shape: Sequence[int]) -> None:
        """Raises InputError if the network cannot read images of `shape` (channels, height,
        width)."""
        _, height, width = shape
        if min(height, width) < self.smallest_image:
            least = f"{self.smallest_image}x{self.smallest_image}"
            raise InputError(f"images: {height}x{width} is too small, the network needs at least {least}")

    def check_size(self, size: Size) -> None:
        """Raises InputError for numbers that the skeleton has no network for."""
        if size.stem not in get_args(Stem):
            raise InputError(f"stem: must be {' or '.join(get_args(Stem))}, not {size.stem!r}")
        if size.stem not in self.stems:
            raise InputError(f"stem: the {self.name} skeleton has none but {', '.join(self.stems)}, not {size.stem}")
        if size.cells < self.fewest_cells:
            raise InputError(
                f"cells: the {self.name} skeleton needs at least {self.fewest_cells} {self.unit}, not {size.cells}"
            )
        if size.channels < 1:
            raise InputError(f"channels: must be at least 1, not {size.channels}")
        if size.stem == "imagenet" and size.channels % 2:
            raise InputError(f"channels: must be even with stem imagenet, which begins with half of them, not {size.channels}")
        widest = max(size.width.values())
        if self.one_output and widest != 1:
            raise InputError(f"concat: a cell in the {self.name} skeleton has one state as its output, not {widest}")


SKELETONS: Registry[Skeleton] = Registry(
    "skeleton",
    lazily={
        "darts": "supernet.spaces.darts:DARTS_SKELETON",
        "nasbench201": "supernet.spaces.nasbench201:NASBENCH201_SKELETON",
    },
    alphabetical=True,
)


def register_skeleton(skeleton: Skeleton) -> Skeleton:
    """Makes `skeleton` known by its name, which genotypes carry, and returns it.

    Raises InputError if another one has the name.
    """
    return SKELETONS.add(skeleton.name, skeleton)
