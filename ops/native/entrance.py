"""The entrance of a cell, ReLU, pointwise convolution and batch norm, as one call of `entrance.h` a
pass."""

import ctypes
from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from base.checks import InputError
from ops.functional import strided_size
from ops.images import FactorizedReduce, ReluConvNorm
from ops.mixing import EPSILON, MOMENTUM
from ops.native.library import load
from ops.native.memory import MEMORY


def is_entrance(layer: nn.Module) -> TypeGuard[ReluConvNorm | FactorizedReduce]:
    """Says whether `layer` is a ReLU, a pointwise convolution or factorised reduction, and a batch
    norm of the usual momentum, and is called as it is."""
    if not isinstance(layer, ReluConvNorm | FactorizedReduce):
        return False
    if any(module._forward_hooks or module._forward_pre_hooks for module in layer.modules()):
        return False
    if isinstance(layer, ReluConvNorm) and (layer.conv.kernel_size, layer.conv.stride) != ((1, 1), (1, 1)):
        return False
    return layer.norm.momentum == MOMENTUM and layer.norm.eps == EPSILON


def enter(layer: ReluConvNorm | FactorizedReduce, state: Tensor) -> Tensor:
    """Returns `layer(state)` for an entrance; [B, in, H, W] to [B, out, ceil(H / s), ceil(W / s)].

    It is differentiable once. Raises InputError if batch norm has one value a channel.
    """
    weights = [layer.conv.weight] if isinstance(layer, ReluConvNorm) else [layer.even.weight, layer.shifted.weight]
    norm = layer.norm
    batch_statistics = norm.training or norm.running_mean is None
    height, width = strided_size(state.shape[2:], len(weights))
    if batch_statistics and len(state) * height * width == 1:
        raise InputError("batch norm: one image of one pixel has no statistics; use more images or larger ones")
    running = None if norm.running_mean is None or norm.running_var is None else (norm.running_mean, norm.running_var)
    fixed = None if batch_statistics or running is None else torch.stack((running[0], (running[1] + EPSILON).rsqrt()))
    affine = [norm.weight, norm.bias] if norm.affine else []
    return _Enter.apply(fixed, running if norm.training else None, len(weights), state, *weights, *affine)


class _Enter(torch.autograd.Function):
    """Takes (fixed statistics or None, running statistics to update or None, number of
    convolutions, state, their weights, factors and terms of the batch norm if it has them)."""

    @staticmethod
    def forward(
        ctx: Any, fixed: Tensor | None, running: tuple[Tensor, Tensor] | None, count: int, state: Tensor, *parameters: Tensor
    ) -> Tensor:
        state = state.contiguous(memory_format=torch.channels_last)
        parameters = tuple(parameter.contiguous() for parameter in parameters)
        batch, _, height, width = state.shape
        outs = count * len(parameters[0])
        size = (batch, *strided_size((height, width), count), outs)
        raw = MEMORY.empty(size, state.dtype)
        stats = state.new_empty(2, outs) if fixed is None else fixed
        output = MEMORY.empty(size, state.dtype)
        ctx.count, ctx.batch_statistics = count, fixed is None
        _call("entrance_forward", ctx, running, state, raw, stats, parameters, output, None, None, [])
        ctx.save_for_backward(state, raw, stats, *parameters)
        return output.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        state, raw, stats, *parameters = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        batch, channels, height, width = state.shape
        state_gradient = None
        if ctx.needs_input_grad[3]:
            state_gradient = MEMORY.empty((batch, height, width, channels), state.dtype).permute(0, 3, 1, 2)
        gradients = [torch.empty_like(parameter) for parameter in parameters] if any(ctx.needs_input_grad[4:]) else []
        _call("entrance_backward", ctx, None, state, raw, stats, parameters, None, gradient, state_gradient, gradients)
        nothing: list[Tensor | None] = [None] * len(parameters)
        return (None, None, None, state_gradient, *(gradients or nothing))


def _call(
    name: str,
    ctx: Any,
    running: tuple[Tensor, Tensor] | None,
    state: Tensor,
    raw: Tensor,
    stats: Tensor,
    parameters: Sequence[Tensor],
    output: Tensor | None,
    gradient: Tensor | None,
    state_gradient: Tensor | None,
    gradients: list[Tensor],
) -> None:
    """Calls a pass: sizes, switches, then addresses, as `EntranceCall` reads them."""
    count, (batch, ins, height, width) = ctx.count, state.shape
    numbers = [
        batch,
        height,
        width,
        ins,
        raw.shape[-1],
        count,
        torch.get_num_threads(),
        ctx.batch_statistics,
        running is not None,
    ]
    numbers += [state_gradient is not None, bool(gradients)]

    def pair(tensors: Sequence[Tensor]) -> list[Tensor | None]:
        return [*tensors, None, None][:2]

    tensors = [state, *pair(parameters[:count]), raw, stats, *pair(running or ()), *pair(parameters[count:]), output, gradient]
    tensors += [state_gradient, *pair(gradients[:count]), *pair(gradients[count:])]
    numbers += [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
    array = np.array(numbers, dtype=np.int64)
    getattr(load(state.dtype), name)(ctypes.c_void_p(array.ctypes.data))
