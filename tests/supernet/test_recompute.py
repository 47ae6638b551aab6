"""Cells that backward computes again: the bits of those that it does not, in less memory."""

import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode

from base.checks import InputError
from benchmarks.plain.counting import alive_bytes, saved_bytes
from benchmarks.plain.pairing import softmax
from ops.registry import OPERATIONS, register_op
from supernet import DiscreteNetwork, Path, Supernet, get_space, list_spaces
from supernet.genotypes.published import get_genotype
from supernet.recompute import GeneratorState, KeptDraws, Recompute, recomputed
from supernet.spaces.darts import DARTS_SKELETON
from supernet.spaces.space import SearchSpace

SMALL = {"darts": {"channels": 4, "cells": 3}, "nasbench201": {"channels": 4, "cells": 1}}
Network = Supernet | DiscreteNetwork
Make = Callable[[Recompute], Network]


def searched(space: str | SearchSpace, recompute: Recompute = "none", **options: Any) -> Supernet:
    torch.manual_seed(0)
    found = get_space(space) if isinstance(space, str) else space
    return Supernet(found, **SMALL.get(found.name, SMALL["nasbench201"]) | options, recompute=recompute)


def retrained(genotype: str, recompute: Recompute = "none", **options: Any) -> DiscreteNetwork:
    torch.manual_seed(0)
    network = DiscreteNetwork(get_genotype(genotype), **SMALL["darts"] | options, recompute=recompute)
    network.drop_path = torch.tensor(0.3)
    return network


def mixture_of(network: Network) -> dict[str, Tensor]:
    """A mixture, always the same, whose gradient can be taken."""
    if isinstance(network, DiscreteNetwork):
        return {}
    cells = None if network.tie_cells else network.cells_of_kind
    alphas = network.space.new_alphas(cells, 1.0, torch.Generator().manual_seed(2))
    return {kind: table.detach().requires_grad_() for kind, table in softmax(alphas).items()}


def loss_of(network: Network, mixture: dict[str, Tensor], *others: Any) -> Tensor:
    images = torch.randn(4, 3, 8, 9, generator=torch.Generator().manual_seed(1))
    if isinstance(network, Supernet):
        return network(images, mixture, *others).float().square().sum()
    outputs = network.forward_with_auxiliary(images) if network.auxiliary else [network(images)]
    return torch.stack([output.float().square().sum() for output in outputs]).sum()


def trained(network: Network, *others: Any) -> list[Tensor | None]:
    """All that two steps of gradient descent leave behind: weights, statistics, gradients, the generator."""
    mixture = mixture_of(network)
    torch.manual_seed(5)
    for _ in range(2):
        network.zero_grad()
        loss_of(network, mixture, *others).backward()
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.grad is not None:
                    parameter.sub_(0.01 * parameter.grad)
    known = [*network.parameters(), *mixture.values()]
    return [*known, *network.buffers(), *(tensor.grad for tensor in known), torch.rand(3)]


def assert_same_bits(ends: list[list[Tensor | None]]) -> None:
    plain, again = ends
    assert any(tensor is not None and tensor.isnan().any() for tensor in plain) is False
    for one, other in zip(plain, again, strict=True):
        assert one is other if one is None or other is None else torch.equal(one, other)


def check(make: Make, *others: Any) -> None:
    assert_same_bits([trained(make(recompute), *others) for recompute in ("none", "cells")])


# The same bits


@pytest.mark.parametrize("space", list_spaces())
@pytest.mark.parametrize("options", [{}, {"partial": 2}, {"tie_cells": False}, {"batch_statistics": True}], ids=str)
def test_a_supernet_ends_with_the_same_bits(space: str, options: dict[str, Any]) -> None:
    check(partial(searched, space, **options))


@pytest.mark.parametrize("options", [{}, {"partial": 2}], ids=str)
def test_operations_that_attend_end_with_the_same_bits(options: dict[str, Any]) -> None:
    space = SearchSpace("attending", get_space("nasbench201").skeleton, 2, ("se", "self_attention", "none"), (2,))
    check(partial(searched, space, **options))


