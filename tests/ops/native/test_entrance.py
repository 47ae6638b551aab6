"""Entrances of cells on compiled kernels against their modules, in float64."""

import copy

import pytest
import torch
from torch import nn

from ops.images import FactorizedReduce, ReluConvNorm, nor_conv_3x3
from ops.native import entrance
from ops.native.entrance import enter, is_entrance

ENTRANCES = {
    "pointwise": lambda ins, outs, affine: ReluConvNorm(ins, outs, affine=affine),
    "factorised reduction": FactorizedReduce,
}


@pytest.mark.parametrize("name", ENTRANCES)
@pytest.mark.parametrize("channels", [(3, 4), (12, 6), (16, 16), (64, 16), (36, 20), (7, 2)])
@pytest.mark.parametrize("size", [(8, 8), (5, 7), (1, 3)])
@pytest.mark.parametrize(("affine", "training"), [(True, True), (False, True), (True, False)])
def test_an_entrance_is_its_module(
    name: str, channels: tuple[int, int], size: tuple[int, int], affine: bool, training: bool
) -> None:
    torch.manual_seed(0)
    layer = ENTRANCES[name](*channels, affine).double().train(training)
    for tensor in (*layer.norm.parameters(), *layer.norm.buffers()):
        nn.init.uniform_(tensor, 0.5, 1.5)
    state = torch.randn(5, channels[0], *size).double()
    found = []
    for compute in (lambda layer, state: enter([layer], [state])[0], lambda layer, state: layer(state)):
        own, source = copy.deepcopy(layer), state.clone().requires_grad_()
        output = compute(own, source)
        (output * torch.linspace(0, 1, output.numel()).view(output.shape)).sum().backward()
        found.append([output, source.grad, *(weight.grad for weight in own.parameters()), *own.buffers()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("frozen", ["nothing", "first state", "first entrance", "first entrance and state", "all weights"])
def test_the_entrances_of_a_cell_are_one_call_a_pass(frozen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layers = nn.ModuleList([FactorizedReduce(6, 4), ReluConvNorm(3, 4), ReluConvNorm(3, 4)]).double()
    older, newer = torch.randn(5, 6, 7, 8).double(), torch.randn(5, 3, 4, 4).double()
    call, calls = entrance.call, []
    monkeypatch.setattr(entrance, "call", lambda name, *rest: (calls.append(name), call(name, *rest)))
    found = []
    for compute in (enter, lambda layers, states: [layer(state) for layer, state in zip(layers, states, strict=True)]):
        own = copy.deepcopy(layers)
        first = own[0] if frozen.startswith("first entrance") else own
        if "entrance" in frozen or "weights" in frozen:
            first.requires_grad_(False)
        # Two entrances read one state.
        one, other = older.clone().requires_grad_("state" not in frozen), newer.clone().requires_grad_()
        outputs = compute(own, [one, other, other])
        sum((output * torch.linspace(0, 1, output.numel()).view(output.shape)).sum() for output in outputs).backward()
        found.append([*outputs, one.grad, other.grad, *(weight.grad for weight in own.parameters()), *own.buffers()])
    assert calls == ["entrances_forward", "entrances_backward"]
    assert [one is None for one in found[0]] == [other is None for other in found[1]]
    for one, other in zip(*found, strict=True):
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_other_layers_and_those_that_are_watched_are_left_to_plain_torch() -> None:
    layer = ReluConvNorm(4, 4)
    assert is_entrance(layer) and is_entrance(FactorizedReduce(4, 4))
    for other in (nn.Identity(), nor_conv_3x3(4, 1, True), ReluConvNorm(4, 4, 1, 2)):
        assert not is_entrance(other)
    hook = layer.conv.register_forward_hook(lambda *_: None)
    assert not is_entrance(layer)
    hook.remove()
    layer.norm.momentum = 0.2
    assert not is_entrance(layer)


@pytest.mark.parametrize("ratio", [1e2, 1e4])
def test_maps_far_from_zero_keep_their_statistics(ratio: float) -> None:
    """In float32, with |mean| / standard deviation of that size: errors are as large as those of the map itself."""
    torch.manual_seed(0)
    layer = ReluConvNorm(8, 8).train()
    nn.init.dirac_(layer.conv.weight)
    state = (ratio + torch.randn(5, 8, 7, 6)).contiguous(memory_format=torch.channels_last)
    exact = copy.deepcopy(layer).double()
    expected = exact(state.double())
    found = enter([layer], [state])[0]
    rounding = ratio * torch.finfo(torch.float32).eps
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=4 * rounding)
    assert layer.norm.running_var is not None and exact.norm.running_var is not None
    torch.testing.assert_close(layer.norm.running_var.double(), exact.norm.running_var, rtol=2 * rounding, atol=0)
