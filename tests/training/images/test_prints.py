"""Images that a run has seen are known again, whatever they are called and wherever they lie."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from base.checks import InputError
from training.images.prints import PRINTS_FILE, Prints, SeenImages, check_seen, of_files, of_pixels, paths_below


def prints(names: str, contents: Sequence[int], labels: Sequence[int] | None = None) -> Prints:
    of_class = torch.zeros(len(contents), dtype=torch.int64) if labels is None else torch.tensor(labels)
    return Prints(tuple(names), of_class, torch.tensor(contents, dtype=torch.int64))


def test_equal_contents_have_equal_prints(tmp_path: Path) -> None:
    for name, content in (("a.png", b"one"), ("sub/b.png", b"one"), ("c.png", b"two")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "pipe.png")
    files = [str(tmp_path / name) for name in ("a.png", "sub/b.png", "c.png", "absent.png", "pipe.png")]
    found = of_files(files, torch.arange(5), str(tmp_path))
    assert found.names == ("a.png", "sub/b.png", "c.png", "absent.png", "pipe.png")
    one, same, two, absent, pipe = found.contents.tolist()
    assert one == same != two and absent == pipe == 0
    assert found.take(torch.tensor([2, 0])).names == ("c.png", "a.png")
    assert found.take(torch.tensor([2, 0])).contents.tolist() == [two, one]


@pytest.mark.parametrize("folder", [".", "images", "./images", "images/", "/images", "/images//", "other", "image"])
def test_paths_below_a_folder(folder: str) -> None:
    """The fast way and the plain one are the same."""
    files = [f"{folder.rstrip('/')}/cat/{name}" for name in ("1.png", "a b/é.png", "..png")] + ["images/dog.png", "/x.png"]
    assert paths_below(folder, files) == [os.path.relpath(file, folder) for file in files]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_prints_of_pixels(dtype: torch.dtype) -> None:
    images = torch.arange(6 * 4).reshape(6, 1, 2, 2).to(dtype)
    images[4] = images[1]
    found = of_pixels(images.to(memory_format=torch.channels_last), torch.zeros(6, dtype=torch.int64))
    assert found.names == tuple("012345")
    assert (found.contents[:, None] == found.contents).sum() == 8
    assert found.fingerprint != found.take(torch.tensor([1, 0, 2, 3, 4, 5])).fingerprint
    assert found.fingerprint == of_pixels(images, torch.zeros(6, dtype=torch.int64)).fingerprint
    assert found.fingerprint != of_pixels(images, torch.ones(6, dtype=torch.int64)).fingerprint


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (prints("abc", [1, 2, 3]), prints("abc", [1, 2, 3]), ""),
        (prints("abc", [1, 2, 3]), prints("cab", [3, 1, 2]), ""),
        (prints("abc", [1, 2, 3]), prints("abcd", [1, 2, 3, 4]), "1 added"),
        (prints("abc", [1, 2, 3]), prints("ab", [1, 9]), "1 removed, 1 of other content"),
        (prints("abc", [1, 2, 3]), prints("xyz", [1, 2, 3]), "3 added, 3 removed"),
        (prints("abc", [1, 2, 3], [0, 0, 1]), prints("abc", [1, 2, 9], [0, 1, 0]), "1 of other content, 1 labelled otherwise"),
        (prints("", []), prints("a", [1]), "1 added"),
    ],
)
def test_changes_are_counted(before: Prints, now: Prints, said: str) -> None:
    assert now.change(before) == said


def test_what_a_run_has_seen_is_kept(tmp_path: Path) -> None:
    """Names that are no Unicode included, and what it was trained on before its images changed."""
    assert SeenImages.read(tmp_path) is None and check_seen(tmp_path, None) == ""
    unknown = "has no images.safetensors: the test images are not compared with those that it was trained on"
    assert check_seen(tmp_path, prints("a", [1])) == f"{tmp_path}: {unknown}"
    train = Prints(("cats/é\udcff.png", "b\n.png"), torch.tensor([1, 0]), torch.tensor([-(2**63), 7]))
    SeenImages({"train": train}).save(tmp_path)
    found = SeenImages.read(tmp_path)
    assert found is not None and found.parts["train"].names == train.names
    assert found.parts["train"].contents.tolist() == [-(2**63), 7] and found.parts["train"].labels.tolist() == [1, 0]
    found.then({"train": prints("a", [7]), "test": prints("", [])}).save(tmp_path)
    again = SeenImages.read(tmp_path)
    assert again is not None and len(again.parts["test"]) == 0 and sorted(again.trained.tolist()) == [-(2**63), 7]
    with pytest.raises(InputError, match=r"^test image b was trained on by run: an accuracy on it says nothing; "):
        again.check(prints("ab", [1, -(2**63)]), "run")
    with pytest.raises(InputError, match=r"^test image a was trained on by run, and so were 1 more of 3: "):
        again.check(prints("abc", [7, 7, 8]), "run")
    assert check_seen(tmp_path, prints("xy", [8, 9])) == f"{tmp_path}: the test images have changed since the training: 2 added"
    assert check_seen(tmp_path, prints("xy", [8, 9]), are_own=False) == ""
    for are_own, mend in ((True, "bring back the images that the run began with, "), (False, "evaluate it on images that ")):
        with pytest.raises(InputError, match=f"an accuracy on it says nothing; {mend}"):
            check_seen(tmp_path, prints("a", [7]), are_own)


def test_copies_that_were_there_from_the_start_are_no_leak() -> None:
    seen = SeenImages({"train": prints("abc", [1, 2, 3]), "test": prints("xy", [3, 4])})
    assert seen.both() == "the same in both parts: 1 of 2 test images are training images, x for one"
    seen.check(prints("xyz", [3, 4, 5]), "run")
    assert SeenImages({"train": prints("a", [1]), "test": prints("x", [2])}).both() == ""


@pytest.mark.parametrize("content", [b"", b"x" * 100, (10**9).to_bytes(8, "little") + b"{}", b"{}"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / PRINTS_FILE).write_bytes(content)
    with pytest.raises(InputError, match=rf"^{tmp_path}/{PRINTS_FILE}: damaged \(.*\); delete it "):
        SeenImages.read(tmp_path)


def test_a_file_of_other_shapes_is_refused(tmp_path: Path) -> None:
    train = Prints(("a",), torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64))
    SeenImages({"train": train}).save(tmp_path)
    with pytest.raises(InputError, match=r"damaged \(1 names, 2 labels and 2 prints in the train part\)"):
        SeenImages.read(tmp_path)
