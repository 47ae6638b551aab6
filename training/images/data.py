"""The images of a run: settings, the table of data sets, and their division."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
from torch import Tensor

from base.checks import FieldError, Name, at_least, between, check_seed, choices, whole
from base.registry import Registry
from base.seeds import new_generator
from base.texts import excerpt, label, show
from training.format import BYTE, Fit, ImageFormat, Layout, Resizing
from training.images.augment import Augmentation
from training.images.depth import DEPTHS, check_bits, check_colour, used_bits
from training.images.files import ImageFiles, in_memory, survey
from training.images.memory import free_on
from training.images.prints import of_files, of_pixels
from training.images.sets import Images, ImageSet, resized
from training.images.workers import available_cores

Part = Literal["train", "test"]
AnyImages = TypeVar("AnyImages", bound=Images)

# The share of the free memory that images on the device may take. A search holds them up to four
# times: as they were read, divided, with their border for each level, and for evaluation.
_ROOM = 0.25
_SHOWN = 20  # classes that a line names


@dataclass
class DataConfig:
    """The images of a run, and the random changes of those to train on."""

    name: str = "digits"
    """Data set: digits (part of scikit-learn), cifar10, cifar100, svhn, mnist, fashion_mnist,
    folder (one folder of images for each class), npz (arrays x_train, y_train, x_test, y_test; for
    regression, too), or one that was added with @register_dataset."""
    root: str = "data"
    """Folder that holds the files of the data set (cifar10: the folder above cifar-10-batches-py;
    folder: the one above the folders of the classes, or above train and, where there is one, test
    or val); of npz the file. Digits needs none."""
    download: bool = False
    """Download the data set into root where it is absent or damaged."""
    crop_padding: int = 0
    """Pixels of zeros around a training image before a crop of its own size is taken at random; 0 =
    no random crop."""
    flip: bool = False
    """Mirror half of the training images, chosen at random, left to right."""
    cutout: int = 0
    """Side in pixels of the square that is blanked at a random place of each training image; 0 =
    none."""
    crop_area: float = 1.0
    """A part of a training image of at least that share of its area takes its place (ImageNet:
    0.08); 1 = none does."""
    limit: int | None = None
    """Use only that many training images, in the proportions of the classes and the same ones each
    time; null = all."""
    size: int | None = None
    """Resize images to that many pixels on each side; null: as they are."""
    fit: Fit = "crop"
    """The way of size with an image that is no square: crop cuts one from its middle, stretch
    squeezes all of it in."""
    resize: int | None = None
    """With fit crop: pixels that the shorter side gets before the square of size is cut out
    (ImageNet: 256); null: size."""
    gray: bool = False
    """Folder: read images in shades of grey, with one channel."""
    layout: Layout = "auto"
    """Npz: the axes of the images, nhwc = [N, H, W, C] or nchw = [N, C, H, W]; auto: by their
    lengths, where these leave no doubt."""
    bits: int | None = None
    """Folder: bits that are used of the 16 of a pixel in files of 16 bits: 8, 10, 12, 14 or 16;
    null: the fewest of these that hold the largest value in the training part."""
    train_folder: str | None = None
    """Folder: the folder in root that is the training part; . = root itself, so that each folder in
    it is a class; null: the one called train or training, else root itself."""
    test_folder: str | None = None
    """Folder: the folder in root that is the test part; none = a share of the training part; null:
    the one called test or testing, else val, valid or validation, else a share."""
    test_fraction: float = 0.2
    """Folder without a test folder: the share of its files that about makes up the test part, at
    most 0.5."""
    split_seed: int = 0
    """Folder without a test folder: which images are the test part; with each seed a file is in it
    or not whatever other files there are. The seed of the run does not change it."""
    skip_unreadable: bool = False
    """Folder: leave out files that are no readable images, and name them in the log, instead of
    refusing the folder."""
    class_weights: Literal["none", "balanced"] = "none"
    """Weights of the classes in each loss that is descended; balanced: images / (classes * images
    of the class)."""
    loading: Literal["auto", "resident", "workers"] = "auto"
    """The source of batches: images that all stay on the device, or processes that read and change
    them; auto: by size."""
    workers: int | None = None
    """Processes that read images for a stream of batches, of which a search has one for each level;
    null: one for each core."""

    def __post_init__(self) -> None:
        choices(self)
        for name in ("crop_padding", "cutout"):
            if getattr(self, name) < 0:
                raise FieldError(name, f"must be 0 or more pixels, not {show(getattr(self, name))}")
            at_least(0, self, name, most=4096)
        if not 0 < self.crop_area <= 1:
            raise FieldError("crop_area", f"must be a share above 0 and at most 1, not {show(self.crop_area)}")
        at_least(1e-4, self, "crop_area", most=1)
        if self.crop_area < 1 and self.loading == "resident":
            raise FieldError("crop_area", "only worker processes cut parts out; set ", Name("loading"), " to auto or workers")
        if self.limit is not None and self.limit < 1:
            raise FieldError("limit", f"must be at least 1 image, or null for all, not {show(self.limit)}")
        whole(self, "limit")
        between(4, 4096, self, "size", said="from 4 to 4096 pixels, or null for images as they are")
        if self.resize is not None and not (self.size is not None and self.fit == "crop" and self.size <= self.resize <= 8192):
            needed = (" to 8192 pixels, and needs it and ", Name("fit"), f" crop, not {show(self.resize)}")
            raise FieldError("resize", "must be from ", Name("size"), *needed)
        if not 0 < self.test_fraction <= 0.5:
            raise FieldError("test_fraction", f"must be above 0 and at most 0.5, not {show(self.test_fraction)}")
        check_seed("split_seed", self.split_seed)
        between(1, 1024, self, "workers", said="from 1 to 1024 processes, or null")
        check_bits(self.bits)
        for name in ("train_folder", "test_folder"):
            if getattr(self, name) is not None and not 1 <= len(getattr(self, name)) <= 4096:
                raise FieldError(name, "must be the name of a folder, or null")

    def augmentation(self) -> Augmentation:
        """Returns the random changes that these settings ask for."""
        return Augmentation(self.crop_padding, self.flip, self.cutout, self.crop_area)

    def as_they_are(self) -> "DataConfig":
        """Returns the settings of the same images, all of them and without random changes."""
        return replace(self, crop_padding=0, flip=False, cutout=0, crop_area=1.0, limit=None)

    @property
    def processes(self) -> int:
        """Returns the number of processes that read images, if any do."""
        return self.workers or available_cores()


Loader = Callable[[DataConfig, Part], Images]
# Readers are imported when they are asked for, as some take seconds to import.
DATASETS: Registry[Loader] = Registry(
    "data set",
    {
        "cifar10": "training.images.readers.vision:load_cifar10",
        "cifar100": "training.images.readers.vision:load_cifar100",
        "digits": "training.images.readers.digits:load",
        "fashion_mnist": "training.images.readers.vision:load_fashion_mnist",
        "folder": "training.images.readers.folder:load",
        "mnist": "training.images.readers.vision:load_mnist",
        "npz": "training.images.readers.npz:load",
        "svhn": "training.images.readers.vision:load_svhn",
    },
)

NUMBERED: Registry[Loader] = Registry("data set with numbers", {"npz": "training.images.readers.npz:load_numbers"})
"""The data sets whose images have numbers to be predicted; npz, which may have either, is in both
tables."""


def register_dataset(name: str, numbers: bool = False) -> Callable[[Loader], Loader]:
    """Makes the decorated function the data set `name`.

    The function takes the settings and "train" or "test", and returns an `ImageSet` or
    `ImageFiles`. With `numbers` it is a data set for regression, whose `ImageSet` has `values`.

    Raises InputError if there is another data set of that name.
    """
    return (NUMBERED if numbers else DATASETS).register(name)


def list_datasets() -> list[str]:
    """Returns the names of all data sets, those that were added last."""
    return DATASETS.names()


def load_images(
    config: DataConfig,
    part: Part,
    device: torch.device | str = "cpu",
    known: ImageFormat | None = None,
    log: Callable[[str], None] = print,
    surveyed: bool = False,
    numbers: bool = False,
) -> Images:
    """Reads one part of the data set that `config` names; `config.limit` applies to the training
    part.

    Both parts are resized to `config.size`. Their mean and std stay those of the data set, which
    for the well-known sets are published constants: images that were made smaller by averaging keep
    about the mean but have a smaller std.

    Args:
        device: the device that uses the images. They stay there if they fit, else worker processes
            make the batches; see `DataConfig.loading`.
        known: the format of the images that a network was trained on, or is being trained on: these
            get its mean and std, and have numbers if those have.
        log: called with a line for each file that is left out.
        surveyed: the files were decoded before, to find those that cannot be read, and need not be
            again.
        numbers: the images have numbers to be predicted, and belong to no classes.

    Raises:
        ValueError: an unknown data set, absent or damaged files, a limit above the number of
            images, images of another format than `known`, or a random crop or cutout that could
            hide all of an image.
    """
    images = _loader(config.name, numbers or (known is not None and known.values is not None))(config, part)
    if known is not None:
        _check_format(images.format, known)
    images = _with_prints(images, config.root)
    if part == "train" and config.limit is not None:
        if config.limit > len(images):
            there = f"the {len(images)} training images of {config.name}"
            raise FieldError("data.limit", f"{excerpt(config.limit)} is more than {there}")
        note = f"data.limit: {config.limit:,} of {len(images):,} training images, the same ones each time"
        images = images.take(stratified(images.labels, config.limit, new_generator("limit")))
        images = with_notes(images, [note])
    if isinstance(images, ImageSet):
        if config.size is not None:
            resizing = Resizing(config.size, config.fit, config.resize, "area")
            images = replace(images, images=resized(images.images, resizing), resizing=resizing)
        images = replace(images, workers=_workers(images, config, torch.device(device)))
    elif isinstance(images, ImageFiles):
        images = _prepared(images, config, part, torch.device(device), known, log, surveyed)
    _check_augmentation(config, images.format)
    if known is not None and isinstance(images, ImageSet):
        return replace(images, mean=known.mean, std=known.std, values=known.values)
    return images


def _loader(name: str, numbers: bool) -> Loader:
    """Returns the function that reads a data set. Raises FieldError where there is none of that
    name, or it has no numbers."""
    if numbers and name not in NUMBERED:
        if name not in DATASETS:
            raise FieldError("data.name", NUMBERED.unknown(name))
        there = ", ".join(NUMBERED.names())
        raise FieldError("data.name", f"{name} has classes and no numbers to be predicted; a regression takes {there}")
    if not numbers and name not in DATASETS:
        if name in NUMBERED:
            raise FieldError("data.name", f"{name} has numbers and no classes; train it with --", Name("task"), " regression")
        raise FieldError("data.name", DATASETS.unknown(name))
    return (NUMBERED if numbers else DATASETS)[name]


def with_notes(images: AnyImages, notes: Iterable[str]) -> AnyImages:
    """Returns the same images with further lines on how they were read; none stands twice."""
    if not isinstance(images, ImageSet | ImageFiles):
        return images
    return replace(images, notes=tuple(dict.fromkeys([*images.notes, *notes])))


def _with_prints(images: Images, root: str) -> Images:
    """Returns the same images with their prints, before any of them is left out or resized."""
    if isinstance(images, ImageSet):
        return replace(images, prints=of_pixels(images.images, images.labels))
    if isinstance(images, ImageFiles):
        return replace(images, prints=of_files(images.files, images.labels, root))
    return images


def _check_augmentation(config: DataConfig, form: ImageFormat) -> None:
    _, height, width = form.shape
    for name, pixels in (("crop_padding", config.crop_padding), ("cutout", config.cutout)):
        if pixels and pixels >= min(height, width):
            raise FieldError(
                f"data.{name}", f"{excerpt(pixels)} pixels could hide all of an image of {height}x{width}; use fewer"
            )


def _workers(images: Images, config: DataConfig, device: torch.device) -> int:
    """Returns the number of processes that make the batches: 0 if the images stay on the device."""
    if config.loading != "auto":
        return config.processes if config.loading == "workers" else 0
    channels, height, width = images.format.shape
    border = 2 * config.crop_padding
    bytes_a_value = 1 if images.format.scale == BYTE else 4
    needed = len(images) * channels * (height + border) * (width + border) * bytes_a_value
    return 0 if config.crop_area == 1 and needed <= _ROOM * free_on(device) else config.processes


def _prepared(
    files: ImageFiles,
    config: DataConfig,
    part: Part,
    device: torch.device,
    known: ImageFormat | None,
    log: Callable[[str], None],
    surveyed: bool,
) -> Images:
    """Returns the files with their statistics or, if they stay on the device, in memory; each is
    decoded once for either."""
    workers = _workers(files, config, device)
    bits = config.bits or (None if known is None else known.bits)
    files = _of_bits(files, bits)
    if workers and known is not None and surveyed and not config.skip_unreadable:
        return _normalised(replace(files, workers=workers), known.mean, known.std)
    found = survey(files, keep=not workers, workers=config.processes)
    if found.unreadable:
        first = found.unreadable[0]
        if not config.skip_unreadable:
            more = f", and {len(found.unreadable) - 1} more" if len(found.unreadable) > 1 else ""
            mend = f"{first}{more}; mend or delete it, or leave such files out, --"
            raise FieldError("data.root", mend, Name("data.skip_unreadable"), " true")
        note = f"left out, unreadable: {len(found.unreadable)} of {len(files)} {part} images"
        files = with_notes(files, [note])
        log(note)
        for problem in found.unreadable:
            log(f"left out: {problem}")
    names = files.format.class_names
    before, left = (labels.bincount(minlength=len(names)) for labels in (files.labels, files.labels[found.readable]))
    lost = (before > 0) & (left == 0)
    if not left.any() or (part == "train" and lost.any()):
        raise FieldError("data.root", f"no image of class {names[int(lost.int().argmax())]!r} can be read")
    if known is None and part == "test":
        # The test part has the statistics of the training part even if it is asked for alone.
        known = load_images(config, "train", device, log=log).format
    if config.bits is None:
        check_colour(found.seen)
    if bits is None and found.seen.gray:
        bits = (known and known.bits) or used_bits(found.seen.gray)
        files = _of_bits(files, bits)
        if bits < DEPTHS[-1]:  # of the others all were taken to be used
            found = survey(files, keep=not workers, workers=config.processes)
    if found.seen.gray and bits:
        files = with_notes(files, [f"{part} images of 16 bits, {bits} of them used: the largest value is {found.seen.gray:,}"])
    if found.several:
        files = with_notes(files, [f"{found.several:,} {part} files have several pictures, of which the first is read"])
    mean, std = (found.mean, found.std) if known is None else (known.mean, known.std)
    files = _normalised(replace(files, workers=workers), mean, std)
    return files.take(found.readable) if workers else in_memory(files, found)


def _of_bits(files: ImageFiles, bits: int | None) -> ImageFiles:
    return replace(files, decoding=replace(files.decoding, bits=bits), format=replace(files.format, bits=bits))


def _normalised(files: ImageFiles, mean: tuple[float, ...], std: tuple[float, ...]) -> ImageFiles:
    return replace(files, format=replace(files.format, mean=mean, std=std))


def _check_format(form: ImageFormat, known: ImageFormat) -> None:
    """Raises ValueError for images of other classes or channels than those of `known`."""
    if form.class_names != known.class_names:
        raise FieldError(
            "data",
            f"the images have {form.class_names_in_short()}, those that the network was trained on "
            f"{known.class_names_in_short()}; name images of the same classes",
        )
    described = [(f"{other.shape[0]} channels", f"pixels that are divided by {other.scale:g}") for other in (form, known)]
    for ours, theirs in zip(*described, strict=True):
        if ours != theirs:
            raise FieldError("data", f"the images have {ours}, those that the network was trained on {theirs}")


def stratified(labels: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Returns ascending indices of `count` images in the proportions of the classes; of images with
    numbers any.

    A smaller choice is part of a larger one.
    """
    if labels.is_floating_point():
        labels = torch.zeros(len(labels), dtype=torch.int64)
    order = torch.randperm(len(labels), generator=generator)
    shuffled = labels[order]
    counts = shuffled.bincount()
    by_class = shuffled.argsort(stable=True)
    rank = torch.empty_like(shuffled)
    rank[by_class] = torch.arange(len(labels)) - (counts.cumsum(0) - counts)[shuffled[by_class]]
    # The k-th image of a class of n comes at (k + 1/2) / n of the way, so any beginning has the
    # classes' proportions.
    position = (rank + 0.5).double() / counts[shuffled]
    return order[position.argsort(stable=True)[:count]].sort().values


