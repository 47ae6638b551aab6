"""Arrays in a NumPy file."""

import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from base.checks import FieldError, InputError, Name
from base.texts import excerpt, one_line
from training.format import BYTE, ImageFormat, Layout, Standardisation
from training.images.data import DataConfig, Part
from training.images.memory import available_memory
from training.images.sets import ImageSet, channel_statistics

ARRAYS = ("x_train", "y_train", "x_test", "y_test")
NAMES = "y_names"
"""The array, which may be left out, of a text for each class or number of an image."""
_PARTS: tuple[Part, ...] = ("train", "test")
_MOST_COMPRESSED = 1100  # deflate makes at most 1032 bytes of one
_MOST_CHANNELS = 16  # more are taken for a mistaken order of axes
_USUAL = (1, 3, 4)  # channels
_AXES = {"nhwc": "N, H, W, C", "nchw": "N, C, H, W"}
_ANSWER = (Name("data.layout"), " nhwc or nchw")
_OTHER_RANGE = 50  # pixels up to 1 in one part, up to 255 in the other
_READ_AT_ONCE = 2**28  # bytes of all arrays that are read without a look before
_A_PIECE = 2**24  # bytes
_LONGEST_NAME = 200  # characters
_LARGEST = 1e30  # of numbers: a square leaves room for a sum in float64, and their inverse in float32
_LEAST_SPREAD = 1e-12  # of numbers, as a share of the largest: float64 has no digits for less


class _Form(Protocol):
    """The form of an array, which is known before the array is read."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...


@dataclass(frozen=True)
class _Header:
    """The header of an array in a file."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    by_columns: bool
    """Whether the first axis is the one that runs fastest."""
    begin: int
    """Bytes of the header."""


def load(config: DataConfig, part: Part) -> ImageSet:
    """Reads the file `config.root`, of images that belong to classes.

    Images are uint8 or floating, [N, H, W, C], [N, C, H, W] or [N, H, W]; labels are whole numbers
    [N] from 0. What can be told from the headers is refused before an array is read.

    Objects in the file are never unpickled.
    """
    return _load(config, part, numbers=False)


def load_numbers(config: DataConfig, part: Part) -> ImageSet:
    """Reads the file `config.root`, of images with numbers to be predicted: y is floating or whole,
    [N] or [N, numbers]. The rest is as in `load`."""
    return _load(config, part, numbers=True)


