"""The pairs of the plain network's weights and the parts of the supernet's stacked weights."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from benchmarks.plain.network import PlainCell, PlainSupernet
from ops.banks import Bank, ModuleBank, SharedBank
from supernet import Supernet
from supernet.cell import MixedCell


def pairs(network: Supernet, plain: PlainSupernet) -> Iterator[tuple[nn.Parameter, int | None, nn.Parameter]]:
    """Yields (parameter of the supernet, row in it or None for the whole, parameter of the plain
    network), each once."""
    yield from _whole(network.stem, plain.stem)
    for layer, plain_layer in zip(network.layers, plain.layers, strict=True):
        if not isinstance(layer, MixedCell):
            yield from _whole(layer, plain_layer)
            continue
        assert isinstance(plain_layer, PlainCell)
        yield from _whole(layer.preprocess, plain_layer.preprocess)
        yield from _operations(layer, plain_layer)
    yield from _whole(network.head, nn.ModuleList([plain.norm, plain.classifier]))


def _whole(module: nn.Module, plain: nn.Module) -> Iterator[tuple[nn.Parameter, None, nn.Parameter]]:
    for parameter, other in zip(module.parameters(), plain.parameters(), strict=True):
        yield parameter, None, other


def _operations(cell: MixedCell, plain: PlainCell) -> Iterator[tuple[nn.Parameter, int | None, nn.Parameter]]:
    for key, slot in cell.slots.items():
        bank = cell.banks[key]
        assert isinstance(bank, Bank)
        if isinstance(bank, SharedBank):
            continue
        for row, edge in enumerate(slot.edges):
            source, target = cell.space.edges[edge]
            module = plain.operations[f"{source}_{target}_{cell.space.candidates[slot.column]}"]
            if isinstance(bank, ModuleBank):
                yield from _whole(bank.modules_of_edges[row], module)
                continue
            for parameter, other in zip(bank.parameters(), module.parameters(), strict=True):
                yield parameter, row, other


def softmax(alphas: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the mixture of DARTS: a softmax over the candidates of each edge."""
    return {kind: alpha.softmax(-1) for kind, alpha in alphas.items()}


def part(tensor: Tensor, row: int | None) -> Tensor:
    """Returns the whole tensor, or one row of it."""
    return tensor if row is None else tensor[row]


@torch.no_grad()
def copy_weights(network: Supernet, plain: PlainSupernet) -> None:
    """Gives the plain network the supernet's weights.

    Raises ValueError if a weight of either has no partner.
    """
    copied = 0
    for parameter, row, other in pairs(network, plain):
        other.copy_(part(parameter, row))
        copied += other.numel()
    counts = [sum(parameter.numel() for parameter in net.parameters()) for net in (network, plain)]
    if counts != [copied, copied]:
        raise ValueError(
            f"{copied} weights have a partner, of {counts[0]} in the supernet and {counts[1]} in the plain network"
        )
