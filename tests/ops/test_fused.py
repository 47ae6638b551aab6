"""The two executors side by side: cells on the fused kernels against the same cells in plain torch.

In float64 the kernels' references run, in float32 the kernels themselves.
"""

import warnings
from pathlib import Path as File
from subprocess import CalledProcessError

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import ops.fused
import ops.kernels
from benchmarks.plain.executors import KINDS, largest_difference, new_cell, outcome
from benchmarks.plain.pairing import softmax
from ops.banks import make_bank
from ops.executor import CellOperations, Operation
from ops.fused import FusedCell
from ops.kernels import launch
from ops.reference import ReferenceCell
from supernet import Supernet, get_space
from supernet.cell import MixedCell
from supernet.spaces.skeleton import CellPosition

each_kind = pytest.mark.parametrize(("space", "kind"), KINDS)


@each_kind
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch_statistics", [True, False])
def test_a_fused_cell_is_the_plain_one(space: str, kind: str, training: bool, batch_statistics: bool) -> None:
    options = {"training": training, "batch_statistics": batch_statistics}
    fused, plain = (outcome(executor, space, kind, **options) for executor in (FusedCell, ReferenceCell))
    assert largest_difference(fused, plain) < 1e-10


@each_kind
@pytest.mark.parametrize("size", [(16, 16), (4, 5), (11, 4)])
def test_any_size_of_image(space: str, kind: str, size: tuple[int, int]) -> None:
    fused, plain = (outcome(executor, space, kind, size=size) for executor in (FusedCell, ReferenceCell))
    assert largest_difference(fused, plain) < 1e-9


@each_kind
@pytest.mark.parametrize("seed", range(3))
def test_masked_candidates(space: str, kind: str, seed: int) -> None:
    found, generator = get_space(space), torch.Generator().manual_seed(seed)
    candidates = {kind: torch.rand(len(found.edges), len(found.candidates), generator=generator) < 0.5}
    fused, plain = (outcome(executor, space, kind, candidates=candidates) for executor in (FusedCell, ReferenceCell))
    assert largest_difference(fused, plain) < 1e-9


@each_kind
@pytest.mark.parametrize("seed", range(3))
def test_paths(space: str, kind: str, seed: int) -> None:
    found, generator = get_space(space), torch.Generator().manual_seed(seed)
    path = torch.randint(-1, len(found.candidates), (len(found.edges),), generator=generator).tolist()
    fused, plain = (outcome(executor, space, kind, path=path) for executor in (FusedCell, ReferenceCell))
    assert largest_difference(fused, plain) < 1e-9


@each_kind
def test_frozen_weights_get_no_gradient_and_alphas_the_same(space: str, kind: str) -> None:
    fused, plain = (outcome(executor, space, kind, frozen=True) for executor in (FusedCell, ReferenceCell))
    assert largest_difference(fused, plain) < 1e-10
    assert [name for name in fused if name.startswith("gradient")] == ["gradient alphas"]


def test_one_executor_computes_in_both_modes_and_with_other_weights() -> None:
    """The banks say at each call what their weights are and whether they are in training."""
    cell = new_cell("darts", "normal", batch_statistics=False).double()
    executors = [executor(cell.operations()) for executor in (FusedCell, ReferenceCell)]
    states, mixture = torch.randn(2, 3, 16, 6, 5).double(), torch.rand(14, 8).double()
    outputs = []
    for training in (True, False):
        cell.train(training)
        with torch.no_grad():
            outputs.append([executor(states, mixture) for executor in executors])
            torch.testing.assert_close(*outputs[-1])
            for parameter in cell.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
            torch.testing.assert_close(*(executor(states, mixture) for executor in executors))
    assert not torch.allclose(outputs[0][0], outputs[1][0])


def test_what_the_kernels_do_not_know_is_refused() -> None:
    known = new_cell("nasbench201", "cell").operations()
    own = Operation(make_bank([nn.Tanh()]), 0, (0,), (0,), (0,))  # type: ignore[arg-type]  # no bank for `none` alone
    for cell in (
        new_cell("nasbench201", "cell", partial=2).operations(),
        CellOperations((*known.operations, own), known.edges, 1, 3, (3,), 1, 16),
    ):
        assert not FusedCell.computes(cell)
        with pytest.raises(ValueError, match="neither partial channels nor operations of other forms"):
            FusedCell(cell)
    assert FusedCell.computes(known)


