"""The report of a differentiable search as one page: what was asked, how it went, and what it
found."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from search.costs.tabular import Table
from search.differentiable.config import SearchConfig
from search.differentiable.early_stop import new_signs, reason_to_stop, told
from search.history import SearchEpoch
from search.reporting import RunFacts, close, default_costs, introduction
from supernet import Genotype, SearchSpace
from supernet.spaces.skeleton import Stem
from training.format import ImageFormat
from training.metrics import LOSS
from training.report.charts import Curve, chart, charts, of_history, of_reading, raster, scale
from training.report.html import (
    Markup,
    Page,
    details,
    duration,
    element,
    facts,
    figure,
    join,
    millions,
    paragraph,
    table,
    warning,
)
from training.report.sections import drawn_genotype, images
from training.tasks.task import Task

_SUBSCRIPTS = str.maketrans("0123456789-", "₀₁₂₃₄₅₆₇₈₉₋")
_LABEL, _ROW, _HEAD, _GAP = 6.9, 13, 20, 12  # width of a letter, heights of a candidate and of a title, between two edges
_WIDEST = 1000


@dataclass(frozen=True)
class Story:
    """The content of the page of a differentiable search."""

    facts: RunFacts
    config: SearchConfig
    task: Task
    space: SearchSpace
    format: ImageFormat
    """Format of the images of the search."""
    history: Sequence[SearchEpoch]
    genotype: Genotype
    """The one that it ends with."""
    table: Table | None = None
    """A benchmark table that judges genotypes."""


def search_page(story: Story) -> Page:
    """Makes the page of a differentiable search."""
    config, history, genotype, run = story.config, story.history, story.genotype, story.facts
    page = Page(f"Search: {run.method}, {config.data.name}", *introduction(run, config.space))
    costs = default_costs(genotype, story.space, config.stem, story.format)
    task, name = story.task, story.task.scored_by.name
    measured = next((entry.readings for entry in reversed(history) if f"supernet_{name}" in entry.readings), None)
    page.section(
        "Result",
        facts(
            {
                "parameters": millions(costs["parameters"]),
                "multiply-adds": millions(costs["multiply_adds"]),
                "epochs": f"{run.process.done} of {run.epochs}",
                "time": duration(run.process.seconds),
                f"{task.words(name)} of the supernet": task.written(name, measured[f"supernet_{name}"]) if measured else None,
                "of the derived cell": task.written(name, measured[f"derived_{name}"]) if measured else None,
            }
        ),
        *_ended(story),
        drawn_genotype(genotype, run.pictures),
        _of_default_network(genotype, config.stem, task, story.format, costs),
        *_of_table(story),
    )
    weighted = "Classes are weighted in each loss that is descended; accuracies count all images alike."
    balanced = config.data.class_weights != "none"
    page.section("Curves", charts(*_curves(story)), *([paragraph(weighted)] if balanced else []))
    page.section("Weights of the operations over the epochs", *weights_over_time(history, story.space, genotype))
    close(page, config, run, images(run.directory, config.data), genotype)
    return page


def _ended(story: Story) -> list[Markup]:
    """Returns why it ended before its last epoch, and what was conspicuous on the way."""
    config, process, epochs = story.config, story.facts.process, story.facts.epochs
    judged = story.history, config.early_stop, config.epochs
    collapse = reason_to_stop(*judged)
    parts = process.notes(epochs, config.stop if collapse is None else None, config.extended)
    if collapse is not None:
        parts.append(warning(f"Collapsed, after epoch {process.done} of {epochs}: {told(collapse)}."))
    if config.selection.name == "perturbation" and process.done < epochs:
        parts.append(
            warning("The selection is not complete, and the weights choose where it has not; --resume goes on with it.")
        )
    for epoch, sign in new_signs(*judged):
        parts.append(warning(f"After epoch {epoch}: the search may be collapsing: {sign.reason}."))
    return parts


def _of_default_network(genotype: Genotype, stem: Stem, task: Task, images: ImageFormat, costs: Mapping[str, float]) -> Markup:
    skeleton = genotype.skeleton
    channels, cells = skeleton.default_size(stem)
    wide, height, width = images.shape
    return paragraph(
        f"{costs['parameters']:,} parameters and {costs['multiply_adds']:,} multiply-adds an image are those of the network ",
        "that ",
        element("code", "python -m retrain"),
        f" builds by default for images of {wide}x{height}x{width} and {len(images.class_names)} {task.words('outputs')}: "
        f"C = {channels}, {cells} {skeleton.unit}. The {task.words(task.scored_by.name)} here is that of the "
        "supernet on the images held out from its training; it does not say how well the cell does when it is retrained.",
    )


def _of_table(story: Story) -> list[Markup]:
    if story.table is None:
        return []
    row = story.table.rows.get(story.genotype.to_text(story.genotype.text_form))
    if row is None:
        return [paragraph("The benchmark table does not have this cell.")]
    return [
        paragraph(
            f"In the benchmark table this cell has a test accuracy of {row.test_accuracy:.2f}%, a validation accuracy of "
            f"{row.valid_accuracy:.2f}% and {row.parameters:,} parameters."
        )
    ]


def _curves(story: Story) -> list[Markup | None]:
    history, kinds, name = story.history, story.space.kinds, story.task.scored_by.name
    words = story.task.words(name)

    def of_kinds(values: Callable[[SearchEpoch], Mapping[str, float]]) -> list[Curve]:
        return [Curve(kind, [(entry.epoch, values(entry)[kind]) for entry in history]) for kind in kinds]

    drawn = [
        chart("loss", [of_reading(history, "train/loss", "train"), of_reading(history, "valid/loss", "validation")]),
        None if name == LOSS.name else chart(f"{words} while training", [
            of_reading(history, f"train/{name}", "train"), of_reading(history, f"valid/{name}", "validation"),
        ]),
        chart(f"{words} on held-out images", [
            of_reading(history, f"supernet_{name}", "supernet"), of_reading(history, f"derived_{name}", "derived cell in it"),
        ]),
        chart("mean entropy of an edge, in nats", of_kinds(lambda entry: entry.entropy)),
        chart("skip connections in the cell", of_kinds(lambda entry: entry.skips)),
        chart("share of candidates reached before a stop", [of_reading(history, "shapley/reached", "reached")]),
        chart("dominant eigenvalue of the Hessian", [of_history(history, "eigenvalue", lambda entry: entry.eigenvalue)]),
    ]  # fmt: skip
    if (known := story.table) is not None:
        rows = [(entry.epoch, known.rows.get(entry.genotype)) for entry in history]
        points = [(epoch, row.test_accuracy) for epoch, row in rows if row is not None]
        drawn.append(chart("test accuracy in the table, %", [Curve("derived cell", points)]))
    return drawn


# Weights over time


def weights_over_time(history: Sequence[SearchEpoch], space: SearchSpace, genotype: Genotype) -> list[Markup]:
    """Draws for each kind of cell the weight of each operation on each edge, epoch by epoch; edges
    into one node are in one row."""
    parts: list[Markup] = []
    for kind in space.kinds:
        values = np.array([entry.mixture[kind] for entry in history])  # [epochs, edges, candidates]
        shown = [column for column in range(len(space.candidates)) if values[:, :, column].any()]
        present = values[values != 0]
        low, high = (float(present.min()), float(present.max())) if present.size else (0.0, 1.0)
        cell = genotype.cells[kind]
        chosen = {
            (source, space.inputs + node): operation for node, feeds in enumerate(cell.nodes) for operation, source in feeds
        }
        picture, width = _grid(values, shown, low, high, space, chosen)
        caption = join(
            f"From left to right: epochs 1 to {len(history)}. Each field is an edge, from one state to another; an outlined "
            "row is the operation in the genotype. Colours: ", scale(low, high), "; blank: 0 (less than 0.00005)."
        )  # fmt: skip
        names = [space.candidates[column] for column in shown]
        last = [
            (edge, *(f"{value:.4f}" for value in row))
            for edge, row in zip(_edges(space), values[-1][:, shown].tolist(), strict=True)
        ]
        parts += [
            element("h3", kind if kind == "cell" else f"{kind} cell"),
            figure(picture, caption, narrowest=width),
            details("the weights at the end", table(["edge", *names], last, right=range(1, len(names) + 1))),
        ]
    return parts


def _grid(
    values: np.ndarray, shown: Sequence[int], low: float, high: float, space: SearchSpace, chosen: Mapping[tuple[int, int], str]
) -> tuple[Markup, int]:
    """A field for each edge: sources from left to right, targets from top to bottom.

    Returns the picture and its width.
    """
    names = [space.candidates[column] for column in shown]
    label = round(max(map(len, names)) * _LABEL) + 8
    columns = space.inputs + space.nodes - 1
    wide = max(56, min(200, (_WIDEST - label) // columns - _GAP))
    tall = _HEAD + _ROW * len(names) + _GAP
    width, height = label + columns * (wide + _GAP), space.nodes * tall
    parts = []
    for node in range(space.nodes):
        for row, name in enumerate(names):
            y = node * tall + _HEAD + _ROW * row + 10
            parts.append(element("text", name, x=label - 6, y=y, text_anchor="end", style="font-size:11px"))
    for (source, target), edge, title in zip(space.edges, range(len(space.edges)), _edges(space), strict=True):
        x, y = label + source * (wide + _GAP), (target - space.inputs) * tall
        parts.append(element("text", title, x=x, y=y + 14))
        y += _HEAD
        field = values[:, edge][:, shown].T
        parts.append(
            element(
                "image", href=raster(field, low, high), x=x, y=y, width=wide, height=_ROW * len(names),
                preserveAspectRatio="none", style="image-rendering:pixelated",
            )
        )  # fmt: skip
        for row, name in enumerate(names):
            outlined = chosen.get((source, target)) == name
            said = f"{title}, {name}: {field[row, 0]:.4f} at first, {field[row, -1]:.4f} at the end"
            parts.append(
                element(
                    "rect", element("title", said), x=x, y=y + _ROW * row, width=wide, height=_ROW,
                    fill="transparent", stroke="var(--ink)" if outlined else None, stroke_width=2 if outlined else None,
                )
            )  # fmt: skip
    drawn = element("svg", *parts, viewBox=f"-1 0 {width} {height}", role="img", aria_label="weights over the epochs",
                    style=f"max-width:{width}px")  # fmt: skip
    return drawn, width


def _edges(space: SearchSpace) -> list[str]:
    """Returns the names of the edges, as in the drawing of the cell."""
    first = ["input"] if space.inputs == 1 else [
        "c" + "ₖ" + f"-{space.inputs - number}".translate(_SUBSCRIPTS) for number in range(space.inputs)
    ]  # fmt: skip
    states = [*first, *map(str, range(space.nodes))]
    return [f"{states[source]} → {states[target]}" for source, target in space.edges]
