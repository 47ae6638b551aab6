"""Operations that attend, against plain loops in float64, and the maps that they show."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.plain.counting import alive_bytes
from ops import Attending, attention_maps, build_op
from ops.attention import LARGEST_SIDE, SelfAttention, SqueezeExcitation
from ops.registry import OPERATIONS, register_op
from supernet import DiscreteNetwork, Genotype, SearchSpace, Supernet, get_space
from training.metrics import count_multiply_adds, count_parameters

EPSILON = 1e-5


def made(name: str, channels: int, stride: int, affine: bool = True) -> nn.Module:
    """The operation in float64, with no weight at zero and running statistics of its own."""
    module = build_op(name, channels, stride, affine).double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.6)
        for buffer in module.buffers():
            buffer.uniform_(0.5, 2)
    return module


def normed(state: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """Batch norm by its definition."""
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None and var is not None
    if norm.training:
        mean, var = state.mean((0, 2, 3)), state.var((0, 2, 3), unbiased=False)
    result = (state - mean[:, None, None]) / (var[:, None, None] + EPSILON).sqrt()
    return result if not norm.affine else result * norm.weight[:, None, None] + norm.bias[:, None, None]


def reduced(module: nn.Module, state: Tensor) -> Tensor:
    """The skip connection of stride 2: pixels of even and of odd places, odd borders with zeros."""
    if isinstance(module.reduce, nn.Identity):
        return state
    height, width = (-(-side // 2) for side in state.shape[2:])
    larger = nn.functional.pad(state.relu(), (0, 2, 0, 2))
    grids = [larger[:, :, first::2, first::2][:, :, :height, :width] for first in (0, 1)]
    weights = [layer.weight[:, :, 0, 0] for layer in (module.reduce.even, module.reduce.shifted)]
    halves = [torch.einsum("oc,bchw->bohw", weight, grid) for weight, grid in zip(weights, grids, strict=True)]
    return normed(torch.cat(halves, 1), module.reduce.norm)


def gates_of(module: nn.Module, state: Tensor) -> Tensor:
    """Hu et al. 2018, equations 2 and 3."""
    means = reduced(module, state).mean((2, 3))
    hidden = torch.einsum("hc,bc->bh", module.squeeze.weight, means).clamp_min(0)
    return 1 / (1 + torch.exp(-torch.einsum("ch,bh->bc", module.excite.weight, hidden)))


def attended(module: nn.Module, state: Tensor) -> tuple[Tensor, Tensor]:
    """Output of self-attention, and attention that each position receives, image by image and pixel by pixel."""
    skip = reduced(module, state)
    maps = normed(skip, module.norm)
    weights = {name: getattr(module, name).weight[:, :, 0, 0] for name in ("query", "key", "value", "project")}
    batch, _, height, width = maps.shape
    rows, columns = (range(0, side, -(-side // 16)) for side in (height, width))
    windows = [
        (slice(y, y + rows.step), slice(x, x + columns.step)) for y in rows for x in columns
    ]  # a slice ends at the border
    outputs, received = [], torch.zeros(batch, height, width, dtype=state.dtype)
    heads = len(weights["query"]) // 8
    for image in range(batch):
        means = torch.stack([maps[image][:, y, x].mean((1, 2)) for y, x in windows])
        total = skip[image]
        for head in range(heads):
            part = slice(8 * head, 8 * head + 8)
            query = torch.einsum("dc,chw->hwd", weights["query"][part], maps[image])
            key, value = means @ weights["key"][part].T, means @ weights["value"][part].T
            products = torch.exp(torch.einsum("hwd,md->hwm", query, key) / math.sqrt(8))
            shares = products / products.sum(-1, keepdim=True)
            total = total + torch.einsum("cd,md,hwm->chw", weights["project"][:, part], value, shares)
            for number, (y, x) in enumerate(windows):
                size = received[image, y, x].numel()
                received[image, y, x] += shares[:, :, number].mean().detach() / heads / size
        outputs.append(total)
    return torch.stack(outputs), received


def assert_equals_reference(name: str, channels: int, stride: int, size: tuple[int, int], training: bool) -> None:
    module = made(name, channels, stride).train(training)
    state = torch.randn(3, channels, *size, dtype=torch.float64, requires_grad=True)
    output, weights = module(state), module.attention(state)
    if name == "se":
        expected_weights = gates_of(module, state)
        expected = reduced(module, state) * expected_weights[:, :, None, None]
    else:
        expected, expected_weights = attended(module, state)
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(weights, expected_weights, rtol=1e-9, atol=1e-12)
    target, wanted = torch.randn_like(output), [state, *module.parameters()]
    ours = torch.autograd.grad((output * target).sum(), wanted)
    theirs = torch.autograd.grad((expected * target).sum(), wanted)
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8)
    assert all(gradient.abs().max() > 1e-9 for gradient in ours)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("name", ["se", "self_attention"])
def test_values_gradients_and_weights_equal_a_plain_reference(name: str, stride: int, training: bool) -> None:
    assert_equals_reference(name, 6, stride, (5, 4), training)
    assert_equals_reference(name, 32, stride, (4, 3), training)  # several heads


@settings(max_examples=8, deadline=None)
@given(height=st.integers(14, 37), width=st.integers(3, 37))
def test_keys_of_large_maps_are_means_over_windows(height: int, width: int) -> None:
    assert_equals_reference("self_attention", 2, 1, (height, width), training=False)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_self_attention_begins_as_the_skip_connection(stride: int) -> None:
    module = build_op("self_attention", 8, stride).eval()
    assert isinstance(module, SelfAttention)
    state = torch.randn(2, 8, 7, 6)
    assert torch.equal(module(state), module.reduce(state))


def test_widths_have_a_floor() -> None:
    assert [build_op("se", channels, 1).squeeze.out_features for channels in (1, 16, 36, 64, 96, 256)] == [4, 4, 4, 4, 6, 16]
    assert [build_op("self_attention", channels, 1).heads for channels in (1, 16, 36, 64, 100)] == [1, 1, 2, 4, 6]


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (16, 16), (17, 40), (64, 33)])
@pytest.mark.parametrize("stride", [1, 2])
def test_shares_of_positions_sum_to_one_at_the_size_of_the_output(size: tuple[int, int], stride: int) -> None:
    module = made("self_attention", 4, stride).eval()
    state = torch.randn(2, 4, *size, dtype=torch.float64)
    shares = module.attention(state)
    assert shares.shape == (2, *module(state).shape[2:])
    assert (shares >= 0).all()
    torch.testing.assert_close(shares.sum((1, 2)), torch.ones(2, dtype=torch.float64))


def test_a_map_of_224_pixels_takes_memory_for_256_keys_a_position() -> None:
    """All products of two positions of one image would take 10 GB; the state here takes 3 MB."""
    module = build_op("self_attention", 16, 1)
    state = torch.randn(1, 16, 224, 224)
    keys: list[torch.Size] = []
    module.attend.register_forward_hook(lambda _, inputs, output: keys.append(inputs[1].shape))
    with sdpa_kernel(SDPBackend.MATH):  # which keeps the products
        alive = alive_bytes(lambda: module(state).square().sum().backward(), [*module.parameters()])
    assert keys == [(1, 1, LARGEST_SIDE**2, 8)]
    products = 224**2 * LARGEST_SIDE**2 * 4
    assert products < alive.most < 5 * products
    assert module.attention(state).shape == (1, 224, 224)


@pytest.mark.parametrize("name", ["se", "self_attention"])
def test_bfloat16_is_near_float32(name: str) -> None:
    module = build_op(name, 16, 1).eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, 0, 0.2)
    state = torch.randn(2, 16, 12, 12)
    with torch.autocast("cpu", torch.bfloat16):
        output, weights = module(state), module.attention(state)
    torch.testing.assert_close(output.float(), module(state), rtol=0.05, atol=0.05)
    torch.testing.assert_close(weights.float(), module.attention(state), rtol=0.05, atol=0.01)


def test_a_gradient_of_a_gradient_is_that_of_the_reference() -> None:
    module = made("self_attention", 4, 1)
    state = torch.randn(2, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    weights = list(module.parameters())
    with sdpa_kernel(SDPBackend.MATH):
        first = torch.autograd.grad(module(state).square().sum(), weights, create_graph=True)
    reference = torch.autograd.grad(attended(module, state)[0].square().sum(), weights, create_graph=True)
    found = torch.autograd.grad(sum(each.square().sum() for each in first), state)
    expected = torch.autograd.grad(sum(each.square().sum() for each in reference), state)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-8)


def test_costs_count_both_products() -> None:
    """For each image: three convolutions of 16 to 8 channels, one of 8 to 16, and two products of 1024 queries and 256 keys."""
    module = build_op("self_attention", 16, 1)
    convolutions = (1024 + 256 + 256 + 1024) * 16 * 8
    assert count_multiply_adds(module, (16, 32, 32)) == convolutions + 2 * 1024 * 256 * 8
    assert count_multiply_adds(module.to("meta"), (16, 32, 32)) == convolutions + 2 * 1024 * 256 * 8
    assert count_parameters(module) == 4 * 16 * 8 + 2 * 16
    gated = build_op("se", 32, 1)
    assert count_multiply_adds(gated, (32, 8, 8)) == count_parameters(gated) == 2 * 32 * 4


# Maps of whole networks

CELL = "|self_attention~0|+|none~0|se~1|+|nor_conv_3x3~0|none~1|self_attention~2|"


def test_the_maps_of_a_network_have_the_names_of_its_modules() -> None:
    network = DiscreteNetwork(Genotype.parse(CELL), channels=4, cells=1).eval()
    images = torch.randn(3, 3, 12, 9)
    maps = attention_maps(network, images)
    modules = {name: module for name, module in network.named_modules() if isinstance(module, Attending)}
    assert maps.keys() == modules.keys() and len(maps) == 9
    for name, module in modules.items():
        found = maps[name]
        if isinstance(module, SqueezeExcitation):
            assert found.ndim == 2 and ((found > 0) & (found < 1)).all()
        else:
            torch.testing.assert_close(found.sum((1, 2)), torch.ones(3))
    sizes = [tuple(found.shape[1:]) for found in maps.values() if found.ndim == 3]
    assert sizes == [(12, 9)] * 2 + [(6, 5)] * 2 + [(3, 3)] * 2
    # Each is that of the state that its module sees.
    first = network.cells[0]
    state = first.preprocess[0](network.stem(images))
    torch.testing.assert_close(next(iter(maps.values())), first.nodes[0][0].attention(state))
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_a_network_that_does_not_attend_has_no_maps() -> None:
    network = DiscreteNetwork(Genotype.parse(CELL.replace("self_attention", "none").replace("se~", "none~")), 4, 1)
    assert attention_maps(network, torch.randn(2, 3, 8, 8)) == {}


def test_a_supernet_shows_its_candidates_and_an_operation_of_a_user() -> None:
    class Weighed(Attending):
        over = "positions"

        def forward(self, state: Tensor) -> Tensor:
            return state * self.attention(state)[:, None]

        def attention(self, state: Tensor) -> Tensor:
            return state.mean(1).flatten(1).softmax(-1).view(len(state), *state.shape[2:])

    with OPERATIONS.temporarily():
        register_op("weighed")(lambda channels, stride, affine: Weighed())
        space = SearchSpace(
            "weighing", get_space("nasbench201").skeleton, 2, ("none", "weighed", "se"), (2,), derived_inputs=None
        )
        network = Supernet(space, 4, 1)
        mixture = {kind: alpha.softmax(-1) for kind, alpha in space.new_alphas().items()}
        maps = attention_maps(network, torch.randn(2, 3, 8, 8), mixture)
    # Three cells, each with two edges of its own.
    assert sorted(found.ndim for found in maps.values()) == [2] * 9 + [3] * 9
    assert network.training


def test_more_channels_keep_the_weights_of_those_that_were_there() -> None:
    """DrNAS widens the channels that go through operations; the heads grow with them."""
    space = SearchSpace("wide", get_space("nasbench201").skeleton, 1, ("se", "self_attention"), (1,))
    network = Supernet(space, 32, 1, partial=2)
    mixture = {kind: alpha.softmax(-1) for kind, alpha in space.new_alphas().items()}
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    network.rebuild(partial=1)
    after = dict(network.named_parameters())
    grown = [name for name in before if before[name].shape != after[name].shape]
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in grown} >= {"query", "key", "value", "project", "excite"}
    for name in before:
        assert torch.equal(after[name][tuple(map(slice, before[name].shape))], before[name])
    assert network(torch.randn(2, 3, 8, 8), mixture).isfinite().all()
