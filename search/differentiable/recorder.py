"""Records what a differentiable search says of each epoch: history, curves, pictures and a line of
the log."""

import math
from pathlib import Path as FilePath

from torch import Tensor

from base.seeds import new_generator
from search.costs.tabular import Table, TableRow
from search.differentiable.early_stop import new_signs
from search.differentiable.measures import dominant_eigenvalue, entropy, largest_entropy, skip_connections, skip_share
from search.differentiable.schedule import SupernetSchedule
from search.differentiable.steps import Steps
from search.history import Decided, SearchEpoch
from supernet import Genotype, Path
from supernet.drawing.draw import draw_alphas, draw_cell
from training.loop import Watch
from training.metrics import Reading, in_words
from training.run.history import write_history
from training.run.monitor import check_finite
from training.run.ownership.files import write_file
from training.tasks.task import Batches


class Recorder:
    """Watches one search, and changes nothing of it.

    `history` has one entry an epoch: a checkpoint holds it, and so does the file history.jsonl of
    the run.
    """

    def __init__(
        self,
        steps: Steps,
        batches: Batches,
        measured: Batches,
        table: Table | None,
        directory: FilePath,
        schedule: SupernetSchedule,
        seed: int,
        validate_every: int = 1,
        eigenvalue_every: int = 1,
        pictures: bool = True,
    ) -> None:
        """`batches` are evaluated, and on `measured` the curvature is; `table` judges each epoch's
        genotype; with `pictures` cells and mixtures are drawn for TensorBoard. `validate_every` and
        `eigenvalue_every` are epochs between two measurements, as `SearchConfig` has them."""
        self.steps = steps
        self.task = steps.task
        self.architecture = steps.architecture
        self.space = steps.architecture.space
        self.batches = batches
        self.measured = measured
        self.table = table
        self.directory = directory
        self.schedule = schedule
        self.epochs = schedule.planned_epochs
        self.seed = seed
        self.validate_every = validate_every
        self.eigenvalue_every = eigenvalue_every
        self.pictures = pictures
        self.history: list[SearchEpoch] = []

    def epoch(
        self,
        epoch: int,
        watch: Watch,
        rate: float,
        readings: dict[str, float],
        genotype: Genotype,
        decided: Decided | None = None,
    ) -> float | None:
        """Records everything about the epoch that ends; `decided` as `SearchEpoch` has it.

        Returns the supernet's score, in its own sign, where it was measured.
        """
        monitor, step = watch.monitor, watch.step
        mixture = {kind: table.detach() for kind, table in self.architecture.mean().items()}
        supernet, derived = self._evaluations(epoch, watch, genotype)
        name = self.task.scored_by.name
        values = {} if supernet is None or derived is None else {
            f"supernet_{name}": self.task.value(supernet), f"derived_{name}": self.task.value(derived),
        }  # fmt: skip
        entry = SearchEpoch(
            epoch=epoch + 1,
            readings={tag: value for tag, value in readings.items() if tag.startswith(("train/", "valid/", "shapley/"))}
            | values,
            genotype=genotype.to_text(genotype.text_form),
            entropy=entropy(mixture),
            skips=skip_connections(genotype),
            skip_share=skip_share(genotype),
            mixture={kind: _rounded(table) for kind, table in mixture.items()},
            eigenvalue=self._eigenvalue(epoch),
            decided=decided,
        )
        self.history.append(entry)
        write_history(self.directory, self.history)
        self._curves(entry, watch, rate, supernet)
        if self.pictures:
            self._draw(mixture, genotype, watch)
        row = None if self.table is None else self.table.rows.get(entry.genotype)
        if row is not None:
            monitor.scalars(step, _table_curves(row))
        monitor.text("genotype", entry.genotype, step)
        write_file(self.directory, "genotype.json", genotype.to_text("json"))
        monitor.log(f"{self._line(entry, row)}, {readings['speed/images_per_second']:.0f} images/s")
        self._warn(watch)
        return None if supernet is None else self.task.value(supernet)

    def _warn(self, watch: Watch) -> None:
        """Logs a line for each sign of collapse that was not there an epoch ago."""
        for epoch, sign in new_signs(self.history, self.schedule.early_stop, self.schedule.epochs):
            if epoch == len(self.history):
                watch.monitor.log(f"warning: the search may be collapsing: {sign.reason}")

    def _evaluations(self, epoch: int, watch: Watch, genotype: Genotype) -> tuple[Reading | None, Reading | None]:
        """Evaluates the supernet and the derived cell, both with the supernet's weights, where that
        is due.

        Running statistics belong to the whole mixture, so that the derived cell takes those of each
        batch.
        """
        is_due = not (epoch + 1) % self.validate_every or epoch + 1 >= self.schedule.epochs
        if not is_due and epoch + 1 not in self.schedule.phases.ends:
            return None, None
        reading = self.steps.evaluate(self.batches.epoch(0), *self.architecture.evaluated())
        check_finite(None if reading.first_bad_step is None else watch.step - 1, 0, "evaluation loss after the step")
        path = Path.of_genotype(genotype, self.space)
        derived = self.steps.evaluate(self.batches.epoch(0), self._one_hot(path), path, training=True)
        return reading, derived

    def _one_hot(self, path: Path) -> dict[str, Tensor]:
        tables = {kind: table.to(self.steps.hardware.device) for kind, table in path.one_hot(self.space).items()}
        if self.steps.network.tie_cells:
            return tables
        cells = self.steps.network.cells_of_kind
        return {kind: table.expand(cells[kind], -1, -1) for kind, table in tables.items()}

    def _eigenvalue(self, epoch: int) -> float | None:
        """Returns the dominant eigenvalue of the Hessian of the loss on `measured`; None if it is
        not due or not finite."""
        if not self.eigenvalue_every or (epoch + 1) % self.eigenvalue_every or epoch >= self.schedule.epochs:
            return None
        value = dominant_eigenvalue(
            lambda alphas: self.steps.alpha_gradient(self.measured, alphas),
            [alpha.detach() for alpha in self.architecture.alphas.values()],
            new_generator(self.seed, "eigenvalue", epoch),
        )
        return value if math.isfinite(value) else None

    def _curves(self, entry: SearchEpoch, watch: Watch, rate: float, supernet: Reading | None) -> None:
        values = {"lr/weights": rate} | ({} if self.schedule.by_shapley else {"lr/alphas": self.steps.alphas.lr})
        values |= {f"schedule/{name}": value for name, value in self.architecture.schedule().items()}
        values |= {f"alphas/entropy_{kind}": value for kind, value in entry.entropy.items()}
        values |= {f"genotype/skips_{kind}": value for kind, value in entry.skips.items()}
        if (offset := self.steps.network.largest_offset()) is not None:
            values["maps/largest_offset"] = offset
        if entry.eigenvalue is not None:
            values["alphas/eigenvalue"] = entry.eigenvalue
        if supernet is not None:
            name = self.task.scored_by.name
            whole, derived = (entry.readings[f"{whose}_{name}"] for whose in ("supernet", "derived"))
            values |= {"evaluation/loss": supernet.loss, f"evaluation/{name}": whole, f"evaluation/derived_{name}": derived}
            values["evaluation/gap"] = self.task.scored_by.maximised(whole - derived)
        watch.monitor.scalars(watch.step, values)

    def _draw(self, mixture: dict[str, Tensor], genotype: Genotype, watch: Watch) -> None:
        for kind, table in mixture.items():
            mean = (table if table.ndim == 2 else table.mean(0)).cpu()
            alphas = draw_alphas(mean, self.space.edges, self.space.candidates, kind)
            watch.monitor.figure(f"alphas/{kind}", alphas, watch.step)
            watch.monitor.figure(f"cell/{kind}", draw_cell(genotype.cells[kind], self.space.inputs, kind), watch.step)

    def _line(self, entry: SearchEpoch, row: TableRow | None) -> str:
        parts = [in_words({tag: value for tag, value in entry.readings.items() if "/" in tag})]
        name = self.task.scored_by.name
        if (supernet := entry.readings.get(f"supernet_{name}")) is not None:
            derived = entry.readings[f"derived_{name}"]
            parts.append(f"supernet {self.task.words(name)} {supernet:.4f}, derived cell {derived:.4f}")
        most = largest_entropy(self.architecture.keep)
        parts.append("entropy " + ", ".join(f"{kind} {value:.4f} of {most[kind]:.4f}" for kind, value in entry.entropy.items()))
        parts.append("skips " + ", ".join(f"{kind} {count}" for kind, count in entry.skips.items()))
        if entry.eigenvalue is not None:
            parts.append(f"eigenvalue {entry.eigenvalue:.4f}")
        if self.table is not None and row is None:
            parts.append("not in the table")
        if row is not None:
            latency = "".join(f", {value:.2f} ms on {device}" for device, value in list(row.latency_ms.items())[:1])
            parts.append(f"table: test accuracy {row.test_accuracy:.2f}%, {row.parameters:,} parameters{latency}")
        return f"epoch {entry.epoch}/{self.epochs}: {', '.join(parts)}"


def _rounded(table: Tensor) -> list[list[float]]:
    """A mixture [edges, candidates] for the history, of untied cells [cells, edges, candidates] the
    mean; 4 decimals."""
    mean = table if table.ndim == 2 else table.mean(0)
    return [[round(value, 4) for value in row] for row in mean.tolist()]


def _table_curves(row: TableRow) -> dict[str, float]:
    values = {"table/test_accuracy": row.test_accuracy, "table/valid_accuracy": row.valid_accuracy}
    values |= {"table/parameters": row.parameters, "table/multiply_adds": row.multiply_adds}
    return values | {f"table/latency_ms_{device}": value for device, value in row.latency_ms.items()}
