"""Figures of cells and of architecture parameters. matplotlib is slow to load, so it is imported
where it is used."""

import io
import math
import os
import pathlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from base.files import write_atomically
from supernet.drawing.layout import Item, Layout, Line, lay_out
from supernet.genotypes.genotype import CellGenotype, Genotype

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOTS = 150  # an inch
MOST_DOTS = 30_000  # a side of a figure; Agg draws no more than 2**16
TEXT, TITLE = 9.0, 12.0  # points
MARGIN, TITLE_ROOM = 0.2, 0.4  # inches
INK, PAPER, BUS = "#1f2937", "#f3f4f6", "#9ca3af"  # text and frames, states, lines to the output
# Colours by the beginning of the name, the first that fits. A user's own operation has the last
# colour.
COLOURS = {
    "none": "#a8adb5",
    "skip": "#5f6b7a",
    "max_pool": "#12877f",
    "avg_pool": "#5a9e3a",
    "sep_conv": "#2563b0",
    "dil_conv": "#d1741c",
    "nor_conv": "#5948c2",
    "conv": "#8e3fa0",
    "noise": "#c03a3a",
    "": "#b03a72",
}


def draw_cell(cell: CellGenotype, inputs: int, title: str) -> "Figure":
    """Draws one cell as a graph from left to right: input states, an operation on every edge,
    nodes, output.

    Grey lines lead from the concatenated states to the output.
    """
    return _draw_layouts([(_lay_out(cell, inputs), title)])


def draw_genotype(genotype: Genotype) -> "Figure":
    """Draws the cells of every kind in one figure."""
    inputs = genotype.skeleton.inputs
    return _draw_layouts([(_lay_out(cell, inputs), _title(kind)) for kind, cell in genotype.cells.items()])


def draw_alphas(
    table: "Tensor | np.ndarray", edges: Sequence[tuple[int, int]], candidates: Sequence[str], title: str
) -> "Figure":
    """Draws a table [edges, candidates] of architecture parameters, or of a mixture, as a heat map
    with its values.

    Raises ValueError for a table of another shape.
    """
    from matplotlib.figure import Figure

    values = torch.as_tensor(table).detach().double().cpu()
    if tuple(values.shape) != (len(edges), len(candidates)):
        raise ValueError(
            f"alphas: expected [edges={len(edges)}, candidates={len(candidates)}] to draw, got {list(values.shape)}"
        )
    across, down = 0.72 * len(candidates), 0.3 * len(edges)
    label = max((_text_width(name) for name in candidates), default=0.0)  # at an angle of 30 degrees
    left, right, bottom, top = 0.75, max(1.0, 0.87 * label - 0.1), 0.2, 0.65 + label / 2
    width, height = left + across + right, bottom + down + top
    figure = Figure((width, height), dpi=_dots(width, height), facecolor="white")
    axes = figure.add_axes((left / width, bottom / height, across / width, down / height))
    finite = values[values.isfinite()].tolist() or [0.0]
    low, high = min(finite), max(finite)
    image = axes.imshow(values.numpy(), cmap="viridis", aspect="auto", vmin=low, vmax=high if high > low else low + 1)
    write = _number_format(max(map(abs, finite)))
    for row, line in enumerate(values.tolist()):
        for column, value in enumerate(line):
            dark = (value - low) / ((high - low) or 1) < 0.5  # viridis is light in its upper half
            colour = "white" if dark and math.isfinite(value) else INK
            axes.text(column, row, write(value), ha="center", va="center", fontsize=7.5, color=colour)
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(candidates)), candidates, rotation=30, ha="left", rotation_mode="anchor", fontsize=TEXT)
    axes.set_yticks(range(len(edges)), [f"{source}->{target}" for source, target in edges], fontsize=TEXT)
    axes.tick_params(length=0, colors=INK)
    axes.spines[:].set_visible(False)
    for gap in range(1, len(edges)):
        if edges[gap][1] != edges[gap - 1][1]:  # between the edges of one node and the next
            axes.axhline(gap - 0.5, color="white", linewidth=3)
    figure.text(MARGIN / width, 1 - MARGIN / height, title, fontsize=TITLE, color=INK, va="top", parse_math=False)
    bar = figure.add_axes(((left + across + 0.15) / width, bottom / height, 0.14 / width, down / height))
    figure.colorbar(image, cax=bar)
    bar.tick_params(labelsize=7.5, colors=INK)
    bar.spines[:].set_visible(False)
    return figure


