"""Numbers that are predicted: errors in their own unit against scikit-learn, and what is refused."""

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from retrain.config import RetrainConfig
from training.format import Standardisation, read_format
from training.hardware import Hardware
from training.images.data import DataConfig, load_images
from training.images.readers.npz import standardisation
from training.images.sets import ImageSet
from training.metrics import Batch
from training.tasks.regression import MAE, MOST_POINTS, MSE, R2, ErrorMeter, Regression, evaluate
from training.tasks.task import open_task

CPU = Hardware(torch.device("cpu"))


def images_with(numbers: Tensor, **fields: object) -> ImageSet:
    """Images of noise with those numbers, float64 [N, numbers]."""
    pixels = torch.randint(256, (len(numbers), 1, 6, 6), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    made = ImageSet(pixels, numbers, numbers.shape[1], (0.5,), (0.3,), values=standardisation(numbers))
    return replace(made, **fields)  # type: ignore[arg-type]


def saved(folder: Path, **changed: object) -> DataConfig:
    drawn = np.random.default_rng(0)
    arrays: dict[str, object] = {"x_train": drawn.integers(0, 256, (40, 6, 6), np.uint8), "y_train": drawn.normal(size=40)}
    arrays |= {"x_test": drawn.integers(0, 256, (12, 6, 6), np.uint8), "y_test": drawn.normal(size=12)}
    np.savez(folder / "numbers.npz", **(arrays | changed))
    return DataConfig("npz", str(folder / "numbers.npz"))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    images=st.integers(2, 60),
    numbers=st.integers(1, 3),
    cuts=st.lists(st.integers(0, 60), max_size=6),
    offset=st.sampled_from([0.0, 1e6, -1e6]),
    unit=st.sampled_from([1e-3, 1.0, 1e4]),
)
def test_scores_are_those_of_scikit_learn(
    seed: int, images: int, numbers: int, cuts: list[int], offset: float, unit: float
) -> None:
    """Of numbers far from zero as well, however they are divided into batches, of a meter and of an evaluation."""
    from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score

    drawn = np.random.default_rng(seed)
    true = offset + unit * drawn.normal(size=(images, numbers))
    values = standardisation(torch.from_numpy(true))
    targets = values.standardised(torch.from_numpy(true))
    outputs = targets + torch.from_numpy(drawn.normal(size=(images, numbers))).float()
    predicted = values.restored(outputs).numpy()
    expected = {
        "r2": r2_score(true, predicted),
        "mse": mean_squared_error(true, predicted),
        "mae": mean_absolute_error(true, predicted),
    }
    places = sorted({0, *(cut for cut in cuts if cut < images), images})
    batches = [Batch(outputs[a:b], targets[a:b]) for a, b in pairwise(places)]
    meter = ErrorMeter("cpu", values)
    for batch in batches:
        meter.update(torch.zeros(()), batch.inputs, batch)
    # The targets are standardised in float32: an error of 1e-7 of the numbers' own spread.
    assert dict(meter.read().values) == pytest.approx(expected, rel=1e-5, abs=1e-12)
    found = evaluate(lambda inputs: inputs, batches, values)
    assert dict(found.values) == pytest.approx(expected, rel=1e-5, abs=1e-12)
    assert found.loss == pytest.approx(mean_squared_error(targets, outputs), rel=1e-6)
    raw = {"multioutput": "raw_values"}
    assert [one.r2 for one in found.per_number] == pytest.approx(r2_score(true, predicted, **raw), rel=1e-5, abs=1e-9)
    assert [one.mse for one in found.per_number] == pytest.approx(mean_squared_error(true, predicted, **raw), rel=1e-5)
    assert [one.mae for one in found.per_number] == pytest.approx(mean_absolute_error(true, predicted, **raw), rel=1e-5)
    np.testing.assert_allclose(found.true.numpy(), true, rtol=0, atol=1e-6 * np.ptp(true))
    np.testing.assert_allclose(found.predicted.numpy(), predicted, rtol=1e-12)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False)) == found.to_dict()


def test_numbers_that_are_all_alike_have_no_r2() -> None:
    values = Standardisation((1.0, 5.0), (2.0, 3.0))
    targets = torch.tensor([[0.5, 0.1], [0.5, 0.2], [0.5, 0.4]])
    found = evaluate(lambda inputs: inputs, [Batch(targets + 0.5, targets)], values)
    assert found.r2 is None and set(found.values) == {"mse", "mae"}
    assert found.per_number[0].r2 is None and found.per_number[1].r2 is not None
    assert found.mse == pytest.approx((1.0**2 + 1.5**2) / 2) and found.mae == pytest.approx((1.0 + 1.5) / 2)


@pytest.mark.parametrize(("error", "r2"), [(0.0, 1.0), (0.5, 0.0)])
def test_a_reading_of_a_few_batches_is_finite(error: float, r2: float) -> None:
    """As scikit-learn has it where all true numbers are alike: a log reads a meter after any number of batches."""
    meter = ErrorMeter("cpu", Standardisation((0.0,), (1.0,)))
    targets = torch.full((7, 1), 0.3)
    meter.update(torch.zeros(()), targets + error, Batch(targets, targets))
    assert meter.read().values["r2"] == r2
    assert all(map(math.isfinite, meter.read().values.values()))


