"""Accuracy, weights of classes, and the evaluation of a classifier."""

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from base.checks import FieldError
from benchmarks.timing import random_images
from retrain.config import RetrainConfig
from training.format import read_format, saved_notes
from training.hardware import Hardware
from training.images.data import DataConfig
from training.metrics import Batch
from training.tasks.classification import AccuracyMeter, Classification, ClassScores, evaluate
from training.tasks.task import open_task

CPU = Hardware(torch.device("cpu"))


def test_accuracy_is_the_share_whose_largest_logit_is_the_labels() -> None:
    meter = AccuracyMeter("cpu")
    meter.update(torch.tensor(1.0), torch.tensor([[1.0, 2.0]] * 4), Batch(torch.zeros(4), torch.tensor([1, 1, 0, 1])))
    meter.update(torch.tensor(4.0), torch.tensor([[3.0, 2.0], [0.0, 1.0]]), Batch(torch.zeros(2), torch.tensor([1, 1])))
    assert meter.read().values == {"accuracy": 4 / 6}


def test_weights_of_classes_are_in_the_descended_loss_alone() -> None:
    images = random_images(6, 4, classes=2)
    images = replace(images, labels=torch.tensor([0, 0, 0, 0, 1, 1]))
    task = Classification.of_images(DataConfig(class_weights="balanced"), images, CPU)
    assert task.class_weights is not None and task.class_weights.tolist() == pytest.approx([6 / 8, 6 / 4])
    logits, batch = torch.randn(6, 2), Batch(images.pixels(), images.labels)
    assert task.loss(logits, batch) == F.cross_entropy(logits, images.labels, torch.tensor([6 / 8, 6 / 4]))
    assert task.evaluation_loss(logits, batch) == F.cross_entropy(logits, images.labels) != task.loss(logits, batch)
    even = Classification.of_images(DataConfig(), images, CPU)
    assert even.loss(logits, batch) == task.evaluation_loss(logits, batch)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_of_classes_where_a_batch_lacks_some(dtype: torch.dtype) -> None:
    """The weighted mean over the images that there are, with classes 1 to 10,000 in size; one class alone has its plain
    mean."""
    counts = [1, 10_000, 100, 10_000]
    images = replace(
        random_images(1, 4, classes=4),
        images=torch.zeros(sum(counts), 3, 1, 1, dtype=torch.uint8),
        labels=torch.arange(4).repeat_interleave(torch.tensor(counts)),
    )
    task = Classification.of_images(DataConfig(class_weights="balanced"), images, CPU)
    assert task.class_weights is not None
    task.class_weights = task.class_weights.to(dtype)
    for labels in ([0, 1, 1, 3], [1, 1, 1], [0], [3, 2]):
        targets = torch.tensor(labels)
        logits = (10 * torch.randn(len(labels), 4, dtype=dtype)).requires_grad_()
        found = task.loss(logits, Batch(logits, targets))
        weights = [sum(counts) / (4 * counts[label]) for label in labels]
        losses = F.cross_entropy(logits.double(), targets, reduction="none").tolist()
        expected = sum(w * loss for w, loss in zip(weights, losses, strict=True)) / sum(weights)
        assert found.item() == pytest.approx(expected, rel=1e-5)
        found.backward()
        assert logits.grad is not None and logits.grad.isfinite().all()


def test_a_weighted_class_without_an_image_is_refused() -> None:
    images = random_images(6, 4, classes=3)
    images = replace(images, labels=torch.tensor([0, 0, 0, 0, 2, 2]))
    with pytest.raises(ValueError, match=r"^data.class_weights: class '1' has no training image"):
        Classification.of_images(DataConfig(class_weights="balanced"), images, CPU)
    assert Classification.of_images(DataConfig(), images, CPU).class_weights is None


def test_a_single_class_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^classes: must be at least 2, not 1$"):
        Classification.of_images(DataConfig(), random_images(6, 4, classes=1), CPU)


