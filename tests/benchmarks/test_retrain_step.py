"""The table of the retraining step."""

from functools import partial

import pytest
import torch

from benchmarks import retrain_step
from benchmarks.retrain_step import PlainDiscreteNetwork, Settings
from supernet.discrete import DiscreteNetwork
from supernet.genotypes.published import read_genotype

SMALL = ["--channels", "4", "--cells", "3", "--batch", "2", "--size", "16", "--runs", "1", "--threads", "1"]


def test_a_retraining_step_is_timed(capsys: pytest.CaptureFixture[str]) -> None:
    assert retrain_step.main(SMALL) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split("|")[1:-1] for line in lines if line.startswith("| ")]
    assert [row[0].strip() for row in rows] == ["network", "plain, eager, float32, NCHW", "ours"]
    assert all(float(cell) > 0 for row in rows[1:] for cell in row[1:4])
    assert lines[-1].startswith("- goal: 4 times the images/s")


def test_the_plain_network_computes_the_same_and_stays_in_nchw() -> None:
    genotype = read_genotype("DARTS_V2")
    networks = [make(genotype, 4, 3).double() for make in (DiscreteNetwork, PlainDiscreteNetwork)]
    networks[1].load_state_dict(networks[0].state_dict())
    maps = []
    for layer in networks[1].layers:
        layer.register_forward_hook(partial(lambda _, inputs, output: maps.append(output)))
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(networks[1](images), networks[0](images))
    assert len(maps) == 3 and all(map.is_contiguous() for map in maps)


def test_a_genotype_without_place_for_a_head_has_none() -> None:
    arch = "|nor_conv_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|avg_pool_3x3~0|skip_connect~1|nor_conv_3x3~2|"
    settings = Settings(torch.device("cpu"), retrain_step.Genotype.parse(arch), 4, 1, 2, 8)
    assert settings.auxiliary_weight == 0
    retrain_step.plain_step(settings)()
    retrain_step.our_step(settings)()
