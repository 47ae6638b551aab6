"""`python -m benchmarks.nasbench201`: methods over several seeds, judged by NAS-Bench-201's table.

Each method runs by its published protocol, the shipped configuration nasbench201_METHOD; options
that are none of this program go through to every search (`--data.root`, `--device`, `--epochs`
...). The table of the benchmark has the accuracy on CIFAR-10 of the derived architecture when it is
trained alone, and that of chance: a method that does not beat the best of 100 random architectures
is marked.

A search is a process of its own, in DIRECTORY/METHOD/seed_N with its output in seed_N.log, so that
none takes the others along. The same command goes on where it was stopped. A run is finished once
its search has ended well with all its epochs behind, or with an early stop of its own; then there
is a finished.json in its directory, and it is not run again. A run that --stop.* has ended is
unfinished. All runs in one DIRECTORY have the same settings.

Exit status: 0, or 1 if a search failed, 2 for wrong input, 130 when stopped.
"""

import argparse
import csv
import io
import json
import math
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import torch

from base.checks import InputError
from base.files import write_atomically
from benchmarks.timing import at_least, command_line, header, shown
from search.costs.tabular import Table, TableRow, best_of_random, random_architecture
from search.differentiable.config import SearchConfig
from search.differentiable.measures import skip_connections
from search.differentiable.method import DifferentiableMethod
from search.history import SamplingEpoch, SearchEntry, SearchEpoch, read_search_history
from search.methods import Percent, get_method, list_methods
from search.sampling.config import SamplingConfig
from search.sampling.method import SamplingMethod
from supernet import Genotype
from supernet.drawing.draw import DOTS, INK, TEXT, save_figure
from training.hardware import choose_device
from training.report.markdown import table as markdown
from training.run.command import command
from training.run.config import config_from_file, config_to_dict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PROG = "benchmarks.nasbench201"
ALL = (*list_methods(DifferentiableMethod), *list_methods(SamplingMethod))
Config = SearchConfig | SamplingConfig
OWN = ("--run", "--seed", "--resume", "--overwrite")
"""Options of a search that this program sets itself."""
DRAWN = 100
"""Random architectures of which the best is the baseline."""
POLL = 0.2
"""Seconds between two looks at the running searches."""
EDGES = 6
"""Number of edges of the space's cell; each may be a skip connection."""
ACCURACY_TICKS = (20, 60, 80, 90, 92, 94)
SMALL, LINE = 7.5, "#2563b0"
COLUMNS = (
    "method", "seed", "epoch", "test_accuracy", "valid_accuracy", "parameters",
    "skips", "entropy", "eigenvalue", "supernet_accuracy", "derived_accuracy",
)  # fmt: skip
"""Columns of the file of curves, a line an epoch: the table's figures for the genotype then
(percent), and the search's own measurements."""
PUBLISHED_BASELINES: tuple[Percent, ...] = ((87.06, None), (93.74, 0.34), (94.37, None))
"""Baselines by Dong & Yang 2020 and the table itself: a random architecture, the best of 100 by
repeated draws, the optimum."""


@dataclass(frozen=True)
class Run:
    """One search: a method and a seed."""

    method: str
    seed: int
    path: Path
    """Returns the directory of the run."""

    @property
    def name(self) -> str:
        return f"{self.method}, seed {self.seed}"

    @property
    def log(self) -> Path:
        """Returns the file of the output of the process."""
        return self.path.with_name(f"{self.path.name}.log")

    @property
    def begun(self) -> bool:
        """Says whether there is something to go on with."""
        return (self.path / "config.yaml").is_file()

    @property
    def finished(self) -> bool:
        return self._mark.is_file()

    def finish(self, epochs: int, hours: float | None) -> None:
        """Writes finished.json; `hours` is None if more than one process had a part in the run."""
        write_atomically(self._mark, json.dumps({"epochs": epochs, "hours": hours}) + "\n")

    def ending(self) -> dict[str, Any]:
        """Returns the epochs and hours of a finished run."""
        ending: dict[str, Any] = json.loads(self._mark.read_text())
        return ending

    def config(self) -> Config:
        """Returns the configuration that the run was begun with."""
        config: Config = config_from_file(type(get_method(self.method).defaults()), self.path / "config.yaml")
        return config

    def history(self) -> list[SearchEntry]:
        """One entry an epoch; empty before the first has ended."""
        try:
            return read_search_history(self.path)
        except ValueError as error:
            raise InputError(f"{error}; delete {self.path} to run it again") from error

    @property
    def _mark(self) -> Path:
        return self.path / "finished.json"


