"""Cells on compiled kernels against the same cells in plain torch, in float64 unless said otherwise."""

import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.plain.executors import KINDS, Tensors, largest_difference, new_cell, outcome
from benchmarks.plain.pairing import softmax
from ops.banks import make_bank
from ops.executor import CellOperations, Operation
from ops.fused import FusedCell
from ops.native import executor
from ops.native.executor import NativeCell
from ops.reference import ReferenceCell
from supernet import DiscreteNetwork, Genotype, Supernet, get_space
from supernet.spaces.space import list_spaces

DENSE = "|nor_conv_3x3~0|+|nor_conv_1x1~0|nor_conv_3x3~1|+|skip_connect~0|avg_pool_3x3~1|nor_conv_3x3~2|"
each_kind = pytest.mark.parametrize(("space", "kind"), KINDS)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets the number of threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def difference(space: str, kind: str, **options) -> float:
    return largest_difference(*(outcome(each, space, kind, **options) for each in (NativeCell, ReferenceCell)))


def test_every_space_is_computed() -> None:
    for space in list_spaces():
        for cell in Supernet(get_space(space), 16, 3, 10).mixed_cells():
            assert NativeCell.computes(cell.operations())


@each_kind
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch_statistics", [True, False])
def test_a_native_cell_is_the_plain_one(space: str, kind: str, training: bool, batch_statistics: bool) -> None:
    assert difference(space, kind, training=training, batch_statistics=batch_statistics) < 1e-12


@each_kind
@pytest.mark.parametrize("size", [(16, 16), (4, 5), (1, 7), (2, 3)])
def test_any_size_of_image(space: str, kind: str, size: tuple[int, int]) -> None:
    """Odd and even sides, and sides shorter than the kernels."""
    assert difference(space, kind, size=size) < 1e-10


@each_kind
@pytest.mark.parametrize("channels", [2, 4, 6, 20, 36])
def test_any_number_of_channels(space: str, kind: str, channels: int) -> None:
    """Several pixels share a vector, a pixel has one of its own, or several, filled up or not."""
    plain = outcome(ReferenceCell, space, kind, channels=channels, size=(7, 6))
    for dtype, most in ((torch.float64, 1e-11), (torch.float32, 1e-3)):
        native = outcome(NativeCell, space, kind, dtype=dtype, channels=channels, size=(7, 6))
        expected = {name: tensor for name, tensor in plain.items() if name in native}
        assert len(native) > 0.9 * len(plain) and largest_difference(native, expected) < most


@each_kind
@pytest.mark.parametrize(("channels", "partial"), [(16, 4), (8, 2), (16, 8), (36, 3), (40, 2)])
@pytest.mark.parametrize("size", [(8, 8), (7, 5)])
@pytest.mark.parametrize("shares", [True, False])
def test_partial_channels(space: str, kind: str, channels: int, partial: int, size: tuple[int, int], shares: bool) -> None:
    """Some channels pass the operations by, scaled by shares of their own or by the sums of the mixture."""
    options = {"channels": channels, "partial": partial, "size": size, "shares": shares}
    assert difference(space, kind, **options) < 1e-10


@each_kind
@pytest.mark.parametrize("seed", range(3))
def test_masked_candidates(space: str, kind: str, seed: int) -> None:
    found, generator = get_space(space), torch.Generator().manual_seed(seed)
    candidates = {kind: torch.rand(len(found.edges), len(found.candidates), generator=generator) < 0.5}
    assert difference(space, kind, candidates=candidates) < 1e-10


@each_kind
@pytest.mark.parametrize("partial", [1, 4])
@settings(max_examples=6)
@given(st.data())
def test_paths(space: str, kind: str, partial: int, data: st.DataObject) -> None:
    """On edges of a path without an operation no channels pass by, either."""
    found = get_space(space)
    choice = st.integers(-1, len(found.candidates) - 1)
    path = data.draw(st.lists(choice, min_size=len(found.edges), max_size=len(found.edges)))
    assert difference(space, kind, path=path, partial=partial, shares=partial > 1) < 1e-9


@each_kind
def test_frozen_weights_get_no_gradient_and_alphas_the_same(space: str, kind: str) -> None:
    native, plain = (outcome(each, space, kind, frozen=True) for each in (NativeCell, ReferenceCell))
    assert largest_difference(native, plain) < 1e-12
    assert [name for name in native if name.startswith("gradient")] == ["gradient alphas"]


@each_kind
@pytest.mark.parametrize("partial", [1, 4])
def test_a_number_of_threads_gives_its_own_bits_each_time(
    space: str, kind: str, partial: int, threads: Callable[[int], None]
) -> None:
    """And the same values as any other, more threads than images included."""
    plain = outcome(ReferenceCell, space, kind, batch=5, partial=partial)
    for count in (1, 2, 3, 8):
        threads(count)
        first, second = (outcome(NativeCell, space, kind, batch=5, partial=partial) for _ in range(2))
        assert all(torch.equal(first[name], second[name]) for name in first)
        assert largest_difference(first, plain) < 1e-12


