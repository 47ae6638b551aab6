"""`python -m benchmarks.samplers`: samplers compared over many seeds on NAS-Bench-201's table.

A score is the validation accuracy after 12 epochs that the table has (Dong & Yang 2020), so that a
search takes seconds. It has an *incumbent*, the architecture with the best score so far (the first
of equals). Its test accuracy after 200 epochs, read at every tenth evaluation, is compared. All
variants have the same seeds, and differences are taken seed by seed.

Searches are recorded in DIRECTORY, where all have the same settings. The same command goes on where
it was stopped; with more --seeds or other --methods it adds to the records.

Exit status: 0, or 2 for wrong input, 130 when stopped.
"""

import argparse
import csv
import io
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from base.checks import InputError
from base.files import write_atomically
from benchmarks.nasbench201.table_searches import STEP, VARIANTS, Record, Search, Searches, read_table, search_all, settings_of
from benchmarks.options import at_least, command_line
from benchmarks.timing import goal, header
from search.costs.tabular import Table, best_of_random
from supernet.drawing.draw import DOTS, INK, TEXT, save_figure
from training.report.markdown import table as markdown
from training.run.arguments import Parser
from training.run.command import command

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROG = "benchmarks.samplers"
BUDGETS = (100, 300)
"""Numbers of evaluations after which variants are compared."""
BASELINE = "random"
"""The variant that the others are compared with."""
BETTER = ("evolution", "bananas", "gp")
"""Variants that must beat it at each of BUDGETS and reach GOAL at the last of them."""
GOAL = 94.15
PARTS = {"hybrid": ("enas", "hybrid_genetic")}
"""The parts of a variant: variants that it is compared with, too."""
STATED = {100: (93.76, 0.32), 300: (93.92, 0.24)}
"""Published results of random search over 500 seeds, by evaluations: mean and standard
deviation."""
PUBLISHED = {"random": (93.70, 0.36), "evolution": (93.92, 0.30)}
"""Results by Dong & Yang 2020, within 12,000 seconds of training."""
RESAMPLES = 10_000
INTERVAL = (2.5, 97.5)
"""The percentiles that the interval lies between."""
COLUMNS = ("variant", "evaluations", "seeds", "mean", "std", "low", "high")
"""Columns of the summary: test accuracy of the incumbent in percent, its mean and sample standard
deviation over the seeds, and the interval of the mean."""
COLOURS = {
    "random": INK, "local": "#0891b2", "evolution": "#16a34a", "bayes": "#2563b0",
    "enas": "#ea580c", "hybrid": "#be185d", "nao": "#7c3aed",
}  # fmt: skip
"""Colours by method."""
DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))
"""Dashes by number of the variant within its method."""
LEGEND = f"""\
Test accuracy of the incumbent in percent after so many evaluations: mean ± sample standard deviation over seeds. Differences
are paired over the seeds that both have, with the 95% interval of their mean from {RESAMPLES} bootstrap resamples of the seeds.
Seconds are those of one processor. Published: Dong & Yang 2020, within 12,000 seconds of training.
"""


# Numbers


