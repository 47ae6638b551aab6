"""Parts of the pages of all explanations: numbers with their intervals, tables, figures."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from supernet.drawing.draw import DOTS, INK, TEXT
from training.report.html import Markup, element

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = ("#2563b0", "#c2560c", "#0f7d75", "#8e3fa0")


def percent(share: float) -> str:
    """Returns a share as text: 21.1%."""
    return f"{100 * share:.1f}%"


def interval(value: float, low: float, high: float, digits: int = 1, unit: str = "") -> str:
    """Returns a number with its interval as text: 2.1 (1.6 to 2.6), with a unit 2.1% (1.6% to
    2.6%)."""
    shown, least, most = (f"{one:.{digits}f}{unit}" for one in (value, low, high))
    return f"{shown} ({least} to {most})"


def unbroken(name: str) -> Markup:
    """Returns the name of a decision as one line of a table."""
    return element("span", name, style="white-space:nowrap")


def long(name: str) -> Markup:
    """Returns the name of a part of architectures with room for it in a table on a narrow
    screen."""
    return element("span", name, class_="long")


def counted(count: int, one: str, more: str | None = None) -> str:
    """Returns a count and its noun: 1 tree, 1,000 trees."""
    return f"{count:,} {one if count == 1 else more or f'{one}s'}"


def draw_bars(
    names: Sequence[str],
    groups: Mapping[str, Sequence[tuple[float, float, float]]],
    label: str,
) -> "Figure":
    """Draws a group of bars for each name: of each of `groups` the value with its lower and upper
    end, which are equal for an exact one. `label` is that of the axis."""
    from matplotlib.figure import Figure  # slow to import

    figure = Figure((6.4, 0.9 + 0.2 * len(names) * (len(groups) + 0.6)), dpi=DOTS, facecolor="white", layout="constrained")
    axes = figure.subplots()
    places, thick = np.arange(len(names)), 0.8 / len(groups)
    for number, (group, bars) in enumerate(groups.items()):
        value, low, high = np.array(bars, np.float64).reshape(-1, 3).T
        at = places + (number - (len(groups) - 1) / 2) * thick
        axes.barh(at, value, 0.9 * thick, color=_COLOURS[number % len(_COLOURS)], label=group)
        if (low < high).any():
            ends = np.maximum([value - low, high - value], 0)
            axes.errorbar(value, at, xerr=ends, fmt="none", ecolor=INK, elinewidth=0.9, capsize=2)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.axvline(0, color=INK, linewidth=0.6)
    axes.set_xlabel(label, fontsize=TEXT, color=INK)
    axes.tick_params(labelsize=TEXT, colors=INK, length=2)
    axes.spines[["top", "right"]].set_visible(False)
    if len(groups) > 1:
        figure.legend(loc="outside upper center", ncols=len(groups), fontsize=TEXT, frameon=False)
    return figure


def draw_heat_map(
    rows: Sequence[str], columns: Sequence[str], values: np.ndarray, label: str, form: str = "{:.1f}"
) -> "Figure":
    """Draws `values` [rows, columns] as colours with their numbers; NaN is left empty. `label` says
    which numbers they are."""
    from matplotlib.figure import Figure  # slow to import

    figure = Figure((1.8 + 0.95 * len(columns), 0.9 + 0.3 * len(rows)), dpi=DOTS, facecolor="white", layout="constrained")
    axes = figure.subplots()
    shown = axes.imshow(np.ma.masked_invalid(values), cmap="viridis", aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            red, green, blue, _ = shown.cmap(shown.norm(value))
            is_dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
            colour = "white" if is_dark else "black"
            axes.text(column, row, form.format(value), ha="center", va="center", fontsize=TEXT, color=colour)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(labelsize=TEXT, colors=INK, length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(label, fontsize=TEXT, color=INK)
    return figure
