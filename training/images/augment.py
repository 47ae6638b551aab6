"""Random crop, flip and cutout of a batch at once, as tensor operations on the device that holds
the images."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from base.seeds import new_generator
from training.images.sets import LONGEST, Crop


class Draws(NamedTuple):
    """The random choices for n images, each a tensor [n]."""

    top: Tensor
    """First row of the crop in the padded image, 0 to twice the padding."""
    left: Tensor
    """First column of the crop in the padded image, 0 to twice the padding."""
    mirrored: Tensor
    """Whether the crop is mirrored left to right (bool)."""
    row: Tensor
    """Row of the centre of the cutout."""
    column: Tensor
    """Column of the centre of the cutout."""
    part: Tensor
    """The draws for `crop_area`: share of the area, logarithm of the aspect, place down and to the
    right, [n, 4]."""

    def to(self, device: torch.device) -> "Draws":
        """Returns the same choices on `device`."""
        return Draws(*(draw.to(device) for draw in self))

    def between(self, start: int, stop: int) -> "Draws":
        """Returns the choices for the images from `start` up to, not including, `stop`."""
        return Draws(*(draw[start:stop] for draw in self))


@dataclass(frozen=True)
class Augmentation:
    """The random changes of a training image; each is off by default."""

    crop_padding: int = 0
    """Pixels of zeros around the image before a crop of its own size is taken at random."""
    flip: bool = False
    """Mirror every second image, on average, left to right."""
    cutout: int = 0
    """Side in pixels of the square that is blanked (DeVries and Taylor, arXiv:1708.04552)."""
    crop_area: float = 1.0
    """A part of the image of at least this share of its area, its sides at most 4 to 3, replaces
    the image (Szegedy et al., arXiv:1409.4842). A longer image may have no such part; then the
    largest that comes near it does. 1 keeps images whole."""

    def draw(self, count: int, height: int, width: int, *seed: int | str) -> Draws:
        """Draws the random choices for `count` images of `height` x `width` pixels, on the CPU.

        They are drawn there so that the same seed gives the same images on every device. Each kind
        of choice has its own stream: switching the crop off leaves flips and cutouts as they were.
        """
        crop, flip, cutout = (new_generator(*seed, purpose) for purpose in ("crop", "flip", "cutout"))
        offsets = 2 * self.crop_padding + 1
        return Draws(
            top=torch.randint(offsets, (count,), generator=crop),
            left=torch.randint(offsets, (count,), generator=crop),
            mirrored=torch.randint(2, (count,), generator=flip).bool(),
            row=torch.randint(height, (count,), generator=cutout),
            column=torch.randint(width, (count,), generator=cutout),
            part=self._draw_parts(count, new_generator(*seed, "part")),
        )

    def _draw_parts(self, count: int, generator: torch.Generator) -> Tensor:
        if self.crop_area == 1:
            return torch.zeros(count, 4)
        least = torch.tensor([self.crop_area, -math.log(LONGEST), 0, 0])
        most = torch.tensor([1, math.log(LONGEST), 1, 1])
        return least + (most - least) * torch.rand(count, 4, generator=generator)

    def crops(self, draws: Draws) -> list[Crop] | None:
        """Returns the parts that replace the images; None if the images stay whole."""
        if self.crop_area == 1:
            return None
        return [Crop(area, math.exp(aspect), down, right) for area, aspect, down, right in draws.part.tolist()]

    def pad(self, images: Tensor) -> Tensor:
        """Adds a border of zeros, as `crop_and_flip` needs it.

        Images [N, C, H, W] become [N, H + 2 padding, W + 2 padding, C].
        """
        return F.pad(rearrange(images, "n c h w -> n h w c"), (0, 0, *[self.crop_padding] * 4)).contiguous()

    def crop_and_flip(self, padded: Tensor, chosen: Tensor, draws: Draws) -> Tensor:
        """Crops and flips the images `chosen` [B] of `padded`.

        `padded` is [N, H + 2 padding, W + 2 padding, C], as `pad` returns it. Returns [B, H, W, C].
        """
        if self.crop_padding == 0 and not self.flip:
            return padded.index_select(0, chosen)
        height, width = (side - 2 * self.crop_padding for side in padded.shape[1:3])
        rows = draws.top[:, None] + torch.arange(height, device=padded.device)
        across = torch.arange(width, device=padded.device).expand(len(chosen), width)
        if self.flip:
            across = torch.where(draws.mirrored[:, None], width - 1 - across, across)
        columns = draws.left[:, None] + across
        return padded[chosen[:, None, None], rows[:, :, None], columns[:, None, :]]

    def cut_out(self, images: Tensor, draws: Draws) -> Tensor:
        """Returns images [B, H, W, C] with a square of zeros round the drawn centre, cut off at the
        border."""
        if self.cutout == 0:
            return images
        rows = self._covered(draws.row, images.shape[1])
        columns = self._covered(draws.column, images.shape[2])
        return images.masked_fill((rows[:, :, None] & columns[:, None, :])[..., None], 0)

    def _covered(self, centres: Tensor, length: int) -> Tensor:
        """Says which positions from 0 to `length` - 1 lie within the square round each centre: bool
        [B, length]."""
        distance = torch.arange(length, device=centres.device) - (centres[:, None] - self.cutout // 2)
        return (distance >= 0) & (distance < self.cutout)
