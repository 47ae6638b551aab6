"""Figures: everything is there, nothing overlaps, no line runs through a box of something else."""

import math
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path as Curve

from supernet.drawing.draw import BUS, COLOURS, colour_of, draw_alphas, draw_cell, draw_genotype, save_figure
from supernet.genotypes.genotype import CellGenotype, Genotype
from supernet.genotypes.published import get_genotype, list_genotypes

ARCH = "|nor_conv_3x3~0|+|none~0|avg_pool_3x3~1|+|skip_connect~0|nor_conv_1x1~1|skip_connect~2|"
EVERY_EDGE = CellGenotype(
    tuple(
        tuple((operation, source) for source in range(2 + node))
        for node, operation in enumerate(["noise", "none", "my_op", "conv_7x1_1x7"])
    ),
    (2, 3, 4, 5),
)
TWINS = CellGenotype(((), (("noise", 0), ("noise", 0), ("skip_connect", 0)), (("none", 3),), ()), (0, 3, 4))
CELLS = {
    "every edge": (EVERY_EDGE, "every edge"),
    "twins": (TWINS, "two edges between the same states, and a title that is longer than the cell is wide"),
}
DRAWINGS = [*list_genotypes(), "nasbench201", *CELLS]


@cache
def figure_of(name: str) -> Figure:
    if name in CELLS:
        cell, title = CELLS[name]
        return draw_cell(cell, 2, title)
    return draw_genotype(Genotype.parse(ARCH) if name == "nasbench201" else get_genotype(name))


