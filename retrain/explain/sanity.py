"""The sanity check of Adebayo et al. 2018: a map must change when the weights are randomised."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from base.seeds import new_generator
from supernet.discrete import DiscreteNetwork

THRESHOLD = 0.5
"""Rank correlation with the map of the trained network from which on a map of random weights is as
good as the same."""
MOST_STAGES = 5


def stages(network: DiscreteNetwork) -> list[tuple[str, list[nn.Module]]]:
    """Returns the stages of the cascade (section 3.1): names, and the modules whose weights are
    random then.

    The first has the head alone, each further one more layers below it, the last all weights. Of a
    deep network `MOST_STAGES` are left, about equally far apart.
    """
    cells = {cell: number for number, cell in enumerate(network.cells)}
    layers = [("the head", network.head)]
    for number, layer in reversed(list(enumerate(network.layers))):
        layers.append((f"cell {cells[layer]}" if layer in cells else f"layer {number}", layer))
    layers.append(("the stem", network.stem))
    count = min(MOST_STAGES, len(layers))
    ends = sorted({round(number * (len(layers) - 1) / (count - 1)) for number in range(count)})
    last = len(layers) - 1
    return [
        ("the head" if end == 0 else "all weights" if end == last else f"down to {layers[end][0]}",
         [layer for _, layer in layers[: end + 1]])
        for end in ends
    ]  # fmt: skip


def randomised(network: DiscreteNetwork, modules: Sequence[nn.Module], inputs: Tensor, seed: int) -> DiscreteNetwork:
    """Returns a copy of the network in which the weights of `modules` are random.

    Each weight tensor is drawn anew, normal with its own mean and deviation, so that any module can
    be randomised, whatever it begins with. The statistics of batch norms in `modules` are measured
    on `inputs` [B, C, H, W]: with those of other weights the network would give constants.
    """
    chosen = {id(part) for module in modules for part in module.modules()}
    places = [name for name, part in network.named_modules() if id(part) in chosen]
    made = copy.deepcopy(network)
    parts = dict(made.named_modules())
    generator = new_generator(seed, "random weights")
    norms = []
    with torch.no_grad():
        for name in places:
            part = parts[name]
            for weight in part.parameters(recurse=False):
                drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
                deviation = weight.double().std(correction=0).cpu()
                weight.copy_(weight.double().mean().cpu() + deviation * drawn)
            if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None:
                norms.append((part, part.momentum))
                part.momentum = 1.0
                part.train()
        made(inputs)
    for norm, momentum in norms:
        norm.momentum = momentum
        norm.eval()
    return made
