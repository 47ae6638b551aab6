"""Handwritten digits of scikit-learn."""

import torch
from einops import rearrange
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from training.images.data import DataConfig, Part
from training.images.sets import ImageSet, channel_statistics


def load(config: DataConfig, part: Part) -> ImageSet:
    """Reads 8x8 pixels: 1,437 images to train and 360 to test, split by class with seed 0."""
    digits = load_digits()
    labels = torch.from_numpy(digits.target).long()
    images = rearrange(torch.from_numpy(digits.images), "n h w -> n 1 h w")
    images = (images * 255 / 16).round().to(torch.uint8)
    train, test = train_test_split(torch.arange(len(labels)).numpy(), test_size=0.2, stratify=digits.target, random_state=0)
    mean, std = channel_statistics(images[train])
    return ImageSet(images, labels, 10, mean, std).take(torch.from_numpy(train if part == "train" else test))
