"""Every map of a network is in channels_last: one that is not would be converted by each later operation, in silence."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ops.functional import channel_shuffle, factorized_reduce, new_map, parted
from ops.images import Noise, Zero
from supernet import DiscreteNetwork, Genotype, Path, Supernet, get_space
from supernet.cell import MixedCell
from supernet.genotypes.published import get_genotype

BATCH = 5
VIEWS = (
    "permute",
    "view",
    "_unsafe_view",
    "unbind",
    "detach",
    "slice",
    "alias",
    "transpose",
    "expand",
    "split",
    "split_with_sizes",
)
REARRANGED = ("clone", "stack", "new_zeros", "randn", "_scaled_dot_product_flash_attention_for_cpu")
"""Operations whose results `rearrange` reads in another order of axes than [B, C, H, W]; and the images."""


def is_nhwc(tensor: Tensor) -> bool:
    """Says whether the channels of [B, C, H, W] lie side by side; a part of the channels is not contiguous."""
    return tensor.shape[1] == 1 or tensor.shape[2:] == (1, 1) or tensor.stride(1) == 1


class Layouts(TorchDispatchMode):
    """Counts the operations that make a map in another layout, and those that make one in NHWC."""

    def __init__(self) -> None:
        super().__init__()
        self.others: Counter[str] = Counter()
        self.right = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        result = function(*arguments, **(options or {}))
        name = function.overloadpacket.__name__
        for tensor in tree_leaves(result):
            if not isinstance(tensor, Tensor) or tensor.ndim != 4 or len(tensor) != BATCH or not tensor.is_floating_point():
                continue
            if name not in (*VIEWS, *REARRANGED):
                self.right += is_nhwc(tensor)
                self.others[name] += not is_nhwc(tensor)
        self.others = +self.others
        return result


def forward(network: Supernet, size: int, path: Path | None = None) -> Tensor:
    mixture = network.space.new_alphas(None if network.tie_cells else network.cells_of_kind)
    table = {kind: alpha.softmax(-1) for kind, alpha in mixture.items()}
    return network(torch.randn(BATCH, network.image_channels, size, size), table, path)


def states_of(network: nn.Module) -> list[Tensor]:
    """A list that gets what goes into and comes out of each layer of `network`."""
    seen: list[Tensor] = []

    def see(_: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        seen.extend(tensor for tensor in tree_leaves((inputs, output)) if isinstance(tensor, Tensor) and tensor.ndim == 4)

    for layer in network.layers:
        layer.register_forward_hook(see)
    return seen


SUPERNETS: dict[str, dict[str, Any]] = {
    "all channels": {},
    "partial channels": {"partial": 4},
    "half the channels": {"partial": 2},
    "mobile stem": {"stem": "imagenet", "size": 36},
    "mobile stem, partial channels": {"stem": "imagenet", "size": 36, "partial": 4},
    "odd size": {"size": 15},
    "odd size, partial channels": {"size": 15, "partial": 4},
    "gray images": {"image_channels": 1},
    "statistics kept": {"batch_statistics": False, "partial": 2},
    "cells computed again": {"recompute": "cells", "partial": 4},
}


@pytest.mark.parametrize("space", ["darts", "nasbench201"])
@pytest.mark.parametrize("variant", SUPERNETS)
def test_every_map_of_a_supernet_in_plain_torch(variant: str, space: str) -> None:
    settings = dict(SUPERNETS[variant])
    size = settings.pop("size", 16)
    network = Supernet(get_space(space), 8, 3 if space == "darts" else 1, kernels="reference", **settings)
    for training in (True, False):
        network.train(training)
        with Layouts() as seen:
            forward(network, size)
        # The two layouts of one channel look alike, so that the stem's output is converted by itself.
        stem = {"convolution": 1, "native_batch_norm": 1} if network.image_channels == 1 else {}
        assert seen.right > 30 and seen.others == stem


@pytest.mark.parametrize("partial", [1, 4])
@pytest.mark.parametrize("space", ["darts", "nasbench201"])
def test_every_map_of_a_path(space: str, partial: int) -> None:
    """Nodes without any input, with `none` alone, with a pool alone, and with all edges."""
    found = get_space(space)
    network = Supernet(found, 8, 3 if space == "darts" else 1, partial=partial, kernels="reference")
    edges = len(found.edges)
    for name in (*found.candidates, None):
        column = -1 if name is None else found.candidates.index(name)
        for kept in (edges, 2):
            path = Path({kind: [column] * kept + [-1] * (edges - kept) for kind in found.kinds})
            with Layouts() as seen:
                forward(network, 8, path)
            assert seen.others == {}, name


@pytest.mark.parametrize("partial", [1, 4])
@pytest.mark.parametrize("kernels", ["auto", "reference", "fused"])
@pytest.mark.parametrize("space", [pytest.param("darts", marks=pytest.mark.slow), "nasbench201"])
def test_states_of_every_cell_by_every_executor(space: str, kernels: Any, partial: int) -> None:
    network = Supernet(get_space(space), 8, 3 if space == "darts" else 1, partial=partial, kernels=kernels)
    seen = states_of(network)
    forward(network, 8)
    mixed = [layer for layer in network.layers if isinstance(layer, MixedCell)]
    assert {type(executor).__name__ for cell in mixed for executor in cell.executors.values()} <= {
        "auto": {"NativeCell", "ReferenceCell"},
        "reference": {"ReferenceCell"},
        "fused": {"FusedCell"} if partial == 1 else {"ReferenceCell"},
    }[kernels]
    assert len(seen) >= 9 and all(map(is_nhwc, seen))


NONE = "|none~0|+|nor_conv_1x1~0|skip_connect~1|+|avg_pool_3x3~0|none~1|nor_conv_3x3~2|"
NOTHING = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
ATTENDING = "|self_attention~0|+|none~0|se~1|+|nor_conv_3x3~0|skip_connect~1|self_attention~2|"
DISCRETE: dict[str, dict[str, Any]] = {
    "DARTS_V2": {"auxiliary": True, "drop_path": 0.3},
    "DARTS_V2, 7x7 maps": {"auxiliary": True, "size": 28},
    "DARTS_V2, other maps": {"auxiliary": True, "size": 21},
    "PC-DARTS": {"stem": "imagenet", "size": 36},
    "NASNet-A": {"auxiliary": True, "size": 32, "drop_path": torch.tensor(0.3)},
    "AmoebaNet-A": {"stem": "imagenet", "size": 44, "drop_path": 0.1},
    NONE: {"drop_path": 0.2},
    NOTHING: {},
    ATTENDING: {"size": 34},
}


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", DISCRETE)
def test_every_map_of_a_discrete_network(name: str, last: bool) -> None:
    """Whether its weights are in channels_last, as training has them, or not."""
    settings = dict(DISCRETE[name])
    size, drop = settings.pop("size", 16), settings.pop("drop_path", 0.0)
    genotype = Genotype.parse(name) if "|" in name else get_genotype(name.partition(",")[0])
    network = DiscreteNetwork(genotype, 8, 1 if "|" in name else 3, kernels="reference", **settings)
    network.drop_path = drop
    if last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(BATCH, 3, size, size)
    for training in (True, False):
        network.train(training)
        with Layouts() as seen:
            network.forward_with_auxiliary(images) if network.auxiliary is not None else network(images)
        assert seen.right > 10 and seen.others == {}


def test_the_cells_of_a_trained_network_by_compiled_kernels() -> None:
    network = DiscreteNetwork(get_genotype("DARTS_V2"), 8, 3)
    seen = states_of(network)
    network(torch.randn(BATCH, 3, 16, 16))
    assert len(seen) == 9 and all(map(is_nhwc, seen))


def test_gradients_of_partial_channels() -> None:
    """Of the parts of a state, and through the shuffle behind them."""
    state = torch.randn(BATCH, 8, 6, 6).contiguous(memory_format=torch.channels_last).requires_grad_()
    first, second = parted(state, 2)
    assert is_nhwc(first) and is_nhwc(second)
    shuffled = channel_shuffle(torch.cat((first.relu(), second.exp()), dim=1), 4)
    assert shuffled.is_contiguous(memory_format=torch.channels_last)
    (gradient,) = torch.autograd.grad(shuffled, [state], torch.randn_like(shuffled))
    assert is_nhwc(gradient)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_the_shuffle_interleaves_groups_in_either_layout(memory: torch.memory_format) -> None:
    state = torch.arange(2 * 6 * 2 * 3.0).view(2, 6, 2, 3).contiguous(memory_format=memory)
    found = channel_shuffle(state, 2)
    assert torch.equal(found, state[:, [0, 3, 1, 4, 2, 5]]) and found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [3, 4, 7, 8, 15])
@pytest.mark.parametrize("channels", [2, 8, 16])
def test_a_factorised_reduction_of_any_size(channels: int, size: int) -> None:
    """For few channels on the CPU the pixels are picked first, of which torch does not see the layout on odd sides."""
    state = torch.randn(BATCH, channels, size, size).contiguous(memory_format=torch.channels_last)
    weights = [nn.Conv2d(channels, 4, 1).weight for _ in range(2)]
    assert is_nhwc(factorized_reduce(state, *weights))


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("stride", [1, 2])
def test_noise(stride: int, size: int) -> None:
    state = torch.randn(BATCH, 4, size, size).contiguous(memory_format=torch.channels_last)
    assert Noise(stride)(state).is_contiguous(memory_format=torch.channels_last)


def test_zeros() -> None:
    state = torch.randn(BATCH, 4, 5, 7).contiguous(memory_format=torch.channels_last)
    for zeros, shape in (
        (Zero(1)(state), (BATCH, 4, 5, 7)),
        (Zero(2)(state), (BATCH, 4, 3, 4)),
        (new_map(state, 3, (2, 2)), None),
    ):
        assert zeros.shape == (shape or (BATCH, 3, 2, 2)) and not zeros.any()
        assert zeros.is_contiguous(memory_format=torch.channels_last)