@each_kind
def test_what_is_not_a_number_stays_so(space: str, kind: str) -> None:
    """A search whose loss is no number has to be told so."""
    cell = new_cell(space, kind)
    mixture = torch.rand(len(cell.space.edges), len(cell.space.candidates))
    for value in (float("nan"), float("inf")):
        states = [torch.randn(2, cell.position.channels, 6, 6) for _ in range(cell.space.inputs)]
        states[0][0, 0, 3, 3] = value
        found = [each(cell.operations())(states, mixture) for each in (NativeCell, ReferenceCell)]
        assert [bool(output.isfinite().all()) for output in found] == [False, False]


def test_one_executor_computes_in_both_modes_and_with_other_weights() -> None:
    cell = new_cell("darts", "normal", batch_statistics=False).double()
    executors = [each(cell.operations()) for each in (NativeCell, ReferenceCell)]
    states, mixture = torch.randn(2, 3, 16, 6, 5).double(), torch.rand(14, 8).double()
    for training in (True, False):
        cell.train(training)
        with torch.no_grad():
            torch.testing.assert_close(*(each(states, mixture) for each in executors))
            for parameter in cell.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
            torch.testing.assert_close(*(each(states, mixture) for each in executors))


def test_other_weights_can_be_put_into_a_network() -> None:
    """The second order does so with the weights of the virtual step."""
    space = get_space("darts")
    logits = []
    for kernels in ("auto", "reference"):
        torch.manual_seed(0)
        network = Supernet(space, 16, 3, 10, kernels=kernels)
        weights = {name: (2 * weight).detach() for name, weight in network.named_parameters()}
        statistics = {name: buffer.clone() for name, buffer in network.named_buffers()}
        mixture = {kind: alpha.softmax(-1) for kind, alpha in space.new_alphas(scale=1.0).items()}
        before = {name: buffer.clone() for name, buffer in network.named_buffers()}
        torch.manual_seed(1)
        logits.append(functional_call(network, (weights, statistics), (torch.randn(2, 3, 8, 8), mixture)))
        assert all(torch.equal(before[name], buffer) for name, buffer in network.named_buffers())
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)


@each_kind
def test_a_whole_network_in_float32_keeps_the_alphas_gradient(space: str, kind: str) -> None:
    gradients = []
    for kernels, dtype in (("auto", torch.float32), ("reference", torch.float64)):
        torch.manual_seed(0)
        network = Supernet(get_space(space), 8, 3 if space == "darts" else 1, 10, kernels=kernels).to(dtype)
        alphas = {name: alpha.detach().to(dtype).requires_grad_() for name, alpha in network.space.new_alphas().items()}
        torch.manual_seed(1)
        network(torch.randn(4, 3, 12, 12).to(dtype), softmax(alphas)).square().sum().backward()
        gradients.append(alphas[kind].grad.double().flatten())
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.9999


def test_weights_in_channels_last_are_read_in_their_own_order() -> None:
    """Retraining brings a network into that layout, in which a dense 3x3 weight has other strides."""
    found = []
    for kernels in ("auto", "reference"):
        torch.manual_seed(1)
        network = DiscreteNetwork(Genotype.parse(DENSE), 4, 1, kernels=kernels).to(memory_format=torch.channels_last)
        outputs = network(torch.randn(8, 3, 8, 8))
        outputs.square().mean().backward()
        found.append([outputs, *(parameter.grad for parameter in network.parameters()), *network.buffers()])
    for ours, plain in zip(*found, strict=True):
        assert (ours - plain).abs().max() <= 1e-4 * (1 + plain.abs().max())


