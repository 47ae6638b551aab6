"""What a fit can be told, and the settings of search and retraining that suit the images."""

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from retrain.config import RetrainConfig
from search.methods import get_method
from supernet.skeleton import Stem
from training.data import DataConfig
from training.optim import OptimizerConfig
from training.ranges import check_whole

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Effort = Literal["auto", "quick", "normal", "full"]
Export = Literal["none", "torch_export", "onnx"]

IMAGENET_SIZE = 96
"""Pixels a side from which on the stem reduces images eightfold before the first cell."""
_SIZES = (32, 48, 64, 96, 128, 160, 192, 224)
_FEWEST_IMAGES = 16
_SHORTEST_EPOCHS = 5
_IMBALANCED = 3.0  # times as many images in the largest class as in the smallest: then classes are weighed


@dataclass
class FitConfig:
    """From images to a trained network: a search, a retraining and an export, with settings that suit the data."""

    data: str = ""
    """The images: a folder with a folder of images for each class, an .npz file with arrays x_train, y_train, x_test and
    y_test, or the name of a data set (digits, cifar10 ...)."""
    root: str = "data"
    """For a data set by name: the folder that holds its files."""
    method: str = "darts"
    """Method of the search, any of those that are called as python -m search.METHOD."""
    effort: Effort = "auto"
    """How much is computed: quick (small networks, for a CPU), normal (for a GPU), full (as published); auto: quick on a CPU,
    normal on a GPU."""
    size: int | None = None
    """Pixels a side that images are resized to; null: chosen by the images and the effort."""
    flip: bool | None = None
    """Mirror half of the training images left to right; null: those in colour. Switch it off where left is not right."""
    random_genotypes: int = 0
    """So many random genotypes are trained in the same way, to see whether the search was worth it."""
    export: Export = "torch_export"
    """Form of the exported network; none: do not export."""
    skip_unreadable: bool = False
    """Leave out files that are no readable images, instead of refusing the folder."""
    seed: int = 0
    """Seed of everything random."""
    device: str = "auto"
    """auto (cuda where there is one), cpu, cuda, cuda:1 ..."""
    threads: int | None = None
    """CPU threads; null: one for each core."""

    def __post_init__(self) -> None:
        try:
            get_method(self.method)
        except ValueError as error:
            raise ValueError(f"method: {error}") from error
        if self.size is not None and not 4 <= self.size <= 4096:
            raise ValueError(f"size: must be from 4 to 4096 pixels, or null, not {self.size}")
        if not 0 <= self.random_genotypes <= 1000:
            raise ValueError(f"random_genotypes: must be from 0 to 1000, not {self.random_genotypes}")
        check_whole("threads", self.threads)


@dataclass(frozen=True)
class Sight:
    """What the training images look like at first sight."""

    counts: tuple[int, ...]
    """Images of each class."""
    channels: int
    side: int
    """Pixels of the shorter side: the median over images."""
    alike: bool
    """All are square and of one size, so that nothing has to be resized."""

    @property
    def images(self) -> int:
        return sum(self.counts)


@dataclass(frozen=True)
class _Budget:
    """How large the networks are, and for how many steps they are trained."""

    search_steps: int
    search_channels: int
    search_cells: int
    retrain_steps: int
    retrain_channels: int
    retrain_cells: int
    largest_size: int
    auxiliary_weight: float
    drop_path: float
    search_rate: float
    retrain_rate: float


_BUDGETS = {
    "quick": _Budget(300, 4, 5, 1200, 12, 8, 32, 0.0, 0.0, 0.05, 0.1),
    "normal": _Budget(4000, 16, 8, 20_000, 24, 14, 96, 0.4, 0.1, 0.025, 0.05),
    "full": _Budget(19_500, 16, 8, 312_000, 36, 20, 224, 0.4, 0.2, 0.025, 0.025),
}


