"""The native executor: both passes of a cell as one call each of `cell.h`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from base.checks import InputError
from ops.executor import CellOperations
from ops.functional import halved_bypass, strided_size
from ops.mixing import EPSILON
from ops.native.library import call, load
from ops.native.memory import MEMORY
from ops.native.program import LISTS, WHOLE, CellProgram
from ops.plan import fusable

LARGEST = 2**31
"""Values that a map must stay below: places within one image are 32-bit numbers."""


def supports(*states: Tensor) -> bool:
    """Says whether compiled kernels compute a cell whose states are like `states`, each [B, C, H,
    W].

    They are built at the first call for which nothing else speaks against them.
    """
    return all(map(_plain, states)) and not _watched() and load(states[0].dtype) is not None


def _plain(state: Tensor) -> bool:
    """Says whether `state` is an ordinary tensor of a size and type that the kernels know."""
    if type(state) not in (Tensor, nn.Parameter) or state.device.type != "cpu" or state.dtype != torch.float32:
        return False
    return 0 < state.numel() < LARGEST


def _watched() -> bool:
    """Says whether something wants to see each operation: a compiler, a transform such as vmap, or
    a mode."""
    return (
        torch.compiler.is_compiling()
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._len_torch_function_stack() > 0
    )


class NativeCell:
    """A `CellExecutor` in C++ on the CPU, for the cells that it knows; see `computes`.

    It is differentiable once. For one number of threads a pass always gives the same bits.
    """

    def __init__(self, cell: CellOperations) -> None:
        self.cell = cell
        self.passes = Passes(CellProgram.of_operations(cell))
        self.stats: Tensor | None = None
        """Mean, 1 / standard deviation and unbiased variance of each map, [maps, 3, C], in the last
        call in training."""

    @staticmethod
    def computes(cell: CellOperations) -> bool:
        """Says whether all operations of `cell` have a form that the kernels know."""
        inputs = set(cell.concat) & set(range(cell.inputs))
        return not inputs and all(fusable(each.bank, cell.stride_of(each.source)) for each in cell.operations)

    def largest_offset(self) -> float | None:
        """Returns the largest |mean| / standard deviation of a raw map in the last call in
        training."""
        normalised = [map for map, norm in enumerate(self.passes.program.norms) if norm is not None]
        if self.stats is None or not normalised:
            return None
        chosen = self.stats[normalised]
        return float((chosen[:, 0].abs() * chosen[:, 1]).max())

    def __call__(self, states: Sequence[Tensor], mixture: Tensor, bypass: Tensor | None = None) -> Tensor:
        """Returns the output, as in `CellExecutor`.

        Raises InputError if batch norm has one value a channel.
        """
        training = any(operation.bank.training for operation in self.cell.operations)
        inner, outer = self._parted(states)
        output, stats = self.passes(inner, mixture, training, None, outer, bypass)
        if training:
            self.stats = stats
        return output

    def _parted(self, states: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Returns the channels of `states` that go through operations, and those that pass them by."""
        inner = self.cell.inner
        if self.cell.partial == 1:
            return list(states), []
        return [state[:, :inner] for state in states], [halved_bypass(state[:, inner:], self.cell.stride) for state in states]


