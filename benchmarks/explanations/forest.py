"""`python -m benchmarks.explanations.forest`: are the intervals of a forest over trials right?

Draws trials uniformly from a benchmark table, many times over, explains each sample as
`python -m search.explain` explains a sampling search, and counts how often the exact effect of the
table is within its interval. Prints Markdown.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from base.checks import InputError
from base.seeds import derive_seed
from benchmarks.options import at_least, command_line
from benchmarks.timing import header
from search.costs.tabular import Table
from search.explain.decomposition import ranks
from search.explain.landscape import Landscape, landscape
from search.explain.tables.exact import Measure, analyse
from search.explain.tables.forest import LEAST_TREES, forest_effects
from training.hardware import choose_device
from training.report.markdown import table as markdown
from training.run.arguments import Parser
from training.run.command import command
from training.run.monitor import Bar

PROG = "benchmarks.explanations.forest"


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    parser = Parser(prog=PROG, description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--tabular", required=True, type=Path, metavar="FILE", help="a table of the benchmark (CSV, .gz)")
    parser.add_argument("--trials", type=at_least(30), default=500, metavar="N", help="of a sample (default: 500)")
    parser.add_argument("--samples", type=at_least(1), default=100, metavar="N", help="samples (default: 100)")
    parser.add_argument("--trees", type=at_least(LEAST_TREES), default=100, metavar="N", help="of a forest (default: 100)")

    def run() -> None:
        options = parser.parse_args(argv)
        land = landscape(Table.read(options.tabular))
        if options.trials > land.values.size:
            raise InputError(f"--trials: the table has {land.values.size:,} architectures, not {options.trials:,}")
        print(header(choose_device("cpu", None), command_line(PROG, argv)))
        for measure in analyse(land):
            print()
            print(f"{measure.name}, {options.samples} samples of {options.trials} trials\n")
            print(coverage(measure, land, options.trials, options.samples, options.trees), flush=True)

    return command(PROG, run)


def coverage(measure: Measure, land: Landscape, trials: int, samples: int, trees: int) -> str:
    """Returns the table of coverage, estimates and widths, in Markdown."""
    truth = np.stack([measure.main, measure.total])
    found = []
    with Bar(samples, description=measure.name) as bar:
        for choices, values, seed in draws(measure.values, trials, samples):
            # A search knows the ranks among its trials alone.
            values = ranks(values) if measure.name == "rank" else values
            effects = forest_effects(choices, measure.values.shape, values, trees, seed)
            found.append([[(one.value, one.low, one.high) for one in shares] for shares in (effects.main, effects.total)])
            bar.advance()
    value, low, high = np.moveaxis(np.array(found), -1, 0)
    covered = ((low <= truth) & (truth <= high)).sum(0)
    lines = []
    for number, slot in enumerate(land.slots):
        cells: list[object] = [slot]
        for kind in (0, 1):
            cells += [f"{100 * truth[kind, number]:.1f}%", f"{100 * value[:, kind, number].mean():.1f}%"]
            cells += [f"{100 * (high - low)[:, kind, number].mean():.1f}", f"{covered[kind, number]}"]
        lines.append(cells)
    columns = [f"{kind}{name}" for kind in ("main", "total") for name in (", exact", ", mean estimate", ", width", ", covered")]
    return markdown(["edge", *columns], lines)


def draws(values: np.ndarray, trials: int, samples: int) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Yields, for each sample, the options of some architectures drawn without replacement
    [trials, d], their values [trials], and a seed."""
    for number in range(samples):
        seed = derive_seed("coverage", number)
        chosen = np.random.default_rng(seed).choice(values.size, trials, replace=False)
        yield np.stack(np.unravel_index(chosen, values.shape), 1), values.ravel()[chosen], number


if __name__ == "__main__":
    sys.exit(main())
