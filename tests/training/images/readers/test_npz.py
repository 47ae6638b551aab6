"""Arrays in a NumPy file."""

import io
import os
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training.images.data import DataConfig, Part, load_images
from training.images.readers import npz
from training.images.readers.npz import standardisation
from training.images.sets import ImageSet, channel_statistics

WHOLE = "must be whole numbers, the classes counted from 0, not "
PARTS: tuple[Part, ...] = ("train", "test")


def arrays(**changed: Any) -> dict[str, Any]:
    """20 images of 6x5 pixels in colour to train, 8 to test, three classes. None: the array is not there."""
    random = np.random.default_rng(0)
    good = {
        "x_train": random.integers(0, 256, (20, 6, 5, 3), np.uint8),
        "y_train": np.arange(20) % 3,
        "x_test": random.integers(0, 256, (8, 6, 5, 3), np.uint8),
        "y_test": np.arange(8) % 3,
    }
    return {name: array for name, array in (good | changed).items() if array is not None}


def load(path: Path, part: Part, **fields: Any) -> ImageSet:
    images = load_images(DataConfig("npz", str(path), **fields), part)
    assert isinstance(images, ImageSet)
    return images


def saved(tmp_path: Path, compressed: bool = False, **changed: Any) -> Path:
    path = tmp_path / "images.npz"
    (np.savez_compressed if compressed else np.savez)(path, **arrays(**changed))
    return path


@pytest.mark.parametrize("compressed", [False, True])
def test_bytes_in_colour(tmp_path: Path, compressed: bool) -> None:
    path, given = saved(tmp_path, compressed), arrays()
    train, test = (load(path, part) for part in PARTS)
    for images, part in ((train, "train"), (test, "test")):
        assert np.array_equal(images.images.numpy(), given[f"x_{part}"].transpose(0, 3, 1, 2))
        assert np.array_equal(images.labels.numpy(), given[f"y_{part}"])
        assert images.images.is_contiguous()
    assert train.format == test.format
    assert (train.mean, train.std) == channel_statistics(train.images)
    assert train.format.class_names == ("0", "1", "2")


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4"])
def test_floating_numbers_in_gray(tmp_path: Path, dtype: str) -> None:
    pixels = np.random.default_rng(1).normal(3, 2, (20, 6, 5)).astype(dtype)
    train = load(saved(tmp_path, x_train=pixels, x_test=pixels[:8]), "train")
    assert train.images.dtype == torch.float32 and train.format.scale == 1
    assert np.array_equal(train.images[:, 0].numpy(), pixels.astype(np.float32))
    assert train.mean == pytest.approx((pixels.astype(np.float64).mean(),), abs=1e-3)


@pytest.mark.parametrize(
    "labels", [np.arange(20, dtype=np.uint8)[:, None] % 3, np.arange(20, dtype=">i8") % 3, np.arange(20, dtype="u8") % 3]
)
def test_labels_of_any_whole_type(tmp_path: Path, labels: Any) -> None:
    assert load(saved(tmp_path, y_train=labels), "train").labels.tolist() == [label % 3 for label in range(20)]


def test_fortran_order(tmp_path: Path) -> None:
    pixels = np.asfortranarray(arrays()["x_train"])
    assert np.array_equal(load(saved(tmp_path, x_train=pixels), "train").images.numpy(), pixels.transpose(0, 3, 1, 2))


def test_parts_of_two_sizes_need_a_size(tmp_path: Path) -> None:
    path = saved(tmp_path, x_test=np.zeros((8, 9, 9, 3), np.uint8))
    with pytest.raises(ValueError, match=r": x_train and x_test: must be of one size, or .* --data\.size, not 6x5 and 9x9$"):
        load(path, "train")
    assert load(path, "test", size=4).images.shape == (8, 3, 4, 4)


