"""Tests of retrain/evaluation/confusion.py."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from retrain.evaluation.confusion import MOST_COUNTED, MOST_NAMED, draw_confusion

LONG = "a class whose name is far too long to be written in full"


def random_counts(classes: int, most: int = 200) -> list[list[int]]:
    return torch.randint(most, (classes, classes)).tolist()


def names_of(classes: int) -> list[str]:
    return [f"class number {number}" for number in range(classes - 1)] + [LONG]


def texts_of(figure: Figure) -> list[Any]:
    """The texts that are seen: titles, names, numbers, those of the bar."""
    texts = list(figure.texts)
    for axes in figure.axes:
        texts += [*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels(), axes.yaxis.label]
    return [text for text in texts if text.get_text() and text.get_visible()]


@pytest.mark.parametrize("classes", [2, 15, 40, 300])
def test_all_texts_are_in_the_figure(classes: int) -> None:
    figure = draw_confusion(random_counts(classes, 99_999), names_of(classes))
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    assert max(figure.bbox.width, figure.bbox.height) < 3000
    texts = texts_of(figure)
    low, high = (np.array([getattr(text.get_window_extent(renderer), name) for text in texts]) for name in ("min", "max"))
    assert (low >= 0).all() and (high <= [figure.bbox.width, figure.bbox.height]).all()
    # Those that are level do not overlap; the boxes around slanted ones do, though they do not.
    level = [number for number, text in enumerate(texts) if text.get_rotation() == 0]
    low, high = low[level], high[level]
    overlap = ((low[:, None] < high) & (low < high[:, None])).all(-1)
    assert overlap.sum() == len(level)  # each with itself


def test_rows_are_true_classes_and_the_colour_is_their_share() -> None:
    figure = draw_confusion([[3, 1, 0], [0, 0, 0], [2, 0, 6]], ["cat", "dog", "cow"])
    axes = figure.axes[0]
    drawn = np.ma.filled(axes.images[0].get_array(), np.nan)
    np.testing.assert_array_equal(drawn, [[0.75, 0.25, 0], [np.nan] * 3, [0.25, 0, 0.75]])
    assert axes.images[0].get_clim() == (0, 1)
    written = {(text.get_position(), text.get_text()) for text in axes.texts}
    # x is the predicted class; what is 0 is not written.
    assert written == {((0, 0), "3"), ((1, 0), "1"), ((0, 2), "2"), ((2, 2), "6")}
    assert [label.get_text() for label in axes.get_xticklabels()] == ["cat", "dog", "cow"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cat", "dog", "cow"]
    assert axes.yaxis_inverted()  # the first class at the top
    assert {text.get_text() for text in figure.texts} == {"true class", "predicted class"}


def test_names_and_numbers_are_written_where_they_fit() -> None:
    few, more, named, many = (
        draw_confusion(torch.eye(n).int().tolist(), names_of(n)).axes[0]
        for n in (MOST_COUNTED, MOST_COUNTED + 1, MOST_NAMED, MOST_NAMED + 1)
    )
    assert len(few.texts) == MOST_COUNTED and not more.texts and not named.texts and not many.texts
    assert named.get_yticklabels()[0].get_text() == "class number 0"
    assert [label.get_text() for label in many.get_yticklabels()] == ["0", "10", "20", "30", "40", "50"]


def test_names_as_they_may_be() -> None:
    """Long ones keep both ends, one with dollars is no formula, one that the font cannot write is the number of the class."""
    names = ["short", LONG, "$x$ and $y", "猫", "two\nlines", "", "\u200b", "\u2800"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = draw_confusion(random_counts(8), names)
        FigureCanvasAgg(figure).draw()
    shown = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert shown == ["short", "a class who…tten in full", "$x$ and $y", "3", "two lines", "''", "\\u200b", "\u2800"]


def test_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \[classes=2, classes=2\] to draw, got \[2, 3\]"):
        draw_confusion([[1, 2, 3], [4, 5, 6]], ["one", "two"])