@pytest.mark.parametrize("space", list_spaces())
def test_a_path_ends_with_the_same_bits(space: str) -> None:
    found = get_space(space)
    path = Path({kind: torch.arange(len(found.edges)) % len(found.candidates) for kind in found.kinds})
    check(partial(searched, space), path)


@pytest.mark.parametrize("space", list_spaces())
def test_bfloat16_ends_with_the_same_bits(space: str) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        forward = loss_of(searched(space, "cells"), mixture_of(searched(space)))
    ends = []
    for recompute in ("none", "cells"):
        network = searched(space, recompute)
        mixture = mixture_of(network)
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(network, mixture)
        loss.backward()  # outside, as in a step of a search
        ends.append([loss, *network.buffers(), *(tensor.grad for tensor in (*network.parameters(), *mixture.values()))])
    assert torch.equal(forward, ends[0][0]) and not torch.equal(forward, loss_of(searched(space), mixture_of(searched(space))))
    assert_same_bits(ends)


@pytest.mark.parametrize("options", [{"auxiliary": True}, {"auxiliary": False}, {"stem": "imagenet"}], ids=str)
def test_a_network_of_a_genotype_ends_with_the_same_bits(options: dict[str, Any]) -> None:
    """With dropped paths, whose masks are drawn in the cell."""
    check(partial(retrained, "DARTS_V2", **options))


@pytest.fixture
def own_operations() -> Iterator[None]:
    with OPERATIONS.temporarily():
        register_op("dropout")(lambda channels, stride, affine: nn.Sequential(nn.AvgPool2d(3, stride, 1), nn.Dropout(0.3)))
        register_op("counting")(lambda channels, stride, affine: Counting(stride))
        yield


class Counting(nn.Module):
    """Scales by the number of passes, which it counts."""

    passes: Tensor

    def __init__(self, stride: int):
        super().__init__()
        self.stride = stride
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, state: Tensor) -> Tensor:
        scale = self.passes.clone()
        self.passes += 1
        return state[:, :, :: self.stride, :: self.stride] * (1 + scale)


@pytest.mark.parametrize("operation", ["noise", "dropout", "counting"])
@pytest.mark.parametrize("skeleton", list_spaces())
def test_what_an_operation_draws_or_counts_is_the_same_again(operation: str, skeleton: str, own_operations: None) -> None:
    space = get_space(skeleton)
    mine = replace(space, name="mine", candidates=("none", "skip_connect", operation), searched_as={})
    check(partial(searched, mine, cells=3))


@pytest.mark.slow
def test_the_fused_executor_has_the_same_bits() -> None:
    """In Triton's interpreter, so one node and few pixels."""
    pools = {name: f"{name}_bn" for name in ("max_pool_3x3", "avg_pool_3x3")}
    operations = ("none", *pools, "skip_connect", "sep_conv_3x3", "dil_conv_3x3")
    space = SearchSpace("one_node", DARTS_SKELETON, 1, operations, (2,), searched_as=pools)
    images, ends = torch.randn(2, 3, 4, 4), []
    for recompute in ("none", "cells"):
        network = searched(space, recompute, channels=16, cells=3, kernels="fused")
        mixture = mixture_of(network)
        network(images, mixture).square().sum().backward()
        ends.append([*network.buffers(), *(tensor.grad for tensor in (*network.parameters(), *mixture.values()))])
    assert_same_bits(ends)


