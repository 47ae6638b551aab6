"""Tests of retrain/explain/attributions.py: the five methods."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from base.checks import FieldError
from retrain.explain.attributions import METHODS, Settings, Subject, by_patch, patch_numbers
from supernet.discrete import DiscreteNetwork
from supernet.genotypes.published import get_genotype

SIDE, PATCH = 16, 4
SHARE = PATCH**2 / SIDE**2


def new_network(side: int = 8, classes: int = 3, channels: int = 2) -> DiscreteNetwork:
    network = DiscreteNetwork(get_genotype("DARTS_V2"), channels, cells=3, classes=classes, image_channels=channels)
    for _ in range(10):  # moves the running statistics
        network(torch.randn(16, channels, side, side))
    return network.eval()


@pytest.fixture(scope="module")
def network() -> DiscreteNetwork:
    torch.manual_seed(0)
    return new_network()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_makes_maps_of_the_image(network: DiscreteNetwork, method: str) -> None:
    passed = []
    settings = Settings(patches=2, steps=8, samples=10)
    subject = Subject(network, settings, passed.append)
    images = torch.randn(2, 2, 8, 8)
    maps = subject.maps(method, images, torch.tensor([0, 2]))
    assert maps.shape == (2, 8, 8) and maps.dtype == torch.float64
    assert maps.isfinite().all() and maps.abs().sum() > 0
    assert sum(passed) == 2 * METHODS[method].passes(settings, 8, 8)
    assert torch.equal(maps, subject.maps(method, images, torch.tensor([0, 2])))  # deterministic


def test_methods_leave_the_random_state_and_the_network_alone(network: DiscreteNetwork) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    subject = Subject(network, Settings(patches=2, steps=4, samples=10))
    for method in METHODS:
        subject.maps(method, torch.ones(1, 2, 8, 8), torch.tensor([0]))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_kernel_shap_is_the_shapley_value_of_patches(network: DiscreteNetwork) -> None:
    """Against the sum over all orders of the four patches."""
    image = torch.randn(1, 2, 8, 8)
    numbers = patch_numbers(2, 8, 8)

    def output(present: frozenset[int]) -> float:
        shown = torch.stack([numbers == patch for patch in present]).any(0) if present else torch.zeros_like(numbers) > 0
        with torch.no_grad():
            return float(network(image * shown)[0, 1])

    values: dict[frozenset[int], float] = {}
    shapley = torch.zeros(4, dtype=torch.float64)
    for order in itertools.permutations(range(4)):
        before: frozenset[int] = frozenset()
        for patch in order:
            after = before | {patch}
            for coalition in (before, after):
                values.setdefault(coalition, output(coalition))
            shapley[patch] += (values[after] - values[before]) / math.factorial(4)
            before = after
    subject = Subject(network, Settings(patches=2, samples=600))
    found = by_patch(subject.maps("kernel_shap", image, torch.tensor([1])), 2)[0]
    torch.testing.assert_close(found, shapley, rtol=0, atol=0.05 * float(shapley.abs().max()))
    assert abs(float(found.sum()) - (values[frozenset(range(4))] - values[frozenset()])) < 1e-3


def test_occlusion_is_the_fall_of_the_output(network: DiscreteNetwork) -> None:
    """The pixel in the corner is hidden by the first window alone."""
    image = torch.randn(1, 2, 8, 8)
    hidden = image.clone()
    hidden[:, :, :2, :2] = 0
    with torch.no_grad():
        fall = float((network(image) - network(hidden))[0, 2])
    maps = Subject(network, Settings(patches=4)).maps("occlusion", image, torch.tensor([2]))
    assert float(maps[0, 0, 0]) == pytest.approx(2 * fall, rel=1e-4, abs=1e-6)  # the sum over both channels


def test_grad_cam_looks_at_the_chosen_cell(network: DiscreteNetwork) -> None:
    image, target = torch.randn(1, 2, 8, 8), torch.tensor([0])
    maps = [Subject(network, Settings(cell=cell)).maps("grad_cam", image, target) for cell in (0, 2, -1)]
    assert torch.equal(maps[1], maps[2]) and not torch.equal(maps[0], maps[1])
    seen: list[Tensor] = []
    handle = network.cells[0].register_forward_hook(lambda _, __, output: seen.append(output))
    output = network(image.requires_grad_())[0, 0]
    handle.remove()
    (gradient,) = torch.autograd.grad(output, seen[0])
    by_hand = (gradient.mean((2, 3), keepdim=True) * seen[0]).sum(1).relu()[0].detach()
    torch.testing.assert_close(maps[0][0].float(), by_hand)  # a normal cell keeps the size of the image


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"cell": 3}, "cell: must be from 0 to 2"),
        ({"patches": 9, "samples": 1000}, "patches: must be from 2 to 8"),
        ({"patches": 1}, "patches: must be from 2 to 8"),
        ({"patches": 5, "samples": 49}, "samples: 49 is too few: LIME and KernelSHAP over 5x5 patches need at least 50"),
    ],
)
def test_settings_that_fit_nothing_are_refused(fields: dict[str, int], said: str) -> None:
    with pytest.raises(FieldError, match=said):
        Settings(**fields).check(3, 8, 12)


def test_patches_divide_an_image_whole() -> None:
    numbers = patch_numbers(3, 8, 7)
    assert sorted(numbers.unique().tolist()) == list(range(9))
    maps = torch.randn(2, 8, 7, dtype=torch.float64)
    torch.testing.assert_close(by_patch(maps, 3).sum(1), maps.sum((1, 2)))


# A made problem: noise, and a patch whose colour is the label


def coloured(count: int, seed: int, shuffled: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Returns images [N, 3, H, W] of noise with a patch of one of three colours at a random place, labels
    [N], and the pixels of the patch [N, H, W].

    Labels that are `shuffled` are, within each colour, as often one as another.
    """
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, SIDE, SIDE, generator=generator)
    colours = torch.arange(count) % 3
    corners = torch.randint(SIDE - PATCH + 1, (count, 2), generator=generator)
    patch = torch.zeros(count, SIDE, SIDE, dtype=torch.bool)
    for number, (row, column) in enumerate(corners.tolist()):
        place = slice(row, row + PATCH), slice(column, column + PATCH)
        patch[number][place] = True
        # As large in its squares as the noise is.
        images[number, :, place[0], place[1]] = -0.7
        images[number, colours[number], place[0], place[1]] = 1.4
    return images, torch.arange(count) // 3 % 3 if shuffled else colours, patch