def save_figure(figure: "Figure", path: str | os.PathLike[str]) -> None:
    """Writes a figure as PNG, either whole or not at all. Raises OSError if that cannot be done."""
    content = io.BytesIO()
    figure.savefig(content, format="png")
    write_atomically(pathlib.Path(path), content.getvalue())


def colour_of(operation: str) -> str:
    """Returns the colour in which an operation is drawn, the same for all of one type."""
    return next(colour for beginning, colour in COLOURS.items() if operation.startswith(beginning))


def _title(kind: str) -> str:
    return kind if kind == "cell" else f"{kind} cell"


def _dots(width: float, height: float) -> float:
    return min(DOTS, MOST_DOTS / max(width, height))


def _number_format(largest: float) -> Callable[[float], str]:
    """Returns fixed decimals with three significant digits of the largest value, if that fits a
    cell."""
    if largest and not 1e-4 <= largest < 1e4:
        return "{:.1e}".format
    decimals = max(0, 2 - math.floor(math.log10(largest))) if largest else 2
    return f"{{:.{min(decimals, 6)}f}}".format


def _lay_out(cell: CellGenotype, inputs: int) -> Layout:
    first = ["input"] if inputs == 1 else [f"$c_{{k-{inputs - number}}}$" for number in range(inputs)]
    return lay_out(cell, inputs, [*first, *map(str, range(len(cell.nodes))), "output"], _box_size)


@lru_cache(maxsize=256)
def _text_width(text: str) -> float:
    """Returns the width of a text in inches."""
    from matplotlib.textpath import TextPath

    return float(TextPath((0, 0), text, size=TEXT).get_extents().width) / 72


def _box_size(label: str, operation: bool) -> tuple[float, float]:
    """Returns width and height of a box around a text, in inches."""
    width = _text_width(label)
    return (width + 0.2, 0.25) if operation else (max(width + 0.26, 0.46), 0.46)


def _draw_layouts(drawings: Sequence[tuple[Layout, str]]) -> "Figure":
    """Puts all drawings in one figure, above or beside each other, whichever is nearer to the shape
    of a page."""
    from matplotlib.figure import Figure

    sizes = []
    for layout, title in drawings:
        left, right, bottom, top = layout.extent
        title_width = 0.7 * len(title) * TITLE / 72
        sizes.append((max(right - left, title_width) + 2 * MARGIN, top - bottom + 2 * MARGIN + TITLE_ROOM))
    widths, heights = zip(*sizes, strict=True)
    stacked, beside = (max(widths), sum(heights)), (sum(widths), max(heights))
    width, height = min(stacked, beside, key=lambda size: abs(math.log(size[0] / size[1] / 1.5)))
    figure = Figure((width, height), dpi=_dots(width, height), facecolor="white")
    x, y = 0.0, height
    for (layout, title), (own_width, own_height) in zip(drawings, sizes, strict=True):
        axes = figure.add_axes((x / width, (y - own_height) / height, own_width / width, own_height / height))
        _draw_layout(axes, layout, title, own_width, own_height)
        if (width, height) == stacked:
            y -= own_height
        else:
            x += own_width
    return figure


