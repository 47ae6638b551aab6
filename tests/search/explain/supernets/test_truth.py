"""The truth about an explanation: against the definitions, word by word, in a table of made accuracies."""

import dataclasses
import itertools
import math
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from base.checks import InputError
from search.costs.tabular import Table, TableRow
from search.differentiable.method import DifferentiableRun
from search.explain.explanation import ExplainOptions
from search.explain.supernets.explain import measure
from search.explain.supernets.findings import Findings

EXCLUDED = ["none", "avg_pool_3x3", "nor_conv_1x1"]
OPERATIONS = ("skip_connect", "nor_conv_3x3")
Searched = Callable[..., DifferentiableRun]


def text(operations: tuple[str, ...]) -> str:
    a, b, c, d, e, f = operations
    return f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"


def made() -> tuple[Table, dict[tuple[str, ...], float]]:
    """A table of the 64 cells of two operations, and the accuracy of each."""
    chance = random.Random(0)
    accuracies = {operations: chance.uniform(50, 95) for operations in itertools.product(OPERATIONS, repeat=6)}
    return Table({text(cell): TableRow(value, value, value, 1, 1, {}) for cell, value in accuracies.items()}), accuracies


def explained(run: DifferentiableRun, table: Table) -> Findings:
    return measure(run, ExplainOptions(torch.device("cpu"), table=table), log=lambda _: None)


def shap(accuracies: dict[tuple[str, ...], float], cell: tuple[str, ...], edge: int) -> float:
    def worth(fixed: set[int]) -> float:
        same = [value for other, value in accuracies.items() if all(other[place] == cell[place] for place in fixed)]
        return sum(same) / len(same)

    others = [place for place in range(6) if place != edge]
    total = 0.0
    for size in range(6):
        for chosen in itertools.combinations(others, size):
            weight = math.factorial(size) * math.factorial(5 - size) / math.factorial(6)
            total += weight * (worth({*chosen, edge}) - worth(set(chosen)))
    return total


def test_the_truth_is_that_of_the_definitions(searched: Searched) -> None:
    table, accuracies = made()
    run = searched("darts", "nasbench201", exclude=EXCLUDED)
    found = explained(run, table)
    genotype = run.genotype
    assert genotype is not None
    derived = tuple(operation for feeds in genotype.cells["cell"].nodes for operation, _ in feeds)
    importance, value = (next(t for t in found.truths if (t.name, t.scale) == (name, "accuracy")) for name in
                         ("operation importance", "SHAP"))  # fmt: skip
    assert len(importance.values) == 12
    for one in importance.values:
        operation = found.supernet.operation(one)
        cell = (*derived[: one.edge], operation, *derived[one.edge + 1 :])
        (other,) = [name for name in OPERATIONS if name != operation]
        neighbour = (*cell[: one.edge], other, *cell[one.edge + 1 :])
        assert importance.values[one] == pytest.approx(accuracies[cell] - accuracies[neighbour])
        assert value.values[one] == pytest.approx(shap(accuracies, cell, one.edge))


def test_tau_is_that_of_scipy_over_all_operations_and_over_those_of_the_cell(searched: Searched) -> None:
    from scipy.stats import kendalltau

    found = explained(searched("darts", "nasbench201", exclude=EXCLUDED), made()[0])
    assert [(truth.name, truth.scale) for truth in found.truths] == [
        (name, scale) for scale in ("accuracy", "rank") for name in ("operation importance", "SHAP")
    ]
    for truth in found.truths:
        for those, taus in ((found.supernet.candidates, truth.all), (found.supernet.chosen, truth.chosen)):
            measured = [found.measures["alphas"][one] for one in those]
            assert taus["alphas"] == pytest.approx(kendalltau(measured, [truth.values[one] for one in those]).statistic)


def test_the_table_of_the_search_is_taken_while_its_file_is_there(searched: Searched, tmp_path: Path) -> None:
    columns = "arch,cifar10_test_200,cifar10_valid_200,cifar10_valid_12,params_cifar10,flops_cifar10\n"
    lines = [
        f"{cell},{row.test_accuracy},{row.valid_accuracy},{row.valid_accuracy_12},1,1\n" for cell, row in made()[0].rows.items()
    ]
    file = tmp_path / "table.csv"
    file.write_text(columns + "".join(lines))
    run = searched("darts", "nasbench201", exclude=EXCLUDED, tabular=str(file))
    options = ExplainOptions(torch.device("cpu"))
    assert len(measure(run, options, log=lambda _: None).truths) == 4
    file.unlink()
    assert measure(run, options, log=lambda _: None).truths == []


def test_a_table_that_lacks_what_was_searched_is_refused_before_anything_is_measured(searched: Searched) -> None:
    said: list[str] = []
    options = ExplainOptions(torch.device("cpu"), table=made()[0])
    with pytest.raises(InputError, match="tabular: has 64 of the 729 architectures"):
        measure(searched("darts", "nasbench201", exclude=EXCLUDED[:2]), options, log=said.append)
    assert not any(line.startswith("explains") for line in said)


@pytest.mark.slow
def test_a_table_is_for_its_own_space(searched: Searched) -> None:
    with pytest.raises(InputError, match="tabular"):
        measure(searched("darts", "darts"), dataclasses.replace(ExplainOptions(torch.device("cpu")), table=made()[0]))
