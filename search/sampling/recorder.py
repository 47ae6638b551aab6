"""Records what a sampling search says of each epoch and round, and what it ends with: the best architectures, their price."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from base.files import write_atomically
from search.costs.tabular import Table, TableRow
from search.history import SamplingEntry, SamplingEpoch, SamplingRound
from search.sampling.config import SamplingConfig
from search.sampling.encoding import Encoding, Genome
from search.sampling.pareto import pareto_front
from search.sampling.samplers.sampler import Costs
from search.sampling.trials import Trial, Trials
from supernet import Genotype
from supernet.drawing.draw import BUS, DOTS, INK, TEXT, draw_cell, save_figure
from training.loop import Watch
from training.report.markdown import table as markdown
from training.run.checkpoint import RunDirectory
from training.run.history import write_history
from training.run.monitor import Monitor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Rank:
    """One of the architectures that were evaluated wholly."""

    genome: Genome
    score: float
    costs: Mapping[str, float]
    truth: TableRow | None
    """What the benchmark table has, where there is one."""


@dataclass(frozen=True)
class Findings:
    """What a search has found."""

    genotype: Genotype
    """The best architecture."""
    ranked: Sequence[Rank]
    """Every architecture that was evaluated wholly, the best first."""
    figure: "Figure"
    """Their scores against what they cost."""
    tau: float | None
    """Kendall's tau between scores and the benchmark table's test accuracy; None where that cannot be had."""


class SamplingRecorder:
    """Watches one search, and changes nothing of it. `history` has one entry an epoch or round: a checkpoint holds it, and so
    does the file history.jsonl of the run."""

    def __init__(
        self, config: SamplingConfig, encoding: Encoding, costs: Costs, table: Table | None, run: RunDirectory, epochs: int
    ) -> None:
        self.config = config
        self.encoding = encoding
        self.costs = costs
        self.table = table
        self.run = run
        self.epochs = epochs
        """Epochs and rounds together."""
        self.history: list[SamplingEntry] = []

    def epoch(self, epoch: int, watch: Watch, rate: float, readings: Mapping[str, float]) -> None:
        """Records everything about an epoch of the weights that ends; `readings` are those of the sampler."""
        values = watch.finish()
        trained = {name: value for name, value in values.items() if name.startswith("train/")}
        self._remember(SamplingEpoch(epoch=epoch + 1, readings={**trained, **readings}))
        watch.monitor.scalars(watch.step, {"lr/weights": rate, **_tagged(readings)})
        said = "".join(f", {name} {value:.4f}" for name, value in readings.items())
        watch.monitor.log(
            f"epoch {epoch + 1}/{self.epochs}: train loss {trained['train/loss']:.4f} accuracy {trained['train/accuracy']:.4f}"
            f"{said}, {values['speed/images_per_second']:.0f} images/s"
        )

    def round(self, epoch: int, watch: Watch, trials: Trials, new: Sequence[Trial], readings: Mapping[str, float]) -> None:
        """Records everything about a round of evaluations that ends, of which those in `new` are."""
        watch.finish()
        best, last = trials.best(), self.history[-1] if self.history else None
        genotype = None if best is None else self.genotype(best.genome)
        entry = SamplingRound(
            epoch=epoch + 1,
            readings=readings,
            evaluations=round(trials.spent, 6),
            mean_score=sum(trial.score for trial in new) / len(new) if new else None,
            best_score=None if best is None else best.score,
            genotype=None if genotype is None else _text(genotype),
            test_accuracy=None if genotype is None or self.table is None else self.table[genotype].test_accuracy,
            exhausted=trials.exhausted or None,
        )
        if genotype is not None:
            genotype.save(self.run.path / "genotype.json")
            if entry.genotype != (last.genotype if isinstance(last, SamplingRound) else None):
                self._picture(genotype, watch)
        self._remember(entry)
        self._write_evaluations(trials)
        numbers = {
            "evaluations": entry.evaluations,
            "mean_score": entry.mean_score,
            "best_score": entry.best_score,
            "test_accuracy": entry.test_accuracy,
        }
        measured = {f"search/{name}": value for name, value in numbers.items() if value is not None}
        watch.monitor.scalars(watch.step, measured | _tagged(readings))
        watch.monitor.log(f"round {entry.epoch}/{self.epochs}: {self._line(entry)}")

    def _line(self, entry: SamplingRound) -> str:
        parts = [f"{entry.evaluations:g} of {self.config.evaluations} evaluations"]
        if entry.mean_score is not None:
            parts.append(f"mean score of the round {entry.mean_score:.4f}")
        if entry.best_score is not None:
            parts.append(f"best {entry.best_score:.4f}")
        if entry.test_accuracy is not None:
            parts.append(f"table: test accuracy {entry.test_accuracy:.2f}%")
        return ", ".join(parts)

    def genotype(self, genome: Genome) -> Genotype:
        """As found by this run."""
        return self.encoding.genotype(genome, self.config.seed, self.run.config_hash)

    def conclude(self, trials: Trials, monitor: Monitor, step: int) -> Findings | None:
        """Writes the best architectures and report.md; returns what was found, or None where none was evaluated wholly."""
        ranked = self.ranked(trials)
        if not ranked:
            return None
        best = ranked[: self.config.best]
        self.genotype(best[0].genome).save(self.run.path / "genotype.json")
        for number, rank in enumerate(best, start=1):
            self.genotype(rank.genome).save(self.run.path / f"genotype_{number}.json")
        write_atomically(self.run.path / "architectures.csv", self._as_csv(ranked))
        objective = trials.sampler.objective
        front = pareto_front([(-rank.score, rank.costs[objective]) for rank in ranked])
        figure = draw_front(ranked, front, objective)
        save_figure(figure, self.run.path / "pareto.png")
        monitor.figure("pareto", figure, step)
        tau = self.rank_correlation(ranked)
        write_atomically(
            self.run.path / "report.md", self._as_markdown(trials, ranked, [ranked[place] for place in front], tau)
        )
        if tau is not None:
            monitor.scalars(step, {"search/kendall_tau": tau})
            monitor.log(f"Kendall's tau with the table's test accuracy over {len(ranked)} architectures: {tau:.3f}")
        monitor.log(f"the best {len(best)} architectures, and what they cost: {self.run.path / 'report.md'}")
        return Findings(self.genotype(best[0].genome), ranked, figure, tau)

    def ranked(self, trials: Trials) -> list[Rank]:
        """Every architecture that was evaluated wholly, here or by another process of the same search, the best first."""
        scores: dict[Genome, float] = {}
        for genome, score in (
            *((trial.genome, trial.score) for trial in trials.done if trial.share == 1),
            *trials.sampler.gathered(),
        ):
            scores.setdefault(genome, score)
        order = sorted(scores, key=lambda genome: -scores[genome])
        return [Rank(genome, scores[genome], self.costs(genome), self._truth(genome)) for genome in order]

    def rank_correlation(self, ranked: Sequence[Rank]) -> float | None:
        """Kendall's tau between scores and the table's test accuracy; None without a table or where either is constant."""
        truths = [rank.truth.test_accuracy for rank in ranked if rank.truth is not None]
        scores = [rank.score for rank in ranked if rank.truth is not None]
        if len(set(truths)) < 2 or len(set(scores)) < 2:
            return None
        from scipy.stats import kendalltau  # takes seconds to import

        return float(kendalltau(scores, truths).statistic)

    def _truth(self, genome: Genome) -> TableRow | None:
        return None if self.table is None else self.table[self.encoding.genotype(genome)]

    def _remember(self, entry: SamplingEntry) -> None:
        self.history.append(entry)
        write_history(self.run.path, self.history)

    def _write_evaluations(self, trials: Trials) -> None:
        texts = {trial.genome: _text(self.genotype(trial.genome)) for trial in trials.done}
        entries = [{"genotype": texts[trial.genome], "score": trial.score, "share": trial.share} for trial in trials.done]
        write_atomically(self.run.path / "evaluations.jsonl", "".join(json.dumps(entry) + "\n" for entry in entries))

    def _picture(self, genotype: Genotype, watch: Watch) -> None:
        watch.monitor.text("genotype", _text(genotype), watch.step)
        for kind, cell in genotype.cells.items():
            watch.monitor.figure(f"cell/{kind}", draw_cell(cell, self.encoding.space.inputs, kind), watch.step)

    def _as_csv(self, ranked: Sequence[Rank]) -> str:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        truth = ["test_accuracy", "valid_accuracy"] if self.table is not None else []
        writer.writerow(["rank", "score", *ranked[0].costs, *truth, "genotype"])
        for number, rank in enumerate(ranked, start=1):
            known = [] if rank.truth is None else [rank.truth.test_accuracy, rank.truth.valid_accuracy]
            writer.writerow([number, rank.score, *rank.costs.values(), *known, _text(self.genotype(rank.genome))])
        return text.getvalue()

    def _as_markdown(self, trials: Trials, ranked: Sequence[Rank], front: Sequence[Rank], tau: float | None) -> str:
        config, objective = self.config, trials.sampler.objective
        parts = [
            f"# The best of {len(ranked)} architectures\n",
            f"{len(trials.done)} evaluations at a cost of {trials.spent:g} whole ones, scores from: {config.evaluate}. "
            "Parameters and multiply-adds are those of the network that `python -m retrain` builds by default; each of the "
            "best is saved as genotype_1.json and so on.\n",
            self._table(ranked[: config.best]),
        ]
        if tau is not None:
            parts.append(f"Kendall's tau between scores and the table's test accuracy over all {len(ranked)}: {tau:.3f}.\n")
        parts += [f"## The Pareto front of score and {objective.replace('_', ' ')}\n", self._table(front)]
        parts.append("![Scores against costs](pareto.png)\n")
        return "\n".join(parts)

    def _table(self, ranked: Sequence[Rank]) -> str:
        columns, rows = self.rows(ranked)
        return markdown(columns, [(*row[:-1], f"`{row[-1]}`") for row in rows])

    def rows(self, ranked: Sequence[Rank]) -> tuple[list[str], list[tuple[str, ...]]]:
        """The heads and the lines of a table for people; the last column is the genotype's text."""
        truth = ["test accuracy, %"] if self.table is not None else []
        latency = ["latency, ms"] if "latency_ms" in ranked[0].costs else []
        rows = []
        for number, rank in enumerate(ranked, start=1):
            known = [] if rank.truth is None else [f"{rank.truth.test_accuracy:.2f}"]
            measured = [f"{rank.costs['latency_ms']:.3f}"] if latency else []
            costs = [f"{rank.costs['parameters']:,}", f"{rank.costs['multiply_adds'] / 1e6:.2f}", *measured]
            rows.append((str(number), f"{rank.score:.4f}", *costs, *known, _text(self.genotype(rank.genome))))
        return ["", "score", "parameters", "multiply-adds, M", *latency, *truth, "genotype"], rows


