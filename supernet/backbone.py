"""The network of a skeleton: stem, cells and head, with the cells to be made by others."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor, nn

from base.checks import InputError
from supernet.recompute import Recompute, recomputed
from supernet.spaces.skeleton import CellPosition, FixedLayer, Size, Skeleton


class Backbone(nn.Module):
    """Stem, cells made by `make_cell`, and head of a skeleton.

    Maps images [B, image_channels, H, W] to logits [B, classes]. `recompute` says what backward
    computes again instead of finding it in memory, see `supernet.recompute.Recompute`. Raises
    InputError for numbers that the skeleton has no network for.
    """

    LAST: ClassVar = 2
    """The number of last layers that are not computed again; narrow in pixels, they keep little."""

    def __init__(
        self,
        skeleton: Skeleton,
        make_cell: Callable[[CellPosition], nn.Module],
        size: Size,
        classes: int,
        image_channels: int,
        recompute: Recompute = "none",
    ):
        super().__init__()
        skeleton.check_size(size)
        if recompute not in get_args(Recompute):
            raise InputError(f"recompute: must be {' or '.join(get_args(Recompute))}, not {recompute!r}")
        if classes < 1:
            raise InputError(f"classes: must be at least 1, not {classes}")
        if image_channels < 1:
            raise InputError(f"image_channels: must be at least 1, not {image_channels}")
        positions = skeleton.positions(size)
        self.skeleton = skeleton
        self.recompute = recompute
        self.channels = size.channels
        self.image_channels = image_channels
        self.classes = classes
        self.stem_name = size.stem
        self.stem = skeleton.stem(image_channels, size)
        self.layers = nn.ModuleList()
        for position in positions:
            self.layers.append(position.make() if isinstance(position, FixedLayer) else make_cell(position))
        self._is_cell = [isinstance(position, CellPosition) for position in positions]
        last = positions[-1]
        leaving = last.channels if isinstance(last, FixedLayer) else size.width[last.kind] * last.channels
        self.head = skeleton.head(leaving, classes)

    @property
    def cells(self) -> list[nn.Module]:
        """Returns the cells alone, in order, without the fixed layers between them."""
        return [layer for layer, is_cell in zip(self.layers, self._is_cell, strict=True) if is_cell]

    def compute(self, layer: nn.Module, *arguments: Any) -> Any:
        """Returns `layer(*arguments)`; a layer that backward is to compute again keeps the tensors
        in `arguments` alone."""
        # Without gradients nothing is kept anyway. Backward begins with the last layers, whose maps
        # it would compute again at once; they are few beside those of the first ones.
        if self.recompute == "cells" and torch.is_grad_enabled() and layer not in list(self.layers)[-self.LAST :]:
            return recomputed(layer, *arguments)
        return layer(*arguments)

    def run(self, images: Tensor, run_cell: Callable[[nn.Module, Sequence[Tensor]], Tensor]) -> Tensor:
        """Maps images [B, image_channels, H, W] to logits; `run_cell(cell, states)` runs one cell.

        Raises ValueError for another shape and InputError for images that are too small.
        """
        if images.ndim != 4 or images.shape[1] != self.image_channels:
            raise ValueError(f"images: expected [batch, {self.image_channels}, height, width], got {list(images.shape)}")
        self.skeleton.check(images.shape[1:])
        states = self._stem_states(images)
        for layer, is_cell in zip(self.layers, self._is_cell, strict=True):
            state = run_cell(layer, states) if is_cell else self.compute(layer, states[-1])
            states = [*states[1:], state]
        logits: Tensor = self.head(states[-1])
        return logits

    def _stem_states(self, images: Tensor) -> list[Tensor]:
        """Returns the input states of the first cell, the newest last."""
        # Every kernel behind the stem is at its best on NHWC memory (docs/performance.md), and all
        # later layers keep it. (With one image channel the two layouts look alike, so the output of
        # the stem is converted, too.)
        inputs = self.skeleton.inputs
        found = self.compute(self.stem, images.contiguous(memory_format=torch.channels_last))
        if isinstance(found, Tensor):
            return [found.contiguous(memory_format=torch.channels_last)] * inputs
        if len(found) < inputs:
            raise ValueError(f"skeleton {self.skeleton.name}: its stem makes {len(found)} states, and a cell reads {inputs}")
        return [state.contiguous(memory_format=torch.channels_last) for state in found[-inputs:]]