def has_fractions(path: Path) -> bool:
    """Says whether the y_train of a file is floating, so that its images have numbers to be
    predicted; of a file that cannot be read no, as reading it says why."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_header(archive, "y_train").dtype.kind == "f"
    except Exception:  # errors of any type: zipfile trusts the header of a damaged file
        return False


def _load(config: DataConfig, part: Part, numbers: bool) -> ImageSet:
    path = Path(config.root)
    if not path.is_file():
        fault = "is a folder" if path.is_dir() else "there is no such file"
        raise FieldError("data.root", f"{path}: {fault}; name an .npz file that holds {', '.join(ARRAYS)}")
    mend = f"write it with numpy.savez, arrays {', '.join(ARRAYS)}"
    try:
        with _opened(path, mend) as archive:
            present = _present(archive)
            if missing := [name for name in ARRAYS if name not in present]:
                raise InputError(f"has no array {missing[0]}, only {_in_short(present)}; {mend}")
            names = [*ARRAYS, *([NAMES] if NAMES in present else [])]
            size = _check_sizes(archive, names)
            headers = {name: _read_header(archive, name) for name in names}

            def read(name: str) -> np.ndarray[Any, Any]:
                if size > _READ_AT_ONCE and name.startswith("x_"):
                    _look_through(archive, name, headers[name])
                return _read_array(archive, name)

            return _image_set(headers, read, part, config.size is not None, config.layout, numbers)
    except InputError as error:
        raise FieldError("data.root", *error.parts) from error


def load_pixels(path: Path, form: ImageFormat, name: str | None = None, layout: Layout = "auto") -> Tensor:
    """Reads the images of one array in a file, without labels, for a network that was trained on
    images of `form`: [N, C, H, W], as `as_pixels` has them.

    The array is `name`; None: the only one there is, or x_test.

    Raises InputError for a file or an array that cannot be used.
    """
    with _opened(path, "write it with numpy.savez") as archive:
        present = _present(archive)
        if name is None and len(present) > 1 and "x_test" not in present:
            raise InputError(f"holds {_in_short(present)}; say which has the images, --array NAME")
        chosen = name or (present[0] if len(present) == 1 else "x_test")
        if chosen not in present:
            raise InputError(f"has no array {excerpt(chosen)}, only {_in_short(present)}")
        _check_sizes(archive, [chosen])
        _check_pixels(excerpt(chosen), _read_header(archive, chosen), form)
        return as_pixels(excerpt(chosen), _read_array(archive, chosen), form, layout)


def as_pixels(name: str, array: np.ndarray[Any, Any], form: ImageFormat, layout: Layout = "auto") -> Tensor:
    """Returns images [N, H, W], [N, H, W, C] or [N, C, H, W] as uint8 or float32 [N, C, H, W].

    Images of one channel, in a network's `form`, may do without its axis. With `layout` "auto" the
    order is the one that has the channels of `form` where they belong. Numbers that are not finite
    stay.

    Raises InputError, with `name`, for an array of another type or other axes.
    """
    _check_pixels(name, array, form)
    channels = form.shape[0]
    if array.ndim == 4 and layout == "auto":
        layout = _layout_of(name, array.shape, channels)
    found = 1 if array.ndim == 3 else array.shape[3 if layout == "nhwc" else 1]
    if found != channels:
        raise InputError(f"{name}: {list(array.shape)} has {found} channels, the network was trained on {channels}")
    return _in_planes(array, layout)


def _check_pixels(name: str, form: _Form, known: ImageFormat) -> None:
    wanted = "uint8" if known.scale == BYTE else "floating numbers"
    if not (form.dtype == np.uint8 if known.scale == BYTE else form.dtype.kind == "f"):
        raise InputError(f"{name}: must be {wanted}, as the images that the network was trained on, not {form.dtype}")
    if len(form.shape) not in (3, 4) or 0 in form.shape[1:]:
        raise InputError(f"{name}: must be [N, H, W, C], [N, C, H, W] or [N, H, W], not {list(form.shape)}")


def _layout_of(name: str, shape: tuple[int, ...], channels: int) -> Layout:
    """Returns the order of the axes of images that have so many channels.

    Raises InputError where neither or both are possible.
    """
    second, third, last = shape[1:]
    if channels not in (second, last):
        raise InputError(f"{name}: {list(shape)} has no axis of {channels} channels, which the network was trained on")
    for of_last, of_second in ((last == channels, second == channels), (second == third, third == last)):
        if of_last != of_second:
            return "nhwc" if of_last else "nchw"
    raise InputError(f"{name}: {list(shape)} may be [N, H, W, C] or [N, C, H, W]; which is it? --", *_ANSWER)


@contextmanager
def _opened(path: Path, mend: str) -> Iterator[zipfile.ZipFile]:
    """Opens a file of arrays; whatever is wrong with it is raised as an InputError that names it."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except InputError as error:
        raise InputError(f"{path}: ", *error.parts) from error
    except ValueError as error:
        raise InputError(f"{path}: {one_line(error)}") from error
    except PermissionError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except Exception as error:  # errors of any type: zipfile and numpy trust the header of a damaged file
        reason = one_line(error) or type(error).__name__
        raise InputError(f"{path}: damaged, or no .npz file ({reason}); {mend}") from error


def _present(archive: zipfile.ZipFile) -> list[str]:
    return sorted({info.filename.removesuffix(".npy") for info in archive.infolist()})


def _in_short(names: Sequence[str]) -> str:
    return one_line(", ".join(names[:8])) or "nothing"


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray[Any, Any]:
    with archive.open(f"{name}.npy") as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def image_set(
    arrays: Mapping[str, np.ndarray[Any, Any]],
    part: Part,
    any_size: bool = False,
    layout: Layout = "auto",
    numbers: bool = False,
) -> ImageSet:
    """Returns one part of the data set that `ARRAYS` make up.

    With `any_size` the two parts may differ in the size of their images; with `numbers` y are
    numbers to be predicted. Raises ValueError, naming the array, for arrays that do not fit.
    """
    return _image_set(arrays, arrays.__getitem__, part, any_size, layout, numbers)


