"""A confusion matrix as a picture. matplotlib is slow to load, so it is imported where it is
used."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch

from base.texts import label
from supernet.drawing.draw import DOTS, INK, MARGIN, PAPER, TEXT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_COUNTED, MOST_NAMED = 20, 50  # classes up to which cells hold numbers, and axes names
_SMALL = 7.5  # points
_LONGEST = 24  # characters of a name
_STEPS = (0, 0.01, 0.05, 0.1, 0.25, 0.5, 1)  # on the bar
_UNKNOWN = "#d1d5db"  # a row without images
_BAR, _GAP, _BAR_LABELS = 0.14, 0.15, 0.75  # inches


def draw_confusion(confusion: Sequence[Sequence[int]], class_names: Sequence[str]) -> "Figure":
    """Draws numbers of images [true class, predicted class] as a heat map of shares of the true
    class.

    Shares are on a scale of square roots, on which rare confusions are seen too. With few classes
    each cell that is not 0 says its number, and the axes have the names; with many they have the
    numbers of the classes, from 0. The row of a class without images is grey.

    Raises ValueError for a table of another shape.
    """
    from matplotlib import colormaps
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    counts, classes = torch.as_tensor(confusion), len(class_names)
    if tuple(counts.shape) != (classes, classes):
        raise ValueError(f"confusion: expected [classes={classes}, classes={classes}] to draw, got {list(counts.shape)}")
    shares = counts / counts.sum(1, keepdim=True)  # NaN without images
    names = [drawable(name, number) for number, name in enumerate(class_names)] if classes <= MOST_NAMED else []
    size = TEXT if classes <= MOST_COUNTED else _SMALL
    longest = max((_width(name, size) for name in names), default=0.3)
    side = max(2.0, classes * _cell(counts))
    angle = 45 if names and longest > 0.9 * side / classes else 0
    across = 0.75 * longest if angle else 0.2
    left, top = MARGIN + 0.4 + longest, MARGIN + 0.4 + across
    right = max(_GAP + _BAR + _BAR_LABELS, across + 0.1)
    width, height = left + side + right, top + side + MARGIN
    figure = Figure((width, height), dpi=DOTS, facecolor="white")
    axes = figure.add_axes((left / width, MARGIN / height, side / width, side / height))
    colours = colormaps["Blues"].with_extremes(bad=_UNKNOWN)
    image = axes.imshow(shares.numpy(), cmap=colours, norm=PowerNorm(0.5, 0, 1), interpolation="nearest")
    _label_axes(axes, names, classes, size, angle)
    if classes <= MOST_COUNTED:
        _write_counts(axes, counts, shares)
    middle = (left + side / 2) / width, (MARGIN + side / 2) / height
    title = partial(figure.text, fontsize=TEXT, color=INK)
    title(MARGIN / width, middle[1], "true class", rotation=90, va="center")
    title(middle[0], 1 - MARGIN / height, "predicted class", ha="center", va="top")
    bar = figure.add_axes(((left + side + _GAP) / width, MARGIN / height, _BAR / width, side / height))
    figure.colorbar(image, cax=bar, ticks=_STEPS, label="share of the true class")
    bar.set_yticklabels([f"{step:.0%}" for step in _STEPS])
    bar.tick_params(labelsize=_SMALL, colors=INK)
    bar.yaxis.label.set(size=_SMALL, color=INK)
    bar.spines[:].set_visible(False)
    return figure


def _cell(counts: torch.Tensor) -> float:
    """Returns the side of a cell in inches: room for the largest number, or for a name, or for a
    few dots."""
    classes = len(counts)
    if classes <= MOST_COUNTED:
        return max(0.36, _width(str(int(counts.max())), _SMALL) + 0.1)
    return 0.19 if classes <= MOST_NAMED else max(7 / classes, 2 / DOTS)


def _label_axes(axes: "Axes", names: Sequence[str], classes: int, size: float, angle: int) -> None:
    """Labels the axes; `angle` is that of the names of the columns, in degrees."""
    axes.xaxis.tick_top()
    axes.tick_params(length=0, colors=INK, labelsize=size)
    axes.spines[:].set_color(INK)
    if names:
        axes.set_xticks(range(classes), names, rotation=angle, ha="left" if angle else "center", rotation_mode="anchor")
        axes.set_yticks(range(classes), names)
        for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            label.set_parse_math(False)
        between = [number - 0.5 for number in range(1, classes)]
        axes.vlines(between, -0.5, classes - 0.5, color=PAPER, linewidth=0.8)
        axes.hlines(between, -0.5, classes - 0.5, color=PAPER, linewidth=0.8)
    else:
        step = next(step for step in (10, 50, 100, 500, 1000, 5000) if classes / step <= 20 or step == 5000)
        axes.set_xticks(range(0, classes, step))
        axes.set_yticks(range(0, classes, step))
        axes.tick_params(length=3)


def _write_counts(axes: "Axes", counts: torch.Tensor, shares: torch.Tensor) -> None:
    for row, (line, line_shares) in enumerate(zip(counts.tolist(), shares.tolist(), strict=True)):
        for column, (count, share) in enumerate(zip(line, line_shares, strict=True)):
            if count:
                colour = "white" if share > 0.36 else INK  # share at which the scale of square roots gets dark
                axes.text(column, row, str(count), ha="center", va="center", fontsize=_SMALL, color=colour)


def drawable(name: str, number: int) -> str:
    """Returns the name, its middle left out if it is long; the number of one that the font has no
    letters for."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    line = label(name, _LONGEST)
    known = get_font(findfont(FontProperties())).get_charmap()
    return str(number) if any(ord(letter) not in known for letter in line) else line


def _width(text: str, size: float) -> float:
    """Returns the width of a text in inches."""
    from matplotlib.textpath import TextPath

    # A text of blanks alone has no outline to measure.
    across = TextPath((0, 0), f"{text}.", size=size).vertices[:, 0]
    return float(across.max() - across.min()) / 72
