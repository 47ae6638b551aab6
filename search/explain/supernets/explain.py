"""The explanation of a search that descends a gradient, from its trained supernet."""

import time
from pathlib import Path

from search.costs.tabular import Table
from search.differentiable.method import DifferentiableRun
from search.explain.explanation import ExplainOptions, Explanation
from search.explain.supernets.findings import Findings, find, numbers
from search.explain.supernets.page import explanation_page, figures
from search.explain.supernets.plan import Account, Plan, plan
from search.explain.supernets.sentences import sentences
from search.explain.supernets.trained import TrainedSupernet
from search.explain.supernets.truth import searched_part
from training.report.html import duration
from training.run.monitor import Bar
from training.tasks.task import Log


def explain(run: DifferentiableRun, options: ExplainOptions, log: Log = print) -> Explanation:
    """Explains the derived cell of a search that has come to its end; says first what it will cost.

    Raises InputError for images or a checkpoint that cannot be used, a table of another space, and a
    budget that is too small.
    """
    found = measure(run, options, log)
    assert run.genotype is not None, "a finished search has one"
    page = explanation_page(found, run.genotype, f"{run.method.name}, {run.config.data.name}", options.pictures)
    return Explanation(page, numbers(found), sentences(found), figures(found) if options.pictures else {})


def measure(run: DifferentiableRun, options: ExplainOptions, log: Log = print) -> Findings:
    """Measures the trained supernet of a search; see `explain`.

    The table that the search was given stands in where `options` have none and its file is still
    there.
    """
    supernet = TrainedSupernet(run, options, log)
    table = options.table or _table_of(run)
    known = None if table is None else searched_part(supernet, table, options.column)
    planned = plan(supernet, options.budget)
    log(cost(supernet, planned))
    with Bar(planned.most, description="explains") as bar:
        return find(supernet, planned, Account(bar), options.seed, run.history, known)


def _table_of(run: DifferentiableRun) -> Table | None:
    named = run.config.tabular
    return Table.read(named) if named is not None and Path(named).is_file() else None


def cost(supernet: TrainedSupernet, planned: Plan) -> str:
    """Returns a line that says what the explanation will cost, from the time of one batch."""
    seconds = planned.most * _seconds_of_image(supernet)
    return (
        f"explains with at most {planned.passes:,} passes of {planned.batch} images through the supernet, as much as "
        f"{planned.epochs:.2f} epochs of the search: about {duration(seconds)}"
    )


def _seconds_of_image(supernet: TrainedSupernet) -> float:
    batches = supernet.first(min(supernet.config.batch_size, len(supernet.valid)))
    times = []
    for _ in range(2):  # the first makes kernels ready
        start = time.perf_counter()
        scores = supernet.scores(batches, supernet.mixture)
        times.append((time.perf_counter() - start) / int(scores.counts.sum()))
    return min(times)
