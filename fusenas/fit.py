"""Images in, a trained network out."""

import io
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from base.checks import FieldError, InputError
from base.seeds import new_generator
from base.texts import did_you_mean
from fusenas.settings import DataSummary, FitConfig, suitable
from retrain.api import retrain
from retrain.export import export
from retrain.portable import PixelNetwork, require_extra
from retrain.result import Result
from search.methods import get_method
from supernet import Genotype
from training.hardware import choose_device
from training.images.data import DataConfig, constant, list_datasets, load_images, stratified
from training.images.readers import folder, npz
from training.images.sets import Images
from training.run import profile
from training.run.command import resumable
from training.run.config import RunOptions
from training.run.directory import RunDirectory
from training.run.ownership.files import record, write_file
from training.run.schema import fields_in_order
from training.tasks.regression import R2
from training.tasks.task import Evaluation

Arrays = Sequence[Any]
"""(x, y), of which a fifth becomes the test part, or (x_train, y_train, x_test, y_test); see
`training.images.readers.npz`."""
ARRAYS_FILE = "arrays.npz"
_SEARCH, _RETRAIN = "search", "retrain"  # directories of the two runs that a fit is made of
_TEST_SHARE = 0.2
LOOKED_AT = 200  # image files whose size is looked at
_GREY = ("1", "L", "LA", "I")  # Pillow's modes in grey, beside those of 16 bits


@dataclass(frozen=True)
class Fitted:
    """The result of a fit."""

    module: nn.Module
    """The trained network in evaluation mode, on the CPU. It maps pixels float32 [B, C, H, W],
    divided by 255 if they were bytes, to logits [B, classes], or to numbers in their own unit,
    float64 [B, numbers], and normalises them itself."""
    class_names: tuple[str, ...]
    """Name of the class of each logit, or of each number."""
    test: Evaluation
    """Evaluation on the test part: a `ClassificationEvaluation` or a `RegressionEvaluation`."""
    genotype: Genotype
    report: Path
    """The page of the retraining, to be opened in a browser; that of the search is in ../search."""
    files: tuple[Path, ...]
    """The files that were exported."""
    run: Path
    result: Result
    """The result of the retraining."""


def fit(
    data: str | Path | Arrays,
    *,
    run: str | Path = "runs/fusenas",
    resume: bool = False,
    overwrite: bool = False,
    **settings: Any,
) -> Fitted:
    """Searches a cell for images, trains its network and exports it, with settings that suit the
    number and size of the images.

    Args:
        data: a folder with a folder of images for each class (or with train/ and test/ or val/ of
            such), an .npz file, the name of a data set, or arrays: (x, y) or (x_train, y_train,
            x_test, y_test), x uint8 or floating [N, H, W, C], [N, C, H, W] or [N, H, W], y whole
            numbers from 0, which are classes, or floating numbers [N] or [N, numbers] to be
            predicted.
        run: directory of the run: the search is in its search/, the retraining in its retrain/.
        resume: go on with the run that the directory holds.
        overwrite: replace the run that the directory holds.
        settings: fields of `FitConfig`, such as effort="quick" or method="drnas".

    Raises:
        ValueError: data that cannot be used, unknown or wrong settings, or a directory that cannot
            be taken; nothing is written then.
        TrainingDiverged: the loss is NaN or infinite.
    """
    options = RunOptions(Path(run), resume, overwrite)
    if isinstance(data, str | Path):
        return fit_configured(_configured(str(data), settings), options)
    file = options.run / ARRAYS_FILE
    config = _configured(str(file), settings)
    with _own_names():
        RunDirectory.check(options.run, config, resume, overwrite)
        try:
            arrays = _named(data)
            numbers = arrays["y_train"].dtype.kind == "f"
            train, test = (
                npz.image_set(arrays, part, config.size is not None, config.layout, numbers) for part in ("train", "test")
            )
            summary = _summarise(train)
        except InputError as error:
            raise FieldError("data", *error.parts) from error
        _check_spread(test, config.score)
        content = _packed(arrays)
        if resume and file.is_file() and file.read_bytes() != content:
            raise InputError(f"{file}: the run was begun with other arrays; begin it anew with overwrite=True")
        return _fit(config, options, DataConfig("npz", config.data, layout=config.layout), summary, content)


def fit_configured(config: FitConfig, options: RunOptions) -> Fitted:
    """Does the work of `fit`, with data on the disk. Raises the same errors."""
    if not config.data:
        raise FieldError("data", "give a folder of images, an .npz file or the name of a data set with --data")
    data = _data_config(config)
    with _own_names("data" if data.name in ("folder", "npz") else "root"):
        RunDirectory.check(options.run, config, options.resume, options.overwrite)
        if data.name in ("folder", "npz"):
            _check_apart(data, options)
        return _fit(config, options, data, summarise_data(data))