def _image_set(
    forms: Mapping[str, _Form],
    read: Callable[[str], np.ndarray[Any, Any]],
    part: Part,
    any_size: bool,
    layout: Layout,
    numbers: bool,
) -> ImageSet:
    layout = _check_forms(forms, any_size, layout, numbers)
    values = None
    if numbers:
        labels = {name: read_numbers(f"y_{name}", read(f"y_{name}")) for name in _PARTS}
        values, classes = standardisation(labels["train"]), labels["train"].shape[1]
    else:
        labels = {name: read_labels(f"y_{name}", read(f"y_{name}")) for name in _PARTS}
        classes = count_classes(labels["train"], labels["test"])
    names = _read_names(read(NAMES), classes) if NAMES in forms else ()
    largest: dict[Part, float] = {}
    for name in _PARTS:
        pixels = _images(f"x_{name}", read(f"x_{name}"), layout)
        least, most = pixels.aminmax()
        largest[name] = max(-float(least), float(most))
        if name == "train":
            mean, std = channel_statistics(pixels)
        if name == part:
            kept = pixels
    few, many = sorted(largest.values())
    if few > 0 and many > _OTHER_RANGE * few:
        raise InputError(
            f"x_train and x_test: must have pixels of one range, not up to {largest['train']:g} and up to {largest['test']:g}"
        )
    notes = [f"training part: x_train, y_train; test part: x_test, y_test, {len(labels['test']):,} images"]
    shape = forms["x_train"].shape
    axes = "N, H, W" if len(shape) == 3 else _AXES[layout]
    notes.append(f"x_train {list(shape)} is read as [{axes}], {forms['x_train'].dtype}")
    test_has = range(classes) if numbers else labels["test"].unique().tolist()
    if absent := [number for number in range(classes) if number not in test_has][:8]:
        notes.append(f"the test part has no image of {', '.join(map(str, absent))}{', ...' if len(absent) == 8 else ''}")
    return ImageSet(kept, labels[part], classes, mean, std, names, notes=tuple(notes), values=values)


def _check_forms(forms: Mapping[str, _Form], any_size: bool, layout: Layout, numbers: bool) -> Layout:
    """Returns the order of the axes of images.

    Raises InputError for arrays of types or shapes that do not fit together.
    """
    for name in _PARTS:
        (_check_numbers if numbers else _check_labels)(f"y_{name}", forms[f"y_{name}"])
    if numbers:
        widths = [math.prod(forms[f"y_{name}"].shape[1:]) for name in _PARTS]
        if widths[0] != widths[1]:
            raise InputError(f"y_train and y_test: must have as many numbers an image, not {widths[0]} and {widths[1]}")
    for name in _PARTS:
        if not forms[f"y_{name}"].shape[0]:
            raise InputError(f"y_{name}: has no labels")
    for name in _PARTS:
        form = forms[f"x_{name}"]
        if form.dtype != np.uint8 and form.dtype.kind != "f":
            raise InputError(
                f"x_{name}: must be uint8 or floating numbers, not {form.dtype}; convert it with astype('float32')"
            )
        if len(form.shape) not in (3, 4) or 0 in form.shape[1:]:
            raise InputError(f"x_{name}: must be [N, H, W, C], [N, C, H, W] or [N, H, W], not {list(form.shape)}")
        images, labels = form.shape[0], forms[f"y_{name}"].shape[0]
        if images != labels:
            raise InputError(f"x_{name} has {images} images and y_{name} {labels} labels")
    train, test = forms["x_train"], forms["x_test"]
    if layout == "auto":
        layout = _layout("x_train", train.shape)
    (channels, size), (channels_of_test, size_of_test) = (_channels_and_size(form.shape, layout) for form in (train, test))
    for needed, differ, ours, theirs in (
        (("have as many channels",), channels != channels_of_test, channels, channels_of_test),
        (("be of one type",), (train.dtype == np.uint8) != (test.dtype == np.uint8), train.dtype, test.dtype),
        (
            ("be of one size, or be brought to one with --", Name("data.size")),
            size != size_of_test and not any_size,
            size,
            size_of_test,
        ),
    ):
        if differ:
            raise InputError("x_train and x_test: must ", *needed, f", not {ours} and {theirs}")
    return layout


