"""The file of a retraining: weights, with all that it takes to build the network and to feed it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from base.checks import InputError
from base.files import write_atomically
from supernet.discrete import DiscreteNetwork
from supernet.genotypes.genotype import Genotype
from training.format import ImageFormat

WEIGHTS_FILE = "weights.safetensors"
GENOTYPE_FILE = "genotype.json"
_DESCRIPTION = "fusenas"  # key of the file's metadata; a file with several keys would differ from time to time


@dataclass(frozen=True)
class Trained:
    """A trained network and the images that it is for."""

    network: DiscreteNetwork
    format: ImageFormat

    def save(self, directory: Path) -> None:
        """Writes weights, statistics and description to `directory`/weights.safetensors.

        The auxiliary head, which only training uses, is left out. Raises OSError if the file cannot
        be written.
        """
        network = self.network
        tensors = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("auxiliary.")}
        description = {
            "genotype": network.genotype.to_text("json"),
            "channels": network.channels,
            "cells": network.cell_count,
            "stem": network.stem_name,
            "images": self.format.to_dict(),
        }
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        write_atomically(directory / WEIGHTS_FILE, save(tensors, {_DESCRIPTION: json.dumps(description)}))

    @classmethod
    def load(cls, directory: Path) -> "Trained":
        """Loads `directory`/weights.safetensors; the network is on the CPU and in evaluation mode.

        Raises ValueError if there is no such file, if it holds anything else, or if genotype.json
        beside it is another genotype.
        """
        path = directory / WEIGHTS_FILE
        if not path.is_file():
            raise InputError(f"{path}: no such file; retrain a genotype into this directory first")
        try:
            with safe_open(path, "pt") as file:
                description = (file.metadata() or {}).get(_DESCRIPTION)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a dict
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: damaged or no safetensors file: {error}") from error
        if description is None:
            raise InputError(f"{path}: holds weights, but not those of a retrained genotype")
        try:
            trained = cls._build(json.loads(description), tensors)
        except (ValueError, KeyError, TypeError, RuntimeError, ArithmeticError) as error:
            raise InputError(f"{path}: weights and description do not fit together: {error}") from error
        _check_genotype(trained.network.genotype, directory)
        trained.network.eval()
        return trained

    @classmethod
    def _build(cls, description: dict[str, Any], tensors: Mapping[str, Tensor]) -> "Trained":
        if not 1 <= description["cells"] <= len(tensors):
            raise InputError(f"{description['cells']} cells have more than {len(tensors)} weights")
        genotype = Genotype.parse(description.pop("genotype"))
        form = ImageFormat.from_dict(description.pop("images"))
        size = {"classes": len(form.class_names), "image_channels": form.shape[0], **description}
        # A damaged description may ask for any amount of memory, so it is first held to the
        # weights.
        with torch.device("meta"):
            shapes = {name: tensor.shape for name, tensor in DiscreteNetwork(genotype, **size).state_dict().items()}
        if shapes != {name: tensor.shape for name, tensor in tensors.items()}:
            raise InputError("names or shapes of the weights are those of another network")
        # The initial values are overwritten and must not move the random state of a caller.
        with torch.random.fork_rng([]):
            network = DiscreteNetwork(genotype, **size)
        network.load_state_dict(dict(tensors))
        return cls(network, form)


def _check_genotype(genotype: Genotype, directory: Path) -> None:
    """Raises ValueError if the genotype beside the weights is another one than theirs."""
    path = directory / GENOTYPE_FILE
    if path.exists() and Genotype.load(path) != genotype:
        raise InputError(
            f"{path}: {WEIGHTS_FILE} was trained with another genotype; put the right file back, or delete it to use the one "
            "that the weights hold"
        )