def trained(seed: int, shuffled: bool) -> DiscreteNetwork:
    images, labels, _ = coloured(768, seed, shuffled)
    torch.manual_seed(seed)
    network = DiscreteNetwork(get_genotype("DARTS_V2"), channels=4, cells=3, classes=3)
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(2):
        for chosen in torch.randperm(len(images)).split(32):
            optimiser.zero_grad()
            F.cross_entropy(network(images[chosen]), labels[chosen]).backward()
            optimiser.step()
    return network.eval()


def share_in_the_patch(network: DiscreteNetwork, method: str, seed: int, shuffled: bool) -> float:
    """Returns the share that the patch has of all that speaks for the predicted classes of unseen
    images."""
    images, _, patch = coloured(24, 100 + seed, shuffled)
    subject = Subject(network, Settings(patches=4, steps=16, samples=64))
    speaks = subject.maps(method, images, network(images).argmax(1)).clamp(min=0)
    return float((speaks * patch).sum() / speaks.sum())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_the_patch_that_carries_the_label_is_pointed_to(seed: int) -> None:
    network = trained(seed, shuffled=False)
    for method in METHODS:
        assert share_in_the_patch(network, method, seed, shuffled=False) > 2 * SHARE, method


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_with_shuffled_labels_nothing_is_pointed_to(seed: int) -> None:
    network = trained(seed, shuffled=True)
    for method in METHODS:
        assert share_in_the_patch(network, method, seed, shuffled=True) < 2 * SHARE, method
