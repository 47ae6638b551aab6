"""The report of a sampling search as one page: what was asked, how it went, and what it found."""

from collections.abc import Sequence
from dataclasses import dataclass

from search.history import SamplingEntry, SamplingEpoch, SamplingRound
from search.reporting import RunFacts, close, introduction
from search.sampling.config import SamplingConfig
from search.sampling.findings import Findings, draw_front, rows
from search.sampling.trials import Trial
from training.metrics import LOSS, Score
from training.report.charts import Curve, Point, chart, charts, of_reading
from training.report.html import Markup, Page, drawing, duration, element, facts, figure, millions, paragraph, table, warning
from training.report.sections import drawn_genotype, images


@dataclass(frozen=True)
class Story:
    """The content of the page of a sampling search."""

    facts: RunFacts
    config: SamplingConfig
    scored_by: Score
    """The score that architectures are compared by."""
    history: Sequence[SamplingEntry]
    trials: Sequence[Trial]
    """All evaluations, in their order."""
    spent: float
    """Cost of the evaluations, in whole ones."""
    exhausted: bool
    """Whether there was nothing more to evaluate."""
    findings: Findings | None
    """None where no architecture was evaluated wholly yet."""


def sampling_page(story: Story) -> Page:
    """Makes the page of a search that samples architectures."""
    config, findings, run = story.config, story.findings, story.facts
    data = "a table" if config.evaluate == "table" else config.data.name
    page = Page(f"Search: {run.method}, {data}", *introduction(run, config.space))
    numbers: dict[str, object] = {"evaluations": f"{story.spent:g} of {config.evaluations}"}
    parts: list[Markup] = []
    if findings is None:
        parts.append(warning("No architecture has been evaluated wholly yet; --resume goes on."))
    else:
        best, score = findings.ranked[0], findings.scored_by
        numbers |= {
            f"best {score.words}": score.written(best.score),
            "parameters": millions(best.costs["parameters"]),
            "multiply-adds": millions(best.costs["multiply_adds"]),
            "test accuracy in the table": None if best.truth is None else f"{best.truth.test_accuracy:.2f}%",
            "latency": f"{best.costs['latency_ms']:.3f} ms" if "latency_ms" in best.costs else None,
            "rank correlation with the table": None if findings.tau is None else f"{findings.tau:.3f}",
        }
        parts.append(drawn_genotype(findings.genotype, run.pictures))
    notes = run.process.notes(run.epochs, None if story.exhausted else config.stop, config.extended)
    page.section("Result", facts(numbers | {"time": duration(run.process.seconds)}), *notes, *parts)
    page.section("Curves", charts(*_curves(story)))
    if findings is not None:
        page.section(f"The best of {len(findings.ranked)} architectures", *_best(findings, config.best, run.pictures))
    seen = paragraph("None: scores are read from ", element("code", config.tabular), ".")
    if config.needs_images:
        seen = images(run.directory, config.data)
    close(page, config, run, seen, None if findings is None else findings.genotype)
    return page


def _best(findings: Findings, count: int, pictures: bool) -> list[Markup]:
    columns, lines = rows(findings.ranked[:count], findings.scored_by)
    parts = [
        table(
            columns,
            [(*line[:-1], element("code", line[-1], class_="long")) for line in lines],
            right=range(len(columns) - 1),
        ),
        paragraph(
            "Parameters and multiply-adds are those of the network that ",
            element("code", "python -m retrain"),
            " builds by default. All architectures are in architectures.csv, the best of them are saved as genotype_1.json "
            "and so on.",
        ),
    ]
    if pictures:
        objective, score = findings.objective.replace("_", " "), findings.scored_by.words
        parts.append(
            figure(
                drawing(draw_front(findings), f"{score} against {objective}"),
                f"Every architecture, and those that no other one beats in both {score} and {objective}.",
            )
        )
    return parts


def _curves(story: Story) -> list[Markup | None]:
    history, score = story.history, story.scored_by
    epochs = [entry for entry in history if isinstance(entry, SamplingEpoch)]
    rounds = [entry for entry in history if isinstance(entry, SamplingRound)]
    spent, best = 0.0, None
    whole: list[Point] = []
    part: list[Point] = []
    so_far: list[Point] = []
    for trial in story.trials:
        spent += trial.share
        (whole if trial.share == 1 else part).append((spent, score.own(trial.score)))
        if trial.share == 1:
            best = trial.score if best is None else max(best, trial.score)
            so_far.append((spent, score.own(best)))
    scores = [Curve("best so far", so_far), Curve("evaluated", whole, "dots"), Curve("in part", part, "dots")]
    readings = sorted({name for entry in history for name in entry.sampler_readings})
    truth = [(entry.evaluations, entry.test_accuracy) for entry in rounds if entry.test_accuracy is not None]
    means = [(entry.evaluations, entry.mean_score) for entry in rounds if entry.mean_score is not None]
    return [
        chart(score.words, scores, "evaluations"),
        chart(f"mean {score.words} of a round", [Curve("mean", means)], "evaluations"),
        chart("test accuracy of the best in the table, %", [Curve("best", truth)], "evaluations"),
        chart("loss of the shared weights", [of_reading(epochs, "train/loss", "train")]),
        None
        if score.name == LOSS.name
        else chart(f"{score.words} of the shared weights", [of_reading(epochs, f"train/{score.name}", "train")]),
        *(chart(f"sampler: {name}", [of_reading(history, name)], "epoch or round") for name in readings),
    ]
