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
import sys
from collections.abc import Sequence
from pathlib import Path

from base.checks import InputError
from base.files import write_atomically
from benchmarks.nasbench201.report import as_csv, curves, draw_curves, report
from benchmarks.nasbench201.runner import ALL, OWN, all_runs, check_same, configuration, search_all
from benchmarks.options import at_least, command_line
from benchmarks.timing import header
from search.costs.tabular import Table
from search.methods import get_method
from supernet.drawing.draw import save_figure
from training.hardware import choose_device
from training.run.arguments import Parser
from training.run.command import command

PROG = "benchmarks.nasbench201"


def main(argv: list[str] | None = None) -> int:
    parser = Parser(
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
    raise SystemExit(command(PROG, main))
