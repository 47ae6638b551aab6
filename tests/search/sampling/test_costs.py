"""What architectures cost in a search that samples them."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch

from benchmarks.timing import random_images
from search.costs import counted as counting
from search.costs import latency as measuring
from search.costs.tabular import Table, TableRow
from search.sampling.config import SamplingConfig
from search.sampling.costs import ArchitectureCosts, architecture_costs
from search.sampling.encoding import Encoding
from supernet import DiscreteNetwork, Genotype, get_space
from supernet.genotypes.published import get_genotype
from training.hardware import Hardware
from training.images.data import DataConfig
from training.tasks.classification import Classification

Counted = Callable[..., dict[str, float]]
HARDWARE = Hardware(torch.device("cpu"))
CONVOLUTIONS = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"


def small_table(*latencies: str) -> Table:
    return Table(
        {CONVOLUTIONS: TableRow(94.0, 91.0, 85.0, 1, 2, {name: 0.5 + number for number, name in enumerate(latencies)})}
    )


def test_without_latency_there_are_two_costs() -> None:
    encoding = Encoding(get_space("nasbench201"))
    config = SamplingConfig(space="nasbench201", channels=16, cells=5)
    costs = architecture_costs(encoding, None, None, HARDWARE, config.stem, config.latency)
    genome = encoding.of_genotype(Genotype.parse(CONVOLUTIONS))
    assert costs(genome) == {"parameters": 1_288_506, "multiply_adds": 184_730_250}
    assert costs.state_dict() == {}


def test_images_say_what_the_network_is_for(counted: Counted) -> None:
    config = SamplingConfig(space="nasbench201", channels=4, cells=3)
    encoding = Encoding(get_space("nasbench201"))
    task = Classification.of_images(DataConfig(), random_images(20, size=8, classes=7, channels=1), HARDWARE)
    genome = encoding.random(Random(3))
    assert architecture_costs(encoding, task, None, HARDWARE, config.stem, config.latency)(genome) == counted(
        encoding, genome, 16, 5, 7, (1, 8, 8)
    )


def test_the_mobile_stem_has_costs_of_its_own(clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is the one that retraining builds with that stem by default: 4,718,752 parameters for the cell of DARTS."""
    built: list[DiscreteNetwork] = []
    make = counting.DiscreteNetwork

    def spy(*arguments: Any, **options: Any) -> DiscreteNetwork:
        built.append(make(*arguments, **options))
        return built[-1]

    monkeypatch.setattr(counting, "DiscreteNetwork", spy)
    config = SamplingConfig(space="darts", stem="imagenet", exclude=["sep_conv_5x5", "dil_conv_5x5"], latency="measured")
    encoding = Encoding(get_space("darts"), config.exclude)
    task = Classification.of_images(DataConfig(), random_images(1000, size=8, classes=1000, channels=3), HARDWARE)
    costs = architecture_costs(encoding, task, None, HARDWARE, config.stem, config.latency)
    assert costs(encoding.of_genotype(get_genotype("DARTS_V2")))["parameters"] == 4_718_752
    sizes = [(network.stem_name, network.channels, network.cell_count) for network in built]
    assert sizes == [("imagenet", 48, 14)] * 2 and clock.calls > 0


def test_the_latency_of_a_table_is_its_column() -> None:
    table = small_table("pixel3", "raspi4")
    encoding = Encoding(get_space("nasbench201"))
    config = SamplingConfig(space="nasbench201", tabular="table.csv", latency="raspi4")
    genome = encoding.of_genotype(Genotype.parse(CONVOLUTIONS))
    costs = architecture_costs(encoding, None, table, HARDWARE, config.stem, config.latency)
    assert list(costs(genome)) == ["parameters", "multiply_adds", "latency_ms"]
    assert costs(genome)["latency_ms"] == 1.5
    assert costs.state_dict() == {}


def test_a_search_that_goes_on_has_the_latencies_from_before(clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    encoding = Encoding(get_space("nasbench201"))
    config = SamplingConfig(space="nasbench201", channels=4, cells=1, latency="measured")
    genome = encoding.random(Random(0))
    first = architecture_costs(encoding, None, None, HARDWARE, config.stem, config.latency)
    before = first(genome)
    monkeypatch.setattr(measuring, "_milliseconds", lambda calls, device, turns: [7.0] * len(calls))
    second = architecture_costs(encoding, None, None, HARDWARE, config.stem, config.latency)
    assert second(genome) != before
    second.load_state_dict(first.state_dict())
    assert second(genome) == before
    assert isinstance(second, ArchitectureCosts)
