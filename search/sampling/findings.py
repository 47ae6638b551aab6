"""The findings of a sampling search: the best architectures, their costs, and their files."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

from base.texts import csv_cell
from search.costs.tabular import Table, TableRow
from search.sampling.encoding import Encoding, Genome
from search.sampling.pareto import pareto_front
from search.sampling.samplers.sampler import Costs
from search.sampling.trials import Trials
from supernet import Genotype
from supernet.drawing.draw import BUS, DOTS, INK, TEXT, save_figure
from training.metrics import Score
from training.report.markdown import table as markdown
from training.run.ownership.files import record, write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PARETO_FILE = "pareto.png"


@dataclass(frozen=True)
class Rank:
    """One of the architectures that were evaluated wholly."""

    genotype: Genotype
    score: float
    """The score in its own sign."""
    costs: Mapping[str, float]
    truth: TableRow | None
    """The row of the benchmark table, if there is a table."""


@dataclass(frozen=True)
class Findings:
    """The findings of a search: at least one architecture that was evaluated wholly."""

    ranked: Sequence[Rank]
    """Every architecture that was evaluated wholly, the best first."""
    objective: str
    """The cost that scores are weighed against."""
    evaluations: int
    """Evaluations that were made, those in part included."""
    spent: float
    """Cost of the evaluations, in whole ones."""
    scored_by: Score
    """The score that they are ranked by."""

    @property
    def genotype(self) -> Genotype:
        """The best architecture."""
        return self.ranked[0].genotype

    @cached_property
    def front(self) -> list[int]:
        """The places in `ranked` of those that no other one beats in both score and objective."""
        return pareto_front([(-self.scored_by.maximised(rank.score), rank.costs[self.objective]) for rank in self.ranked])

    @cached_property
    def tau(self) -> float | None:
        """Kendall's tau between scores, as they are maximised, and the table's test accuracy; None
        without a table or where either is constant."""
        truths = [rank.truth.test_accuracy for rank in self.ranked if rank.truth is not None]
        scores = [self.scored_by.maximised(rank.score) for rank in self.ranked if rank.truth is not None]
        if len(set(truths)) < 2 or len(set(scores)) < 2:
            return None
        from scipy.stats import kendalltau  # takes seconds to import

        return float(kendalltau(scores, truths).statistic)


def find(
    trials: Trials, encoding: Encoding, costs: Costs, table: Table | None, scored_by: Score, seed: int, config_hash: str
) -> Findings | None:
    """Ranks every architecture that was evaluated wholly, here or by another process of the same
    search.

    `seed` and `config_hash` say in their genotypes what search found them. Returns None where there
    is none.
    """
    scores: dict[Genome, float] = {}
    here = ((trial.genome, trial.score) for trial in trials.done if trial.share == 1)
    for genome, score in (*here, *trials.sampler.gathered()):
        scores.setdefault(genome, score)
    if not scores:
        return None
    ranked = []
    for genome in sorted(scores, key=lambda genome: -scores[genome]):
        truth = None if table is None else table[encoding.genotype(genome)]
        found = encoding.genotype(genome, seed, config_hash)
        ranked.append(Rank(found, scored_by.own(scores[genome]), costs(genome), truth))
    return Findings(ranked, trials.sampler.objective, len(trials.done), trials.spent, scored_by)


def write_findings(findings: Findings, directory: FilePath, best: int, source: str, figure: "Figure | None") -> None:
    """Writes the genotype, the `best` architectures, architectures.csv, report.md and pareto.png
    into the directory of a run.

    `source` is where scores come from, as the configuration names it; `figure` is that of
    `draw_front`, or None to do without the picture.
    """
    write_file(directory, "genotype.json", findings.genotype.to_text("json"))
    for number, rank in enumerate(findings.ranked[:best], start=1):
        write_file(directory, f"genotype_{number}.json", rank.genotype.to_text("json"))
    write_file(directory, "architectures.csv", _as_csv(findings))
    if figure is not None:
        record(directory, PARETO_FILE)
        save_figure(figure, directory / PARETO_FILE)
    write_file(directory, "report.md", _as_markdown(findings, best, source, figure is not None))


def _as_csv(findings: Findings) -> str:
    ranked, text = findings.ranked, io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    truth = [] if ranked[0].truth is None else ["test_accuracy", "valid_accuracy"]
    writer.writerow(["rank", f"score_{findings.scored_by.name}", *map(csv_cell, ranked[0].costs), *truth, "genotype"])
    for number, rank in enumerate(ranked, start=1):
        known = [] if rank.truth is None else [rank.truth.test_accuracy, rank.truth.valid_accuracy]
        writer.writerow([number, rank.score, *rank.costs.values(), *known, csv_cell(as_text(rank.genotype))])
    return text.getvalue()


def _as_markdown(findings: Findings, best: int, source: str, pictured: bool) -> str:
    ranked, tau, score = findings.ranked, findings.tau, findings.scored_by
    parts = [
        f"# The best of {len(ranked)} architectures\n",
        f"{findings.evaluations} evaluations at a cost of {findings.spent:g} whole ones, scored by: {score.words} "
        f"(from: {source}). "
        "Parameters and multiply-adds are those of the network that `python -m retrain` builds by default; each of the "
        "best is saved as genotype_1.json and so on.\n",
        _table(ranked[:best], score),
    ]
    if tau is not None:
        parts.append(f"Kendall's tau between scores and the table's test accuracy over all {len(ranked)}: {tau:.3f}.\n")
    front = [ranked[place] for place in findings.front]
    parts += [f"## The Pareto front of {score.words} and {findings.objective.replace('_', ' ')}\n", _table(front, score)]
    if pictured:
        parts.append(f"![{score.words} against costs]({PARETO_FILE})\n")
    return "\n".join(parts)


def _table(ranked: Sequence[Rank], score: Score) -> str:
    columns, lines = rows(ranked, score)
    return markdown(columns, [(*line[:-1], f"`{line[-1]}`") for line in lines])


def rows(ranked: Sequence[Rank], score: Score) -> tuple[list[str], list[tuple[str, ...]]]:
    """Returns the heads and the lines of a table for people, of architectures that are ranked by
    `score`; the last column is the genotype's text."""
    truth = [] if ranked[0].truth is None else ["test accuracy, %"]
    latency = ["latency, ms"] if "latency_ms" in ranked[0].costs else []
    lines = []
    for number, rank in enumerate(ranked, start=1):
        known = [] if rank.truth is None else [f"{rank.truth.test_accuracy:.2f}"]
        measured = [f"{rank.costs['latency_ms']:.3f}"] if latency else []
        costs = [f"{rank.costs['parameters']:,}", f"{rank.costs['multiply_adds'] / 1e6:.2f}", *measured]
        lines.append((str(number), score.written(rank.score), *costs, *known, as_text(rank.genotype)))
    return ["", score.words, "parameters", "multiply-adds, M", *latency, *truth, "genotype"], lines