def _configured(data: str, settings: Mapping[str, Any]) -> FitConfig:
    known = [field.name for field in fields_in_order(FitConfig) if field.name != "data"]
    if unknown := [name for name in settings if name not in known]:
        near = did_you_mean(unknown[0], known)
        raise InputError(f"{unknown[0]}: no such setting{near or ';'} known: {', '.join(known)}")
    return FitConfig(data=data, **settings)


@contextmanager
def _own_names(root: str = "data") -> Iterator[None]:
    """Renames fields of search and retraining, in errors about images, to the fields of a fit.

    `root` is the field of a fit that is data.root there.
    """
    own = {f"data.{field.name}": field.name for field in fields(FitConfig)} | {"data.name": "data", "data.root": root}
    try:
        yield
    except folder.EmptyPart as error:
        said = f"the share {error.found}, where there is no folder test or val; give more images"
        raise FieldError("data", said) from error
    except FieldError as error:
        raise error.renamed(lambda name: own.get(name, name)) from error


def _check_apart(config: DataConfig, options: RunOptions) -> None:
    """Raises ValueError if the run would delete its images, or make images of its own among
    them."""
    data = Path(config.root)
    path, run = Path(os.path.abspath(data)), options.run.resolve()
    # A link counts as well as its target: each can be deleted.
    of_data = (path.resolve(), path.parent.resolve() / path.name)
    if options.overwrite and any(place.is_relative_to(run) for place in of_data):
        raise FieldError(
            "data", f"{data} is in {options.run}, whose files --overwrite deletes; choose another directory with --run"
        )
    if not path.is_dir():
        return
    classes = Path(folder.training_folder(config)).resolve()
    below = run.relative_to(classes).parts if run.is_relative_to(classes) else ()
    if below and not any(part.startswith(".") for part in below) and not options.resume:
        raise InputError(
            f"{options.run}: is in the folder of the images, where its pictures would be taken for a class; choose a directory "
            "outside with --run"
        )


def _fit(config: FitConfig, options: RunOptions, data: DataConfig, summary: DataSummary, arrays: bytes | None = None) -> Fitted:
    """Does all of it; `arrays`, known to be good, are kept in the directory of the run, where
    `data` has them."""
    if config.export == "onnx":
        require_extra("--export onnx")
    device = choose_device(config.device, config.threads)
    search_config, retrain_config = suitable(config, data, summary, device)
    if arrays is None and not options.resume:
        _check_spread(_read_all(retrain_config.data, device, summary.numbers), config.score)
    method = get_method(config.method)
    with RunDirectory.open(options.run, config, options.resume, options.overwrite) as run:
        # The two runs below are looked at before anything is written for this one.
        for name, its in ((_SEARCH, search_config), (_RETRAIN, retrain_config)):
            below = _below(run.path / name, options)
            RunDirectory.check(below.run, its, below.resume, below.overwrite)
            if below.profile is not None:
                profile.check(below.profile, below.run)
        run.begin("fusenas")
        with resumable():
            record(run.path, f"{_SEARCH}/", f"{_RETRAIN}/")
            if arrays is not None:
                write_file(run.path, ARRAYS_FILE, arrays)
            genotype = method.run(search_config, _below(run.path / _SEARCH, options))
            if genotype is None:
                raise InputError(f"{run.path / _SEARCH}: ended before it found anything; go on with --resume")
            run.keep()
            result = retrain(retrain_config, _below(run.path / _RETRAIN, options), genotype)
        files = () if config.export == "none" else export(result.run, config.export).files
    names = result.trained.format.class_names
    module = PixelNetwork(result.trained)
    return Fitted(module, names, result.test, genotype, result.run / "report.html", files, run.path, result)


def _read_all(data: DataConfig, device: torch.device, numbers: bool) -> Images:
    """Reads every image once, so that bad images are found before anything is written; returns the
    test part."""
    # The test part asked for alone brings the training part with it. Search and retraining log the
    # files that are left out.
    return load_images(replace(data, loading="workers"), "test", device, log=lambda line: None, numbers=numbers)


def _check_spread(test: Images, score: str | None) -> None:
    """Raises FieldError for test images without R2 where that is the score, before a search takes
    its time."""
    if score in (None, R2.name) and (name := constant(test)) is not None:
        raise FieldError("data", f"{name} is the same in all {len(test)} test images, which have no R2; give others")


def _below(path: Path, options: RunOptions) -> RunOptions:
    trace = None if options.profile is None else options.profile / path.name
    return RunOptions(path, options.resume and path.exists(), options.overwrite, profile=trace)


