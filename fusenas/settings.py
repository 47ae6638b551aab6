"""The configuration of a fit, and the settings of search and retraining that suit the images."""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from base.checks import FieldError, InputError, between, choices
from retrain.config import RetrainConfig
from search.config import SupernetSearchConfig
from search.differentiable.config import SearchConfig
from search.methods import get_method
from supernet import get_space
from supernet.spaces.skeleton import Stem
from training.format import Layout
from training.images.data import DataConfig
from training.images.depth import check_bits
from training.optim import OptimizerConfig
from training.run.base import MAY_CHANGE, RunConfig
from training.tasks.task import TASKS

Effort = Literal["auto", "quick", "normal", "full"]
Export = Literal["none", "torch_export", "onnx"]

IMAGENET_SIZE = 96
"""Pixels a side from which on the stem reduces images eightfold before the first cell."""
_SIZES = (16, 24, 32, 48, 64, 96, 128, 160, 192, 224)
_FEWEST_IMAGES = 16
_IMBALANCED = 3.0  # ratio of the largest class to the smallest from which on classes are weighed
# A search that sees a part of the images takes up to so many times more, to have so many of the
# rarest class.
_MORE_FOR_RARE = 4
_OF_RAREST = 8


@dataclass
class FitConfig(RunConfig):
    """The way from images to a trained network: a search, a retraining and an export, with settings
    that suit the data."""

    data: str = ""
    """The images: a folder with a folder of images for each class, an .npz file with arrays
    x_train, y_train, x_test and y_test (floating y: numbers to be predicted), or the name of a data
    set (digits, cifar10 ...)."""
    root: str = "data"
    """For a data set by name: the folder that holds its files."""
    download: bool = False
    """For a data set by name: download it into root where it is absent or damaged."""
    method: str = "darts"
    """Method of the search, any of those that are called as python -m search.METHOD."""
    score: str | None = None
    """The score that is searched for and reported: accuracy, loss, macro_recall, macro_f1 or
    balanced_accuracy (in the last three every class counts alike, however few images it has), or
    r2, mse, mae or loss where images have numbers; null: accuracy or r2."""
    effort: Effort = "auto"
    """The amount of computation: quick (small networks, for a CPU), normal (for a GPU), full (as
    published); auto: quick on a CPU, normal on a GPU."""
    size: int | None = None
    """Pixels a side that images are resized to; null: chosen by the images and the effort."""
    flip: bool | None = None
    """Mirror half of the training images left to right; null: those in colour, not those in shades
    of grey (a folder is grey where all of its files are), which often are writing. Switch it off
    where left is not right. Images with numbers are not mirrored unless it is true."""
    random_genotypes: int = field(default=0, metadata=MAY_CHANGE)
    """Number of random genotypes that are trained in the same way, to see whether the search was
    worth it."""
    export: Export = "torch_export"
    """Form of the exported network: torch_export (torch.export.load reads it), onnx (needs pip
    install 'fusenas[export]'); none: do not export."""
    layout: Layout = "auto"
    """For arrays: the axes of the images, nhwc = [N, H, W, C] or nchw = [N, C, H, W]; auto: by
    their lengths, where these leave no doubt."""
    bits: int | None = None
    """For a folder: bits that are used of the 16 of a pixel in files of 16 bits: 8, 10, 12, 14 or
    16; null: the fewest of these that hold the largest value in the training part."""
    train_folder: str | None = None
    """For a folder: the folder in it that is the training part; . = each folder in it is a class;
    null: the one called train or training, if there is one."""
    test_folder: str | None = None
    """For a folder: the folder in it that is the test part; none = a share of the training part;
    null: the one called test or testing, else val, valid or validation, else a share."""
    skip_unreadable: bool = False
    """Leave out files that are no readable images, instead of refusing the folder."""

    def __post_init__(self) -> None:
        super().__post_init__()
        choices(self)
        try:
            get_method(self.method)
        except InputError as error:
            raise FieldError("method", *error.parts) from error
        between(4, 4096, self, "size", said="from 4 to 4096 pixels, or null")
        between(0, 1000, self, "random_genotypes")
        check_bits(self.bits)


