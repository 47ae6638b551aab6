"""Tests of retrain/explain/faithfulness.py and agreement.py."""

import math

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from retrain.explain.agreement import agreement, is_flat, rank_correlation
from retrain.explain.faithfulness import POINTS, completeness, curves, interval, random_curves


class Corner(nn.Module):
    """Looks at one pixel: the logits of two classes are its value and 0."""

    def forward(self, images: Tensor) -> Tensor:
        pixel = images[:, 0, 1, 1]
        return torch.stack([4 * pixel, torch.zeros_like(pixel)], 1)


def marked(row: int, column: int) -> Tensor:
    values = torch.zeros(1, 4, 4, dtype=torch.float64)
    values[0, row, column] = 1
    return values


def test_the_pixel_that_matters_comes_first_or_last() -> None:
    images, targets = torch.ones(1, 1, 4, 4), torch.tensor([0])
    sure = 1 / (1 + math.exp(-4))
    right = curves(Corner(), images, targets, marked(1, 1), seed=0)
    assert right.deletion[0, 0].item() == pytest.approx(sure)
    assert right.deletion[0, 1:].tolist() == pytest.approx([0.5] * (POINTS - 1))
    assert right.deletion_area.item() == pytest.approx(0.5 + (sure - 0.5) / 2 / (POINTS - 1))
    least = curves(Corner(), images, targets, -marked(1, 1), seed=0)
    assert least.deletion[0, :-1].tolist() == pytest.approx([sure] * (POINTS - 1))
    assert least.deletion_area.item() > right.deletion_area.item()


def test_insertion_begins_with_the_blurred_image_and_ends_with_the_image() -> None:
    images, targets = torch.zeros(1, 1, 4, 4), torch.tensor([0])
    images[0, 0, 1, 1] = 2
    found = curves(Corner(), images, targets, marked(1, 1), seed=0)
    assert found.insertion[0, -1].item() == pytest.approx(1 / (1 + math.exp(-8)))
    assert 0.5 < found.insertion[0, 0].item() < found.insertion[0, 1].item() == pytest.approx(1 / (1 + math.exp(-8)))


def test_a_random_order_gains_less_than_a_right_one_and_more_than_a_wrong_one() -> None:
    images = torch.zeros(8, 1, 4, 4)
    images[:, 0, 1, 1] = 2
    targets = torch.zeros(8, dtype=torch.int64)
    gains = [curves(Corner(), images, targets, sign * marked(1, 1).expand(8, 4, 4), seed=0).gain.mean() for sign in (1, -1)]
    at_random = random_curves(Corner(), images, targets, seed=0)
    assert gains[0] > at_random.gain.mean() + 0.1 and gains[1] < at_random.gain.mean() - 0.1
    again = random_curves(Corner(), images, targets, seed=0)
    assert torch.equal(at_random.deletion, again.deletion)
    low, high = interval(at_random.gain, 0)
    assert low < at_random.gain.mean() < high


def test_completeness_is_the_error_of_the_sum() -> None:
    images, targets = torch.ones(2, 1, 4, 4), torch.tensor([0, 1])
    maps = torch.stack([4.5 * marked(1, 1)[0], marked(0, 0)[0]])
    errors, differences = completeness(Corner(), images, targets, maps)
    assert differences.tolist() == [4, 0]
    assert errors.tolist() == [0.5, 1]


def test_rank_correlation_is_spearmans() -> None:
    ours, theirs = torch.randn(3, 20, dtype=torch.float64), torch.randint(4, (3, 20)).double()
    expected = [spearmanr(one, other).statistic for one, other in zip(ours, theirs, strict=True)]
    torch.testing.assert_close(rank_correlation(ours, theirs), torch.tensor(expected, dtype=torch.float64))
    assert rank_correlation(ours, torch.ones(3, 20)).isnan().all()


def test_agreement_leaves_out_constant_maps() -> None:
    first = torch.arange(32.0, dtype=torch.float64).view(2, 4, 4)
    second = first.clone()
    second[1] = 3.0
    found = agreement({"a": first, "b": second, "c": torch.ones(2, 4, 4, dtype=torch.float64)}, patches=2)
    assert found["a"]["b"] == pytest.approx(1)
    assert found["a"]["c"] is None and set(found["a"]) == {"b", "c"}
    assert is_flat(second).tolist() == [False, True]
