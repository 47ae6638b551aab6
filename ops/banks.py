"""Banks: one operation on all the edges that leave one node, computed together.

The edges that leave a node read the same state. So a bank keeps the weights of its edges stacked on
a leading axis, [edges, ...], shares the parts that are the same for all of them (the ReLU of the
source, a pool and its batch norm, a skip), and leaves the last batch norm to the node that sums the
branches (`ops.mixing`). A bank is made from the ordinary modules of its edges, which stay the one
definition of the operation: initial values are theirs, and a test holds every bank to its modules.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import EllipsisType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ops.functional import factorized_reduce
from ops.images import FactorizedReduce, Zero
from ops.mixing import EPSILON, MOMENTUM, Branch, DeferredNorm

Index = int | EllipsisType


@dataclass(frozen=True)
class Move:
    """Parts of parameter `old` that live on in parameter `new`, by pairs of (index in old, index in
    new) on the edge axis."""

    old: nn.Parameter
    new: nn.Parameter
    parts: tuple[tuple[Index, Index], ...]

    def copy(self, old: Tensor, new: Tensor) -> None:
        """Copies the common part of `old` and `new`, shaped like the parameters; the rest of `new`
        stays."""
        for source, target in self.parts:
            overlap = tuple(slice(min(sides)) for sides in zip(old[source].shape, new[target].shape, strict=True))
            new[target][overlap] = old[source][overlap]


class SharedState:
    """A state [B, C, H, W] that several banks read; their common computations are done once."""

    def __init__(self, state: Tensor):
        self.state = state

    @cached_property
    def rectified(self) -> Tensor:
        return self.state.relu()


class Bank(nn.Module):
    """The weights of `edges` equal modules, stacked: parameter `conv.weight` of the modules is
    `conv_weight` [edges, ...] here."""

    def __init__(self, modules: Sequence[nn.Module]):
        super().__init__()
        self.names: dict[str, str] = {}  # name in the module -> attribute here
        states = [dict(module.named_parameters()) for module in modules]
        for name, parameter in states[0].items():
            stacked = torch.stack([state[name].detach() for state in states])
            self.register_parameter(self._named(name), nn.Parameter(stacked, requires_grad=parameter.requires_grad))
        buffers = [dict(module.named_buffers()) for module in modules]
        for name in buffers[0]:
            # Only a batch norm without a fixed momentum reads the number of batches.
            if name.endswith("num_batches_tracked"):
                continue
            self.register_buffer(self._named(name), torch.stack([state[name] for state in buffers]))

    def _named(self, name: str) -> str:
        return self.names.setdefault(name, name.replace(".", "_"))

    @torch.no_grad()
    def inherit(self, old: "Bank", rows: Sequence[tuple[int, int]]) -> list[Move]:
        """Takes over weights and statistics from a bank of the same operation: `rows` are pairs
        (row there, row here).

        If the number of channels differs, the channels that both have are taken over (DrNAS, Chen
        et al. 2021, section 3.3).
        """
        moves = []
        for attribute in self.names.values():
            theirs, ours = getattr(old, attribute), getattr(self, attribute)
            move = Move(theirs, ours, tuple(rows))
            move.copy(theirs, ours)
            if isinstance(ours, nn.Parameter):
                ours.requires_grad_(theirs.requires_grad)
                moves.append(move)
        return moves

    def stacked(self, name: str) -> Tensor:
        """Returns the parameter or buffer `name` of the modules, [edges, ...]."""
        tensor = getattr(self, self.names[name])
        assert isinstance(tensor, Tensor)
        return tensor

    def norm(self, name: str, row: int) -> DeferredNorm:
        """Returns the batch norm `name` of the modules, for edge `row`."""
        if f"{name}.running_mean" not in self.names:
            return DeferredNorm(None, None, self.training)
        mean, var = self.stacked(f"{name}.running_mean"), self.stacked(f"{name}.running_var")
        return DeferredNorm(mean[row], var[row], self.training)


class EdgeBank(Bank):
    """A bank whose edges have weights of their own."""

    forward: Callable[[SharedState, Sequence[int]], list[Branch]]
    """Returns one branch for each edge in the rows that are given."""


class SharedBank(Bank):
    """A bank whose operation has no weights: one finished map serves all edges, so one module's
    statistics do as well."""

    def __init__(self, modules: Sequence[nn.Module]):
        super().__init__(modules[:1])

    def inherit(self, old: Bank, rows: Sequence[tuple[int, int]]) -> list[Move]:
        return super().inherit(old, [(0, 0)])

    forward: Callable[[SharedState], Tensor]
    """The one map [B, C, H, W]."""


class SkipBank(SharedBank):
    """The bank of the identity."""

    def forward(self, source: SharedState) -> Tensor:
        return source.state


class PoolBank(SharedBank):
    """A pool, with or without a batch norm behind it."""

    def __init__(self, modules: Sequence[nn.Module]):
        super().__init__(modules)
        first = modules[0]
        self.normalised = isinstance(first, nn.Sequential)
        self.pool = first[0] if isinstance(first, nn.Sequential) else first

    def forward(self, source: SharedState) -> Tensor:
        pooled = self.pool(source.state)
        return self.norm("norm", 0)(pooled) if self.normalised else pooled


class ReduceBank(EdgeBank):
    """Factorised reduction: the skip of stride 2."""

    def forward(self, source: SharedState, rows: Sequence[int]) -> list[Branch]:
        even, shifted = self.stacked("even.weight").unbind(0), self.stacked("shifted.weight").unbind(0)
        return [Branch(factorized_reduce(source.rectified, even[row], shifted[row]), self.norm("norm", row)) for row in rows]


class Convolution(NamedTuple):
    """A Conv2d without its weights: the part that is the same on every edge."""

    name: str
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int


Step = Convolution | str | None
"""A step of a chain: a convolution, the name of a batch norm, or None for a ReLU."""


def steps_of(chain: nn.Sequential) -> list[Step]:
    """Returns the steps of a chain behind its first ReLU."""
    steps: list[Step] = []
    for name, layer in list(chain.named_children())[1:]:
        if isinstance(layer, nn.Conv2d):
            padding = tuple(int(side) for side in layer.padding)
            steps.append(Convolution(name, layer.stride, padding, layer.dilation, layer.groups))
        else:
            steps.append(name if isinstance(layer, nn.BatchNorm2d) else None)
    return steps


def is_chain(module: nn.Module, affine: bool) -> bool:
    """Says whether `module` is a chain of ReLUs, convolutions without bias and batch norms of the
    usual momentum, from a ReLU to a batch norm; `affine` says whether these have weights."""
    if not isinstance(module, nn.Sequential) or len(module) < 2:
        return False
    layers = list(module)
    return (
        isinstance(layers[0], nn.ReLU)
        and isinstance(layers[-1], nn.BatchNorm2d)
        and all(type(layer) in (nn.ReLU, nn.Conv2d, nn.BatchNorm2d) for layer in layers)
        and all(
            layer.bias is None and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
            for layer in layers
            if isinstance(layer, nn.Conv2d)
        )
        and all(
            layer.affine == affine and layer.momentum == MOMENTUM and layer.eps == EPSILON
            for layer in layers
            if isinstance(layer, nn.BatchNorm2d)
        )
    )


class ChainBank(EdgeBank):
    """The bank of any chain of ReLUs, convolutions without bias and batch norms.

    The chain begins with a ReLU and ends with a batch norm.

    That is every convolution of both spaces, and a user's own operation of that form gets the same
    treatment. One call an edge on a view of the stacked weights: on the CPU that is faster than one
    grouped convolution over repeated inputs.
    """

    def __init__(self, modules: Sequence[nn.Module]):
        super().__init__(modules)
        first = modules[0]
        assert isinstance(first, nn.Sequential)
        self.steps = steps_of(first)

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Says whether `module` is such a chain."""
        return is_chain(module, affine=False)

    def forward(self, source: SharedState, rows: Sequence[int]) -> list[Branch]:
        weights = {
            step.name: self.stacked(f"{step.name}.weight").unbind(0) for step in self.steps if isinstance(step, Convolution)
        }
        return [self._edge(source.rectified, row, weights) for row in rows]

    def _edge(self, state: Tensor, row: int, weights: dict[str, tuple[Tensor, ...]]) -> Branch:
        for step in self.steps[:-1]:
            if isinstance(step, Convolution):
                state = F.conv2d(state, weights[step.name][row], None, step.stride, step.padding, step.dilation, step.groups)
            else:
                state = self.norm(step, row)(state) if step else state.relu()
        return Branch(state, self.norm(str(self.steps[-1]), row))


