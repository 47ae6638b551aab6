"""Data sets, their parts, and the batches of an epoch made on the device that holds the images."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from training.augment import Augmentation, Draws
from training.seeds import new_generator
from training.vision import import_torchvision

Part = Literal["train", "test"]

# The values of 4096 images of CIFAR-10, 100 MB in float64.
_VALUES_AT_ONCE = 4096 * 3 * 32 * 32


@dataclass
class DataConfig:
    """Which images a run uses and how the training ones are changed at random."""

    name: str = "digits"
    """Data set: digits (part of scikit-learn), cifar10, or one that was added with @register_dataset."""
    root: str = "data"
    """Folder that holds the files of the data set (cifar10: the folder above cifar-10-batches-py). Digits needs none."""
    download: bool = False
    """Download the data set into root where it is absent or damaged."""
    crop_padding: int = 0
    """Pixels of zeros around a training image before a crop of its own size is taken at random; 0 = no random crop."""
    flip: bool = False
    """Mirror half of the training images, chosen at random, left to right."""
    cutout: int = 0
    """Side in pixels of the square that is blanked at a random place of each training image; 0 = none."""
    limit: int | None = None
    """Use only that many training images, in the proportions of the classes and the same ones each time; null = all."""
    size: int | None = None
    """Resize images to that many pixels on each side, by averaging areas; null: as they are."""

    def __post_init__(self) -> None:
        for name in ("crop_padding", "cutout"):
            if getattr(self, name) < 0:
                raise ValueError(f"data.{name}: must be 0 or more pixels, not {getattr(self, name)}")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"data.limit: must be at least 1 image, or null for all, not {self.limit}")
        if self.size is not None and not 4 <= self.size <= 4096:
            raise ValueError(f"data.size: must be from 4 to 4096 pixels, or null for images as they are, not {self.size}")

    def augmentation(self) -> Augmentation:
        """The random changes that these settings ask for."""
        return Augmentation(crop_padding=self.crop_padding, flip=self.flip, cutout=self.cutout)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images on the CPU."""

    images: Tensor
    """Pixels, uint8 [N, C, H, W]."""
    labels: Tensor
    """Class of each image, int64 [N], from 0 to `classes` - 1."""
    classes: int
    mean: tuple[float, ...]
    """Mean of pixel / 255 for each of the C channels."""
    std: tuple[float, ...]
    """Standard deviation of pixel / 255 for each of the C channels."""

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ValueError(f"images: must be uint8 [N, C, H, W], not {self.images.dtype} {list(self.images.shape)}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            given = f"{self.labels.dtype} {list(self.labels.shape)}"
            raise ValueError(f"labels: must be int64 [{len(self.images)}], one for each image, not {given}")
        if len(self.labels) and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < self.classes:
            raise ValueError(f"labels: must be from 0 to {self.classes - 1}")
        channels = self.images.shape[1]
        if len(self.mean) != channels or len(self.std) != channels or not all(value > 0 for value in self.std):
            raise ValueError(f"mean, std: must be {channels} numbers each, std positive, not {self.mean} and {self.std}")

    def __len__(self) -> int:
        return len(self.images)

    def take(self, indices: Tensor) -> "ImageSet":
        """The images at `indices` [n], in that order, with the same classes and statistics."""
        return replace(self, images=self.images[indices], labels=self.labels[indices])


Loader = Callable[[DataConfig, Part], ImageSet]
_LOADERS: dict[str, Loader] = {}


def register_dataset(name: str) -> Callable[[Loader], Loader]:
    """Make the decorated function the data set `name`: from the settings and "train" or "test" it returns the `ImageSet`.

    Raises:
        ValueError: there is a data set of that name already.
    """

    def register(loader: Loader) -> Loader:
        if name in _LOADERS:
            raise ValueError(f"data set {name!r} is registered already")
        _LOADERS[name] = loader
        return loader

    return register


def load_images(config: DataConfig, part: Part) -> ImageSet:
    """Read one part of the data set that `config` names; `config.limit` applies to the training part.

    Both parts are resized to `config.size`. Their mean and std stay those of the data set, which for the well-known sets are
    published constants: images that were made smaller by averaging keep about the mean but have a smaller std.

    Raises:
        ValueError: an unknown data set, absent or damaged files, a limit above the number of images, or a random crop or cutout
            that could hide all of an image.
    """
    if config.name not in _LOADERS:
        raise ValueError(f"data.name: unknown data set {config.name!r}; known: {', '.join(sorted(_LOADERS))}")
    images = _LOADERS[config.name](config, part)
    height, width = (config.size, config.size) if config.size else images.images.shape[2:]
    for name, pixels in (("crop_padding", config.crop_padding), ("cutout", config.cutout)):
        if pixels and pixels >= min(height, width):
            raise ValueError(f"data.{name}: {pixels} pixels could hide all of an image of {height}x{width}; use fewer")
    if part == "train" and config.limit is not None:
        if config.limit > len(images):
            raise ValueError(f"data.limit: {config.limit} is more than the {len(images)} training images of {config.name}")
        images = images.take(_stratified(images.labels, config.limit))
    return images if config.size is None else replace(images, images=_resize(images.images, config.size))


def _stratified(labels: Tensor, count: int) -> Tensor:
    """Ascending indices of `count` images in the proportions of the classes; a smaller choice is part of a larger one."""
    order = torch.randperm(len(labels), generator=new_generator("limit"))
    shuffled = labels[order]
    # The k-th image of a class of n comes at (k + 1/2) / n of the way, so any beginning has the classes' proportions.
    one_hot = F.one_hot(shuffled)
    rank = one_hot.cumsum(0).gather(1, shuffled[:, None])[:, 0] - 0.5
    position = rank.double() / one_hot.sum(0)[shuffled]
    return order[position.argsort(stable=True)[:count]].sort().values


def _resize(images: Tensor, size: int) -> Tensor:
    """Images uint8 [N, C, H, W] to uint8 [N, C, size, size], each axis by itself; those of that size are returned themselves.

    Along an axis that shrinks, a pixel becomes the mean of the old pixels that its area touches. Where `size` divides the axis
    this is the box filter with which ImageNet was downsampled (Chrabaszcz et al., arXiv:1707.08819). An axis that grows is
    interpolated linearly between the centres of the pixels.
    """
    channels, height, width = images.shape[1:]
    if height == width == size:
        return images
    between = min(height, size), min(width, size)
    resized = images.new_empty(len(images), channels, size, size)
    count = max(1, _VALUES_AT_ONCE // (channels * max(height * width, size * size)))
    for part, target in zip(images.split(count), resized.split(count), strict=True):
        # In float32 the sum over a large area is so inexact that white would become 256, which is black in uint8.
        values = F.interpolate(part.double(), between, mode="area")
        if between != (size, size):
            values = F.interpolate(values, (size, size), mode="bilinear", align_corners=False)
        target.copy_(values.round_())
    return resized


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of pixel / 255 over images uint8 [N, C, H, W], one of each for a channel."""
    values = rearrange(images, "n c h w -> c (n h w)").double() / 255
    return tuple(values.mean(1).tolist()), tuple(values.std(1, correction=0).tolist())


@register_dataset("digits")
def _load_digits(config: DataConfig, part: Part) -> ImageSet:
    """Handwritten digits of scikit-learn, 8x8 pixels: 1,437 to train and 360 to test, split by class with seed 0."""
    # Imported here because it takes a second, which other data sets should not pay.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    labels = torch.from_numpy(digits.target).long()
    images = rearrange(torch.from_numpy(digits.images), "n h w -> n 1 h w")
    images = (images * 255 / 16).round().to(torch.uint8)
    train, test = train_test_split(torch.arange(len(labels)).numpy(), test_size=0.2, stratify=digits.target, random_state=0)
    mean, std = channel_statistics(images[train])
    return ImageSet(images, labels, 10, mean, std).take(torch.from_numpy(train if part == "train" else test))


@register_dataset("cifar10")
def _load_cifar10(config: DataConfig, part: Part) -> ImageSet:
    """CIFAR-10, 32x32 pixels in colour: 50,000 to train and 10,000 to test, read from its Python version."""
    data = _read_cifar10(config, part)
    images = rearrange(torch.from_numpy(data.data), "n h w c -> n c h w").contiguous()
    mean, std = (0.49139968, 0.48215827, 0.44653124), (0.24703233, 0.24348505, 0.26158768)
    return ImageSet(images, torch.tensor(data.targets), 10, mean, std)


def _read_cifar10(config: DataConfig, part: Part) -> Any:
    """torchvision's reader with the images in memory; it compares every file with its published checksum."""
    folder = Path(config.root) / "cifar-10-batches-py"
    mend = "try the download again" if config.download else "delete the folder and download it again with --data.download true"
    try:
        if not config.download and not folder.is_dir():
            raise ValueError(
                f"data.root: there is no folder {folder}; name the folder above it with --data.root "
                "or download CIFAR-10 with --data.download true"
            )
        datasets = import_torchvision().datasets
        try:
            return datasets.CIFAR10(config.root, train=part == "train", download=config.download)
        except RuntimeError:
            bad = _damaged_files(folder, datasets)
            raise ValueError(f"data.root: CIFAR-10 in {folder} is incomplete or damaged ({', '.join(bad)}); {mend}") from None
    except OSError as error:
        action = "download or read" if config.download else "read"
        raise ValueError(f"data.root: cannot {action} CIFAR-10 in {config.root}: {' '.join(str(error).split())}") from error


def _damaged_files(folder: Path, datasets: Any) -> list[str]:
    """Names of the files of CIFAR-10 that are absent or differ from the published ones."""
    known = datasets.CIFAR10
    checksums = [*known.train_list, *known.test_list, (known.meta["filename"], known.meta["md5"])]
    return [name for name, md5 in checksums if not datasets.utils.check_integrity(folder / name, md5)]


def split_halves(images: ImageSet, fraction: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """The two parts of a search's training images: shuffle with `seed`, then cut after the share `fraction` (DARTS, 3.1).

    Raises:
        ValueError: one of the parts would be empty.
    """
    count = int(fraction * len(images))
    if not 0 < count < len(images):
        raise ValueError(f"train_fraction: {fraction} of {len(images)} images leaves one of the two parts empty")
    order = torch.randperm(len(images), generator=new_generator(seed, "split"))
    return images.take(order[:count]), images.take(order[count:])


class Batches:
    """The batches of a data set that stays on the device as uint8; order and augmentation depend on seed and epoch alone.

    Args:
        images: the data set; it is copied to `device`.
        batch_size: images a batch.
        seed: seed of the run.
        augment: random changes of the images; None leaves them as they are.
        shuffle: take the images in a random order that differs from epoch to epoch.
        drop_last: leave out a last batch that would be short.
        dtype: floating type of the images that are handed out.
        stream: name of the random stream; give the two levels of a search different ones.

    Raises:
        ValueError: the batch size is below 1 or above the number of images.
    """

    def __init__(
        self,
        images: ImageSet,
        batch_size: int,
        device: torch.device | str,
        seed: int = 0,
        augment: Augmentation | None = None,
        shuffle: bool = False,
        drop_last: bool = False,
        dtype: torch.dtype = torch.float32,
        stream: str = "",
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size: must be at least 1, not {batch_size}")
        if batch_size > len(images):
            raise ValueError(f"batch_size: {batch_size} is larger than the {len(images)} images it is taken from")
        self.batch_size = batch_size
        self.device = torch.device(device)
        self._count = len(images)
        self._height, self._width = images.images.shape[2:]
        self._seed = seed
        self._stream = stream
        self._augment = augment or Augmentation()
        self._shuffle = shuffle
        self._drop_last = drop_last
        self._dtype = dtype
        self._pixels = self._augment.pad(images.images.to(self.device))
        self._labels = images.labels.to(self.device)
        precise = torch.promote_types(dtype, torch.float32)
        mean, std = (torch.tensor(values, dtype=torch.float64) for values in (images.mean, images.std))
        self._scale = (1 / (255 * std)).to(self.device, precise)
        self._shift = (-mean / std).to(self.device, precise)

    def __len__(self) -> int:
        """Number of batches an epoch."""
        whole, rest = divmod(self._count, self.batch_size)
        return whole + (rest > 0 and not self._drop_last)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of epoch `number`: images [B, C, H, W], normalised and in channels_last memory, and labels [B].

        The random choices of the whole epoch are made and copied to the device first: no batch waits for the host.
        """
        seed = (self._seed, self._stream, number)
        order = torch.arange(self._count)
        if self._shuffle:
            order = torch.randperm(self._count, generator=new_generator(*seed, "order"))
        order = order.to(self.device)
        draws = self._augment.draw(self._count, self._height, self._width, *seed).to(self.device)
        for batch in range(len(self)):
            start, stop = batch * self.batch_size, min((batch + 1) * self.batch_size, self._count)
            chosen = order[start:stop]
            yield self._images(chosen, draws.between(start, stop)), self._labels[chosen]

    def _images(self, chosen: Tensor, draws: Draws) -> Tensor:
        """The images `chosen` [B], augmented and normalised, [B, C, H, W]."""
        pixels = self._augment.crop_and_flip(self._pixels, chosen, draws)
        values = torch.addcmul(self._shift, pixels.to(self._scale.dtype), self._scale).to(self._dtype)
        return rearrange(self._augment.cut_out(values, draws), "b h w c -> b c h w")
