"""Whether the pixels that a map marks matter to the network: completeness, deletion, insertion."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from base.seeds import new_generator

POINTS = 17
"""Points of a curve, from no pixel to all of them."""
RANDOM_ORDERS = 5
"""Random orders of the pixels that a map is compared with."""
_AT_ONCE = 64
_RESAMPLES = 2000


def completeness(network: nn.Module, inputs: Tensor, targets: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Returns how far the sums of maps [B, H, W] are from the outputs less those for the baseline
    (Sundararajan et al. 2017, proposition 1), and that difference itself: both [B]."""
    with torch.no_grad():
        there, absent = (network(images).gather(1, targets[:, None])[:, 0] for images in (inputs, torch.zeros_like(inputs)))
    difference = (there - absent).double().cpu()
    return (maps.flatten(1).sum(1) - difference).abs(), difference


@dataclass(frozen=True)
class Curves:
    """The probability of the predicted class while pixels are taken away or put in, most marked
    first."""

    deletion: Tensor
    """Begins with the image and ends with the mean colour, [B, POINTS]."""
    insertion: Tensor
    """Begins with the blurred image and ends with the image, [B, POINTS]."""

    @property
    def deletion_area(self) -> Tensor:
        """Returns the area below each curve of deletion, 0 to 1; less is better."""
        return _area(self.deletion)

    @property
    def insertion_area(self) -> Tensor:
        """Returns the area below each curve of insertion, 0 to 1; more is better."""
        return _area(self.insertion)

    @property
    def gain(self) -> Tensor:
        """Returns the area of insertion less that of deletion, [B]: an order that is good at one of
        the two for its form alone, such as single pixels or whole patches, gains nothing."""
        return self.insertion_area - self.deletion_area


def curves(
    network: nn.Module, inputs: Tensor, targets: Tensor, maps: Tensor, seed: int, advance: Callable[[int], None] | None = None
) -> Curves:
    """Returns the curves of deletion and insertion (Petsiuk et al. 2018, section 4.2) of maps
    [B, H, W]; pixels of equal value come in a random order."""
    generator = new_generator(seed, "ties")
    pixels = maps[0].numel()
    counts = [round(pixels * point / (POINTS - 1)) for point in range(POINTS)]
    blurred, found = _blurred(inputs), []
    for image, blur, target, values in zip(inputs, blurred, targets.tolist(), maps.flatten(1), strict=True):
        shuffled = torch.randperm(pixels, generator=generator)
        order = shuffled[values[shuffled].argsort(descending=True, stable=True)]
        rank = torch.empty_like(order)
        rank[order] = torch.arange(pixels)
        chosen = torch.stack([rank < count for count in counts]).view(POINTS, 1, *image.shape[1:]).to(image.device)
        shown = torch.cat([torch.where(chosen, torch.zeros_like(image), image), torch.where(chosen, image, blur)])
        with torch.no_grad():
            found.append(torch.cat([network(part).double().softmax(1)[:, target].cpu() for part in shown.split(_AT_ONCE)]))
        if advance is not None:
            advance(len(shown))
    both = torch.stack(found)
    return Curves(both[:, :POINTS], both[:, POINTS:])


def random_curves(
    network: nn.Module, inputs: Tensor, targets: Tensor, seed: int, advance: Callable[[int], None] | None = None
) -> Curves:
    """Returns the curves of pixels in a random order, the means of `RANDOM_ORDERS`."""
    flat = torch.zeros(len(inputs), *inputs.shape[2:], dtype=torch.float64)
    drawn = [curves(network, inputs, targets, flat, seed + 1 + number, advance) for number in range(RANDOM_ORDERS)]
    deletion, insertion = (torch.stack([getattr(one, name) for one in drawn]).mean(0) for name in ("deletion", "insertion"))
    return Curves(deletion, insertion)


def interval(values: Tensor, seed: int) -> tuple[float, float]:
    """Returns the 95% interval of the mean of values [B] by the percentile bootstrap over them
    (Efron 1979)."""
    generator = new_generator(seed, "bootstrap")
    drawn = torch.randint(len(values), (_RESAMPLES, len(values)), generator=generator)
    low, high = values[drawn].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return low, high


def _area(curve: Tensor) -> Tensor:
    return torch.trapezoid(curve, dx=1 / (POINTS - 1), dim=1)


def _blurred(inputs: Tensor) -> Tensor:
    """Returns the images behind a Gaussian filter, whose deviation is a tenth of the shorter side;
    borders are continued by their last pixel."""
    channels, height, width = inputs.shape[1:]
    deviation = min(height, width) / 10
    reach = max(1, math.ceil(2 * deviation))
    places = torch.arange(-reach, reach + 1, device=inputs.device, dtype=inputs.dtype)
    weights = torch.exp(-places.square() / (2 * deviation**2))
    weights = (weights / weights.sum()).expand(channels, 1, -1)
    padded = F.pad(inputs, (reach,) * 4, mode="replicate")
    across = F.conv2d(padded, weights[:, :, None, :], groups=channels)
    return F.conv2d(across, weights[:, :, :, None], groups=channels)
