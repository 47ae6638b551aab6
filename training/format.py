"""The form of the inputs that a network is trained on, and the names of its outputs: all that must be known to use it."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor

from base.checks import InputError
from base.plain_json import read_json
from base.texts import label, show
from training.run.config import RunOptions

DATA_FILE = "data.json"
"""The file in the directory of a run that has the format of its training part."""
BYTE = 255.0
"""Scale of images of bytes."""
Fit = Literal["crop", "stretch"]
Layout = Literal["auto", "nhwc", "nchw"]
Filter = Literal["bilinear", "area"]
_MOST_NUMBERS = 2**26  # of an image that a file speaks of: 4096 x 4096 pixels of four channels
_LARGEST = 1e30  # beyond it, and below its inverse, the arithmetic of float32 ends in infinity


@dataclass(frozen=True)
class Resizing:
    """The way in which images of any size were brought to the one of an `ImageFormat`.

    `size`, `fit` and `resize` are the fields of `DataConfig`. Raises ValueError for values that do
    not fit together.
    """

    size: int | None = None
    """Pixels a side; None: images stay as they are."""
    fit: Fit = "crop"
    """A square is cut from the middle, or all of an image is squeezed into one."""
    resize: int | None = None
    """With crop: pixels of the shorter side before the square is cut out; None: `size`."""
    filter: Filter = "bilinear"
    """Resampling: "bilinear" is Pillow's, of image files as they are decoded; "area" that of arrays
    (`training.images.sets.resize`)."""

    def __post_init__(self) -> None:
        for name, known in (("fit", get_args(Fit)), ("filter", get_args(Filter))):
            if getattr(self, name) not in known:
                raise InputError(f"resizing: {name} must be one of {', '.join(known)}, not {show(getattr(self, name))}")
        if self.size is not None and not (type(self.size) is int and 1 <= self.size <= 8192):
            raise InputError(f"resizing: size must be from 1 to 8192 pixels, not {show(self.size)}")
        if self.resize is not None and not (
            type(self.resize) is int and self.fit == "crop" and self.size is not None and self.size <= self.resize <= 8192
        ):
            raise InputError(f"resizing: resize must be from size to 8192 pixels, and needs fit crop, not {show(self.resize)}")

    @classmethod
    def from_dict(cls, content: object) -> Self:
        """Returns what `dataclasses.asdict` made the content of.

        Raises ValueError for any other content.
        """
        names = ("size", "fit", "resize", "filter")
        if not isinstance(content, dict) or set(content) != set(names):
            raise InputError(f"resizing: must have {', '.join(names)}, but is {show(content)}")
        return cls(**content)


AS_THEY_ARE = Resizing()
"""Images of one size already."""


@dataclass(frozen=True)
class Standardisation:
    """Mean and standard deviation of the numbers that belong to the training images, one of each
    for an output.

    A network is trained for `(number - mean) / std`. Raises ValueError for values that do not fit
    together.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        numbers = (*self.mean, *self.std)
        if not all(type(number) in (int, float) and -_LARGEST <= number <= _LARGEST for number in numbers):
            raise InputError("values: mean and std must be finite numbers, up to 1e30")
        if len(self.mean) != len(self.std) or not all(value >= 1 / _LARGEST for value in self.std):
            given = f"{show(self.mean)} and {show(self.std)}"
            raise InputError(f"values: mean and std must be as many numbers, std positive, not {given}")

    @classmethod
    def from_dict(cls, content: object) -> Self:
        """Returns the standardisation that a file has as {"mean": [...], "std": [...]}.

        Raises ValueError for any other content.
        """
        if not isinstance(content, dict) or set(content) != {"mean", "std"}:
            raise InputError("values: must have mean, std")
        if not all(isinstance(numbers, list) for numbers in content.values()):
            raise InputError("values: mean, std must be lists")
        return cls(tuple(content["mean"]), tuple(content["std"]))

    def standardised(self, numbers: Tensor) -> Tensor:
        """Returns numbers [..., outputs] as a network is trained for them, float32."""
        mean, std = self.tensors(numbers.device)
        return ((numbers.double() - mean) / std).float()

    def restored(self, outputs: Tensor) -> Tensor:
        """Returns outputs [..., outputs] of a network in the unit of the data, float64: numbers far
        from zero would lose their last digits in float32."""
        mean, std = self.tensors(outputs.device)
        return outputs.double() * std + mean

    def tensors(self, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Returns mean and std, float64 [outputs]."""
        mean, std = (torch.tensor(values, dtype=torch.float64, device=device) for values in (self.mean, self.std))
        return mean, std


@dataclass(frozen=True)
class ImageFormat:
    """The format of the images of a data set, and the meaning of the outputs of a network trained
    on them.

    A network is given `(pixel / scale - mean) / std`. Raises ValueError for values that do not fit
    together.
    """

    shape: tuple[int, int, int]
    """C, H, W."""
    scale: float
    """Number that pixels are divided by first: 255 for bytes, 1 for floating numbers."""
    mean: tuple[float, ...]
    """Mean of pixel / scale over the training images, one a channel."""
    std: tuple[float, ...]
    """Standard deviation of pixel / scale over the training images, one a channel."""
    class_names: tuple[str, ...]
    """Name of each class, in the order of the logits; of each number, where outputs are numbers."""
    bits: int | None = None
    """Bits that are used of the 16 of a pixel in files, which become bytes: value * 255 / (2^bits -
    1); None: files of 16 bits were not met."""
    values: Standardisation | None = None
    """The standardisation of the numbers that belong to the images; None: images belong to
    classes."""

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or not all(type(length) is int and length > 0 for length in self.shape):
            raise InputError(f"image format: shape must be three positive numbers (C, H, W), not {show(self.shape)}")
        numbers = (self.scale, *self.mean, *self.std)
        if not all(type(number) in (int, float) and -_LARGEST <= number <= _LARGEST for number in numbers):
            raise InputError("image format: scale, mean and std must be finite numbers, up to 1e30")
        channels, positive = self.shape[0], (self.scale, *self.std)
        if len(self.mean) != channels or len(self.std) != channels or not all(value >= 1 / _LARGEST for value in positive):
            given = f"{show(self.mean)} and {show(self.std)}"
            raise InputError(f"mean, std: must be {show(channels)} numbers each, std positive, not {given}")
        if not all(isinstance(name, str) for name in self.class_names):
            raise InputError(f"image format: class_names must be texts, not {show(self.class_names)}")
        if self.bits is not None and not (type(self.bits) is int and 1 <= self.bits <= 16):
            raise InputError(f"image format: bits must be from 1 to 16, not {show(self.bits)}")
        if self.values is not None and len(self.values.mean) != len(self.class_names):
            raise InputError(f"image format: values must be {len(self.class_names)}, as there are names")

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain numbers, texts and lists, ready for JSON; `bits` and `values`
        only where there are any."""
        content = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        if self.bits is None:
            del content["bits"]
        if self.values is None:
            del content["values"]
        else:
            content["values"] = {"mean": list(self.values.mean), "std": list(self.values.std)}
        return content

    @classmethod
    def from_dict(cls, content: object) -> Self:
        """Returns the format that `to_dict` made the content of.

        Raises ValueError for any other content.
        """
        lists = ("shape", "mean", "std", "class_names")
        if not isinstance(content, dict) or set(content) - {"bits", "values"} != {"scale", *lists}:
            raise InputError(f"image format: must have scale, {', '.join(lists)}")
        if not all(isinstance(content[name], list) for name in lists):
            raise InputError(f"image format: {', '.join(lists)} must be lists")
        fields: dict[str, Any] = {name: tuple(content[name]) for name in lists}
        if "values" in content:
            fields["values"] = Standardisation.from_dict(content["values"])
        form = cls(scale=content["scale"], bits=content.get("bits"), **fields)
        # The network that comes with it is tried on images of this size, whatever the file says.
        if math.prod(form.shape) > _MOST_NUMBERS:
            raise InputError(f"image format: shape {show(form.shape)} has more than {_MOST_NUMBERS} numbers in an image")
        return form

    def class_names_in_short(self) -> str:
        """Returns the number of classes, or of numbers, and the names of the first, as text."""
        first, count = ", ".join(map(label, self.class_names[:3])), len(self.class_names)
        kind = "classes" if self.values is None else f"number{'s' if count > 1 else ''} an image"
        return f"{count} {kind} ({first}{', ...' if count > 3 else ''})"

    def normalised(self, pixels: Tensor) -> Tensor:
        """Returns pixels [..., C, H, W] as a network is given them, float32."""
        mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (self.mean, self.std))
        return (pixels.float() / self.scale - mean) / std


