"""Tests of retrain/explain/path.py: integrated gradients that are complete."""

import pytest
import torch
from captum.attr import IntegratedGradients
from torch import nn

from retrain.explain.path import FIRST, complete_gradients
from supernet.discrete import DiscreteNetwork
from supernet.genotypes.published import get_genotype


class Bend(nn.Module):
    """The output max(0, sum - 1) of an image, whose path bends once."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images.flatten(1).sum(1, keepdim=True) - 1).relu()


def test_a_single_bend_is_integrated_by_hand() -> None:
    image = torch.tensor([[[1.0, 2.0], [0.0, 1.0]]], dtype=torch.float64)
    found, _ = complete_gradients(Bend(), image, 0)
    # The output rises on the last 3/4 of the path, with a slope of 1 in each pixel.
    torch.testing.assert_close(found, 0.75 * image, rtol=0, atol=1e-10)


@pytest.fixture(scope="module")
def network() -> DiscreteNetwork:
    torch.manual_seed(0)
    made = DiscreteNetwork(get_genotype("DARTS_V2"), channels=2, cells=3, classes=3, image_channels=1)
    for _ in range(30):  # moves the running statistics
        made(torch.randn(32, 1, 6, 6))
    made.eval().double()
    for parameter in made.parameters():
        parameter.requires_grad_(False)
    return made


def test_completeness_to_a_millionth(network: DiscreteNetwork) -> None:
    image = 2 * torch.randn(1, 6, 6, dtype=torch.float64)
    found, points = complete_gradients(network, image, 1)
    difference = network(image[None])[0, 1] - network(torch.zeros_like(image)[None])[0, 1]
    assert abs(float(found.sum() - difference)) < 1e-6
    assert FIRST < points < 20_000


def test_the_maps_are_those_that_captum_comes_near_with_many_steps(network: DiscreteNetwork) -> None:
    image = 2 * torch.randn(1, 6, 6, dtype=torch.float64)
    ours, _ = complete_gradients(network, image, 1)
    errors = []
    for steps in (16, 2048):
        theirs = IntegratedGradients(network).attribute(
            image[None], target=1, n_steps=steps, method="riemann_middle", internal_batch_size=512
        )
        errors.append(float((theirs[0] - ours).abs().max()))
    assert errors[1] < errors[0] / 10
    assert errors[1] < 2e-3 * float(ours.abs().max())


def test_a_curved_network_is_integrated_with_the_points_that_there_may_be() -> None:
    smooth = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.Sigmoid(), nn.Linear(8, 2)).double().requires_grad_(False)
    image = 3 * torch.randn(1, 2, 2, dtype=torch.float64)
    difference = float((smooth(image[None]) - smooth(0 * image[None]))[0, 1])
    found, points = complete_gradients(smooth, image, 1, most=5000)
    assert points <= 5000
    assert abs(float(found.sum()) - difference) < 1e-6
