"""Images as the data of a task: how they are divided and put into batches."""

from pathlib import Path

import pytest
import torch

from benchmarks.timing import random_images
from training.hardware import Hardware
from training.images.augment import Augmentation
from training.images.data import DataConfig
from training.images.prints import of_pixels
from training.images.sets import ImageSet
from training.tasks.classification import Classification
from training.tasks.images import EVALUATED_PIXELS, ImageData
from training.tasks.task import Batches, Rest

CPU = Hardware(torch.device("cpu"))


def data(count: int, **fields: object) -> ImageData:
    return ImageData(random_images(count, 8), CPU, **fields)  # type: ignore[arg-type]


def sizes(batches: Batches) -> list[int]:
    return [batch.size for batch in batches.epoch(0)]


def test_the_parts_of_a_split_are_all_examples_once() -> None:
    whole = data(20)
    parts = whole.split(0.6, 3)
    assert [len(part) for part in parts] == [12, 8]
    found = torch.cat([part.images.pixels() for part in parts])
    expected = whole.images.pixels()
    assert {tuple(one.flatten().tolist()) for one in found} == {tuple(one.flatten().tolist()) for one in expected}
    again = whole.split(0.6, 3)[0]
    assert torch.equal(again.images.pixels(), parts[0].images.pixels())
    assert not torch.equal(whole.split(0.6, 4)[0].images.pixels(), parts[0].images.pixels())


def task_of(contents: list[int], run: Path | None = None) -> Classification:
    """The task of images of those shades, in the order of their names."""
    images = torch.tensor(contents, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4).contiguous()
    labels = torch.arange(len(contents)) % 2
    found = ImageSet(images, labels, 2, (0.5,), (0.5,), prints=of_pixels(images, labels))
    task = Classification.of_images(DataConfig(), found, CPU)
    if run is not None:
        task.save_description(run)
    return task


def test_weights_are_judged_on_images_that_they_have_not_seen(tmp_path: Path) -> None:
    task_of(list(range(20)), tmp_path)
    same = task_of(list(range(20)))
    assert same.check_unseen(tmp_path, 0.5, 3) == ""
    more = task_of([*range(20), 100])
    with pytest.raises(ValueError, match=rf"^validation image \d+ was trained on by {tmp_path}, and so were \d more of 11: "):
        more.check_unseen(tmp_path, 0.5, 3)
    others = task_of(list(range(50, 70)))
    assert others.check_unseen(tmp_path, 0.5, 3) == "20 of other content"
    assert same.check_unseen(tmp_path / "nowhere", 0.5, 3) == ""
    assert same.train.fingerprint == task_of(list(range(20))).train.fingerprint != others.train.fingerprint


def test_the_first_examples_are_taken() -> None:
    whole = data(20)
    assert torch.equal(whole.take(7).images.pixels(), whole.images.pixels()[:7])
    assert len(whole.take(30)) == 20


@pytest.mark.parametrize(
    ("count", "rest", "expected"),
    [
        (9, "keep", [4, 4, 1]), (9, "drop", [4, 4]), (9, "drop_single", [4, 4]),
        (10, "keep", [4, 4, 2]), (10, "drop", [4, 4]), (10, "drop_single", [4, 4, 2]),
    ],
)  # fmt: skip
def test_what_becomes_of_a_short_last_batch(count: int, rest: Rest, expected: list[int]) -> None:
    assert sizes(data(count).in_order(4, rest)) == sizes(data(count).shuffled(4, 0, "train", rest=rest)) == expected


def test_batches_in_order_are_the_examples_as_they_are_at_most_all() -> None:
    whole = data(6, augmentation=Augmentation(flip=True))
    (batch,) = whole.in_order(100).epoch(0)
    torch.testing.assert_close(batch.inputs, whole.images.format.normalised(whole.images.pixels()))
    assert torch.equal(batch.targets, whole.images.labels)
    (single,) = data(1).in_order(4, "drop_single").epoch(0)  # all that there is
    assert single.size == 1


def test_independent_examples_are_taken_together_as_far_as_the_device_is_filled() -> None:
    together = EVALUATED_PIXELS // 64
    assert sizes(data(together + 5).in_order(2, independent=True)) == [together, 5]
    assert sizes(data(5).in_order(2, independent=True)) == [5]


def test_a_stream_has_an_order_of_its_own_and_changes_examples_if_asked() -> None:
    whole = data(40, augmentation=Augmentation(flip=True))
    one, other = (next(whole.shuffled(40, 0, stream).epoch(0)).targets for stream in ("train", "valid"))
    assert not torch.equal(one, other)
    changed, plain = (next(whole.shuffled(40, 0, "train", augment=augment).epoch(0)) for augment in (True, False))
    assert torch.equal(changed.targets, plain.targets) and not torch.equal(changed.inputs, plain.inputs)
    with pytest.raises(ValueError, match=r"^batch_size: 41 is larger than the number of images, 40$"):
        whole.shuffled(41, 0, "train")


def test_answers_stand_for_labels_and_name_the_outputs() -> None:
    whole = data(12, targets=torch.arange(10) / 2, names=("half",))
    (batch,) = whole.in_order(12).epoch(0)
    assert torch.equal(batch.targets, whole.images.labels / 2)
    assert whole.format.class_names == ("half",) and whole.images.format.class_names != ("half",)