def objects() -> np.ndarray[Any, Any]:
    made = np.empty(20, object)
    made[:] = [[1]] * 20
    return made


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"y_test": None}, "has no array y_test, only x_test, x_train, y_train; write it with numpy.savez, arrays x_train, "),
        ({"x_train": objects()}, "x_train: holds Python objects, which are never unpickled; save an array of numbers"),
        ({"y_train": objects()}, "y_train: holds Python objects, which are never unpickled; save an array of numbers"),
        ({"y_train": np.arange(20) / 2}, f"y_train: {WHOLE}float64; numbers to be predicted are for --task regression"),
        ({"y_train": np.arange(20) % 2 == 0}, "y_train: must be whole numbers, the classes counted from 0, not bool"),
        ({"y_train": np.array(list("abcd" * 5))}, "y_train: must be whole numbers, the classes counted from 0, not <U1"),
        ({"y_train": np.eye(20, dtype=int)}, "y_train: must be one label an image, [N], not [20, 20]"),
        ({"y_train": np.arange(20) % 3 - 1}, "y_train: label -1 is out of range; classes are counted from 0"),
        ({"y_train": np.full(20, 2**63, "u8")}, "y_train: label 9223372036854775808 is out of range; "),
        ({"y_train": np.arange(20) % 3 * 2}, "y_train: class 1 has no images and 4 has some; count classes"),
        ({"y_train": np.zeros(20, int)}, "y_train: all images are of one class; at least two are needed"),
        ({"y_train": np.arange(19) % 3}, "x_train has 20 images and y_train 19 labels"),
        ({"y_train": np.zeros(0, int)}, "y_train: has no labels"),
        ({"y_test": np.zeros(0, int)}, "y_test: has no labels"),
        ({"y_test": np.arange(8)}, "y_test: label 7 is out of range, the training part has classes 0 to 2"),
        ({"x_train": np.zeros((20, 6, 5, 3), int)}, "x_train: must be uint8 or floating numbers, not int64; convert it with "),
        ({"x_train": np.zeros((20, 6, 5, 3), complex)}, "x_train: must be uint8 or floating numbers, not complex128; "),
        ({"x_train": np.zeros((20, 90), np.uint8)}, "x_train: must be [N, H, W, C], [N, C, H, W] or [N, H, W], not [20, 90]"),
        ({"x_train": np.zeros((20, 0, 5), np.uint8)}, "x_train: must be [N, H, W, C], [N, C, H, W] or [N, H, W], not ["),
        ({"x_train": np.zeros((20, 40, 32, 32), np.uint8)}, "x_train: [20, 40, 32, 32] would be 32 channels, or 40; "),
        ({"x_train": np.zeros((20, 6, 5), np.uint8)}, "x_train and x_test: must have as many channels, not 1 and 3"),
        ({"x_train": np.zeros((20, 6, 5, 3))}, "x_train and x_test: must be of one type, not float64 and uint8"),
        ({"x_train": np.full((20, 6, 5, 3), np.nan), "x_test": np.zeros((8, 6, 5, 3))}, "x_train: image 0 has pixels that are"),
        (
            {"x_train": np.ones((20, 6, 5, 3)), "x_test": np.array([0, 1e39] * 360).reshape(8, 6, 5, 3)},
            "x_test: image 0 has pixels that are NaN or infinite",
        ),
    ],
    ids=range(24),
)  # fmt: skip
def test_arrays_that_are_wrong(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    path = saved(tmp_path, **changed)
    for part in PARTS:
        with pytest.raises(ValueError) as caught:
            load(path, part)
        assert str(caught.value).startswith(f"data.root: {path}: {message}")


# Numbers


def numbers_of(path: Path, part: Part, **fields: Any) -> ImageSet:
    images = load_images(DataConfig("npz", str(path), **fields), part, numbers=True)
    assert isinstance(images, ImageSet)
    return images


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f8", "i4", "u8", "i1"])
@pytest.mark.parametrize("width", [None, 1, 3])
def test_numbers_of_any_type(tmp_path: Path, dtype: str, width: int | None) -> None:
    shape = (20,) if width is None else (20, width)
    y = np.random.default_rng(2).integers(0, 90, shape).astype(dtype)
    path = saved(tmp_path, y_train=y, y_test=y[:8])
    train, test = (numbers_of(path, part) for part in PARTS)
    expected = y.astype(np.float64).reshape(20, -1)
    assert np.array_equal(train.labels.numpy(), expected) and np.array_equal(test.labels.numpy(), expected[:8])
    assert train.format.values is not None and train.format == test.format
    assert train.format.values.mean == pytest.approx(tuple(expected.mean(0)))
    assert train.format.values.std == pytest.approx(tuple(expected.std(0)))
    assert train.format.class_names == (("y0", "y1", "y2") if width == 3 else ("y",))
    taken = train.take(torch.tensor([5, 2]))
    assert np.array_equal(taken.labels.numpy(), expected[[5, 2]]) and taken.format == train.format


def test_prints_tell_other_numbers(tmp_path: Path) -> None:
    y = np.arange(20) / 7
    first = numbers_of(saved(tmp_path, y_train=y, y_test=y[:8]), "train").prints
    y[3] += 1e-9
    other = numbers_of(saved(tmp_path, y_train=y, y_test=y[:8]), "train").prints
    assert first is not None and other is not None
    assert first.fingerprint != other.fingerprint and other.change(first) == "1 labelled otherwise"


def test_a_limit_takes_any_of_the_numbers(tmp_path: Path) -> None:
    y = np.arange(20) / 7
    images = numbers_of(saved(tmp_path, y_train=y, y_test=y[:8]), "train", limit=5)
    assert len(images) == 5 and set(images.labels[:, 0].tolist()) <= set(y.tolist())
    assert images.format.values == standardisation(torch.from_numpy(y)[:, None])


def test_names_of_numbers_and_of_classes(tmp_path: Path) -> None:
    y = np.random.default_rng(3).normal(size=(20, 2))
    path = saved(tmp_path, y_train=y, y_test=y[:8], y_names=np.array(["age", "height \u00b5m"]))
    assert numbers_of(path, "test").format.class_names == ("age", "height \u00b5m")
    assert load(saved(tmp_path, y_names=np.array(["cat", "dog", "owl"])), "train").class_names == ("cat", "dog", "owl")
    for names in (np.array(["cat", "dog"]), np.array(["cat", "dog", "cat"]), np.array(["cat", "dog", ""]), np.arange(3)):
        with pytest.raises(ValueError, match="y_names: "):
            load(saved(tmp_path, y_names=names), "train")


Y = np.arange(20) / 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"y_train": np.where(Y == 1, np.nan, Y)}, "y_train: image 3 has a number that is NaN, infinite or beyond 1e+30"),
        ({"y_test": np.array([0, 1, np.inf, 2, 3, 4, 5, 6])}, "y_test: image 2 has a number that is NaN, infinite or beyond"),
        ({"y_train": Y * 1e40}, "y_train: image 1 has a number that is NaN, infinite or beyond 1e+30"),
        ({"y_train": np.full(20, 0.1)}, "y_train: the number is the same in all images; there is nothing to learn"),
        ({"y_train": 1e6 + Y * 1e-12}, "y_train: the number is the same in all images; there is nothing to learn"),
        ({"y_train": Y * 1e-40}, "y_train: the number is the same in all images; there is nothing to learn"),
        (
            {"y_train": np.stack([Y, Y * 0], 1), "y_test": np.ones((8, 2))},
            "y_train: number 1, counted from 0, is the same in all images; there is nothing to learn",
        ),
        ({"y_train": np.stack([Y, Y], 1)}, "y_train and y_test: must have as many numbers an image, not 2 and 1"),
        ({"y_train": Y > 3}, "y_train: must be numbers, floating or whole, not bool"),
        ({"y_train": Y + 1j}, "y_train: must be numbers, floating or whole, not complex128"),
        ({"y_train": Y.astype(str)}, "y_train: must be numbers, floating or whole, not <U"),
        ({"y_train": np.zeros((20, 2, 2))}, "y_train: must be one number an image, [N], or some, [N, numbers], not [20, 2, 2]"),
        ({"y_train": np.zeros((20, 0))}, "y_train: must be one number an image, [N], or some, [N, numbers], not [20, 0]"),
        ({"y_train": Y[:19]}, "x_train has 20 images and y_train 19 labels"),
        ({"y_test": np.zeros(0)}, "y_test: has no labels"),
        ({"y_train": objects()}, "y_train: holds Python objects, which are never unpickled; save an array of numbers"),
        ({"y_names": np.array([None])}, "y_names: holds Python objects, which are never unpickled"),
        ({"y_names": np.array(["a", "b"])}, "y_names: must be 1 text, one for each output, not <U1 [2]"),
    ],
    ids=range(18),
)
def test_numbers_that_are_wrong(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    path = saved(tmp_path, **({"y_train": Y, "y_test": Y[:8]} | changed))
    for part in PARTS:
        with pytest.raises(ValueError) as caught:
            numbers_of(path, part)
        assert str(caught.value).startswith(f"data.root: {path}: {message}")


def test_a_data_set_of_classes_has_no_numbers() -> None:
    with pytest.raises(
        ValueError, match=r"^data.name: digits has classes and no numbers to be predicted; a regression takes npz$"
    ):
        load_images(DataConfig("digits"), "train", numbers=True)
    with pytest.raises(ValueError, match=r"^data.name: unknown data set with numbers 'digit'; known: npz"):
        load_images(DataConfig("digit"), "train", numbers=True)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((3, 8, 8), "nchw"),
        ((1, 16, 16), "nchw"),
        ((1, 12, 9), "nchw"),
        ((3, 32, 32), "nchw"),
        ((2, 7, 7), "nchw"),
        ((3, 4, 4), "nchw"),
        ((1, 3, 3), "nchw"),
        ((5, 20, 30), "nchw"),
        ((8, 8, 3), "nhwc"),
        ((12, 9, 1), "nhwc"),
        ((8, 8, 2), "nhwc"),
        ((4, 4, 3), "nhwc"),
        ((3, 3, 1), "nhwc"),
        ((20, 30, 5), "nhwc"),
    ],
)
def test_axes_that_are_unmistakable(tmp_path: Path, shape: tuple[int, ...], axes: str) -> None:
    x = np.random.default_rng(0).integers(1, 256, (28, *shape), np.uint8)
    path = saved(tmp_path, x_train=x[:20], x_test=x[20:])
    images = load(path, "test")
    assert np.array_equal(images.images.numpy(), x[20:] if axes == "nchw" else x[20:].transpose(0, 3, 1, 2))
    written = f"[{', '.join(axes.upper())}]"
    assert images.notes == (
        "training part: x_train, y_train; test part: x_test, y_test, 8 images",
        f"x_train {[20, *shape]} is read as {written}, uint8",
    )


