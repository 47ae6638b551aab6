"""Costs from the tables against the networks themselves, counted and measured, and against the benchmark's own figures."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
import torch
from torch import nn

from ops import register_op
from search.costs.counted import AdditiveCost, CostTable
from search.costs.tabular import Table
from search.sampling.encoding import ABSENT, Encoding
from supernet import Genotype, SearchSpace, get_space, list_spaces
from supernet.genotypes.published import get_genotype
from supernet.spaces.darts import DARTS_SKELETON
from supernet.spaces.skeleton import Stem

Counted = Callable[..., dict[str, float]]
CPU = torch.device("cpu")
CONVOLUTIONS = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"


# Counted


@pytest.mark.parametrize("space", list_spaces())
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize(("channels", "cells", "classes", "shape"), [(4, 3, 2, (3, 8, 8)), (6, 5, 7, (1, 49, 20))])
def test_costs_are_those_of_the_network(
    counted: Counted, space: str, channels: int, cells: int, classes: int, shape: tuple[int, int, int], stem: Stem
) -> None:
    encoding = Encoding(get_space(space))
    table = CostTable(encoding.space, channels, cells, classes, shape, stem)
    random = Random(channels)
    for _ in range(5):
        genome = encoding.random(random)
        assert table(genome) == counted(encoding, genome, channels, cells, classes, shape, stem)


def test_the_published_cell_of_darts() -> None:
    """3,349,342 parameters at C=36 and 20 cells (Liu et al. 2019), as retraining builds it."""
    encoding = Encoding(get_space("darts"))
    costs = CostTable(encoding.space, 36, 20, 10, (3, 32, 32))(encoding.of_genotype(get_genotype("DARTS_V2")))
    assert costs["parameters"] == 3_349_342
    assert isinstance(costs["parameters"], int) and isinstance(costs["multiply_adds"], int)


def test_an_architecture_of_nasbench201() -> None:
    """Number 9930: 1,288,506 parameters and 184.73025 million multiply-adds."""
    encoding = Encoding(get_space("nasbench201"))
    costs = CostTable(encoding.space, 16, 5, 10, (3, 32, 32))(encoding.of_genotype(Genotype.parse(CONVOLUTIONS)))
    assert costs == {"parameters": 1_288_506, "multiply_adds": 184_730_250}


def test_all_of_nasbench201_cost_what_the_benchmark_says(shared_data: Callable[[str], Path]) -> None:
    table = Table.read(shared_data("nasbench201/cifar10.csv.gz"))
    encoding = Encoding(get_space("nasbench201"))
    costs = CostTable(encoding.space, 16, 5, 10, (3, 32, 32))
    seen = set()
    for genome in encoding.all():
        row = table[encoding.genotype(genome)]
        assert costs(genome) == {"parameters": row.parameters, "multiply_adds": row.multiply_adds}
        seen.add(genome)
    assert len(seen) == len(table.rows) == 15_625


def test_published_genotypes_of_darts_cost_what_was_published(shared_data: Callable[[str], Path]) -> None:
    encoding = Encoding(get_space("darts"))
    costs = CostTable(encoding.space, 36, 20, 10, (3, 32, 32))
    known = 0
    for entry in json.loads(shared_data("genotypes/published.json").read_text()):
        genotype = Genotype.parse(entry["text"])
        try:
            genome = encoding.of_genotype(genotype)
        except ValueError:  # of another space, or with two operations on one edge
            continue
        known += 1
        assert costs(genome)["parameters"] == entry["params"], entry["name"]
    assert known > 20


def test_a_space_with_operations_of_its_own_and_without_some(counted: Counted) -> None:
    @register_op("test_objectives_scale")
    def scale(channels: int, stride: int, affine: bool) -> nn.Module:
        return nn.Conv2d(channels, channels, 1, stride, groups=channels)

    space = SearchSpace(
        "test_objectives", DARTS_SKELETON, 2, ("none", "test_objectives_scale", "max_pool_3x3"), (2, 3), derived_inputs=1
    )
    encoding = Encoding(space, exclude=["max_pool_3x3"])
    genome = encoding.random(Random(0))
    costs = CostTable(space, 4, 3, 10, (3, 8, 8), operations=["test_objectives_scale"])
    assert costs(genome) == counted(encoding, genome, 4, 3, 10, (3, 8, 8))


def test_a_table_leaves_the_random_state_alone_and_a_call_the_table() -> None:
    encoding = Encoding(get_space("nasbench201"))
    before = torch.get_rng_state()
    table = CostTable(encoding.space, 4, 1, 10, (3, 8, 8))
    assert torch.equal(torch.get_rng_state(), before)
    genome = encoding.random(Random(1))
    first = table(genome)
    first["parameters"] = 0
    assert table(genome)["parameters"] > 0


def test_a_network_that_the_skeleton_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 3 cells, not 2"):
        CostTable(get_space("darts"), 4, 2, 10, (3, 8, 8))


def test_an_edge_that_is_left_out_costs_nothing_and_an_unknown_candidate_is_an_error() -> None:
    cost = AdditiveCost(10, ({ABSENT: 0, 1: 3}, {ABSENT: 0, 1: 4}))
    assert [cost((ABSENT, ABSENT)), cost((1, ABSENT)), cost((1, 1))] == [10, 13, 17]
    with pytest.raises(KeyError):
        cost((0, 1))
    with pytest.raises(ValueError):
        cost((1,))