def all_runs(directory: Path, methods: Sequence[str], seeds: Sequence[int]) -> list[Run]:
    """Returns the runs asked for and all others in the directory, by method in the order of ALL and
    by seed."""
    places = {(method, seed) for method in methods for seed in seeds}
    for path in directory.glob("*/seed_*"):
        if path.parent.name in ALL and re.fullmatch(r"seed_(0|[1-9]\d*)", path.name) and path.is_dir():
            places.add((path.parent.name, int(path.name.removeprefix("seed_"))))
    order = sorted(places, key=lambda place: (ALL.index(place[0]), place[1]))
    return [Run(method, seed, directory / method / f"seed_{seed}") for method, seed in order]


def configuration(method: str, tabular: str, through: Sequence[str]) -> Config:
    """Returns the configuration of the searches of `method`, but for their seeds.

    Wrong options end the program in one line (status 2).
    """
    config: Config
    config, _ = get_method(method).parse(["--config", f"nasbench201_{method}", "--tabular", tabular, *through])
    return config


def check_same(directory: Path, run: Run, config: Config) -> None:
    """Raises ValueError if a run that was begun has other settings than those asked for now."""
    saved, now = config_to_dict(run.config()), config_to_dict(replace(config, seed=run.seed))
    # A report compares searches of equally many evaluations, although more of them could be made.
    free = config.may_change() - {"evaluations"}
    other = [name for name in now if name not in free and saved[name] != now[name]]
    if other:
        raise InputError(
            f"{directory}: holds runs with other settings ({run.name}: {', '.join(other)}); "
            "repeat their options, or name another --directory"
        )


def search_command(run: Run, tabular: str, through: Sequence[str]) -> list[str]:
    """Returns the command of one search, which goes on with a run that was begun."""
    own = ["--config", f"nasbench201_{run.method}", "--tabular", tabular, "--run", str(run.path), "--seed", str(run.seed)]
    # Unbuffered, so that the error that ends a search is the last line of its log.
    return [sys.executable, "-u", "-m", f"search.{run.method}", *own, *through, *(["--resume"] if run.begun else [])]


