"""`python -m benchmarks.explanations`: is an explanation of a search true? All methods that descend a
gradient, over several seeds, in the space of NAS-Bench-201.

Each method searches as in `python -m benchmarks.nasbench201`, into DIRECTORY/METHOD/seed_N, and is
then explained: every operation on every edge by four measures. The table of the benchmark says what
each of them is worth exactly; Kendall's tau says how well a measure agrees with that. Options that
are none of this program go through to every search (`--data.root`, `--device`, `--epochs` ...). The
same command goes on where it was stopped.

Exit status: 0, or 1 if a search failed, 2 for wrong input, 130 when stopped.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from base.checks import InputError
from base.files import write_atomically
from base.plain_json import read_json
from benchmarks.explanations.report import Row, as_csv, draw, report, rows_of
from benchmarks.nasbench201.runner import OWN, Run, all_runs, check_same, configuration, search_all
from benchmarks.options import at_least, command_line
from benchmarks.timing import header
from search.costs.tabular import Table
from search.differentiable.method import DifferentiableMethod, DifferentiableRun
from search.explain.explanation import ExplainOptions
from search.explain.supernets.explain import measure
from search.explain.supernets.findings import numbers
from search.methods import list_methods
from supernet import Genotype
from supernet.drawing.draw import save_figure
from training.hardware import choose_device
from training.run.arguments import Parser
from training.run.command import command

PROG = "benchmarks.explanations"


def main(argv: list[str] | None = None) -> int:
    known = list_methods(DifferentiableMethod)
    parser = Parser(
        prog=PROG,
        description=(__doc__ or "").partition("\n\n")[0].replace("\n", " "),
        epilog="Further options go to every search: --data.root, --device, --epochs ... (python -m search.darts --help).",
        allow_abbrev=False,
    )
    parser.add_argument("--methods", nargs="+", default=known, metavar="METHOD", help="default: all that descend a gradient")
    parser.add_argument("--seeds", nargs="+", type=at_least(0), default=[0, 1], metavar="N", help="default: 0 1")
    parser.add_argument("--tabular", required=True, metavar="FILE", help="the table of the benchmark (CSV, .gz)")
    parser.add_argument("--directory", type=Path, default=Path("runs/explanations"), help="where the runs are")
    parser.add_argument("--jobs", type=at_least(1), default=1, metavar="N", help="searches at a time (default: 1)")
    parser.add_argument("--budget", type=at_least(1), metavar="N", help="passes of a batch for each explanation")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write every tau, as CSV")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw them, as PNG")
    options, through = parser.parse_known_args(argv)
    return command(PROG, lambda: benchmark(options, through, command_line(PROG, argv)))


def benchmark(options: argparse.Namespace, through: Sequence[str], typed: str) -> int:
    """Searches and explains what is not done yet, then writes and prints the report; returns the
    exit status."""
    _check(options, through)
    table = Table.read(options.tabular)
    wanted = {(method, seed) for method in options.methods for seed in options.seeds}
    # Earlier runs of the folder that were not asked for stay out of it.
    runs = [run for run in all_runs(options.directory, options.methods, options.seeds) if (run.method, run.seed) in wanted]
    configs = {method: configuration(method, options.tabular, through) for method in options.methods}
    for run in runs:
        if run.begun:
            check_same(options.directory, run, configs[run.method])
    facts = header(choose_device(configs[options.methods[0]].device, configs[options.methods[0]].threads))
    options.directory.mkdir(parents=True, exist_ok=True)
    failed = search_all([run for run in runs if not run.finished], options.tabular, through, options.jobs)
    rows: list[Row] = []
    for run in runs:
        if run.finished:
            accuracy = table[Genotype.load(run.path / "genotype.json")].test_accuracy
            rows += rows_of(run.method, run.seed, accuracy, explained(run, table, options.budget))
    text = f"# Are explanations true?\n\n{facts}\n\n{typed}\n\n{report(rows)}"
    write_atomically(options.directory / "table.md", text)
    print(f"\n{text}", end="")
    if options.csv:
        write_atomically(options.csv, as_csv(rows))
    if options.figure and rows:
        save_figure(draw(rows), options.figure)
    return int(failed > 0)


def explained(run: Run, table: Table, budget: int | None) -> dict[str, object]:
    """Returns the numbers of the explanation of a finished run, which are made once and kept beside
    it."""
    path = run.path.with_name(f"{run.path.name}.explained.json")
    asked = {"budget": budget, "table": table.fingerprint}
    if path.exists():
        kept = read_json(path)
        if isinstance(kept, dict) and kept.get("asked") == asked:
            return dict(kept["numbers"])
    opened = DifferentiableRun.open(run.path)
    device = choose_device(opened.config.device, opened.config.threads)
    print(f"{run.name}: is explained", flush=True)
    found = numbers(measure(opened, ExplainOptions(device, run.seed, budget, table)))
    write_atomically(path, json.dumps({"asked": asked, "numbers": found}))
    return found


def _check(options: argparse.Namespace, through: Sequence[str]) -> None:
    """Raises InputError for wrong options of this program."""
    known = list_methods(DifferentiableMethod)
    for method in options.methods:
        if method not in known:
            raise InputError(f"--methods: {method} is none that descends a gradient; known: {', '.join(known)}")
    for name, values in (("--methods", options.methods), ("--seeds", options.seeds)):
        if len(set(values)) < len(values):
            raise InputError(f"{name}: names one of them twice: {' '.join(map(str, values))}")
    for name in OWN:
        if any(argument.partition("=")[0] == name for argument in through):
            raise InputError(f"{name}: is set for each search; name --directory and --seeds instead")
    for name, path in (("--csv", options.csv), ("--figure", options.figure)):
        if path is not None and not path.parent.is_dir():
            raise InputError(f"{name}: there is no folder {path.parent}; make it first")


if __name__ == "__main__":
    raise SystemExit(main())
