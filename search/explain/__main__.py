"""`python -m search.explain [RUN] [--tabular FILE]`: why a search found its architecture, and what
decides in a whole table.

RUN is the directory of a finished search by any method. A search that descends a gradient is
explained by its supernet, one that samples architectures by its trials; with --tabular the table
tells whether the explanation is true. Without RUN the table itself is analysed exactly. The result
is a page, explanation.json and TensorBoard events in RUN/explanation, or in the directory --output.
"""

from pathlib import Path
from typing import Any

from base.checks import FieldError, InputError, check_seed, check_whole
from search.costs.tabular import Table
from search.explain.explanation import ExplainOptions, Explanation
from search.explain.files import check_place, check_run, place_in, write
from search.explain.landscape import COLUMNS
from search.finished import SearchRun
from training.hardware import choose_device
from training.images.arguments import add_data_arguments, data_fields
from training.run.arguments import TRUTH, Parser, one_of, whole_number
from training.run.command import command

PROG = "search.explain"
_OUTPUT = Path("runs/explain_table")


def _parser() -> Parser:
    parser = Parser(
        prog=PROG,
        usage=f"python -m {PROG} [RUN] [--tabular FILE] [--OPTION VALUE ...]",
        description="Explain a finished search, or analyse a benchmark table exactly.",
        allow_abbrev=False,
    )
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN", help="Directory of a finished search.")
    parser.add_argument("--tabular", metavar="FILE", help="A table of NAS-Bench-201's form, CSV or CSV in gzip (.csv.gz).")
    columns = ",".join(COLUMNS)
    column = "The accuracy of the table that is taken (default: cifar10_test_200)."
    parser.add_argument("--column", type=one_of(COLUMNS), metavar=f"{{{columns}}}", help=column)
    one = "Without RUN: the architecture that SHAP explains, its text or its number in the table from 0 (default: the best)."
    parser.add_argument("--architecture", metavar="TEXT|NUMBER", help=one)
    base = "Without RUN: the architecture from which its ablation path starts (default: skip_connect everywhere)."
    parser.add_argument("--from", metavar="TEXT|NUMBER", help=base)
    parser.add_argument("--output", type=Path, metavar="DIR", help=f"Without RUN: where the result goes (default: {_OUTPUT}).")
    parser.add_argument("--overwrite", help="Without RUN: replace an explanation that is in DIR.", default=False, **TRUTH)
    budget = (
        "With RUN, the most units of cost: passes of a batch through the supernet, or trees over trials (default: as needed)."
    )
    parser.add_argument("--budget", type=whole_number, metavar="N", help=budget)
    parser.add_argument("--seed", type=whole_number, default=0, metavar="N", help="Seed of every draw (default: 0).")
    parser.add_argument("--device", default="auto", help="auto (cuda where there is one; default), cpu, cuda, cuda:1 ...")
    parser.add_argument("--threads", type=whole_number, metavar="N", help="CPU threads (default: one for each core).")
    add_data_arguments(parser)
    return parser


def main(argv: list[str] | None = None, pictures: bool = True) -> int:
    """Runs the command line; returns the exit status. Without `pictures` there are no figures."""
    return command(PROG, lambda: _main(argv, pictures), less="a smaller --budget, or data.limit in the search")


def _main(argv: list[str] | None, pictures: bool) -> None:
    options = vars(_parser().parse_args(argv))
    for name in ("threads", "budget"):
        check_whole(name, options[name])
    check_seed("seed", options["seed"])
    _check_together(options)
    device = choose_device(options["device"], options["threads"])
    table = None if options["tabular"] is None else Table.read(options["tabular"])
    column = options["column"] or "cifar10_test_200"
    if options["run"] is None:
        assert table is not None
        place = options["output"] or _OUTPUT
        check_place(place, options["overwrite"])
        for note in table.notes:
            print(note)
        print(f"exact: sums over all subsets of six edges, for {len(table.rows):,} architectures; some seconds", flush=True)
        from search.explain.tables.exact import explain as explain_table

        explanation = explain_table(table, options["tabular"], column, options["architecture"], pictures, options["from"])
    else:
        run = SearchRun.open(options["run"])
        place = place_in(run.path)
        check_run(run)
        asked = ExplainOptions(device, options["seed"], options["budget"], table, column, data_fields(options), pictures)
        explanation = explain(run, asked)
    print("\n".join(explanation.sentences))
    print(f"written: {write(explanation, place)}")


def explain(run: SearchRun, options: ExplainOptions) -> Explanation:
    """Explains a finished search of either family."""
    # Each has slow imports of its own.
    from search.differentiable.method import DifferentiableRun
    from search.sampling.method import SamplingRun

    if isinstance(run, SamplingRun):
        from search.explain.tables.sampled import explain as explain_sampled

        return explain_sampled(run, options)
    if isinstance(run, DifferentiableRun):
        from search.explain.supernets.explain import explain as explain_differentiable

        return explain_differentiable(run, options)
    raise InputError(f"{run.path}: a search by {run.method.name} is of a family of its own, for which there is no explanation")


def _check_together(options: dict[str, Any]) -> None:
    """Raises InputError for options that do not go together."""
    if options["run"] is None and options["tabular"] is None:
        raise InputError("name the directory of a finished search, a benchmark table with --tabular, or both")
    if options["tabular"] is None and options["column"] is not None:
        raise FieldError("column", "is one of a table; name its file with --tabular, or leave it out")
    only_run = ["budget", *(name for name in options if name.startswith("data."))]
    only_table = ["architecture", "from", "output", "overwrite"]
    if options["run"] is None:
        reason = "is for a search, and the analysis of a table has one way and no images"
        given = [name for name in only_run if options.get(name) is not None]
    else:
        reason = "is for a table alone, and a search has its explanation in its own directory"
        given = [name for name in only_table if options[name]]
    if given:
        raise FieldError(given[0], f"{reason}; leave it out")


if __name__ == "__main__":
    raise SystemExit(main())