def test_the_images_are_said_in_a_line(tmp_path: Path) -> None:
    log: list[str] = []
    task = open_task(RetrainConfig(data=DataConfig(limit=20)), CPU, None, log.append)
    assert log == [
        "training part: 20 images of 10 classes: 0 2, 1 2, 2 2, 3 2, 4 2, 5 2, 6 2, 7 2, 8 2, 9 2",
        "data.limit: 20 of 1,437 training images, the same ones each time",
    ]
    (line,) = task.summary(task.load_test())
    assert line.startswith("test part: 360 images of 10 classes: 0 36, 1 36, ")
    task.save_description(tmp_path)
    assert saved_notes(tmp_path) == log[1:] and read_format(tmp_path) == task.train.format


# Evaluation


def batches_of(logits: Tensor, labels: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    """Batches whose images are the logits themselves."""
    return list(zip(logits.split(size), labels.split(size), strict=True))


def test_evaluation_equals_scikit_learn() -> None:
    from sklearn.metrics import (
        accuracy_score,
        confusion_matrix,
        f1_score,
        log_loss,
        precision_recall_fscore_support,
        recall_score,
        top_k_accuracy_score,
    )

    labels = torch.randint(7, (150,))
    logits = torch.randn(150, 7) + 1.5 * F.one_hot(labels, 7)
    found = evaluate(nn.Identity(), batches_of(logits, labels, 64), 7, "cpu")
    truth, guess, shares = labels.numpy(), logits.argmax(1).numpy(), logits.double().softmax(1).numpy()
    assert found.images == 150
    assert found.accuracy == pytest.approx(accuracy_score(truth, guess))
    assert found.top5 == pytest.approx(top_k_accuracy_score(truth, shares, k=5, labels=range(7)))
    assert found.macro_recall == pytest.approx(recall_score(truth, guess, average="macro"))
    assert found.macro_f1 == pytest.approx(f1_score(truth, guess, average="macro"))
    assert found.loss == pytest.approx(log_loss(truth, shares, labels=range(7)))
    np.testing.assert_array_equal(found.confusion, confusion_matrix(truth, guess))
    per_class = np.array([(one.precision, one.recall, one.f1, one.images) for one in found.per_class])
    np.testing.assert_allclose(per_class.T, precision_recall_fscore_support(truth, guess))
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False)) == found.to_dict()


@pytest.mark.parametrize(("classes", "says_something"), [(5, False), (6, True)])
def test_the_first_five_of_five_say_nothing(classes: int, says_something: bool) -> None:
    labels = torch.arange(classes)
    found = evaluate(nn.Identity(), batches_of(torch.rand(classes, classes), labels, 8), classes, "cpu")
    assert (found.top5 is not None) == ("top5" in found.values) == says_something


