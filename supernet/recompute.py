"""A cell that backward computes again, so that its maps need not be kept.

What a network keeps for backward is nearly all inside its cells. Without it, only the states
between cells are kept, and one cell's maps at a time are made again when backward comes to it (Chen
et al. 2016, "Training Deep Nets with Sublinear Memory Cost", section 3).

`torch.utils.checkpoint` does the same for any code. With the thousands of small tensors that a cell
in plain torch keeps, its bookkeeping takes longer than the cell, it asks a generator for a state,
which no CUDA graph allows, and it knows nothing of running statistics or of weights that
`torch.func.functional_call` put in place.
"""

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

Recompute = Literal["none", "cells"]
"""none: backward finds all that it needs in memory; cells: it computes each cell again, as
`recomputed` does, with the stem and the layers between cells, but not the last of all (`Backbone.LAST`)."""


def recomputed(module: nn.Module, *arguments: Any) -> Any:
    """Returns `module(*arguments)`, for which only the tensors in `arguments` are kept for
    backward.

    Backward runs the module again and finds all that the first pass had: the weights, also those
    that `torch.func.functional_call` had put in place; its random numbers; autocast; and copies of
    the buffers as they were, so that running statistics move once. The graph is that of
    `module(*arguments)`, so gradients of any order have the same bits. Nothing waits for the
    device, so both passes fit into a CUDA graph.
    """
    call = _Call(module, arguments)
    with saved_tensors_hooks(call.leave_out, call.find), call.draws.first():
        return module(*arguments)


class _Slot:
    """The place of a tensor that is left out; the graph holds it for as long as it may need it."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self) -> None:
        self.tensor: Tensor | None = None


class _Call:
    """One call of a module, and all that it takes to make it again."""

    def __init__(self, module: nn.Module, arguments: Sequence[Any]) -> None:
        parts = list(module.modules())
        self._weights = _places([part._parameters for part in parts])
        self._statistics = _places([part._buffers for part in parts])
        leaves, self._structure = tree_flatten(([owner[name] for owner, name in self._weights], arguments))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        device = tensors[0].device
        self._module = module
        self._others = [None if isinstance(leaf, Tensor) else (leaf,) for leaf in leaves]
        # In a graph, as that notices if a tensor is changed in place before backward.
        self._kept: Tensor = _Kept.apply(torch.empty(0, requires_grad=True), *tensors)
        self._buffers = _copies([owner[name] for owner, name in self._statistics])
        enabled, dtype = torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)
        self._autocast = partial(torch.autocast, device.type, dtype, enabled)
        self.draws: Draws = GeneratorState() if device.type == "cpu" else KeptDraws()
        self._slots: list[weakref.ref[_Slot]] = []

    def leave_out(self, tensor: Tensor) -> _Slot:
        """Returns what stands for `tensor` in the graph."""
        slot = _Slot()
        self._slots.append(weakref.ref(slot))
        return slot

    def find(self, slot: _Slot) -> Tensor:
        """Returns the tensor that `slot` stands for, once: its memory is free when it was used."""
        if slot.tensor is None:
            self._compute_again()
        tensor, slot.tensor = slot.tensor, None
        assert tensor is not None
        return tensor

    def _compute_again(self) -> None:
        """Fills all slots that the graph still holds."""
        found = 0

        def fill(tensor: Tensor) -> Tensor:
            nonlocal found
            slot = self._slots[found]() if found < len(self._slots) else None
            found += 1
            # A graph that keeps a tensor with its own history is never freed.
            tensor = tensor.detach()
            if slot is not None:
                slot.tensor = tensor
            return tensor

        node: Any = self._kept.grad_fn
        tensors = iter(node.saved_tensors)
        leaves = [next(tensors) if other is None else other[0] for other in self._others]
        weights, arguments = tree_unflatten(leaves, self._structure)
        with (
            torch.enable_grad(),
            self._autocast(),
            self.draws.again(),
            saved_tensors_hooks(fill, lambda tensor: tensor),
            _put_in_place(self._weights + self._statistics, weights + _copies(self._buffers)),
        ):
            self._module(*arguments)
        if found != len(self._slots):
            name = type(self._module).__name__
            raise RuntimeError(f"{name} kept {len(self._slots)} tensors for backward and {found} when it was computed again")


class _Kept(torch.autograd.Function):
    """Maps (an empty tensor that needs a gradient, tensors) to an empty tensor, whose graph
    keeps the tensors."""

    @staticmethod
    def forward(ctx: Any, empty: Tensor, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors)
        return torch.empty_like(empty)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, ...]:
        raise AssertionError("no loss depends on its output")


_Place = tuple[dict[str, Any], str]
"""A dictionary of a module's own tensors, and a name in it."""


