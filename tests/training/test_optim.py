"""Optimisers by name, the schedule, and what is left alone."""

import contextlib

import pytest
import torch
from torch import nn

from base.checks import InputError
from training.optim import (
    OptimizerConfig,
    OptimizerName,
    Stepped,
    cosine,
    descend,
    freezing_slices,
    frozen,
    linear,
    load_optimizer,
    new_optimizer,
    optimizer_structure,
    set_lr,
)

NAMES = ["sgd", "adam", "adamw", "adagrad"]
PLAIN = {
    "sgd": lambda p: torch.optim.SGD(p, 0.05, 0.9, weight_decay=0.01),
    "nesterov": lambda p: torch.optim.SGD(p, 0.05, 0.9, weight_decay=0.01, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, 0.05, weight_decay=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, 0.05, weight_decay=0.01),
    "adagrad": lambda p: torch.optim.Adagrad(p, 0.05, weight_decay=0.01),
}


@pytest.mark.parametrize("name", PLAIN)
def test_an_optimiser_takes_the_steps_of_its_plain_form(name: str) -> None:
    options = {"name": "sgd", "nesterov": True} if name == "nesterov" else {"name": name}
    ours, plain = (nn.Parameter(torch.linspace(-1, 1, 12, dtype=torch.float64).view(3, 4)) for _ in range(2))
    optimizers = [
        new_optimizer(OptimizerConfig(lr=0.05, momentum=0.9, weight_decay=0.01, **options), [ours]), PLAIN[name]([plain])
    ]  # fmt: skip
    for step in range(4):
        for parameter, optimizer in zip((ours, plain), optimizers, strict=True):
            parameter.grad = torch.sin(parameter.detach() + step)
            optimizer.step()
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_slices_behave_as_separate_parameters(name: str) -> None:
    """One stacked parameter under `unchanged` equals separate ones of which the optimiser skips those without a gradient."""
    config = OptimizerConfig(name=name, lr=0.05, weight_decay=0.01)
    stacked = nn.Parameter(torch.randn(3, 4, dtype=torch.float64))
    separate = [nn.Parameter(row.detach().clone()) for row in stacked]
    optimizers = new_optimizer(config, [stacked]), new_optimizer(config, separate)
    idle = torch.tensor([False, True, False])
    for step in range(3):
        gradient = torch.randn(3, 4, dtype=torch.float64)
        gradient[idle] = 0
        stacked.grad = gradient
        for row, parameter in enumerate(separate):
            parameter.grad = None if idle[row] else gradient[row].clone()
        with freezing_slices(optimizers[0], {stacked: idle}):
            optimizers[0].step()
        optimizers[1].step()
        if step == 1:
            idle = torch.tensor([False, False, False]) if name in ("sgd", "adagrad") else idle
    torch.testing.assert_close(stacked, torch.stack(separate), rtol=1e-12, atol=1e-12)


def test_the_schedule_is_a_cosine_by_epoch() -> None:
    assert cosine(0, 50, 0.025, 0.001) == 0.025
    assert cosine(25, 50, 0.025, 0.001) == pytest.approx(0.013)
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], 0.025)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50, 0.001)
    for epoch in range(50):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(cosine(epoch, 50, 0.025, 0.001), rel=1e-9)
        optimizer.step()
        scheduler.step()
    set_lr(optimizer, 0.5)
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_a_linear_schedule_reaches_its_last_value_in_the_last_epoch() -> None:
    assert [linear(epoch, 5, 10.0, 2.0) for epoch in range(5)] == [10, 8, 6, 4, 2]
    assert [linear(epoch, 3, 0.0, 1.0) for epoch in range(3)] == [0, 0.5, 1]
    # Selection by perturbation trains on after the last epoch of the search.
    assert linear(7, 5, 10.0, 2.0) == 2
    assert [linear(epoch, 5, 10.0, None) for epoch in (0, 4, 7)] == [10, 10, 10]
    assert linear(0, 1, 10.0, 2.0) == 10


