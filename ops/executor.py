"""The description of a cell as a value, and the protocol of an executor that computes it.

`supernet.cell` describes which of its operations run, once for each path. Executors are made from
that description: `ops.reference.ReferenceCell` computes any cell in plain torch, and
`ops.fused.FusedCell` the cells that its kernels know. A test holds each of them to the other. A
cell of another form, a recurrent one for example, brings banks and an executor of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor

from ops.banks import Bank


class Operation(NamedTuple):
    """A bank on those of its edges that run.

    `rows` of the bank lead from state `source` to the nodes `targets` (numbered from 0). Each row
    is weighted by one entry of the mixture; `weights` numbers these entries in row-major order.
    """

    bank: Bank
    source: int
    rows: tuple[int, ...]
    targets: tuple[int, ...]
    weights: tuple[int, ...]


class Edge(NamedTuple):
    """An edge that runs, from state `source` to node `target`; `row` is its row of the mixture."""

    row: int
    source: int
    target: int


@dataclass(frozen=True)
class CellOperations:
    """The description of one cell from which executors are made.

    States 0 to `inputs` - 1 are the cell's inputs, the others its `nodes`; `concat` names the
    nodes, by their states, that make up the output. Edges that leave an input have stride `stride`,
    all others 1. A state has `channels` channels. The first `channels` / `partial` of them go
    through operations; the others bypass these on all `edges` (PC-DARTS, Xu et al. 2020, section
    3.2).
    """

    operations: tuple[Operation, ...]
    edges: tuple[Edge, ...]
    inputs: int
    nodes: int
    concat: tuple[int, ...]
    stride: int
    channels: int
    partial: int = 1

    @property
    def inner(self) -> int:
        """Returns the number of channels that go through operations."""
        return self.channels // self.partial

    def stride_of(self, source: int) -> int:
        """Returns the stride of the edges that leave state `source`."""
        return self.stride if source < self.inputs else 1


class CellExecutor(Protocol):
    """Computes the cell of one `CellOperations`, from which it is made.

    An executor has no weights: it reads those of the banks at each call, and whether the banks are
    in training. So it computes with any weights that are put in their place
    (`torch.func.functional_call`). Its backward finds tensors through autograd alone (in a function
    of its own by `save_for_backward`), so that `supernet.recompute` can leave them out.
    """

    def __call__(self, states: Sequence[Tensor], mixture: Tensor, bypass: Tensor | None = None) -> Tensor:
        """Returns the cell's output [B, len(concat) * C, ceil(H / stride), ceil(W / stride)].

        `states` are the input states [B, C, H, W] after their preprocessing and `mixture` is
        [edges, candidates]. `bypass` [edges] scales the channels that pass the operations by; None
        stands for the sums of the mixture's rows. The output is differentiable in all of them and
        in the banks' weights. Updates the banks' running statistics, where they keep any, in
        training.
        """

    def largest_offset(self) -> float | None:
        """Returns the largest |mean| / standard deviation of a raw map, in the last training call.

        It is None before the first such call, and for an executor that does not measure it.
        """
