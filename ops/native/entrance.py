"""The entrances of a cell, each ReLU, pointwise convolution and batch norm, as one call of
`entrance.h` a pass."""

from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from base.checks import InputError
from ops.functional import strided_size
from ops.images import FactorizedReduce, ReluConvNorm
from ops.mixing import EPSILON, MOMENTUM
from ops.native.library import call
from ops.native.memory import MEMORY


def is_entrance(layer: nn.Module) -> TypeGuard[ReluConvNorm | FactorizedReduce]:
    """Says whether `layer` is a ReLU, a pointwise convolution or factorised reduction, and a batch
    norm of the usual momentum, and is called as it is."""
    if not isinstance(layer, ReluConvNorm | FactorizedReduce):
        return False
    if any(part and (part._forward_hooks or part._forward_pre_hooks) for part in (layer, *layer._modules.values())):
        return False
    if isinstance(layer, ReluConvNorm) and (layer.conv.kernel_size, layer.conv.stride) != ((1, 1), (1, 1)):
        return False
    return layer.norm.momentum == MOMENTUM and layer.norm.eps == EPSILON


class _Entrance(NamedTuple):
    """What a pass knows of an entrance beside the tensors that autograd sees."""

    convolutions: int
    fixed: Tensor | None
    """Mean and 1 / standard deviation, [2, out]; None where a batch's own are used."""
    running: tuple[Tensor, Tensor] | None
    """Running mean and variance that are to be updated, or None."""
    tensors: int
    """Number of its tensors: the state, weights, and factors and terms if its batch norm has
    them."""


def enter(layers: Iterable[nn.Module], states: Sequence[Tensor]) -> list[Tensor]:
    """Returns `layer(state)` for all entrances of a cell and their states, by one call.

    A state [B, in, H, W] becomes [B, out, ceil(H / s), ceil(W / s)]. It is differentiable once.
    Raises InputError if batch norm has one value a channel.
    """
    entrances: list[_Entrance] = []
    tensors: list[Tensor] = []
    for layer, state in zip(layers, states, strict=True):
        assert isinstance(layer, ReluConvNorm | FactorizedReduce)
        weights = [layer.conv.weight] if isinstance(layer, ReluConvNorm) else [layer.even.weight, layer.shifted.weight]
        norm = layer.norm
        mean, variance = norm.running_mean, norm.running_var
        running = None if mean is None or variance is None else (mean, variance)
        batch_statistics = norm.training or running is None
        height, width = strided_size(state.shape[2:], len(weights))
        if batch_statistics and len(state) * height * width == 1:
            raise InputError("batch norm: one image of one pixel has no statistics; use more images or larger ones")
        fixed = None if batch_statistics or running is None else torch.stack((running[0], (running[1] + EPSILON).rsqrt()))
        own = [state, *weights, *([norm.weight, norm.bias] if norm.affine else [])]
        entrances.append(_Entrance(len(weights), fixed, running if norm.training else None, len(own)))
        tensors += own
    return list(_Enter.apply(entrances, *tensors))


class _Enter(torch.autograd.Function):
    """Takes the entrances and the tensors of all of them; returns an output for each."""

    @staticmethod
    def forward(ctx: Any, entrances: Sequence[_Entrance], *tensors: Tensor) -> tuple[Tensor, ...]:
        calls: list[list[int]] = []
        saved: list[Tensor] = []
        outputs: list[Tensor] = []
        rest = iter(tensors)
        for entrance in entrances:
            state = next(rest).contiguous(memory_format=torch.channels_last)
            parameters = [parameter.contiguous() for parameter in islice(rest, entrance.tensors - 1)]
            batch, _, height, width = state.shape
            outs = entrance.convolutions * len(parameters[0])
            size = (batch, *strided_size((height, width), entrance.convolutions), outs)
            raw, output = MEMORY.empty((2, *size), state.dtype).unbind()
            stats = state.new_empty(2, outs) if entrance.fixed is None else entrance.fixed
            calls.append(_numbers(entrance, state, raw, stats, parameters, output=output))
            saved += [state, raw, stats, *parameters]
            outputs.append(output.permute(0, 3, 1, 2))
        _call_all("entrances_forward", tensors[0].dtype, calls)
        ctx.entrances = entrances
        ctx.save_for_backward(*saved)
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *output_gradients: Tensor) -> tuple[Tensor | None, ...]:
        calls: list[list[int]] = []
        found: list[Tensor | None] = [None]
        tensors = ctx.saved_tensors
        saved, needs = iter(tensors), iter(ctx.needs_input_grad[1:])
        kept: list[Tensor] = []  # until the call is over
        for entrance, gradient in zip(ctx.entrances, output_gradients, strict=True):
            state, raw, stats, *parameters = islice(saved, entrance.tensors + 2)
            needs_state, *needs_parameters = islice(needs, entrance.tensors)
            batch, channels, height, width = state.shape
            state_gradient = None
            if needs_state:
                state_gradient = MEMORY.empty((batch, height, width, channels), state.dtype).permute(0, 3, 1, 2)
            gradients = [torch.empty_like(parameter) for parameter in parameters] if any(needs_parameters) else []
            nothing: list[Tensor | None] = [None] * len(parameters)
            found += [state_gradient, *(gradients or nothing)]
            if state_gradient is None and not gradients:
                continue
            gradient = gradient.contiguous(memory_format=torch.channels_last)
            kept.append(gradient)
            calls.append(
                _numbers(
                    entrance,
                    state,
                    raw,
                    stats,
                    parameters,
                    output_gradient=gradient,
                    state_gradient=state_gradient,
                    gradients=gradients,
                )
            )
        if calls:
            _call_all("entrances_backward", tensors[0].dtype, calls)
        return tuple(found)


def _numbers(
    entrance: _Entrance,
    state: Tensor,
    raw: Tensor,
    stats: Tensor,
    parameters: Sequence[Tensor],
    *,
    output: Tensor | None = None,
    output_gradient: Tensor | None = None,
    state_gradient: Tensor | None = None,
    gradients: Sequence[Tensor] = (),
) -> list[int]:
    """Returns the numbers of an entrance's pass: sizes, switches, then addresses, as `EntranceCall`
    reads them."""
    count, (batch, ins, height, width) = entrance.convolutions, state.shape
    running = entrance.running
    sizes = [batch, height, width, ins, raw.shape[-1], count, torch.get_num_threads()]
    switches = [entrance.fixed is None, running is not None, state_gradient is not None, bool(gradients)]
    weights, affine = _pair(parameters[:count]), _pair(parameters[count:])
    tensors = [state, *weights, raw, stats, *(running or (None, None)), *affine, output]
    tensors += [output_gradient, state_gradient, *_pair(gradients[:count]), *_pair(gradients[count:])]
    return [*sizes, *switches, *[0 if tensor is None else tensor.data_ptr() for tensor in tensors]]


def _pair(tensors: Sequence[Tensor]) -> list[Tensor | None]:
    """Returns two places for `tensors`, of which there are two at most."""
    return [*tensors, *[None] * (2 - len(tensors))]


def _call_all(name: str, dtype: torch.dtype, calls: Sequence[Sequence[int]]) -> None:
    """Calls a pass of all entrances: their number, then the numbers of each."""
    call(name, dtype, [len(calls), *chain.from_iterable(calls)])
