"""Costs of a pass that need no clock: kernels started, and bytes kept for backward.

On fake tensors nothing is computed, so that a network of full size is counted in seconds. They
claim to be on the CPU, as autograd takes fake tensors of a GPU only if torch is built for one; the
operators are the same. A network becomes fake if its type is changed under the mode:

    network, images = PlainSupernet("darts", 16, 8, 10), torch.empty(64, 3, 32, 32)
    with FakeTensorMode(allow_non_fake_inputs=True):
        network, images = network.to(torch.bfloat16), images.to(torch.bfloat16)
        kernels = launches(lambda: network(images, mixture).sum().backward()).total()
        kept = saved_bytes(lambda: network(images, mixture), [*network.parameters(), *network.buffers()])
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._python_dispatch import TorchDispatchMode

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
