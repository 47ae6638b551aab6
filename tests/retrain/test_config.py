"""Tests of retrain/config.py and of the configurations that are shipped for it."""

import pytest

from retrain.config import RetrainConfig
from training.run.config import config_from_file, shipped_configs
from training.run.monitor import StopConfig


def test_the_defaults_are_those_of_darts():
    config = RetrainConfig()
    assert (config.epochs, config.batch_size, config.auxiliary_weight, config.drop_path) == (600, 96, 0.4, 0.2)
    weights = config.weights
    assert (weights.name, weights.lr, weights.lr_min, weights.momentum) == ("sgd", 0.025, 0.0, 0.9)
    assert (weights.weight_decay, weights.clip) == (3e-4, 5.0)
    assert (config.channels, config.cells, config.validation_fraction) == (None, None, 0.0)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("channels", 0, "channels: must be at least 1, not 0"),
        ("cells", -1, "cells: must be at least 1, not -1"),
        ("epochs", 0, "epochs: must be at least 1, not 0"),
        ("log_every", 0, "log_every: must be at least 1, not 0"),
        ("batch_size", 1, "batch_size: must be at least 2, which batch norm needs, not 1"),
        ("auxiliary_weight", -0.1, "auxiliary_weight: must be at least 0, not -0.1"),
        ("auxiliary_weight", float("nan"), "auxiliary_weight: must be at least 0, not nan"),
        ("drop_path", 1.0, "drop_path: must be from 0 to below 1, not 1.0"),
        ("drop_path", -0.1, "drop_path: must be from 0 to below 1, not -0.1"),
        ("validation_fraction", float("nan"), "validation_fraction: must be from 0 to below 1, not nan"),
    ],
)
def test_values_out_of_range_are_refused(name, value, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        RetrainConfig(**{name: value})


def test_a_target_accuracy_needs_images_to_validate_on():
    stop = StopConfig(score=0.9)
    with pytest.raises(ValueError, match=r"^stop.score: .* validation_fraction above 0$"):
        RetrainConfig(stop=stop)
    assert RetrainConfig(stop=stop, validation_fraction=0.1).stop == stop


def test_the_recipe_for_cifar10_is_that_of_darts():
    config = config_from_file(RetrainConfig, shipped_configs()["retrain_cifar10"])
    assert (config.channels, config.cells) == (36, 20)
    data = config.data
    assert (data.name, data.crop_padding, data.flip, data.cutout) == ("cifar10", 4, True, 16)
    expected = RetrainConfig(channels=36, cells=20, data=data)
    assert config == expected


def test_the_recipe_for_digits_suits_small_images():
    config = config_from_file(RetrainConfig, shipped_configs()["retrain_digits"])
    assert (config.data.name, config.data.flip, config.auxiliary_weight) == ("digits", False, 0)
