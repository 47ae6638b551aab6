"""The report of a sampling search as one page: what was asked, how it went, and what it found."""

from typing import TYPE_CHECKING

from search.history import SamplingEpoch, SamplingRound
from search.reporting import RunFacts, close, introduction
from supernet.drawing.draw import draw_genotype
from training.report.charts import Curve, Point, chart, charts, of_reading
from training.report.html import Markup, Page, drawing, duration, element, facts, figure, millions, paragraph, table, warning
from training.report.sections import drawn_genotype, images

if TYPE_CHECKING:
    from search.sampling.recorder import Findings
    from search.sampling.trainer import SamplingSearch


def sampling_page(search: "SamplingSearch", findings: "Findings | None", run_facts: RunFacts) -> Page:
    """Of a search that samples architectures; without findings where none was evaluated wholly yet."""
    config, report, trials, run = search.config, search.recorder, search.trials, search.run.path
    data = "a table" if config.evaluate == "table" else config.data.name
    page = Page(f"Search: {run_facts.method}, {data}", *introduction(run_facts, config.space))
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
    notes = run_facts.process.notes(search.epochs, None if trials.exhausted else config.stop)
    page.section("Result", facts(numbers | {"time": duration(run_facts.process.seconds)}), *notes, *parts)
    page.section("Curves", charts(*_curves(search)))
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
    seen = paragraph("None: scores are read from ", element("code", config.tabular), ".")
    if config.needs_images:
        seen = images(run, config.data)
    close(page, config, run_facts, run, seen, genotype, search.device, search.run.config_hash)
    return page


def _curves(search: "SamplingSearch") -> list[Markup | None]:
    history, trials = search.recorder.history, search.trials
    epochs = [entry for entry in history if isinstance(entry, SamplingEpoch)]
    rounds = [entry for entry in history if isinstance(entry, SamplingRound)]
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
    readings = sorted({name for entry in history for name in entry.sampler_readings})
    truth = [(entry.evaluations, entry.test_accuracy) for entry in rounds if entry.test_accuracy is not None]
    means = [(entry.evaluations, entry.mean_score) for entry in rounds if entry.mean_score is not None]
    return [
        chart("scores", scores, "evaluations"),
        chart("mean score of a round", [Curve("mean", means)], "evaluations"),
        chart("test accuracy of the best in the table, %", [Curve("best", truth)], "evaluations"),
        chart("loss of the shared weights", [of_reading(epochs, "train/loss", "train")]),
        chart("accuracy of the shared weights", [of_reading(epochs, "train/accuracy", "train")]),
        *(chart(f"sampler: {name}", [of_reading(history, name)], "epoch or round") for name in readings),
    ]
