"""Tests of training/report/charts.py."""

import base64
import io
import math
import re
from html import unescape

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import colormaps
from PIL import Image

from training.report.charts import HEIGHT, WIDTH, Curve, _ticks, chart, charts, of_history, of_reading, raster, scale
from training.run.history import HistoryEntry

NUMBERS = st.floats(-1e9, 1e9, allow_nan=False)


def circles(drawn: str) -> list[tuple[str, float, float]]:
    """(title, x, y) of each marked point."""
    found = re.findall(r'<circle cx="([-\d.]+)" cy="([-\d.]+)"[^>]*><title>([^<]*)</title>', drawn)
    return [(unescape(title), float(x), float(y)) for x, y, title in found]


def test_points_are_drawn_where_they_belong_and_say_their_values() -> None:
    drawn = chart("loss", [Curve("train", [(1, 4.0), (2, 3.0), (3, 1.0)])])
    assert drawn is not None
    (one, x1, y1), (_, x2, y2), (three, x3, y3) = circles(drawn)
    assert (one, three) == ("train, 1: 4", "train, 3: 1")
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.11)
    assert (y3 - y2) == pytest.approx(2 * (y2 - y1), abs=0.31) and y1 < y2, "larger is higher, in proportion"


def test_a_chart_has_a_legend_with_the_last_value_of_each_line() -> None:
    drawn = chart("accuracy", [Curve("<train>", [(1, 0.5), (2, 0.98765)]), Curve("seen", [(2, 0.1)], "dots")])
    assert drawn is not None
    words = re.sub(r"<[^>]*>", " ", drawn)
    assert "&lt;train&gt; 0.9877" in words and "seen " in words and "seen 0.1" not in words


def test_what_is_not_finite_is_left_out_and_a_chart_of_nothing_is_none() -> None:
    points = [(1, math.nan), (2, 3.0), (3, math.inf), (4, -math.inf)]
    assert [title for title, *_ in circles(chart("x", [Curve("a", points), Curve("b", [])]) or "")] == ["a, 2: 3"]
    assert chart("x", [Curve("a", points[:1]), Curve("b", [])]) is None
    assert "Nothing has been measured yet." in charts(None) and "<h3>x</h3>" in charts(None, chart("x", [Curve("b", [(1, 2)])]))


def test_long_curves_are_lines_without_marks() -> None:
    drawn = chart("x", [Curve("a", [(epoch, epoch**2) for epoch in range(600)])])
    assert drawn is not None and not circles(drawn) and drawn.count("<path") == 1


def test_a_history_gives_the_epochs_that_have_a_value() -> None:
    history = [HistoryEntry(epoch=epoch, readings=readings) for epoch, readings in ((1, {}), (2, {"a": 0.5}), (4, {"a": 2}))]
    assert of_reading(history, "a") == Curve("a", [(2, 0.5), (4, 2)]) and of_reading(history, "a", "name").name == "name"
    assert of_history(history, "late", lambda entry: None if entry.epoch < 2 else 0.0) == Curve("late", [(2, 0.0), (4, 0.0)])


@given(points=st.lists(st.tuples(st.integers(1, 700), NUMBERS), min_size=1, max_size=9))
def test_every_point_is_within_the_chart_whatever_the_values(points: list[tuple[int, float]]) -> None:
    placed = circles(chart("x", [Curve("a", points)]) or "")
    assert len(placed) == len(points)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for _, x, y in placed)


@given(low=NUMBERS, high=NUMBERS, whole=st.booleans())
def test_ticks_are_few_even_and_reach_over_the_values(low: float, high: float, whole: bool) -> None:
    low, high = sorted((round(low), round(high)) if whole else (low, high))
    ticks = _ticks(low, high, 4, whole)
    room = 1e-6 * (high - low) + 1e-9
    assert ticks[0] <= low + room and ticks[-1] >= high - room and 2 <= len(ticks) <= 6
    assert np.allclose(np.diff(ticks), ticks[1] - ticks[0], rtol=1e-6)
    assert not whole or all(tick == round(tick) for tick in ticks)


def test_a_raster_has_a_pixel_a_value_in_viridis_and_nothing_where_there_is_no_weight() -> None:
    uri = raster(np.array([[0.2, 0.6, 0.0], [0.4, np.nan, 0.6]]), 0.2, 0.6)
    pixels = np.array(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix("data:image/png;base64,")))))
    assert pixels.shape == (2, 3, 4)
    viridis = colormaps["viridis"]
    assert pixels[0, 0].tolist() == list(viridis(0.0, bytes=True)) and pixels[0, 1].tolist() == list(viridis(1.0, bytes=True))
    assert pixels[1, 0].tolist() == list(viridis((0.4 - 0.2) / (0.6 - 0.2), bytes=True))
    assert not pixels[0, 2].any() and not pixels[1, 1].any()
    assert raster(np.full((1, 1), 0.5), 0.5, 0.5).startswith("data:image/png"), "all alike"


def test_a_scale_has_both_ends() -> None:
    assert re.sub(r"<[^>]*>", " ", scale(0.125, 0.98765)).split() == ["0.125", "0.9877"]
