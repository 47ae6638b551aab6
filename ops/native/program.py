"""The program of a cell: the numbers by which `cell.h` finds maps, weights and entries.

Every operation has a row: its kind, source, kernel, dilation, the number of its raw map and of that
of its second half, its place among the halves (for a pool: -1 if it is not normalised) and among
the maxima. -1 stands for what an operation has not. Every entry, a term of a node's sum, has a row:
its node, its map (or -1 - state for a skip), the index of its mixing weight, its operation, and the
row of the factors that drop it for some images (-1: it is never dropped). Every edge that takes
channels past the operations has a row: the index of its share, its source and its node.
"""

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ops.banks import Bank, ChainBank, Convolution, PoolBank, ReduceBank, SkipBank, is_chain, steps_of
from ops.executor import CellOperations, Operation
from ops.images import FactorizedReduce, Zero
from ops.kernels.pool import MAXIMUM
from ops.plan import Stencil, chain_dense_kernel, chain_stencils, dense_kernel, layer_kind, pool_kind, stencils

CHAIN, MAXIMUM_POOL, AVERAGE_POOL, SKIP, DENSE, REDUCE = range(6)
WEIGHTS = 4
"""The most weights of one operation: two depthwise and two pointwise ones."""
STATISTICS, AFFINE = ("running_mean", "running_var"), ("weight", "bias")


class Owner(NamedTuple):
    """The tensors of an operation on one edge: row `row` of those of a bank, or those of a module
    (row 0)."""

    module: nn.Module
    row: int


class Place(NamedTuple):
    """Row `row` of the tensor `name` of a bank or a module."""

    module: nn.Module
    name: str
    row: int


class Feed(NamedTuple):
    """An ordinary module on the way from state `source` to node `node` (numbered from 0)."""

    module: nn.Module
    source: int
    node: int


@dataclass(frozen=True)
class Shape:
    """The counts of a cell, as `CellOperations` has them; `channels` go through its operations."""

    inputs: int
    nodes: int
    concat: tuple[int, ...]
    stride: int
    channels: int
    partial: int = 1


def tensor_of(module: nn.Module, name: str) -> Tensor:
    """Returns the tensor `name` of a bank, [edges, ...], or of a module."""
    holder, attribute = _holder_of(module, name)
    tensor = holder[attribute]
    assert tensor is not None
    return tensor


