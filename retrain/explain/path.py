"""Integrated gradients that are complete: the path is cut where the network bends."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

TOLERANCE = 1e-9
"""Difference from a straight line, per unit of the path, up to which a piece is straight."""
MOST_POINTS = 20_000
"""Points of the path of an image at most; beyond them the pieces that are left are not cut."""
FIRST = 1025
"""Points that are taken in any case."""
_AT_ONCE = 1024
_SHORTEST = 1e-12


class _Points(NamedTuple):
    """Points of the path: where they are, with values and gradients there."""

    place: Tensor
    """From 0 at the baseline to 1 at the image, [P]."""
    value: Tensor
    """The explained output, [P]."""
    gradient: Tensor
    """Its gradient in the image, [P, C * H * W]."""
    slope: Tensor
    """Its derivative along the path, [P]."""

    def take(self, chosen: Tensor) -> "_Points":
        return _Points(*(values[chosen] for values in self))

    def then(self, others: "_Points") -> "_Points":
        return _Points(*map(torch.cat, zip(self, others, strict=True)))


def complete_gradients(network: nn.Module, image: Tensor, target: int, most: int = MOST_POINTS) -> tuple[Tensor, int]:
    """Returns the integrated gradients (Sundararajan et al. 2017, equation 1) of an image [C, H, W]
    against the baseline 0, [C, H, W], and the number of points that took.

    A network of convolutions, ReLUs and pools is linear between the points of the path where some
    unit switches, so that its gradient is constant there and the integral a finite sum. A piece
    whose ends lie on the tangent of one of them is taken for such a part; another is cut where the
    tangents of its ends meet, which is the bend if it has a single one. The values add up to the
    difference of the outputs but for rounding. A unit that switches on and off again between two of
    the first `FIRST` points is missed: its share of the integral is too, and adds up to 0.

    Where there are more than `most` points, as in a network that is nowhere linear, the pieces that
    are left are integrated by the trapezoid rule. Image and network are of float64.
    """
    evaluate = _along(network, image, target)
    places = torch.linspace(0, 1, FIRST, dtype=image.dtype, device=image.device)
    points = evaluate(places)
    count = len(places)
    left, right = points.take(torch.arange(FIRST - 1)), points.take(torch.arange(1, FIRST))
    total = torch.zeros_like(left.gradient[0])
    while len(left.place):
        width = right.place - left.place
        rise = right.value - left.value
        on_left, on_right = ((rise - end.slope * width).abs() <= TOLERANCE * width for end in (left, right))
        straight = on_left | on_right
        # Where both fit, the mean of the two is that of either.
        share = torch.where(on_left & on_right, 0.5, on_left.to(width.dtype))[:, None]
        gradients = share * left.gradient + (1 - share) * right.gradient
        total += (gradients * width[:, None])[straight].sum(0)
        left, right = left.take(~straight), right.take(~straight)
        if not len(left.place):
            break
        if count + len(left.place) > most:
            total += ((left.gradient + right.gradient) / 2 * (right.place - left.place)[:, None]).sum(0)
            break
        cut = _meeting(left, right)
        middle = evaluate(cut)
        count += len(cut)
        width = right.place - left.place
        # Both tangents have to reach the cut, which may also be just the middle.
        bend = torch.stack(
            [(middle.value - end.value - end.slope * (cut - end.place)).abs() <= TOLERANCE * width for end in (left, right)]
        ).all(0)
        bend |= width < _SHORTEST
        on_both = left.gradient * (cut - left.place)[:, None] + right.gradient * (right.place - cut)[:, None]
        total += on_both[bend].sum(0)
        rest = ~bend
        left, right = left.take(rest).then(middle.take(rest)), middle.take(rest).then(right.take(rest))
    return (total * image.flatten()).view_as(image), count


def _meeting(left: _Points, right: _Points) -> Tensor:
    """Returns the places where the tangents of the two ends meet, or the middle where that is not
    between them."""
    numerator = right.value - left.value - right.slope * right.place + left.slope * left.place
    place = numerator / (left.slope - right.slope)
    margin = 1e-9 * (right.place - left.place)
    inside = (place > left.place + margin) & (place < right.place - margin)
    return torch.where(inside, place, (left.place + right.place) / 2)


def _along(network: nn.Module, image: Tensor, target: int) -> Callable[[Tensor], _Points]:
    def evaluate(places: Tensor) -> _Points:
        found = []
        for part in places.split(_AT_ONCE):
            images = (part[:, None, None, None] * image).requires_grad_()
            values = network(images)[:, target]
            (gradients,) = torch.autograd.grad(values.sum(), images)
            slopes = (gradients * image).flatten(1).sum(1)
            found.append(_Points(part, values.detach(), gradients.flatten(1), slopes))
        whole = found[0]
        for more in found[1:]:
            whole = whole.then(more)
        return whole

    return evaluate
