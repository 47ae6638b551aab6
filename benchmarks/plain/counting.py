"""Costs of a pass that need no clock: kernels started, bytes kept for backward, bytes at most.

On fake tensors nothing is computed, so that a network of full size is counted in seconds. They
claim to be on the CPU, as autograd takes fake tensors of a GPU only if torch is built for one; the
operators are the same. A network becomes fake if its type is changed under the mode:

    network, images = PlainSupernet("darts", 16, 8, 10), torch.empty(64, 3, 32, 32)
    with FakeTensorMode(allow_non_fake_inputs=True):
        network, images = network.to(torch.bfloat16), images.to(torch.bfloat16)
        kernels = launches(lambda: network(images, mixture).sum().backward()).total()
        kept = saved_bytes(lambda: network(images, mixture), [*network.parameters(), *network.buffers()])
"""

import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

NO_KERNEL = {
    "alias",
    "detach",
    "detach_",
    "device",
    "empty",
    "empty_like",
    "empty_permuted",
    "empty_strided",
    "is_same_size",
    "lift_fresh",
    "new_empty",
    "new_empty_strided",
    "promote_types",
    "resize_",
    "set_",
    "_reshape_alias",
    "_unsafe_view",
}
"""Operators that compute nothing though their schema does not call them views."""


class _Launches(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        namespace, _, name = func._schema.name.partition("::")
        if not func.is_view and name not in NO_KERNEL:
            # The last argument asks for gradients of input, weight and bias: a kernel each.
            self.counts[name if namespace == "aten" else f"{namespace}.{name}"] += (
                sum(args[-1]) if name == "convolution_backward" else 1
            )
        return func(*args, **kwargs or {})


def launches(run: Callable[[], object]) -> Counter[str]:
    """Returns the kernels that `run` starts at least, by operator; a foreach counts as one."""
    with _Launches() as mode:
        run()
    return mode.counts


def saved_bytes(run: Callable[[], object], kept_anyway: Iterable[Tensor] = ()) -> int:
    """Returns the bytes that the forward pass `run` keeps for backward, each storage once.

    `kept_anyway` are tensors that are there with or without it: parameters and buffers.
    """
    ours = {tensor.untyped_storage()._cdata for tensor in kept_anyway}
    saved: dict[int, torch.UntypedStorage] = {}  # holds the tensors, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(storage.nbytes() for address, storage in saved.items() if address not in ours)


class _Alive(TorchDispatchMode):
    """Counts the bytes of the storages that are made inside and still there, now and at most."""

    def __init__(self, others: Iterable[Tensor]) -> None:
        super().__init__()
        self.known = {tensor.untyped_storage()._cdata for tensor in others}
        self.now = self.most = 0

    def _freed(self, address: int, size: int) -> None:
        self.known.discard(address)
        self.now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **kwargs or {})
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and (storage := leaf.untyped_storage())._cdata not in self.known:
                self.known.add(storage._cdata)
                self.now += storage.nbytes()
                weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        self.most = max(self.most, self.now)
        return result


class Alive(NamedTuple):
    """Bytes of the storages that a pass makes, each once; what an operator takes for itself alone
    is not seen."""

    most: int
    """Bytes that are there at once, at most."""
    left: int
    """Bytes that are there at the end."""


def alive_bytes(run: Callable[[], object], others: Iterable[Tensor] = ()) -> Alive:
    """Returns the bytes that are there while `run` runs and when it has run.

    `others` are tensors that are there before, such as parameters.
    """
    with _Alive(others) as alive:
        run()
    return Alive(alive.most, alive.now)
