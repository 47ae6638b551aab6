"""Cells on the fused kernels against cells of plain torch: in float64 by the kernels' references, in float32 by the kernels."""

import warnings
from dataclasses import replace
from pathlib import Path as File
from subprocess import CalledProcessError

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

import ops.fused
import ops.kernels
from benchmarks.plain.pairing import softmax
from ops.banks import SharedState
from ops.fused import FusedCell
from ops.kernels import launch
from ops.registry import OPERATIONS, register_op
from supernet import Path, Supernet, get_space
from supernet.cell import MixedCell
from supernet.spaces.skeleton import CellPosition

CELLS = {"darts": 3, "nasbench201": 1}
Tensors = dict[str, Tensor]


def outcome(space: str, kernels: str, dtype: torch.dtype = torch.float64, size: tuple[int, int] = (9, 8), **options) -> Tensors:
    """Logits, all gradients and all statistics of one forward and backward pass; the same for the same arguments."""
    training, path = options.pop("training", True), options.pop("path", None)
    frozen = options.pop("frozen", False)
    torch.manual_seed(0)
    cells = options.pop("cells", CELLS[space])
    network = Supernet(get_space(space), 16, cells, 10, kernels=kernels, **options).to(dtype).train(training)
    if frozen:
        network.requires_grad_(False)
    generator = torch.Generator().manual_seed(1)
    for buffer in network.buffers():
        buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    alphas = {
        kind: alpha.detach().to(dtype).requires_grad_()
        for kind, alpha in get_space(space).new_alphas(scale=1.0, generator=generator).items()
    }
    images = torch.randn(3, 3, *size, generator=generator).to(dtype).requires_grad_(not frozen)
    logits = network(images, softmax(alphas), path=path)
    F.cross_entropy(logits, torch.arange(3)).backward()
    found = {"logits": logits.detach(), "images": images.grad}
    found |= {f"alphas {kind}": alpha.grad for kind, alpha in alphas.items()}
    found |= {f"gradient {name}": parameter.grad for name, parameter in network.named_parameters()}
    found |= {f"statistics {name}": buffer for name, buffer in network.named_buffers()}
    return {name: tensor for name, tensor in found.items() if tensor is not None and tensor.abs().max() > 1e-9}


def largest_difference(ours: Tensors, theirs: Tensors) -> float:
    """Relative to each tensor's largest entry. (Statistics of running mean 0 are left out by `outcome`.)"""
    assert ours.keys() == theirs.keys()
    return max(((ours[name] - theirs[name]).abs().max() / theirs[name].abs().max()).item() for name in theirs)