def saved_format(options: RunOptions) -> ImageFormat | None:
    """Returns the format of the training images of the run that is resumed; None for a new run, or
    if it is not written yet.

    Raises ValueError for a damaged file.
    """
    return read_format(options.run) if options.resume and (options.run / DATA_FILE).is_file() else None


def saved_notes(run: Path) -> list[str]:
    """Returns the lines that data.json in the directory of a run has on how the images were
    read."""
    try:
        notes = read_json(run / DATA_FILE)["notes"]
    except (InputError, KeyError, TypeError):
        return []
    return [note for note in notes if isinstance(note, str)] if isinstance(notes, list) else []


def read_format(run: Path) -> ImageFormat:
    """Returns the format of the training images of the run in a directory.

    Raises InputError for no or a damaged data.json.
    """
    path = run / DATA_FILE
    if not path.is_file():
        raise InputError(f"{path}: no such file; the run has seen no images")
    again = "delete it to have it computed again"
    try:
        content = read_json(path)
    except InputError as error:
        raise InputError(f"{error}; {again}") from error
    if isinstance(content, dict):
        others = ("train_images", "train_images_of_class", "train_range", "notes")
        content = {name: value for name, value in content.items() if name not in others}
    try:
        return ImageFormat.from_dict(content)
    except InputError as error:
        raise InputError(f"{path}: damaged ({error}); {again}") from error