def test_an_evaluation_keeps_so_many_images_from_first_to_last() -> None:
    true = torch.arange(2 * MOST_POINTS + 1).float()[:, None]
    found = evaluate(lambda inputs: inputs, [Batch(true, true)], Standardisation((0.0,), (1.0,)))
    assert len(found.true) == MOST_POINTS and torch.equal(found.true, found.predicted)
    assert (found.true[0].item(), found.true[-1].item()) == (0, 2 * MOST_POINTS)
    assert found.count == 2 * MOST_POINTS + 1


def test_outputs_of_another_shape_are_refused() -> None:
    """They would be spread over the numbers without a word."""
    targets = torch.zeros(4, 2)
    with pytest.raises(ValueError, match=r"^evaluation: outputs of shape \[4, 1\] where \[4, 2\] is expected$"):
        evaluate(lambda inputs: inputs[:, :1], [Batch(targets, targets)], Standardisation((0.0, 0.0), (1.0, 1.0)))
    with pytest.raises(ValueError, match="the data set has no images"):
        evaluate(lambda inputs: inputs, [], Standardisation((0.0,), (1.0,)))


def test_a_network_is_trained_for_standardised_numbers() -> None:
    numbers = torch.tensor([[1e6 + place, -2.0 * place] for place in range(8)], dtype=torch.float64)
    task = Regression.of_images(DataConfig(), images_with(numbers), CPU)
    (batch,) = task.train.in_order(8).epoch(0)
    assert batch.targets.dtype == torch.float32
    torch.testing.assert_close(batch.targets.mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(batch.targets.std(0, correction=0), torch.ones(2))
    torch.testing.assert_close(task.values.restored(batch.targets), numbers, rtol=0, atol=1e-5)
    outputs = torch.randn(8, 2)
    assert task.loss(outputs, batch).item() == pytest.approx((outputs - batch.targets).square().mean().item())
    assert task.outputs == 2 and task.train.format.class_names == ("y0", "y1")
    assert task.scored_by == R2 and {R2, MSE, MAE} <= set(task.scores)


def test_what_is_said_of_the_images(tmp_path: Path) -> None:
    y = np.arange(40) * 0.5
    config = saved(tmp_path, y_train=y, y_names=np.array(["age <b>"]))
    log: list[str] = []
    task = open_task(RetrainConfig(task="regression", data=config), CPU, None, log.append)
    assert log[0] == "training part: 40 images: age <b> from 0 to 19.5 (mean 9.75, deviation 5.772)"
    task.save_description(tmp_path)
    form = read_format(tmp_path)
    assert form == task.train.format and form.class_names == ("age <b>",)
    assert form.values is not None and form.values.mean == (9.75,) and form.values.std == pytest.approx((y.std(),))
    assert json.loads((tmp_path / "data.json").read_text())["train_range"] == [[0, 19.5]]


def test_test_images_have_the_standardisation_of_the_training_part(tmp_path: Path) -> None:
    config = saved(tmp_path, y_test=np.linspace(1e6, 1e6 + 1, 12))
    task = open_task(RetrainConfig(task="regression", data=config), CPU, None, lambda line: None)
    assert task.load_test().format.values == task.train.format.values
    # Of images of a known form it is known that they have numbers.
    known = load_images(config, "test", known=task.train.format)
    assert known.format.values == task.train.format.values and known.labels.dtype == torch.float64


def test_test_images_without_r2_are_refused_where_that_is_the_score(tmp_path: Path) -> None:
    config = saved(tmp_path, y_test=np.full(12, 3.0))
    with pytest.raises(ValueError, match=r"^data.root: y is the same in all 12 test images, which have no R2; choose --score "):
        open_task(RetrainConfig(task="regression", data=config), CPU, None, lambda line: None).load_test()
    task = open_task(RetrainConfig(task="regression", score="mse", data=config), CPU, None, lambda line: None)
    assert len(task.load_test()) == 12


def test_parts_without_r2_are_refused(tmp_path: Path) -> None:
    rare = np.zeros(40)
    rare[3] = 1.0
    task = open_task(RetrainConfig(task="regression", data=saved(tmp_path, y_train=rare)), CPU, None, lambda line: None)
    with pytest.raises(ValueError, match=r"^seed: with 1 one of the two parts has \d+ images whose y is the same in all; "):
        task.train.split(0.5, 1)
    with pytest.raises(ValueError, match=r"^data.root: y is the same in all 8 training images; there is nothing to learn$"):
        Regression.of_images(
            DataConfig(), images_with(torch.eye(40, dtype=torch.float64)[:, :1]).take(torch.arange(8, 16)), CPU
        )


def test_weights_of_classes_are_refused() -> None:
    numbers = torch.arange(8, dtype=torch.float64)[:, None]
    with pytest.raises(
        ValueError, match=r"^data.class_weights: is for classes, of which task regression has none; leave it out"
    ):
        Regression.of_images(DataConfig(class_weights="balanced"), images_with(numbers), CPU)
