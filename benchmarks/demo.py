"""`make demo`: shows on real images that a search pays.

A cell is searched with three seeds, and each cell that is derived is trained from scratch by the
same recipe as random cells of the same space. The claim is that the derived cells are better on the
test part: their mean lies above that of the random ones by more than two standard errors of the
difference, and above at least three quarters of the random cells. Nothing is chosen by the test
part. The exit status is 0 if the claim holds, and 1 if it does not.
"""

import contextlib
import json
import math
import multiprocessing
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, quantiles, stdev
from textwrap import fill

from base.checks import InputError
from benchmarks.options import at_least
from retrain.api import random_genotype, retrain
from retrain.config import RetrainConfig
from search.methods import get_method
from supernet import Genotype
from supernet.drawing.draw import draw_genotype, save_figure
from training.format import DATA_FILE
from training.report.html import Page, block, element, facts, paragraph, percent, table
from training.report.sections import drawn_genotype
from training.run.arguments import Parser
from training.run.command import command, foreseen, stops_are_interrupts
from training.run.config import RunOptions, config_from_file, shipped_configs

METHOD = "random"
SEARCH, RETRAIN = "demo", "retrain_demo"
"""Shipped configurations of the searches and of all retrainings."""
SEARCHES = 3
RANDOM = 32
PROCESSES = 2
"""Number of processes, each of which computes with one thread."""
MINUTES = 2
"""Duration on two idle cores, as measured."""
WIDTH, NAMES = 100, 40
"""Columns of the terminal in all, and of the names in the table."""
ERRORS, ABOVE = 2.0, 0.75
"""The claim: standard errors by which the means differ, and share of the random cells that are
worse than the mean of the derived ones."""


@dataclass(frozen=True)
class Row:
    """A cell that was trained from scratch."""

    seed: int
    """That of the search, or the number of the random genotype; also that of the training."""
    genotype: Genotype
    parameters: int
    accuracy: float
    """On the test part."""
    trained: int
    """Number of images to train on."""
    tested: int
    """Number of images of the test part."""


@dataclass(frozen=True)
class Comparison:
    """Test accuracies of derived cells and of random ones, at least two each."""

    derived: Sequence[float]
    random: Sequence[float]

    @property
    def difference(self) -> float:
        """Returns the difference of the two means."""
        return mean(self.derived) - mean(self.random)

    @property
    def error(self) -> float:
        """Returns the standard error of that difference, from the standard deviations of the two
        samples."""
        return math.hypot(*(stdev(sample) / math.sqrt(len(sample)) for sample in (self.derived, self.random)))

    @property
    def above(self) -> int:
        """Returns the number of random cells that are worse than the mean of the derived ones."""
        return sum(accuracy < mean(self.derived) for accuracy in self.random)

    @property
    def holds(self) -> bool:
        """Says whether the claim holds."""
        return self.difference > ERRORS * self.error and self.above >= ABOVE * len(self.random)


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="demo", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--directory", type=Path, default=Path("runs/demo"), help="where everything is written")
    parser.add_argument(
        "--set",
        type=at_least(0),
        default=0,
        help=f"which seeds: set k has {SEARCHES} k and so on for the searches, and random cells {RANDOM} k and so on",
    )
    options = parser.parse_args(argv)
    try:
        with stops_are_interrupts():
            return 0 if demonstrate(options.directory, options.set) else 1
    except KeyboardInterrupt:
        print("demo: stopped", file=sys.stderr)
        return 130
    except BrokenProcessPool:
        print("demo: error: a process was killed, perhaps for lack of memory", file=sys.stderr)
        return 1
    except Exception as error:
        end = foreseen(error)
        if end is None:
            raise
        print(f"demo: error: {end.message}", file=sys.stderr)
        return end.status