def _places(owners: Iterable[dict[str, Any]]) -> list[_Place]:
    """Returns the places of all tensors in `owners`."""
    return [(owner, name) for owner in owners for name, tensor in owner.items() if tensor is not None]


@contextmanager
def _put_in_place(places: Sequence[_Place], tensors: Sequence[Tensor]) -> Iterator[None]:
    """Puts `tensors` into `places` for as long as the context lasts.

    `torch.func.functional_call` does it by dotted names, which takes ten times as long.
    """
    before = [owner[name] for owner, name in places]
    try:
        for (owner, name), tensor in zip(places, tensors, strict=True):
            owner[name] = tensor
        yield
    finally:
        for (owner, name), old in zip(places, before, strict=True):
            owner[name] = old


def _copies(buffers: Sequence[Tensor]) -> list[Tensor]:
    """Returns copies of all `buffers`, made together."""
    copies = [torch.empty_like(buffer) for buffer in buffers]
    if copies:
        torch._foreach_copy_(copies, list(buffers))
    return copies


class Draws(Protocol):
    """The random numbers of a pass."""

    def first(self) -> AbstractContextManager[object]:
        """Returns the context of the pass that draws them."""

    def again(self) -> AbstractContextManager[object]:
        """Returns the context of a pass that gets the same ones, and of which the generator sees
        nothing."""


class GeneratorState:
    """`Draws` by the state of the CPU's generator, which costs next to nothing."""

    def __init__(self) -> None:
        self._state = torch.get_rng_state()

    def first(self) -> AbstractContextManager[object]:
        return nullcontext()

    @contextmanager
    def again(self) -> Iterator[None]:
        with torch.random.fork_rng([]):
            torch.set_rng_state(self._state)
            yield


class KeptDraws:
    """`Draws` that are kept, because a generator in a CUDA graph has no state to return to.

    Every operation passes through Python meanwhile, a few microseconds each; in a graph it does so
    at the capture alone.
    """

    def __init__(self) -> None:
        self.draws: list[tuple[list[Tensor], Any]] = []
        """For each operation that draws: the tensors that it wrote to, and what it returned."""

    def first(self) -> AbstractContextManager[object]:
        return _Recorded(self.draws)

    def again(self) -> AbstractContextManager[object]:
        return _Replayed(self.draws)


class _Recorded(TorchDispatchMode):
    """Puts copies of all that is drawn inside into `draws`."""

    def __init__(self, draws: list[tuple[list[Tensor], Any]]) -> None:
        super().__init__()
        self._draws = draws

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        result = function(*arguments, **(options or {}))
        if _is_random(function):
            # Copies, because what was drawn may be changed in place.
            self._draws.append(_cloned((_written(function, arguments, options), result)))
        return result


class _Replayed(TorchDispatchMode):
    """Lets operations inside find `draws` again instead of drawing."""

    def __init__(self, draws: Sequence[tuple[list[Tensor], Any]]) -> None:
        super().__init__()
        self._next = iter(draws)

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        if not _is_random(function):
            return function(*arguments, **(options or {}))
        kept, result = next(self._next)
        written = _written(function, arguments, options)
        for tensor, values in zip(written, kept, strict=True):
            tensor.copy_(values)
        # An operation in place returns the tensor that it has written to.
        return written[0] if function._schema.returns[0].alias_info else _cloned(result)


def _is_random(function: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in function.tags


def _written(function: Any, arguments: Sequence[Any], options: Mapping[str, Any] | None) -> list[Tensor]:
    """Returns those of the operation's arguments that it writes to."""
    given = dict(zip((each.name for each in function._schema.arguments), arguments, strict=False)) | dict(options or {})
    return [given[each.name] for each in function._schema.arguments if each.alias_info and each.alias_info.is_write]


def _cloned(values: Any) -> Any:
    return tree_map_only(Tensor, torch.clone, values)
