"""Tables, curves and figures from what the searches of the benchmark have found."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from benchmarks.nasbench201.runner import Run
from benchmarks.timing import shown
from search.costs.tabular import Table, TableRow, best_of_random, random_architecture
from search.differentiable.measures import skip_connections
from search.history import SamplingEpoch, SearchEpoch
from search.methods import Percent, get_method
from supernet import Genotype
from supernet.drawing.draw import DOTS, INK, TEXT
from training.report.markdown import table as markdown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DRAWN = 100
"""Random architectures of which the best is the baseline."""
EDGES = 6
"""Number of edges of the space's cell; each may be a skip connection."""
ACCURACY_TICKS = (20, 60, 80, 90, 92, 94)
SMALL, LINE = 7.5, "#2563b0"
COLUMNS = (
    "method", "seed", "epoch", "test_accuracy", "valid_accuracy", "parameters",
    "skips", "entropy", "eigenvalue", "supernet_accuracy", "derived_accuracy",
)  # fmt: skip
"""Columns of the file of curves, a line an epoch: the table's figures for the genotype then
(percent), and the search's own measurements."""
PUBLISHED_BASELINES: tuple[Percent, ...] = ((87.06, None), (93.74, 0.34), (94.37, None))
"""Baselines by Dong & Yang 2020 and the table itself: a random architecture, the best of 100 by
repeated draws, the optimum."""


def report(runs: Sequence[Run], table: Table) -> str:
    """Returns the tables and the conclusions from them, in Markdown."""
    rows, marked = [], []
    chance, best = random_architecture(table), best_of_random(table, DRAWN)
    for method in dict.fromkeys(run.method for run in runs):
        asked = [run for run in runs if run.method == method]
        finished = [run for run in asked if run.finished]
        judged = [table[Genotype.load(run.path / "genotype.json")] for run in finished]
        endings = [run.ending() for run in finished]
        epochs = sorted({ending["epochs"] for ending in endings})
        hours = [ending["hours"] for ending in endings if ending["hours"] is not None]
        # They are compared as precisely as they are shown: the baseline, a long sum, is off by
        # rounding.
        loses = bool(judged) and round(fmean(row.test_accuracy for row in judged), 2) <= round(best[0], 2)
        if loses:
            marked.append(method)
        published = get_method(method).published
        rows.append([
            f"{method} *" if loses else method,
            f"{len(finished)} of {len(asked)}",
            _over_runs([row.test_accuracy for row in judged]),
            published.nasbench201 and _accuracy(published.nasbench201),
            _over_runs([row.valid_accuracy for row in judged]),
            published.nasbench201_validation and _accuracy(published.nasbench201_validation),
            published.nasbench201_source,
            (f"{epochs[0]} to {epochs[-1]}" if len(epochs) > 1 else epochs[0]) if epochs else None,
            shown(fmean(hours) if hours else None),
        ])  # fmt: skip
    head = [
        "method",
        "runs",
        "test accuracy",
        "published",
        "validation accuracy",
        "published",
        "source",
        "epochs",
        "hours a run",
    ]
    parts = [markdown(head, rows)]
    if marked:
        parts.append("".join(f"- {name} does not beat the best of {DRAWN} random architectures.\n" for name in marked))
    if incomplete := [run for run in runs if not run.finished]:
        states = "; ".join(f"{run.name} (epoch {len(run.history())})" for run in incomplete)
        parts.append(f"Left out, as they are not finished: {states}.\n")
    names = ["a random architecture", f"the best of {DRAWN} random ones, by validation after 12 epochs", "the optimum"]
    optimum = max(row.test_accuracy for row in table.rows.values())
    baselines = zip(names, (chance, best, (optimum, None)), PUBLISHED_BASELINES, strict=True)
    parts.append(
        markdown(
            ["baseline, exact from the table", "test accuracy", "published"],
            [[name, _accuracy(exact), _accuracy(published)] for name, exact, published in baselines],
        )
    )
    return "\n".join(parts)


def _over_runs(accuracies: Sequence[float]) -> str | None:
    """Returns mean and sample standard deviation; one run has no deviation."""
    if not accuracies:
        return None
    return f"{fmean(accuracies):.2f} ± {f'{stdev(accuracies):.2f}' if len(accuracies) > 1 else '-'}"


def _accuracy(accuracy: Percent) -> str:
    mean, deviation = accuracy
    return f"{mean:.2f}" if deviation is None else f"{mean:.2f} ± {deviation:.2f}"


