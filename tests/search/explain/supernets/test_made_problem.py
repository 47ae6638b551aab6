"""An explanation points to the operation that alone can see the label, and to none where labels are shuffled."""

from pathlib import Path
from typing import Any

import pytest
import torch

from search.differentiable.method import DifferentiableRun, search
from search.explain.explanation import ExplainOptions
from search.explain.supernets.explain import measure
from search.explain.supernets.findings import Findings
from training.run.config import RunOptions

SEEDS = range(5)


def explained(problem: Any, name: str, seed: int, directory: Path) -> Findings:
    path = directory / f"{name}_{seed}"
    search(problem.config(name, seed), RunOptions(path, False, False, pictures=False), "darts")
    return measure(DifferentiableRun.open(path), ExplainOptions(torch.device("cpu"), budget=2000), log=lambda _: None)


def points_to(found: Findings) -> set[str]:
    """The operations of the cell that are missed, by their intervals, and that perturbation puts first of all."""
    falls = found.measures["perturbation"]
    first = max(falls, key=falls.__getitem__)
    missed = {
        found.supernet.operation(edge.chosen)
        for edge in found.edges
        if edge.margin is not None and not edge.margin.can_be_left_out
    }
    return missed & {found.supernet.operation(first)}


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_it_points_to_the_operation_that_sees_the_label(made_problem: Any, seed: int, tmp_path: Path) -> None:
    found = explained(made_problem, "periods", seed, tmp_path)
    assert found.score > 0.8
    assert points_to(found) and points_to(found) <= set(made_problem.wide)
    shapley = found.measures["Shapley value"]
    assert found.supernet.operation(max(shapley, key=shapley.__getitem__)) in made_problem.wide


@pytest.mark.slow
def test_with_shuffled_labels_it_points_to_nothing(made_problem: Any, tmp_path: Path) -> None:
    # An interval of 95% is above 0 by chance once in forty.
    pointed = [points_to(explained(made_problem, "shuffled_periods", seed, tmp_path)) for seed in SEEDS]
    assert sum(map(bool, pointed)) <= 1