@dataclass(frozen=True)
class DataSummary:
    """A summary of the training images: numbers, size, colour."""

    counts: tuple[int, ...]
    """Number of images of each class; the number of all where they have numbers."""
    channels: int
    side: int
    """Pixels of the shorter side: the median over images."""
    alike: bool
    """Whether all are square and of one size, so that nothing has to be resized."""
    numbers: bool = False
    """Whether they have numbers to be predicted, rather than classes."""

    @property
    def images(self) -> int:
        return sum(self.counts)

    @property
    def task(self) -> str:
        """Returns the task that suits them."""
        return "regression" if self.numbers else "classification"


@dataclass(frozen=True)
class _Stage:
    """The size of a network, and the length of its training."""

    steps: int
    batch_size: int
    shortest: int
    """Epochs at least."""
    longest: int
    """Epochs at most."""
    channels: int
    cells: int
    largest_size: int
    """Pixels a side, at most."""
    rate: float
    """Learning rate."""


@dataclass(frozen=True)
class _Budget:
    """The limits of the cost of a fit."""

    search: _Stage
    retrain: _Stage
    auxiliary_weight: float
    drop_path: float
    cutout: bool
    thrifty: bool
    """Whether the search takes only as many images as its steps see in the fewest epochs, and
    measures seldom."""


BUDGETS = {
    "quick": _Budget(
        _Stage(200, 32, shortest=5, longest=50, channels=4, cells=3, largest_size=16, rate=0.05),
        _Stage(500, 32, shortest=3, longest=600, channels=8, cells=4, largest_size=32, rate=0.1),
        auxiliary_weight=0.0, drop_path=0.0, cutout=False, thrifty=True,
    ),
    "normal": _Budget(
        _Stage(4000, 64, shortest=5, longest=50, channels=16, cells=8, largest_size=96, rate=0.025),
        _Stage(20_000, 96, shortest=5, longest=600, channels=24, cells=14, largest_size=96, rate=0.05),
        auxiliary_weight=0.4, drop_path=0.1, cutout=False, thrifty=False,
    ),
    "full": _Budget(
        _Stage(19_500, 64, shortest=5, longest=50, channels=16, cells=8, largest_size=224, rate=0.025),
        _Stage(312_000, 96, shortest=5, longest=600, channels=36, cells=20, largest_size=224, rate=0.025),
        auxiliary_weight=0.4, drop_path=0.2, cutout=True, thrifty=False,
    ),
}  # fmt: skip


def suitable(
    config: FitConfig, data: DataConfig, summary: DataSummary, device: torch.device
) -> tuple[SupernetSearchConfig, RetrainConfig]:
    """Returns the settings of the search and of the retraining.

    `full` are those of DARTS (Liu et al. 2019); the others spend less: narrower and shallower
    networks and fewer steps, with higher learning rates. Epochs follow from the number of images,
    so that any data set gets about the same number of steps, but no more epochs than published;
    `quick` searches on smaller images and, of many, on a part. Raises ValueError if there are too
    few images.
    """
    TASKS[summary.task].score_named(config.score)
    if summary.images < _FEWEST_IMAGES:
        raise FieldError("data", f"{summary.images} images to train on are too few; give at least {_FEWEST_IMAGES}")
    if not all(summary.counts):
        raise FieldError("data", f"class {summary.counts.index(0)}, counted from 0, has no image to train on")
    effort = config.effort
    if effort == "auto":
        effort = "normal" if device.type == "cuda" else "quick"
    budget = BUDGETS[effort]
    largest, smallest = max(summary.counts), min(summary.counts)
    data = replace(
        data,
        gray=data.name == "folder" and summary.channels == 1,
        class_weights="balanced" if largest > _IMBALANCED * smallest else "none",
        skip_unreadable=config.skip_unreadable,
        # A number may be a place, an angle or a size.
        flip=summary.channels == 3 and not summary.numbers if config.flip is None else config.flip,
    )
    return _search(config, budget, data, summary), _retraining(config, budget, data, summary)