def stepped(optimizer: torch.optim.Optimizer, steps: int) -> list[torch.Tensor]:
    (parameter,) = optimizer.param_groups[0]["params"]
    for step in range(steps):
        parameter.grad = torch.sin(parameter.detach() + step)
        optimizer.step()
    return [parameter.detach().clone()]


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_rate_may_be_a_tensor_that_stays_the_same_one(name: str) -> None:
    """A CUDA graph reads it on a GPU. 0.25 is exact in every floating type."""
    ours, plain = (new_optimizer(OptimizerConfig(name=name), [nn.Parameter(torch.ones(3))]) for _ in range(2))
    rate = ours.param_groups[0]["lr"] = torch.tensor(0.0)
    for lr in (0.25, 0.125):
        set_lr(ours, lr)
        set_lr(plain, lr)
        torch.testing.assert_close(stepped(ours, 2), stepped(plain, 2), rtol=1e-6, atol=0)
    assert ours.param_groups[0]["lr"] is rate and rate.item() == 0.125


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tensor_in_state", [False, True])
@pytest.mark.parametrize("tensor_here", [False, True])
def test_a_state_fits_whether_rates_are_tensors_there_or_here(name: str, tensor_in_state: bool, tensor_here: bool) -> None:
    """A run may go on on another kind of device."""
    config = OptimizerConfig(name=name, lr=0.25)
    saved, other = (new_optimizer(config, [nn.Parameter(torch.ones(3))]) for _ in range(2))
    if tensor_in_state:
        saved.param_groups[0]["lr"] = torch.tensor(0.25)
    stepped(saved, 2)
    set_lr(saved, 0.125)
    if tensor_here:
        other.param_groups[0]["lr"] = torch.tensor(0.5)
    before = other.param_groups[0]["lr"]
    if name in ("adam", "adamw"):
        other.param_groups[0]["capturable"] = tensor_here
    load_optimizer(other, saved.state_dict())
    (group,) = other.param_groups
    assert isinstance(group["lr"], torch.Tensor) == tensor_here and group["lr"] == 0.125
    assert not tensor_here or group["lr"] is before
    assert group.get("capturable", tensor_here) == tensor_here
    values = (
        [other.state[parameter] for parameter in group["params"]],
        [saved.state[p] for p in saved.param_groups[0]["params"]],
    )
    torch.testing.assert_close(*values, rtol=0, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="rates are tensors on a GPU")
@pytest.mark.parametrize("name", NAMES)
def test_on_a_gpu_rates_are_tensors_there(name: str) -> None:
    optimizer = new_optimizer(OptimizerConfig(name=name, lr=0.25), [nn.Parameter(torch.ones(3, device="cuda"))])
    assert isinstance(optimizer.param_groups[0]["lr"], torch.Tensor) == (name != "adagrad")
    set_lr(optimizer, 0.125)
    plain = new_optimizer(OptimizerConfig(name=name, lr=0.125), [nn.Parameter(torch.ones(3))])
    torch.testing.assert_close(stepped(optimizer, 3)[0].cpu(), stepped(plain, 3)[0])


@pytest.mark.parametrize(("clip", "moved"), [(0.0, [3.0, 4.0]), (1.0, [0.6, 0.8]), (10.0, [3.0, 4.0])])
def test_the_gradient_is_clipped_over_all_parameters_together(clip: float, moved: list[float]) -> None:
    parameters = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD(parameters, 1.0)
    parameters[0].grad = torch.ones(1)  # of an earlier step; it must not count
    descend([-3 * parameters[0].sum() - 4 * parameters[1].sum()], optimizer, clip)
    assert [parameter.item() for parameter in parameters] == pytest.approx(moved, rel=1e-5)


def test_parameters_need_no_gradient_inside_and_do_after_an_error() -> None:
    trained, fixed = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1), requires_grad=False)
    with pytest.raises(RuntimeError, match="inside"), frozen([trained, fixed]):
        assert not trained.requires_grad
        raise RuntimeError("inside")
    assert trained.requires_grad and not fixed.requires_grad


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", "sdg", "name: must be one of sgd, adam, adamw, adagrad, not sdg"),
        ("lr", 0.0, "lr: must be above 0, not 0.0"),
        ("lr_min", 1.0, "lr_min: must be from 0 to lr = 0.025, not 1.0"),
        ("nesterov", True, "nesterov: needs name sgd and momentum above 0"),
        ("momentum", 1.0, "momentum: must be from 0 to below 1, not 1.0"),
        ("weight_decay", -1.0, "weight_decay: must be at least 0, not -1.0"),
        ("clip", float("nan"), "clip: must be at least 0, not nan"),
    ],
)
def test_values_out_of_range_are_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        OptimizerConfig(**({"name": "adam"} if field == "nesterov" else {}), **{field: value})


@pytest.mark.parametrize("stepped", ["all", "some", "none", "all or none"])
@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_only_a_parameter_without_a_step_may_lack_a_state(name: OptimizerName, stepped: Stepped) -> None:
    parameters = [nn.Parameter(torch.ones(2)) for _ in range(3)]
    optimizer = new_optimizer(OptimizerConfig(name=name), parameters)
    structure = optimizer_structure(optimizer, parameters, stepped)
    new = optimizer.state_dict()
    for parameter in parameters:
        parameter.grad = torch.ones(2)
    optimizer.step()
    whole = optimizer.state_dict()
    one_less = whole | {"state": {index: state for index, state in whole["state"].items() if index}}
    taken = []
    for word, state in (("whole", whole), ("one less", one_less), ("new", new)):
        with contextlib.suppress(InputError):
            structure("", state)
            taken.append(word)
    expected = {"all": ["whole"], "some": ["whole", "one less"], "none": ["new"], "all or none": ["whole", "new"]}
    assert taken == expected[stepped]
