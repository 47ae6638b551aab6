"""The batches of an epoch."""

import gc
import itertools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from training.format import ImageFormat
from training.images.augment import Augmentation
from training.images.batches import Batches
from training.images.files import Decoding, ImageFiles, in_memory, survey
from training.images.sets import Images, ImageSet
from training.run.command import command

Numbered = Callable[[int], ImageSet]


def all_of(batches: Batches, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The images and labels of an epoch, end to end."""
    images, labels = zip(*batches.epoch(epoch), strict=True)
    return torch.cat(images), torch.cat(labels)


AUGMENT = Augmentation(crop_padding=2, flip=True, cutout=2)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 30), size=st.integers(1, 30), shuffle=st.booleans(), drop_last=st.booleans())
def test_every_image_once_an_epoch(count: int, size: int, shuffle: bool, drop_last: bool, numbered_images: Numbered) -> None:
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


def test_an_epoch_can_be_repeated(numbered_images: Numbered) -> None:
    images = numbered_images(40)
    batches = Batches(images, 8, "cpu", 3, AUGMENT, shuffle=True, stream="weights")
    expected = all_of(batches, 7)
    for _ in itertools.islice(batches.epoch(2), 3):
        torch.rand(5)
    restarted = Batches(images, 8, "cpu", 3, AUGMENT, shuffle=True, stream="weights")
    for again in (all_of(batches, 7), all_of(restarted, 7)):
        assert torch.equal(again[0], expected[0])
        assert torch.equal(again[1], expected[1])


def test_the_order_of_an_epoch_is_known(numbered_images: Numbered) -> None:
    """Written down once: another order would make every old run unrepeatable."""
    batches = Batches(numbered_images(10), 5, "cpu", seed=0, shuffle=True)
    assert all_of(batches, 0)[1].tolist() == [8, 4, 3, 7, 0, 2, 9, 6, 1, 5]


def test_global_random_state_is_left_alone(numbered_images: Numbered) -> None:
    images = numbered_images(8)
    before = torch.get_rng_state()
    all_of(Batches(images, 4, "cpu", 3, AUGMENT, shuffle=True), 0)
    assert torch.equal(torch.get_rng_state(), before)


def test_epochs_seeds_and_streams_differ(numbered_images: Numbered) -> None:
    images = numbered_images(40)

    def epoch(seed: int = 0, number: int = 0, stream: str = "weights") -> tuple[torch.Tensor, torch.Tensor]:
        return all_of(Batches(images, 40, "cpu", seed, AUGMENT, shuffle=True, stream=stream), number)

    runs = [epoch(), epoch(seed=1), epoch(number=1), epoch(stream="alphas")]
    for (images_a, labels_a), (images_b, labels_b) in itertools.combinations(runs, 2):
        assert not torch.equal(labels_a, labels_b)
        # Also in the same order the images differ: the augmentation is another one.
        assert not torch.equal(images_a[labels_a.argsort()], images_b[labels_b.argsort()])


@pytest.mark.parametrize("augment", [None, AUGMENT, Augmentation(cutout=3), Augmentation(flip=True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_layout_and_type(augment: Augmentation | None, dtype: torch.dtype, numbered_images: Numbered) -> None:
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]] = Batches(
        numbered_images(6), 4, "cpu", augment=augment, dtype=dtype
    ).epoch(0)
    images, labels = next(batches)
    assert images.shape == (4, 3, 6, 5)
    assert images.dtype == dtype
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.shape == (4,)
    assert labels.dtype == torch.int64


def test_batch_size_out_of_range(numbered_images: Numbered) -> None:
    images = numbered_images(100)
    with pytest.raises(ValueError, match=r"^batch_size: 512 is larger than the number of images, 100"):
        Batches(images, 512, "cpu")
    with pytest.raises(ValueError, match=r"^batch_size: must be at least 1, not 0$"):
        Batches(images, 0, "cpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_device_gets_the_same_images(numbered_images: Numbered) -> None:
    images = numbered_images(40)
    on_cpu, on_gpu = (all_of(Batches(images, 8, device, 3, AUGMENT, shuffle=True), 1) for device in ("cpu", "cuda"))
    assert on_gpu[0].is_cuda
    torch.testing.assert_close(on_gpu[0].cpu(), on_cpu[0])
    assert torch.equal(on_gpu[1].cpu(), on_cpu[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_batch_waits_for_the_host(numbered_images: Numbered) -> None:
    batches = Batches(numbered_images(40), 8, "cuda", 3, AUGMENT, shuffle=True).epoch(0)
    next(batches)
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert len(list(batches)) == 4
    finally:
        torch.cuda.set_sync_debug_mode("default")


# ------------------------------------------------------------------------------------------------- processes that read


def write_mixed(folder: Path) -> list[str]:
    """Images of many sizes and modes."""
    random_numbers = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 8
    makers: list[tuple[str, Callable[[Image.Image], Image.Image], dict[str, Any]]] = [
        ("png", lambda image: image, {}),
        ("jpg", lambda image: image, {}),
        ("png", lambda image: image.convert("L"), {}),
        ("jpg", lambda image: image.convert("L"), {}),
        ("png", lambda image: image.convert("P"), {"transparency": 3}),
        ("png", lambda image: image.convert("RGBA").rotate(30), {}),
        ("jpg", lambda image: image.convert("CMYK"), {}),
        ("png", lambda image: Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 200), {}),
        ("jpg", lambda image: image, {"exif": exif}),
        ("png", lambda image: image.convert("1"), {}),
        ("gif", lambda image: image, {}),
        ("webp", lambda image: image, {}),
    ]
    paths = []
    for number in range(24):
        suffix, change, how = makers[number % len(makers)]
        height, width = random_numbers.integers(7, 60, 2)
        image = Image.fromarray(random_numbers.integers(0, 256, (height, width, 3), np.uint8))
        paths.append(str(folder / f"{number:02}.{suffix}"))
        change(image).save(paths[-1], **how)
    return paths


@pytest.fixture(scope="module")
def mixed_files(tmp_path_factory: pytest.TempPathFactory) -> ImageFiles:
    paths = write_mixed(tmp_path_factory.mktemp("images"))
    form = ImageFormat((3, 12, 12), 255.0, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4), tuple(map(str, range(24))))
    return ImageFiles(tuple(paths), torch.arange(24), Decoding(12, 14, False, False), form, workers=2)


def resident(files: ImageFiles) -> ImageSet:
    return in_memory(files, survey(files, keep=True, workers=0))


def float_images() -> ImageSet:
    pixels = torch.randn(24, 2, 6, 5)
    return ImageSet(pixels, torch.arange(24), 24, (0.1, -0.2), (0.9, 1.1))


def assert_same(
    found: Iterable[tuple[torch.Tensor, torch.Tensor]], expected: Iterable[tuple[torch.Tensor, torch.Tensor]]
) -> None:
    for (images, labels), (expected_images, expected_labels) in zip(found, expected, strict=True):
        assert torch.equal(images, expected_images) and torch.equal(labels, expected_labels)
        assert images.stride() == expected_images.stride() and images.dtype == expected_images.dtype


@pytest.mark.parametrize("kind", ["files", "bytes", "floats"])
def test_processes_make_the_same_batches(kind: str, mixed_files: ImageFiles, numbered_images: Numbered) -> None:
    """Over epochs that are gone through, left early, begun within each other, and repeated; no random state is moved."""
    if kind == "files":
        here: ImageSet = resident(mixed_files)
        there: Images = mixed_files
    else:
        here = numbered_images(24) if kind == "bytes" else float_images()
        there = replace(here, workers=2)
    for shuffle, drop_last, augment in ((True, True, AUGMENT), (False, False, None)):
        ours, theirs = (
            Batches(images, 7, "cpu", 3, augment, shuffle, drop_last, dtype=torch.float64, stream="train")
            for images in (here, there)
        )
        before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
        assert len(ours) == len(theirs)
        assert_same(theirs.epoch(0), ours.epoch(0))
        assert_same(theirs.epoch(1), ours.epoch(1))
        left = theirs.epoch(5)
        next(left)
        left.close()
        assert_same(theirs.epoch(2), ours.epoch(2))
        outer, outer_expected = theirs.epoch(3), ours.epoch(3)
        assert_same([next(outer)], [next(outer_expected)])
        assert_same(theirs.epoch(4), ours.epoch(4))
        assert_same(outer, outer_expected)
        assert_same(theirs.epoch(0), ours.epoch(0))
        after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
        assert torch.equal(before[0], after[0]) and before[1:] == after[1:]


@pytest.mark.parametrize("kind", ["files", "bytes"])
def test_parts_at_random_are_the_same_for_a_seed(kind: str, mixed_files: ImageFiles, numbered_images: Numbered) -> None:
    images: Images = mixed_files if kind == "files" else replace(numbered_images(24), workers=1)
    augment = Augmentation(crop_padding=1, flip=True, cutout=2, crop_area=0.3)

    def batches(seed: int) -> Batches:
        return Batches(images, 8, "cpu", seed, augment, shuffle=True)

    first = batches(0)
    expected, labels = all_of(first, 1)
    assert torch.equal(all_of(batches(0), 1)[0], expected)
    assert torch.equal(all_of(first, 1)[0], expected)
    by_label = expected[labels.argsort()]
    for other in (all_of(first, 2), all_of(batches(1), 1)):
        assert not torch.equal(other[0][other[1].argsort()], by_label)


def test_parts_at_random_are_those_that_were_drawn(mixed_files: ImageFiles) -> None:
    augment = Augmentation(crop_area=0.3)
    found, labels = all_of(Batches(mixed_files, 8, "cpu", 5, augment, shuffle=True, dtype=torch.float64, stream="s"), 2)
    crops = augment.crops(augment.draw(24, 12, 12, 5, "s", 2))
    assert crops is not None
    pixels = torch.stack(
        [mixed_files.decoding.read(mixed_files.files[label], crop) for label, crop in zip(labels, crops, strict=True)]
    )
    torch.testing.assert_close(found, mixed_files.format.normalised(pixels), check_dtype=False, atol=1e-5, rtol=1e-5)


def test_parts_at_random_need_processes(numbered_images: Numbered) -> None:
    with pytest.raises(
        ValueError, match=r"^data\.crop_area: only worker processes cut out parts of images; set data\.loading to"
    ):
        Batches(numbered_images(24), 8, "cpu", augment=Augmentation(crop_area=0.5))


@pytest.mark.parametrize("shuffle", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_image_that_can_no_longer_be_read(tmp_path: Path, mixed_files: ImageFiles, shuffle: bool) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    files = replace(mixed_files, files=(*mixed_files.files[:20], str(broken), *mixed_files.files[21:]))
    batches = Batches(files, 4, "cpu", shuffle=shuffle)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"broken\.png: cannot be read as an image \([^\n]+\)$"):
            all_of(batches, 0)


def test_a_process_that_dies_is_no_traceback(mixed_files: ImageFiles, capsys: pytest.CaptureFixture[str]) -> None:
    batches = Batches(mixed_files, 2, "cpu", shuffle=True)

    def main() -> None:
        for _ in batches.epoch(0):
            for child in multiprocessing.active_children():
                child.kill()

    assert command("prog", main) == 2
    message = "a process that reads images has died, perhaps for lack of memory; try fewer, with data.workers"
    assert capsys.readouterr().err == f"prog: error: {message}\n"


def test_no_process_stays_behind(mixed_files: ImageFiles) -> None:
    before = set(multiprocessing.active_children())
    batches = Batches(mixed_files, 8, "cpu", shuffle=True)
    all_of(batches, 0)
    assert len(set(multiprocessing.active_children()) - before) == 2
    del batches
    gc.collect()
    assert set(multiprocessing.active_children()) <= before
    all_of(Batches(mixed_files, 8, "cpu"), 0)
    assert set(multiprocessing.active_children()) <= before


PROGRAM = """
import os
import sys
import time
import torch
from training.images.batches import Batches
from training.run.command import command
from training.images.sets import ImageSet

images = ImageSet(torch.zeros(64, 1, 4, 4), torch.arange(64) % 2, 2, (0.0,), (1.0,), workers=2)
batches = Batches(images, 4, "cpu", shuffle=True)  # there until the interpreter ends
begun = []
os.register_at_fork(
    after_in_parent=lambda: begun.append("a worker"),
    after_in_child=lambda: time.sleep(float(sys.argv[2]) if begun else 0),
)

def main():
    for epoch in range(int(sys.argv[1])):
        for _ in batches.epoch(epoch):
            print("a batch", flush=True)

raise SystemExit(command("prog", main))
"""


def started(epochs: int, delay: float = 0) -> "subprocess.Popen[str]":
    """A program in a process group of its own that goes through so many epochs; its second worker
    is begun with so many seconds of delay."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(epochs), str(delay)],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_a_program_ends_without_a_word() -> None:
    program = started(epochs=1)
    assert program.communicate(timeout=60) == ("a batch\n" * 16, "")
    assert program.returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0, 3])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_stops_all_processes_is_one_line(number: signal.Signals, delay: float) -> None:
    program = started(10**6, delay)
    assert program.stdout is not None and program.stdout.readline() == "a batch\n"
    os.killpg(program.pid, number)
    _, err = program.communicate(timeout=60)
    assert program.returncode == 130
    assert err == f"prog: stopped by {'Ctrl-C' if number == signal.SIGINT else number.name}\n"
