"""Costs from the tables against the networks themselves, counted and measured, and against the benchmark's own figures."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.timing import random_images
from ops import register_op
from search import objectives
from search.objectives import AdditiveCost, ArchitectureCosts, CostTable, MeasuredLatency, TableLatency, architecture_costs
from search.samplers import Encoding, Genome
from search.samplers.config import SamplingConfig
from search.samplers.encoding import ABSENT
from search.tabular import Row, Table
from supernet import DiscreteNetwork, Genotype, SearchSpace, get_space, list_spaces
from supernet.published import get_genotype
from supernet.skeleton import DARTS, Stem
from training.checkpoint import Checkpoints
from training.metrics import count_multiply_adds, count_parameters

CPU = torch.device("cpu")
CONVOLUTIONS = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"


def counted(
    encoding: Encoding,
    genome: Genome,
    channels: int,
    cells: int,
    classes: int,
    shape: tuple[int, int, int],
    stem: Stem = "cifar",
) -> dict:
    """By the network itself."""
    network = DiscreteNetwork(encoding.genotype(genome), channels, cells, classes, shape[0], stem=stem)
    return {"parameters": count_parameters(network), "multiply_adds": count_multiply_adds(network, shape)}


# Counted


@pytest.mark.parametrize("space", list_spaces())
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
@pytest.mark.parametrize(("channels", "cells", "classes", "shape"), [(4, 3, 2, (3, 8, 8)), (6, 5, 7, (1, 49, 20))])
def test_costs_are_those_of_the_network(
    space: str, channels: int, cells: int, classes: int, shape: tuple[int, int, int], stem: Stem
) -> None:
    encoding = Encoding(get_space(space))
    table = CostTable(encoding, channels, cells, classes, shape, stem)
    random = Random(channels)
    for _ in range(5):
        genome = encoding.random(random)
        assert table(genome) == counted(encoding, genome, channels, cells, classes, shape, stem)


def test_the_published_cell_of_darts() -> None:
    """3,349,342 parameters at C=36 and 20 cells (Liu et al. 2019), as retraining builds it."""
    encoding = Encoding(get_space("darts"))
    costs = CostTable(encoding, 36, 20, 10, (3, 32, 32))(encoding.of_genotype(get_genotype("DARTS_V2")))
    assert costs["parameters"] == 3_349_342
    assert isinstance(costs["parameters"], int) and isinstance(costs["multiply_adds"], int)


def test_an_architecture_of_nasbench201() -> None:
    """Number 9930: 1,288,506 parameters and 184.73025 million multiply-adds."""
    encoding = Encoding(get_space("nasbench201"))
    costs = CostTable(encoding, 16, 5, 10, (3, 32, 32))(encoding.of_genotype(Genotype.parse(CONVOLUTIONS)))
    assert costs == {"parameters": 1_288_506, "multiply_adds": 184_730_250}


def test_all_of_nasbench201_cost_what_the_benchmark_says(shared_data: Callable[[str], Path]) -> None:
    table = Table.read(shared_data("nasbench201/cifar10.csv.gz"))
    encoding = Encoding(get_space("nasbench201"))
    costs = CostTable(encoding, 16, 5, 10, (3, 32, 32))
    seen = set()
    for genome in encoding.all():
        row = table[encoding.genotype(genome)]
        assert costs(genome) == {"parameters": row.parameters, "multiply_adds": row.multiply_adds}
        seen.add(genome)
    assert len(seen) == len(table.rows) == 15_625


def test_published_genotypes_of_darts_cost_what_was_published(shared_data: Callable[[str], Path]) -> None:
    encoding = Encoding(get_space("darts"))
    costs = CostTable(encoding, 36, 20, 10, (3, 32, 32))
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


def test_a_space_with_operations_of_its_own_and_without_some() -> None:
    @register_op("test_objectives_scale")
    def scale(channels: int, stride: int, affine: bool) -> nn.Module:
        return nn.Conv2d(channels, channels, 1, stride, groups=channels)

    space = SearchSpace(
        "test_objectives", DARTS, 2, ("none", "test_objectives_scale", "max_pool_3x3"), (2, 3), derived_inputs=1
    )
    encoding = Encoding(space, exclude=["max_pool_3x3"])
    genome = encoding.random(Random(0))
    assert CostTable(encoding, 4, 3, 10, (3, 8, 8))(genome) == counted(encoding, genome, 4, 3, 10, (3, 8, 8))


def test_a_table_leaves_the_random_state_alone_and_a_call_the_table() -> None:
    encoding = Encoding(get_space("nasbench201"))
    before = torch.get_rng_state()
    table = CostTable(encoding, 4, 1, 10, (3, 8, 8))
    assert torch.equal(torch.get_rng_state(), before)
    genome = encoding.random(Random(1))
    first = table(genome)
    first["parameters"] = 0
    assert table(genome)["parameters"] > 0


def test_a_network_that_the_skeleton_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 3 cells, not 2"):
        CostTable(Encoding(get_space("darts")), 4, 2, 10, (3, 8, 8))


# Measured


class Clock:
    """In place of measuring: the n-th call takes n milliseconds, and the frame 1000."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        monkeypatch.setattr(objectives, "_milliseconds", self)

    def __call__(self, calls: list, device: torch.device, turns: int) -> list[float]:
        for call in calls:
            call()  # each of them can run
        self.calls = len(calls)
        return [1000.0, *map(float, range(1, len(calls)))]