def _draw_layout(axes: "Axes", layout: Layout, title: str, width: float, height: float) -> None:
    """Draws one cell on axes of `width` x `height` inches, so that one unit is one inch and texts
    fit their boxes."""
    left, _, bottom, _ = layout.extent
    axes.set_xlim(left - MARGIN, left - MARGIN + width)
    axes.set_ylim(bottom - MARGIN, bottom - MARGIN + height)
    axes.axis("off")
    leaving, arriving = _ports(layout)
    for number, line in enumerate(layout.lines):
        _draw_line(axes, line, leaving[number], arriving[number])
    for box in layout.boxes:
        _draw_box(axes, box)
    axes.text(
        left, bottom + height - 2 * MARGIN, title, fontsize=TITLE, color=INK, va="top", fontweight="bold", parse_math=False
    )


def _ports(layout: Layout) -> tuple[dict[int, float], dict[int, float]]:
    """Returns the heights at which each line leaves its first item and meets its last: fanned out,
    in the order of their ends."""
    ports: tuple[dict[int, float], dict[int, float]] = ({}, {})
    for side, end, near in ((0, 0, 1), (1, -1, -2)):
        lines_of: dict[Item, list[int]] = {}
        for number, line in enumerate(layout.lines):
            lines_of.setdefault(line.items[end], []).append(number)
        for item, numbers in lines_of.items():
            numbers.sort(key=lambda number: layout.lines[number].items[near].y)
            step = min(0.1, 0.7 * item.height / len(numbers))
            for place, number in enumerate(numbers):
                ports[side][number] = item.y + step * (place - (len(numbers) - 1) / 2)
    return ports


def _draw_line(axes: "Axes", line: Line, leave: float, arrive: float) -> None:
    """Draws a smooth curve, level wherever it meets or passes a column, with an arrow at its
    end."""
    from matplotlib.patches import PathPatch, Polygon
    from matplotlib.path import Path

    colour = BUS if line.operation is None else colour_of(line.operation)
    last = len(line.items) - 1
    vertices: list[tuple[float, float]] = []
    codes: list[Any] = []
    for number, item in enumerate(line.items):
        y = {0: leave, last: arrive}.get(number, item.y)
        enter, exit_ = (item.x - item.width / 2, y), (item.x + item.width / 2, y)
        if number == last:
            enter = (enter[0] - 0.07, y)  # the beginning of the arrow
        if number:
            middle = (vertices[-1][0] + enter[0]) / 2
            vertices += [(middle, vertices[-1][1]), (middle, y), enter]
            codes += [Path.CURVE4] * 3
        if number < last:
            vertices.append(exit_)
            codes.append(Path.LINETO if number else Path.MOVETO)
    style = (0, (3, 2)) if line.operation == "none" else "solid"
    axes.add_patch(
        PathPatch(Path(vertices, codes), facecolor="none", edgecolor=colour, linewidth=1.3, linestyle=style, zorder=1)
    )
    tip = line.items[-1].x - line.items[-1].width / 2
    arrow = [(tip, arrive), (tip - 0.09, arrive + 0.035), (tip - 0.09, arrive - 0.035)]
    axes.add_patch(Polygon(arrow, facecolor=colour, edgecolor="none", zorder=2))


def _draw_box(axes: "Axes", box: Item) -> None:
    from matplotlib.colors import to_rgb
    from matplotlib.patches import FancyBboxPatch

    colour = colour_of(box.label) if box.operation else INK
    # Opaque, because lines run behind the boxes of operations.
    face = tuple(0.12 * part + 0.88 for part in to_rgb(colour)) if box.operation else PAPER
    corner = (box.x - box.width / 2, box.y - box.height / 2)
    rounding = box.height / 2 if box.operation else 0.1
    axes.add_patch(
        FancyBboxPatch(
            corner, box.width, box.height, boxstyle=f"round,pad=0,rounding_size={rounding}",
            facecolor=face, edgecolor=colour, linewidth=1.1, zorder=3,
        )
    )  # fmt: skip
    axes.text(
        box.x, box.y, box.label, fontsize=TEXT, color=colour, ha="center", va="center_baseline", zorder=4,
        parse_math=not box.operation,
    )  # fmt: skip
