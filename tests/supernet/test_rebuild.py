"""Rebuilding in place: what survives keeps its weights, statistics and optimiser state."""

import pytest
import torch

from ops.banks import Bank, ModuleBank
from supernet import Supernet, get_space
from training.optim import OptimizerConfig, new_optimizer


def trained(name: str = "sgd", space: str = "darts", **options):
    network = Supernet(get_space(space), channels=8, cells=3, **options)
    optimizer = new_optimizer(OptimizerConfig(name=name), network.parameters())
    for _ in range(2):
        step(network, optimizer)
    return network, optimizer


def step(network, optimizer) -> torch.Tensor:
    mixture = {kind: alpha.detach().softmax(-1) for kind, alpha in network.space.new_alphas().items()}
    logits = network(torch.randn(4, 3, 8, 8), mixture)
    optimizer.zero_grad()
    logits.square().mean().backward()
    optimizer.step()
    return logits


def snapshot(network: Supernet, optimizer) -> dict[tuple, tuple]:
    """(cell, operation, edge, tensor) -> (values, optimiser state)."""
    found = {}
    for number, cell in enumerate(network.mixed_cells()):
        for key, slot in cell.slots.items():
            bank = cell.banks[key]
            assert isinstance(bank, Bank)
            for name, tensor in (*bank.named_parameters(), *bank.named_buffers()):
                state = {k: v for k, v in optimizer.state.get(tensor, {}).items() if v.shape == tensor.shape}
                for row, edge in enumerate(slot.edges):
                    index = min(row, len(tensor) - 1)  # statistics that all edges share have one row
                    values = {"": tensor, **state}
                    found[number, key, edge, name] = {k: v[index].detach().clone() for k, v in values.items()}
    return found


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "adagrad"])
def test_masking_keeps_what_remains_bit_for_bit(name: str) -> None:
    network, optimizer = trained(name)
    before = snapshot(network, optimizer)
    keep = {kind: torch.rand(14, 8) < 0.5 for kind in network.space.kinds}
    network.rebuild(candidates=keep, optimizers=[optimizer])
    after = snapshot(network, optimizer)
    assert 0 < len(after) < len(before)
    for key, values in after.items():
        kind = network.mixed_cells()[key[0]].position.kind
        column = network.space.candidates.index(key[1].partition("/")[2])
        assert keep[kind][key[2], column]
        assert values.keys() == before[key].keys()
        for part, value in values.items():
            assert torch.equal(value, before[key][part]), (key, part)
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert [id(p) for p in held] == [id(p) for p in network.parameters()]
    assert set(optimizer.state) <= set(held)
    assert step(network, optimizer).isfinite().all()


def test_unchanged_banks_stay_the_same_objects() -> None:
    network, _ = trained()
    parameters = [id(parameter) for parameter in network.parameters()]
    network.rebuild(candidates={kind: torch.ones(14, 8, dtype=torch.bool) for kind in network.space.kinds}, partial=1)
    assert [id(parameter) for parameter in network.parameters()] == parameters


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "adagrad"])
def test_operations_can_come_back_with_new_weights(name: str) -> None:
    network, optimizer = trained(name)
    without = torch.ones(14, 8, dtype=torch.bool)
    without[:, 4] = False
    network.rebuild(candidates={"normal": without}, optimizers=[optimizer])
    assert not any(key.endswith("sep_conv_3x3") for key in network.mixed_cells()[0].slots)
    assert any(key.endswith("sep_conv_3x3") for key in network.mixed_cells()[1].slots), "a kind left out stays as it is"
    network.rebuild(candidates={"normal": torch.ones(14, 8, dtype=torch.bool)}, optimizers=[optimizer])
    fresh = Supernet(network.space, channels=8, cells=3)
    assert {k: v.shape for k, v in network.state_dict().items()} == {k: v.shape for k, v in fresh.state_dict().items()}
    assert step(network, optimizer).isfinite().all()


def test_widening_keeps_the_old_channels() -> None:
    """DrNAS goes from a sixth to a third of the channels; the old channels keep weights and momentum."""
    network, optimizer = trained(partial=4)
    before = snapshot(network, optimizer)
    network.rebuild(partial=2, optimizers=[optimizer])
    after = snapshot(network, optimizer)
    assert after.keys() == before.keys()
    grown = 0
    for key, values in after.items():
        for part, value in values.items():
            old = before[key][part]
            corner = value[tuple(slice(side) for side in old.shape)]
            assert torch.equal(corner, old), (key, part)
            if part == "momentum_buffer" and value.shape != old.shape:
                grown += 1
                assert value.count_nonzero() == corner.count_nonzero(), "new channels start without momentum"
    assert grown
    fresh = Supernet(network.space, channels=8, cells=3, partial=2)
    assert {k: v.shape for k, v in network.state_dict().items()} == {k: v.shape for k, v in fresh.state_dict().items()}
    assert step(network, optimizer).isfinite().all()


def test_rebuild_keeps_the_dtype_and_the_mode() -> None:
    network = Supernet(get_space("nasbench201"), channels=4, cells=1).double().eval()
    network.rebuild(partial=2)
    assert {p.dtype for p in network.parameters()} == {torch.float64}
    assert not any(module.training for module in network.modules())


def test_frozen_weights_stay_frozen() -> None:
    network = Supernet(get_space("nasbench201"), channels=4, cells=1).requires_grad_(False)
    network.rebuild(partial=2)
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_operation_without_a_bank_is_kept_too() -> None:
    """The fallback, one module an edge, follows the same rule."""
    modules = [torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)]
    old = ModuleBank(modules)
    new = ModuleBank([torch.nn.Linear(4, 4)])
    moves = new.inherit(old, [(1, 0)])
    assert len(moves) == 2 and moves[0].old is modules[1].weight
    assert torch.equal(new.modules_of_edges[0].weight[:3, :3], modules[1].weight)