def test_evaluation_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [2.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    found = evaluate(nn.Identity(), batches_of(logits, torch.tensor([0, 0, 0, 1]), 3), 3, "cpu")
    assert found.confusion == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert found.accuracy == 0.75
    assert found.top5 is None and set(found.values) == {"accuracy", "macro_recall", "macro_f1", "balanced_accuracy"}
    # Class 2 occurs nowhere: recall (2/3 + 1) / 2, F1 (4/5 + 2/3) / 2.
    assert found.macro_recall == pytest.approx(5 / 6)
    assert found.macro_f1 == pytest.approx(11 / 15)
    assert found.loss == pytest.approx((4 * math.log(math.exp(2) + 2) - 6) / 4)
    assert found.per_class == [
        ClassScores(3, 1.0, pytest.approx(2 / 3), pytest.approx(4 / 5)),
        ClassScores(1, 0.5, 1.0, pytest.approx(2 / 3)),
        ClassScores(0, None, None, None),
    ]
    # All are equally sure, and three of four are right.
    assert found.calibration_error == pytest.approx(math.exp(2) / (math.exp(2) + 2) - 0.75)


def test_a_class_that_is_never_predicted_and_one_that_is_never_there() -> None:
    found = evaluate(nn.Identity(), [(torch.tensor([[0.0, 9.0], [0.0, 9.0]]), torch.tensor([0, 0]))], 2, "cpu")
    assert found.per_class == [ClassScores(2, None, 0.0, 0.0), ClassScores(0, 0.0, None, 0.0)]


def logits_of_confidence(confidence: Tensor, classes: int) -> Tensor:
    """Logits [N, classes] whose softmax gives `confidence` [N] to class 0 and the rest to the others in equal parts."""
    chances = ((1 - confidence) / (classes - 1))[:, None].repeat(1, classes)
    chances[:, 0] = confidence
    return chances.log()


@pytest.mark.parametrize("batch", [1000, 64])
def test_calibration_error_equals_a_direct_computation(batch: int) -> None:
    """Guo et al. 2017, equation 3, with a loop over bins and images."""
    labels = torch.randint(4, (1000,))
    logits = 3 * torch.randn(1000, 4) + 2 * F.one_hot(labels, 4)
    logits[:100] *= 100  # of confidence 1 in float32
    expected, taken = 0.0, 0
    shares = logits.double().softmax(1)
    for number in range(15):
        low, high = number / 15, (number + 1) / 15
        inside = [image for image in range(1000) if low < shares[image].max() <= high]
        taken += len(inside)
        if inside:
            right = sum(bool(shares[image].argmax() == labels[image]) for image in inside) / len(inside)
            confidence = sum(shares[image].max().item() for image in inside) / len(inside)
            expected += len(inside) / 1000 * abs(right - confidence)
    assert taken == 1000
    found = evaluate(nn.Identity(), batches_of(logits, labels, batch), 4, "cpu").calibration_error
    assert found == pytest.approx(expected, rel=1e-6)
    assert expected > 0.03


def test_calibration_error_of_known_confidences() -> None:
    # In (0.6, 0.666...]: confidence 0.65, of which half are right; in (0.933..., 1]: 0.95, which is right, and 1, which is not.
    confidence = torch.tensor([0.65, 0.65, 0.65, 0.65, 0.95, 1.0])
    found = evaluate(nn.Identity(), [(logits_of_confidence(confidence, 3), torch.tensor([0, 1, 0, 2, 0, 1]))], 3, "cpu")
    assert found.calibration_error == pytest.approx((4 * 0.15 + 0.95) / 6, abs=1e-6)
    # Within a bin what is too sure and what is not sure enough are weighed up; between bins they are not.
    confidence = torch.tensor([0.81, 0.85, 0.81, 0.90])
    found = evaluate(nn.Identity(), [(logits_of_confidence(confidence, 2), torch.tensor([0, 1, 0, 0]))], 2, "cpu")
    assert found.calibration_error == pytest.approx((abs(2 - 0.81 - 0.85 - 0.81) + 0.10) / 4, abs=1e-6)


def test_calibration_error_does_not_mistake_logits_for_probabilities() -> None:
    logits = torch.tensor([[0.9, 0.1], [0.2, 0.8]])  # which could be probabilities
    found = evaluate(nn.Identity(), [(logits, torch.tensor([0, 1]))], 2, "cpu")
    sure = logits.softmax(1).amax(1)
    assert found.calibration_error == pytest.approx((2 - sure.sum().item()) / 2, abs=1e-6)


def test_evaluation_leaves_no_graph_and_takes_half_precision() -> None:
    graphs: list[bool] = []

    def logits_of(images: Tensor) -> Tensor:
        logits = (weight * images).to(torch.bfloat16)
        graphs.append(logits.requires_grad)
        return logits

    weight = torch.ones((), requires_grad=True)
    found = evaluate(logits_of, batches_of(torch.eye(3) * 3, torch.arange(3), 2), 3, torch.device("cpu"))
    assert found.accuracy == 1
    assert graphs == [False, False]


def test_evaluation_of_nothing_or_of_other_classes() -> None:
    with pytest.raises(ValueError, match=r"^evaluation: the data set has no images$"):
        evaluate(nn.Identity(), [], 3, "cpu")
    with pytest.raises(ValueError, match=r"^evaluation: logits of shape \[2, 4\] where \[2, 3\] is expected$"):
        evaluate(nn.Identity(), [(torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64))], 3, "cpu")


# Scores of a search

LABELLED = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=40)
"""Labels and predictions of six classes, some of which most examples lack."""


