"""The file of a retraining: weights, with all that it takes to build the network and to feed it."""

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from base.checks import InputError, check_whole
from base.texts import one_line, show
from ops import build_op
from supernet.discrete import DiscreteNetwork
from supernet.genotypes.genotype import GENOTYPE_FILE, Genotype
from supernet.spaces.skeleton import CellPosition, Size, Stem
from training.format import AS_THEY_ARE, ImageFormat, Layout, Resizing
from training.hardware import Hardware
from training.run.ownership.files import write_file
from training.tasks.prediction import Predictions, predict

WEIGHTS_FILE = "weights.safetensors"
_OTHERS = "names, shapes or types of the weights are those of another network"
_TYPES = {
    **{torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.bool: "BOOL"},
    **{torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8"},
}
"""Names that safetensors gives types, of weights, statistics and counts."""
_LARGEST_HEADER = 2**24  # bytes: names and shapes of more than a hundred thousand weights
_LONGEST_DESCRIPTION = 2**22  # characters: far above any genotype with thousands of class names
_DESCRIPTION = "fusenas"  # key of the file's metadata; a file with several keys would differ from time to time


@dataclass(frozen=True)
class Trained:
    """A trained network, the images that it is for, and the task that it was trained for."""

    network: DiscreteNetwork
    format: ImageFormat
    task: str = "classification"
    """Name of the task: "classification", whose outputs are a logit for each class; "regression",
    whose outputs are standardised numbers, which `format.values` brings back into their unit; or a
    task that was added."""
    resizing: Resizing = AS_THEY_ARE
    """The way in which images of other sizes become such as the network was trained on."""

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
            "task": self.task,
            "images": self.format.to_dict(),
            "resizing": asdict(self.resizing),
        }
        tensors = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        write_file(directory, WEIGHTS_FILE, save(tensors, {_DESCRIPTION: json.dumps(description)}))

    def predict(
        self,
        images: object,
        *,
        batch_size: int = 256,
        device: torch.device | str | None = None,
        workers: int | None = None,
        layout: Layout = "auto",
    ) -> Predictions:
        """Returns the class of each image with its probability, and the probabilities of all
        classes; of a network for numbers these.

        The network moves to the device, and is in evaluation mode afterwards. Images are read and
        resized as those of the training were; `dataclasses.replace(trained, resizing=Resizing(64))`
        reads them otherwise. One that cannot be read has an error in the place of a class.

        Args:
            images: a folder with images in it or below it, an image file, an .npz file (`python -m
                retrain.predict --help` says which array), a sequence of these, or an array or
                tensor, [N, H, W], [N, H, W, C] or [N, C, H, W], uint8 or floating as in the
                training.
            batch_size: images at once.
            device: the device that computes; None: the one where the network is.
            workers: processes that decode files; None: one for each core.
            layout: the order of the axes of arrays; "auto": by the number of channels.

        Raises ValueError for no images, for arrays that do not fit the network, and for a network
        that answers with NaN.
        """
        where = next(self.network.parameters()).device if device is None else torch.device(device)
        kind = self.format, self.resizing, self.task == "classification"
        return predict(self.network, *kind, images, Hardware(where), batch_size, workers, layout)

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
            _check_header(path)
            with safe_open(path, "pt") as file:
                text = (file.metadata() or {}).get(_DESCRIPTION)
                if text is None:
                    raise InputError(f"{path}: holds weights, but not those of a retrained genotype")
                try:
                    trained = cls._build(_Description.parse(text), file)
                except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
                    raise InputError(f"{path}: weights and description do not fit together: {one_line(error)}") from error
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: damaged or no safetensors file: {error}") from error
        _check_genotype(trained.network.genotype, directory)
        trained.network.eval()
        return trained

    @classmethod
    def _build(cls, description: "_Description", file: Any) -> "Trained":
        names = set(file.keys())
        # A damaged description may ask for any amount of memory or time, so it is first held to the
        # names and shapes of the weights, which are known without reading these.
        description.check_names(names)
        with torch.device("meta"):
            expected = {name: tensor.to("meta") for name, tensor in description.network().state_dict().items()}
        if set(expected) != names or any(not _is_like(file.get_slice(name), tensor) for name, tensor in expected.items()):
            raise InputError(_OTHERS)
        # The initial values are overwritten and must not move the random state of a caller.
        with torch.random.fork_rng([]):
            network = description.network()
        network.load_state_dict({name: file.get_tensor(name) for name in names})
        return cls(network, description.images, description.task, description.resizing)


