"""The well-known data sets that torchvision reads."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from base.checks import FieldError, Name
from training.images.data import DataConfig, Part
from training.images.sets import ImageSet, channel_statistics
from training.vision import import_torchvision

_DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class _Source:
    """The name of a data set in torchvision, and the place of its files below the root."""

    title: str
    reader: str
    folder: str = ""


_CIFAR10 = _Source("CIFAR-10", "CIFAR10", "cifar-10-batches-py")
_CIFAR100 = _Source("CIFAR-100", "CIFAR100", "cifar-100-python")
_SVHN = _Source("SVHN", "SVHN")
_MNIST = _Source("MNIST", "MNIST", "MNIST/raw")
_FASHION_MNIST = _Source("Fashion-MNIST", "FashionMNIST", "FashionMNIST/raw")


def load_cifar10(config: DataConfig, part: Part) -> ImageSet:
    """Reads CIFAR-10, 32x32 pixels in colour: 50,000 to train, 10,000 to test, from its Python
    version."""
    data = _read(_CIFAR10, config, part)
    mean, std = (0.49139968, 0.48215827, 0.44653124), (0.24703233, 0.24348505, 0.26158768)
    return ImageSet(_channels_first(data.data), torch.tensor(data.targets), 10, mean, std, tuple(data.classes))


def load_cifar100(config: DataConfig, part: Part) -> ImageSet:
    """Reads CIFAR-100, 32x32 pixels in colour: 50,000 to train, 10,000 to test, from its Python
    version."""
    train, data = _read_both(_CIFAR100, config, part)
    mean, std = channel_statistics(_channels_first(train.data))
    return ImageSet(_channels_first(data.data), torch.tensor(data.targets), 100, mean, std, tuple(data.classes))


def load_svhn(config: DataConfig, part: Part) -> ImageSet:
    """Reads house numbers, 32x32 pixels in colour: 73,257 to train and 26,032 to test."""
    train, data = _read_both(_SVHN, config, part)
    mean, std = channel_statistics(torch.from_numpy(train.data))
    return ImageSet(torch.from_numpy(data.data), torch.from_numpy(data.labels).long(), 10, mean, std, _DIGITS)


def load_mnist(config: DataConfig, part: Part) -> ImageSet:
    """Reads handwritten digits, 28x28 pixels in grey: 60,000 to train and 10,000 to test."""
    return _gray(_MNIST, config, part, _DIGITS)


def load_fashion_mnist(config: DataConfig, part: Part) -> ImageSet:
    """Reads clothing, 28x28 pixels in grey: 60,000 to train and 10,000 to test."""
    names = tuple(import_torchvision().datasets.FashionMNIST.classes)
    return _gray(_FASHION_MNIST, config, part, names)


def _gray(source: _Source, config: DataConfig, part: Part, names: tuple[str, ...]) -> ImageSet:
    """Reads a data set in MNIST's form of files."""
    train, data = _read_both(source, config, part)
    for read in (train, data):
        # torchvision's reader compares neither checksums nor one file with the other.
        if not _is_whole(read.data, read.targets, len(names)):
            raise _damaged(source, Path(config.root) / source.folder, [], config)
    mean, std = channel_statistics(rearrange(train.data, "n h w -> n 1 h w"))
    return ImageSet(rearrange(data.data, "n h w -> n 1 h w"), data.targets.long(), 10, mean, std, names)


def _is_whole(images: object, labels: object, classes: int) -> bool:
    return (
        isinstance(images, Tensor)
        and isinstance(labels, Tensor)
        and (images.dtype, images.ndim, labels.ndim) == (torch.uint8, 3, 1)
        and len(images) == len(labels)
        and images.numel() > 0
        and 0 <= int(labels.min()) <= int(labels.max()) < classes
    )


def _read_both(source: _Source, config: DataConfig, part: Part) -> tuple[Any, Any]:
    """Returns the training part, whose mean and std both parts have, and the part that was asked
    for."""
    train = _read(source, config, "train")
    return train, train if part == "train" else _read(source, config, part)


def _channels_first(images: Any) -> Tensor:
    return rearrange(torch.from_numpy(images), "n h w c -> n c h w").contiguous()


def _read(source: _Source, config: DataConfig, part: Part) -> Any:
    """Returns torchvision's reader with the images in memory; for sets in colour it compares every
    file with its checksum."""
    folder = Path(config.root) / source.folder
    try:
        if not config.download and not folder.is_dir():
            below = f"the folder above {Path(source.folder).parts[0]}" if source.folder else "its folder"
            raise FieldError(
                "data.root",
                f"there is no folder {folder}; name {below} with --",
                Name("data.root"),
                f" or download {source.title} with --",
                Name("data.download"),
                " true",
            )
        datasets = import_torchvision().datasets
        chosen = {"split": part} if source is _SVHN else {"train": part == "train"}
        return getattr(datasets, source.reader)(config.root, download=config.download, **chosen)
    except OSError as error:
        action = "download or read" if config.download else "read"
        reason = " ".join(str(error).split())
        raise FieldError("data.root", f"cannot {action} {source.title} in {config.root}: {reason}") from error
    except FieldError:
        raise
    except ValueError as error:
        raise _damaged(source, folder, [], config) from error
    except Exception as error:  # errors of any type: a reader trusts the header of a damaged file
        raise _damaged(source, folder, _bad_files(source, folder), config) from error


def _damaged(source: _Source, folder: Path, files: list[str], config: DataConfig) -> FieldError:
    named = f" ({', '.join(files)})" if files else ""
    said = f"{source.title} in {folder} is incomplete or damaged{named}; "
    if config.download:
        return FieldError("data.root", said, "try the download again")
    return FieldError("data.root", said, "delete the folder and download it again with --", Name("data.download"), " true")


def _bad_files(source: _Source, folder: Path) -> list[str]:
    """Returns the names of files that are absent or, if checksums are known, differ from the
    published ones."""
    datasets = import_torchvision().datasets
    known = getattr(datasets, source.reader)
    if source in (_CIFAR10, _CIFAR100):
        checksums = [*known.train_list, *known.test_list, (known.meta["filename"], known.meta["md5"])]
    elif source is _SVHN:
        checksums = [known.split_list[split][1:] for split in ("train", "test")]
    else:
        return [name for name in _raw_files(known) if not (folder / name).is_file()]
    return [name for name, md5 in checksums if not datasets.utils.check_integrity(folder / name, md5)]


def _raw_files(reader: Any) -> list[str]:
    return [name.removesuffix(".gz") for name, _ in reader.resources]
