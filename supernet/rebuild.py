"""Optimiser state across a rebuild of the supernet."""

import inspect
from collections.abc import Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from ops.banks import Move


def carry_over(optimizer: Optimizer, network: nn.Module, moves: Sequence[Move]) -> None:
    """Moves `optimizer`, made for an earlier build of `network`, over to the present build.

    The state of a parameter that became another one moves along, part by part; new parts start from
    zero. Parameters that are gone are dropped, new ones join the first parameter group. Parameters
    keep the network's order, so a checkpoint fits a fresh network.
    """
    group_of = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    first = optimizer.param_groups[0]
    successors: dict[nn.Parameter, list[Move]] = {}
    for move in moves:
        successors.setdefault(move.new, []).append(move)
    groups = [(parameter, _group(parameter, group_of, successors, first)) for parameter in network.parameters()]
    for move in moves:
        _move_state(optimizer, move)
    for group in optimizer.param_groups:
        group["params"] = [parameter for parameter, its_group in groups if its_group is group]
    fresh = [parameter for parameter, _ in groups if parameter not in group_of and parameter not in successors]
    if fresh:
        # Some optimisers make their state when they are made.
        optimizer.state.update(twin(optimizer, fresh).state)
    alive = {parameter for parameter, _ in groups}
    for gone in [parameter for parameter in optimizer.state if parameter not in alive]:
        del optimizer.state[gone]


def twin(optimizer: Optimizer, parameters: Sequence[nn.Parameter]) -> Optimizer:
    """Returns a new optimiser over other parameters, of the same class and with the same options."""
    accepted = inspect.signature(type(optimizer)).parameters
    options = {name: value for name, value in optimizer.defaults.items() if name in accepted}
    return type(optimizer)(parameters, **options)


def _group(
    parameter: nn.Parameter, group_of: dict[nn.Parameter, dict], successors: dict[nn.Parameter, list[Move]], first: dict
) -> dict:
    if parameter in group_of:
        return group_of[parameter]
    moves = successors.get(parameter)
    return group_of.get(moves[0].old, first) if moves else first


def _move_state(optimizer: Optimizer, move: Move) -> None:
    old = optimizer.state.get(move.old)
    if not old:
        return
    new = optimizer.state[move.new]
    for name, value in old.items():
        if isinstance(value, torch.Tensor) and value.shape == move.old.shape:
            if name not in new:
                new[name] = torch.zeros_like(move.new)
            move.copy(value, new[name])
        else:
            new[name] = value