@pytest.mark.parametrize("space", list_spaces())
def test_the_second_derivative_has_the_same_bits(space: str) -> None:
    ends = []
    for recompute in ("none", "cells"):
        network = searched(space, recompute).double()
        mixture = {kind: table.double().detach().requires_grad_() for kind, table in mixture_of(network).items()}
        weights = [*network.parameters()]
        images = torch.randn(2, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        loss = network(images, mixture).square().sum()
        gradients = torch.autograd.grad(loss, weights, create_graph=True, allow_unused=True, materialize_grads=True)
        product = sum(gradient.square().sum() for gradient in gradients)
        ends.append([*torch.autograd.grad(product, [*mixture.values()]), *network.buffers()])
    assert_same_bits(ends)


def test_weights_that_were_put_in_place_for_one_pass_are_those_of_its_backward() -> None:
    ends = []
    for recompute in ("none", "cells"):
        network = searched("nasbench201", recompute)
        mixture = mixture_of(network)
        moved = {name: (weight.detach() + 0.1).requires_grad_() for name, weight in network.named_parameters()}
        images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        outputs = functional_call(network, moved, (images, mixture))
        ends.append(list(torch.autograd.grad(outputs.square().sum(), [*moved.values(), *mixture.values()])))
        assert all(parameter.grad is None for parameter in network.parameters())
    assert_same_bits(ends)


def test_a_graph_that_is_kept_is_gone_through_twice() -> None:
    network = searched("nasbench201", "cells")
    mixture = mixture_of(network)
    loss = loss_of(network, mixture)
    before = [buffer.clone() for buffer in network.buffers()]
    first = torch.autograd.grad(loss, [*mixture.values()], retain_graph=True)
    second = torch.autograd.grad(loss, [*mixture.values()])
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
    assert all(torch.equal(*pair) for pair in zip(before, network.buffers(), strict=True))


# What it needs


class Same(nn.Module):
    """Runs any function of tensors as a module."""

    def __init__(self, function: Callable[..., Tensor]):
        super().__init__()
        self.function = function

    def forward(self, *arguments: Any) -> Tensor:
        return self.function(*arguments)


def test_a_tensor_that_was_changed_before_backward_is_an_error() -> None:
    state = torch.randn(3, requires_grad=True)
    read = 1 * state
    output = recomputed(Same(torch.sin), read)
    read += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_a_module_that_does_something_else_again_is_an_error() -> None:
    times = iter([1, 2, 1])

    def several(state: Tensor) -> Tensor:
        for _ in range(next(times)):
            state = state.sin()
        return state

    for words in ("kept 1 tensors for backward and 2 when", "kept 1 tensors for backward and 0 when"):
        output = recomputed(Same(several), torch.randn(3, requires_grad=True))
        if "0 when" in words:
            times = iter([0])
        with pytest.raises(RuntimeError, match=words):
            output.sum().backward()


@pytest.mark.parametrize("make", [partial(searched, "darts"), partial(retrained, "DARTS_V2")])
def test_another_word_is_refused(make: Make) -> None:
    with pytest.raises(InputError, match=r"^recompute: must be none or cells, not 'all'$"):
        make("all")  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [partial(searched, "nasbench201"), partial(retrained, "DARTS_V2")])
def test_without_gradients_a_layer_runs_once_and_the_last_ones_always(make: Make) -> None:
    network = make("cells").eval()
    layers = [network.stem, *network.layers]
    passes: list[nn.Module] = []
    for layer in layers:
        layer.register_forward_hook(lambda layer, *_: passes.append(layer))
    with torch.no_grad():
        loss_of(network, mixture_of(network))
    assert passes == layers
    passes.clear()
    loss_of(network, mixture_of(network)).backward()
    assert passes == [*layers, *reversed(layers[:-2])]


# Random numbers

DRAWS: dict[str, Callable[[], Tensor]] = {
    "rand": lambda: torch.rand(4),
    "randn_like": lambda: torch.randn_like(torch.zeros(4)),
    "in place": lambda: torch.zeros(4).normal_().mul_(2),
    "dropout": lambda: nn.functional.dropout(torch.ones(40)),
    "bernoulli": lambda: torch.bernoulli(torch.full((40,), 0.5)),
    "integers": lambda: torch.randint(100, (4,)),
    "permutation": lambda: torch.randperm(50),
    "out": lambda: torch.rand(4, out=torch.zeros(4)),
    "two": lambda: torch.stack([torch.rand(4).add_(1), torch.rand(4)]),
    "rrelu": lambda: nn.functional.rrelu(-torch.ones(40), training=True),
}


