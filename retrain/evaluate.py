"""A trained network from the file that retraining wrote, and how well it does."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from supernet.discrete import DiscreteNetwork
from supernet.files import write_atomically
from supernet.genotype import Genotype
from training.data import Batches, ImageSet
from training.metrics import Evaluation, evaluate
from training.precision import Precision, autocast

WEIGHTS_FILE = "weights.safetensors"
_DESCRIPTION = "fusenas"  # key of the file's metadata; one alone, because a file with several is not the same bytes each time


def save_network(network: DiscreteNetwork, directory: Path) -> None:
    """Writes weights and statistics to `directory`/weights.safetensors, with all that it takes to build the network again.

    The auxiliary head, which only training uses, is left out. Raises OSError where the file cannot be written.
    """
    tensors = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("auxiliary.")}
    description = {
        "genotype": network.genotype.to_text("json"),
        "channels": network.channels,
        "cells": network.cell_count,
        "classes": network.classifier.out_features,
        "image_channels": network.image_channels,
    }
    tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    write_atomically(directory / WEIGHTS_FILE, save(tensors, {_DESCRIPTION: json.dumps(description)}))


def load_network(directory: Path) -> DiscreteNetwork:
    """The network in `directory`/weights.safetensors, on the CPU and in evaluation mode.

    Raises ValueError where there is no such file or it holds something else.
    """
    path = directory / WEIGHTS_FILE
    if not path.is_file():
        raise ValueError(f"{path}: no such file; retrain a genotype into this directory first")
    try:
        with safe_open(path, "pt") as file:
            description = (file.metadata() or {}).get(_DESCRIPTION)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path}: damaged or no safetensors file: {error}") from error
    if description is None:
        raise ValueError(f"{path}: holds weights, but not those of a retrained genotype")
    try:
        network = _build(json.loads(description))
        network.load_state_dict(tensors)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path}: weights and description do not fit together: {error}") from error
    return network.eval()


def _build(description: dict[str, Any]) -> DiscreteNetwork:
    genotype = Genotype.parse(description.pop("genotype"))
    # The initial values are overwritten and must not move the random state of a caller.
    with torch.random.fork_rng([]):
        return DiscreteNetwork(genotype, **description)


def evaluate_network(
    network: nn.Module, images: ImageSet, batch_size: int, device: torch.device, precision: Precision
) -> Evaluation:
    """Moves `network` to `device` and evaluates it there on all `images`, with the precision that `autocast` takes."""
    network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]  # unknown to the stubs
    batches = Batches(images, min(batch_size, len(images)), device)
    with autocast(precision, device):
        return evaluate(network, batches.epoch(0), images.classes, device)
