"""Tests of retrain/explain/sanity.py: weights that are randomised from the head downwards."""

import copy
import itertools

import pytest
import torch

from retrain.explain.sanity import MOST_STAGES, randomised, stages
from supernet.discrete import DiscreteNetwork
from supernet.genotypes.genotype import Genotype
from supernet.genotypes.published import get_genotype

CELL = "|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"


def new(genotype: str = "DARTS_V2", cells: int = 3) -> DiscreteNetwork:
    known = get_genotype(genotype) if genotype == "DARTS_V2" else Genotype.parse(genotype)
    return DiscreteNetwork(known, channels=4, cells=cells, classes=3, image_channels=1)


@pytest.mark.parametrize(("genotype", "cells"), [("DARTS_V2", 3), ("DARTS_V2", 8), (CELL, 1), (CELL, 3)])
def test_each_stage_has_the_one_before_and_the_last_all_weights(genotype: str, cells: int) -> None:
    network = new(genotype, cells)
    found = stages(network)
    assert 2 <= len(found) <= MOST_STAGES
    assert found[0] == ("the head", [network.head]) and found[-1][0] == "all weights"
    for (_, fewer), (_, more) in itertools.pairwise(found):
        assert more[: len(fewer)] == fewer and len(more) > len(fewer)
    held = {id(weight) for module in found[-1][1] for weight in module.parameters()}
    assert held == {id(weight) for weight in network.parameters()}


def test_what_is_chosen_changes_and_nothing_else() -> None:
    network = new()
    images = torch.randn(16, 1, 8, 8)
    network(images)
    network.eval()
    before = copy.deepcopy(network.state_dict())
    made = randomised(network, [network.head, network.layers[2]], images, seed=0)
    after = made.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    for name, value in after.items():
        touched = name.startswith(("head.", "layers.2."))
        constant = name.endswith("weight") and bool((before[name] == before[name].flatten()[0]).all())
        changed = not torch.equal(value, before[name])
        assert changed == touched or (touched and (constant or name.endswith("bias"))), name
    assert not any(module.training for module in made.modules())
    again = randomised(network, [network.head, network.layers[2]], images, seed=0).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in after.items())


def test_random_weights_keep_their_size_and_the_statistics_fit_the_images() -> None:
    network = new()
    images = torch.randn(64, 1, 8, 8)
    network.eval()
    made = randomised(network, stages(network)[-1][1], images, seed=1)
    ours, theirs = network.stem[0].weight, made.stem[0].weight  # type: ignore[union-attr, index]
    assert 0.7 < float((theirs.std() / ours.std()).detach()) < 1.4
    with torch.no_grad():
        normed = made.stem(images)
    assert normed.mean((0, 2, 3)).abs().max() < 0.05 and (normed.std((0, 2, 3)) - 1).abs().max() < 0.05