def draw_front(findings: Findings) -> "Figure":
    """Draws every architecture's score against its cost, those that no other one beats in both
    joined by a line."""
    from matplotlib.figure import Figure  # slow to import

    ranked, objective = findings.ranked, findings.objective
    figure = Figure((6.4, 4.2), dpi=DOTS, facecolor="white", layout="constrained")
    axes = figure.subplots()
    costs, scores = [rank.costs[objective] for rank in ranked], [rank.score for rank in ranked]
    axes.scatter(costs, scores, s=10, color=BUS, label="evaluated")
    best = sorted((ranked[place].costs[objective], ranked[place].score) for place in findings.front)
    axes.plot(*zip(*best, strict=True), color="#2563b0", marker="o", markersize=4, linewidth=1.2, label="Pareto front")
    axes.set_xlabel(objective.replace("_", " "), fontsize=TEXT, color=INK)
    axes.set_ylabel(findings.scored_by.words, fontsize=TEXT, color=INK)
    axes.grid(color="#e5e7eb", linewidth=0.6)
    axes.tick_params(labelsize=TEXT, colors=INK, length=2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", fontsize=TEXT, frameon=False)
    return figure


def as_text(genotype: Genotype) -> str:
    """Returns the genotype in the text form of its space."""
    return genotype.to_text(genotype.text_form)