def demonstrate(directory: Path, number: int) -> bool:
    """Searches, retrains and compares with set `number` of the seeds, into `directory`.

    Returns whether the claim holds.
    """
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory}: is a file; choose another directory")
    print(
        f"This takes about {MINUTES:g} minutes on {PROCESSES} idle cores: {SEARCHES} searches; then their cells and {RANDOM} "
        "random ones are trained from scratch.",
        flush=True,
    )
    began = time.perf_counter()
    recipe = config_from_file(RetrainConfig, shipped_configs()[RETRAIN])
    space = get_method(METHOD).parse(["--config", SEARCH])[0].space
    seeds, numbers = (range(count * number, count * (number + 1)) for count in (SEARCHES, RANDOM))
    with worker_processes() as pool:
        searches = [pool.submit(search, directory / f"search_{seed}", seed) for seed in seeds]
        trainings = [pool.submit(train, random_genotype(space, one), directory / f"random_{one}", one) for one in numbers]
        for seed, searched in zip(seeds, searches, strict=True):
            found = searched.result()
            print(f"search with seed {seed}: {found.to_text(found.text_form)}", flush=True)
            trainings.append(pool.submit(train, found, directory / f"derived_{seed}", seed))
        for count, training in enumerate(as_completed(trainings), start=1):
            training.result()  # an error ends the demo now, not after the last cell
            if count % 10 == 0:
                print(f"trained {count} of {len(trainings)} cells", flush=True)
        rows = [training.result() for training in trainings]
    others, derived = rows[:RANDOM], rows[RANDOM:]
    comparison = Comparison(*([row.accuracy for row in some] for some in (derived, others)))
    text = compared(derived, others, comparison, recipe)
    picture = directory / "cell.png"
    save_figure(draw_genotype(derived[0].genotype), picture)
    page = write_report(directory, derived, others, comparison, text)
    print(f"\n{text}\n")
    print(f"{time.perf_counter() - began:.0f} seconds in all")
    print(f"Picture of the first derived cell: {picture}")
    print(f"Report with every cell: {page}")
    print(f"Next, ten times the training for that cell:\n{next_command(directory, seeds[0], recipe)}")
    return comparison.holds


@contextlib.contextmanager
def worker_processes() -> Iterator[ProcessPoolExecutor]:
    """Yields processes that compute with one thread each and write nothing to the terminal.

    What is left to do is dropped if the code inside fails.
    """
    threads = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    # A forked process would hang in the threads that torch has begun in this one.
    pool = ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn"), initializer=_silence)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        os.environ.pop("OMP_NUM_THREADS") if threads is None else os.environ.update(OMP_NUM_THREADS=threads)


def _silence() -> None:
    """Sends the output of this process nowhere: log.txt of each run has it."""
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  # as long as the process


def search(directory: Path, seed: int) -> Genotype:
    """Searches with that seed, as `python -m search.METHOD --config demo` does."""
    method = get_method(METHOD)
    config, _ = method.parse(["--config", SEARCH, "--seed", str(seed)])
    found = method.run(config, RunOptions(directory, resume=False, overwrite=True, pictures=False))
    assert found is not None  # nothing stops it
    return found


def train(genotype: Genotype, directory: Path, seed: int) -> Row:
    """Trains a genotype from scratch, as `python -m retrain --config retrain_demo` does."""
    config = replace(config_from_file(RetrainConfig, shipped_configs()[RETRAIN]), seed=seed)
    done = retrain(config, RunOptions(directory, resume=False, overwrite=True, pictures=False), genotype)
    images = json.loads((directory / DATA_FILE).read_text(encoding="utf-8"))["train_images"]
    return Row(seed, genotype, done.parameters, done.test.values["accuracy"], images, done.test.count)


def compared(derived: Sequence[Row], others: Sequence[Row], comparison: Comparison, recipe: RetrainConfig) -> str:
    """Returns what was compared, the table and the conclusion from it, for the terminal."""
    space, unit = derived[0].genotype.space, derived[0].genotype.skeleton.unit
    first = others[0]
    said = (
        f"Compared: cells of the space {space}, in networks of {recipe.cells} {unit} with C = {recipe.channels}, on "
        f"scikit-learn's digits, real images of 8x8 ({first.trained:,} to train, {first.tested:,} to test). Method: "
        f"{get_method(METHOD).paper}. Derived cells, and random ones, each cell of the space as likely as another, are trained "
        f"from scratch by one recipe: {recipe.epochs} epochs, one seed each. The test part is in this table alone."
    )
    head = f"{'':{NAMES}}{'parameters':>12}{'test accuracy':>16}{'standard error':>17}"
    lines = [
        f"{f'derived cell, seed {row.seed} of the search':{NAMES}}{row.parameters:>12,}{row.accuracy:>16.4f}" for row in derived
    ]
    for name, rows in (("derived cells", derived), ("random cells", others)):
        scores = [row.accuracy for row in rows]
        size, error = round(mean(row.parameters for row in rows)), stdev(scores) / math.sqrt(len(scores))
        lines.append(f"{f'{len(rows)} {name}, mean':{NAMES}}{size:>12,}{mean(scores):>16.4f}{error:>17.4f}")
    scores = sorted(row.accuracy for row in others)
    quarters = quantiles(scores, n=4, method="inclusive")
    for name, value in (
        ("lowest", scores[0]),
        ("median", quarters[1]),
        ("upper quarter from", quarters[2]),
        ("highest", scores[-1]),
    ):
        lines.append(f"{f'random cells, {name}':{NAMES}}{value:>28.4f}")
    lines.append(f"{'difference of the means':{NAMES}}{comparison.difference:>+28.4f}{comparison.error:>17.4f}")
    sentences = [parameters_alone(derived, others), verdict(comparison)]
    return "\n".join([_wrapped(said), "", head, *lines, "", *map(_wrapped, sentences)])