class ModuleBank(EdgeBank):
    """The fallback for an operation without a bank of its own: one module an edge."""

    def __init__(self, modules: Sequence[nn.Module]):
        super().__init__([nn.Identity()] * len(modules))
        self.modules_of_edges = nn.ModuleList(modules)

    @torch.no_grad()
    def inherit(self, old: Bank, rows: Sequence[tuple[int, int]]) -> list[Move]:
        assert isinstance(old, ModuleBank)
        moves = []
        for there, here in rows:
            theirs, ours = (
                old.modules_of_edges[there].state_dict(keep_vars=True),
                self.modules_of_edges[here].state_dict(keep_vars=True),
            )
            for name, tensor in ours.items():
                move = Move(theirs[name], tensor, ((..., ...),))
                move.copy(theirs[name], tensor)
                if isinstance(tensor, nn.Parameter):
                    tensor.requires_grad_(theirs[name].requires_grad)
                    moves.append(move)
        return moves

    def forward(self, source: SharedState, rows: Sequence[int]) -> list[Branch]:
        return [Branch(self.modules_of_edges[row](source.state)) for row in rows]


def _is_pool(module: nn.Module) -> bool:
    if isinstance(module, nn.Sequential) and len(module) == 2:
        return _is_pool(module[0]) and isinstance(module[1], nn.BatchNorm2d) and not module[1].affine
    return type(module) in (nn.MaxPool2d, nn.AvgPool2d)


_KINDS: list[tuple[Callable[[nn.Module], bool], type[EdgeBank] | type[SharedBank]]] = [
    (lambda module: isinstance(module, nn.Identity), SkipBank),
    (_is_pool, PoolBank),
    (lambda module: isinstance(module, FactorizedReduce) and not module.norm.affine, ReduceBank),
    (ChainBank.fits, ChainBank),
]


def make_bank(modules: Sequence[nn.Module]) -> EdgeBank | SharedBank | None:
    """Returns the bank that computes `modules`, one equal module an edge; None if there is nothing
    to compute (`none`)."""
    first = modules[0]
    if isinstance(first, Zero):
        return None
    return next((bank for fits, bank in _KINDS if fits(first)), ModuleBank)(modules)
