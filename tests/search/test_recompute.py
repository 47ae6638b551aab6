"""A search whose cells backward computes again takes the same steps, whatever its method."""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.combinations import PARTS, Part, combination, reason_to_refuse, with_options
from search.differentiable.config import SearchConfig
from search.differentiable.method import DifferentiableMethod
from search.differentiable.trainer import BilevelSearch
from search.methods import get_method, list_methods
from supernet.recompute import Recompute
from training.hardware import Hardware
from training.images.data import load_images
from training.images.sets import ImageSet
from training.run.checkpoint import Checkpoints
from training.run.directory import RunDirectory
from training.tasks.classification import Classification

Same = Callable[[Any, Any], None]
SMALL: dict[str, Any] = {
    "data.name": "digits", "data.crop_padding": 1, "data.limit": 32, "batch_size": 8, "epochs": 20, "device": "cpu"
}  # fmt: skip
CELLS = {"darts": 3, "nasbench201": 1}
VARIANTS = (
    *PARTS,
    Part("exact", "", {"order": "second", "hessian_vector": "exact"}),
    Part("bfloat16", "", {"precision": "bfloat16"}),
    Part("bfloat16, second order", "", {"precision": "bfloat16", "order": "second"}),
    Part("running statistics", "", {"batch_statistics": False}),
)
"""The parts of methods, and what else decides how a pass is computed."""
CASES = [("darts", "darts", part) for part in VARIANTS]
CASES += [("nasbench201", method, VARIANTS[0]) for method in list_methods(DifferentiableMethod) if method != "darts"]
CASES = [case for case in CASES if reason_to_refuse(case[1], case[2], case[0]) is None]
COMPUTED_ALIKE = ("auxiliary_skip", "beta", "kl", "stages", "perturbation", "stop: skips", "stop: eigenvalue")
"""Parts that leave a pass through the network as it is in DARTS."""
SLOW = (*COMPUTED_ALIKE, "bfloat16, second order")
MARKED = [pytest.param(*case, marks=[pytest.mark.slow] if case[2].name in SLOW else []) for case in CASES]
# The candidates that take longest, of the kinds of those that stay.
LEFT_OUT = {"darts": ["sep_conv_5x5", "dil_conv_5x5"], "nasbench201": []}


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return load_images(with_options(SearchConfig(), SMALL).data, "train")


def state_after_two_steps(config: SearchConfig, recompute: Recompute, images: ImageSet, path: Path) -> dict[str, Any]:
    channels = 12 if 6 in (config.partial, *config.stages.partial) else 4
    size = {"channels": channels, "cells": CELLS[config.space], "exclude": [*config.exclude, *LEFT_OUT[config.space]]}
    config = with_options(config, SMALL | size | {"recompute": recompute})
    hardware = Hardware.of(config, config.graph)
    search = BilevelSearch(
        config, Classification.of_images(config.data, images, hardware), RunDirectory(path, config), hardware
    )
    assert search.network.recompute == recompute
    search.network.train()
    search.step.moves_alphas = True  # also in a warm-up
    torch.manual_seed(0)
    for batch in itertools.islice(search.batches_of(0), 2):
        search.step(*batch)
    return search.state_dict() | {"generator": torch.get_rng_state()}


@pytest.mark.parametrize(
    ("space", "method", "part"), MARKED, ids=lambda value: value.name if isinstance(value, Part) else value
)
def test_a_step_has_the_same_bits(
    space: str, method: str, part: Part, images: ImageSet, tmp_path: Path, assert_same: Same
) -> None:
    config = combination(method, part, space)
    assert_same(*(state_after_two_steps(config, recompute, images, tmp_path) for recompute in ("cells", "none")))


def state_of(run: Path) -> tuple[int, dict[str, Any]]:
    found = Checkpoints(run).latest()
    assert found is not None
    return found


def files_of(run: Path) -> list[bytes]:
    return [(run / name).read_bytes() for name in ("genotype.json", "history.jsonl")]


SIZES = ["--space=nasbench201", "--cells=1", "--channels=2", "--data.limit=64", "--batch_size=16", "--epochs=2", "--device=cpu"]
RUNS = {"darts": ["--eigenvalue_every=0"], "random": ["--evaluations=2", "--round=1", "--paths=fair"]}
"""A method of each family."""


@pytest.mark.parametrize("method", RUNS)
def test_a_search_goes_on_with_other_memory_to_the_same_bits(method: str, tmp_path: Path, assert_same: Same) -> None:
    """Begun without recomputation, interrupted after an epoch, resumed with it."""
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    arguments = [*SIZES, *RUNS[method]]
    assert get_method(method).main([*arguments, f"--run={whole}"], pictures=False) == 0
    shutil.copytree(whole, resumed)
    for file in (resumed / "checkpoints").glob("epoch_*.pt"):
        if file.name != "epoch_0001.pt":
            file.unlink()
    assert get_method(method).main([f"--run={resumed}", "--resume", "--recompute=cells"], pictures=False) == 0
    assert_same(state_of(resumed), state_of(whole))
    assert files_of(resumed) == files_of(whole)
