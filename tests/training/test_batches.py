"""The batches of an epoch."""

import itertools
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.augment import Augmentation
from training.batches import Batches
from training.images import ImageSet


def numbered_images(count: int) -> ImageSet:
    """Random images of 6x5 pixels whose label is their index."""
    images = torch.randint(256, (count, 3, 6, 5), dtype=torch.uint8)
    return ImageSet(images, torch.arange(count), count, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))


def all_of(batches: Batches, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The images and labels of an epoch, end to end."""
    images, labels = zip(*batches.epoch(epoch), strict=True)
    return torch.cat(images), torch.cat(labels)


AUGMENT = Augmentation(crop_padding=2, flip=True, cutout=2)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 30), size=st.integers(1, 30), shuffle=st.booleans(), drop_last=st.booleans())
def test_every_image_once_an_epoch(count: int, size: int, shuffle: bool, drop_last: bool) -> None:
    size = min(size, count)
    batches = Batches(numbered_images(count), size, "cpu", 1, AUGMENT, shuffle, drop_last)
    sizes = [len(labels) for _, labels in batches.epoch(2)]
    labels = all_of(batches, 2)[1].tolist()
    rest = count % size
    assert sizes == [size] * (count // size) + ([rest] if rest and not drop_last else [])
    assert len(batches) == len(sizes)
    assert len(set(labels)) == len(labels) == count - rest * drop_last
    if not shuffle:
        assert labels == list(range(len(labels)))


def test_an_epoch_can_be_repeated() -> None:
    images = numbered_images(40)
    batches = Batches(images, 8, "cpu", 3, AUGMENT, shuffle=True, stream="weights")
    expected = all_of(batches, 7)
    for _ in itertools.islice(batches.epoch(2), 3):
        torch.rand(5)
    restarted = Batches(images, 8, "cpu", 3, AUGMENT, shuffle=True, stream="weights")
    for again in (all_of(batches, 7), all_of(restarted, 7)):
        assert torch.equal(again[0], expected[0])
        assert torch.equal(again[1], expected[1])


def test_the_order_of_an_epoch_is_known() -> None:
    """Written down once: another order would make every old run unrepeatable."""
    batches = Batches(numbered_images(10), 5, "cpu", seed=0, shuffle=True)
    assert all_of(batches, 0)[1].tolist() == [8, 4, 3, 7, 0, 2, 9, 6, 1, 5]


def test_global_random_state_is_left_alone() -> None:
    images = numbered_images(8)
    before = torch.get_rng_state()
    all_of(Batches(images, 4, "cpu", 3, AUGMENT, shuffle=True), 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_epochs_seeds_and_streams_differ() -> None:
    images = numbered_images(40)

    def epoch(seed: int = 0, number: int = 0, stream: str = "weights") -> tuple[torch.Tensor, torch.Tensor]:
        return all_of(Batches(images, 40, "cpu", seed, AUGMENT, shuffle=True, stream=stream), number)

    runs = [epoch(), epoch(seed=1), epoch(number=1), epoch(stream="alphas")]
    for (images_a, labels_a), (images_b, labels_b) in itertools.combinations(runs, 2):
        assert not torch.equal(labels_a, labels_b)
        # Also in the same order the images differ: the augmentation is another one.
        assert not torch.equal(images_a[labels_a.argsort()], images_b[labels_b.argsort()])


@pytest.mark.parametrize("augment", [None, AUGMENT])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_layout_and_type(augment: Augmentation | None, dtype: torch.dtype) -> None:
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]] = Batches(
        numbered_images(6), 4, "cpu", augment=augment, dtype=dtype
    ).epoch(0)
    images, labels = next(batches)
    assert images.shape == (4, 3, 6, 5)
    assert images.dtype == dtype
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.shape == (4,)
    assert labels.dtype == torch.int64


def test_batch_size_out_of_range() -> None:
    images = numbered_images(100)
    with pytest.raises(ValueError, match=r"^batch_size: 512 is larger than the 100 images"):
        Batches(images, 512, "cpu")
    with pytest.raises(ValueError, match=r"^batch_size: must be at least 1, not 0$"):
        Batches(images, 0, "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_device_gets_the_same_images() -> None:
    images = numbered_images(40)
    on_cpu, on_gpu = (all_of(Batches(images, 8, device, 3, AUGMENT, shuffle=True), 1) for device in ("cpu", "cuda"))
    assert on_gpu[0].is_cuda
    torch.testing.assert_close(on_gpu[0].cpu(), on_cpu[0])
    assert torch.equal(on_gpu[1].cpu(), on_cpu[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_batch_waits_for_the_host() -> None:
    batches = Batches(numbered_images(40), 8, "cuda", 3, AUGMENT, shuffle=True).epoch(0)
    next(batches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert len(list(batches)) == 4
    finally:
        torch.cuda.set_sync_debug_mode("default")