def _sized(config: FitConfig, data: DataConfig, summary: DataSummary, largest: int) -> tuple[DataConfig, Stem]:
    """Returns settings of the images at a size of at most `largest`, their random crops if they
    belong to classes, and the stem that suits them."""
    size = min(config.size, largest) if config.size else _chosen_size(summary, largest)
    side = size or summary.side
    if side < IMAGENET_SIZE:
        padding = 0 if summary.numbers else min(max(1, side // 8), side - 1)
        return replace(data, size=size, crop_padding=padding), "cifar"
    area = 1.0 if summary.numbers else 0.25
    return replace(data, size=size, resize=round(size * 8 / 7) if size else None, crop_area=area), "imagenet"


def _chosen_size(summary: DataSummary, largest: int) -> int | None:
    """Returns None if images are alike and small enough; else the largest usual size that makes
    nothing up."""
    if summary.alike and summary.side <= largest:
        return None
    return max((size for size in _SIZES if size <= min(largest, summary.side)), default=_SIZES[0])


def _search(config: FitConfig, budget: _Budget, data: DataConfig, summary: DataSummary) -> SupernetSearchConfig:
    defaults, stage = get_method(config.method).defaults(), budget.search
    images = summary.images // 2
    batch_size = _batch_size(images, stage.batch_size)
    data, stem = _sized(config, data, summary, stage.largest_size)
    if budget.thrifty and images > (enough := stage.steps // stage.shortest * batch_size):
        data = _limited(data, summary, 2 * enough)
        images = (data.limit or summary.images) // 2
    epochs = _epochs(stage, images // batch_size)
    changes: dict[str, Any] = {
        **_common(config, summary),
        "stem": stem,
        "channels": stage.channels,
        "cells": stage.cells,
        "epochs": epochs,
        "batch_size": batch_size,
        "data": data,
        "weights": replace(defaults.weights, lr=stage.rate, lr_min=min(0.001, defaults.weights.lr_min)),
    }
    if isinstance(defaults, SearchConfig):
        changes["channels"] *= defaults.partial
        # Adam moves an alpha by about its rate a step: with fewer steps than published alphas have
        # to go as far.
        steps = epochs * max(1, images // batch_size)
        rate = min(0.07, defaults.alphas.lr * max(1.0, BUDGETS["full"].search.steps / steps))
        changes["alphas"] = replace(defaults.alphas, lr=rate)
        if budget.thrifty:
            changes |= {"eigenvalue_every": 0, "validate_every": max(1, epochs // 4)}
    chosen: SupernetSearchConfig = replace(defaults, **changes)
    return chosen


def _limited(data: DataConfig, summary: DataSummary, enough: int) -> DataConfig:
    """Returns `enough` images, or more to have some of the rarest class, as each class keeps its
    share."""
    smallest = min(summary.counts)
    needed = math.ceil(summary.images * min(_OF_RAREST, smallest) / smallest)
    limit = min(max(enough, needed), _MORE_FOR_RARE * enough, summary.images)
    # A class this rare would keep one image or none; one image must not outweigh all others.
    is_rarer = limit < summary.images and smallest * limit < 2 * summary.images
    return replace(data, limit=limit, class_weights="none" if is_rarer else data.class_weights)


def _retraining(config: FitConfig, budget: _Budget, data: DataConfig, summary: DataSummary) -> RetrainConfig:
    stage = budget.retrain
    batch_size = _batch_size(summary.images, stage.batch_size)
    # A size that is asked for is that of the trained network; the search may make do with less.
    data, stem = _sized(config, data, summary, config.size or stage.largest_size)
    if budget.cutout and stem == "cifar" and not summary.numbers:
        data = replace(data, cutout=(data.size or summary.side) // 2)
    skeleton = get_space(get_method(config.method).defaults().space).skeleton
    return RetrainConfig(
        **_common(config, summary),
        stem=stem,
        channels=stage.channels,
        cells=stage.cells,
        epochs=_epochs(stage, max(1, summary.images // batch_size)),
        batch_size=batch_size,
        auxiliary_weight=budget.auxiliary_weight if skeleton.auxiliary else 0.0,
        drop_path=budget.drop_path,
        random_genotypes=config.random_genotypes,
        data=data,
        weights=OptimizerConfig(lr=stage.rate, lr_min=0.0),
    )


def _common(config: FitConfig, summary: DataSummary) -> dict[str, Any]:
    shared = {name: getattr(config, name) for name in ("seed", "device", "threads", "score")}
    return shared | {"task": summary.task}


def _batch_size(images: int, most: int) -> int:
    """A power of two, or `most`: about eight steps an epoch at least."""
    return min(most, max(2, 2 ** int(math.log2(max(1, images / 8)))))


def _epochs(stage: _Stage, steps_an_epoch: int) -> int:
    return min(stage.longest, max(stage.shortest, round(stage.steps / max(1, steps_an_epoch))))
