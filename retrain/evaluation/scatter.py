"""Predicted against true numbers as a picture. matplotlib is slow to load, so it is imported where
it is used."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from retrain.evaluation.confusion import drawable
from supernet.drawing.draw import DOTS, INK, MARGIN, PAPER, TEXT
from training.tasks.regression import RegressionEvaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_DRAWN, ACROSS = 6, 3
"""Numbers that are drawn, the first ones, and panels in a row."""
_SIDE, _LEFT, _BELOW, _ABOVE = 2.6, 0.75, 0.55, 0.3  # inches of a panel and of the room around it
_SMALL = 7.5  # points
_DOT, _FAINT = "#2563b0", 200  # points above which each is drawn fainter


def draw_predictions(found: RegressionEvaluation, names: Sequence[str]) -> "Figure":
    """Draws the predicted over the true number of each image that the evaluation has kept, a panel
    for each number up to `MOST_DRAWN`; on the line they are equal.

    Both axes of a panel have one scale, in the unit of the data.
    """
    from matplotlib.figure import Figure

    shown = names[:MOST_DRAWN]
    across = min(ACROSS, len(shown))
    down = -(-len(shown) // across)
    wide, high = _LEFT + _SIDE, _ABOVE + _SIDE + _BELOW
    width, height = across * wide + MARGIN, down * high + MARGIN
    figure = Figure((width, height), dpi=DOTS, facecolor="white")
    for place, name in enumerate(shown):
        left = place % across * wide + _LEFT
        bottom = height - (place // across + 1) * high + _BELOW
        axes = figure.add_axes((left / width, bottom / height, _SIDE / width, _SIDE / height))
        _draw_panel(axes, found.true[:, place].tolist(), found.predicted[:, place].tolist(), drawable(name, place))
    return figure


def _draw_panel(axes: "Axes", true: Sequence[float], predicted: Sequence[float], name: str) -> None:
    low, high = min(*true, *predicted), max(*true, *predicted)
    room = (high - low) / 20 or abs(low) / 20 or 1.0
    limits = low - room, high + room
    axes.plot(limits, limits, color=INK, linewidth=0.8, zorder=1)
    faint = min(0.8, max(0.25, _FAINT / len(true)))
    axes.scatter(true, predicted, s=9, color=_DOT, alpha=faint, linewidths=0, zorder=2)
    axes.set_xlim(*limits)
    axes.set_ylim(*limits)
    axes.grid(color=PAPER, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=_SMALL, colors=INK)
    axes.locator_params(nbins=5)
    axes.spines[:].set_color(INK)
    axes.set_xlabel(f"true {name}", fontsize=TEXT, color=INK, parse_math=False)
    axes.set_ylabel(f"predicted {name}", fontsize=TEXT, color=INK, parse_math=False)
