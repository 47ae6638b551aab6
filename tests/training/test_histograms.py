"""Tests of training/histograms.py."""

import pytest
import torch
from torch import Tensor, nn

from search.differentiable.relaxations import masked_softmax
from supernet import DiscreteNetwork, Path, Supernet, get_space
from supernet.genotypes.published import get_genotype
from training.histograms import histograms


def stepped(network: nn.Module, *others: object) -> nn.Module:
    """The network with a gradient."""
    network(torch.randn(4, 3, 8, 8), *others).square().sum().backward()
    return network


def mixture_of(network: Supernet) -> dict[str, Tensor]:
    tables = network.space.new_alphas().items()
    return {kind: masked_softmax(table.detach(), torch.ones_like(table, dtype=torch.bool)) for kind, table in tables}


def test_every_number_is_in_one_histogram() -> None:
    space = get_space("darts")
    network = Supernet(space, 4, 3)
    stepped(network, mixture_of(network))
    found = histograms(network.named_parameters())
    weights = {tag: numbers for tag, numbers in found.items() if tag.startswith("weights/")}
    total = sum(parameter.sum() for parameter in network.parameters())
    assert sum(len(numbers) for numbers in weights.values()) == sum(p.numel() for p in network.parameters())
    torch.testing.assert_close(sum(numbers.sum() for numbers in weights.values()), total, rtol=1e-4, atol=1e-4)
    gradients = sum(numbers.square().sum() for tag, numbers in found.items() if tag.startswith("gradients/"))
    expected = sum(p.grad.square().sum() for p in network.parameters() if p.grad is not None)
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-4)


def test_a_search_of_full_size_has_few_parts() -> None:
    with torch.device("meta"):
        network = Supernet(get_space("darts"), 4, 8)
    found = histograms(network.named_parameters())
    assert len(found) == 44 and not any(tag.startswith("gradients/") for tag in found)
    operations = ("preprocess", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")
    expected = {f"weights/layers.{cell}.{part}" for cell in range(8) for part in operations} | {"weights/stem", "weights/head"}
    assert set(found) - expected <= {f"weights/layers.{cell}.skip_connect" for cell in (2, 5)}


def test_the_parts_of_a_genotypes_network() -> None:
    network = stepped(DiscreteNetwork(get_genotype("DARTS_V2"), 4, 3, auxiliary=True))
    # The other two cells, reduction cells, pool and skip alone.
    parts = {"stem", "head", "auxiliary", "layers.0.nodes", *(f"layers.{cell}.preprocess" for cell in range(3))}
    found = histograms(network.named_parameters())
    assert {tag.removeprefix("weights/") for tag in found if tag.startswith("weights/")} == parts
    # The auxiliary head had no part in the pass.
    assert {tag.removeprefix("gradients/") for tag in found if tag.startswith("gradients/")} == parts - {"auxiliary"}


@pytest.mark.parametrize("space", ["darts", "nasbench201"])
def test_operations_that_a_path_leaves_out_have_no_gradient(space: str) -> None:
    found = get_space(space)
    network = Supernet(found, 4, 3 if space == "darts" else 1)
    name = "sep_conv_3x3" if space == "darts" else "nor_conv_3x3"
    column = found.candidates.index(name)
    choices = [column] + [found.candidates.index("skip_connect")] * (len(found.edges) - 1)
    stepped(network, mixture_of(network), Path(dict.fromkeys(found.kinds, choices)))
    tags = histograms(network.named_parameters())
    operations = {tag.rpartition(".")[2] for tag in tags if tag.startswith("gradients/layers")}
    assert name in operations and not operations & {"sep_conv_5x5", "dil_conv_3x3", "nor_conv_1x1"}
    # One edge of several runs the operation.
    weights, gradients = (tags[f"{of}/layers.0.{name}"] for of in ("weights", "gradients"))
    assert 0 < len(gradients) < len(weights)


def test_nothing_changes() -> None:
    parameter = nn.Parameter(torch.randn(3, 2))
    parameter.grad = torch.randn(3, 2)
    before = parameter.detach().clone(), parameter.grad.clone()
    found = histograms([("alphas_normal", parameter)])
    assert found.keys() == {"weights/alphas_normal", "gradients/alphas_normal"}
    for numbers, old in zip(found.values(), before, strict=True):
        assert torch.equal(numbers, old.flatten())
    assert torch.equal(parameter.grad, before[1])