def _holder_of(module: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    """Returns the dictionary that holds that tensor, and its name there.

    A call reads hundreds of tensors, and a module's attributes take longer than their dictionary.
    """
    owner, attribute = module, name
    if isinstance(module, Bank):
        attribute = module.names[name]
    else:
        path, _, attribute = name.rpartition(".")
        owner = module.get_submodule(path)
    return owner._parameters if attribute in owner._parameters else owner._buffers, attribute


class Tensors:
    """Places in tensors, by the tensor's number (None: there is none) and an offset in elements."""

    def __init__(self, places: Sequence[Place | None]) -> None:
        self.keys = list(dict.fromkeys((place.module, place.name) for place in places if place is not None))
        """The module and the name of each tensor, once."""
        self._held = [_holder_of(*key) for key in self.keys]
        number = {key: index for index, key in enumerate(self.keys)}
        self.owners = [None if place is None else number[place[:2]] for place in places]
        """By place, like the offsets."""
        self.offsets = [0 if place is None else place.row * self._row(place) for place in places]

    @staticmethod
    def _row(place: Place) -> int:
        return tensor_of(place.module, place.name)[0].numel() if place.row else 0

    def tensors(self) -> list[Tensor]:
        """Returns the tensors as they are now."""
        return [holder[name] for holder, name in self._held]


class Lists:
    """What a call takes from lists of tensors: places in them, by the tensor's number through all
    lists (-1: there is none) and an offset in elements."""

    def __init__(self, lists: Sequence[tuple[int, Sequence[int | None], Sequence[int]]]) -> None:
        """Each of `lists` has a number of tensors, then the tensor and the offset of each place."""
        self._lengths = [length for length, _, _ in lists]
        numbers: list[int] = []
        first = 0
        for length, owners, offsets in lists:
            for owner, offset in zip(owners, offsets, strict=True):
                numbers += [-1 if owner is None else first + owner, offset]
            first += length
        self.table = (ctypes.c_int64 * len(numbers))(*numbers)
        """Two numbers for each place, the same for every call."""

    def addresses(self, lists: Sequence[Sequence[Tensor]]) -> list[int]:
        """Returns the address of each tensor; 0 for what a list has not, as it may end early."""
        found: list[int] = []
        for length, tensors in zip(self._lengths, lists, strict=True):
            found += map(Tensor.data_ptr, tensors)
            found += [0] * (length - len(tensors))
        return found


WHOLE = (
    *("nodes", "stats", "mixture", "output", "output_gradient", "node_gradients", "mixture_gradient", "drops"),
    *("outers", "outer_gradients", "shares", "share_gradients", "places"),
)
LISTS = ("inputs", "input_gradients", "weights", "weight_gradients", "running", "affine", "affine_gradients")
"""Tensors and lists of tensors of a call, in the order in which `Call` in cell.h reads them; behind
the nodes lie the raw maps, and behind their gradients those of the first halves."""


class CellProgram:
    """The program of one cell, and the places of the tensors that it names."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.norms: list[tuple[Owner, str] | None] = []
        """The batch norm of each map; None for a map that is not normalised."""
        self.halves = self.maxima = self.drops = 0
        self._weights: list[Place | None] = []
        self._operations: list[tuple[int, ...]] = []
        self._entries: list[tuple[int, ...]] = []
        self._edges: list[tuple[int, ...]] = []

    @classmethod
    def of_operations(cls, cell: CellOperations) -> "CellProgram":
        """Returns the program of a mixed cell."""
        program = cls(Shape(cell.inputs, cell.nodes, cell.concat, cell.stride, cell.inner, cell.partial))
        for operation in cell.operations:
            program._add_operation(operation, cell.stride_of(operation.source))
        if cell.partial > 1:
            program._edges += cell.edges
        program._finish()
        return program

    @classmethod
    def of_modules(cls, shape: Shape, feeds: Iterable[Feed]) -> "CellProgram | None":
        """Returns the program of a discrete cell, in which each weight is entry 0 of the mixture.

        All outputs but those of identities can be dropped. It is None if there is a module of
        another form, or if an input is part of the output.
        """
        if any(state < shape.inputs for state in shape.concat):
            return None
        program = cls(shape)
        if not all(program._add_module(feed, shape.stride if feed.source < shape.inputs else 1) for feed in feeds):
            return None
        program._finish()
        return program

    @property
    def outer(self) -> int:
        """Number of channels of a state that pass the operations by."""
        return self.shape.channels * (self.shape.partial - 1)

    @property
    def states(self) -> int:
        """Number of tensors that make up the input states: of those of both kinds of channels."""
        return self.shape.inputs * (1 if self.shape.partial == 1 else 2)

    @property
    def maps(self) -> int:
        """Number of raw maps."""
        return len(self.norms)

    def _finish(self) -> None:
        """Writes all down, once all operations are known."""
        shape = self.shape
        place = {state - shape.inputs: position for position, state in enumerate(shape.concat)}
        numbers: list[int] = [shape.inputs, shape.nodes, shape.stride, shape.channels, shape.partial]
        numbers += [len(self._operations), len(self._entries), len(self._edges), self.maps, self.halves, self.maxima]
        numbers += [place.get(node, -1) for node in range(shape.nodes)]
        for row in (*self._operations, *self._entries, *self._edges):
            numbers += row
        self.numbers = (ctypes.c_int32 * (1 + len(numbers)))(len(numbers), *numbers)
        """How many numbers follow, counts, the place of each node in the output, operations,
        entries, edges."""
        self.weights = Tensors(self._weights)
        """`WEIGHTS` for each operation."""
        self.running, self.affine = (
            Tensors([self._norm_place(norm, name) for norm in self.norms for name in names]) for names in (STATISTICS, AFFINE)
        )
        """Two for each map."""
        inputs = 2 * shape.inputs, range(2 * shape.inputs), [0] * (2 * shape.inputs)
        weights, running, affine = (
            (len(each.keys), each.owners, each.offsets) for each in (self.weights, self.running, self.affine)
        )
        self.lists = Lists([inputs, inputs, weights, weights, running, affine, affine])
        """Of `LISTS`."""
        rows: dict[tuple[nn.Module, str], set[int]] = {}
        for weight in self._weights:
            if weight is not None:
                rows.setdefault(weight[:2], set()).add(weight.row)
        self.partial_rows = any(
            isinstance(module, Bank) and len(known) < len(tensor_of(module, name)) for (module, name), known in rows.items()
        )
        """True if some rows of the weights belong to edges that do not run."""

    @staticmethod
    def _norm_place(norm: tuple[Owner, str] | None, name: str) -> Place | None:
        """Returns the place of a batch norm's tensor; None if it has no such tensor."""
        if norm is None:
            return None
        owner, layer = norm
        path = f"{layer}.{name}"
        if isinstance(owner.module, Bank):
            return Place(owner.module, path, owner.row) if path in owner.module.names else None
        return Place(owner.module, path, 0) if getattr(owner.module.get_submodule(layer), name) is not None else None

    def running_statistics(self, dtype: torch.dtype) -> Tensor | None:
        """Returns [maps, 3, C] from the running statistics: mean, variance, variance; None if there
        are none."""
        places = [[self._norm_place(norm, name) for name in STATISTICS] for norm in self.norms]
        known = [place for pair in places for place in pair if place is not None]
        if not known:
            return None
        zeros = torch.zeros(self.shape.channels, dtype=dtype)
        rows = []
        for pair in places:
            mean, variance = (zeros if place is None else _row_of(place).to(dtype) for place in pair)
            rows.append(torch.stack((mean, variance, variance)))
        return torch.stack(rows)

    def _add_operation(self, operation: Operation, stride: int) -> None:
        bank = operation.bank
        targets = list(zip(operation.targets, operation.weights, strict=True))
        if isinstance(bank, SkipBank):
            self._add_skip(operation.source, targets)
        elif isinstance(bank, PoolBank):
            norm = (Owner(bank, 0), "norm") if bank.normalised else None
            self._add_pool(pool_kind(bank, stride) == MAXIMUM, operation.source, norm, targets)
        else:
            for row, target in zip(operation.rows, targets, strict=True):
                owner = Owner(bank, row)
                if chain := stencils(bank, stride):
                    self._add_chain(owner, chain, operation.source, target)
                elif isinstance(bank, ReduceBank):
                    self._add_dense(owner, ["even", "shifted"], 0, "norm", operation.source, target)
                else:
                    assert isinstance(bank, ChainBank) and isinstance(bank.steps[0], Convolution)
                    kernel, name = dense_kernel(bank), bank.steps[0].name
                    self._add_dense(owner, [name], kernel, str(bank.steps[-1]), operation.source, target)

    def _add_module(self, feed: Feed, stride: int) -> bool:
        """Adds the operation of a feed; returns False for a module of another form."""
        module, source, node = feed
        owner, target = Owner(module, 0), (node, 0)
        if isinstance(module, nn.Identity):
            self._add_skip(source, [target])
            return True
        drop = self.drops
        self.drops += 1
        if isinstance(module, Zero):
            return True
        if (kind := layer_kind(module, stride)) is not None:
            self._add_pool(kind == MAXIMUM, source, None, [target], drop)
        elif isinstance(module, FactorizedReduce):
            self._add_dense(owner, ["even", "shifted"], 0, "norm", source, target, drop)
        elif is_chain(module, affine=True):
            assert isinstance(module, nn.Sequential)
            steps = steps_of(module)

            def shape(name: str) -> Sequence[int]:
                return tensor_of(module, name).shape

            if chain := chain_stencils(steps, shape, stride):
                self._add_chain(owner, chain, source, target, drop)
            elif (kernel := chain_dense_kernel(steps, shape)) and isinstance(steps[0], Convolution):
                self._add_dense(owner, [steps[0].name], kernel, str(steps[-1]), source, target, drop)
            else:
                return False
        else:
            return False
        return True

    def _add_skip(self, source: int, targets: Sequence[tuple[int, int]]) -> None:
        self._add((SKIP, source, 0, 0, -1, -1, -1, -1), -1 - source, targets)

    def _add_pool(
        self, maximum: bool, source: int, norm: tuple[Owner, str] | None, targets: Sequence[tuple[int, int]], drop: int = -1
    ) -> None:
        map = self._map(norm)
        number = self.maxima if maximum else -1
        self.maxima += maximum
        kind = MAXIMUM_POOL if maximum else AVERAGE_POOL
        self._add((kind, source, 0, 0, map, -1, -1 if norm is None else 0, number), map, targets, drop=drop)

    def _add_chain(self, owner: Owner, chain: Sequence[Stencil], source: int, target: tuple[int, int], drop: int = -1) -> None:
        maps = [self._map((owner, stencil.norm)) for stencil in chain]
        names = [name for stencil in chain for name in (stencil.depthwise, stencil.pointwise)]
        double = len(chain) == 2
        half = self.halves if double else -1
        self.halves += double
        row = (CHAIN, source, chain[0].kernel, chain[0].dilation, maps[0], maps[1] if double else -1, half, -1)
        self._add(row, maps[-1], [target], [Place(owner.module, f"{name}.weight", owner.row) for name in names], drop)

    def _add_dense(
        self, owner: Owner, names: Sequence[str], kernel: int, norm: str, source: int, target: tuple[int, int], drop: int = -1
    ) -> None:
        """Adds an ordinary convolution of that kernel, or, with 0, a factorised reduction."""
        map = self._map((owner, norm))
        row = (DENSE if kernel else REDUCE, source, kernel, 1, map, -1, -1, -1)
        self._add(row, map, [target], [Place(owner.module, f"{name}.weight", owner.row) for name in names], drop)

    def _add(
        self,
        row: tuple[int, ...],
        map: int,
        targets: Sequence[tuple[int, int]],
        weights: Sequence[Place] = (),
        drop: int = -1,
    ) -> None:
        for node, weight in targets:
            self._entries.append((node, map, weight, len(self._operations), drop))
        self._operations.append(row)
        self._weights += [*weights, *[None] * (WEIGHTS - len(weights))]

    def _map(self, norm: tuple[Owner, str] | None) -> int:
        self.norms.append(norm)
        return self.maps - 1


def _row_of(place: Place) -> Tensor:
    tensor = tensor_of(place.module, place.name)
    return tensor[place.row] if isinstance(place.module, Bank) else tensor
