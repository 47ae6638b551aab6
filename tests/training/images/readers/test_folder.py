"""A folder of images, a folder a class."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from training.format import ImageFormat
from training.images import listing
from training.images.data import DataConfig, Part, in_classes, load_images
from training.images.files import Decoding, ImageFiles
from training.images.sets import Images, ImageSet, channel_statistics

PARTS: tuple[Part, ...] = ("train", "test")


def write(folder: Path, counts: dict[str, int], sizes: Sequence[tuple[int, int]] = ((9, 7),)) -> Path:
    """Images of one shade each, which tells the class and the number."""
    for place, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", sizes[number % len(sizes)], (40 * place, number, 0)).save(folder / name / f"{number:03}.png")
    return folder


def config(root: Path, **fields: Any) -> DataConfig:
    return DataConfig("folder", str(root), **fields)


def names(images: Images) -> set[str]:
    assert isinstance(images, ImageFiles)
    return {"/".join(Path(file).parts[-2:]) for file in images.files}


def test_a_limit_may_leave_a_class_out(tmp_path: Path) -> None:
    for name in ("cat", "dog", "owl"):
        for part in ("train", "test"):
            (tmp_path / part / name).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8)).save(tmp_path / part / name / "1.png")
    images = load_images(DataConfig("folder", str(tmp_path), limit=2), "train")
    assert len(images.labels.unique()) == 2
    assert images.classes == 3


def test_images_are_not_those_of_the_network(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        for part in ("train", "test"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / part / name / "1.png")
    gray = load_images(DataConfig("folder", str(tmp_path), gray=True), "train").format
    with pytest.raises(ValueError, match=r"^data: the images have 3 channels, those that .* trained on 1 channels$"):
        load_images(DataConfig("folder", str(tmp_path)), "train", known=gray)


def test_a_share_is_the_test_part(tmp_path: Path) -> None:
    root = write(tmp_path / "images", {"cat": 20, "dog": 10, "an owl": 5})
    train, test = (load_images(config(root, loading="workers"), part) for part in PARTS)
    assert train.format.class_names == test.format.class_names == ("an owl", "cat", "dog")
    assert (train.labels.bincount().tolist(), test.labels.bincount().tolist()) == ([5, 15, 9], [0, 5, 1])
    assert not names(train) & names(test) and len(names(train) | names(test)) == 35
    again, other = (load_images(config(root, loading="workers", split_seed=seed), "test") for seed in (0, 1))
    assert names(again) == names(test) != names(other)
    third = load_images(config(root, loading="workers", test_fraction=0.4), "test")
    assert len(names(third)) > len(names(test)) and names(third) > names(test)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(st.text("abcxyz019 é._-", min_size=1, max_size=8).filter(lambda name: name.strip(". ")), min_size=2), st.data())
def test_another_file_moves_none(tmp_path_factory: pytest.TempPathFactory, stems: set[str], data: st.DataObject) -> None:
    """Which part a file is in follows from its own name."""
    root = tmp_path_factory.mktemp("images")
    write(root, {"cat": 40, "dog": 40})
    before = {part: names(load_images(config(root, loading="workers"), part)) for part in PARTS}
    folder = root / data.draw(st.sampled_from(("cat", "dog", "dog/sub")))
    folder.mkdir(exist_ok=True)
    for stem in stems:
        Image.new("RGB", (9, 7)).save(folder / f"{stem}~.png")
    (root / "cat/001.png").unlink()
    after = {part: names(load_images(config(root, loading="workers"), part)) for part in PARTS}
    for part in PARTS:
        assert before[part] - {"cat/001.png"} <= after[part]


def test_the_share_is_about_that_of_the_files(tmp_path: Path) -> None:
    root = write(tmp_path, {"cat": 500, "dog": 500})
    for seed in (0, 1, 2):
        found = load_images(config(root, loading="workers", split_seed=seed), "test").labels.bincount()
        # Within 3.5 standard deviations of a binomial distribution.
        assert all(abs(int(count) - 100) <= 3.5 * 500**0.5 * 0.4 for count in found)


@pytest.mark.parametrize("loading", ["resident", "workers"])
def test_labels_are_those_of_the_folders(tmp_path: Path, loading: Any) -> None:
    root = write(tmp_path, {"b": 4, "a": 3})
    images = load_images(config(root, loading=loading, test_fraction=0.3), "train")
    assert isinstance(images, ImageSet if loading == "resident" else ImageFiles)
    assert images.format.shape == (3, 7, 9)
    shades = images.pixels()[:, 0, 0, 0]
    assert torch.equal(shades.long(), torch.tensor([40, 0])[images.labels])


@pytest.mark.parametrize("tests", ["val", "test", "both"])
def test_parts_in_folders_of_their_own(tmp_path: Path, tests: str) -> None:
    write(tmp_path / "train", {"b": 4, "a": 3})
    write(tmp_path / ("test" if tests == "both" else tests), {"b": 2})
    if tests == "both":
        write(tmp_path / "val", {"a": 1})
    train, test = (load_images(config(tmp_path), part) for part in PARTS)
    assert (train.labels.bincount().tolist(), test.labels.bincount(minlength=2).tolist()) == ([3, 4], [0, 2])


def test_train_alone_is_divided(tmp_path: Path) -> None:
    write(tmp_path / "train", {"b": 10, "a": 5})
    train, test = (load_images(config(tmp_path), part) for part in PARTS)
    assert (train.labels.bincount().tolist(), test.labels.bincount().tolist()) == ([5, 8], [0, 2])


def test_a_class_called_train(tmp_path: Path) -> None:
    write(tmp_path, {"train": 5, "bus": 5})
    assert "a part by name" in refused(tmp_path)
    assert load_images(config(tmp_path, train_folder="."), "train").format.class_names == ("bus", "train")


@pytest.mark.parametrize("loading", ["resident", "workers"])
def test_statistics_of_the_training_part(tmp_path: Path, loading: Any) -> None:
    root = write(tmp_path, {"a": 10, "b": 10}, [(9, 7), (20, 30)])
    settings = config(root, loading=loading, size=8)
    train, test = (load_images(settings, part) for part in PARTS)
    assert (train.format.mean, train.format.std) == channel_statistics(train.pixels())
    assert test.format == train.format
    # Once known they are kept, whatever the images are.
    known = replace(train.format, mean=(0.1, 0.2, 0.3))
    assert load_images(settings, "train", known=known).format == known
    limited = replace(settings, limit=4)
    train, test = (load_images(limited, part) for part in PARTS)
    assert (len(train), len(test), test.format) == (4, 6, train.format)


def test_gray_images(tmp_path: Path) -> None:
    images = load_images(config(write(tmp_path, {"a": 9, "b": 9}), gray=True), "train")
    assert images.pixels().shape == (len(images), 1, 7, 9) and len(images.format.mean) == 1


# --------------------------------------------------------------------------------------------------------- what is wrong


def refused(root: Path, **fields: Any) -> str:
    """Both parts say the same."""
    said = []
    for part in PARTS:
        with pytest.raises(ValueError) as caught:
            load_images(config(root, **fields), part)
        said.append(str(caught.value))
    assert said[0] == said[1] and "\n" not in said[0]
    return said[0]


def test_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    advice = "; name a folder that has one folder of images for each class"
    assert refused(tmp_path / "absent") == f"data.root: {tmp_path}/absent: there is no such folder{advice}"
    assert refused(tmp_path / "file") == f"data.root: {tmp_path}/file: is a file{advice}"


def test_no_images(tmp_path: Path) -> None:
    expected = "expected are folders with images in them, one for each class, such as cats/1.jpg and dogs/1.jpg"
    message = f"data.root: {tmp_path}: no images found; {expected}, in it or in a folder train in it"
    assert refused(tmp_path) == message
    (tmp_path / "train/cats").mkdir(parents=True)
    (tmp_path / "train/cats/notes.txt").touch()
    write(tmp_path / "val", {"cats": 3, "dogs": 3})
    assert refused(tmp_path) == message


def test_one_class(tmp_path: Path) -> None:
    write(tmp_path, {"cats": 5, "dogs": 0})
    assert refused(tmp_path).startswith(f"data.root: {tmp_path}: only one class, 'cats', has images; expected are folders ")


def test_a_class_that_is_not_trained(tmp_path: Path) -> None:
    write(tmp_path / "train", {"cat": 2, "dog": 2})
    write(tmp_path / "val", {"cat": 2, "owl": 2})
    expected = f"data.root: {tmp_path}/val/owl: the training part has no class 'owl', only cat, dog"
    assert refused(tmp_path) == expected


def test_an_empty_test_part(tmp_path: Path) -> None:
    write(tmp_path / "train", {"cat": 2, "dog": 2})
    (tmp_path / "val").mkdir()
    assert refused(tmp_path).startswith(f"data.root: {tmp_path}/val: no images found; make folders as those of the ")


def test_images_in_no_folder_of_a_class(tmp_path: Path) -> None:
    Image.new("RGB", (9, 7)).save(tmp_path / "1.png")
    assert refused(tmp_path).startswith(f"data.root: {tmp_path}: 1 images in no folder of a class; expected are folders ")
    write(tmp_path / "train", {"cat": 2, "dog": 2})
    write(tmp_path, {"test": 3})
    assert refused(tmp_path) == (
        f"data.root: {tmp_path}/test: 3 images in no folder of a class; make folders as those of the training part, or have a "
        "share of that part: --data.test_folder none"
    )
    assert len(load_images(config(tmp_path, test_folder="none", test_fraction=0.5, split_seed=1), "train")) < 4


def test_parts_that_were_packed_in_a_folder_more(tmp_path: Path) -> None:
    for part in ("training_set", "test_set"):
        write(tmp_path / part / part, {"cat": 3, "dog": 3})
    said = refused(tmp_path)
    assert "only one class, 'training_set', has images; " in said
    answer = (
        "; if that is the folder of the classes, --data.train_folder training_set/training_set, with --data.test_folder for "
    )
    assert said.endswith(f"{answer}that of the test part")
    assert refused(tmp_path / "test_set", train_folder=f"{tmp_path}/training_set").endswith(
        "; if that is the folder of the classes, --data.train_folder ../training_set/training_set, with --data.test_folder for "
        "that of the test part"
    )
    settings = config(tmp_path, train_folder="training_set/training_set", test_folder="test_set/test_set")
    assert [len(load_images(settings, part)) for part in PARTS] == [6, 6]


def test_a_share_that_leaves_nothing(tmp_path: Path) -> None:
    root = write(tmp_path, {"cat": 2, "dog": 1})
    message = "of 3 images leaves the test part empty; choose another share or another --data.split_seed, or give more images"
    assert refused(root, test_fraction=0.1) == f"data.test_fraction: 0.1 {message}"
    root = write(tmp_path / "more", {"cat": 1, "dog": 8})
    found = []
    for seed in range(10):
        try:
            found.append(names(load_images(config(root, test_fraction=0.5, split_seed=seed, loading="workers"), "train")))
        except ValueError as error:
            assert "leaves class 'cat' of the training part empty" in str(error)
    # With about every other seed the only cat would be in the test part.
    assert 2 <= len(found) <= 8 and all("cat/000.png" in part for part in found)


def test_a_name_that_cannot_be_printed(tmp_path: Path) -> None:
    write(tmp_path, {"cat": 2, "d\nog": 2})
    assert refused(tmp_path) == r"data.root: 'd\nog' is no name for a class, as it cannot be printed; rename the folder"


@pytest.mark.parametrize("loading", ["resident", "workers"])
def test_images_of_several_sizes_need_a_size(tmp_path: Path, loading: Any) -> None:
    root = write(tmp_path, {"cat": 6, "dog": 6}, [(9, 7), (8, 8)])
    for fields in ({}, {"skip_unreadable": True}):
        with pytest.raises(ValueError, match=r"^data\.size: \S+\.png has \dx\d pixels where another image has \dx\d; "):
            load_images(config(root, loading=loading, **fields), "train")
    assert load_images(config(root, loading=loading, size=8), "train").format.shape == (3, 8, 8)


@pytest.mark.parametrize("loading", ["resident", "workers"])
def test_an_unreadable_image_is_named_and_left_out_on_demand(tmp_path: Path, loading: Any) -> None:
    root = write(tmp_path, {"cat": 10, "dog": 10})
    train, test = (load_images(config(root, loading="workers"), part) for part in PARTS)
    assert isinstance(train, ImageFiles) and isinstance(test, ImageFiles)
    broken = [train.files[2], train.files[9], test.files[1]]
    for file in broken:
        Path(file).write_bytes(b"no image")
    for part, file, more in (("train", broken[0], ", and 1 more"), ("test", broken[2], "")):
        with pytest.raises(ValueError) as caught:
            load_images(config(root, loading=loading), part)  # type: ignore[arg-type]
        assert str(caught.value).startswith(f"data.root: {file}: cannot be read as an image (")
        assert str(caught.value).endswith(f"){more}; mend or delete it, or leave such files out, --data.skip_unreadable true")
    log: list[str] = []
    kept = [load_images(config(root, loading=loading, skip_unreadable=True), part, log=log.append) for part in PARTS]
    assert [len(images) for images in kept] == [14, 3]
    shades = kept[0].pixels()[:, 0, 0, 0]
    assert torch.equal(shades.long(), torch.tensor([0, 40])[kept[0].labels])
    assert log[0] == "left out, unreadable: 2 of 16 train images"
    assert [line.split(": ")[1] for line in log[1:3]] == broken[:2]
    assert any(line.startswith(f"left out: {broken[2]}: cannot be read as an image (") for line in log)


def test_a_class_that_cannot_be_read(tmp_path: Path) -> None:
    root = write(tmp_path, {"cat": 5, "dog": 5})
    for file in (root / "dog").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"^data\.root: no image of class 'dog' can be read$"):
        load_images(config(root, skip_unreadable=True), "train", log=lambda line: None)
    for file in (root / "cat").iterdir():
        file.unlink()
        file.symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match=r"^data\.root: no image can be read: .*\(no such file\)$"):
        load_images(config(root), "train")


# Parts and classes


@pytest.mark.parametrize(
    ("train", "test"),
    [
        *(("train", name) for name in ("valid", "validation", "Val", "dev", "TESTING", "test_set")),
        *(("Training", name) for name in ("Test", "validation")),
        ("train2017", "val2017"),
    ],
)
def test_usual_names_of_parts(tmp_path: Path, train: str, test: str) -> None:
    write(tmp_path / train, {"b": 4, "a": 3})
    write(tmp_path / test, {"b": 2})
    parts = [load_images(config(tmp_path), part) for part in PARTS]
    assert [images.labels.bincount(minlength=2).tolist() for images in parts] == [[3, 4], [0, 2]]
    for images in parts:
        assert images.format.class_names == ("a", "b")
        assert images.notes == (
            f"training part: {tmp_path}/{train}; test part: {tmp_path}/{test}, 2 files",
            "the test part has no image of a",
        )


def test_a_validation_part_beside_a_test_part_is_left_out(tmp_path: Path) -> None:
    for name in ("train", "valid", "test"):
        write(tmp_path / name, {"b": 4, "a": 3})
    (tmp_path / "train/cats").mkdir()
    (tmp_path / "train/notes.txt").touch()
    Image.new("RGB", (9, 7)).save(tmp_path / "train/loose.png")
    images = load_images(config(tmp_path), "test")
    assert images.notes == (
        f"training part: {tmp_path}/train; test part: {tmp_path}/test, 7 files",
        "left out, neither training nor test part: valid",
        f"left out, folders without images in {tmp_path}/train: cats",
        f"left out: 1 images in {tmp_path}/train itself, in no folder of a class",
        "left out: 1 files that are no images by their names (.txt 1)",
    )
    assert names(load_images(config(tmp_path, loading="workers", test_folder="valid"), "test")) == {
        *(f"b/{number:03}.png" for number in range(4)),
        *(f"a/{number:03}.png" for number in range(3)),
    }
    share = load_images(config(tmp_path, test_folder="none", split_seed=3), "test")
    assert share.notes[:2] == (
        f"training part: {tmp_path}/train; test part: a share of 0.2 of the files, {len(share)} files",
        "left out, neither training nor test part: test, valid",
    )


@pytest.mark.parametrize(
    ("folders", "question"),
    [
        (
            ("val/a", "val/b", "test/a", "test/b"),
            "val, test: a part to test on by name, but no folder is called train; name the training part with "
            "--data.train_folder FOLDER; if each folder is a class, --data.train_folder .",
        ),
        (
            ("cats", "dogs", "Test/cats", "Test/dogs"),
            "Test: a part to test on by name, but no folder is called train; name the ",
        ),
        (("train/a", "train/b", "Training/a"), "Training, train are each a training part by name; name it with --data.train"),
        (("train/a", "train/b", "val/a", "valid/b"), "val, valid are each a part to test on by name; name it with --data.test"),
        (
            ("train", "test"),
            "test, train: a part by name, but without a folder for each class in it; make such folders, or take it out; if ",
        ),
        (("cats", "dogs", "valid"), "valid: a part by name, but without a folder for each class in it; make such folders, or "),
        (("seg_train/a", "seg_train/b", "seg_test/a"), "seg_test, seg_train: parts or classes? Name the parts with --data.tr"),
        (
            ("train/a", "train/b", "holdout/a", "holdout/b"),
            "holdout has classes of train: is it the test part? Say --data.test_folder holdout, or --data.test_folder none for "
            "a share of the training part",
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_names_that_leave_it_open_are_asked_about(tmp_path: Path, folders: tuple[str, ...], question: str) -> None:
    write(tmp_path, dict.fromkeys(folders, 3))
    assert refused(tmp_path).startswith(f"data.root: {tmp_path}: {question}")


def test_answers_to_the_question(tmp_path: Path) -> None:
    write(tmp_path, dict.fromkeys(("cats", "dogs", "test/cats", "test/dogs"), 5))

    def found(part: Part, **answer: str) -> dict[str, int]:
        images = load_images(config(tmp_path, **answer), part)
        return dict(zip(images.format.class_names, images.labels.bincount(minlength=images.classes).tolist(), strict=True))

    assert found("train", train_folder=".") == {"cats": 4, "dogs": 4, "test": 7}
    assert found("train", train_folder=".", test_folder="test") == {"cats": 5, "dogs": 5}
    assert found("test", train_folder=".", test_folder="test") == {"cats": 5, "dogs": 5}
    assert found("test", train_folder="test", test_folder="none") == {"cats": 1, "dogs": 1}
    assert refused(tmp_path, train_folder="tests") == (
        f"data.train_folder: {tmp_path}/tests: there is no such folder; there are cats, dogs, test"
    )
    assert refused(tmp_path, train_folder="test", test_folder="test").startswith("data.test_folder: ")


def test_parts_within_the_classes_are_asked_about(tmp_path: Path) -> None:
    """Every class has a folder train and a folder test, or every fold has the classes."""
    write(tmp_path, dict.fromkeys(("cats/train", "cats/test", "dogs/train", "dogs/test"), 3))
    assert refused(tmp_path) == (
        f"data.root: {tmp_path}: test, train are in each of cats, dogs: which are the classes? Put the folders of the classes "
        "together, with --data.train_folder FOLDER; if each folder is a class, --data.train_folder ."
    )
    assert len(load_images(config(tmp_path, train_folder=".", test_fraction=0.5), "train").labels.unique()) == 2
    (tmp_path / "cats/train/000.png").rename(tmp_path / "cats/000.png")
    assert load_images(config(tmp_path, test_fraction=0.5), "train").format.class_names == ("cats", "dogs")


def test_classes_do_not_vanish(tmp_path: Path) -> None:
    write(tmp_path, {"cat": 5, "dog": 5, "owl": 0})
    for number in range(2):
        (tmp_path / f"owl/{number}.heic").touch()
    assert refused(tmp_path) == (
        f"data.root: {tmp_path}/owl: has 2 .heic files, which are not read, and no other images; "
        "convert them to PNG or JPEG, or take the folder out"
    )
    Image.new("RGB", (9, 7)).save(tmp_path / "owl/a.jfif", "JPEG")
    Image.new("RGB", (9, 7)).save(tmp_path / "owl/b.jpe", "JPEG")
    images = load_images(config(tmp_path, test_fraction=0.4, split_seed=1), "train")
    assert images.format.class_names == ("cat", "dog", "owl")
    assert images.notes[1:] == (f"left out, of formats that are not read: 2 .heic files in {tmp_path}/owl",)


@pytest.mark.skipif(not listing.is_read(".avif"), reason="this Pillow does not read AVIF")
def test_a_class_of_avif(tmp_path: Path) -> None:
    write(tmp_path, {"cat": 5, "owl": 0})
    for number in range(5):
        Image.new("RGB", (9, 7), (200, 0, 0)).save(tmp_path / f"owl/{number}.avif")
    images = load_images(config(tmp_path), "train")
    assert images.format.class_names == ("cat", "owl")
    assert images.pixels(images.labels.nonzero()[0])[0, 0].float().mean() == pytest.approx(200, abs=3)


def test_one_folder_under_two_names(tmp_path: Path) -> None:
    write(tmp_path, {"cat": 5, "dog": 5})
    (tmp_path / "kitten").symlink_to(tmp_path / "cat")
    ours = f"data.root: {tmp_path}/kitten and {tmp_path}/cat: are the same folder; take one of the two out"
    assert refused(tmp_path) == ours
    write(tmp_path / "parts/train", {"cat": 5, "dog": 5})
    (tmp_path / "parts/test").mkdir()
    (tmp_path / "parts/test/cat").symlink_to(tmp_path / "parts/train/cat")
    assert refused(tmp_path / "parts").endswith("parts/train/cat: are the same folder; take one of the two out")


def test_a_name_in_two_spellings(tmp_path: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    write(tmp_path / "train", {composed: 2, "bar": 2})
    write(tmp_path / "test", {decomposed: 1})
    assert load_images(config(tmp_path), "test").labels.tolist() == [1]
    write(tmp_path / "train", {decomposed: 1})
    assert "there are two folders for class 'caf\u00e9'; put them together" in refused(tmp_path)


def test_a_folder_in_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "photos", {"cat": 2, "dog": 2})
    assert refused(tmp_path).endswith(f"; or is {tmp_path}/photos the folder to name?")


def test_a_line_of_the_classes(tmp_path: Path) -> None:
    images = load_images(config(write(tmp_path, {"cat": 10, "d\u202eog": 5}), limit=9), "train")
    assert in_classes(images) == "9 images of 2 classes: cat 6, d\\u202eog 3"
    assert images.notes[-1] == "data.limit: 9 of 11 training images, the same ones each time"
    form = replace(images.format, class_names=tuple(map(str, range(1000))))
    many = ImageFiles(("",) * 2990, torch.arange(2990) % 1000, Decoding(8, None, False, False), form)
    line = in_classes(many)
    assert line.startswith("2,990 images of 1,000 classes: 0 3, 1 3, ") and line.endswith(", and 980 more of 2 to 3 each")


# 16 bits


def deep(root: Path, most: int, kind: str = "png", largest_of_test: int | None = None) -> Path:
    """Images of 16 bits with values up to `most`, in a training and a test part."""
    random = np.random.default_rng(0)
    for part, top in (("train", most), ("test", largest_of_test or most)):
        for name in ("a", "b"):
            (root / part / name).mkdir(parents=True, exist_ok=True)
            for number in range(3):
                values = random.integers(0, top + 1, (16, 16)).astype(np.uint16)
                values[0, 0] = top
                Image.fromarray(values).save(root / part / name / f"{number}.{kind}")
    return root


@pytest.mark.parametrize("loading", ["resident", "workers"])
@pytest.mark.parametrize(("most", "bits"), [(255, 8), (1000, 10), (4095, 12), (16383, 14), (65535, 16)])
def test_bits_of_the_training_part_hold_for_all(tmp_path: Path, most: int, bits: int, loading: Any) -> None:
    root = deep(tmp_path, most, "tif", largest_of_test=200)
    train, test = (load_images(config(root, gray=True, loading=loading), part) for part in PARTS)
    assert train.format.bits == test.format.bits == bits
    assert test.format == train.format
    assert len(train.pixels().unique()) > 200
    assert int(train.pixels().max()) == round(255 * most / (2**bits - 1))
    assert int(test.pixels().max()) == round(255 * 200 / (2**bits - 1))
    assert f"train images of 16 bits, {bits} of them used: the largest value is {most:,}" in train.notes
    assert (train.format.mean, train.format.std) == channel_statistics(train.pixels())
    # A run keeps them, and its network brings them to an evaluation.
    again = ImageFormat.from_dict(train.format.to_dict())
    assert again == train.format
    later = load_images(config(root, gray=True, loading=loading), "test", known=again, surveyed=True)
    assert torch.equal(later.pixels(), test.pixels())


def test_values_beyond_the_bits_of_the_training_part_are_asked_about(tmp_path: Path) -> None:
    root = deep(tmp_path, 1000, largest_of_test=2000)
    for loading in ("resident", "workers"):
        with pytest.raises(
            ValueError, match=r"^data\.root: .*/test/a/0\.png has a pixel of 2000, beyond the 10 bits that .* --data"
        ):
            load_images(config(root, loading=loading), "test")
    images = load_images(config(root, bits=12), "test")
    assert images.format.bits == 12 and int(images.pixels().max()) == round(255 * 2000 / 4095)


def test_colours_that_lose_their_shades_are_asked_about(tmp_path: Path) -> None:
    import struct
    import zlib

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    def write_png(path: Path, most: int) -> None:
        values = np.random.default_rng(0).integers(0, most + 1, (8, 8, 3)).astype(">u2")
        rows = b"".join(b"\0" + row.tobytes() for row in values)
        head = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
        path.parent.mkdir(parents=True, exist_ok=True)
        parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)

    for name in ("a", "b"):
        for number in range(9):
            write_png(tmp_path / name / f"{number}.png", 4095)
    assert "16 bits a pixel, of which at most 12 are used, and only the upper 8 of the 16 can be read; conv" in refused(
        tmp_path
    )
    assert int(load_images(config(tmp_path, bits=16), "train").pixels().max()) == 15
    for name in ("a", "b"):
        write_png(tmp_path / name / "0.png", 65535)
        write_png(tmp_path / name / "1.png", 65535)
        write_png(tmp_path / name / "2.png", 65535)
    assert int(load_images(config(tmp_path), "train").pixels().max()) > 200
