"""Tests of retrain/evaluate.py."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from retrain import DiscreteNetwork
from retrain.evaluate import evaluate_network, load_network, save_network
from supernet.published import get_genotype
from training.data import ImageSet


@pytest.fixture
def network() -> DiscreteNetwork:
    network = DiscreteNetwork(get_genotype("DARTS_V2"), channels=4, cells=3, classes=7, image_channels=1, auxiliary=True)
    network(torch.randn(8, 1, 8, 8))  # moves the running statistics
    return network.to(memory_format=torch.channels_last)


def test_a_network_survives_the_file(network, tmp_path):
    save_network(network, tmp_path)
    loaded = load_network(tmp_path)
    assert not loaded.training
    assert loaded.auxiliary is None
    assert loaded.genotype == network.genotype
    ours, theirs = network.state_dict(), loaded.state_dict()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in theirs.items())
    images = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(loaded(images), network.eval()(images))  # the weights are in another layout


def test_the_weights_load_strictly_without_the_auxiliary_head(network, tmp_path):
    save_network(network, tmp_path)
    tensors = load_file(tmp_path / "weights.safetensors")
    assert not any(name.startswith("auxiliary") for name in tensors)
    DiscreteNetwork(network.genotype, channels=4, cells=3, classes=7, image_channels=1).load_state_dict(tensors, strict=True)


def test_the_same_network_gives_the_same_bytes(network, tmp_path):
    save_network(network, tmp_path)
    first = (tmp_path / "weights.safetensors").read_bytes()
    save_network(network, tmp_path)
    assert (tmp_path / "weights.safetensors").read_bytes() == first
    assert [file.name for file in tmp_path.iterdir()] == ["weights.safetensors"]


def test_loading_leaves_the_random_state_alone(network, tmp_path):
    save_network(network, tmp_path)
    state = torch.get_rng_state()
    load_network(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


def test_files_that_hold_no_network_are_refused(network, tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        load_network(tmp_path)
    save_network(network, tmp_path)
    path = tmp_path / "weights.safetensors"
    whole = path.read_bytes()
    for broken in (b"", b"\x00\xff" * 40, whole[:100], whole[:-10]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="damaged or no safetensors file"):
            load_network(tmp_path)
    tensors = {"weight": torch.zeros(3)}
    save_file(tensors, path)
    with pytest.raises(ValueError, match="not those of a retrained genotype"):
        load_network(tmp_path)
    good = {"genotype": get_genotype("DARTS_V2").to_text("json"), "channels": 4, "cells": 3, "classes": 7, "image_channels": 1}
    for description in (
        "[]",
        "{",
        "{}",
        json.dumps(good),
        json.dumps(good | {"channels": "4"}),
        json.dumps(good | {"more": 1}),
    ):
        save_file(tensors, path, {"fusenas": description})
        with pytest.raises(ValueError, match="do not fit together"):
            load_network(tmp_path)


def test_a_network_is_evaluated_on_all_images(network):
    images = ImageSet(torch.randint(256, (5, 1, 8, 8), dtype=torch.uint8), torch.tensor([0, 1, 2, 3, 6]), 7, (0.5,), (0.5,))
    found = evaluate_network(network, images, 3, torch.device("cpu"), "float32")
    assert found.images == 5
    logits = network((images.images / 255 - 0.5) / 0.5)
    assert found.accuracy == pytest.approx((logits.argmax(1) == images.labels).float().mean().item())
    assert not network.training