def split_halves(images: AnyImages, fraction: float, seed: int) -> tuple[AnyImages, AnyImages]:
    """Divides the training images of a search: shuffles with `seed`, then cuts after the share
    `fraction` (DARTS, section 3.1).

    Raises:
        ValueError: one of the parts would be empty.
    """
    parts = [images.take(places) for places in halves(len(images), fraction, seed)]
    for part in parts:
        if (name := constant(part)) is not None:
            raise FieldError(
                "seed",
                f"with {show(seed)} one of the two parts has {len(part)} images whose {name} is the same in all; "
                "it has no R2, take another seed or more images",
            )
    return parts[0], parts[1]


def constant(images: Images) -> str | None:
    """Returns the name of the first number that is the same in all of some images; None where none
    is, or they belong to classes."""
    if images.format.values is None or not len(images):
        return None
    least, most = images.labels.aminmax(dim=0)
    alike = (least == most).tolist()
    return label(images.format.class_names[alike.index(True)]) if any(alike) else None


def halves(count: int, fraction: float, seed: int) -> tuple[Tensor, Tensor]:
    """Returns the places of the two parts into which `split_halves` divides `count` images."""
    first = int(fraction * count)
    if not 0 < first < count:
        raise FieldError("train_fraction", f"{fraction} of {count} images leaves one of the two parts empty")
    order = torch.randperm(count, generator=new_generator(seed, "split"))
    return order[:first], order[first:]


