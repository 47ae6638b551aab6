"""Arrays in a NumPy file."""

import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from base.checks import FieldError, InputError, Name
from base.texts import one_line
from training.images.data import DataConfig, Part
from training.images.memory import available_memory
from training.images.sets import ImageSet, channel_statistics

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
_MOST_COMPRESSED = 1100  # deflate makes at most 1032 bytes of one
_MOST_CHANNELS = 16  # more are taken for a mistaken order of axes


def load(config: DataConfig, part: Part) -> ImageSet:
    """Reads the file `config.root`.

    Images are uint8 or floating, [N, H, W, C] or [N, H, W]; labels are whole numbers [N] from 0.

    Objects in the file are never unpickled.
    """
    path = Path(config.root)
    if not path.is_file():
        fault = "is a folder" if path.is_dir() else "there is no such file"
        raise FieldError("data.root", f"{path}: {fault}; name an .npz file that holds {', '.join(ARRAYS)}")
    arrays = _read(path)
    try:
        return image_set(arrays, part, any_size=config.size is not None)
    except InputError as error:
        raise FieldError("data.root", f"{path}: ", *error.parts) from error


def image_set(arrays: Mapping[str, np.ndarray[Any, Any]], part: Part, any_size: bool = False) -> ImageSet:
    """Returns one part of the data set that `ARRAYS` make up.

    With `any_size` the two parts may differ in the size of their images. Raises ValueError, naming
    the array, for arrays that do not fit.
    """
    labels = {name: read_labels(f"y_{name}", arrays[f"y_{name}"]) for name in ("train", "test")}
    classes = count_classes(labels["train"], labels["test"])
    images = {name: _images(f"x_{name}", arrays[f"x_{name}"]) for name in ("train", "test")}
    for name in ("train", "test"):
        if len(images[name]) != len(labels[name]):
            raise InputError(f"x_{name} has {len(images[name])} images and y_{name} {len(labels[name])} labels")
        if not len(images[name]):
            raise InputError(f"x_{name}: has no images")
    train, test = images["train"], images["test"]

    def shape(pixels: Tensor) -> str:
        return "x".join(map(str, pixels.shape[2:]))

    for needed, differ, ours, theirs in (
        (("have as many channels",), train.shape[1] != test.shape[1], train.shape[1], test.shape[1]),
        (("be of one type",), train.dtype != test.dtype, arrays["x_train"].dtype, arrays["x_test"].dtype),
        (
            ("be of one size, or be brought to one with --", Name("data.size")),
            train.shape[2:] != test.shape[2:] and not any_size,
            shape(train),
            shape(test),
        ),
    ):
        if differ:
            raise InputError("x_train and x_test: must ", *needed, f", not {ours} and {theirs}")
    mean, std = channel_statistics(images["train"])
    return ImageSet(images[part], labels[part], classes, mean, std)