def text_boxes(figure: Figure) -> list[tuple[str, Any]]:
    """Each text of the figure with its bounding box in dots."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = [*figure.texts]
    for axes in figure.axes:
        texts += axes.texts
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            low, high = sorted(axis.get_view_interval())
            texts += [
                tick for place, tick in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True) if low <= place <= high
            ]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in texts if text.get_text()]


def check_texts(figure: Figure) -> None:
    """No two texts overlap, and none leaves the figure."""
    boxes = text_boxes(figure)
    for number, (text, box) in enumerate(boxes):
        for other_text, other in boxes[:number]:
            if {text, other_text} <= set(CANDIDATES) and figure.axes[0].images:
                continue  # column labels, which are slanted: their boxes overlap though they do not
            assert not box.overlaps(other), (text, other_text)
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width and box.y0 >= 0 and box.y1 <= figure.bbox.height, text


@pytest.mark.parametrize("name", DRAWINGS)
def test_texts_do_not_overlap(name: str) -> None:
    check_texts(figure_of(name))


@pytest.mark.parametrize("name", DRAWINGS)
def test_boxes_do_not_overlap_and_hold_their_texts(name: str) -> None:
    figure = figure_of(name)
    texts = text_boxes(figure)
    for axes in figure.axes:
        boxes = [patch.get_window_extent() for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
        for number, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[:number])
            assert sum(box.containsx(text.x0) and box.containsx(text.x1) and box.containsy(text.y0) for _, text in texts) == 1


@pytest.mark.parametrize("name", DRAWINGS)
def test_lines_keep_clear_of_boxes(name: str) -> None:
    for axes in figure_of(name).axes:
        boxes = [patch.get_window_extent().padded(-2) for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
        lines = [patch for patch in axes.patches if isinstance(patch, PathPatch)]
        assert lines
        for line in lines:
            (points,) = line.get_path().to_polygons(closed_only=False)
            dense = axes.transData.transform(Curve(points).interpolated(25).vertices)
            met = [box for box in boxes if any(box.contains(x, y) for x, y in dense)]
            # A line passes behind the operation that it stands for; one to the output has none.
            assert len(met) == (0 if line.get_edgecolor() == to_rgba(BUS) else 1)


def test_everything_is_drawn() -> None:
    figure = figure_of("DARTS_V2")
    for axes, (kind, cell) in zip(figure.axes, get_genotype("DARTS_V2").cells.items(), strict=True):
        texts = [text.get_text() for text in axes.texts]
        operations = [operation for feeds in cell.nodes for operation, _ in feeds]
        expected = ["$c_{k-2}$", "$c_{k-1}$", "0", "1", "2", "3", "output", f"{kind} cell", *operations]
        assert sorted(texts) == sorted(expected)
        assert sum(isinstance(patch, PathPatch) for patch in axes.patches) == len(operations) + len(cell.concat)
    assert [text.get_text() for text in figure_of("twins").axes[0].texts].count("noise") == 2
    one_input = [text.get_text() for text in figure_of("nasbench201").axes[0].texts]
    assert "input" in one_input and "cell" in one_input


def test_colours_tell_types_apart() -> None:
    assert colour_of("sep_conv_3x3") == colour_of("sep_conv_5x5") != colour_of("dil_conv_3x3")
    assert colour_of("max_pool_3x3") != colour_of("avg_pool_3x3")
    assert colour_of("conv_7x1_1x7") == COLOURS["conv"] and colour_of("my_op") == COLOURS[""]
    assert len(set(COLOURS.values())) == len(COLOURS)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.data())
def test_any_cell_can_be_drawn(data: st.DataObject) -> None:
    inputs = data.draw(st.integers(1, 3))
    count = data.draw(st.integers(1, 7))
    nodes = []
    for node in range(count):
        feed = st.tuples(st.sampled_from(["none", "skip_connect", "sep_conv_3x3"]), st.integers(0, inputs + node - 1))
        nodes.append(tuple(data.draw(st.lists(feed, max_size=4))))
    states = st.integers(0, inputs + count - 1)
    cell = CellGenotype(tuple(nodes), tuple(data.draw(st.lists(states, min_size=1, unique=True))))
    check_texts(draw_cell(cell, inputs, "any cell"))


EDGES = [(source, target) for target in range(2, 6) for source in range(target)]
CANDIDATES = [
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "my_long_operation",
]


@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 50.0, 1e6])
def test_alphas(scale: float) -> None:
    table = torch.nn.Parameter(scale * torch.randn(14, 8))
    figure = draw_alphas(table, EDGES, CANDIDATES, "alphas")
    check_texts(figure)
    axes, bar = figure.axes
    apart = axes.get_window_extent().width / 8 * math.sin(math.radians(axes.get_xticklabels()[0].get_rotation()))
    assert apart > 1.5 * axes.get_xticklabels()[0].get_fontsize() / 72 * figure.dpi  # between two slanted labels
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"{source}->{target}" for source, target in EDGES]
    assert [label.get_text() for label in axes.get_xticklabels()] == CANDIDATES
    values = np.array([float(text.get_text()) for text in axes.texts]).reshape(14, 8)
    np.testing.assert_allclose(values, table.detach().numpy(), atol=0.06 * scale, rtol=0)
    np.testing.assert_allclose(axes.images[0].get_array(), table.detach().numpy())
    assert bar.get_ylim() == pytest.approx((table.min().item(), table.max().item()))


@pytest.mark.parametrize(
    "table", [np.full((3, 2), 0.5), np.array([[np.nan, 1], [np.inf, 2], [-np.inf, 3]]), np.full((3, 2), np.nan)]
)
def test_odd_alphas(table: np.ndarray) -> None:
    figure = draw_alphas(table, [(0, 1), (0, 2), (1, 2)], ["none", "skip_connect"], "odd")
    check_texts(figure)
    assert len(figure.axes[0].texts) == 6


@pytest.mark.parametrize("shape", [(14,), (8, 14), (2, 14, 8), (14, 7)])
def test_alphas_of_another_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"alphas: expected \[edges=14, candidates=8\] to draw, got"):
        draw_alphas(torch.zeros(shape), EDGES, CANDIDATES, "alphas")


def test_figures_are_saved_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "cell.png"
    save_figure(figure_of("nasbench201"), path)
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG") and content.endswith(b"IEND\xaeB`\x82")

    def fail(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        save_figure(figure_of("DARTS_V2"), path)
    assert path.read_bytes() == content and os.listdir(tmp_path) == ["cell.png"]


def test_a_very_long_cell_stays_within_what_can_be_drawn(tmp_path: Path) -> None:
    chain = CellGenotype(tuple((("skip_connect", node),) for node in range(150)), (150,))
    figure = draw_cell(chain, 1, "chain")
    save_figure(figure, tmp_path / "chain.png")
    assert max(figure.get_size_inches()) * figure.dpi <= 30_001


@pytest.mark.slow
def test_matplotlib_is_loaded_only_to_draw_and_never_pyplot() -> None:
    program = (
        "import sys, supernet.drawing.draw; assert 'matplotlib' not in sys.modules;"
        "from supernet.genotypes.published import get_genotype;"
        "supernet.drawing.draw.draw_genotype(get_genotype('DARTS_V1')); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[3])
