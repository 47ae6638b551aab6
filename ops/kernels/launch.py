"""The common parts of all kernels: their device, their programs, their registration as custom ops.

Triton is imported here and nowhere else. It may be absent (its builds are for Linux): the kernel
files still import, and their references run.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # no build of Triton for this system
    triton = tl = None

Function = TypeVar("Function", bound=Callable[..., Any])

WIDEST = 512
"""Most channels of a map: the sums over them still fit into one program."""

LARGEST = 2**31
"""Elements that a map must stay below: offsets within one are 32-bit numbers."""

INTERPRETED = triton is not None and os.environ.get("TRITON_INTERPRET") == "1"
"""True if Triton's interpreter stands in for the compiler, on the CPU: for tests."""

COUNT, MEAN, SQUARES = range(3)
"""The rows of a part of statistics [..., 3, C]: number of values, mean, sum of squared deviations
from it."""


def jit(function: Function) -> Function:
    """Returns `triton.jit(function)` if there is Triton, otherwise `function` itself."""
    return function if triton is None else triton.jit(function)


@dataclass(frozen=True)
class Launch:
    """One start of a kernel: its arguments, and the constants that it is compiled for."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Tensor | int | float | None, ...]
    constants: dict[str, Any]
    warps: int


_recorded: list[Launch] | None = None
_failed = False


def runs_kernel(maps: Tensor) -> bool:
    """Says whether an op on `maps` runs as a Triton kernel; otherwise its reference runs.

    The interpreter computes bfloat16 wrongly, so it gets float32 alone.
    """
    if triton is None or _failed or maps.shape[-1] % 16 or maps.shape[-1] > WIDEST:
        return False
    if maps.is_cuda or _recorded is not None:
        return maps.dtype in (torch.float32, torch.bfloat16)
    return INTERPRETED and maps.dtype == torch.float32


def supports(state: Tensor) -> bool:
    """Says whether kernels on a GPU compute a cell whose states are like `state` [B, C, H, W]."""
    if triton is None or _failed or not state.is_cuda or state.shape[1] % 16 or state.shape[1] > WIDEST:
        return False
    return (
        state.numel() < LARGEST
        and state.dtype in (torch.float32, torch.bfloat16)
        and torch.cuda.get_device_capability(state.device) >= (8, 0)
    )


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Tensor | int | float | None, warps: int, **constants: Any) -> bool:
    """Starts `kernel` and returns True; returns False, after one warning, if it cannot be compiled
    for this device.

    The first of `arguments` is a tensor, on the device that the kernel runs on.
    """
    global _failed
    if _recorded is not None:
        _recorded.append(Launch(kernel, grid, arguments, constants, warps))
        return True
    try:
        # Triton starts kernels on the current device, wherever the tensors are.
        with torch.cuda.device_of(arguments[0]):
            kernel[grid](*arguments, **constants, num_warps=warps)
    except (torch.AcceleratorError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # errors of a compiler, a linker, a missing header: each throws its own
        _failed = True
        reason = " ".join(str(error).split())[:200]
        warnings.warn(f"no Triton kernels here, plain torch runs instead: {kernel.fn.__name__}: {reason}", stacklevel=2)
        return False
    return True


@contextmanager
def recording() -> Iterator[list[Launch]]:
    """Makes ops inside, on tensors of any device (meta, too), compute nothing and add their
    launches to the list."""
    global _recorded
    before, _recorded = _recorded, []
    try:
        yield _recorded
    finally:
        _recorded = before


def kernel_op(name: str, mutates: tuple[str, ...]) -> Callable[[Function], Function]:
    """Registers a function that writes into its arguments `mutates`, and returns nothing, as the
    custom op fusenas::`name`.

    Its fake implementation does nothing, as the caller has allocated what is written; while
    launches are recorded it runs the function, which then records them for tensors without values.
    """

    def register(function: Function) -> Function:
        def run(*arguments: Any, **options: Any) -> None:
            # Autocast would round what a reference computes in float32.
            with torch.autocast(arguments[0].device.type, enabled=False):
                function(*arguments, **options)

        def fake(*arguments: Any, **options: Any) -> None:
            if _recorded is not None:
                function(*arguments, **options)

        schema = torch.library.infer_schema(function, mutates_args=mutates)
        op = torch.library.custom_op(f"fusenas::{name}", run, mutates_args=mutates, schema=schema)
        op.register_fake(fake)
        return op  # type: ignore[return-value]  # called as the function is

    return register


def accumulation_dtype(maps: Tensor) -> torch.dtype:
    """Returns float32, or float64 for maps of float64."""
    return torch.promote_types(maps.dtype, torch.float32)