def search_all(runs: Sequence[Run], tabular: str, through: Sequence[str], jobs: int) -> int:
    """Runs the searches, `jobs` at a time, to the end of the last; returns how many failed.

    When it is interrupted, searches that are under way are stopped, too; they keep what their last
    epoch saved.
    """
    environment = dict(os.environ)
    if jobs > 1:
        environment["OMP_NUM_THREADS"] = str(max(1, torch.get_num_threads() // jobs))
    waiting = list(runs)
    running: list[tuple[Run, subprocess.Popen[bytes], float | None]] = []
    failed = 0
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                run = waiting.pop(0)
                started = None if run.begun else time.monotonic()
                print(f"{run.name}: {'goes on' if started is None else 'begins'}; its output is in {run.log}", flush=True)
                run.path.parent.mkdir(parents=True, exist_ok=True)
                with run.log.open("wb") as log:
                    arguments = search_command(run, tabular, through)
                    process = subprocess.Popen(arguments, env=environment, stdout=log, stderr=subprocess.STDOUT)
                running.append((run, process, started))
            time.sleep(POLL)
            for run, process, started in [entry for entry in running if entry[1].poll() is not None]:
                running.remove((run, process, started))
                failed += not _settle(run, process.returncode, started)
    finally:
        for _, process, _ in running:
            process.terminate()
        for _, process, _ in running:
            process.wait()
    return failed


def _settle(run: Run, status: int, started: float | None) -> bool:
    """Says how a search has ended and marks a finished one; False for one that failed."""
    if status:
        last = (run.log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
        print(f"{run.name}: FAILED with status {status}: {last}", flush=True)
        return False
    config, history = run.config(), run.history()
    method = get_method(run.method)
    if method.is_complete(config, history):
        run.finish(len(history), None if started is None else (time.monotonic() - started) / 3600)
        print(f"{run.name}: finished, {len(history)} epochs", flush=True)
    else:
        planned = method.planned_epochs(config)
        print(f"{run.name}: stopped after epoch {len(history)} of {planned}; not finished", flush=True)
    return True


def report(runs: Sequence[Run], table: Table) -> str:
    """Returns the tables and the conclusions from them, in Markdown."""
    rows, marked = [], []
    chance, best = random_architecture(table), best_of_random(table, DRAWN)
    for method in dict.fromkeys(run.method for run in runs):
        asked = [run for run in runs if run.method == method]
        finished = [run for run in asked if run.finished]
        judged = [table[Genotype.load(run.path / "genotype.json")] for run in finished]
        endings = [run.ending() for run in finished]
        epochs = sorted({ending["epochs"] for ending in endings})
        hours = [ending["hours"] for ending in endings if ending["hours"] is not None]
        # They are compared as precisely as they are shown: the baseline, a long sum, is off by
        # rounding.
        loses = bool(judged) and round(fmean(row.test_accuracy for row in judged), 2) <= round(best[0], 2)
        if loses:
            marked.append(method)
        published = get_method(method).published
        rows.append([
            f"{method} *" if loses else method,
            f"{len(finished)} of {len(asked)}",
            _over_runs([row.test_accuracy for row in judged]),
            published.nasbench201 and _accuracy(published.nasbench201),
            _over_runs([row.valid_accuracy for row in judged]),
            published.nasbench201_validation and _accuracy(published.nasbench201_validation),
            published.nasbench201_source,
            (f"{epochs[0]} to {epochs[-1]}" if len(epochs) > 1 else epochs[0]) if epochs else None,
            shown(fmean(hours) if hours else None),
        ])  # fmt: skip
    head = [
        "method",
        "runs",
        "test accuracy",
        "published",
        "validation accuracy",
        "published",
        "source",
        "epochs",
        "hours a run",
    ]
    parts = [markdown(head, rows)]
    if marked:
        parts.append("".join(f"- {name} does not beat the best of {DRAWN} random architectures.\n" for name in marked))
    if incomplete := [run for run in runs if not run.finished]:
        states = "; ".join(f"{run.name} (epoch {len(run.history())})" for run in incomplete)
        parts.append(f"Left out, as they are not finished: {states}.\n")
    names = ["a random architecture", f"the best of {DRAWN} random ones, by validation after 12 epochs", "the optimum"]
    optimum = max(row.test_accuracy for row in table.rows.values())
    baselines = zip(names, (chance, best, (optimum, None)), PUBLISHED_BASELINES, strict=True)
    parts.append(
        markdown(
            ["baseline, exact from the table", "test accuracy", "published"],
            [[name, _accuracy(exact), _accuracy(published)] for name, exact, published in baselines],
        )
    )
    return "\n".join(parts)


def _over_runs(accuracies: Sequence[float]) -> str | None:
    """Returns mean and sample standard deviation; one run has no deviation."""
    if not accuracies:
        return None
    return f"{fmean(accuracies):.2f} ± {f'{stdev(accuracies):.2f}' if len(accuracies) > 1 else '-'}"


def _accuracy(accuracy: Percent) -> str:
    mean, deviation = accuracy
    return f"{mean:.2f}" if deviation is None else f"{mean:.2f} ± {deviation:.2f}"


def curves(runs: Sequence[Run], table: Table) -> list[dict[str, Any]]:
    """Yields the table's figures for the genotype that each epoch of each run would derive; keys:
    COLUMNS."""
    points = []
    known: dict[str, TableRow] = {}
    for run in runs:
        for entry in run.history():
            # An epoch that trains shared weights alone derives nothing.
            if isinstance(entry, SamplingEpoch) or (text := entry.genotype) is None:
                continue
            if text not in known:
                known[text] = table[Genotype.parse(text)]
            row = known[text]
            points.append({
                "method": run.method, "seed": run.seed, "epoch": entry.epoch,
                "test_accuracy": row.test_accuracy, "valid_accuracy": row.valid_accuracy, "parameters": row.parameters,
                "skips": skip_connections(Genotype.parse(text))["cell"],
                "entropy": entry.entropy.get("cell") if isinstance(entry, SearchEpoch) else None,
                "eigenvalue": entry.eigenvalue if isinstance(entry, SearchEpoch) else None,
                **{name: entry.readings.get(name) for name in ("supernet_accuracy", "derived_accuracy")},
            })  # fmt: skip
    return points


def as_csv(points: Sequence[dict[str, Any]]) -> str:
    """Returns the curves as the text of a file: a line an epoch, empty where nothing was
    measured."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(points)
    return text.getvalue()


def draw_curves(points: Sequence[dict[str, Any]], table: Table) -> "Figure":
    """Draws the test accuracy of the current genotype over epochs, a panel a method, and its skip
    connections.

    A thin line is a seed, the thick one their mean, up to where all seeds have come. Accuracy is
    drawn by the logarithm of the error, as the best architectures lie within one percent.
    """
    from matplotlib.figure import Figure

    methods = list(dict.fromkeys(point["method"] for point in points))
    bands = math.ceil(len(methods) / 4)
    across = math.ceil(len(methods) / bands)
    levels = {
        "random architecture, mean": random_architecture(table)[0],
        f"best of {DRAWN} random": best_of_random(table, DRAWN)[0],
    }
    errors = [100 - accuracy for accuracy in (*levels.values(), *(point["test_accuracy"] for point in points))]
    limits = 1.1 * max(errors), max(0.9 * min(errors), 0.1)
    figure = Figure((1400 / DOTS, 0.4 + 3.4 * bands), dpi=DOTS, facecolor="white", layout="constrained")
    panels = figure.subplots(2 * bands, across, squeeze=False, gridspec_kw={"height_ratios": [2, 1] * bands})
    for axes in panels.flat:
        axes.set_axis_off()
    for place, method in enumerate(methods):
        band, column = divmod(place, across)
        upper, lower = panels[2 * band, column], panels[2 * band + 1, column]
        seeds = _by_seed([point for point in points if point["method"] == method])
        for (name, accuracy), style in zip(levels.items(), (":", "--"), strict=True):
            upper.axhline(100 - accuracy, color=INK, linestyle=style, linewidth=0.9, label=name)
        upper.set_yscale("log")
        _draw_seeds(upper, {seed: [(epoch, 100 - accuracy) for epoch, accuracy, _ in line] for seed, line in seeds.items()})
        _draw_seeds(lower, {seed: [(epoch, skips) for epoch, _, skips in line] for seed, line in seeds.items()})
        ticks = [accuracy for accuracy in ACCURACY_TICKS if limits[1] <= 100 - accuracy <= limits[0]]
        upper.set_yticks([100 - accuracy for accuracy in ticks], map(str, ticks))
        upper.set_ylim(*limits)
        lower.set_yticks(range(0, EDGES + 1, 2))
        lower.set_ylim(-0.4, EDGES + 0.4)
        upper.set_title(method, fontsize=TEXT, color=INK, fontweight="bold", parse_math=False)
        lower.set_xlabel("epoch", fontsize=SMALL, color=INK)
        if not column:
            upper.set_ylabel("test accuracy, %", fontsize=SMALL, color=INK)
            lower.set_ylabel("skip connections", fontsize=SMALL, color=INK)
        last = max(line[-1][0] for line in seeds.values())
        for axes in (upper, lower):
            axes.set_axis_on()
            axes.set_xlim(0, last + 1)
            axes.grid(color="#e5e7eb", linewidth=0.6)
            axes.minorticks_off()
            axes.tick_params(labelsize=SMALL, colors=INK, length=2, labelbottom=axes is lower, labelleft=not column)
            axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=4, fontsize=SMALL, frameon=False)
    return figure


def _by_seed(points: Sequence[dict[str, Any]]) -> dict[int, list[tuple[int, float, int]]]:
    """Returns epoch, test accuracy and skip connections, by seed."""
    lines: dict[int, list[tuple[int, float, int]]] = {}
    for point in points:
        lines.setdefault(point["seed"], []).append((point["epoch"], point["test_accuracy"], point["skips"]))
    return lines


def _draw_seeds(axes: "Axes", seeds: Mapping[int, Sequence[tuple[int, float]]]) -> None:
    """Draws a thin line for each seed, and their mean."""
    for number, line in enumerate(seeds.values()):
        axes.plot(*zip(*line, strict=True), color=LINE, linewidth=0.8, alpha=0.45, label="" if number else "a seed")
    # zip ends with the shortest: beyond it the mean would be that of other seeds.
    means = [(together[0][0], fmean(value for _, value in together)) for together in zip(*seeds.values(), strict=False)]
    axes.plot(*zip(*means, strict=True), color=LINE, linewidth=2, label="mean of the seeds")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=PROG,
        description=(__doc__ or "").splitlines()[0],
        epilog="Further options go to every search: --data.root, --device, --epochs ... (python -m search.darts --help).",
        allow_abbrev=False,
    )
    parser.add_argument("--methods", nargs="+", default=[], metavar="METHOD", help=", ".join(ALL))
    parser.add_argument("--seeds", nargs="+", default=["0", "1", "2"], metavar="N", help="of each method (default: 0 1 2)")
    parser.add_argument("--tabular", required=True, metavar="FILE", help="the table of the benchmark (CSV, .gz)")
    parser.add_argument("--directory", type=Path, default=Path("runs/nasbench201"), help="where the runs and table.md are")
    parser.add_argument("--jobs", type=at_least(1), default=1, metavar="N", help="searches at a time (default: 1)")
    parser.add_argument("--curves", type=Path, metavar="FILE", help="write what each epoch would derive, as CSV")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw that, as PNG")
    parser.add_argument("--report", action="store_true", help="search nothing, say what is there")
    options, through = parser.parse_known_args(argv)
    status = 0

    def run() -> None:
        nonlocal status
        status = benchmark(options, through, command_line(PROG, argv))

    return command(PROG, run) or status


def benchmark(options: argparse.Namespace, through: Sequence[str], typed: str) -> int:
    """Searches the unfinished runs, then writes and prints the report; returns the exit status."""
    methods, seeds = _checked(options, through)
    table = Table.read(options.tabular)
    runs = all_runs(options.directory, methods, seeds)
    configs = {}
    if through or not options.report:
        configs = {
            method: configuration(method, options.tabular, through) for method in dict.fromkeys(run.method for run in runs)
        }
        for run in runs:
            if run.begun:
                check_same(options.directory, run, configs[run.method])
    device = next(((config.device, config.threads) for config in configs.values()), ("auto", None))
    facts = header(choose_device(*device), *(["report of earlier runs"] if options.report else []))
    options.directory.mkdir(parents=True, exist_ok=True)
    failed = 0
    if not options.report:
        asked = [run for run in runs if run.method in methods and run.seed in seeds and not run.finished]
        try:
            failed = search_all(asked, options.tabular, through, options.jobs)
        except KeyboardInterrupt:
            print(f"{PROG}: stopped; the same command goes on", file=sys.stderr)
            return 130
    text = f"# NAS-Bench-201, CIFAR-10\n\n{facts}\n\n{typed}\n\n{report(runs, table)}"
    write_atomically(options.directory / "table.md", text)
    print(f"\n{text}", end="")
    points = curves(runs, table) if options.curves or options.figure else []
    if options.curves:
        write_atomically(options.curves, as_csv(points))
    if options.figure and points:
        save_figure(draw_curves(points, table), options.figure)
    elif options.figure:
        print("No figure: no run has an epoch behind it.")
    return int(failed > 0)


def _checked(options: argparse.Namespace, through: Sequence[str]) -> tuple[list[str], list[int]]:
    """Returns methods and seeds. Raises ValueError for wrong options of this program."""
    methods, seeds = options.methods, options.seeds
    for method in methods:
        get_method(method)
    for seed in seeds:
        if not (seed.isascii() and seed.isdecimal()):
            raise InputError(f"--seeds: must be whole numbers of at least 0, not {seed}")
    numbers = [int(seed) for seed in seeds]
    for name, values in (("--methods", methods), ("--seeds", numbers)):
        if len(set(values)) < len(values):
            raise InputError(f"{name}: names one of them twice: {' '.join(map(str, values))}")
    for name in OWN:
        if any(argument.partition("=")[0] == name for argument in through):
            raise InputError(f"{name}: is set for each search; name --directory and --seeds instead")
    if options.directory.exists() and not options.directory.is_dir():
        raise InputError(f"--directory: {options.directory} is a file; name a folder")
    if options.report and not options.directory.exists():
        raise InputError(f"--directory: there is no {options.directory} to report on")
    if not (options.report or methods):
        raise InputError(f"--methods: name at least one of {', '.join(ALL)}")
    for name, path in (("--curves", options.curves), ("--figure", options.figure)):
        if path is not None and not path.parent.is_dir():
            raise InputError(f"{name}: there is no folder {path.parent}; make it first")
    return methods, numbers


if __name__ == "__main__":
    raise SystemExit(main())