@pytest.mark.parametrize("drawn", DRAWS)
@pytest.mark.parametrize("make", [GeneratorState, KeptDraws])
def test_random_numbers_are_the_same_as_often_as_they_are_asked_for(
    make: type[GeneratorState] | type[KeptDraws], drawn: str
) -> None:
    """On a GPU they are kept, as its generator has no state in a CUDA graph; here both ways can be tested."""
    draw = DRAWS[drawn]
    torch.manual_seed(1)
    expected, after = draw(), torch.rand(3)
    torch.manual_seed(1)
    draws = make()
    with draws.first():
        first = draw()
    assert torch.equal(first, expected)
    for _ in range(2):
        with draws.again():
            assert torch.equal(draw(), expected)
    assert torch.equal(torch.rand(3), after)


class NoGenerator(TorchDispatchMode):
    """Refuses operations that draw."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        assert torch.Tag.nondeterministic_seeded not in function.tags, function
        return function(*arguments, **(options or {}))


@pytest.mark.parametrize("make", [partial(retrained, "DARTS_V2", auxiliary=True), partial(searched, "nasbench201")])
def test_a_pass_with_kept_draws_has_the_same_bits_and_backward_asks_no_generator(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: a cell's random numbers are kept and every operation passes by."""
    with KeptDraws().first():  # compiled kernels leave a pass that is watched to plain torch
        plain = trained(make("none"))
        monkeypatch.setattr("supernet.recompute.GeneratorState", KeptDraws)
        assert_same_bits([plain, trained(make("cells"))])
    network = make("cells")
    loss = loss_of(network, mixture_of(network))
    with NoGenerator():
        loss.backward()


# Memory


def kept(network: Network, images: Tensor, frozen: bool = False) -> int:
    network.requires_grad_(not frozen)
    anyway = [*network.parameters(), *network.buffers()]
    if isinstance(network, Supernet):
        mixture = mixture_of(network)
        return saved_bytes(lambda: network(images, mixture), anyway)
    return saved_bytes(lambda: network.forward_with_auxiliary(images), anyway)


FULL = {"channels": 16, "cells": 8}
NETWORKS: dict[str, Callable[..., Network]] = {
    "search": partial(searched, "darts", **FULL),
    "search, fused": partial(searched, "darts", **FULL, kernels="fused"),
    "retraining": partial(retrained, "DARTS_V2", **FULL, auxiliary=True),
}


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if "search" in name else []) for name in NETWORKS])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=str)
def test_a_quarter_is_kept_at_most(name: str, precision: torch.dtype) -> None:
    """16 channels and 8 cells, on fake tensors."""
    with FakeTensorMode():
        found = []
        for recompute in ("none", "cells"):
            network = NETWORKS[name](recompute=recompute)
            with torch.autocast("cpu", torch.bfloat16, enabled=precision is torch.bfloat16):
                found.append(kept(network, torch.empty(16, 3, 32, 32)))
    assert 0.02 * found[0] < found[1] < 0.25 * found[0]


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("space", list_spaces())
def test_a_narrow_network_keeps_less(space: str, frozen: bool) -> None:
    networks = [searched(space, recompute, cells={"darts": 8, "nasbench201": 3}[space]) for recompute in ("none", "cells")]
    plain, again = (kept(network, torch.randn(4, 3, 8, 8), frozen) for network in networks)
    assert again < 0.25 * plain


def test_backward_holds_one_cell_at_a_time_and_nothing_at_the_end() -> None:
    """Not even until the next collection of garbage, which memory of tensors does not call for."""
    found = []
    gc.disable()
    try:
        for recompute in ("none", "cells"):
            network, images = retrained("DARTS_V2", recompute, cells=8), torch.randn(8, 3, 16, 16)

            def run(network: Network = network, images: Tensor = images) -> None:
                network(images).sum().backward()
                network.zero_grad()

            run()  # the first pass of a process leaves something behind
            found.append(alive_bytes(run, [*network.parameters(), *network.buffers(), images]))
    finally:
        gc.enable()
    plain, again = found
    assert again.most < 0.6 * plain.most
    # An executor may keep the statistics of its last call.
    assert again.left <= plain.left < 0.1 * plain.most
