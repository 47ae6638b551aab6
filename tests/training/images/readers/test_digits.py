"""scikit-learn's digits."""

import pytest
import torch

from training.images.batches import Batches
from training.images.data import DataConfig, load_images
from training.images.sets import ImageSet


@pytest.fixture(scope="module")
def digits() -> tuple[ImageSet, ImageSet]:
    return load_images(DataConfig(), "train"), load_images(DataConfig(), "test")


def test_digits_are_split_by_class(digits: tuple[ImageSet, ImageSet]) -> None:
    train, test = digits
    assert (len(train), len(test)) == (1437, 360)
    assert train.images.shape[1:] == test.images.shape[1:] == (1, 8, 8)
    assert train.classes == 10
    of_train, of_test = train.labels.bincount(), test.labels.bincount()
    assert (of_test - (of_train + of_test) * 0.2).abs().max() < 1


def test_digits_are_all_there_once(digits: tuple[ImageSet, ImageSet]) -> None:
    from sklearn.datasets import load_digits

    rows = [
        (int(label), *image.flatten().tolist())
        for part in digits
        for image, label in zip(part.images, part.labels, strict=True)
    ]
    original = load_digits()
    pixels = [[round(value * 255 / 16) for value in image] for image in original.data.tolist()]
    assert sorted(rows) == sorted((label, *image) for label, image in zip(original.target.tolist(), pixels, strict=True))


def test_digits_are_normalised_by_their_training_part(digits: tuple[ImageSet, ImageSet]) -> None:
    train, test = digits
    assert train.mean == test.mean == pytest.approx((train.images.double().mean().item() / 255,))
    assert train.std == test.std == pytest.approx((train.images.double().std(correction=0).item() / 255,))
    ((images, _),) = Batches(train, len(train), "cpu", dtype=torch.float64).epoch(0)
    assert images.mean().item() == pytest.approx(0, abs=1e-9)
    assert images.std(correction=0).item() == pytest.approx(1)


def test_digits_are_the_same_each_time(digits: tuple[ImageSet, ImageSet]) -> None:
    torch.manual_seed(123)
    again = load_images(DataConfig(), "train")
    assert torch.equal(again.images, digits[0].images)
    assert torch.equal(again.labels, digits[0].labels)
