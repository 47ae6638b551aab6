"""Finished searches that descend a gradient, at the least size."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search.differentiable.config import SearchConfig, StagesConfig
from search.differentiable.method import DifferentiableRun
from search.methods import get_method
from training.images.data import DataConfig
from training.run.config import RunOptions

Searched = Callable[..., DifferentiableRun]


def settings(method: str, space: str, **others: Any) -> SearchConfig:
    """The method as published, at the least size."""
    config = get_method(method).defaults()
    size: dict[str, Any] = {
        "space": space, "cells": 1 if space == "nasbench201" else 3, "channels": 4 * max(1, config.partial), "epochs": 2,
        "batch_size": 16, "data": DataConfig(limit=64), "eigenvalue_every": 0, "validate_every": 2, "device": "cpu",
        "threads": 1, "train_fraction": 0.5, "alphas": dataclasses.replace(config.alphas, lr=0.1, warmup=0.0),
        "selection": dataclasses.replace(config.selection, tune_epochs=1),
        "shapley": dataclasses.replace(config.shapley, permutations=1, batch=8),
    }  # fmt: skip
    if config.stages.keep:
        size |= {"stages": StagesConfig(keep=[3], partial=[2])}
    return dataclasses.replace(config, **size | others)


@pytest.fixture(scope="session")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """A finished run of a method, {field: value} being other than the least."""

    found: dict[str, Path] = {}

    def search(method: str, space: str, **others: Any) -> DifferentiableRun:
        key = repr((method, space, others))
        if key not in found:
            found[key] = tmp_path_factory.mktemp(method) / "run"
            config = settings(method, space, **others)
            get_method(method).run(config, RunOptions(found[key], False, False, pictures=False))
        return DifferentiableRun.open(found[key])

    return search