def in_classes(images: Images) -> str:
    """Returns one line: the number of images and, of the first classes, the name and number of
    each."""
    names = [excerpt(name) for name in images.format.class_names]
    counts = images.labels.bincount(minlength=images.classes).tolist()
    shown = [f"{name} {count:,}" for name, count in zip(names[:_SHOWN], counts, strict=False)]
    if rest := counts[_SHOWN:]:
        each = f"{min(rest):,}" if min(rest) == max(rest) else f"{min(rest):,} to {max(rest):,}"
        shown.append(f"and {len(rest):,} more of {each} each")
    return f"{len(images):,} images of {images.classes:,} classes: {', '.join(shown)}"


def in_numbers(images: Images) -> str:
    """Returns one line: the count of images and, of the first of their numbers, name, range, mean
    and standard deviation."""
    names, labels = [label(name) for name in images.format.class_names], images.labels
    shown = [
        f"{name} from {least:.8g} to {most:.8g} (mean {mean:.8g}, deviation {std:.4g})"
        for name, least, most, mean, std in zip(
            names[:_SHOWN],
            *(one.tolist() for one in (labels.amin(0), labels.amax(0), labels.mean(0), labels.std(0, correction=0))),
            strict=False,
        )
    ]
    rest = [f"and {len(names) - len(shown):,} more numbers"] if len(names) > len(shown) else []
    return f"{len(images):,} images: {', '.join([*shown, *rest])}"


def class_weights(images: Images, config: DataConfig) -> Tensor | None:
    """Returns the weights of the classes in the loss, float32 [classes]; None if all count alike.

    Raises ValueError for a class without an image, whose weight would be infinite.
    """
    if config.class_weights == "none":
        return None
    counts = images.labels.bincount(minlength=images.classes)
    if not counts.all():
        name = images.format.class_names[int(counts.argmin())]
        raise FieldError("data.class_weights", f"class {name!r} has no training image; leave the weights out or add images")
    return (len(images) / (images.classes * counts)).float()
