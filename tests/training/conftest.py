"""What the tests of training share."""

from collections.abc import Callable

import pytest
import torch

from training.images.sets import ImageSet


def _numbered_images(count: int) -> ImageSet:
    images = torch.randint(256, (count, 3, 6, 5), dtype=torch.uint8)
    return ImageSet(images, torch.arange(count), count, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


@pytest.fixture(scope="session")
def numbered_images() -> Callable[[int], ImageSet]:
    """Makes so many random images of 6x5 pixels whose label is their index."""
    return _numbered_images