@each_kind
def test_raw_maps_far_from_zero_are_reported(space: str, kind: str) -> None:
    cell = new_cell(space, kind).double().eval()
    executors = fused, plain = FusedCell(cell.operations()), ReferenceCell(cell.operations())
    states = torch.randn(cell.space.inputs, 2, cell.position.channels, 8, 8).double()
    mixture = torch.rand(len(cell.space.edges), len(cell.space.candidates)).double()
    assert [executor.largest_offset() for executor in executors] == [None, None]
    cell.train()
    for executor in executors:
        executor(states, mixture)
    before = fused.largest_offset()
    assert before is not None and 0 < before < 10
    fused(states + 30, mixture)
    assert fused.largest_offset() > before
    assert plain.largest_offset() is None, "it does not measure them"


def test_weight_gradients_are_left_out_where_weights_are_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = []
    real = ops.fused.stencil_backward

    def spy(*arguments: Tensor) -> None:
        wanted.append(arguments[-1] is not None)
        real(*arguments)

    monkeypatch.setattr(ops.fused, "stencil_backward", spy)
    outcome(FusedCell, "darts", "normal", frozen=True)
    assert wanted and not any(wanted)
    wanted.clear()
    outcome(FusedCell, "darts", "normal")
    assert wanted and all(wanted)


def test_other_weights_than_its_own_can_be_put_into_a_fused_network() -> None:
    """The second order does so with the weights of the virtual step."""
    space = get_space("darts")
    logits = []
    for kernels in ("fused", "reference"):
        torch.manual_seed(0)
        network = Supernet(space, 16, 3, 10, kernels=kernels).double()
        weights = {name: (2 * weight).detach() for name, weight in network.named_parameters()}
        statistics = {name: buffer.clone() for name, buffer in network.named_buffers()}
        mixture = {kind: alpha.double().softmax(-1) for kind, alpha in space.new_alphas(scale=1.0).items()}
        before = {name: buffer.clone() for name, buffer in network.named_buffers()}
        torch.manual_seed(1)
        logits.append(functional_call(network, (weights, statistics), (torch.randn(2, 3, 8, 8).double(), mixture)))
        assert all(torch.equal(before[name], buffer) for name, buffer in network.named_buffers())
    torch.testing.assert_close(*logits)


