"""Records what a sampling search says of each epoch and round, and what it ends with: the best architectures, their price."""

import json
from collections.abc import Mapping, Sequence

from search.costs.tabular import Table
from search.history import SamplingEntry, SamplingEpoch, SamplingRound
from search.sampling.encoding import Encoding, Genome
from search.sampling.findings import Findings, as_text, draw_front, find, write_findings
from search.sampling.samplers.sampler import Costs
from search.sampling.trials import Trial, Trials
from supernet import Genotype
from supernet.drawing.draw import draw_cell
from training.loop import Watch
from training.metrics import Score, in_words
from training.run.directory import RunDirectory
from training.run.history import write_history
from training.run.monitor import Monitor
from training.run.ownership.files import write_file


class SamplingRecorder:
    """Watches one search, and changes nothing of it. `history` has one entry an epoch or round: a checkpoint holds it, and so
    does the file history.jsonl of the run."""

    def __init__(
        self,
        encoding: Encoding,
        costs: Costs,
        table: Table | None,
        run: RunDirectory,
        epochs: int,
        evaluations: int,
        source: str,
        scored_by: Score,
        best: int,
        seed: int,
        pictures: bool = True,
        asked: str | None = None,
    ) -> None:
        """`epochs` are epochs and rounds together, `evaluations` those that are planned; `source` is
        `SamplingConfig.evaluate`, `asked` is `SamplingConfig.score`, and `best` architectures are
        kept at the end. With `pictures` the best cells are drawn for TensorBoard."""
        self.source = source
        self.asked = asked
        self.evaluations = evaluations
        self.scored_by = scored_by
        self.best = best
        self.seed = seed
        self.encoding = encoding
        self.costs = costs
        self.table = table
        self.run = run
        self.epochs = epochs
        self.pictures = pictures
        self.history: list[SamplingEntry] = []

    def epoch(self, epoch: int, watch: Watch, rate: float, readings: Mapping[str, float]) -> None:
        """Records everything about an epoch of the weights that ends; `readings` are those of the sampler."""
        values = watch.finish()
        trained = {name: value for name, value in values.items() if name.startswith("train/")}
        self._remember(SamplingEpoch(epoch=epoch + 1, readings={**trained, **readings}))
        watch.monitor.scalars(watch.step, {"lr/weights": rate, **_tagged(readings)})
        said = "".join(f", {name} {value:.4f}" for name, value in readings.items())
        watch.monitor.log(
            f"epoch {epoch + 1}/{self.epochs}: {in_words(trained)}{said}, {values['speed/images_per_second']:.0f} images/s"
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
            score=self.asked,
            mean_score=self.scored_by.own(sum(trial.score for trial in new) / len(new)) if new else None,
            best_score=None if best is None else self.scored_by.own(best.score),
            genotype=None if genotype is None else as_text(genotype),
            test_accuracy=None if genotype is None or self.table is None else self.table[genotype].test_accuracy,
            exhausted=trials.exhausted or None,
        )
        if genotype is not None:
            write_file(self.run.path, "genotype.json", genotype.to_text("json"))
            if entry.genotype != (last.genotype if isinstance(last, SamplingRound) else None):
                self._show(genotype, watch)
        self._remember(entry)
        self._write_evaluations(trials)
        numbers = {
            "evaluations": entry.evaluations,
            f"mean_{self.scored_by.name}": entry.mean_score,
            f"best_{self.scored_by.name}": entry.best_score,
            "test_accuracy": entry.test_accuracy,
        }
        measured = {f"search/{name}": value for name, value in numbers.items() if value is not None}
        watch.monitor.scalars(watch.step, measured | _tagged(readings))
        watch.monitor.log(f"round {entry.epoch}/{self.epochs}: {self._line(entry)}")

    def _line(self, entry: SamplingRound) -> str:
        parts = [f"{entry.evaluations:g} of {self.evaluations} evaluations"]
        if entry.mean_score is not None:
            parts.append(f"mean {self.scored_by.words} of the round {entry.mean_score:.4f}")
        if entry.best_score is not None:
            parts.append(f"best {entry.best_score:.4f}")
        if entry.test_accuracy is not None:
            parts.append(f"table: test accuracy {entry.test_accuracy:.2f}%")
        return ", ".join(parts)

    def genotype(self, genome: Genome) -> Genotype:
        """Returns the genotype of an architecture as found by this run."""
        return self.encoding.genotype(genome, self.seed, self.run.config_hash)

    def conclude(self, trials: Trials, monitor: Monitor, step: int) -> Findings | None:
        """Writes the best architectures and what is said of them; returns them, or None where none was evaluated wholly."""
        findings = find(trials, self.encoding, self.costs, self.table, self.scored_by, self.seed, self.run.config_hash)
        if findings is None:
            return None
        figure = draw_front(findings) if self.pictures else None
        write_findings(findings, self.run.path, self.best, self.source, figure)
        if figure is not None:
            monitor.figure("pareto", figure, step)
        if (tau := findings.tau) is not None:
            monitor.scalars(step, {"search/kendall_tau": tau})
            monitor.log(f"Kendall's tau with the table's test accuracy over {len(findings.ranked)} architectures: {tau:.3f}")
        best = min(self.best, len(findings.ranked))
        monitor.log(f"the best {best} architectures, and what they cost: {self.run.path / 'report.md'}")
        return findings

    def _remember(self, entry: SamplingEntry) -> None:
        self.history.append(entry)
        write_history(self.run.path, self.history)

    def _write_evaluations(self, trials: Trials) -> None:
        texts = {trial.genome: as_text(self.genotype(trial.genome)) for trial in trials.done}
        own = self.scored_by.own
        entries = [{"genotype": texts[trial.genome], "score": own(trial.score), "share": trial.share} for trial in trials.done]
        write_file(self.run.path, "evaluations.jsonl", "".join(json.dumps(entry) + "\n" for entry in entries))

    def _show(self, genotype: Genotype, watch: Watch) -> None:
        watch.monitor.text("genotype", as_text(genotype), watch.step)
        if not self.pictures:
            return
        for kind, cell in genotype.cells.items():
            watch.monitor.figure(f"cell/{kind}", draw_cell(cell, self.encoding.space.inputs, kind), watch.step)


def _tagged(readings: Mapping[str, float]) -> dict[str, float]:
    return {f"sampler/{name}": value for name, value in readings.items()}
