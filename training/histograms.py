"""Histograms of weights and their gradients, by parts of a network."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def histograms(named: Iterable[tuple[str, nn.Parameter]]) -> dict[str, Tensor]:
    """Returns the numbers [N] of which histograms are made, by their tags: "weights/PART" and
    "gradients/PART".

    `named` are parameters by their names in a network of cells, or by any name without a dot. The
    parts are the stem, the head and so on, and in each layer its preprocessing, the operations of
    one name (in a supernet) and the nodes (of a genotype): "layers.0.sep_conv_3x3". Gradients are
    those that the last step descended, after clipping; operations that it did not run, and
    parameters without a gradient, have none. Nothing of the parameters changes.
    """
    weights: dict[str, list[Tensor]] = {}
    gradients: dict[str, list[Tensor]] = {}
    for name, parameter in named:
        part, is_stacked = _part(name)
        weights.setdefault(f"weights/{part}", []).append(parameter.detach().flatten())
        if (gradient := parameter.grad) is not None:
            rows = gradient.detach().flatten(1) if is_stacked else gradient.detach().reshape(1, -1)
            # A path runs some of the operations that are stacked; the gradient of the others is 0.
            gradients.setdefault(f"gradients/{part}", []).append(rows[(rows != 0).any(1)].flatten())
    found = {tag: torch.cat(tensors) for tag, tensors in {**weights, **gradients}.items()}
    return {tag: numbers for tag, numbers in found.items() if len(numbers)}


def _part(name: str) -> tuple[str, bool]:
    """Returns the part of the network that a parameter belongs to, and whether it has the weights
    of several edges, stacked."""
    first, *rest = name.split(".")
    if first != "layers":
        return first, False
    layer, kind = f"layers.{rest[0]}", rest[1]
    if kind == "banks":  # named "SOURCE/OPERATION"
        return f"{layer}.{rest[2].partition('/')[2]}", rest[3] != "modules_of_edges"
    return (f"{layer}.{kind}" if kind in ("preprocess", "nodes") else layer), False
