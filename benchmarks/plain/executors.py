"""One cell with an executor of choice, so that executors can be held to each other."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ops.executor import CellExecutor, CellOperations
from supernet import Supernet, get_space
from supernet.cell import MixedCell

CELLS = {"darts": 3, "nasbench201": 1}
KINDS = [("darts", "normal"), ("darts", "reduce"), ("nasbench201", "cell")]
"""Every space with every kind of its cells."""
Tensors = dict[str, Tensor]
Executor = Callable[[CellOperations], CellExecutor]


def new_cell(space: str, kind: str, channels: int = 16, **options: Any) -> MixedCell:
    """Returns the first cell of that kind in a supernet; the same for the same arguments."""
    torch.manual_seed(0)
    network = Supernet(get_space(space), channels, CELLS[space], 10, **options)
    return next(cell for cell in network.mixed_cells() if cell.position.kind == kind)


def outcome(
    executor: Executor,
    space: str,
    kind: str,
    dtype: torch.dtype = torch.float64,
    size: tuple[int, int] = (9, 8),
    path: Sequence[int] | None = None,
    training: bool = True,
    frozen: bool = False,
    batch: int = 3,
    shares: bool = False,
    **options: Any,
) -> Tensors:
    """Returns output, all gradients and all statistics of one forward and backward pass.

    They are the same for the same arguments. Those that are zero are left out. With `shares`, the
    channels that pass the operations by have shares of their own.
    """
    cell = new_cell(space, kind, **options).to(dtype).train(training).requires_grad_(not frozen)
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    for buffer in cell.buffers():
        buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
    alphas = random(len(cell.space.edges), len(cell.space.candidates)).requires_grad_()
    states = [random(batch, cell.position.channels, *size).requires_grad_(not frozen) for _ in range(cell.space.inputs)]
    bypass = random(len(cell.space.edges)).requires_grad_() if shares else None
    output = executor(cell.operations(path))(states, alphas.softmax(-1), bypass)
    if output.requires_grad:  # not where no operation runs at all
        (output * random(*output.shape)).sum().backward()
    found = {"output": output.detach(), "gradient alphas": alphas.grad}
    found |= {f"gradient state {number}": state.grad for number, state in enumerate(states)}
    found |= {"gradient shares": bypass.grad} if bypass is not None else {}
    found |= {f"gradient {name}": parameter.grad for name, parameter in cell.named_parameters()}
    found |= {f"statistics {name}": buffer for name, buffer in cell.named_buffers()}
    return {name: tensor for name, tensor in found.items() if tensor is not None and tensor.abs().max() > 1e-9}


def largest_difference(ours: Tensors, theirs: Tensors) -> float:
    """Returns the largest difference, relative to each tensor's largest entry."""
    assert ours.keys() == theirs.keys()
    found = (((ours[name] - theirs[name]).abs().max() / theirs[name].abs().max()).item() for name in theirs)
    return max(found, default=0.0)