def draw_front(ranked: Sequence[Rank], front: Sequence[int], objective: str) -> "Figure":
    """Every architecture's score against one of its costs, those that no other one beats in both joined by a line."""
    from matplotlib.figure import Figure  # slow to import

    figure = Figure((6.4, 4.2), dpi=DOTS, facecolor="white", layout="constrained")
    axes = figure.subplots()
    costs, scores = [rank.costs[objective] for rank in ranked], [rank.score for rank in ranked]
    axes.scatter(costs, scores, s=10, color=BUS, label="evaluated")
    best = sorted((ranked[place].costs[objective], ranked[place].score) for place in front)
    axes.plot(*zip(*best, strict=True), color="#2563b0", marker="o", markersize=4, linewidth=1.2, label="Pareto front")
    axes.set_xlabel(objective.replace("_", " "), fontsize=TEXT, color=INK)
    axes.set_ylabel("score", fontsize=TEXT, color=INK)
    axes.grid(color="#e5e7eb", linewidth=0.6)
    axes.tick_params(labelsize=TEXT, colors=INK, length=2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", fontsize=TEXT, frameon=False)
    return figure


def _text(genotype: Genotype) -> str:
    return genotype.to_text(genotype.text_form)


def _tagged(readings: Mapping[str, float]) -> dict[str, float]:
    return {f"sampler/{name}": value for name, value in readings.items()}
