"""Optimisers by name, their schedule, and steps that leave idle slices of stacked weights alone."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer

from base.checks import FieldError, Name, above_zero, at_least, below_one, choices

OptimizerName = Literal["sgd", "adam", "adamw", "adagrad"]

CAPTURABLE: tuple[OptimizerName, ...] = ("sgd", "adam", "adamw")
"""Those whose step fits into a CUDA graph: all of its numbers are on the device."""


@dataclass
class OptimizerConfig:
    """How weights are trained; the defaults are those of DARTS (Liu et al. 2019, appendix A)."""

    name: OptimizerName = "sgd"
    """sgd, adam, adamw or adagrad."""
    lr: float = 0.025
    """Learning rate of the first epoch."""
    lr_min: float = 0.001
    """Learning rate that the cosine schedule falls towards, epoch by epoch."""
    momentum: float = 0.9
    """Momentum (sgd only)."""
    nesterov: bool = False
    """Nesterov's form of the momentum (sgd only)."""
    weight_decay: float = 3e-4
    """Weight decay (L2 penalty; decoupled for adamw)."""
    clip: float = 5.0
    """Largest norm of the gradient of all weights together; 0 does not clip."""

    def __post_init__(self) -> None:
        choices(self)
        above_zero(self, "lr")
        if not 0 <= self.lr_min <= self.lr:
            raise FieldError("lr_min", "must be from 0 to ", Name("lr"), f" = {self.lr}, not {self.lr_min}")
        below_one(self, "momentum")
        if self.nesterov and (self.name != "sgd" or not self.momentum):
            raise FieldError("nesterov", "needs ", Name("name"), " sgd and ", Name("momentum"), " above 0")
        at_least(0, self, "weight_decay", "clip")


class ReadySGD(SGD):
    """SGD whose momentum buffers exist from the start, as zeros, which changes no step.

    An operation that is first sampled late would stop the fused step (findings/fused_sgd_late_parameter.sh).
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float, **options: Any) -> None:
        super().__init__(params, lr, momentum, **options)
        if momentum:
            for group in self.param_groups:
                for parameter in group["params"]:
                    self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def new_optimizer(config: OptimizerConfig, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The configured optimiser over `parameters`, fused where torch has that on every device (not Adagrad).

    On a GPU the learning rate of a capturable one is a tensor there, so that a CUDA graph takes the present one.
    """
    parameters = list(parameters)
    lr, decay = config.lr, config.weight_decay
    device = parameters[0].device
    capturable = device.type == "cuda" and config.name in CAPTURABLE
    optimizer: Optimizer
    if config.name == "sgd":
        optimizer = ReadySGD(parameters, lr, config.momentum, weight_decay=decay, nesterov=config.nesterov, fused=True)
    elif config.name == "adam":
        optimizer = Adam(parameters, lr, weight_decay=decay, fused=True, capturable=capturable)
    elif config.name == "adamw":
        optimizer = AdamW(parameters, lr, weight_decay=decay, fused=True, capturable=capturable)
    else:
        optimizer = Adagrad(parameters, lr, weight_decay=decay)
    if capturable:
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(lr, dtype=torch.float32, device=device)
    return optimizer


def load_optimizer(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """`optimizer.load_state_dict(state)`, whichever device the state was saved on.

    Learning rates stay the same objects, tensors or numbers, with the values of the state, and so does `capturable`.
    """
    before = [(group["lr"], group.get("capturable")) for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, (lr, capturable) in zip(optimizer.param_groups, before, strict=True):
        value = float(group["lr"])
        group["lr"] = lr.fill_(value) if isinstance(lr, Tensor) else value
        if capturable is not None:
            group["capturable"] = capturable


def descend(losses: Iterable[Tensor], optimizer: Optimizer, clip: float) -> None:
    """One step of `optimizer` down the summed gradients of `losses`, clipped over all parameters to the norm `clip` (0: not).

    A loss is asked for when the gradient of the one before is known, so that no two networks are kept at a time.
    """
    optimizer.zero_grad(set_to_none=True)  # in a CUDA graph the gradients are then part of its memory
    for loss in losses:
        loss.backward()
    if clip:
        torch.nn.utils.clip_grad_norm_([parameter for group in optimizer.param_groups for parameter in group["params"]], clip)
    optimizer.step()


def cosine(epoch: int, epochs: int, lr: float, lr_min: float) -> float:
    """Learning rate of `epoch` (from 0) of `epochs`: lr_min + (lr - lr_min) (1 + cos(pi epoch / epochs)) / 2."""
    return lr_min + (lr - lr_min) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def linear(epoch: int, epochs: int, first: float, last: float | None) -> float:
    """From `first` in the first of `epochs` to `last` in the last one, in equal steps; `first` in all where `last` is None."""
    if last is None:
        return first
    return first + (last - first) * min(epoch / max(epochs - 1, 1), 1.0)


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Sets the learning rate of all parameter groups; one that is a tensor is filled."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Inside, `parameters` need no gradient, so backward neither computes theirs nor saves what it would take."""
    changed = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in changed:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in changed:
            parameter.requires_grad_(True)


@contextmanager
def freezing_slices(optimizer: Optimizer, slices: Mapping[nn.Parameter, Tensor]) -> Iterator[None]:
    """Inside, `optimizer` may step; `slices` of its parameters and of their state come out as they went in, bit for bit.

    `slices` is what `Supernet.idle` or `Supernet.slices` returns: a mask over the leading axis of each parameter. Stacked
    weights so behave as separate ones, of which an optimiser skips those without a gradient, decay and momentum included.
    """
    masks = _on_device(slices)
    weights = {parameter: parameter.detach().clone() for parameter in masks}
    states = {
        (parameter, name): value.clone()
        for parameter in masks
        for name, value in optimizer.state.get(parameter, {}).items()
        if _is_like(value, parameter)
    }
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, mask in masks.items():
                parameter.copy_(torch.where(mask, weights[parameter], parameter))
                for name, value in optimizer.state.get(parameter, {}).items():
                    if _is_like(value, parameter):
                        # State that this step made starts from zero where nothing took part in it.
                        before = states.get((parameter, name), torch.zeros((), dtype=value.dtype, device=value.device))
                        value.copy_(torch.where(mask, before, value))


def _on_device(slices: Mapping[nn.Parameter, Tensor]) -> dict[nn.Parameter, Tensor]:
    """Each mask beside its parameter, with as many axes as it; all of them cross to the device in one copy."""
    if not slices:
        return {}
    device = next(iter(slices)).device
    flat = torch.cat([mask.flatten() for mask in slices.values()]).to(device, non_blocking=True)
    parts = flat.split([mask.numel() for mask in slices.values()])
    return {
        parameter: part.view(mask.shape + (1,) * (parameter.ndim - mask.ndim))
        for (parameter, mask), part in zip(slices.items(), parts, strict=True)
    }


def _is_like(value: object, parameter: nn.Parameter) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape


@contextmanager
def statistics_kept(network: nn.Module) -> Iterator[None]:
    """Inside, passes in training mode may move the running statistics of batch norm; afterwards they are what they were."""
    buffers = list(network.buffers())
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        if buffers:
            torch._foreach_copy_(buffers, before)
