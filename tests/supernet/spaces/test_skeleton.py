"""Tests of supernet/spaces/skeleton.py: the mobile stem, alone and with the cells of both networks behind it."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from base.checks import InputError
from ops.banks import Bank
from ops.images import FactorizedReduce
from supernet import Genotype, Path, SearchSpace, Supernet, get_space, register_skeleton
from supernet.cell import Kernels, MixedCell
from supernet.discrete import AuxiliaryHead, DiscreteCell, DiscreteNetwork
from supernet.genotypes.published import get_genotype
from supernet.spaces.darts import DARTS_SKELETON
from supernet.spaces.nasbench201 import NASBENCH201_SKELETON
from supernet.spaces.parts import MobileStem
from supernet.spaces.skeleton import SKELETONS, Size
from training.metrics import count_parameters

IMAGENET = {
    "DARTS_V2": 4_718_752,
    "PC-DARTS-ImageNet": 5_342_464,
    "P-DARTS": 4_944_352,
    "DrNAS-ImageNet": 5_726_368,
}
"""Parameters of the published networks for ImageNet, without the auxiliary head."""
CONVOLUTIONS = "|nor_conv_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_3x3~1|nor_conv_1x1~2|"
# Without pools, after which only the supernet has a batch norm.
WITHOUT_POOLS = Genotype.parse("""Genotype(
    normal=[('sep_conv_3x3', 0), ('skip_connect', 1), ('dil_conv_5x5', 0), ('sep_conv_5x5', 2),
            ('skip_connect', 0), ('dil_conv_3x3', 1), ('sep_conv_3x3', 4), ('skip_connect', 3)],
    normal_concat=[2, 3, 4, 5],
    reduce=[('skip_connect', 0), ('sep_conv_3x3', 1), ('dil_conv_3x3', 0), ('skip_connect', 2),
            ('skip_connect', 1), ('sep_conv_5x5', 3), ('dil_conv_5x5', 0), ('sep_conv_3x3', 1)],
    reduce_concat=[2, 3, 4, 5])""")
GENOTYPES = {"darts": WITHOUT_POOLS, "nasbench201": Genotype.parse(CONVOLUTIONS)}
CELLS = {"darts": 4, "nasbench201": 1}


def on_imagenet(name: str) -> DiscreteNetwork:
    """A published network for ImageNet, of shapes alone."""
    with torch.device("meta"):
        return DiscreteNetwork(get_genotype(name), classes=1000, auxiliary=True, stem="imagenet")


# As published


@pytest.mark.parametrize("name", IMAGENET)
def test_networks_for_imagenet_have_the_published_parameters(name: str) -> None:
    assert count_parameters(on_imagenet(name)) - count_parameters(on_imagenet(name).auxiliary) == IMAGENET[name]


def test_from_224_pixels_to_28_before_the_cells_and_7_behind_them() -> None:
    network = on_imagenet("DARTS_V2")
    shapes: list[tuple[list[list[int]], list[int]]] = []
    for cell in network.cells:
        cell.register_forward_hook(
            lambda _, inputs, output: shapes.append(([list(state.shape[1:]) for state in inputs[0]], list(output.shape[1:])))
        )
    logits, auxiliary = network.forward_with_auxiliary(torch.empty(2, 3, 224, 224, device="meta"))
    assert logits.shape == auxiliary.shape == (2, 1000)
    assert len(shapes) == 14
    assert shapes[0] == ([[48, 56, 56], [48, 28, 28]], [192, 28, 28])
    assert shapes[1] == ([[48, 28, 28], [192, 28, 28]], [192, 28, 28])
    assert [output[1] for _, output in shapes] == [28] * 4 + [14] * 5 + [7] * 5
    assert shapes[-1][1] == [768, 7, 7]
    halving = [isinstance(cell.preprocess[0], FactorizedReduce) for cell in network.cells]
    assert [number for number, halves in enumerate(halving) if halves] == [0, 5, 10]


def test_the_stem_is_that_of_darts() -> None:
    stem = MobileStem(3, 6).double()
    images = torch.randn(2, 3, 11, 8, dtype=torch.float64)
    first, second, third = [layer.weight for layer in stem.modules() if isinstance(layer, nn.Conv2d)]
    assert [tuple(weight.shape) for weight in (first, second, third)] == [(3, 3, 3, 3), (6, 3, 3, 3), (6, 6, 3, 3)]

    def norm(state: Tensor) -> Tensor:
        return F.batch_norm(state, None, None, training=True)

    state = norm(F.conv2d(images, first, stride=2, padding=1))
    older = norm(F.conv2d(state.relu(), second, stride=2, padding=1))
    newer = norm(F.conv2d(older.relu(), third, stride=2, padding=1))
    found = stem(images)
    torch.testing.assert_close(found, (older, newer))
    assert [tuple(state.shape) for state in found] == [(2, 6, 3, 2), (2, 6, 2, 1)]


def test_the_auxiliary_head_pools_maps_of_7x7_as_on_imagenet() -> None:
    head = AuxiliaryHead(6, 10).eval()
    state = torch.randn(2, 6, 7, 7)
    features = head.features(F.avg_pool2d(state.relu(), 5, 2))
    torch.testing.assert_close(head(state), head.classifier(features.flatten(1)))


def test_sizes_by_default() -> None:
    assert (DARTS_SKELETON.default_size(), DARTS_SKELETON.default_size("imagenet")) == ((36, 20), (48, 14))
    assert NASBENCH201_SKELETON.default_size("imagenet") == NASBENCH201_SKELETON.default_size() == (16, 5)
    with torch.device("meta"):
        network = DiscreteNetwork(get_genotype("DARTS_V2"), cells=5, stem="imagenet")
    assert (network.channels, network.cell_count, network.stem_name) == (48, 5, "imagenet")


# Both networks behind it


def partners(network: Supernet, discrete: DiscreteNetwork) -> list[tuple[nn.Parameter, int | None, nn.Parameter]]:
    """(parameter of the supernet, row in it or None for the whole, that of the same weights in the discrete network)."""
    found: list[tuple[nn.Parameter, int | None, nn.Parameter]] = []

    def whole(ours: nn.Module, theirs: nn.Module) -> None:
        named = dict(theirs.named_parameters())
        found.extend((parameter, None, named[name]) for name, parameter in ours.named_parameters())

    for ours, theirs in zip(network.layers, discrete.layers, strict=True):
        if not isinstance(ours, MixedCell):
            whole(ours, theirs)
            continue
        assert isinstance(theirs, DiscreteCell)
        whole(ours.preprocess, theirs.preprocess)
        for number, feeds in enumerate(discrete.genotype.cells[ours.position.kind].nodes):
            for (name, source), operation in zip(feeds, theirs.nodes[number], strict=True):
                key, edge = f"{source}/{name}", ours.space.edges.index((source, ours.space.inputs + number))
                named = dict(operation.named_parameters())
                if named:  # an identity has none
                    row, bank = ours.slots[key].edges.index(edge), ours.banks[key]
                    assert isinstance(bank, Bank)
                    found.extend((bank.stacked(part), row, named[part]) for part in sorted({*bank.names} & {*named}))
    whole(network.stem, discrete.stem)
    whole(network.head, discrete.head)
    return found


@pytest.mark.parametrize("kernels", ["reference", "fused"])
@pytest.mark.parametrize("size", [(32, 32), (37, 21)])
@pytest.mark.parametrize("space", GENOTYPES)
def test_a_one_hot_supernet_is_the_discrete_network(space: str, size: tuple[int, int], kernels: Kernels) -> None:
    """Logits and the gradients of images and of all weights that both have, in float64."""
    genotype = GENOTYPES[space]
    network = Supernet(get_space(space), 4, CELLS[space], 5, kernels=kernels, stem="imagenet").double()
    discrete = DiscreteNetwork(genotype, 4, CELLS[space], 5, stem="imagenet").double()
    shared = partners(network, discrete)
    convolutions = [layer.weight for layer in discrete.modules() if isinstance(layer, nn.Conv2d)]
    copied = {theirs for _, _, theirs in shared}
    assert all(weight in copied for weight in convolutions)
    with torch.no_grad():
        for ours, row, theirs in shared:
            theirs.copy_(ours if row is None else ours[row])
    mixture = {kind: table.double() for kind, table in Path.of_genotype(genotype, network.space).one_hot(network.space).items()}
    images = torch.randn(3, 3, *size, dtype=torch.float64)
    results = []
    for call in (lambda state: network(state, mixture), discrete):
        leaf = images.clone().requires_grad_()
        logits = call(leaf)
        F.cross_entropy(logits, torch.tensor([0, 3, 4])).backward()
        results.append((logits, leaf.grad))
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-10)
    assert results[0][1].abs().max() > 1e-6
    for ours, row, theirs in shared:
        assert ours.grad is not None
        torch.testing.assert_close(ours.grad if row is None else ours.grad[row], theirs.grad, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("space", GENOTYPES)
def test_fused_cells_behind_it_compute_what_the_reference_does(space: str) -> None:
    """Under a mixture of all candidates: logits and the gradients of alphas and stem, in float64."""
    alphas = get_space(space).new_alphas(scale=1.0)
    images = torch.randn(3, 3, 37, 32, dtype=torch.float64)
    results = []
    for kernels in ("reference", "fused"):
        torch.manual_seed(1)
        network = Supernet(get_space(space), 16, 3, 5, kernels=kernels, stem="imagenet").double()  # type: ignore[arg-type]
        leaves = {kind: alpha.detach().double().requires_grad_() for kind, alpha in alphas.items()}
        logits = network(images, {kind: leaf.softmax(-1) for kind, leaf in leaves.items()})
        F.cross_entropy(logits, torch.tensor([0, 3, 4])).backward()
        gradients = [tensor.grad for tensor in (*leaves.values(), *network.stem.parameters())]
        results.append((logits, gradients))
    torch.testing.assert_close(results[1], results[0], rtol=1e-8, atol=1e-10)


def test_nasbench201_reads_the_newer_state() -> None:
    network = DiscreteNetwork(GENOTYPES["nasbench201"], channels=4, cells=1, stem="imagenet").eval()
    seen: list[list[Tensor]] = []
    network.cells[0].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    images = torch.randn(2, 3, 40, 24)
    network(images)
    (states,) = seen
    assert len(states) == 1 and states[0].shape == (2, 4, 5, 3)
    torch.testing.assert_close(states[0], network.stem(images)[1])


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (9, 4), (31, 33), (17, 50)])
@pytest.mark.parametrize("space", GENOTYPES)
def test_images_of_any_size_from_4x4(space: str, size: tuple[int, int]) -> None:
    """States of stem and cells stay in step on odd sides, too."""
    found = get_space(space)
    images = torch.randn(4, 1, *size)
    network = Supernet(found, 4, CELLS[space], 3, 1, stem="imagenet")
    mixture = {kind: alpha.softmax(-1) for kind, alpha in found.new_alphas().items()}
    discrete = DiscreteNetwork(GENOTYPES[space], 4, CELLS[space], 3, 1, auxiliary=space == "darts", stem="imagenet")
    outputs = [network(images, mixture), discrete(images)]
    if space == "darts":
        outputs.append(discrete.forward_with_auxiliary(images)[1])
    for logits in outputs:
        assert logits.shape == (4, 3)
        logits.square().sum().backward()
    for stem in (network.stem, discrete.stem):
        assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in stem.parameters())
    with pytest.raises(ValueError, match="needs at least 4x4"):
        discrete(torch.randn(2, 1, 3, 8))


def test_states_stay_channels_last() -> None:
    network = DiscreteNetwork(get_genotype("DARTS_V2"), channels=4, cells=3, stem="imagenet")
    seen: list[list[Tensor]] = []
    network.cells[0].register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    network(torch.randn(2, 3, 32, 32))
    assert all(state.is_contiguous(memory_format=torch.channels_last) for state in seen[0])


# What is refused


def test_a_stem_that_does_not_fit_is_refused() -> None:
    for space in GENOTYPES:
        with pytest.raises(ValueError, match=r"^channels: must be even with stem imagenet, which .* half of them, not 5$"):
            Supernet(get_space(space), channels=5, cells=3, stem="imagenet")
    with pytest.raises(ValueError, match=r"^channels: must be at least 1, not 0$"):
        DiscreteNetwork(get_genotype("DARTS_V2"), channels=0, stem="imagenet")
    with pytest.raises(ValueError, match=r"^stem: must be cifar or imagenet, not 'mobile'$"):
        DiscreteNetwork(get_genotype("DARTS_V2"), stem="mobile")  # type: ignore[arg-type]
    small = replace(DARTS_SKELETON, name="small", stems=("cifar",))
    with pytest.raises(InputError, match=r"^stem: the small skeleton has none but cifar, not imagenet$"):
        small.check_size(Size(4, 3, {"normal": 1, "reduce": 1}, "imagenet"))


def test_a_stem_with_too_few_states_is_refused() -> None:
    three = Supernet(
        SearchSpace("three", replace(DARTS_SKELETON, name="three", inputs=3), 1, ("none",), (3,)), 4, 3, stem="imagenet"
    )
    mixture = {kind: torch.ones(3, 1) for kind in ("normal", "reduce")}
    with pytest.raises(ValueError, match=r"^skeleton three: its stem makes 2 states, and a cell reads 3$"):
        three(torch.randn(2, 3, 32, 32), mixture)


def test_facts_that_cannot_be() -> None:
    for facts, message in (
        ({"kinds": ()}, "kinds must be distinct"),
        ({"kinds": ("a", "a")}, "kinds must be"),
        ({"inputs": 0}, "at least one input, not 0"),
    ):
        with pytest.raises(InputError, match=f"^skeleton darts: .*{message}"):
            replace(DARTS_SKELETON, **facts)


def test_a_skeleton_is_registered_once() -> None:
    assert register_skeleton(DARTS_SKELETON) is DARTS_SKELETON
    with pytest.raises(InputError, match=r"^skeleton 'darts' is registered already$"):
        register_skeleton(replace(DARTS_SKELETON, stem_multiplier=1))
    with SKELETONS.temporarily(), pytest.raises(InputError, match=r"^skeleton thin: another one is registered by this name$"):
        thin = register_skeleton(replace(DARTS_SKELETON, name="thin", stem_multiplier=1))
        Genotype(get_genotype("DARTS_V2").cells, replace(thin, stem_multiplier=2), "mine")