def _layout(name: str, shape: tuple[int, ...]) -> Layout:
    """Returns the order of the axes of images of that shape, where it is unmistakable: one of the
    two places has the number of channels of usual images, or of few, or the other two are a square.

    Raises InputError with the setting that answers where it is not.
    """
    if len(shape) == 3:
        return "nhwc"
    second, third, last = shape[1:]
    if min(second, last) > _MOST_CHANNELS:
        raise InputError(f"{name}: {list(shape)} would be {last} channels, or {second}; which is it? --", *_ANSWER)
    # From the plainest sign to the weakest; the first by which only one order is possible decides.
    for of_last, of_second in (
        (last <= _MOST_CHANNELS, second <= _MOST_CHANNELS),
        (last in _USUAL, second in _USUAL),
        (second == third, third == last),
    ):
        if of_last != of_second:
            return "nhwc" if of_last else "nchw"
    raise InputError(f"{name}: {list(shape)} may be [N, H, W, C] or [N, C, H, W]; which is it? --", *_ANSWER)


def _channels_and_size(shape: tuple[int, ...], layout: Layout) -> tuple[int, str]:
    """Returns the number of channels, and height and width as text."""
    if len(shape) == 3:
        return 1, "x".join(map(str, shape[1:]))
    sides = shape[1:3] if layout == "nhwc" else shape[2:]
    return shape[3 if layout == "nhwc" else 1], "x".join(map(str, sides))


def _check_sizes(archive: zipfile.ZipFile, names: Sequence[str]) -> int:
    """Returns the bytes that the arrays of these names take.

    Raises InputError if they are more than the memory has room for.
    """
    members = [archive.getinfo(f"{name}.npy") for name in names]
    for member in members:
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(f"{member.filename}: damaged, or compressed in a way that numpy.savez_compressed is not")
        if member.file_size > _MOST_COMPRESSED * max(1, member.compress_size):
            raise InputError(f"{member.filename}: damaged, {member.compress_size} bytes cannot hold {member.file_size}")
    # Beside the array there has to be room for the pixels with the axes in the network's order.
    size, free = sum(member.file_size for member in members), available_memory()
    if 2 * size > free:
        raise InputError(
            f"to read its arrays takes {2 * size / 2**30:.1f} GiB and {free / 2**30:.1f} GiB of memory are free; a folder of "
            "images is read as it is needed"
        )
    return size


def _read_header(archive: zipfile.ZipFile, name: str) -> _Header:
    """Returns the header of an array, compared with its size: numpy would ask for all the memory
    that a damaged header names."""
    with archive.open(f"{name}.npy") as member:
        try:
            version = np.lib.format.read_magic(member)
            if version not in ((1, 0), (2, 0)):
                raise InputError("an unknown version of the format")
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, by_columns, dtype = read(member)
        except Exception as error:  # errors of any type; numpy's advice about a long header is to trust the file
            raise InputError(f"{name}: damaged, its header cannot be read") from error
        if dtype.hasobject:
            raise InputError(f"{name}: holds Python objects, which are never unpickled; save an array of numbers")
        begin, size = member.tell(), archive.getinfo(f"{name}.npy").file_size
        if any(length < 0 for length in shape) or begin + math.prod(shape) * dtype.itemsize != size:
            raise InputError(f"{name}: damaged or cut short, its header says {one_line(list(shape))} of {one_line(dtype)}")
    return _Header(shape, dtype, by_columns, begin)


