"""Tests of retrain/explain/surrogate.py: a tree in the place of the last layers."""

import pytest
import torch

from retrain.explain.surrogate import feature_names, fit_surrogate, last_layer, outputs_and_features
from supernet.discrete import DiscreteNetwork
from supernet.genotypes.published import get_genotype

CLASSES = ("<b>one", "two")


def test_a_rule_of_one_feature_is_found() -> None:
    features = torch.rand(200, 6)
    predicted = (features[:, 4] > 0.3).long()
    names = [f"f{number}" for number in range(6)]
    tree = fit_surrogate(features, predicted, names, CLASSES, depth=3, seed=0)
    assert tree is not None and tree.is_better
    assert tree.fidelity > 0.97 and tree.base_rate == float(predicted.double().mean())
    assert tree.used == ("f4",) and tree.leaves == 2
    lines = tree.rules.split("\n")
    assert lines[0].startswith("if f4 is at most 0.") and lines[0].endswith(
        f"<b>one (100% of {int((predicted == 0).sum())} images)"
    )
    assert lines[1].startswith("if f4 is above 0.")


def test_a_tree_of_noise_is_said_to_say_nothing() -> None:
    """On the images that it was fitted on it would be right for far more."""
    tree = fit_surrogate(torch.rand(200, 30), torch.randint(2, (200,)), [str(n) for n in range(30)], CLASSES, 6, 0)
    assert tree is not None and not tree.is_better
    assert tree.fidelity < 0.65


def test_deeper_rules_are_indented() -> None:
    features = torch.rand(400, 2)
    predicted = ((features[:, 0] > 0.5) & (features[:, 1] > 0.5)).long()
    tree = fit_surrogate(features, predicted, ["a", "b"], CLASSES, depth=2, seed=0)
    assert tree is not None
    below = [line for line in tree.rules.split("\n") if line.startswith("  if ")]
    # A line with an answer for each leaf; the questions before them stand in lines of their own.
    assert below and all(line.endswith(" images)") for line in below)
    assert sum(line.endswith(" images)") for line in tree.rules.split("\n")) == tree.leaves


def test_too_little_to_fit() -> None:
    few = torch.rand(19, 2)
    assert fit_surrogate(few, (few[:, 0] > 0.5).long(), ["a", "b"], CLASSES, 2, 0) is None
    assert fit_surrogate(torch.rand(100, 2), torch.zeros(100, dtype=torch.int64), ["a", "b"], CLASSES, 2, 0) is None


def test_features_are_those_that_the_last_layer_reads() -> None:
    network = DiscreteNetwork(get_genotype("DARTS_V2"), channels=4, cells=3, classes=3, image_channels=1).eval()
    images = torch.randn(5, 1, 8, 8)
    outputs, features = outputs_and_features(network, images.split(2))
    layer = last_layer(network)
    assert layer is not None and features is not None
    torch.testing.assert_close(layer(features), outputs)
    names = feature_names(network, features.shape[1])
    assert len(set(names)) == features.shape[1] == 64
    assert names[0] == "node 2 channel 0" and names[-1] == "node 5 channel 15"
    assert feature_names(network, 7) == [f"feature {number}" for number in range(7)]
    assert not layer._forward_pre_hooks


@pytest.mark.parametrize("depth", [1, 3])
def test_no_more_questions_than_asked_for(depth: int) -> None:
    features = torch.rand(300, 5)
    tree = fit_surrogate(features, (features.sum(1) > 2.5).long(), list("abcde"), CLASSES, depth, 0)
    assert tree is not None and tree.leaves <= 2**depth
