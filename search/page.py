"""The report of a search as one page: what was asked, how it went, and what it found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from search.config import SearchConfig
from search.objectives import CostTable
from search.samplers import Encoding
from search.samplers.config import SamplingConfig
from supernet import Genotype, SearchSpace
from supernet.draw import draw_genotype
from supernet.skeleton import Stem
from training.charts import Curve, Point, chart, charts, of_history, raster, scale
from training.config import config_to_dict
from training.data import DataConfig
from training.images import ImageFormat
from training.page import (
    Markup,
    Page,
    Process,
    asked,
    commands,
    details,
    drawing,
    drawn_genotype,
    duration,
    element,
    environment,
    facts,
    figure,
    images,
    join,
    millions,
    paragraph,
    percent,
    setting,
    table,
    warning,
)

if TYPE_CHECKING:
    from search.loop import BilevelSearch
    from search.sampling import SamplingSearch
    from search.sampling_report import Findings

_SUBSCRIPTS = str.maketrans("0123456789-", "₀₁₂₃₄₅₆₇₈₉₋")
_LABEL, _ROW, _HEAD, _GAP = 6.9, 13, 20, 12  # width of a letter, heights of a candidate and of a title, between two edges
_WIDEST = 1000


@dataclass(frozen=True)
class Told:
    """What the page is told of a run beside the search itself."""

    method: str
    paper: str
    """Authors and year; may be empty."""
    defaults: SearchConfig | SamplingConfig
    """Those of the method."""
    process: Process


def search_page(search: "BilevelSearch", genotype: Genotype, told: Told) -> Page:
    """Of a differentiable search that ends with `genotype`."""
    config, history, run = search.config, search.report.history, search.run.path
    page = Page(f"Search: {told.method}, {config.data.name}", *_introduction(told, config.space))
    costs = default_costs(genotype, search.space, config.stem, search.format)
    measured = [entry for entry in history if entry["supernet_accuracy"] is not None]
    page.section(
        "Result",
        facts(
            {
                "parameters": millions(costs["parameters"]),
                "multiply-adds": millions(costs["multiply_adds"]),
                "epochs": f"{told.process.done} of {search.epochs}",
                "time": duration(told.process.seconds),
                "accuracy of the supernet": percent(measured[-1]["supernet_accuracy"]) if measured else None,
                "of the derived cell": percent(measured[-1]["derived_accuracy"]) if measured else None,
            }
        ),
        *_ended(search, told.process),
        drawn_genotype(genotype, draw_genotype(genotype)),
        _of_default_network(genotype, config.stem, search.format, costs),
        *_of_table(search, genotype),
    )
    weighted = "Classes are weighted in each loss that is descended; accuracies count all images alike."
    balanced = config.data.class_weights != "none"
    page.section("Curves", charts(*_curves(search)), *([paragraph(weighted)] if balanced else []))
    if history:
        page.section("Weights of the operations over the epochs", *weights_over_time(history, search.space, genotype))
    _close(page, config, told, run, genotype, search.device, search.run.config_hash)
    return page


def sampling_page(search: "SamplingSearch", findings: "Findings | None", told: Told) -> Page:
    """Of a search that samples architectures; without findings where none was evaluated wholly yet."""
    config, report, trials, run = search.config, search.report, search.trials, search.run.path
    data = "a table" if config.evaluate == "table" else config.data.name
    page = Page(f"Search: {told.method}, {data}", *_introduction(told, config.space))
    genotype = None if findings is None else findings.genotype
    numbers: dict[str, object] = {"evaluations": f"{trials.spent:g} of {config.evaluations}"}
    parts: list[Markup] = []
    if findings is None:
        parts.append(warning("No architecture has been evaluated wholly yet; --resume goes on."))
    else:
        best = findings.ranked[0]
        numbers |= {
            "best score": f"{best.score:.4f}",
            "parameters": millions(best.costs["parameters"]),
            "multiply-adds": millions(best.costs["multiply_adds"]),
            "test accuracy in the table": None if best.truth is None else f"{best.truth.test_accuracy:.2f}%",
            "latency": f"{best.costs['latency_ms']:.3f} ms" if "latency_ms" in best.costs else None,
            "rank correlation with the table": None if findings.tau is None else f"{findings.tau:.3f}",
        }
        parts.append(drawn_genotype(findings.genotype, draw_genotype(findings.genotype)))
    notes = told.process.notes(search.epochs, None if trials.exhausted else config.stop)
    page.section("Result", facts(numbers | {"time": duration(told.process.seconds)}), *notes, *parts)
    page.section("Curves", charts(*_sampling_curves(search)))
    if findings is not None:
        columns, rows = report.rows(findings.ranked[: config.best])
        objective = trials.sampler.objective.replace("_", " ")
        page.section(
            f"The best of {len(findings.ranked)} architectures",
            table(
                columns, [(*row[:-1], element("code", row[-1], class_="long")) for row in rows], right=range(len(columns) - 1)
            ),
            paragraph(
                "Parameters and multiply-adds are those of the network that ",
                element("code", "python -m retrain"),
                " builds by default. All architectures are in architectures.csv, the best of them are saved as genotype_1.json "
                "and so on.",
            ),
            figure(
                drawing(findings.figure, f"Scores against {objective}"),
                f"Every architecture, and those that no other one beats in both score and {objective}.",
            ),
        )
    _close(page, config, told, run, genotype, search.device, search.run.config_hash)
    return page


def default_costs(genotype: Genotype, space: SearchSpace, stem: Stem, images: ImageFormat) -> dict[str, float]:
    """{"parameters": ..., "multiply_adds": ...} of the network that retraining builds by default for such images."""
    used = {operation for cell in genotype.cells.values() for feeds in cell.nodes for operation, _ in feeds}
    encoding = Encoding(space, [name for name in space.candidates if name not in used])
    size = space.skeleton.default_size(stem)
    return CostTable(encoding, *size, len(images.class_names), images.shape, stem)(encoding.of_genotype(genotype))


# The parts


def _introduction(told: Told, space: str) -> list[Markup]:
    source = f"{told.paper[:1].upper()}{told.paper[1:]}" if told.paper else "A method of your own"
    return [paragraph(f"{source}, in the space {space}. ", element("code", f"python -m search.{told.method}"))]


def _ended(search: "BilevelSearch", process: Process) -> list[Markup]:
    """Why it ended before its last epoch, and what was conspicuous on the way."""
    reason = search.reason_to_stop()
    parts = process.notes(search.epochs, search.config.stop if reason is None else None)
    if reason is not None:
        parts.append(warning(f"Collapsed, after epoch {process.done} of {search.epochs}: {reason}."))
    if search.perturbation is not None and process.done < search.epochs:
        parts.append(
            warning("The selection is not complete, and the weights choose where it has not; --resume goes on with it.")
        )
    for epoch, sign in search.report.signs():
        parts.append(warning(f"After epoch {epoch}: the search may be collapsing: {sign.reason}."))
    return parts


def _of_default_network(genotype: Genotype, stem: Stem, images: ImageFormat, costs: Mapping[str, float]) -> Markup:
    skeleton = genotype.skeleton
    channels, cells = skeleton.default_size(stem)
    wide, height, width = images.shape
    return paragraph(
        f"{costs['parameters']:,} parameters and {costs['multiply_adds']:,} multiply-adds an image are those of the network ",
        "that ",
        element("code", "python -m retrain"),
        f" builds by default for images of {wide}x{height}x{width} and {len(images.class_names)} classes: "
        f"C = {channels}, {cells} {skeleton.cells_unit}. Accuracies here are of the supernet on the images held out from its "
        "training; they do not say how well the cell does when it is retrained.",
    )


def _of_table(search: "BilevelSearch", genotype: Genotype) -> list[Markup]:
    if search.report.table is None:
        return []
    row = search.report.table.rows.get(genotype.to_text(genotype.text_form))
    if row is None:
        return [paragraph("The benchmark table does not have this cell.")]
    return [
        paragraph(
            f"In the benchmark table this cell has a test accuracy of {row.test_accuracy:.2f}%, a validation accuracy of "
            f"{row.valid_accuracy:.2f}% and {row.parameters:,} parameters."
        )
    ]


def _curves(search: "BilevelSearch") -> list[Markup | None]:
    history, kinds = search.report.history, search.space.kinds

    def of_kinds(name: str) -> list[Curve]:
        return [Curve(kind, [(entry["epoch"], entry[name][kind]) for entry in history]) for kind in kinds]

    drawn = [
        chart("loss", [of_history(history, "train/loss", "train"), of_history(history, "valid/loss", "validation")]),
        chart("accuracy while training", [
            of_history(history, "train/accuracy", "train"), of_history(history, "valid/accuracy", "validation"),
        ]),
        chart("accuracy on held-out images", [
            of_history(history, "supernet_accuracy", "supernet"), of_history(history, "derived_accuracy", "derived cell in it"),
        ]),
        chart("mean entropy of an edge, in nats", of_kinds("entropy")),
        chart("skip connections in the cell", of_kinds("skips")),
        chart("dominant eigenvalue of the Hessian", [of_history(history, "eigenvalue")]),
    ]  # fmt: skip
    if (known := search.report.table) is not None:
        rows = [(entry["epoch"], known.rows.get(entry["genotype"])) for entry in history]
        points = [(epoch, row.test_accuracy) for epoch, row in rows if row is not None]
        drawn.append(chart("test accuracy in the table, %", [Curve("derived cell", points)]))
    return drawn


def _sampling_curves(search: "SamplingSearch") -> list[Markup | None]:
    history, trials = search.report.history, search.trials
    epochs = [entry for entry in history if "train/loss" in entry]
    spent, best = 0.0, None
    whole: list[Point] = []
    part: list[Point] = []
    so_far: list[Point] = []
    for trial in trials.done:
        spent += trial.share
        (whole if trial.share == 1 else part).append((spent, trial.score))
        if trial.share == 1:
            best = trial.score if best is None else max(best, trial.score)
            so_far.append((spent, best))
    scores = [Curve("best so far", so_far), Curve("evaluated", whole, "dots"), Curve("in part", part, "dots")]
    known = {"epoch", "evaluations", "mean_score", "best_score", "genotype", "test_accuracy", "exhausted"}
    readings = sorted({name for entry in history for name in entry} - known - {"train/loss", "train/accuracy"})
    rounds = [entry for entry in history if "evaluations" in entry]
    truth = [(entry["evaluations"], entry["test_accuracy"]) for entry in rounds if "test_accuracy" in entry]
    means = [(entry["evaluations"], entry["mean_score"]) for entry in rounds if "mean_score" in entry]
    return [
        chart("scores", scores, "evaluations"),
        chart("mean score of a round", [Curve("mean", means)], "evaluations"),
        chart("test accuracy of the best in the table, %", [Curve("best", truth)], "evaluations"),
        chart("loss of the shared weights", [of_history(epochs, "train/loss", "train")]),
        chart("accuracy of the shared weights", [of_history(epochs, "train/accuracy", "train")]),
        *(chart(f"sampler: {name}", [of_history(history, name)], "epoch or round") for name in readings),
    ]


def _close(
    page: Page,
    config: SearchConfig | SamplingConfig,
    told: Told,
    run: FilePath,
    genotype: Genotype | None,
    device: torch.device,
    config_hash: str,
) -> None:
    """What every search ends with."""
    page.section("What was asked", asked(config, told.defaults, told.method))
    if not isinstance(config, SamplingConfig) or config.needs_images:
        page.section("Images", images(run, config.data))
    else:
        page.section("Images", paragraph("None: scores are read from ", element("code", config.tabular), "."))
    repeat: list[str | FilePath] = [f"search.{told.method}", "--config", run / "config.yaml", "--run", f"{run}_again"]
    parts = [paragraph("The same search once more, into another directory:"), commands(repeat)]
    if genotype is not None:
        parts += [
            paragraph("The network of this cell, trained from scratch:"),
            commands(retrain_command(config, run, genotype)),
        ]
    threads = " with as many threads" if device.type == "cpu" else ""
    parts.append(
        paragraph(
            f"Seed {config.seed}, hash of the configuration {config_hash}. On the same versions and the same kind of device"
            f"{threads} the same numbers come out."
        )
    )
    page.section("How to repeat it", *parts, environment(device))


def retrain_command(config: SearchConfig | SamplingConfig, run: FilePath, genotype: Genotype) -> list[str | FilePath]:
    """A command line, `python -m` left out, that retrains what the search has found, on the images that it has seen."""
    usual = config_to_dict(DataConfig())
    options = {f"data.{name}": value for name, value in config_to_dict(config.data).items() if value != usual[name]}
    if config.stem != "cifar":
        options["stem"] = config.stem
    if not genotype.skeleton.auxiliary:
        options["auxiliary_weight"] = 0
    given = [f"--{name}={setting(value)}" for name, value in options.items()]
    return ["retrain", "--genotype", run / "genotype.json", *given, "--run", f"{run}_retrained"]


# Weights over time


def weights_over_time(history: Sequence[Mapping[str, Any]], space: SearchSpace, genotype: Genotype) -> list[Markup]:
    """For each kind of cell the weight of each operation on each edge, epoch by epoch; edges into one node are in one row."""
    parts: list[Markup] = []
    for kind in space.kinds:
        values = np.array([entry["mixture"][kind] for entry in history])  # [epochs, edges, candidates]
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
    """A field for each edge: sources from left to right, targets from top to bottom. Returns the picture and its width."""
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
    """What an edge is called, as in the drawing of the cell."""
    first = ["input"] if space.inputs == 1 else [
        "c" + "ₖ" + f"-{space.inputs - number}".translate(_SUBSCRIPTS) for number in range(space.inputs)
    ]  # fmt: skip
    states = [*first, *map(str, range(space.nodes))]
    return [f"{states[source]} → {states[target]}" for source, target in space.edges]
