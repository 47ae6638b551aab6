"""The form of a network's inputs, written and read."""

import json
from collections.abc import Callable

import pytest
import torch

from training.format import ImageFormat
from training.images.batches import Batches
from training.images.sets import ImageSet

Numbered = Callable[[int], ImageSet]


def test_a_format_goes_through_json(numbered_images: Numbered) -> None:
    form = numbered_images(2).format
    assert form == ImageFormat((3, 6, 5), 255.0, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), ("0", "1"))
    assert ImageFormat.from_dict(json.loads(json.dumps(form.to_dict()))) == form
    assert ImageSet(torch.zeros(1, 3, 6, 5), torch.zeros(1).long(), 2, form.mean, form.std).format.scale == 1


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("shape", [3, 6], "shape must be three positive numbers"),
        ("shape", [3, 0, 5], "shape must be three positive numbers"),
        ("shape", [3, 6.0, 5], "shape must be three positive numbers"),
        ("shape", 3, "must be lists"),
        ("scale", 0, "std positive"),
        ("scale", None, "must be finite numbers"),
        ("scale", 10**400, "must be finite numbers"),
        ("mean", [0.4, 0.5], "must be 3 numbers each"),
        ("mean", [0.4, 0.5, float("nan")], "must be finite numbers"),
        ("std", [0.2, 0.3, -0.4], "std positive"),
        ("std", [0.2, 0.3, 1e-50], "std positive"),
        ("std", [0.2, 0.3, True], "must be finite numbers"),
        ("std", [0.2, 0.3, "1"], "must be finite numbers"),
        ("class_names", ["a", 3], "class_names must be texts"),
        ("classes", 3, "must have scale, shape, mean, std, class_names"),
    ],
)
def test_formats_that_make_no_sense(field: str, value: object, message: str, numbered_images: Numbered) -> None:
    content = numbered_images(2).format.to_dict() | {field: value}
    with pytest.raises(ValueError, match=message):
        ImageFormat.from_dict(content)


def test_normalised_pixels_are_those_of_a_batch(numbered_images: Numbered) -> None:
    images = numbered_images(3)
    ((batch, _),) = Batches(images, 3, "cpu").epoch(0)
    torch.testing.assert_close(images.format.normalised(images.pixels()), batch, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(images.format.normalised(images.pixels()[1]), batch[1], atol=1e-5, rtol=1e-5)