@dataclass(frozen=True)
class _Description:
    """The text beside the weights: all that it takes to build their network."""

    genotype: Genotype
    channels: int
    cells: int
    stem: Stem
    task: str
    images: ImageFormat
    resizing: Resizing

    @classmethod
    def parse(cls, text: str) -> "_Description":
        """Raises ValueError that names the part for anything but what `Trained.save` writes."""
        if len(text) > _LONGEST_DESCRIPTION:
            raise InputError(f"a description of {len(text)} characters is longer than the {_LONGEST_DESCRIPTION} allowed")
        try:
            content = json.loads(text)
        except RecursionError:
            raise InputError("the description is nested too deeply") from None
        kinds: dict[str, type] = {"genotype": str, "channels": int, "cells": int, "stem": str, "task": str, "images": dict}
        kinds["resizing"] = dict
        if not isinstance(content, dict) or set(content) != set(kinds):
            raise InputError(f"the description must have {', '.join(kinds)}, but is {show(content)}")
        for name, kind in kinds.items():
            if type(content[name]) is not kind:
                raise InputError(f"{name} of the description must be of type {kind.__name__}, not {show(content[name])}")
        for name in ("channels", "cells"):
            check_whole(name, content[name])
        genotype, images = Genotype.parse(content.pop("genotype")), ImageFormat.from_dict(content.pop("images"))
        resizing = Resizing.from_dict(content.pop("resizing"))
        if {"classification": True, "regression": False}.get(content["task"], images.values is None) != (images.values is None):
            have = "classes" if images.values is None else "numbers"
            raise InputError(f"the task is {content['task']}, but the images of the description have {have}")
        return cls(genotype, images=images, resizing=resizing, **content)

    def network(self) -> DiscreteNetwork:
        """Returns the network with new weights."""
        form = self.images
        return DiscreteNetwork(self.genotype, self.channels, self.cells, len(form.class_names), form.shape[0], stem=self.stem)

    def check_names(self, names: Collection[str]) -> None:
        """Raises ValueError unless `names` has the weights of all operations in all cells.

        It builds each operation once, in a small part of the time that the network takes.
        """
        skeleton = self.genotype.skeleton
        size = Size(
            self.channels, self.cells, {kind: len(cell.concat) for kind, cell in self.genotype.cells.items()}, self.stem
        )
        skeleton.check_size(size)
        inside: dict[tuple[str, int], list[str]] = {}
        for index, position in enumerate(skeleton.positions(size)):
            if not isinstance(position, CellPosition):
                continue
            for node, feeds in enumerate(self.genotype.cells[position.kind].nodes):
                for number, (operation, source) in enumerate(feeds):
                    key = operation, position.stride if source < skeleton.inputs else 1
                    if key not in inside:
                        with torch.device("meta"):
                            inside[key] = list(build_op(operation, position.channels, key[1]).state_dict())
                    if any(f"layers.{index}.nodes.{node}.{number}.{name}" not in names for name in inside[key]):
                        raise InputError(_OTHERS)


def _check_header(path: Path) -> None:
    """Raises InputError for a header that would take a gigabyte of memory to be decoded.

    Its length in bytes comes first in a safetensors file.
    """
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if size > _LARGEST_HEADER:
        raise InputError(f"{path}: damaged or no safetensors file: a header of {size} bytes, of {_LARGEST_HEADER} allowed")


def _is_like(saved: Any, tensor: Tensor) -> bool:
    """Says whether a tensor in a safetensors file has shape and type of `tensor`."""
    return tuple(saved.get_shape()) == tuple(tensor.shape) and saved.get_dtype() == _TYPES.get(tensor.dtype)


def _check_genotype(genotype: Genotype, directory: Path) -> None:
    """Raises ValueError if the genotype beside the weights is another one than theirs."""
    path = directory / GENOTYPE_FILE
    if path.exists() and Genotype.load(path) != genotype:
        raise InputError(
            f"{path}: {WEIGHTS_FILE} was trained with another genotype; put the right file back, or delete it to use the one "
            "that the weights hold"
        )