def suitable(
    config: FitConfig, data: DataConfig, sight: Sight, device: torch.device
) -> tuple["DataclassInstance", RetrainConfig]:
    """Settings of the search and of the retraining.

    `full` are those of DARTS (Liu et al. 2019); the others spend less: narrower and shallower networks and fewer steps, with
    higher learning rates. Epochs follow from the number of images, so that any data set gets about the same number of steps,
    but no more epochs than published. Raises ValueError where there are too few images.
    """
    if sight.images < _FEWEST_IMAGES:
        raise ValueError(f"data: {sight.images} images to train on are too few; give at least {_FEWEST_IMAGES}")
    effort = config.effort
    if effort == "auto":
        effort = "normal" if device.type == "cuda" else "quick"
    budget = _BUDGETS[effort]
    size = config.size or _chosen_size(sight, budget.largest_size)
    side = size or sight.side
    large = side >= IMAGENET_SIZE
    stem: Stem = "imagenet" if large else "cifar"
    largest, smallest = max(sight.counts), min(sight.counts)
    plain = replace(
        data,
        size=size,
        resize=round(size * 8 / 7) if size and large else None,
        class_weights="balanced" if largest > _IMBALANCED * max(1, smallest) else "none",
        skip_unreadable=config.skip_unreadable,
    )
    changed = replace(
        plain,
        crop_padding=0 if large else max(1, side // 8),
        crop_area=0.25 if large else 1.0,
        flip=sight.channels == 3 if config.flip is None else config.flip,
    )
    common = {"stem": stem, "seed": config.seed, "device": config.device, "threads": config.threads}
    return (
        _search(config, budget, changed, sight, common),
        _retraining(config, budget, replace(changed, cutout=side // 2 if effort == "full" and not large else 0), sight, common),
    )


def _chosen_size(sight: Sight, largest: int) -> int | None:
    """None where images are alike and small enough; else the largest usual size that makes nothing up."""
    if sight.alike and sight.side <= largest:
        return None
    return max((size for size in _SIZES if size <= min(largest, sight.side)), default=_SIZES[0])


def _search(config: FitConfig, budget: _Budget, data: DataConfig, sight: Sight, common: dict[str, Any]) -> "DataclassInstance":
    defaults = get_method(config.method).defaults()
    train = sight.images // 2
    batch_size = _batch_size(train, 64)
    epochs = _epochs(budget.search_steps, train // batch_size, 50)
    changes: dict[str, Any] = {
        **common,
        "channels": budget.search_channels * getattr(defaults, "partial", 1),
        "cells": budget.search_cells,
        "epochs": epochs,
        "batch_size": batch_size,
        "data": data,
        "weights": replace(defaults.weights, lr=budget.search_rate, lr_min=min(0.001, defaults.weights.lr_min)),
    }
    if hasattr(defaults, "alphas"):
        # Adam moves an alpha by about its rate a step: with fewer steps than published alphas have to go as far.
        steps = epochs * max(1, train // batch_size)
        rate = min(0.07, defaults.alphas.lr * max(1.0, _BUDGETS["full"].search_steps / steps))
        changes["alphas"] = replace(defaults.alphas, lr=rate)
    if budget is _BUDGETS["quick"]:
        # A reading takes as long as some epochs of so small a search.
        changes["eigenvalue_every"] = 0
    known = {field.name for field in fields(defaults)}
    return replace(defaults, **{name: value for name, value in changes.items() if name in known})


def _retraining(config: FitConfig, budget: _Budget, data: DataConfig, sight: Sight, common: dict[str, Any]) -> RetrainConfig:
    batch_size = _batch_size(sight.images, 96)
    space = getattr(get_method(config.method).defaults(), "space", "darts")
    return RetrainConfig(
        **common,
        channels=budget.retrain_channels,
        cells=budget.retrain_cells,
        epochs=_epochs(budget.retrain_steps, max(1, sight.images // batch_size), 600),
        batch_size=batch_size,
        auxiliary_weight=budget.auxiliary_weight if space == "darts" else 0.0,
        drop_path=budget.drop_path,
        random_genotypes=config.random_genotypes,
        data=data,
        weights=OptimizerConfig(lr=budget.retrain_rate, lr_min=0.0),
    )


def _batch_size(images: int, most: int) -> int:
    """A power of two, or `most`: about eight steps an epoch at least."""
    return min(most, max(2, 2 ** int(math.log2(max(1, images / 8)))))


def _epochs(steps: int, steps_an_epoch: int, most: int) -> int:
    return min(most, max(_SHORTEST_EPOCHS, round(steps / max(1, steps_an_epoch))))