def _look_through(archive: zipfile.ZipFile, name: str, header: _Header) -> None:
    """Reads a large array once without keeping it, so that one that is damaged or holds numbers
    that cannot be used takes no memory."""
    count = _A_PIECE // header.dtype.itemsize
    place, values = 0, max(1, math.prod(header.shape[1:]))
    with archive.open(f"{name}.npy") as member:
        member.read(header.begin)
        while piece := member.read(count * header.dtype.itemsize):
            numbers = np.frombuffer(piece, header.dtype)
            if header.dtype.kind == "f":
                with np.errstate(over="ignore"):
                    bad = ~np.isfinite(numbers.astype(np.float32))
                if bad.any():
                    first = place + int(bad.argmax())
                    raise _not_finite(name, first % header.shape[0] if header.by_columns else first // values)
            place += len(numbers)


def _not_finite(name: str, image: int) -> InputError:
    return InputError(f"{name}: image {image} has pixels that are NaN or infinite, or beyond the range of float32")


def _check_labels(name: str, form: _Form) -> None:
    if form.dtype.kind not in "iu":
        others = ("; numbers to be predicted are for --", Name("task"), " regression") if form.dtype.kind == "f" else ()
        raise InputError(f"{name}: must be whole numbers, the classes counted from 0, not {form.dtype}", *others)
    if len(form.shape) != 1 and not (len(form.shape) == 2 and form.shape[1] == 1):
        raise InputError(f"{name}: must be one label an image, [N], not {list(form.shape)}")


def _check_numbers(name: str, form: _Form) -> None:
    if form.dtype.kind not in "iuf":
        raise InputError(f"{name}: must be numbers, floating or whole, not {form.dtype}")
    if len(form.shape) not in (1, 2) or 0 in form.shape[1:]:
        raise InputError(f"{name}: must be one number an image, [N], or some, [N, numbers], not {list(form.shape)}")


def read_numbers(name: str, array: np.ndarray[Any, Any]) -> Tensor:
    """Returns numbers [N] or [N, numbers] as float64 [N, numbers].

    Raises ValueError, with `name` and the place of the image, for numbers that are not finite or
    too large, and for other arrays.
    """
    _check_numbers(name, array)
    numbers = torch.from_numpy(np.ascontiguousarray(array, np.float64)).reshape(len(array), -1)
    # A comparison with NaN is false.
    bad = ~(numbers.abs() <= _LARGEST).all(1)
    if bad.any():
        raise InputError(f"{name}: image {int(bad.int().argmax())} has a number that is NaN, infinite or beyond {_LARGEST:g}")
    return numbers


def standardisation(train: Tensor) -> Standardisation:
    """Returns mean and standard deviation of each number of the training part [N, numbers].

    Raises ValueError for a number that is the same in all images.
    """
    if not len(train):
        raise InputError("y_train: has no labels")
    least, most = train.aminmax(dim=0)
    largest = torch.maximum(least.abs(), most.abs())
    # The deviations are from the mean, so that numbers far from zero keep their digits.
    std = train.std(0, correction=0)
    alike = (most - least <= _LEAST_SPREAD * largest) | (std < 1 / _LARGEST)
    if alike.any():
        which = f"number {int(alike.int().argmax())}, counted from 0," if len(alike) > 1 else "the number"
        raise InputError(f"y_train: {which} is the same in all images; there is nothing to learn")
    return Standardisation(tuple(train.mean(0).tolist()), tuple(std.tolist()))


def _read_names(array: np.ndarray[Any, Any], count: int) -> tuple[str, ...]:
    """Returns the names of classes or numbers. Raises ValueError for others than `count` texts."""
    if array.dtype.kind != "U" or array.shape != (count,):
        given = f"{array.dtype} {list(array.shape)}"
        raise InputError(f"{NAMES}: must be {count} text{'s' if count > 1 else ''}, one for each output, not {given}")
    names = tuple(map(str, array.tolist()))
    if any(not 1 <= len(name) <= _LONGEST_NAME for name in names) or len(set(names)) != count:
        raise InputError(f"{NAMES}: names must differ and have from 1 to {_LONGEST_NAME} characters")
    return names


def read_labels(name: str, array: np.ndarray[Any, Any]) -> Tensor:
    """Returns whole numbers [N] or [N, 1] as int64 [N].

    Raises ValueError, with `name`, for other arrays.
    """
    _check_labels(name, array)
    if array.ndim == 2:
        array = array[:, 0]
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


def _images(name: str, array: np.ndarray[Any, Any], layout: Layout) -> Tensor:
    """Returns the images as uint8 or float32 [N, C, H, W]."""
    pixels = _in_planes(array, layout)
    if pixels.is_floating_point():
        bad = next((number for number, image in enumerate(pixels) if not image.isfinite().all()), None)
        if bad is not None:
            raise _not_finite(name, bad)
    return pixels


def _in_planes(array: np.ndarray[Any, Any], layout: Layout) -> Tensor:
    orders = {"nhwc": "n h w c -> n c h w", "nchw": "n c h w -> n c h w"}
    planes = rearrange(array, orders[layout] if array.ndim == 4 else "n h w -> n 1 h w")
    # A large number may become infinite here; whoever uses the pixels finds it.
    with np.errstate(over="ignore"):
        return torch.from_numpy(np.ascontiguousarray(planes, np.uint8 if array.dtype == np.uint8 else np.float32))