def _read(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    mend = f"write it with numpy.savez, arrays {', '.join(ARRAYS)}"
    try:
        with zipfile.ZipFile(path) as archive:
            present = {info.filename.removesuffix(".npy") for info in archive.infolist()}
            if missing := [name for name in ARRAYS if name not in present]:
                held = one_line(", ".join(sorted(present)[:8])) or "nothing"
                raise InputError(f"has no array {missing[0]}, only {held}; {mend}")
            _check_memory(archive)
            return {name: _read_array(archive, name) for name in ARRAYS}
    except InputError as error:
        raise FieldError("data.root", f"{path}: ", *error.parts) from error
    except ValueError as error:
        raise FieldError("data.root", f"{path}: {one_line(error)}") from error
    except PermissionError as error:
        raise FieldError("data.root", f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # errors of any type: zipfile and numpy trust the header of a damaged file
        reason = one_line(error) or type(error).__name__
        raise FieldError("data.root", f"{path}: damaged, or no .npz file ({reason}); {mend}") from error


def _check_memory(archive: zipfile.ZipFile) -> None:
    members = [archive.getinfo(f"{name}.npy") for name in ARRAYS]
    for member in members:
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(f"{member.filename}: damaged, or compressed in a way that numpy.savez_compressed is not")
        if member.file_size > _MOST_COMPRESSED * max(1, member.compress_size):
            raise InputError(f"{member.filename}: damaged, {member.compress_size} bytes cannot hold {member.file_size}")
    # Beside the array there has to be room for the pixels with the axes in the network's order.
    needed, free = 2 * sum(member.file_size for member in members), available_memory()
    if needed > free:
        raise InputError(
            f"to read its arrays takes {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB of memory are free; a folder of "
            "images is read as it is needed"
        )


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray[Any, Any]:
    """Returns the array, after a look at its header: numpy would ask for all the memory that a
    damaged header names."""
    with archive.open(f"{name}.npy") as member:
        try:
            version = np.lib.format.read_magic(member)
            if version not in ((1, 0), (2, 0)):
                raise InputError("an unknown version of the format")
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(member)
        except Exception as error:  # errors of any type; numpy's advice about a long header is to trust the file
            raise InputError(f"{name}: damaged, its header cannot be read") from error
        if dtype.hasobject:
            raise InputError(f"{name}: holds Python objects, which are never unpickled; save an array of numbers")
        begin, size = member.tell(), archive.getinfo(f"{name}.npy").file_size
        if any(length < 0 for length in shape) or begin + math.prod(shape) * dtype.itemsize != size:
            raise InputError(f"{name}: damaged or cut short, its header says {one_line(list(shape))} of {one_line(dtype)}")
    with archive.open(f"{name}.npy") as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def read_labels(name: str, array: np.ndarray[Any, Any]) -> Tensor:
    """Returns whole numbers [N] or [N, 1] as int64 [N].

    Raises ValueError, with `name`, for other arrays.
    """
    if array.dtype.kind not in "iu":
        raise InputError(f"{name}: must be whole numbers, the classes counted from 0, not {array.dtype}")
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InputError(f"{name}: must be one label an image, [N], not {list(array.shape)}")
    if len(array) and array.min() < 0:
        raise InputError(f"{name}: label {array.min()} is out of range; classes are counted from 0")
    if len(array) and array.max() > 0x7FFF_FFFF:
        raise InputError(f"{name}: label {array.max()} is out of range; classes are counted from 0, without gaps")
    return torch.from_numpy(array.astype(np.int64))


def count_classes(train: Tensor, test: Tensor) -> int:
    """Returns the number of classes in the labels [N] of both parts.

    Raises ValueError unless classes are counted from 0 without gaps.
    """
    if not len(train) or not len(test):
        raise InputError(f"y_{'test' if len(train) else 'train'}: has no labels")
    seen = train.unique()
    classes = int(seen[-1]) + 1
    if len(seen) != classes:
        absent = next(number for number in range(classes) if number >= len(seen) or int(seen[number]) != number)
        raise InputError(
            f"y_train: class {absent} has no images and {classes - 1} has some; count classes from 0, without gaps"
        )
    if classes < 2:
        raise InputError("y_train: all images are of one class; at least two are needed")
    if int(test.max()) >= classes:
        raise InputError(f"y_test: label {int(test.max())} is out of range, the training part has classes 0 to {classes - 1}")
    return classes


def _images(name: str, array: np.ndarray[Any, Any]) -> Tensor:
    """Returns the images as uint8 or float32 [N, C, H, W]."""
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise InputError(f"{name}: must be uint8 or floating numbers, not {array.dtype}; convert it with astype")
    if array.ndim not in (3, 4) or 0 in array.shape[1:]:
        raise InputError(f"{name}: must be [N, H, W, C] or [N, H, W], not {list(array.shape)}")
    if array.ndim == 4 and array.shape[3] > _MOST_CHANNELS:
        raise InputError(f"{name}: {list(array.shape)} would be {array.shape[3]} channels; channels come last, [N, H, W, C]")
    planes = rearrange(array, "n h w c -> n c h w" if array.ndim == 4 else "n h w -> n 1 h w")
    # A large number may become infinite here; the check finds it.
    with np.errstate(over="ignore"):
        pixels = torch.from_numpy(np.ascontiguousarray(planes, np.uint8 if array.dtype == np.uint8 else np.float32))
    if pixels.is_floating_point():
        bad = next((number for number, image in enumerate(pixels) if not image.isfinite().all()), None)
        if bad is not None:
            raise InputError(f"{name}: image {bad} has pixels that are NaN or infinite, or beyond the range of float32")
    return pixels
