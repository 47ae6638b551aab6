"""The report of a retraining as one page: what was asked, how it went, and how good the network is."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from retrain.config import RetrainConfig
from retrain.evaluation.confusion import draw_confusion
from retrain.result import Compared, Result
from supernet.drawing.draw import draw_genotype
from training.metrics import Evaluation
from training.report.charts import chart, charts, of_history, of_reading
from training.report.html import (
    Markup,
    Page,
    details,
    drawing,
    duration,
    element,
    facts,
    figure,
    millions,
    paragraph,
    percent,
    table,
)
from training.report.sections import MOST_CLASSES, Process, asked, commands, drawn_genotype, environment, images

if TYPE_CHECKING:
    from retrain.trainer import Retraining

_FEW = 10
"""Genotypes below which a comparison with them says little."""


def retrain_page(
    trainer: "Retraining", result: Result, process: Process, config_hash: str, others: Sequence[Compared] = ()
) -> Page:
    """Of a retraining that ended with `result`; `others` are what it is compared with."""
    config, genotype, test, run = trainer.config, trainer.genotype, result.test, result.run
    page = Page(
        f"Retraining: {config.data.name}",
        paragraph(f"Cells of the space {genotype.space}, trained from scratch. ", element("code", "python -m retrain")),
    )
    network = trainer.network
    page.section(
        "Result",
        facts(
            {
                "test accuracy": percent(test.accuracy),
                "macro recall": percent(test.macro_recall),
                "parameters": millions(result.parameters),
                "multiply-adds": millions(result.multiply_adds),
                "epochs": f"{process.done} of {trainer.epochs}",
                "time": duration(process.seconds),
            }
        ),
        *process.notes(trainer.epochs, config.stop),
        drawn_genotype(genotype, draw_genotype(genotype)),
        paragraph(
            f"{result.parameters:,} parameters and {result.multiply_adds:,} multiply-adds an image: C = {network.channels}, "
            f"{network.cell_count} {genotype.skeleton.cells_unit}. Nothing in the training has seen the test images."
        ),
    )
    page.section(f"On the {test.images:,} test images", *_tested(test, trainer.format.class_names))
    if others:
        page.section("Beside random genotypes", *_compared(result, others))
    weighted = "Classes are weighted in the training loss and not in that of the validation images."
    both = trainer.class_weights is not None and trainer.valid_batches is not None
    page.section("Curves", charts(*_curves(trainer)), *([paragraph(weighted)] if both else []))
    page.section("What was asked", asked(config, RetrainConfig(), "python -m retrain"))
    page.section("Images", images(run, config.data))
    again: list[str | Path] = [
        "retrain",
        "--config",
        run / "config.yaml",
        "--genotype",
        run / "genotype.json",
        "--run",
        f"{run}_again",
    ]
    threads = " with as many threads" if trainer.device.type == "cpu" else ""
    page.section(
        "How to use and repeat it",
        paragraph("The weights evaluated again, with the time that they take, and made usable without this project:"),
        commands(["retrain.evaluate", run], ["retrain.export", run, "--format", "onnx"]),
        paragraph("The same training once more, into another directory:"),
        commands(again),
        paragraph(
            f"Seed {config.seed}, hash of the configuration {config_hash}. On the same versions and the same kind of device"
            f"{threads} the same numbers come out."
        ),
        environment(trainer.device),
    )
    return page


def _tested(test: Evaluation, names: Sequence[str]) -> list[Markup]:
    rows = {
        "accuracy": percent(test.accuracy),
        "top-5 accuracy": percent(test.top5) if len(names) > 5 else None,
        "macro recall": percent(test.macro_recall),
        "macro F1": percent(test.macro_f1),
        "cross-entropy": f"{test.loss:.4f} nats",
        "expected calibration error": percent(test.calibration_error),
    }
    scores = list(zip(names, test.per_class, strict=True))
    shown = "each class"
    if len(scores) > MOST_CLASSES:
        scores = sorted(scores, key=lambda row: 1.0 if row[1].f1 is None else row[1].f1)[:MOST_CLASSES]
        shown = f"the {MOST_CLASSES} of {len(names)} classes with the lowest F1"
    lines = [
        (name, f"{one.images:,}", *(None if value is None else percent(value) for value in (one.precision, one.recall, one.f1)))
        for name, one in scores
    ]
    drawn = draw_confusion(test.confusion, names)
    return [
        table([], [row for row in rows.items() if row[1] is not None]),
        figure(
            drawing(drawn, "Confusion matrix"),
            "Rows are true classes, columns predicted ones; the colour is the share of the true class.",
            narrowest=min(480, round(96 * drawn.get_figwidth())),
        ),
        details(shown, table(["class", "images", "precision", "recall", "F1"], lines, right=range(1, 5))),
    ]


def _compared(result: Result, others: Sequence[Compared]) -> list[Markup]:
    own = Compared("this genotype", result.parameters, result.multiply_adds, result.test.accuracy)
    ranked = sorted([own, *others], key=lambda one: -one.accuracy)
    rows = [
        (
            element("strong", one.name) if one is own else one.name,
            percent(one.accuracy),
            f"{one.parameters:,}",
            f"{one.multiply_adds / 1e6:,.2f}",
        )
        for one in ranked
    ]
    return [
        table(["", "test accuracy", "parameters", "multiply-adds, M"], rows, right=range(1, 4)),
        paragraph(verdict(own, others)),
    ]


def verdict(own: Compared, others: Sequence[Compared]) -> str:
    """How it compares, in words that claim no more than so many others allow."""
    accuracies = [one.accuracy for one in others]
    low, high = min(accuracies), max(accuracies)
    spread = percent(low) if low == high else f"{percent(low)} to {percent(high)}"
    count = f"{len(others)} random genotype{'s' if len(others) > 1 else ''} of the space, trained in the same way ({spread})"
    if own.accuracy > high:
        said = f"Its accuracy is above that of all {count}."
    elif own.accuracy < low:
        said = f"Its accuracy is below that of all {count}: here the search was not worth its time."
    else:
        better = sum(accuracy >= own.accuracy for accuracy in accuracies)
        said = f"Its accuracy is within the range of {count}, of which {better} did at least as well."
    doubt = " One seed each proves little: with another seed the order may be another one"
    return said + doubt + (f", the more so with only {len(others)}." if len(others) < _FEW else ".")


def _curves(trainer: "Retraining") -> list[Markup | None]:
    history = trainer.history
    return [
        chart("loss", [of_reading(history, "train/loss", "train"), of_reading(history, "valid/loss", "validation")]),
        chart(
            "accuracy", [of_reading(history, "train/accuracy", "train"), of_reading(history, "valid/accuracy", "validation")]
        ),
        chart("learning rate", [of_history(history, "lr", lambda entry: entry.lr)]),
    ]
