"""The record, tables and figure of how well explanations agree with a benchmark table."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from search.explain.supernets.measures import MEASURES
from search.explain.supernets.truth import SCALES, TRUTHS
from supernet.drawing.draw import DOTS, INK, TEXT
from training.report.markdown import table as markdown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = ("method", "seed", "test_accuracy", "operations", "of", "truth", "scale", "measure", "kendall_tau")
"""Columns of the record, a line for each search, truth and measure. `of` is "all" for the operations
that were left on the edges, "cell" for those of the derived cell, and `operations` their number."""
Row = Mapping[str, Any]
COLOURS = ("#2563b0", "#c2560c", "#0f7d75", "#8e3fa0")


def rows_of(method: str, seed: int, accuracy: float, numbers: Mapping[str, Any]) -> Iterator[Row]:
    """Yields the lines of one search, from the numbers of its explanation and the test accuracy of
    its cell in the table."""
    for truth in numbers["truth"]:
        for of, part, count in (
            ("all", "all_operations", len(numbers["measures"])),
            ("cell", "operations_of_the_cell", len(numbers["edges"])),
        ):
            for measure, tau in truth[part].items():
                values = (method, seed, accuracy, count, of, truth["of"], truth["scale"], measure, tau)
                yield dict(zip(COLUMNS, values, strict=True))


def as_csv(rows: Sequence[Row]) -> str:
    """Returns the record as the text of a file; a tau that is not defined is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def report(rows: Sequence[Row]) -> str:
    """Returns the tables in Markdown: means over the searches of each method, and over all."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    by_method = []
    for method in methods:
        own = [row for row in rows if row["method"] == method and row["of"] == "all"]
        counts = sorted({row["operations"] for row in own})
        accuracies = {row["seed"]: row["test_accuracy"] for row in own}
        means = [_mean(own, truth=TRUTHS[0], scale=scale, measure=measure) for scale in SCALES for measure in MEASURES]
        shown = ", ".join(f"{accuracy:.2f}" for accuracy in accuracies.values())
        by_method.append([method, shown, " to ".join(map(str, counts[:: max(1, len(counts) - 1)])), *means])
    heads = ["method", "test accuracy of the cell", "operations", *MEASURES, *(f"{measure}, rank" for measure in MEASURES)]
    over_all = [
        [truth, scale, of, *(_mean(rows, truth=truth, scale=scale, of=of, measure=measure) for measure in MEASURES)]
        for truth in TRUTHS
        for scale in SCALES
        for of in ("all", "cell")
    ]
    return f"{markdown(heads, by_method)}\n{markdown(['exact', 'of', 'operations', *MEASURES], over_all)}"


def _mean(rows: Sequence[Row], **where: str) -> str | None:
    """Returns the mean tau of the lines with these values; None where there is none."""
    found = [row["kendall_tau"] for row in rows if all(row[name] == value for name, value in where.items())]
    known = [tau for tau in found if tau is not None]
    return f"{fmean(known):.2f}" if known else None


def draw(rows: Sequence[Row]) -> "Figure":
    """Draws Kendall's tau of each measure with each truth over all operations, a dot a search, a bar
    the mean of a method."""
    from matplotlib.figure import Figure

    methods = list(dict.fromkeys(row["method"] for row in rows))
    figure = Figure((1400 / DOTS, 1.2 + 0.75 * len(methods)), dpi=DOTS, facecolor="white", layout="constrained")
    panels = figure.subplots(2, 2, sharex=True, sharey=True)
    for axes, (truth, scale) in zip(panels.flat, [(truth, scale) for truth in TRUTHS for scale in SCALES], strict=True):
        axes.axvline(0, color=INK, linewidth=0.8)
        for number, (measure, colour) in enumerate(zip(MEASURES, COLOURS, strict=True)):
            axes.barh(0, 0, color=colour, alpha=0.45, label=measure)
            for place, method in enumerate(methods):
                taus = [
                    row["kendall_tau"]
                    for row in rows
                    if (row["method"], row["truth"], row["scale"], row["measure"], row["of"])
                    == (method, truth, scale, measure, "all")
                    and row["kendall_tau"] is not None
                ]
                y = place + 0.2 * (number - 1.5)
                if taus:
                    axes.barh(y, fmean(taus), height=0.16, color=colour, alpha=0.45)
                    axes.plot(taus, [y] * len(taus), "o", color=colour, markersize=2.5)
        axes.set_title(f"{truth}, {scale}", fontsize=TEXT, color=INK)
        axes.set_yticks(range(len(methods)), methods, fontsize=7.5)
        axes.set_xlim(-1, 1)
        axes.grid(axis="x", color="#e5e7eb", linewidth=0.6)
        axes.tick_params(labelsize=7.5, colors=INK, length=2)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0, 0].invert_yaxis()
    for axes in panels[1]:
        axes.set_xlabel("Kendall's tau with the table", fontsize=7.5, color=INK)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=7.5, frameon=False)
    return figure
