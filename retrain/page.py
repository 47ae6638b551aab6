"""The report of a retraining as one page: what was asked, how it went, and how good the network
is."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from retrain.config import RetrainConfig
from retrain.evaluation.confusion import draw_confusion
from retrain.evaluation.scatter import MOST_DRAWN, draw_predictions
from retrain.history import RetrainEpoch
from retrain.result import Compared, Result
from training.metrics import LOSS
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
from training.tasks.classification import ACCURACY, MACRO_RECALL, ClassificationEvaluation
from training.tasks.regression import MAE, MSE, R2, NumberScores, RegressionEvaluation
from training.tasks.task import Evaluation, Task

_FEW = 10
"""Genotypes below which a comparison with them says little."""


@dataclass(frozen=True)
class Story:
    """The content of the page of a retraining."""

    config: RetrainConfig
    task: Task
    result: Result
    history: Sequence[RetrainEpoch]
    device: torch.device
    process: Process
    config_hash: str
    others: Sequence[Compared] = ()
    """The networks that the genotype is compared with."""
    pictures: bool = True
    """Whether the page has figures."""


def retrain_page(story: Story) -> Page:
    """Makes the page of a retraining."""
    config, task, result, process = story.config, story.task, story.result, story.process
    genotype, test, run, network = result.genotype, result.test, result.run, result.trained.network
    page = Page(
        f"Retraining: {config.data.name}",
        paragraph(f"Cells of the space {genotype.space}, trained from scratch. ", element("code", "python -m retrain")),
    )
    page.section(
        "Result",
        facts(
            {
                f"test {task.scored_by.words}": task.scored_by.written(task.value(test)),
                **_beside(test, task),
                "parameters": millions(result.parameters),
                "multiply-adds": millions(result.multiply_adds),
                "epochs": f"{process.done} of {config.epochs}",
                "time": duration(process.seconds),
            }
        ),
        *process.notes(config.epochs, config.stop, config.extended),
        drawn_genotype(genotype, story.pictures),
        paragraph(
            f"{result.parameters:,} parameters and {result.multiply_adds:,} multiply-adds an image: C = {network.channels}, "
            f"{network.cell_count} {genotype.skeleton.unit}. Nothing in the training has seen the test images."
        ),
    )
    names = result.trained.format.class_names
    page.section(f"On the {test.count:,} test images", *_tested(test, task, names, story.pictures))
    if story.others:
        page.section("Beside random genotypes", *_compared(result, story.others, task))
    weighted = "Classes are weighted in the training loss and not in that of the validation images."
    both = config.data.class_weights != "none" and config.validation_fraction > 0
    page.section("Curves", charts(*_curves(story.history, task)), *([paragraph(weighted)] if both else []))
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
    threads = " with as many threads" if story.device.type == "cpu" else ""
    page.section(
        "How to use and repeat it",
        paragraph("The weights evaluated again, with the time that they take, and made usable without this project:"),
        commands(["retrain.evaluate", run], ["retrain.export", run, "--format", "onnx"]),
        paragraph("The same training once more, into another directory:"),
        commands(again),
        paragraph(
            f"Seed {config.seed}, hash of the configuration {story.config_hash}. On the same versions and the same kind of "
            f"device{threads} the same numbers come out."
        ),
        environment(story.device),
    )
    return page


def _beside(test: Evaluation, task: Task) -> dict[str, str]:
    """Returns values that the score is to be read beside, by name."""
    beside = (ACCURACY, MACRO_RECALL) if isinstance(test, ClassificationEvaluation) else task.scores
    there = [score for score in beside if score != task.scored_by and score.name in test.values]
    return {score.words: score.written(test.values[score.name]) for score in there}


def _tested(test: Evaluation, task: Task, names: Sequence[str], pictures: bool) -> list[Markup]:
    if isinstance(test, ClassificationEvaluation):
        return _classified(test, names, pictures)
    if isinstance(test, RegressionEvaluation):
        return _predicted(test, names, pictures)
    rows = [(task.words(name), task.written(name, value)) for name, value in test.values.items()]
    return [table([], [*rows, ("loss", f"{test.loss:.4f}")])]


def _classified(test: ClassificationEvaluation, names: Sequence[str], pictures: bool) -> list[Markup]:
    rows = {
        "accuracy": percent(test.accuracy),
        "top-5 accuracy": None if test.top5 is None else percent(test.top5),
        "macro recall": percent(test.macro_recall),
        "macro F1": percent(test.macro_f1),
        "balanced accuracy": percent(test.balanced_accuracy),
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
    parts = [table([], [row for row in rows.items() if row[1] is not None])]
    if pictures:
        drawn = draw_confusion(test.confusion, names)
        parts.append(
            figure(
                drawing(drawn, "Confusion matrix"),
                "Rows are true classes, columns predicted ones; the colour is the share of the true class.",
                narrowest=min(480, round(96 * drawn.get_figwidth())),
            )
        )
    return [*parts, details(shown, table(["class", "images", "precision", "recall", "F1"], lines, right=range(1, 5)))]


def _predicted(test: RegressionEvaluation, names: Sequence[str], pictures: bool) -> list[Markup]:
    scores = (R2, MSE, MAE)

    def cells(found: RegressionEvaluation | NumberScores) -> list[str | None]:
        values = [(score, getattr(found, score.name)) for score in scores]
        return [None if value is None else score.written(value) for score, value in values]

    heads, loss = [score.words for score in scores], f"{test.loss:.4f}"
    parts = [table([], [*zip(heads, cells(test), strict=True), ("mean squared error of standardised numbers", loss)])]
    said = "Errors are in the unit of each number, squared errors in its square."
    if len(names) > 1:
        said += " Those of all are their means, in which the number of the widest spread weighs most; R2 has no unit."
    if test.r2 is None:
        said += " A number that is the same in all test images has no R2."
    parts.append(paragraph(said))
    if pictures:
        drawn = draw_predictions(test, names)
        some = len(test.true) < test.images
        caption = (
            f"Each dot is an image{f', of which {len(test.true):,} are drawn' if some else ''}; on the line both are equal."
        )
        if len(names) > MOST_DRAWN:
            caption += f" The first {MOST_DRAWN} of {len(names)} numbers."
        parts.append(figure(drawing(drawn, "Predicted over true numbers"), caption, narrowest=round(96 * drawn.get_figwidth())))
    if len(names) > 1:
        lines = [(name, *cells(one)) for name, one in zip(names, test.per_number, strict=True)][:MOST_CLASSES]
        shown = "each number" if len(names) <= MOST_CLASSES else f"the first {MOST_CLASSES} of {len(names)} numbers"
        parts.append(details(shown, table(["number", *heads], lines, right=range(1, 4))))
    return parts


def _compared(result: Result, others: Sequence[Compared], task: Task) -> list[Markup]:
    own = Compared.of("this genotype", result, task)
    ranked = sorted([own, *others], key=lambda one: -one.score)
    rows = [
        (
            element("strong", one.name) if one is own else one.name,
            one.written,
            f"{one.parameters:,}",
            f"{one.multiply_adds / 1e6:,.2f}",
        )
        for one in ranked
    ]
    return [
        table(["", f"test {task.scored_by.words}", "parameters", "multiply-adds, M"], rows, right=range(1, 4)),
        paragraph(verdict(own, others, task.scored_by.words)),
    ]


def verdict(own: Compared, others: Sequence[Compared], name: str) -> str:
    """Returns the comparison in words, with claims as strong as the number of others allows."""
    worst, best = (choose(others, key=lambda one: one.score) for choose in (min, max))
    spread = best.written if worst.score == best.score else f"{worst.written} to {best.written}"
    count = f"{len(others)} random genotype{'s' if len(others) > 1 else ''} of the space, trained in the same way ({spread})"
    if own.score > best.score:
        said = f"Its {name} is better than that of all {count}."
    elif own.score < worst.score:
        said = f"Its {name} is worse than that of all {count}: here the search was not worth its time."
    else:
        better = sum(one.score >= own.score for one in others)
        said = f"Its {name} is within the range of {count}, of which {better} did at least as well."
    doubt = " One seed each proves little: with another seed the order may be another one"
    return said + doubt + (f", the more so with only {len(others)}." if len(others) < _FEW else ".")


def _curves(history: Sequence[RetrainEpoch], task: Task) -> list[Markup | None]:
    def curve(name: str, words: str) -> Markup | None:
        levels = {"train": "train", "valid": "validation"}
        return chart(words, [of_reading(history, f"{level}/{name}", said) for level, said in levels.items()])

    measured = [score for score in (task.scored_by, *task.scores) if score.name != LOSS.name]
    return [
        curve("loss", "loss"),
        *(curve(name, words) for name, words in {score.name: score.words for score in measured}.items()),
        chart("learning rate", [of_history(history, "lr", lambda entry: entry.lr)]),
    ]
