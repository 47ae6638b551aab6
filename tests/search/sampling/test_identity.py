"""What a score depends on, and what it does not."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks.timing import random_images
from search.sampling.config import SamplingConfig
from search.sampling.identity import score_identity
from search.sampling.samplers.bayes import BayesConfig, BayesSearchConfig
from training.hardware import Hardware
from training.images.data import DataConfig
from training.images.prints import of_pixels
from training.images.sets import ImageSet
from training.optim import OptimizerConfig
from training.tasks.classification import Classification

Change = Callable[[SamplingConfig], SamplingConfig]


def task(seed: int = 0) -> Classification:
    images = random_images(12, 8)
    assert isinstance(images, ImageSet)
    pixels = images.images.roll(seed, 0)
    images = replace(images, images=pixels, prints=of_pixels(pixels, images.labels))
    return Classification.of_images(DataConfig(), images, Hardware(torch.device("cpu")))


def asked(config: SamplingConfig) -> Classification:
    found = task()
    found.scored_by = found.score_named(config.score)
    return found


def differing(config: SamplingConfig, other: SamplingConfig) -> list[str]:
    one, two = (score_identity(each, asked(each), None) for each in (config, other))
    return [name for name in one if one[name] != two.get(name)]


def changed(config: SamplingConfig, **fields: Any) -> SamplingConfig:
    return replace(config, **fields)


SUPERNET = BayesSearchConfig(space="nasbench201")
MODEL = {"bayes": BayesConfig(initial=20)}


@pytest.mark.parametrize(
    ("fields", "different"),
    [
        ({"weights": OptimizerConfig(lr=0.5)}, ["settings"]),
        ({"epochs": 7}, ["settings"]),
        ({"seed": 1}, ["settings"]),
        ({"recalibrate": 3}, ["settings"]),
        ({"data": DataConfig(flip=True)}, ["images"]),
        ({"score": "accuracy"}, []),
        ({"score": "loss"}, ["score"]),
        ({"data": DataConfig(root="elsewhere", workers=3)}, []),
        ({"evaluations": 7, "round": 3, "threads": 1, "best": 2}, []),
        (MODEL, []),
    ],
)
def test_a_supernet(fields: dict[str, Any], different: list[str]) -> None:
    assert differing(SUPERNET, changed(SUPERNET, **fields)) == different


@pytest.mark.parametrize("asked", [{"paths": "sampler"}, {"guide": 3}])
def test_a_sampler_that_is_asked_while_weights_are_trained(asked: dict[str, Any]) -> None:
    config = changed(SUPERNET, **asked)
    assert differing(config, changed(config, **MODEL)) == ["settings"]


def test_a_proxy() -> None:
    config = changed(SUPERNET, evaluate="synflow")
    assert differing(config, changed(config, seed=1)) == differing(config, changed(config, channels=4)) == ["settings"]
    assert differing(config, changed(config, epochs=7, weights=OptimizerConfig(lr=0.5))) == []


def test_the_images_themselves() -> None:
    identity = [score_identity(SUPERNET, task(seed), None)["images"] for seed in (0, 0, 1)]
    assert identity[0] == identity[1] != identity[2]