def interval(values: np.ndarray) -> np.ndarray:
    """Returns the 95% interval of the mean over the first axis, [2, ...].

    It is that of the percentile bootstrap (Efron & Tibshirani 1993).

    All columns share their resamples, which are the same in each call.
    """
    generator, count, turns = np.random.default_rng(0), len(values), 100
    # The count of each row in a resample, times the row.
    means = [generator.multinomial(count, [1 / count] * count, RESAMPLES // turns) @ values / count for _ in range(turns)]
    return np.asarray(np.percentile(np.concatenate(means), INTERVAL, axis=0))


def accuracies(searches: Iterable[Search]) -> np.ndarray:
    """Returns the test accuracies of the incumbent, [seeds, evaluations / STEP]."""
    return np.array([search.accuracies for search in searches])


def differences(one: Searches, other: Searches) -> np.ndarray:
    """Returns the lead of `one`, [seeds, evaluations / STEP], seed by seed where both were
    searched."""
    both = [seed for seed in one if seed in other]
    return accuracies(one[seed] for seed in both) - accuracies(other[seed] for seed in both)


def summary(found: Mapping[str, Searches]) -> list[dict[str, Any]]:
    """Returns a row for each variant and number of evaluations; keys: COLUMNS.

    For one seed deviation and interval are None.
    """
    rows = []
    for name, searches in found.items():
        reached = accuracies(searches.values())
        measured = [reached.mean(0)]
        if len(reached) > 1:
            measured += [reached.std(0, ddof=1), *interval(reached)]
        for column in range(reached.shape[1]):
            values = [round(float(line[column]), 4) for line in measured]
            row = (name, STEP * (column + 1), len(reached), *values, *[None] * (4 - len(values)))
            rows.append(dict(zip(COLUMNS, row, strict=True)))
    return rows


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the summary as the text of a file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


# Words


def budgets(evaluations: int) -> list[int]:
    """Returns the evaluations at which searches are compared: BUDGETS as far as they go, and the
    end."""
    return sorted({*(budget for budget in BUDGETS if budget < evaluations), evaluations})


def report(found: Mapping[str, Searches], table: Table, evaluations: int) -> str:
    """Returns the tables and the goals, in Markdown."""
    points = budgets(evaluations)
    columns = [point // STEP - 1 for point in points]
    rows: list[Sequence[object]] = []
    for name, searches in found.items():
        reached = accuracies(searches.values())
        rows.append([
            name,
            " ".join([f"search.{VARIANTS[name].method}", *VARIANTS[name].options]),
            len(searches),
            *(_spread(reached[:, column]) for column in columns),
            *([None] * len(columns) if name == BASELINE else _gains(searches, found.get(BASELINE, {}), columns)),
            f"{np.mean([search.seconds for search in searches.values()]):.2f}",
            _stated(PUBLISHED.get(name)),
        ])  # fmt: skip
    at = [f"at {point}" for point in points]
    compared = [f"less {BASELINE}, {text}" for text in at]
    optimum = max(row.test_accuracy for row in table.rows.values())
    baselines: list[Sequence[object]] = [
        ["best of so many random architectures, exact", *(_stated(best_of_random(table, point)) for point in points)],
        ["random search as stated for 500 seeds", *(_stated(STATED.get(point)) for point in points)],
        ["the optimum", *(f"{optimum:.2f}" for _ in points)],
    ]
    pairs: list[Sequence[object]] = [
        [f"{name} less {part}", *_gains(found[name], found[part], columns)]
        for name, parts in PARTS.items()
        for part in parts
        if name in found and part in found
    ]
    return "\n".join([
        LEGEND,
        markdown(["variant", "search", "seeds", *at, *compared, "seconds a seed", "published"], rows),
        markdown(["baseline", *at], baselines),
        *([markdown(["difference", *at], pairs)] if pairs else []),
        "".join(_goals(found, evaluations)),
    ])  # fmt: skip


def _goals(found: Mapping[str, Searches], evaluations: int) -> list[str]:
    """Yields a line for each goal of each variant in BETTER."""
    lines, last = [], BUDGETS[-1]
    for name in BETTER:
        searches = found.get(name, {})
        gains = differences(searches, found.get(BASELINE, {}))
        for budget in BUDGETS:
            low = interval(gains[:, budget // STEP - 1])[0] if budget <= evaluations and len(gains) > 1 else None
            text = f"{name} beats {BASELINE} at {budget}: the lower end of the interval is above 0"
            lines.append(goal(text, low, low is not None and low > 0))
        mean = accuracies(searches.values())[:, last // STEP - 1].mean() if searches and last <= evaluations else None
        lines.append(goal(f"{name} has a mean of at least {GOAL} at {last}", mean, mean is not None and mean >= GOAL))
    return lines


def _spread(values: np.ndarray) -> str:
    """Returns mean and sample standard deviation; one seed has no deviation."""
    return f"{values.mean():.2f} ± {f'{values.std(ddof=1):.2f}' if len(values) > 1 else '-'}"


def _stated(accuracy: tuple[float, float] | None) -> str | None:
    return None if accuracy is None else "{:.2f} ± {:.2f}".format(*accuracy)


def _gains(one: Searches, other: Searches, columns: Sequence[int]) -> list[str | None]:
    """Returns the mean difference and its interval, for which there must be two seeds."""
    gains = differences(one, other)
    if len(gains) < 2:
        return [None] * len(columns)
    ends = interval(gains)
    return [f"{gains[:, at].mean():+.2f} [{ends[0, at]:+.2f}, {ends[1, at]:+.2f}]" for at in columns]


# A picture


def draw(rows: Sequence[dict[str, Any]], table: Table) -> "Figure":
    """Draws the mean test accuracy of the incumbent over evaluations, a line a variant, with the
    interval of the mean as a band.

    The scale of accuracies begins where random search is expected after a tenth of the evaluations.
    """
    from matplotlib.figure import Figure

    lines = {name: [row for row in rows if row["variant"] == name] for name in dict.fromkeys(row["variant"] for row in rows)}
    evaluations = [row["evaluations"] for row in next(iter(lines.values()))]
    optimum = max(row.test_accuracy for row in table.rows.values())
    chance = [best_of_random(table, count)[0] for count in evaluations]
    figure = Figure((1400 / DOTS, 900 / DOTS), dpi=DOTS, facecolor="white", layout="constrained")
    axes = figure.subplots()
    axes.axhline(optimum, color=INK, linestyle="--", linewidth=0.9, label=f"{optimum:.2f}  the optimum")
    for name, line in sorted(lines.items(), key=lambda entry: -entry[1][-1]["mean"]):
        colour, dashes = _style(name)
        means = [row["mean"] for row in line]
        axes.plot(evaluations, means, color=colour, linestyle=dashes, linewidth=1.6, label=f"{means[-1]:.2f}  {name}")
        if line[-1]["low"] is not None:
            low, high = ([row[end] for row in line] for end in ("low", "high"))
            axes.fill_between(evaluations, low, high, color=colour, alpha=0.12, linewidth=0)
    axes.plot(evaluations, chance, color=INK, linestyle="--", linewidth=0.9, label=f"{chance[-1]:.2f}  random, exact")
    bottom = chance[max(len(chance) // 10, 1) - 1]
    axes.set_ylim(bottom, optimum + 0.05 * (optimum - bottom))
    axes.set_xlim(0, evaluations[-1])
    axes.set_xlabel("evaluations", fontsize=TEXT, color=INK)
    axes.set_ylabel("test accuracy of the incumbent, %", fontsize=TEXT, color=INK)
    axes.set_axisbelow(True)
    axes.grid(color="#e5e7eb", linewidth=0.6)
    axes.tick_params(labelsize=TEXT, colors=INK, length=2)
    axes.spines[["top", "right"]].set_visible(False)
    fewest, most = min(row["seeds"] for row in rows), max(row["seeds"] for row in rows)
    title = f"mean of {fewest if fewest == most else f'{fewest} to {most}'} seeds\nband: its 95% interval"
    figure.legend(loc="outside right center", fontsize=TEXT, frameon=False, title=title, title_fontsize=TEXT, labelcolor=INK)
    return figure


def _style(name: str) -> tuple[str, Any]:
    """Returns the colour of the method, and the dashes that tell the variant from the method's
    others."""
    method = VARIANTS[name].method
    kin = [other for other, variant in VARIANTS.items() if variant.method == method]
    return COLOURS[method], DASHES[kin.index(name) % len(DASHES)]


# The program


def main(argv: list[str] | None = None) -> int:
    names = ", ".join(VARIANTS)
    parser = Parser(prog=PROG, description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    add = parser.add_argument
    add("--tabular", required=True, metavar="FILE", help="the table of the benchmark (CSV, .gz)")
    add("--methods", nargs="+", default=list(VARIANTS), metavar="VARIANT", help=f"{names} (default: all)")
    add("--seeds", type=at_least(1), default=500, metavar="N", help="of each, from 0 on (default: 500)")
    add("--evaluations", type=at_least(STEP), default=BUDGETS[-1], metavar="N", help=f"a search (default: {BUDGETS[-1]})")
    add("--directory", type=Path, default=Path("runs/samplers"), help="where the searches are (default: runs/samplers)")
    add("--jobs", type=at_least(1), default=1, metavar="N", help="searches at a time (default: 1)")
    add("--csv", type=Path, metavar="FILE", help="write mean, deviation and interval over evaluations, as CSV")
    add("--figure", type=Path, metavar="FILE", help="draw them, as PNG")
    add("--table", type=Path, metavar="FILE", help="write the tables that are printed, in Markdown")
    add("--report", action="store_true", help="search nothing, say what is there")
    options = parser.parse_args(argv)
    status = 0

    def run() -> None:
        nonlocal status
        try:
            benchmark(options, command_line(PROG, argv))
        except KeyboardInterrupt:
            print(f"{PROG}: stopped; the same command goes on", file=sys.stderr)
            status = 130

    return command(PROG, run) or status


def benchmark(options: argparse.Namespace, typed: str) -> None:
    """Searches the missing seeds, then writes and prints the report."""
    _check(options)
    table = read_table(options.tabular)
    records = [Record(options.directory, name, options.evaluations) for name in VARIANTS]
    records = [record for record in records if record.begun or (record.variant in options.methods and not options.report)]
    configs = {record.variant: VARIANTS[record.variant].config(options.tabular, options.evaluations) for record in records}
    settings = {name: settings_of(config, table) for name, config in configs.items()}
    for record in records:
        record.check_same(settings[record.variant])
        record.read()
    if not options.report:
        options.directory.mkdir(parents=True, exist_ok=True)
        asked = [record for record in records if record.variant in options.methods]
        for record in asked:
            record.begin(settings[record.variant])
        search_all(asked, configs, options.seeds, options.jobs)
    found = {record.variant: searches for record in records if (searches := record.read())}
    if not found:
        raise InputError(f"--directory: there is no search in {options.directory} to report on")
    facts = header(torch.device("cpu"), "one thread a search", *(["report of earlier searches"] if options.report else []))
    text = f"# Samplers on NAS-Bench-201, CIFAR-10\n\n{facts}\n\n{typed}\n\n{report(found, table, options.evaluations)}"
    print(text, end="")
    rows = summary(found)
    if options.table:
        write_atomically(options.table, text)
    if options.csv:
        write_atomically(options.csv, as_csv(rows))
    if options.figure:
        save_figure(draw(rows, table), options.figure)


def _check(options: argparse.Namespace) -> None:
    """Raises ValueError for wrong options."""
    for name in options.methods:
        if name not in VARIANTS:
            raise InputError(f"--methods: unknown variant {name!r}; known: {', '.join(VARIANTS)}")
    if options.evaluations % STEP:
        raise InputError(f"--evaluations: must be a multiple of {STEP}, not {options.evaluations}")
    if options.directory.exists() and not options.directory.is_dir():
        raise InputError(f"--directory: {options.directory} is a file; name a folder")
    for option in ("csv", "figure", "table"):
        path: Path | None = getattr(options, option)
        if path is not None and not path.parent.is_dir():
            raise InputError(f"--{option}: there is no folder {path.parent}; make it first")
        if path is not None and path.is_dir():
            raise InputError(f"--{option}: {path} is a folder; name a file")


if __name__ == "__main__":
    raise SystemExit(command(PROG, main))
