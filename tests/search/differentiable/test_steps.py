"""What a step of a search moves, and what it leaves alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from search.differentiable.config import SearchConfig
from search.differentiable.relaxations import RelaxationConfig
from search.differentiable.trainer import BilevelSearch
from supernet import Supernet
from training.hardware import Hardware
from training.images.data import DataConfig
from training.metrics import Batch
from training.run.directory import RunDirectory
from training.tasks.classification import Classification


def new_search(tmp_path: Path, **settings: Any) -> BilevelSearch:
    config = SearchConfig(
        **{"space": "nasbench201", "channels": 2, "cells": 1, "batch_size": 16, "eigenvalue_every": 0, "device": "cpu"}
        | {"data": DataConfig(limit=64)}
        | settings
    )
    hardware = Hardware.of(config, config.graph)
    task = Classification.open(config.data, hardware)
    return BilevelSearch(config, task, RunDirectory(tmp_path, config), hardware)


def pair(search: BilevelSearch) -> tuple[Batch, Batch]:
    """The first training batch and the first validation batch."""
    train, valid = next(search.batches_of(0))
    return train, valid


def test_in_first_order_the_weights_take_no_part_in_the_architecture_step(tmp_path: Path, monkeypatch: Any) -> None:
    search = new_search(tmp_path)
    needing: list[bool] = []
    forward = Supernet.forward

    def recorded(self: Supernet, *arguments: Any) -> torch.Tensor:
        needing.append(any(parameter.requires_grad for parameter in self.parameters()))
        return forward(self, *arguments)

    monkeypatch.setattr(Supernet, "forward", recorded)
    train, valid = pair(search)
    before = [parameter.detach().clone() for parameter in search.network.parameters()]
    search.step.alpha_step(train, valid)
    assert needing == [False]
    assert all(parameter.grad is None and parameter.requires_grad for parameter in search.network.parameters())
    assert all(torch.equal(*pair) for pair in zip(search.network.parameters(), before, strict=True))
    search.step.weight_step(train)
    assert needing == [False, True]
    assert all(parameter.grad is not None for parameter in search.network.parameters())


@pytest.mark.parametrize("order", ["first", "second"])
def test_each_half_of_a_step_moves_its_own_parameters(order: str, tmp_path: Path) -> None:
    search = new_search(tmp_path, order=order, batch_statistics=False)
    train, valid = pair(search)

    def snapshot() -> tuple[dict[str, torch.Tensor], ...]:
        parts = search.architecture.alphas, dict(search.network.named_parameters()), dict(search.network.named_buffers())
        return tuple({name: value.detach().clone() for name, value in part.items()} for part in parts)

    def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
        return all(torch.equal(one[name], other[name]) for name in one)

    start = snapshot()
    search.step.alpha_step(train, valid)
    middle = snapshot()
    # Running statistics follow the images that the network sees; the virtual step of second order is not one of its own.
    assert [same(*pair) for pair in zip(start, middle, strict=True)] == [False, True, order == "second"]
    search.step.weight_step(train)
    assert [same(*pair) for pair in zip(middle, snapshot(), strict=True)] == [True, False, False]


def test_alphas_descend_the_validation_loss(tmp_path: Path) -> None:
    search = new_search(tmp_path)
    train, valid = pair(search)

    def loss() -> float:
        with torch.no_grad():
            return F.cross_entropy(search.network(valid[0], search.architecture.mean()), valid[1]).item()

    before = loss()
    search.step.alpha_optimizer.param_groups[0]["lr"] = 0.05
    for _ in range(5):
        search.step.alpha_step(train, valid)
    assert loss() < before


def test_losses_and_alphas_are_float32_where_the_network_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = new_search(tmp_path, precision="bfloat16")
    computed: list[torch.dtype] = []
    search.network.head.classifier.register_forward_hook(lambda layer, inputs, logits: computed.append(logits.dtype))
    losses: list[torch.dtype] = []
    loss = search.task.loss

    def recorded(outputs: torch.Tensor, batch: Batch) -> torch.Tensor:
        losses.append(outputs.dtype)
        return loss(outputs, batch)

    monkeypatch.setattr(search.task, "loss", recorded)
    train, valid = pair(search)
    search.step(train, valid)
    assert computed == [torch.bfloat16] * 2 and losses == [torch.float32] * 2
    state = search.state_dict()
    assert all(alpha.dtype == torch.float32 and alpha.isfinite().all() for alpha in state["alphas"].values())
    assert {parameter.dtype for parameter in search.network.parameters()} == {torch.float32}


def test_differences_of_second_order_are_taken_in_float32(tmp_path: Path) -> None:
    search = new_search(tmp_path, precision="bfloat16", order="second")
    computed: list[torch.dtype] = []
    search.network.head.classifier.register_forward_hook(lambda layer, inputs, logits: computed.append(logits.dtype))
    train, valid = pair(search)
    search.step.alpha_step(train, valid)
    assert computed == [torch.bfloat16] * 2 + [torch.float32] * 2


@pytest.mark.parametrize(
    ("settings", "kernels"),
    [
        ({}, "auto"),
        ({"kernels": "reference"}, "reference"),
        ({"order": "second"}, "auto"),
        ({"order": "second", "hessian_vector": "exact"}, "reference"),
        ({"hessian_vector": "exact"}, "auto"),
    ],
)
def test_a_double_backward_runs_without_kernels(settings: dict[str, str], kernels: str, tmp_path: Path) -> None:
    cells = new_search(tmp_path, **settings).network.mixed_cells()
    assert {cell.kernels for cell in cells} == {kernels}


# Where nothing flows to the end of a cell


@pytest.mark.parametrize("order", ["first", "second"])
def test_a_path_of_none_alone_has_no_gradient_and_ends_nothing(order: str, tmp_path: Path) -> None:
    """The last node of this space's cell then is zeros, whatever the alphas: any step of GDAS may draw that."""
    search = new_search(tmp_path, order=order, relaxation=RelaxationConfig("straight_through"))
    none = search.space.candidates.index("none")
    with torch.no_grad():
        search.architecture.alphas["cell"][:, none] += 100
    before = search.architecture.alphas["cell"].detach().clone()
    train, valid = pair(search)
    search.step.alpha_step(train, valid)
    search.step.weight_step(train)
    gradient = search.architecture.alphas["cell"].grad
    assert gradient is not None and not gradient.any()
    # What moves is their weight decay.
    assert (search.architecture.alphas["cell"] - before).abs().max() < 1e-3
    assert all(parameter.isfinite().all() for parameter in search.network.parameters())


def test_an_operation_is_taken_away_without_the_channels_that_pass_it_by(tmp_path: Path) -> None:
    """To give none the weight 0 changes nothing for a selection, with partial channels as without."""
    search = new_search(tmp_path, channels=4, partial=2)
    none = search.space.candidates.index("none")
    with torch.no_grad():
        search.architecture.alphas["cell"][:, none] = 2
    batch = next(search.valid_batches.epoch(0))
    mixture = search.architecture.mean()
    without = {"cell": mixture["cell"].detach().clone()}
    without["cell"][3, none] = 0
    shares = {"cell": mixture["cell"].sum(-1)}
    with torch.no_grad():
        whole, taken = (search.network(batch.inputs, table, bypass=shares) for table in (mixture, without))
        summed, shrunk = (search.step.outputs(batch, table) for table in (mixture, without))
    torch.testing.assert_close(taken, whole)
    torch.testing.assert_close(summed, whole)
    assert (shrunk - whole).abs().max() > 1e-3
