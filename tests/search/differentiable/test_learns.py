"""A search finds the operation that a problem needs, and finds nothing where there is nothing to find."""

from pathlib import Path
from typing import Any

import pytest

from search.differentiable.method import search
from training.run.config import RunOptions


def share_of_wide_edges(problem: Any, name: str, seed: int, directory: Path) -> float:
    genotype = search(problem.config(name, seed), RunOptions(directory / f"{name}_{seed}", False, False), "darts")
    operations = [operation for feeds in genotype.cells["cell"].nodes for operation, _ in feeds]
    assert len(operations) == 2
    return sum(operation in problem.wide for operation in operations) / len(operations)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_operation_that_sees_the_label_wins(made_problem: Any, seed: int, tmp_path: Path) -> None:
    assert share_of_wide_edges(made_problem, "periods", seed, tmp_path) >= 0.9


@pytest.mark.slow
def test_with_shuffled_labels_it_does_not(made_problem: Any, tmp_path: Path) -> None:
    # By chance both edges of a seed are wide in one case of twelve, of two of three seeds in one case of fifty.
    assert sum(share_of_wide_edges(made_problem, "shuffled_periods", seed, tmp_path) >= 0.9 for seed in range(3)) <= 1