def test_a_second_derivative_is_refused() -> None:
    torch.manual_seed(0)
    network = Supernet(get_space("nasbench201"), 16, 1, 10)
    alphas = {kind: alpha.detach().requires_grad_() for kind, alpha in network.space.new_alphas().items()}
    loss = network(torch.randn(2, 3, 8, 8), softmax(alphas)).square().sum()
    first = torch.autograd.grad(loss, list(alphas.values()), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first[0].square().sum().backward()


def test_one_pixel_of_one_image_has_no_statistics() -> None:
    network = Supernet(get_space("darts"), 16, 3, 10)
    mixture = {kind: alpha.detach().softmax(-1) for kind, alpha in network.space.new_alphas().items()}
    with pytest.raises(ValueError, match="one image of one pixel"):
        network(torch.randn(1, 3, 4, 4), mixture)


def test_raw_maps_far_from_zero_are_reported() -> None:
    cell = new_cell("darts", "normal").double().train()
    executors = native, fused = NativeCell(cell.operations()), FusedCell(cell.operations())
    states, mixture = torch.randn(2, 2, 16, 8, 8).double(), torch.rand(14, 8).double()
    assert native.largest_offset() is None
    offsets = []
    for shift in (0, 30):
        for each in executors:
            each(states + shift, mixture)
        offsets.append(native.largest_offset())
        assert offsets[-1] == pytest.approx(fused.largest_offset())
    assert offsets[0] < offsets[1]


def test_what_the_kernels_do_not_know_is_left_to_plain_torch() -> None:
    known = new_cell("nasbench201", "cell").operations()
    own = Operation(make_bank([nn.Tanh()]), 0, (0,), (0,), (0,))  # type: ignore[arg-type]  # no bank for `none` alone
    assert NativeCell.computes(known)
    assert not NativeCell.computes(CellOperations((*known.operations, own), known.edges, 1, 3, (3,), 1, 16))
    assert not NativeCell.computes(CellOperations(known.operations, known.edges, 1, 3, (0, 3), 1, 16))


def test_states_of_another_kind_are_left_to_plain_torch() -> None:
    assert executor.supports(torch.zeros(1, 4, 2, 2))
    for state in (torch.zeros(0, 4, 2, 2), torch.zeros(1, 4, 2, 2).double(), torch.zeros(1, 4, 2, 2, device="meta")):
        assert not executor.supports(state)


def test_a_pass_that_is_watched_is_left_to_plain_torch() -> None:
    """Each operation has to be seen: by a counter, a tracer, a proxy."""

    class Seen(TorchFunctionMode):
        def __torch_function__(self, function: Callable, types: object, args: tuple = (), kwargs: dict | None = None) -> object:
            return function(*args, **(kwargs or {}))

    state = torch.zeros(1, 4, 2, 2)
    with Seen():
        assert not executor.supports(state)
    with TorchDispatchMode():
        assert not executor.supports(state)
    assert executor.supports(state)


def test_the_gradients_of_several_passes_at_once_do_not_mix() -> None:
    """Memory is used again only when the pass that it belongs to is over."""
    cell = new_cell("darts", "normal").train()
    native = NativeCell(cell.operations())
    states, mixture = [torch.randn(8, 16, 32, 32) for _ in range(2)], torch.rand(14, 8)

    def gradient(scale: float) -> tuple[Tensor, Tensor]:
        alphas = (scale * mixture).requires_grad_()
        return native(states, alphas).square().sum(), alphas

    def gradients(pairs: list[tuple[Tensor, Tensor]]) -> Tensors:
        return {str(number): torch.autograd.grad(loss, alphas)[0] for number, (loss, alphas) in enumerate(pairs)}

    alone = [gradients([gradient(scale)])["0"] for scale in (1.0, 2.0, 3.0)]
    together = gradients([gradient(scale) for scale in (1.0, 2.0, 3.0)])
    assert all(torch.equal(one, together[str(number)]) for number, one in enumerate(alone))


def test_more_sizes_than_plans_are_kept() -> None:
    """Plans that were let go are made anew, also while other threads compute with them."""
    cell = new_cell("nasbench201", "cell", channels=2).double().train()
    mixture = torch.rand(6, 5, dtype=torch.float64)
    sizes = [(height, width) for height in range(1, 18) for width in range(1, 18)]

    def outputs(kind: type[NativeCell] | type[ReferenceCell]) -> list[Tensor]:
        executor = kind(copy.deepcopy(cell).operations())
        generator = torch.Generator().manual_seed(0)
        images = [torch.randn(2, 2, *size, generator=generator, dtype=torch.float64) for size in [*sizes, *sizes[:9]]]
        with torch.no_grad():
            return [executor([image], mixture) for image in images]

    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(outputs, [NativeCell, NativeCell]))
    plain = outputs(ReferenceCell)
    for native in together:
        for one, other in zip(native, plain, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("ratio", [1e2, 1e4])
def test_maps_far_from_zero_keep_their_statistics(ratio: float) -> None:
    """In float32, with |mean| / standard deviation of that size, those of float64 but for the rounding of the maps."""
    torch.manual_seed(0)
    states = [(ratio + 3 * torch.randn(3, 16, 8, 8)).contiguous(memory_format=torch.channels_last) for _ in range(2)]
    mixture, found = torch.rand(14, 8), []
    for dtype in (torch.float64, torch.float32):
        native = NativeCell(new_cell("darts", "normal").to(dtype).train().operations())
        leaves = [state.to(dtype, copy=True).requires_grad_() for state in states]
        output = native(leaves, mixture.to(dtype))
        (output * torch.linspace(-1, 1, output.numel(), dtype=dtype).view(output.shape)).sum().backward()
        offset, stats = native.largest_offset(), native.stats
        assert offset is not None and offset > ratio / 2 and stats is not None
        found.append([output.detach().double(), stats[:, 1].double(), *(leaf.grad.double() for leaf in leaves)])
    rounding = ratio * torch.finfo(torch.float32).eps
    for expected, rounded in zip(*found, strict=True):
        assert ((rounded - expected).abs().max() / expected.abs().max()).item() < 10 * rounding + 1e-5
