"""Tasks on images: reading, division and batches."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from base.checks import FieldError, InputError, Name
from training.format import ImageFormat, Resizing, saved_format, saved_notes
from training.hardware import Hardware
from training.images.augment import Augmentation
from training.images.batches import Batches
from training.images.data import DataConfig, halves, in_classes, in_numbers, load_images, split_halves, with_notes
from training.images.prints import Prints, SeenImages
from training.images.sets import Images
from training.run.config import RunOptions
from training.tasks.task import Dataset, Log, Rest, Task

EVALUATED_PIXELS = 512 * 32 * 32
"""So many pixels are evaluated together where that changes nothing."""


@dataclass(frozen=True)
class ImageData(Dataset):
    """Images of one part of the data."""

    images: Images
    hardware: Hardware
    augmentation: Augmentation | None = None
    """Random changes of the images that are trained on; None: they stay as they are."""
    targets: Tensor | None = None
    """The answer for an image of each label, [labels, ...]; None: the label itself."""
    names: tuple[str, ...] = ()
    """The name of each output of the network; where left out, the classes are the outputs."""
    surveyed: bool = False
    """No file needs to be decoded in advance to find those that cannot be read, as that was done
    before."""

    @property
    def format(self) -> ImageFormat:
        """The form of the images, and the names of the outputs."""
        form = self.images.format
        return replace(form, class_names=self.names) if self.names else form

    @property
    def resizing(self) -> Resizing:
        """The way in which the images were brought to one size."""
        return self.images.resizing

    def __len__(self) -> int:
        return len(self.images)

    @property
    def fingerprint(self) -> str:
        """A short text that differs where images, labels or their order do; images whose reader is
        of another sort are told apart by their number alone."""
        prints = self.images.prints
        return f"{len(self)} images" if prints is None else prints.fingerprint

    def summary(self) -> list[str]:
        """Returns the number of images, by class where the class is the answer and with the range of
        numbers where these are, and how they were read; see `Dataset.summary`."""
        if self.targets is not None or not len(self):
            said = f"{len(self):,} images"
        else:
            said = in_classes(self.images) if self.images.format.values is None else in_numbers(self.images)
        return [said, *self.images.notes]

    def split(self, fraction: float, seed: int) -> tuple[Self, Self]:
        """Shuffles with `seed`, then cuts after the share `fraction` (DARTS, Liu et al. 2019,
        section 3.1).

        Raises InputError where one of the parts would be empty, or a number be the same in all of
        it.
        """
        first, second = split_halves(self.images, fraction, seed)
        return replace(self, images=first), replace(self, images=second)

    def take(self, count: int) -> Self:
        """Returns the first `count` images, or all where there are fewer."""
        return replace(self, images=self.images.take(torch.arange(min(count, len(self)))))

    def shuffled(self, batch_size: int, seed: int, stream: str, augment: bool = True, rest: Rest = "drop") -> Batches:
        """Returns batches to train on; see `Dataset.shuffled`."""
        changes = self.augmentation if augment else None
        return self._batches(batch_size, rest, seed=seed, augment=changes, shuffle=True, stream=stream)

    def in_order(self, batch_size: int, rest: Rest = "keep", independent: bool = False) -> Batches:
        """Returns batches to measure on; see `Dataset.in_order`."""
        if independent:
            batch_size = max(batch_size, EVALUATED_PIXELS // math.prod(self.images.format.shape[1:]))
        return self._batches(min(batch_size, len(self)), rest)

    def _batches(self, batch_size: int, rest: Rest, **options: Any) -> Batches:
        drop = rest == "drop" or (rest == "drop_single" and batch_size > 0 and len(self) % batch_size == 1)
        device = self.hardware.device
        return Batches(self.images, batch_size, device, drop_last=drop, targets=self.targets, **options)


class ImageTask(Task):
    """A task on images that a `DataConfig` names.

    Networks answer with something for each class unless `answers` says else.
    """

    train: ImageData
    numbers: ClassVar[bool] = False
    """Whether images have numbers to be predicted, rather than classes."""

    def __init__(self, data: DataConfig, train: ImageData) -> None:
        super().__init__(data, train)
        self._seen: SeenImages | None = None
        """The images of the run that goes on; None for a new one."""
        self._prints: dict[str, Prints] = {} if train.images.prints is None else {"train": train.images.prints}

    @classmethod
    def answers(cls, form: ImageFormat) -> Tensor | None:
        """Returns what a network is to answer for an image of each label, [labels, ...]; None: the
        label itself."""
        return None

    @classmethod
    def of_images(cls, data: DataConfig, images: Images, hardware: Hardware, surveyed: bool = False) -> Self:
        """Makes the task of images that were read already, of the training part and as `data`
        says."""
        return cls(data, cls._dataset(data, images, hardware, surveyed))

    @classmethod
    def open(cls, data: DataConfig, hardware: Hardware, options: RunOptions | None = None, log: Log = print) -> Self:
        """Reads the training images; a resumed run has their mean and deviation already."""
        known = None if options is None else saved_format(options)
        surveyed = known is not None
        images = load_images(data, "train", hardware.device, known, log, surveyed, cls.numbers)
        if known is not None and options is not None:
            # What was found when every file was decoded is not found again.
            images = with_notes(images, saved_notes(options.run))
        seen = SeenImages.read(options.run) if options is not None and options.resume else None
        if seen is not None and images.prints is not None and (change := seen.change("train", images.prints)):
            log(f"the training images have changed since the run began: {change}")
        task = cls.of_images(data, images, hardware, surveyed)
        task._seen = seen
        return task

    def load_test(self, log: Log = print) -> ImageData:
        """Reads the test images.

        Raises InputError where they cannot be read or have another size than the training images.
        """
        form = self.train.images.format
        images = load_images(self.data, "test", self.train.hardware.device, form, log, self.train.surveyed)
        if images.format.shape != form.shape:
            (_, height, width), (_, trained_height, trained_width) = images.format.shape, form.shape
            raise FieldError(
                "data.size",
                f"test images have {width}x{height} pixels and training images {trained_width}x{trained_height}; "
                "bring all to one size with --",
                Name("data.size"),
            )
        if images.prints is not None:
            self._add_test(images.prints, log)
        return self._dataset(self.data, images, self.train.hardware)

    def _add_test(self, prints: Prints, log: Log) -> None:
        """Takes up the test part. Raises InputError where an image of it was trained on before."""
        self._prints["test"] = prints
        if self._seen is not None:
            try:
                self._seen.check(prints, "this run")
            except InputError as error:
                raise FieldError("data.root", *error.parts) from error
            if change := self._seen.change("test", prints):
                log(f"the test images have changed since the run began: {change}")
        if both := SeenImages(self._prints).both():
            log(both)

    def check_unseen(self, run: Path, fraction: float, seed: int) -> str:
        """Compares the images with those of another search, or of this one when it began; see
        `Task.check_unseen`."""
        seen, now = SeenImages.read(run), self.train.images.prints
        if seen is None or now is None or "train" not in seen.parts:
            return ""
        before = seen.parts["train"]
        trained, left = (before.take(places) for places in halves(len(before), fraction, seed))
        judged = now.take(halves(len(now), fraction, seed)[1])
        SeenImages({"train": trained, "test": left}, seen.earlier).check(judged, run, "validation image")
        return now.change(before)

    def save_description(self, run: Path, trains: bool = True) -> None:
        """Writes data.json, and the prints of the images if the run trains on them, in the directory
        of a run."""
        super().save_description(run)
        if self._prints and trains:
            (SeenImages(self._prints) if self._seen is None else self._seen.then(self._prints)).save(run)

    def describe(self) -> dict[str, Any]:
        """Returns the format of the training images, how many there are, and how they were
        read."""
        images = self.train.images
        return images.format.to_dict() | {"train_images": len(images), "notes": list(images.notes)}

    @classmethod
    def _dataset(cls, data: DataConfig, images: Images, hardware: Hardware, surveyed: bool = False) -> ImageData:
        form = images.format
        return ImageData(images, hardware, data.augmentation(), cls.answers(form), cls.output_names(form), surveyed)