def curves(runs: Sequence[Run], table: Table) -> list[dict[str, Any]]:
    """Returns the table's figures for the genotype that each epoch of each run would derive; keys:
    COLUMNS."""
    points = []
    known: dict[str, TableRow] = {}
    for run in runs:
        for entry in run.history():
            # An epoch that trains shared weights alone derives nothing.
            if isinstance(entry, SamplingEpoch) or (text := entry.genotype) is None:
                continue
            if text not in known:
                known[text] = table[Genotype.parse(text)]
            row = known[text]
            points.append({
                "method": run.method, "seed": run.seed, "epoch": entry.epoch,
                "test_accuracy": row.test_accuracy, "valid_accuracy": row.valid_accuracy, "parameters": row.parameters,
                "skips": skip_connections(Genotype.parse(text))["cell"],
                "entropy": entry.entropy.get("cell") if isinstance(entry, SearchEpoch) else None,
                "eigenvalue": entry.eigenvalue if isinstance(entry, SearchEpoch) else None,
                **{name: entry.readings.get(name) for name in ("supernet_accuracy", "derived_accuracy")},
            })  # fmt: skip
    return points


def as_csv(points: Sequence[dict[str, Any]]) -> str:
    """Returns the curves as the text of a file: a line an epoch, empty where nothing was
    measured."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(points)
    return text.getvalue()


def draw_curves(points: Sequence[dict[str, Any]], table: Table) -> "Figure":
    """Draws the test accuracy of the current genotype over epochs, a panel a method, and its skip
    connections.

    A thin line is a seed, the thick one their mean, up to where all seeds have come. Accuracy is
    drawn by the logarithm of the error, as the best architectures lie within one percent.
    """
    from matplotlib.figure import Figure

    methods = list(dict.fromkeys(point["method"] for point in points))
    bands = math.ceil(len(methods) / 4)
    across = math.ceil(len(methods) / bands)
    levels = {
        "random architecture, mean": random_architecture(table)[0],
        f"best of {DRAWN} random": best_of_random(table, DRAWN)[0],
    }
    errors = [100 - accuracy for accuracy in (*levels.values(), *(point["test_accuracy"] for point in points))]
    limits = 1.1 * max(errors), max(0.9 * min(errors), 0.1)
    figure = Figure((1400 / DOTS, 0.4 + 3.4 * bands), dpi=DOTS, facecolor="white", layout="constrained")
    panels = figure.subplots(2 * bands, across, squeeze=False, gridspec_kw={"height_ratios": [2, 1] * bands})
    for axes in panels.flat:
        axes.set_axis_off()
    for place, method in enumerate(methods):
        band, column = divmod(place, across)
        upper, lower = panels[2 * band, column], panels[2 * band + 1, column]
        seeds = _by_seed([point for point in points if point["method"] == method])
        for (name, accuracy), style in zip(levels.items(), (":", "--"), strict=True):
            upper.axhline(100 - accuracy, color=INK, linestyle=style, linewidth=0.9, label=name)
        upper.set_yscale("log")
        _draw_seeds(upper, {seed: [(epoch, 100 - accuracy) for epoch, accuracy, _ in line] for seed, line in seeds.items()})
        _draw_seeds(lower, {seed: [(epoch, skips) for epoch, _, skips in line] for seed, line in seeds.items()})
        ticks = [accuracy for accuracy in ACCURACY_TICKS if limits[1] <= 100 - accuracy <= limits[0]]
        upper.set_yticks([100 - accuracy for accuracy in ticks], map(str, ticks))
        upper.set_ylim(*limits)
        lower.set_yticks(range(0, EDGES + 1, 2))
        lower.set_ylim(-0.4, EDGES + 0.4)
        upper.set_title(method, fontsize=TEXT, color=INK, fontweight="bold", parse_math=False)
        lower.set_xlabel("epoch", fontsize=SMALL, color=INK)
        if not column:
            upper.set_ylabel("test accuracy, %", fontsize=SMALL, color=INK)
            lower.set_ylabel("skip connections", fontsize=SMALL, color=INK)
        last = max(line[-1][0] for line in seeds.values())
        for axes in (upper, lower):
            axes.set_axis_on()
            axes.set_xlim(0, last + 1)
            axes.grid(color="#e5e7eb", linewidth=0.6)
            axes.minorticks_off()
            axes.tick_params(labelsize=SMALL, colors=INK, length=2, labelbottom=axes is lower, labelleft=not column)
            axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=SMALL, frameon=False)
    return figure


def _by_seed(points: Sequence[dict[str, Any]]) -> dict[int, list[tuple[int, float, int]]]:
    """Returns epoch, test accuracy and skip connections, by seed."""
    lines: dict[int, list[tuple[int, float, int]]] = {}
    for point in points:
        lines.setdefault(point["seed"], []).append((point["epoch"], point["test_accuracy"], point["skips"]))
    return lines


def _draw_seeds(axes: "Axes", seeds: Mapping[int, Sequence[tuple[int, float]]]) -> None:
    """Draws a thin line for each seed, and their mean."""
    for number, line in enumerate(seeds.values()):
        axes.plot(*zip(*line, strict=True), color=LINE, linewidth=0.8, alpha=0.45, label="" if number else "a seed")
    # zip ends with the shortest: beyond it the mean would be that of other seeds.
    means = [(together[0][0], fmean(value for _, value in together)) for together in zip(*seeds.values(), strict=False)]
    axes.plot(*zip(*means, strict=True), color=LINE, linewidth=2, label="mean of the seeds")