def _wrapped(text: str) -> str:
    return fill(text, WIDTH, break_on_hyphens=False)


def parameters_alone(derived: Sequence[Row], others: Sequence[Row]) -> str:
    """Returns in words whether the size of a network explains its accuracy."""
    from scipy.stats import spearmanr  # takes seconds to import

    rho = spearmanr([row.parameters for row in others], [row.accuracy for row in others]).statistic
    size = mean(row.parameters for row in derived)
    as_large = [row.accuracy for row in others if row.parameters >= size]
    if as_large:
        beside = (
            f"the {len(as_large)} that are as large as the mean derived cell, or larger, have a mean of {mean(as_large):.4f}"
        )
    else:
        beside = "none is as large as the mean derived cell"
    return f"Parameters: among random cells their rank correlation with accuracy is {rho:+.2f}; {beside}."


def verdict(comparison: Comparison) -> str:
    """Returns the conclusion, with the figures that it rests on."""
    errors = comparison.difference / comparison.error if comparison.error else math.inf
    found = (
        f"the mean of the derived cells less that of the random ones is {errors:.1f} standard errors of the difference, and it "
        f"is above {comparison.above} of {len(comparison.random)} random cells"
    )
    if comparison.holds:
        return f"The search pays: {found}."
    return f"The search does not pay here: {found}; more than {ERRORS:g} and at least {ABOVE:.0%} of the cells would show it."


def write_report(directory: Path, derived: Sequence[Row], others: Sequence[Row], comparison: Comparison, text: str) -> Path:
    """Writes report.html: the conclusion, the first derived cell, and every cell by accuracy.

    Returns its path.
    """
    page = Page("A search beside random cells", paragraph(element("code", "make demo")))
    page.section(
        "Result",
        facts(
            {
                "derived cells": percent(mean(comparison.derived)),
                "random cells": percent(mean(comparison.random)),
                "difference": f"{percent(comparison.difference)} ± {percent(comparison.error)}",
                "random cells that are worse": f"{comparison.above} of {len(comparison.random)}",
            }
        ),
        block(text),
    )
    page.section("The first derived cell", drawn_genotype(derived[0].genotype))
    lines = [
        (
            element("strong", f"derived, seed {row.seed}") if row in derived else f"random, number {row.seed}",
            percent(row.accuracy),
            f"{row.parameters:,}",
            element("code", row.genotype.to_text(row.genotype.text_form)),
        )
        for row in sorted([*derived, *others], key=lambda row: -row.accuracy)
    ]
    page.section("Every cell", table(["cell", "test accuracy", "parameters", "genotype"], lines, right=(1, 2)))
    return page.write(directory)


def next_command(directory: Path, seed: int, recipe: RetrainConfig) -> str:
    """Returns the command that trains the first derived cell longer, as it is typed in a shell."""
    cell = directory / f"derived_{seed}" / "genotype.json"
    longer = ["--config", RETRAIN, "--epochs", 10 * recipe.epochs, "--run", directory / "longer", "--overwrite"]
    # The path that make types, where there is one.
    here = os.path.relpath(sys.executable)
    python = sys.executable if here.startswith(os.pardir) else here
    return shlex.join(map(str, [python, "-m", "retrain", "--genotype", cell, *longer]))


if __name__ == "__main__":
    raise SystemExit(command("demo", main))
