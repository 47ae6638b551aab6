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
from supernet.rebuild import twin
from training.run.profile import span
from training.run.structure import Part, equal, fields, like, misfit, optional, row, tensor, truth

OptimizerName = Literal["sgd", "adam", "adamw", "adagrad"]
Stepped = Literal["all", "some", "none", "all or none"]
"""The parameters that an optimiser has changed: some where only those of the operations that were
sampled, or that lead to the output, have a gradient."""

CAPTURABLE: tuple[OptimizerName, ...] = ("sgd", "adam", "adamw")
"""Optimisers whose step fits into a CUDA graph, since all of its numbers are on the device."""


@dataclass
class OptimizerConfig:
    """The training of weights; the defaults are those of DARTS (Liu et al. 2019, appendix A)."""

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
        above_zero(self, "lr", least=1e-12, most=1000)
        at_least(0, self, "lr_min", most=1000)
        if self.lr_min > self.lr:
            raise FieldError("lr_min", "must be from 0 to ", Name("lr"), f" = {self.lr}, not {self.lr_min}")
        below_one(self, "momentum")
        if self.nesterov and (self.name != "sgd" or not self.momentum):
            raise FieldError("nesterov", "needs ", Name("name"), " sgd and ", Name("momentum"), " above 0")
        at_least(0, self, "weight_decay", most=1000)
        at_least(0, self, "clip", most=1e12)


class ReadySGD(SGD):
    """SGD whose momentum buffers exist from the start, as zeros, which changes no step.

    An operation that is first sampled late would stop the fused step
    (findings/fused_sgd_late_parameter.sh).
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float, **options: Any) -> None:
        super().__init__(params, lr, momentum, **options)
        if momentum:
            for group in self.param_groups:
                for parameter in group["params"]:
                    self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def new_optimizer(config: OptimizerConfig, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Returns the configured optimiser over `parameters`, fused where torch has that on every
    device (not Adagrad).

    On a GPU the learning rate of a capturable optimiser is a tensor there, so that a CUDA graph
    reads its present value.
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
    """Loads a state into `optimizer`, whichever device the state was saved on.

    Learning rates stay the same objects, tensors or numbers, with the values of the state. All
    other options stay those of `optimizer`: another version of torch may have others.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    saved = [float(group["lr"]) for group in state["param_groups"]]
    optimizer.load_state_dict({"state": state["state"], "param_groups": optimizer.state_dict()["param_groups"]})
    for group, rate, value in zip(optimizer.param_groups, rates, saved, strict=True):
        group["lr"] = rate.fill_(value) if isinstance(rate, Tensor) else value


def optimizer_structure(optimizer: Optimizer, parameters: Iterable[Tensor], stepped: Stepped) -> Part:
    """Returns the structure of the state of `optimizer`, were it one over these parameters, of which
    those that `stepped` says have had a step.

    A step of its twin over a small parameter shows the names of the state, and which of its parts
    are like the parameter. Some optimisers make the state of a parameter with its first step.
    """
    probe = nn.Parameter(torch.zeros(2, 3, device=parameters_of(optimizer)[0].device))
    tried = twin(optimizer, [probe])
    if tried.state.get(probe):
        stepped = "all"  # made before any step
    probe.grad = torch.zeros_like(probe)
    tried.step()
    example = {name: torch.as_tensor(value) for name, value in tried.state.get(probe, {}).items()}
    if not example:
        stepped = "none"  # as without momentum, where no step leaves a state

    def of(parameter: Tensor) -> Part:
        return fields(
            {
                name: tensor(parameter.shape if value.shape == probe.shape else value.shape, value.dtype)
                for name, value in example.items()
            }
        )

    states = {index: of(parameter) for index, parameter in enumerate(parameters)}
    options = {name: value for name, value in optimizer.param_groups[0].items() if name not in ("params", "lr")}
    flags = [name for name, value in options.items() if value is None or type(value) is bool]
    group = {name: optional(truth) if name in flags else like(value) for name, value in options.items()}
    group |= {"params": row(*map(equal, states), kind=list), "lr": _rate}
    return fields(
        {
            "state": _states(states, stepped),
            "param_groups": row(fields(group, may_lack=flags, may_have_more=True), kind=list),
        }
    )


def _states(states: Mapping[int, Part], stepped: Stepped) -> Part:
    if stepped in ("all", "none"):
        return fields(states if stepped == "all" else {})

    def check(name: str, value: Any) -> None:
        fields(states, may_lack=states if stepped == "some" or value == {} else ())(name, value)
        if states and stepped == "some" and not value:
            raise misfit(name, value, "the state of each parameter that a step has changed")

    return check


def _rate(name: str, value: Any) -> None:
    """Takes a learning rate: a number or, saved on a GPU, a tensor without axes."""
    rate = value.item() if isinstance(value, Tensor) and value.shape == () else value
    if type(rate) not in (int, float) or not 0 <= rate < math.inf:
        raise misfit(name, value, "a learning rate")


def parameters_of(optimizer: Optimizer) -> list[nn.Parameter]:
    """Returns all parameters of `optimizer`; to ask a network for them takes a hundred times as
    long."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def descend(losses: Iterable[Tensor], optimizer: Optimizer, clip: float) -> None:
    """Makes one step of `optimizer` down the summed gradients of `losses`, clipped to the norm
    `clip`.

    The norm is that over all parameters; 0 does not clip. A loss is computed when the gradient of
    the one before is known, so that memory holds one network's activations at a time.
    """
    optimizer.zero_grad(set_to_none=True)  # in a CUDA graph the gradients are then part of its memory
    for loss in losses:
        with span("backward"):
            loss.backward()
    with span("optimiser of weights"):
        if clip:
            # By name, since torch otherwise asks each gradient, twice, whether it may.
            torch.nn.utils.clip_grad_norm_(parameters_of(optimizer), clip, foreach=True)
        optimizer.step()


def cosine(epoch: int, epochs: int, lr: float, lr_min: float) -> float:
    """Returns the learning rate of `epoch` (from 0) on a cosine schedule over `epochs`.

    It is lr_min + (lr - lr_min) (1 + cos(pi epoch / epochs)) / 2.
    """
    return lr_min + (lr - lr_min) * (1 + math.cos(math.pi * epoch / epochs)) / 2


def linear(epoch: int, epochs: int, first: float, last: float | None) -> float:
    """Returns the value of `epoch` on a line from `first` to `last`; `first` if `last` is None."""
    if last is None:
        return first
    return first + (last - first) * min(epoch / max(epochs - 1, 1), 1.0)


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Sets the learning rate of all parameter groups; a rate that is a tensor is filled in
    place."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


@contextmanager
def frozen(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Switches the gradient of `parameters` off inside, so that backward spares their computation
    and memory."""
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
    """Keeps `slices` of the parameters of `optimizer`, and of their state, as they are while it
    steps.

    `slices` is a mask over the leading axis of each parameter, from `Supernet.idle` or
    `Supernet.slices`. So one stacked tensor behaves like separate parameters: an idle slice gets no
    decay and no momentum.
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
    """Returns each parameter with its mask, which has as many axes; all masks cross to the device
    in one copy."""
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
    """Restores the running statistics of batch norm after passes in training mode inside."""
    buffers = list(network.buffers())
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        if buffers:
            torch._foreach_copy_(buffers, before)