class Passes:
    """Runs the passes of a program."""

    def __init__(self, program: CellProgram) -> None:
        self.program = program

    def __call__(
        self,
        states: Sequence[Tensor],
        mixture: Tensor,
        training: bool,
        drops: Tensor | None = None,
        outers: Sequence[Tensor] = (),
        bypass: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Returns the output [B, len(concat) * partial * C, ceil(H / stride), ceil(W / stride)],
        and the statistics of all maps, [maps, 3, C]: mean, 1 / standard deviation, unbiased
        variance.

        `states` are the C channels of the input states that go through operations; `outers`, where
        there are any, those that pass them by, of the output's size, scaled by `bypass` as in
        `CellExecutor`. `drops` [droppable operations, B] scales the output of each such operation
        for each image. Running statistics are used unless `training`, in which they are updated.
        """
        program = self.program
        height, width = strided_size(states[0].shape[2:], program.shape.stride)
        fixed = None if training else program.running_statistics(states[0].dtype)
        if fixed is None and program.maps and len(states[0]) * height * width == 1:
            raise InputError("batch norm: one image of one pixel has no statistics; use more images or larger ones")
        if fixed is not None:
            fixed[:, 1] = (fixed[:, 1] + EPSILON).rsqrt()
        shares = None
        if outers:
            shares = (mixture.sum(-1) if bypass is None else bypass).contiguous()
        parameters = [*program.weights.tensors(), *program.affine.tensors()]
        found: tuple[Tensor, Tensor] = _Run.apply(
            self, fixed, training, drops, *states, *outers, mixture.contiguous(), shares, *parameters
        )
        return found

    def call(self, function: str, dtype: torch.dtype, sizes: Sequence[int], **tensors: Any) -> None:
        """Calls a pass: `sizes`, then the addresses of `tensors`, by the names that `WHOLE` and
        `LISTS` give them."""
        program = self.program
        whole = [0 if (tensor := tensors.get(name)) is None else tensor.data_ptr() for name in WHOLE]
        numbers = [*sizes, *whole, *program.lists.addresses([tensors.get(name, ()) for name in LISTS])]
        call(function, dtype, numbers, program.numbers, program.lists.table)


class _Run(torch.autograd.Function):
    """Both passes as one autograd function.

    Takes (passes, fixed statistics or None, whether statistics are updated, drops or None, states,
    channels of them that pass the operations by, mixture, shares of these channels or None,
    weights, factors and terms of batch norms). Returns the output and the statistics of all maps,
    which have no gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, passes: Passes, fixed: Tensor | None, training: bool, drops: Tensor | None, *tensors: Any
    ) -> tuple[Tensor, Tensor]:
        program, shape = passes.program, passes.program.shape
        count = program.states
        states = [state.contiguous(memory_format=torch.channels_last) for state in tensors[:count]]
        mixture, shares = tensors[count : count + 2]
        # The kernels read [out, in, k, k] in that order; a network in channels_last has others.
        parameters = [parameter.contiguous() for parameter in tensors[count + 2 :]]
        like, (batch, channels, height, width) = states[0], states[0].shape
        out = strided_size((height, width), shape.stride)
        nodes = MEMORY.empty((shape.nodes + program.maps, batch, *out, channels), like.dtype)
        outers = MEMORY.empty((shape.nodes, batch, *out, program.outer), like.dtype) if program.outer else None
        # Grids pad channels and columns to whole vectors, of at most 16 values.
        places = MEMORY.empty((program.maxima, batch, out[0] * (out[1] + 16) * (channels + 16)), torch.uint8)
        stats = like.new_zeros(program.maps, 3, channels) if fixed is None else fixed
        output = MEMORY.empty((batch, *out, len(shape.concat) * shape.partial * channels), like.dtype)
        split = len(program.weights.keys)
        passes.call(
            "cell_forward",
            like.dtype,
            [batch, height, width, torch.get_num_threads(), fixed is None, training, False, False],
            nodes=nodes,
            stats=stats,
            mixture=mixture,
            output=output,
            drops=drops,
            outers=outers,
            shares=shares,
            places=places,
            inputs=states,
            weights=parameters[:split],
            running=program.running.tensors() if training else (),
            affine=parameters[split:],
        )
        ctx.passes, ctx.batch_statistics = passes, fixed is None
        ctx.save_for_backward(nodes, outers, stats, places, drops, *states, mixture, shares, *parameters)
        ctx.mark_non_differentiable(stats)
        ctx.set_materialize_grads(False)
        return output.permute(0, 3, 1, 2), stats

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return (None,) * len(ctx.needs_input_grad)
        passes = ctx.passes
        program, count = passes.program, passes.program.states
        nodes, outers, stats, places, drops, *rest = ctx.saved_tensors
        states, (mixture, shares), parameters = rest[:count], rest[count : count + 2], rest[count + 2 :]
        needs = ctx.needs_input_grad[4:]
        needs_states, needs_parameters = any(needs[:count]), any(needs[count + 2 :])
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        batch, _, height, width = states[0].shape
        node_gradients = MEMORY.empty((program.shape.nodes + program.halves, *nodes.shape[1:]), nodes.dtype)
        outer_gradients = None if outers is None else MEMORY.empty(outers.shape, outers.dtype)
        mixture_gradient, share_gradients = torch.zeros_like(mixture), None if shares is None else torch.zeros_like(shares)
        state_gradients = [_new_nhwc(state) for state in states]
        make = torch.zeros_like if program.partial_rows else torch.empty_like
        gradients = [make(parameter) for parameter in parameters] if needs_parameters else []
        split = len(program.weights.keys)
        passes.call(
            "cell_backward",
            nodes.dtype,
            [batch, height, width, torch.get_num_threads(), ctx.batch_statistics, False, needs_states, needs_parameters],
            nodes=nodes,
            stats=stats,
            mixture=mixture,
            output_gradient=gradient,
            node_gradients=node_gradients,
            mixture_gradient=mixture_gradient,
            drops=drops,
            outers=outers,
            outer_gradients=outer_gradients,
            shares=shares,
            share_gradients=share_gradients,
            places=places,
            inputs=states,
            input_gradients=state_gradients,
            weights=parameters[:split],
            weight_gradients=gradients[:split],
            affine=parameters[split:],
            affine_gradients=gradients[split:],
        )
        nothing: list[Tensor | None] = [None] * max(count, len(parameters))
        return (
            *[None] * 4,
            *(state_gradients if needs_states else nothing[:count]),
            mixture_gradient if needs[count] else None,
            share_gradients if needs[count + 1] else None,
            *(gradients or nothing[: len(parameters)]),
        )


def _new_nhwc(like: Tensor) -> Tensor:
    """Returns a tensor [B, C, H, W] of any values in channels_last, of the shape and type of
    `like`."""
    batch, channels, height, width = like.shape
    return MEMORY.empty((batch, height, width, channels), like.dtype).permute(0, 3, 1, 2)