@pytest.mark.parametrize("space", list_spaces())
def test_latency_is_the_sum_of_what_was_measured(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every distinct operation is measured once; each cell adds the time of the one that stands there."""
    clock = Clock(monkeypatch)
    encoding = Encoding(get_space(space))
    cells = 3 if space == "darts" else 2
    latency = MeasuredLatency(encoding, 4, cells, 10, (3, 8, 8), CPU)
    # Three sizes of map; in DARTS' reduction cells operations of stride 2 on the two larger ones, too.
    sizes = 3 if space == "nasbench201" else 2 + 3
    assert clock.calls == 1 + sizes * len(encoding.operations)
    random = Random(0)
    one = encoding.random(random)
    other = encoding.mutate_operation(one, random)
    (place,) = [place for place in range(encoding.length) if one[place] != other[place]]
    assert latency(one) > 1000
    # Operations are measured one after the other, each in all places in turn.
    steps = [encoding.operations.index(genome[place]) * sizes for genome in (one, other)]
    of_kind = cells * 3 if space == "nasbench201" else (2 if place >= 14 else 1)
    assert latency(other) - latency(one) == (steps[1] - steps[0]) * of_kind


def test_the_time_of_a_call_is_the_median_of_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(objectives.time, "perf_counter", lambda: now[0])

    def call(times: list[float]) -> Callable[[], object]:
        left = iter([moment for moment in times for _ in range(objectives.CALLS)])
        return lambda: now.__setitem__(0, now[0] + next(left))

    # The first turn warms up; one slow turn of five does not count.
    first, second = [50.0, 0.001, 0.003, 9.0, 0.002, 0.002], [0.5, 0.004, 0.004, 0.004, 0.004, 8.0]
    assert objectives._milliseconds([call(first), call(second)], CPU, 5) == pytest.approx([2.0, 4.0])


def test_a_real_measurement_leaves_the_random_state_alone_and_is_saved(tmp_path: Path) -> None:
    encoding = Encoding(get_space("nasbench201"))
    before = torch.get_rng_state()
    latency = MeasuredLatency(encoding, 4, 1, 10, (3, 8, 8), CPU, turns=1)
    assert torch.equal(torch.get_rng_state(), before)
    genomes = [encoding.random(Random(seed)) for seed in range(20)]
    found = [latency(genome) for genome in genomes]
    assert all(math.isfinite(value) and value > 0 for value in found)
    Checkpoints(tmp_path).save(1, {"latency": latency.state_dict()})
    loaded = Checkpoints(tmp_path).load_latest()
    assert loaded is not None
    other = MeasuredLatency(encoding, 4, 1, 10, (3, 8, 8), CPU, turns=1)
    other.load_state_dict(loaded[1]["latency"])
    assert [other(genome) for genome in genomes] == found


def test_an_edge_that_is_left_out_costs_nothing_and_an_unknown_candidate_is_an_error() -> None:
    cost = AdditiveCost(10, ({ABSENT: 0, 1: 3}, {ABSENT: 0, 1: 4}))
    assert [cost((ABSENT, ABSENT)), cost((1, ABSENT)), cost((1, 1))] == [10, 13, 17]
    with pytest.raises(KeyError):
        cost((0, 1))
    with pytest.raises(ValueError):
        cost((1,))


# All costs of a search


def small_table(*latencies: str) -> Table:
    return Table({CONVOLUTIONS: Row(94.0, 91.0, 85.0, 1, 2, {name: 0.5 + number for number, name in enumerate(latencies)})})


def test_without_latency_there_are_two_costs() -> None:
    encoding = Encoding(get_space("nasbench201"))
    config = SamplingConfig(space="nasbench201", channels=16, cells=5)
    costs = architecture_costs(config, encoding, None, None, CPU)
    genome = encoding.of_genotype(Genotype.parse(CONVOLUTIONS))
    assert costs(genome) == {"parameters": 1_288_506, "multiply_adds": 184_730_250}
    assert costs.state_dict() == {}


def test_images_say_what_the_network_is_for() -> None:
    config = SamplingConfig(space="nasbench201", channels=4, cells=3)
    encoding = Encoding(get_space("nasbench201"))
    images = random_images(20, size=8, classes=7, channels=1)
    genome = encoding.random(Random(3))
    assert architecture_costs(config, encoding, images, None, CPU)(genome) == counted(encoding, genome, 16, 5, 7, (1, 8, 8))


def test_the_mobile_stem_has_costs_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the network that retraining builds with that stem by default; 4,718,752 parameters for the cell of DARTS."""
    clock, built = Clock(monkeypatch), []
    make = objectives.DiscreteNetwork

    def spy(*arguments: Any, **options: Any) -> DiscreteNetwork:
        built.append(make(*arguments, **options))
        return built[-1]

    monkeypatch.setattr(objectives, "DiscreteNetwork", spy)
    config = SamplingConfig(space="darts", stem="imagenet", exclude=["sep_conv_5x5", "dil_conv_5x5"], latency="measured")
    encoding = Encoding(get_space("darts"), config.exclude)
    images = random_images(1000, size=8, classes=1000, channels=3)
    costs = architecture_costs(config, encoding, images, None, CPU)
    assert costs(encoding.of_genotype(get_genotype("DARTS_V2")))["parameters"] == 4_718_752
    sizes = [(network.stem_name, network.channels, network.cell_count) for network in built]
    assert sizes == [("imagenet", 48, 14)] * 2 and clock.calls > 0


def test_the_latency_of_a_table_is_its_column() -> None:
    table = small_table("pixel3", "raspi4")
    encoding = Encoding(get_space("nasbench201"))
    config = SamplingConfig(space="nasbench201", tabular="table.csv", latency="raspi4")
    genome = encoding.of_genotype(Genotype.parse(CONVOLUTIONS))
    costs = architecture_costs(config, encoding, None, table, CPU)
    assert list(costs(genome)) == ["parameters", "multiply_adds", "latency_ms"]
    assert costs(genome)["latency_ms"] == 1.5
    assert costs.state_dict() == {}
    with pytest.raises(ValueError, match=r"^latency: the table has pixel3, not 'gpu'; name one of them, or measured$"):
        TableLatency(encoding, small_table("pixel3"), "gpu")
    with pytest.raises(ValueError, match=r"^latency: the table has none, not 'gpu'"):
        TableLatency(encoding, small_table(), "gpu")


def test_a_search_that_goes_on_has_the_latencies_from_before(monkeypatch: pytest.MonkeyPatch) -> None:
    Clock(monkeypatch)
    encoding = Encoding(get_space("nasbench201"))
    config = SamplingConfig(space="nasbench201", channels=4, cells=1, latency="measured")
    genome = encoding.random(Random(0))
    first = architecture_costs(config, encoding, None, None, CPU)
    before = first(genome)
    monkeypatch.setattr(objectives, "_milliseconds", lambda calls, device, turns: [7.0] * len(calls))
    second = architecture_costs(config, encoding, None, None, CPU)
    assert second(genome) != before
    second.load_state_dict(first.state_dict())
    assert second(genome) == before
    assert isinstance(second, ArchitectureCosts)