def _data_config(config: FitConfig) -> DataConfig:
    """Returns the settings of a folder, a file of arrays or a data set's name."""
    path = Path(config.data)
    if path.is_dir():
        shared = ("bits", "train_folder", "test_folder", "skip_unreadable")
        return DataConfig("folder", config.data, **{name: getattr(config, name) for name in shared})
    if path.is_file() or path.suffix == ".npz":
        return DataConfig("npz", config.data, size=config.size, layout=config.layout)
    if config.data in list_datasets() and config.data not in ("folder", "npz"):
        return DataConfig(config.data, config.root, download=config.download)
    names = ", ".join(name for name in list_datasets() if name not in ("folder", "npz"))
    raise FieldError("data", f"{config.data}: no such folder or .npz file, and no data set of that name; known: {names}")


def summarise_data(data: DataConfig) -> DataSummary:
    """Returns number, size and colour of the training images; pixels of files are not read."""
    if data.name == "folder":
        # The size is not known yet; any will do to list the files.
        files = folder.load(replace(data, size=32), "train")
        every = max(1, len(files) // LOOKED_AT)
        some = [header for file in files.files[::every] if (header := _header(file)) is not None]
        if not some:
            raise FieldError("data", f"{data.root}: no image can be read; {files.files[0]} is none, for one")
        sizes = [header.size for header in some]
        # One image in colour is enough, so all are looked at if these are grey.
        headers = chain(some, map(_header, files.files))
        channels = 1 if all(header.is_grey for header in headers if header is not None) else 3
        alike = len(set(sizes)) == 1 and len(set(sizes[0])) == 1
        counts = files.labels.bincount(minlength=files.classes)
        return DataSummary(tuple(counts.tolist()), channels, round(median(map(min, sizes))), alike)
    if data.name == "npz":
        return _summarise((npz.load_numbers if npz.has_fractions(Path(data.root)) else npz.load)(data, "train"))
    return _summarise(load_images(data, "train"))


def _summarise(images: Images) -> DataSummary:
    channels, height, width = images.format.shape
    if images.format.values is not None:
        return DataSummary((len(images),), channels, min(height, width), height == width, numbers=True)
    counts = images.labels.bincount(minlength=images.classes)
    return DataSummary(tuple(counts.tolist()), channels, min(height, width), height == width)


@dataclass(frozen=True)
class _Header:
    """The header of an image file."""

    size: tuple[int, int]
    """Width and height."""
    is_grey: bool


def _header(file: str) -> _Header | None:
    """Returns the header; None if it cannot be read, which is reported later."""
    from PIL import Image  # slow to import

    if not Path(file).is_file():  # a pipe would be waited for
        return None
    try:
        with Image.open(file) as image:
            return _Header(image.size, image.mode in _GREY or image.mode.startswith("I;16"))
    except Exception:  # errors of any type: each format has a reader of its own
        return None


def _named(arrays: Arrays) -> dict[str, np.ndarray[Any, Any]]:
    """Returns the arrays by their names in an .npz file.

    Raises ValueError for another number of them.
    """
    if len(arrays) not in (2, 4):
        raise InputError(f"give (x, y) or (x_train, y_train, x_test, y_test), not {len(arrays)} arrays")
    values = [np.asarray(array) for array in arrays]
    return dict(zip(npz.ARRAYS, values if len(values) == 4 else _divided(*values), strict=True))


def _packed(arrays: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    """Returns the bytes of an .npz file of the arrays; numpy's own would differ each second."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return buffer.getvalue()


def _divided(images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    """Returns training and test images and labels: a fifth, of each class if there are classes, is
    the test part."""
    if labels.dtype.kind == "f" and labels.shape[:1] == images.shape[:1] and len(labels):
        known = npz.read_numbers("y", labels)
    else:
        known = _classes(images, labels)
    chosen = stratified(known, round(_TEST_SHARE * len(labels)), new_generator("test part", 0)).numpy()
    of_test = np.zeros(len(labels), dtype=bool)
    of_test[chosen] = True
    return [images[~of_test], labels[~of_test], images[of_test], labels[of_test]]


def _classes(images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> Tensor:
    """Returns the classes of images. Raises ValueError for anything else."""
    if labels.dtype.kind not in "iu" or labels.shape != images.shape[:1] or not len(labels) or labels.min() < 0:
        given = f"{labels.dtype} {list(labels.shape)}"
        raise InputError(f"y must be a whole number from 0, or floating numbers, for each of {len(images)} images, not {given}")
    known = npz.read_labels("y", labels)
    npz.count_classes(known, known)
    return known
