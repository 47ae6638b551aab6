"""A cell chooses its executor, and keeps one for each path."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ops.banks import SharedState
from ops.fused import FusedCell
from ops.native.executor import NativeCell
from ops.reference import ReferenceCell
from ops.registry import OPERATIONS, register_op
from supernet import Path, Supernet, get_space
from supernet.cell import EXECUTORS, Kernels, MixedCell
from supernet.spaces.space import SearchSpace, list_spaces


def first_cell(space: SearchSpace, kernels: Kernels, **options) -> MixedCell:
    return Supernet(space, 16, 3, 10, kernels=kernels, **options).double().mixed_cells()[0]


def run(cell: MixedCell, chosen: list[int] | None = None) -> Tensor:
    like = next(cell.parameters())
    sources = [SharedState(torch.randn(2, channels, 4, 4).to(like)) for channels in cell.position.in_channels]
    mixture = torch.rand(len(cell.space.edges), len(cell.space.candidates)).to(like)
    return cell(cell.preprocessed(sources), mixture, chosen)


@pytest.mark.parametrize("space", list_spaces())
@pytest.mark.parametrize(
    ("kernels", "dtype", "expected"),
    [
        ("auto", torch.float32, NativeCell),
        ("auto", torch.float64, ReferenceCell),
        ("auto", torch.bfloat16, ReferenceCell),
        ("reference", torch.float32, ReferenceCell),
        ("fused", torch.float64, FusedCell),
    ],
)
def test_the_cpu_runs_compiled_kernels_unless_told_otherwise(
    space: str, kernels: Kernels, dtype: torch.dtype, expected: type
) -> None:
    cell = first_cell(get_space(space), kernels).to(dtype)
    run(cell)
    assert [type(executor) for executor in cell.executors.values()] == [expected]


def test_a_transform_of_the_pass_runs_in_plain_torch() -> None:
    """Compiled kernels cannot be seen into, as vmap and grad would have to."""
    cell = first_cell(get_space("nasbench201"), "auto").float()
    states = torch.randn(3, 2, 16, 4, 4)
    mixture = torch.rand(len(cell.space.edges), len(cell.space.candidates))
    with torch.no_grad():
        cell.eval()
        together = torch.func.vmap(lambda state: cell([state], mixture))(states)
        assert [type(executor) for executor in cell.executors.values()] == [ReferenceCell]
        torch.testing.assert_close(together[1], cell([states[1]], mixture))


def test_partial_channels_run_in_plain_torch() -> None:
    cell = first_cell(get_space("darts"), "fused", partial=4)
    assert run(cell).shape == (2, 64, 4, 4)
    cell.rebuild(cell.keep, 1, like=next(cell.parameters()))
    run(cell)
    assert [type(executor) for executor in cell.executors.values()] == [FusedCell]


def test_a_cell_with_an_operation_of_another_form_falls_back() -> None:
    space = get_space("nasbench201")
    with OPERATIONS.temporarily():
        register_op("tanh")(lambda channels, stride, affine: nn.Tanh())
        cell = first_cell(replace(space, name="with_tanh", candidates=(*space.candidates, "tanh")), "fused")
    assert run(cell).shape == (2, 16, 4, 4)
    assert [type(executor) for executor in cell.executors.values()] == [ReferenceCell]


@pytest.mark.parametrize(("kernels", "expected"), [("reference", ReferenceCell), ("fused", FusedCell)])
def test_a_path_keeps_its_executor_while_few_others_run(kernels: Kernels, expected: type) -> None:
    cell = first_cell(get_space("nasbench201"), kernels)
    paths = [[first, second, 0, 1, 2, 3] for first in range(5) for second in range(5)]
    paths += [[first, second, 4, 4, 4, 4] for first in range(5) for second in range(5)]
    paths += [[first, second, 3, 3, 3, 3] for first in range(5) for second in range(5)]
    kept = []
    for path in (paths[0], paths[1], paths[0]):
        run(cell, path)
        kept.append(cell.executors[expected, tuple(path)])
    assert kept[0] is kept[2] and kept[0] is not kept[1]
    with torch.no_grad():
        for path in paths:
            run(cell, path)
    assert len(cell.executors) == EXECUTORS < len(paths)


def test_a_rebuild_makes_new_executors() -> None:
    """The banks of the old ones are gone."""
    network = Supernet(get_space("nasbench201"), 16, 1, 10).double()
    images, path = torch.randn(2, 3, 8, 8).double(), Path({"cell": [3] * 6})
    mixture = path.one_hot(network.space)
    network(images, mixture, path)
    network.rebuild(partial=2)
    assert not any(cell.executors for cell in network.mixed_cells())
    network(images, mixture, path).sum().backward()
    trained = [bank for cell in network.mixed_cells() for key, bank in cell.banks.items() if "3x3" in key]
    assert any(parameter.grad is not None and parameter.grad.any() for bank in trained for parameter in bank.parameters())