def read_in_batches(score: str, pairs: Sequence[tuple[int, int]], ends: Sequence[int]) -> Mapping[str, float]:
    """Returns the values of a meter that was given (label, prediction) in batches up to these places."""
    task = Classification.of_images(DataConfig(), random_images(6, 4, classes=6), CPU)
    task.scored_by = task.score_named(score)
    meter = task.new_meter("cpu")
    labels, predictions = (torch.tensor(part) for part in zip(*pairs, strict=True))
    places = sorted({0, *(end for end in ends if end < len(pairs)), len(pairs)})
    for start, end in pairwise(places):
        logits = F.one_hot(predictions[start:end], 6).float()
        meter.update(torch.tensor(0.5), logits, Batch(logits, labels[start:end]))
    reading = meter.read()
    assert reading.count == len(pairs) and task.score(reading) == task.value(reading)
    return reading.values


def of_sklearn(score: str, labels: Sequence[int], predictions: Sequence[int]) -> float:
    from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, recall_score

    with warnings.catch_warnings(action="ignore"):  # of classes that are predicted and have no image
        if score == "accuracy":
            return float(accuracy_score(labels, predictions))
        if score == "balanced_accuracy":
            return float(balanced_accuracy_score(labels, predictions))
        function = recall_score if score == "macro_recall" else f1_score
        return float(function(labels, predictions, average="macro", zero_division=0))


@pytest.mark.parametrize("score", ["accuracy", "macro_recall", "macro_f1", "balanced_accuracy"])
@given(pairs=LABELLED, ends=st.lists(st.integers(1, 40), max_size=6))
@example(pairs=[(0, 0), (0, 1), (1, 2), (3, 3)], ends=[1, 2, 3])  # a class absent from labels, one from predictions
@example(pairs=[(0, 1), (0, 2)], ends=[1])  # no class is in both
@example(pairs=[(5, 5)], ends=[])  # one class there is
def test_scores_over_any_batches_are_those_of_scikit_learn(score: str, pairs: list[tuple[int, int]], ends: list[int]) -> None:
    values = read_in_batches(score, pairs, ends)
    assert values == read_in_batches(score, pairs, []), "other batches give other bits"
    labels, predictions = zip(*pairs, strict=True)
    assert set(values) == {"accuracy", score}
    for name, value in values.items():
        assert value == pytest.approx(of_sklearn(name, labels, predictions), abs=1e-12)
    logits = F.one_hot(torch.tensor(predictions), 6).float()
    found = evaluate(nn.Identity(), batches_of(logits, torch.tensor(labels), 7), 6, "cpu")
    assert found.values[score] == pytest.approx(values[score], abs=1e-7 if score == "accuracy" else 0)


def test_a_score_is_no_mean_over_batches() -> None:
    """Each of two batches has one class alone: the mean of their scores would be 1 and 0."""
    pairs = [(0, 0)] * 6 + [(1, 0)] * 2
    assert read_in_batches("macro_recall", pairs, [6])["macro_recall"] == 0.5
    assert read_in_batches("balanced_accuracy", pairs, [2, 7]) == {"accuracy": 0.75, "balanced_accuracy": 0.5}
    assert read_in_batches("macro_f1", pairs, [6])["macro_f1"] == pytest.approx((12 / 14 + 0) / 2)


def test_scores_have_names_and_bounds() -> None:
    known = {score.name: score for score in map(Classification.score_named, ["accuracy", "loss", "macro_f1"])}
    assert Classification.score_named(None) == known["accuracy"]
    assert Classification.words("macro_f1") == "macro F1" and Classification.words("balanced_accuracy") == "balanced accuracy"
    assert Classification.written("macro_f1", 0.5) == "50.00%" and Classification.written("loss", 0.5) == "0.5000"
    with pytest.raises(FieldError, match=r"^score: unknown score 'balanced_acuracy'; did you mean balanced_accuracy\? "):
        Classification.score_named("balanced_acuracy")
    with pytest.raises(FieldError, match=r"^score: unknown score 'zzz'; the task has accuracy, loss, macro_recall, macro"):
        Classification.score_named("zzz")