@pytest.mark.parametrize("shape", [(3, 3, 3), (4, 16, 4), (9, 8, 7), (3, 8, 3), (2, 7, 2)])
def test_axes_that_may_be_either_are_asked_about(tmp_path: Path, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).integers(1, 256, (28, *shape), np.uint8)
    path = saved(tmp_path, x_train=x[:20], x_test=x[20:])
    with pytest.raises(ValueError) as caught:
        load(path, "train")
    question = "may be [N, H, W, C] or [N, C, H, W]; which is it? --data.layout nhwc or nchw"
    assert str(caught.value) == f"data.root: {path}: x_train: {[20, *shape]} {question}"
    assert np.array_equal(load(path, "train", layout="nchw").images.numpy(), x[:20])
    assert np.array_equal(load(path, "train", layout="nhwc").images.numpy(), x[:20].transpose(0, 3, 1, 2))


def test_parts_of_two_ranges(tmp_path: Path) -> None:
    x = arrays()["x_train"]
    path = saved(tmp_path, x_train=x / 255, x_test=x[:8].astype(float))
    with pytest.raises(ValueError, match=r": x_train and x_test: must have pixels of one range, not up to 1 and up to 255$"):
        load(path, "train")
    dark = saved(tmp_path, x_train=x, x_test=x[:8] // 16)
    assert load(dark, "test").images.max() == 15


def test_a_large_file_is_looked_through_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal takes little memory, whatever the file unpacks to."""
    monkeypatch.setattr(npz, "_READ_AT_ONCE", 2**20)
    monkeypatch.setattr(npz, "_A_PIECE", 2**18)
    x = np.zeros((20_000, 8, 8), np.float32)
    x[19_000, 3, 3] = np.inf
    y = np.arange(20_000) % 3
    for order in ("C", "F"):
        path = saved(tmp_path, True, x_train=np.asarray(x, order=order), y_train=y, x_test=x[:8], y_test=y[:8])
        tracemalloc.start()
        with pytest.raises(ValueError, match=r"x_train: image 19000 has pixels that are NaN or infinite"):
            load(path, "train")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < x.nbytes
    labels = saved(tmp_path, True, x_train=x, y_train=y % 2 * 2, x_test=x[:8], y_test=y[:8])
    tracemalloc.start()
    with pytest.raises(ValueError, match="y_train: class 1 has no images"):
        load(labels, "train")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < x.nbytes


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.target),)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    made = np.empty(20, object)
    made[:] = [Bomb(tmp_path / "pwned")] * 20
    path = saved(tmp_path, y_train=made)
    with pytest.raises(ValueError, match="never unpickled"):
        load(path, "train")
    path.write_bytes(path.read_bytes().replace(b"'|O'", b"'i8'"))  # a header that lies
    with pytest.raises(ValueError, match=r"^data\.root: "):
        load(path, "train")
    assert not (tmp_path / "pwned").exists()


def test_no_such_file(tmp_path: Path) -> None:
    advice = r"; name an \.npz file that holds x_train, y_train, x_test, y_test$"
    with pytest.raises(ValueError, match=rf"^data\.root: .*absent\.npz: there is no such file{advice}"):
        load(tmp_path / "absent.npz", "train")
    with pytest.raises(ValueError, match=rf"^data\.root: {tmp_path}: is a folder{advice}"):
        load(tmp_path, "train")


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x05\x06" + bytes(18), b"\x93NUMPY\x01\x00"])
def test_no_npz_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"^data\.root: [^\n]*a\.npz: [^\n]*(no \.npz file|has no array x_train)[^\n]*$"):
        load(tmp_path / "a.npz", "train")


def with_member(path: Path, content: bytes, **how: Any) -> Path:
    """An .npz whose x_train.npy is `content`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays(x_train=None).items():
            buffer = io.BytesIO()
            np.save(buffer, array)
            archive.writestr(f"{name}.npy", buffer.getvalue())
        archive.writestr("x_train.npy", content, **how)
    return path


def header(text: str) -> bytes:
    padded = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 6, 5, 3)}"), "cut short, its header says"),
        (header("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, -6, 5, 3)}"), "cut short, its header says"),
        (header("{'descr': '|V0', 'fortran_order': False, 'shape': (1000000000000,)}"), "must be uint8 or floating numbers"),
        (header("{'descr': '<f8', 'fortran_order': False, 'shape': (0, " + 40 * "9" + ")}"), "data.root: "),
        (header("__import__('os').mkdir('pwned')"), "x_train: damaged, its header cannot be read"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", "x_train: damaged, its header cannot be read"),
        (b"\x93NUMPY\x02\x00\x40\x4b\x4c\x00" + 5_000_000 * b" ", "x_train: damaged, its header cannot be read"),
        (b"\x93NUMPY\x09\x00", "x_train: damaged, its header cannot be read"),
        (b"no array", "x_train: damaged, its header cannot be read"),
    ],
    ids=range(9),
)
def test_headers_that_lie(tmp_path: Path, content: bytes, message: str) -> None:
    path = with_member(tmp_path / "a.npz", content)
    with pytest.raises(ValueError) as caught:
        load(path, "train")
    assert str(caught.value).startswith(f"data.root: {path}: ") and message in str(caught.value)
    assert "\n" not in str(caught.value) and "allow_pickle" not in str(caught.value)


def test_more_than_the_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path, True, x_train=np.zeros((20, 500, 500, 3), np.uint8), x_test=np.zeros((8, 500, 500, 3), np.uint8))
    load(path, "test")
    monkeypatch.setattr(npz, "available_memory", lambda: 41 * 500 * 500 * 3)
    with pytest.raises(ValueError, match=r": to read its arrays takes 0\.0 GiB and 0\.0 GiB of memory are free; a folder of "):
        load(path, "test")


def test_a_size_that_its_bytes_cannot_have(tmp_path: Path) -> None:
    path = saved(tmp_path, True)
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02")  # the directory's entry of the first array
    content[place + 24 : place + 28] = (2**32 - 2).to_bytes(4, "little")
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r": x_train\.npy: damaged, \d+ bytes cannot hold 4294967294$"):
        load(path, "train")


def test_other_compression(tmp_path: Path) -> None:
    path = with_member(tmp_path / "a.npz", b"\x93NUMPY" + bytes(10**5), compress_type=zipfile.ZIP_LZMA)
    with pytest.raises(
        ValueError, match=r": x_train\.npy: damaged, or compressed in a way that numpy\.savez_compressed is not$"
    ):
        load(path, "train")