@pytest.mark.parametrize("space", CELLS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch_statistics", [True, False])
def test_a_fused_cell_is_the_plain_one(space: str, training: bool, batch_statistics: bool) -> None:
    options = {"training": training, "batch_statistics": batch_statistics}
    assert largest_difference(outcome(space, "fused", **options), outcome(space, "reference", **options)) < 1e-10


@pytest.mark.parametrize("space", CELLS)
@pytest.mark.parametrize("size", [(16, 16), (4, 5), (11, 4)])
def test_any_size_of_image(space: str, size: tuple[int, int]) -> None:
    assert largest_difference(outcome(space, "fused", size=size), outcome(space, "reference", size=size)) < 1e-9


@pytest.mark.parametrize("space", CELLS)
@pytest.mark.parametrize("seed", range(3))
def test_masked_candidates_and_paths(space: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    found = get_space(space)
    shape = len(found.edges), len(found.candidates)
    candidates = {kind: torch.rand(shape, generator=generator) < 0.5 for kind in found.kinds}
    options = {"candidates": candidates}
    assert largest_difference(outcome(space, "fused", **options), outcome(space, "reference", **options)) < 1e-9
    path = Path({kind: torch.randint(-1, shape[1], shape[:1], generator=generator) for kind in found.kinds})
    assert largest_difference(outcome(space, "fused", path=path), outcome(space, "reference", path=path)) < 1e-9


@pytest.mark.parametrize("space", CELLS)
def test_frozen_weights_get_no_gradient_and_alphas_the_same(space: str) -> None:
    ours, theirs = (outcome(space, kernels, frozen=True) for kernels in ("fused", "reference"))
    assert largest_difference(ours, theirs) < 1e-10
    assert not any(name.startswith("gradient") for name in ours)


def test_weight_gradients_are_left_out_where_weights_are_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = []
    real = ops.fused.stencil_backward

    def spy(*arguments: Tensor) -> None:
        wanted.append(arguments[-1] is not None)
        real(*arguments)

    monkeypatch.setattr(ops.fused, "stencil_backward", spy)
    outcome("darts", "fused", frozen=True)
    assert wanted and not any(wanted)
    wanted.clear()
    outcome("darts", "fused")
    assert wanted and all(wanted)


def test_other_weights_than_its_own_can_be_put_into_a_fused_network() -> None:
    """As the second order does: the weights of the virtual step."""
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


def test_a_cell_with_an_operation_of_another_form_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    space = get_space("nasbench201")
    position = CellPosition(0, "cell", 0, 16, (16,), 1, False)
    with OPERATIONS.temporarily():
        register_op("tanh")(lambda channels, stride, affine: nn.Tanh())
        other = replace(space, name="with_tanh", candidates=(*space.candidates, "tanh"))
        keep = [[True] * len(other.candidates)] * len(other.edges)
        cell = MixedCell(other, position, keep, 1, True, "fused")
    monkeypatch.setattr(FusedCell, "__call__", lambda *_: pytest.fail("this cell has an operation without a kernel"))
    weights = torch.full((6, 6), 1 / 6)
    assert cell([SharedState(torch.randn(2, 16, 4, 4))], weights).shape == (2, 16, 4, 4)


@pytest.mark.parametrize("space", CELLS)
def test_the_cpu_runs_plain_torch_unless_told_otherwise(space: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FusedCell, "__call__", lambda *_: pytest.fail("no fused cell on the CPU"))
    outcome(space, "auto", torch.float32)


def few_candidates(space: str) -> dict[str, Tensor]:
    """All operations of the space, but each on one or two edges alone: what the interpreter can run in seconds."""
    found = get_space(space)
    table = torch.zeros(len(found.edges), len(found.candidates), dtype=torch.bool)
    for column in range(1, len(found.candidates)):
        table[column % len(found.edges), column] = table[(5 * column + 3) % len(found.edges), column] = True
    return dict.fromkeys(found.kinds, table)


@pytest.mark.skipif(not launch.INTERPRETED, reason="needs Triton's interpreter")
@pytest.mark.parametrize("space", CELLS)
def test_the_kernels_compute_the_network(space: str) -> None:
    options = {"candidates": few_candidates(space), "size": (7, 6)}
    ours = outcome(space, "fused", torch.float32, **options)
    theirs = outcome(space, "reference", torch.float64, **options)
    theirs = {name: tensor for name, tensor in theirs.items() if name in ours}
    assert largest_difference(ours, theirs) < 2e-3


def test_a_pass_of_the_supernets_reaches_every_kernel_file() -> None:
    names = {file.stem for file in File(ops.kernels.__path__[0]).glob("*.py")} - {"__init__", "launch"}
    with launch.recording() as launches:
        for space in CELLS:
            outcome(space, "fused", torch.float32)
    reached = {each.kernel.fn.__module__.rpartition(".")[2] for each in launches}
    assert names and names == reached


def alpha_gradient(name: str, kind: str, stride: int, offset: float, dtype: torch.dtype) -> tuple[Tensor, float]:
    """Of one fused cell with maps of `dtype`, and its largest |mean| / std; `offset` moves the means of its maps."""
    torch.manual_seed(0)
    space = get_space(name)
    position = CellPosition(0, kind, 0, 16, (16,) * space.inputs, stride, False)
    cell = MixedCell(space, position, [[True] * len(space.candidates)] * len(space.edges), 1, False, "fused")
    cell.preprocess = nn.ModuleList(nn.Identity() for _ in position.in_channels)
    with torch.no_grad():
        for weight_name, weight in cell.named_parameters():
            if not weight_name.endswith(("depthwise_weight", "depthwise1_weight", "depthwise2_weight")):
                weight += offset
    precise = torch.promote_types(dtype, torch.float32)
    cell.to(precise)
    states = [torch.randn(8, 16, 16, 16).bfloat16().to(dtype) for _ in position.in_channels]
    alphas = (0.3 * torch.randn(len(space.edges), len(space.candidates))).to(precise).requires_grad_()
    output = cell([SharedState(state.contiguous(memory_format=torch.channels_last)) for state in states], alphas.softmax(-1))
    assert output.dtype == dtype
    (output * torch.randn(output.shape).to(dtype)).sum().backward()
    assert alphas.grad is not None
    ratio = cell.largest_offset()
    assert ratio is not None
    return alphas.grad.double().flatten(), ratio


@pytest.mark.parametrize(
    ("name", "kind", "stride"), [("darts", "normal", 1), ("darts", "reduce", 2), ("nasbench201", "cell", 1)]
)
@pytest.mark.parametrize("offset", [0.0, 0.05, 0.2])
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
        outcome("nasbench201", "fused", torch.float32, **options)
