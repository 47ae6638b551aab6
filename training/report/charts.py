"""Curves and heat maps as SVG within a page: drawn in the colours of the page, so that they suit a
dark one, too."""

import base64
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeVar

from training.report.html import Markup, element, join, paragraph
from training.run.history import HistoryEntry

if TYPE_CHECKING:
    import numpy as np

WIDTH, HEIGHT = 340, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 34
COLOURS = 7
"""Number of curves of different colours in one chart; further ones begin again."""
MARKED = 60
"""Number of points of a curve up to which each is marked."""

Point = tuple[float, float]
E = TypeVar("E", bound=HistoryEntry)


@dataclass(frozen=True)
class Curve:
    """A line through points from left to right; points that are not finite are left out."""

    name: str
    points: Sequence[Point]
    style: Literal["line", "dots"] = "line"


def chart(title: str, curves: Sequence[Curve], across: str = "epoch", last: bool = True) -> Markup | None:
    """Draws curves over whole numbers such as epochs, with the `last` value of each unless that says
    nothing; None if there is no point."""
    curves = [Curve(curve.name, [p for p in curve.points if all(map(math.isfinite, p))], curve.style) for curve in curves]
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return None
    xs, ys = zip(*(point for curve in curves for point in curve.points), strict=True)
    x_low, x_high = (min(xs), max(xs)) if min(xs) < max(xs) else (min(xs) - 0.5, max(xs) + 0.5)
    y_ticks = _ticks(min(ys), max(ys), 4, whole=all(y == round(y) for y in ys))
    y_low, y_high = min(y_ticks[0], min(ys)), max(y_ticks[-1], max(ys))

    def place(point: Point) -> Point:
        x = _LEFT + (point[0] - x_low) / (x_high - x_low) * (WIDTH - _LEFT - _RIGHT)
        y = HEIGHT - _BOTTOM - (point[1] - y_low) / (y_high - y_low) * (HEIGHT - _TOP - _BOTTOM)
        return round(x, 1), round(y, 1)

    parts = []
    write = _tick_format(y_ticks)
    for value in y_ticks:
        _, y = place((x_low, value))
        parts.append(element("line", x1=_LEFT, x2=WIDTH - _RIGHT, y1=y, y2=y, stroke="var(--line)"))
        parts.append(element("text", write(value), x=_LEFT - 6, y=y + 4, text_anchor="end"))
    x_ticks = [value for value in _ticks(min(xs), max(xs), 5, whole=True) if min(xs) <= value <= max(xs)]
    for value in x_ticks:
        x, _ = place((value, y_low))
        parts.append(element("text", f"{value:,.0f}", x=x, y=HEIGHT - _BOTTOM + 16, text_anchor="middle"))
    parts.append(element("text", across, x=(_LEFT + WIDTH - _RIGHT) / 2, y=HEIGHT - 3, text_anchor="middle"))
    parts += [_drawn(curve, number, place) for number, curve in enumerate(curves)]
    described = f"{title}: {', '.join(curve.name for curve in curves)}"
    drawn = element("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=described)
    legend = element("div", *(_legend(curve, number, last) for number, curve in enumerate(curves)), class_="legend")
    return element("figure", element("h3", title), legend, drawn)


def charts(*drawn: Markup | None) -> Markup:
    """Puts charts beside each other, as many in a row as there is room for; None is left out."""
    there = [one for one in drawn if one is not None]
    return element("div", *there, class_="charts") if there else paragraph("Nothing has been measured yet.")


def of_history(history: Sequence[E], name: str, value: Callable[[E], float | None]) -> Curve:
    """Makes the curve of a value of each entry over the epochs of a history; entries for which it
    is None are left out."""
    values = ((entry.epoch, value(entry)) for entry in history)
    return Curve(name, [(epoch, one) for epoch, one in values if one is not None])


def of_reading(history: Sequence[HistoryEntry], reading: str, name: str | None = None) -> Curve:
    """Makes the curve of a reading such as "train/loss" over the epochs of a history that have
    it."""
    return of_history(history, name or reading, lambda entry: entry.readings.get(reading))


def _drawn(curve: Curve, number: int, place: Callable[[Point], Point]) -> Markup:
    colour = f"var(--s{number % COLOURS})"
    placed = [place(point) for point in curve.points]
    parts = []
    if curve.style == "line" and len(placed) > 1:
        path = "M" + "L".join(f"{x:g} {y:g}" for x, y in placed)
        parts.append(element("path", d=path, fill="none", stroke=colour, stroke_width=1.8, stroke_linejoin="round"))
    if curve.style == "dots" or len(placed) <= MARKED:
        parts += [
            element("circle", element("title", f"{curve.name}, {x:g}: {y:.6g}"), cx=cx, cy=cy, r=2.4, fill=colour)
            for (x, y), (cx, cy) in zip(curve.points, placed, strict=True)
        ]
    return element("g", *parts, opacity=0.55 if curve.style == "dots" else None)


def _legend(curve: Curve, number: int, with_last: bool) -> Markup:
    mark = element("i", style=f"background:var(--s{number % COLOURS})")
    last = "" if curve.style == "dots" or not with_last else f" {_short(curve.points[-1][1])}"
    return join(element("span", mark, curve.name, last), " ")


def _short(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) and abs(value) < 1e6 else f"{value:.4g}"


def _ticks(low: float, high: float, count: int, whole: bool = False) -> list[float]:
    """Returns about `count` round numbers from `low` or below to `high` or above; with `whole`,
    whole numbers."""
    if not low < high:
        room = abs(low) / 10 or 0.5
        low, high = low - room, high + room
    step = 10 ** math.floor(math.log10((high - low) / count))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if factor * step * count >= high - low)
    step = max(step, 1.0) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def _tick_format(ticks: Sequence[float]) -> Callable[[float], str]:
    largest, step = max(map(abs, ticks)), ticks[1] - ticks[0]
    if largest >= 1e5 or largest < 1e-3:
        # Room is short beside a chart: 2.0e5.
        return lambda value: f"{value:.1e}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e") if value else "0"
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    decimals += not math.isclose(step * 10**decimals, round(step * 10**decimals))  # 2.5 has one more
    return lambda value: f"{value:,.{decimals}f}"


# Weights over time


def raster(values: "np.ndarray", low: float, high: float) -> str:
    """Returns an array [rows, columns] as a data URI of a picture in viridis, one pixel a value; 0
    and values that are not finite are transparent."""
    import numpy as np
    from matplotlib import colormaps
    from PIL import Image

    pixels = colormaps["viridis"]((values - low) / ((high - low) or 1), bytes=True)
    pixels[(values == 0) | ~np.isfinite(values)] = 0
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def scale(low: float, high: float) -> Markup:
    """Returns the scale of a raster: its colours and their values."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    stops = ",".join(to_hex(colormaps["viridis"](share / 8)) for share in range(9))
    return join(
        f"{low:.4g}", element("span", class_="scale", style=f"background:linear-gradient(90deg,{stops})"), f"{high:.4g}"
    )
