"""Images that are read from their files."""

import math
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from base.checks import InputError
from training.format import ImageFormat
from training.images import files as image_files
from training.images.files import Decoding, ImageFiles, Mismatch, OfOtherSize, in_memory, survey
from training.images.sets import Crop, channel_statistics, resize

AS_IT_IS = Decoding(None, None, False, False)


def square(size: int, **fields: object) -> Decoding:
    return Decoding(**({"size": size, "shorter": None, "stretch": False, "gray": False} | fields))  # type: ignore[arg-type]


def random_pixels(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Random bytes [H, W, C], or [H, W] of one channel."""
    pixels = np.random.default_rng(height * width).integers(0, 256, (height, width, channels), np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


def saved(path: Path, image: Image.Image, **how: object) -> str:
    image.save(path, **how)
    return str(path)


def new_files(paths: list[str], decoding: Decoding, size: tuple[int, int], classes: int = 2) -> ImageFiles:
    channels = 1 if decoding.gray else 3
    names = tuple(map(str, range(classes)))
    form = ImageFormat((channels, *size), 255.0, (0.0,) * channels, (1.0,) * channels, names)
    return ImageFiles(tuple(paths), torch.arange(len(paths)) % classes, decoding, form)


# -------------------------------------------------------------------------------------------------------------- decoding


def test_an_image_as_it_is(tmp_path: Path) -> None:
    pixels = random_pixels(5, 7)
    path = saved(tmp_path / "a.png", Image.fromarray(pixels))
    read = AS_IT_IS.read(path)
    assert read.dtype == torch.uint8
    assert np.array_equal(read.numpy(), pixels.transpose(2, 0, 1))
    gray = Decoding(None, None, False, True).read(path)
    assert gray.shape == (1, 5, 7)
    # ITU-R 601.
    assert np.abs(gray[0].numpy() - pixels @ [0.299, 0.587, 0.114]).max() <= 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I"])
def test_any_mode_becomes_the_same_colours(tmp_path: Path, mode: str) -> None:
    """An image with a dark and a light half, in shades of grey that every mode has."""
    gray = np.full((6, 8), 255 if mode == "1" else 204, np.uint8)
    gray[:, :4] = 0
    if mode.startswith("I"):
        wide = gray.astype(np.uint16) * 0x101
        image = Image.fromarray(wide if mode == "I;16" else wide.astype(np.int32))
    else:
        image = Image.fromarray(gray).convert("RGB").convert(mode)
    path = saved(tmp_path / f"a.{'tif' if mode in ('CMYK', 'YCbCr', 'I') else 'png'}", image)
    for channels in (1, 3):
        read = Decoding(None, None, False, channels == 1).read(path)
        assert read.shape == (channels, 6, 8)
        assert (read.int() - torch.from_numpy(gray).int()).abs().max() <= 1


def test_what_is_transparent_is_white(tmp_path: Path) -> None:
    pixels = np.zeros((2, 3, 4), np.uint8)
    pixels[:, 1, 3], pixels[:, 2, 3] = 255, 51
    path = saved(tmp_path / "a.png", Image.fromarray(pixels))
    assert AS_IT_IS.read(path)[:, 0].tolist() == [[255, 0, 204]] * 3
    palette = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    palette.putpalette([255, 0, 0, 0, 0, 255])
    assert AS_IT_IS.read(saved(tmp_path / "p.png", palette, transparency=1))[:, 0].T.tolist() == [[255, 0, 0], [255, 255, 255]]
    keyed = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    assert AS_IT_IS.read(saved(tmp_path / "k.png", keyed, transparency=(4, 5, 6)))[:, 0].T.tolist() == [[1, 2, 3], [255] * 3]


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_photograph_is_turned_upright(tmp_path: Path, suffix: str) -> None:
    pixels = np.zeros((24, 16, 3), np.uint8)
    pixels[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the top of the scene is on the right of what is stored
    stored = Image.fromarray(np.rot90(pixels).copy())
    read = AS_IT_IS.read(saved(tmp_path / f"a.{suffix}", stored, exif=exif))
    assert read.shape == (3, 24, 16)
    assert (read.int() - torch.from_numpy(pixels.transpose(2, 0, 1)).int()).abs().max() <= 8


def test_pixels_without_a_largest_value_are_refused(tmp_path: Path) -> None:
    for name, values in (("f", np.array([[0.5, 1e9]], np.float32)), ("i", np.array([[-1, 7]], np.int32))):
        path = saved(tmp_path / f"{name}.tif", Image.fromarray(values))
        with pytest.raises(ValueError, match=rf"{name}\.tif: cannot be read as an image \(pixels of mode .*; an \.npz file"):
            AS_IT_IS.read(path)


@pytest.mark.parametrize("stretch", [False, True])
@pytest.mark.parametrize("shorter", [None, 20])
def test_size_as_for_arrays(tmp_path: Path, stretch: bool, shorter: int | None) -> None:
    """A smooth image comes out as `resize` makes it, up to what the filters differ in."""
    y, x = np.mgrid[0:60, 0:90] / 90
    pixels = (255 * np.stack([x, y, (x + y) / 2], -1)).astype(np.uint8)
    path = saved(tmp_path / "a.png", Image.fromarray(pixels))
    read = Decoding(12, shorter, stretch, False).read(path)
    expected = resize(torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None], 12, stretch, shorter)[0]
    assert read.shape == (3, 12, 12)
    assert (read.int() - expected.int()).abs().max() <= 8


def test_the_margin_is_cut_off_images_of_the_right_size_too(tmp_path: Path) -> None:
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[4:12, 4:12] = 200
    path = saved(tmp_path / "a.png", Image.fromarray(pixels))
    # The middle half; only at its edge the filter mixes in what lies around it.
    read = square(16, shorter=32).read(path)
    assert read[:, 1:-1, 1:-1].unique().tolist() == [200] and read.min() > 100
    assert np.array_equal(square(16).read(path).numpy(), pixels.transpose(2, 0, 1))


def test_a_large_photograph_is_decoded_at_a_fraction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    y, x = np.mgrid[0:1200, 0:1600] / 1600
    smooth = Image.fromarray((255 * np.stack([x, y, 1 - x], -1)).astype(np.uint8))
    path = saved(tmp_path / "a.jpg", smooth, quality=95)
    sizes = []
    resized = Image.Image.resize

    def recorded(self: Image.Image, *arguments: object, **fields: object) -> Image.Image:
        sizes.append(self.size)
        return resized(self, *arguments, **fields)  # type: ignore[arg-type]

    monkeypatch.setattr(Image.Image, "resize", recorded)
    whole = square(64, stretch=True).read(path)
    assert sizes.pop(0) == (200, 150)
    expected = torch.from_numpy(np.asarray(smooth.resize((64, 64), Image.Resampling.BOX)).transpose(2, 0, 1).astype(int))
    assert (whole.int() - expected).abs().max() <= 4
    sizes.clear()
    # A part of a 64th of the area is an eighth of the side, 150 pixels: decoded at a half it has the 64 that are needed.
    square(64).read(path, Crop(1 / 64, 1.0, 0.5, 0.5))
    assert sizes[0] == (800, 600)


def test_a_part_of_an_image(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None] * 4, (64, 64, 3)).copy()
    path = saved(tmp_path / "a.png", Image.fromarray(ramp))
    read = AS_IT_IS.read(path, Crop(0.25, 1.0, 0.0, 1.0))
    # Columns 32 to 63, drawn out to 64.
    expected = 4 * (32 - 0.25 + 0.5 * np.arange(64))
    assert np.abs(read[0, 0].numpy()[1:-1] - expected[1:-1]).max() <= 1
    assert read.shape == (3, 64, 64)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff\xe0"])
def test_no_image(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a\nb.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^[^\n]*a b\.png: cannot be read as an image \([^\n]+\)$"):
        AS_IT_IS.read(str(path))


def test_a_truncated_image(tmp_path: Path) -> None:
    for suffix in ("jpg", "png"):
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(random_pixels(40, 40)).save(path)
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(ValueError, match=rf"a\.{suffix}: cannot be read as an image \([^\n]*truncated"):
            AS_IT_IS.read(str(path))


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere")
    for name in ("pipe.png", "link.png", "absent.png"):
        with pytest.raises(ValueError, match=rf"{name}: cannot be read as an image \(no such file\)$"):
            AS_IT_IS.read(str(tmp_path / name))


# ----------------------------------------------------------------------------------------------------------------- files


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    """Five images of 6x9 pixels."""
    return [saved(tmp_path / f"{number}.png", Image.fromarray(random_pixels(9 + number, 6)[:9])) for number in range(5)]


def test_files_are_images(paths: list[str]) -> None:
    files = new_files(paths, AS_IT_IS, (9, 6))
    every = torch.stack([AS_IT_IS.read(path) for path in paths])
    assert len(files) == 5 and files.classes == 2
    assert torch.equal(files.pixels(), every)
    assert torch.equal(files.pixels(torch.tensor([3, 1])), every[[3, 1]])
    taken = files.take(torch.tensor([4, 0, 3]))
    assert torch.equal(taken.pixels(), every[[4, 0, 3]]) and taken.labels.tolist() == [0, 0, 1]
    assert files.pixels(torch.empty(0, dtype=torch.int64)).shape == (0, 3, 9, 6)
    crop = Crop(0.5, 1.0, 0.2, 0.7)
    assert torch.equal(files.crops(torch.tensor([2]), [crop])[0], AS_IT_IS.read(paths[2], crop))


def test_images_of_other_sizes_need_a_size(paths: list[str], tmp_path: Path) -> None:
    paths.append(saved(tmp_path / "other.png", Image.fromarray(random_pixels(4, 8))))
    message = (
        r"^data\.size: .*other\.png has 8x4 pixels where another image has 6x9; images of different sizes need one that all "
        r"are brought to, such as --data\.size 64$"
    )
    files = new_files(paths, AS_IT_IS, (9, 6))
    with pytest.raises(OfOtherSize, match=message):
        files.pixels()
    with pytest.raises(ValueError, match=message):
        survey(files, keep=True, workers=1)
    assert new_files(paths, square(8), (8, 8)).pixels().shape == (6, 3, 8, 8)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("keep", [False, True])
def test_a_survey(paths: list[str], tmp_path: Path, workers: int, keep: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "WORTH_WORKERS", 1 if workers else 10**9)
    monkeypatch.setattr(image_files, "AT_ONCE", 2)
    good = list(paths)
    for place in (1, 4):
        (tmp_path / f"bad{place}.png").write_bytes(b"no image")
        paths.insert(place, str(tmp_path / f"bad{place}.png"))
    files = new_files(paths, AS_IT_IS, (9, 6))
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    found = survey(files, keep, workers=2)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
    every = torch.stack([AS_IT_IS.read(path) for path in good])
    assert found.readable.tolist() == [0, 2, 3, 5, 6]
    assert [line.split(": ")[0][-8:] for line in found.unreadable] == ["bad1.png", "bad4.png"]
    assert (found.mean, found.std) == channel_statistics(every)
    if not keep:
        assert found.pixels is None
        return
    kept = in_memory(files, found)
    assert torch.equal(kept.images, every)
    assert torch.equal(kept.labels, files.labels[found.readable])
    assert kept.format == files.format


def test_a_survey_of_nothing_that_can_be_read(tmp_path: Path) -> None:
    found = survey(new_files([str(tmp_path / "absent.png")], square(4), (4, 4)), keep=True, workers=1)
    assert len(found.readable) == 0 and len(found.unreadable) == 1
    assert all(math.isfinite(value) for value in (*found.mean, *found.std))


# Depth, sizes, several pictures


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_the_bits_that_are_used_become_all_shades(tmp_path: Path, bits: int) -> None:
    most = 2**bits - 1
    values = np.linspace(0, most, 2**12).round().astype(np.uint16).reshape(64, 64)
    path = saved(tmp_path / "a.png", Image.fromarray(values))
    read = Decoding(None, None, False, True, bits).read(path)[0].numpy()
    assert np.array_equal(read, np.floor(values.astype(np.float64) * 255 / most + 0.5))
    assert len(np.unique(read)) == 256
    if bits < 16:
        with pytest.raises(
            Mismatch, match=rf"^data\.root: {path} has a pixel of {2 * most + 1}, beyond the {bits} bits .*--data"
        ):
            beyond = saved(tmp_path / "a.png", Image.fromarray(values * 2 + 1))
            Decoding(None, None, False, True, bits).read(beyond)


def test_an_image_of_too_many_pixels_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "MOST_PIXELS", 64 * 64)
    large = Image.new("RGB", (65, 64))
    png, jpeg = saved(tmp_path / "a.png", large), saved(tmp_path / "a.jpg", large)
    for decoding in (AS_IT_IS, square(8)):
        with pytest.raises(
            InputError, match=r"a\.png: cannot be read as an image \(65x64 pixels, more than the 4,096 that are"
        ):
            decoding.read(png)
    # A JPEG is decoded at an eighth of its size.
    assert square(8).read(jpeg).shape == (3, 8, 8)


def test_files_of_several_pictures_are_counted(tmp_path: Path) -> None:
    frames = [Image.new("L", (8, 8), shade) for shade in (10, 200)]
    paths = [saved(tmp_path / f"a.{kind}", frames[0], save_all=True, append_images=frames[1:]) for kind in ("gif", "tiff")]
    paths += [saved(tmp_path / f"b.{kind}", frames[0]) for kind in ("gif", "tiff", "png", "webp")]
    found = survey(new_files(paths, Decoding(None, None, False, True), (8, 8)), keep=True, workers=1)
    assert found.several == 2 and found.pixels is not None
    assert found.pixels.unique().tolist() == [10]