def test_a_second_derivative_through_a_fused_cell_is_refused() -> None:
    torch.manual_seed(0)
    network = Supernet(get_space("nasbench201"), 16, 1, 10, kernels="fused").double()
    alphas = {kind: alpha.detach().double().requires_grad_() for kind, alpha in network.space.new_alphas().items()}
    loss = network(torch.randn(2, 3, 8, 8).double(), softmax(alphas)).square().sum()
    first = torch.autograd.grad(loss, list(alphas.values()), create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first[0].square().sum().backward()


def test_one_pixel_of_one_image_has_no_statistics() -> None:
    network = Supernet(get_space("darts"), 16, 3, 10, kernels="fused").double()
    mixture = {kind: alpha.detach().double().softmax(-1) for kind, alpha in network.space.new_alphas().items()}
    with pytest.raises(ValueError, match="one image of one pixel"):
        network(torch.randn(1, 3, 4, 4).double(), mixture)


def few_candidates(space: str) -> dict[str, Tensor]:
    """All operations of the space, but each on one or two edges alone: what the interpreter can run in seconds."""
    found = get_space(space)
    table = torch.zeros(len(found.edges), len(found.candidates), dtype=torch.bool)
    for column in range(1, len(found.candidates)):
        table[column % len(found.edges), column] = table[(5 * column + 3) % len(found.edges), column] = True
    return dict.fromkeys(found.kinds, table)


@pytest.mark.skipif(not launch.INTERPRETED, reason="needs Triton's interpreter")
@pytest.mark.parametrize(
    ("space", "kind"),
    [pytest.param(*one, marks=[pytest.mark.slow] if one[0] == "darts" else []) for one in KINDS],
)
def test_the_kernels_compute_the_cell(space: str, kind: str) -> None:
    options = {"candidates": few_candidates(space), "size": (7, 6)}
    fused = outcome(FusedCell, space, kind, torch.float32, **options)
    plain = outcome(ReferenceCell, space, kind, torch.float64, **options)
    plain = {name: tensor for name, tensor in plain.items() if name in fused}
    assert largest_difference(fused, plain) < 2e-3


def test_the_cells_of_the_spaces_reach_every_kernel_file() -> None:
    names = {file.stem for file in File(ops.kernels.__path__[0]).glob("*.py")} - {"__init__", "launch"}
    with launch.recording() as launches:
        for space, kind in KINDS:
            outcome(FusedCell, space, kind, torch.float32)
    reached = {each.kernel.fn.__module__.rpartition(".")[2] for each in launches}
    assert names and names == reached


def alpha_gradient(name: str, kind: str, stride: int, offset: float, dtype: torch.dtype) -> tuple[Tensor, float]:
    """The gradient of a fused cell's alphas with maps of `dtype`, and its largest |mean| / std.

    `offset` moves the means of its maps.
    """
    torch.manual_seed(0)
    space = get_space(name)
    position = CellPosition(0, kind, 0, 16, (16,) * space.inputs, stride, False)
    cell = MixedCell(space, position, [[True] * len(space.candidates)] * len(space.edges), 1, False)
    with torch.no_grad():
        for weight_name, weight in cell.banks.named_parameters():
            if not weight_name.endswith(("depthwise_weight", "depthwise1_weight", "depthwise2_weight")):
                weight += offset
    precise = torch.promote_types(dtype, torch.float32)
    cell.to(precise)
    states = [torch.randn(8, 16, 16, 16).bfloat16().to(dtype) for _ in range(space.inputs)]
    alphas = (0.3 * torch.randn(len(space.edges), len(space.candidates))).to(precise).requires_grad_()
    executor = FusedCell(cell.operations())
    output = executor([state.contiguous(memory_format=torch.channels_last) for state in states], alphas.softmax(-1))
    assert output.dtype == dtype
    (output * torch.randn(output.shape).to(dtype)).sum().backward()
    ratio = executor.largest_offset()
    assert alphas.grad is not None and ratio is not None
    return alphas.grad.double().flatten(), ratio


@pytest.mark.parametrize(
    ("name", "kind", "stride"),
    [
        pytest.param("darts", "normal", 1, marks=pytest.mark.slow),
        pytest.param("darts", "reduce", 2, marks=pytest.mark.slow),
        ("nasbench201", "cell", 1),
    ],
)
@pytest.mark.parametrize("offset", [pytest.param(0.0, marks=pytest.mark.slow), pytest.param(0.05, marks=pytest.mark.slow), 0.2])
def test_bfloat16_keeps_the_direction_of_the_alphas_gradient(name: str, kind: str, stride: int, offset: float) -> None:
    """Cosine to float64 of at least 0.999 in a cell where |mean| / std is at most 10."""
    exact, ratio = alpha_gradient(name, kind, stride, offset, torch.float64)
    rounded, _ = alpha_gradient(name, kind, stride, offset, torch.bfloat16)
    assert ratio <= 10
    assert F.cosine_similarity(exact, rounded, dim=0) >= 0.999


@pytest.mark.parametrize("error", [RuntimeError("PassManager::run failed"), CalledProcessError(1, "gcc"), AssertionError()])
def test_a_kernel_that_cannot_be_compiled_is_replaced_after_one_warning(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        class fn:
            __name__ = "broken"

        def __getitem__(self, grid: tuple[int, ...]) -> "Broken":
            return self

        def __call__(self, *arguments: object, **options: object) -> None:
            raise error

    monkeypatch.setattr(launch, "_failed", False)
    with pytest.warns(UserWarning, match="plain torch runs instead"):
        assert not launch.launch(Broken(), (1,), torch.zeros(1), warps=4)
    assert not launch.runs_kernel(torch.zeros(1, 1, 1, 1, 16))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        options = {"candidates": few_candidates("nasbench201"), "size": (4, 4)}
        outcome(FusedCell, "nasbench201", "cell", torch.float32, **options)
