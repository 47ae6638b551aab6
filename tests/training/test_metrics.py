"""Meters, evaluations and the costs of a network."""

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.metrics import ClassScores, Meter, count_multiply_adds, count_parameters, evaluate


def test_meter_weighs_by_images() -> None:
    meter = Meter("cpu")
    meter.update(torch.tensor(1.0, requires_grad=True), torch.tensor([[1.0, 2.0]] * 4), torch.tensor([1, 1, 0, 1]))
    meter.update(torch.tensor(4.0), torch.tensor([[3.0, 2.0], [0.0, 1.0]]), torch.tensor([1, 1]))
    reading = meter.read()
    assert reading.loss == 2
    assert reading.accuracy == 4 / 6
    assert reading.images == 6
    assert reading.first_bad_step is None
    assert meter.read() == reading


def test_meter_forgets() -> None:
    meter = Meter("cpu")
    meter.update(torch.tensor(math.nan), torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))
    meter.reset()
    reading = meter.read()
    assert reading.images == 0
    assert math.isnan(reading.loss) and math.isnan(reading.accuracy)
    assert reading.first_bad_step is None
    meter.update(torch.tensor(0.5), torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))
    assert meter.read().loss == 0.5


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_meter_names_the_first_bad_step(bad: float) -> None:
    meter = Meter("cpu")
    for loss in (0.5, 0.25, bad, 0.5, math.nan):
        meter.update(torch.tensor(loss), torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
    assert meter.read().first_bad_step == 2
    assert not math.isfinite(meter.read().loss)


def test_meter_counts_in_place() -> None:
    """A CUDA graph goes on with the tensors that it was captured with."""
    meter = Meter("cpu")
    tensors = dict(vars(meter))
    for loss in (0.5, math.nan):
        meter.update(torch.tensor(loss), torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))
    meter.reset()
    meter.update(torch.tensor(math.inf), torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))
    assert all(value is tensors[name] for name, value in vars(meter).items())
    reading = meter.read()
    assert reading.first_bad_step == 0 and reading.images == 3
    assert isinstance(reading.images, int)


def test_meter_takes_half_precision() -> None:
    meter = Meter("cpu")
    for _ in range(1000):
        meter.update(torch.tensor(0.1, dtype=torch.bfloat16), torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))
    assert meter.read().loss == pytest.approx(torch.tensor(0.1, dtype=torch.bfloat16).item())


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


def test_evaluation_by_hand() -> None:
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [2.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    found = evaluate(nn.Identity(), batches_of(logits, torch.tensor([0, 0, 0, 1]), 3), 3, "cpu")
    assert found.confusion == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    assert found.accuracy == 0.75
    assert found.top5 == 1
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


def test_count_parameters() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(3, 5)
            self.two = self.one
            self.norm = nn.BatchNorm2d(7)
            self.tied = nn.Linear(3, 5, bias=False)
            self.tied.weight = self.one.weight
            self.frozen = nn.Parameter(torch.zeros(100), requires_grad=False)

    assert count_parameters(Shared()) == 3 * 5 + 5 + 2 * 7
    assert count_parameters(nn.ReLU()) == 0


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv2d(3, 16, 3, padding=1), 8 * 10 * 16 * 3 * 9),
        (nn.Conv2d(3, 16, 3, padding=1, bias=False), 8 * 10 * 16 * 3 * 9),
        (nn.Conv2d(3, 16, 3, padding=1, stride=2), 4 * 5 * 16 * 3 * 9),
        (nn.Conv2d(3, 6, (7, 1), padding=(3, 0), groups=3), 8 * 10 * 6 * 1 * 7),
        (nn.Conv2d(3, 3, 3, padding=2, dilation=2, groups=3), 8 * 10 * 3 * 9),
        (nn.Conv2d(3, 16, 1), 8 * 10 * 16 * 3),
        (nn.Conv2d(3, 4, 3), 6 * 8 * 4 * 3 * 9),
        (nn.ConvTranspose2d(3, 16, 2, stride=2), 8 * 10 * 3 * 16 * 4),
        (nn.Sequential(nn.AvgPool2d(2), nn.BatchNorm2d(3), nn.ReLU()), 0),
        (nn.Sequential(nn.Flatten(), nn.Linear(240, 7)), 240 * 7 + 7),
        (nn.Sequential(nn.Flatten(), nn.Linear(240, 7, bias=False)), 240 * 7),
        (nn.Linear(10, 4), 3 * 8 * (10 * 4 + 4)),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_count_multiply_adds(layer: nn.Module, expected: int, device: str) -> None:
    assert count_multiply_adds(layer.to(device), (3, 8, 10)) == expected


def test_a_layer_used_twice_counts_twice() -> None:
    conv = nn.Conv2d(3, 3, 3, padding=1)
    assert count_multiply_adds(nn.Sequential(conv, nn.MaxPool2d(2), conv), (3, 8, 8)) == (64 + 16) * 81


def test_counting_needs_no_batch_statistics_of_one_value() -> None:
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(3, track_running_stats=False), nn.Conv2d(3, 2, 1))
    assert count_multiply_adds(network, (3, 8, 8)) == 6


def test_counting_with_more_arguments() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(1, 1, 1)

        def forward(self, images: Tensor, times: int) -> Tensor:
            for _ in range(times):
                images = self.conv(images)
            return images

    module = Gated()
    assert count_multiply_adds(module, (1, 4, 4), lambda images: module(images, 3)) == 48


class Restless(nn.Module):
    """Has everything that running it could change: modes, running statistics, the random state."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.5)
        self.frozen = nn.BatchNorm2d(4).eval()

    def forward(self, images: Tensor) -> Tensor:
        noise: Tensor = self.frozen(self.dropout(self.norm(self.conv(images))))
        return noise + torch.rand_like(noise)


def broken(images: Tensor) -> Tensor:
    raise RuntimeError("broken")


@pytest.mark.parametrize("forward", [None, broken])
def test_counting_changes_nothing(forward: Callable[[Tensor], object] | None) -> None:
    module = Restless().double()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    modes = [part.training for part in module.modules()]
    random = torch.get_rng_state()
    if forward is None:
        assert count_multiply_adds(module, (3, 6, 6)) == 16 * 4 * 27
    else:
        with pytest.raises(RuntimeError, match="broken"):
            count_multiply_adds(module, (3, 6, 6), forward)
    assert [part.training for part in module.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(not part._forward_hooks for part in module.modules())
    assert all(parameter.grad is None for parameter in module.parameters())
