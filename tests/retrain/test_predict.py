"""Tests of retrain/predict.py, training/tasks/prediction.py and training/images/inputs.py."""

import csv
import itertools
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import retrain.predict
from retrain.config import RetrainConfig
from retrain.evaluate import load_test_images
from retrain.evaluation.networks import Run, network_outputs
from retrain.predict import main
from retrain.weights import Trained
from supernet.discrete import DiscreteNetwork
from supernet.genotypes.genotype import Genotype
from training.format import AS_THEY_ARE, ImageFormat, Resizing, Standardisation
from training.hardware import Hardware
from training.images.data import DataConfig, load_images
from training.images.inputs import Inputs, Paths, PixelReader
from training.run.config import config_to_yaml
from training.tasks.images import ImageData
from training.tasks.task import Task

CELL = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|skip_connect~1|none~2|"
CPU = Hardware(torch.device("cpu"))
Rows = list[dict[str, str]]


def network_for(form: ImageFormat) -> DiscreteNetwork:
    """A network that was not trained, and whose answers differ from image to image."""
    torch.manual_seed(0)
    network = DiscreteNetwork(Genotype.parse(CELL), 4, 1, len(form.class_names), form.shape[0])
    torch.nn.init.normal_(network.head.classifier.weight, std=3)
    for _ in range(20):
        network(torch.randn(32, form.shape[0], 1, 1) + 0.3 * torch.randn(32, *form.shape))
    return network.eval()


def saved(run: Path, data: DataConfig) -> Trained:
    """What a retraining on these images leaves."""
    run.mkdir()
    images = load_images(data, "train")
    trained = Trained(network_for(images.format), images.format, "classification", images.resizing)
    trained.save(run)
    (run / "config.yaml").write_text(config_to_yaml(RetrainConfig(data=data)))
    return trained


def plain(run: Path, form: ImageFormat, resizing: Resizing = AS_THEY_ARE) -> Path:
    """The weights alone of a network for images of that form."""
    run.mkdir()
    Trained(network_for(form), form, "classification", resizing).save(run)
    return run


def form_of(channels: int = 3, side: int = 8, names: tuple[str, ...] = ("a", "b", "c", "d"), **more: Any) -> ImageFormat:
    return ImageFormat((channels, side, side), more.pop("scale", 255.0), (0.4,) * channels, (0.3,) * channels, names, **more)


def rows_of(path: Path) -> Rows:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def check_rows(rows: Rows, names: list[str], logits: torch.Tensor, classes: tuple[str, ...]) -> None:
    """Each row has the three most probable classes of its image, with their probabilities."""
    assert [row["file"] for row in rows] == names
    assert len({row["probability"] for row in rows}) > len(rows) / 2
    columns = ("class", "probability"), ("second", "second_probability"), ("third", "third_probability")
    for row, chances in zip(rows, logits.double().softmax(1), strict=True):
        order = chances.argsort(descending=True, stable=True).tolist()
        for (name, chance), place in zip(columns, order, strict=False):
            assert row[name] == classes[place]
            assert float(row[chance]) == pytest.approx(chances[place].item(), abs=1e-5)
        assert row["error"] == ""


def evaluated(run: Path) -> tuple[list[str], torch.Tensor]:
    """Names and logits of the test images, as `retrain.evaluate` has them."""
    (run / "images.safetensors").unlink(missing_ok=True)
    one = Run.read(run, {})
    (images,) = load_test_images([one], torch.device("cpu"))
    assert images.prints is not None
    return list(images.prints.names), network_outputs(one.trained.network, ImageData(images, CPU), 64, CPU).inputs


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of all formats, modes and sizes, in a training and a test part."""
    root = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    forms = [("jpg", "RGB"), ("jpg", "L"), ("jpg", "CMYK"), ("png", "RGB"), ("png", "RGBA"), ("png", "P"), ("png", "LA")]
    forms += [("png", "1"), ("png", "I;16"), ("gif", "P"), ("bmp", "RGB"), ("tif", "RGB"), ("webp", "RGB"), ("ppm", "RGB")]
    for part, name in itertools.product(("train", "test"), ("a", "b", "c", "d")):
        folder = root / part / name
        (folder / "below").mkdir(parents=True)
        for number, (suffix, mode) in enumerate(forms):
            height, width = random.integers(9, 50, 2)
            noise = random.integers(-60, 61, (height // 4 + 1, width // 4 + 1, 3))
            pixels = np.clip(random.integers(0, 256, 3) + noise, 0, 255).astype(np.uint8)
            image = Image.fromarray(pixels).resize((int(width), int(height)))
            if mode == "I;16":
                image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 16)  # 12 bits
            exif = Image.Exif()
            exif[0x0112] = 6 if suffix == "jpg" else 1  # to be turned
            where = folder / "below" if number % 2 else folder
            (image if mode == "I;16" else image.convert(mode)).save(where / f"{number}.{suffix}", exif=exif)
    return root


WAYS: dict[str, dict[str, Any]] = {
    "crop": {"size": 8},
    "stretch": {"size": 8, "fit": "stretch"},
    "shorter side": {"size": 8, "resize": 12},
    "gray": {"size": 8, "gray": True},
    "bits": {"size": 8, "bits": 16},
    "workers": {"size": 8, "loading": "workers", "workers": 1},
}


@pytest.mark.parametrize("way", WAYS)
def test_files_are_predicted_as_they_are_evaluated(pictures: Path, tmp_path: Path, way: str) -> None:
    """Image by image; what the training had of settings is in the weights, and config.yaml may be absent."""
    run, table = tmp_path / "run", tmp_path / "out.csv"
    trained = saved(run, DataConfig(name="folder", root=str(pictures), **WAYS[way]))
    names, logits = evaluated(run)
    (run / "config.yaml").unlink()
    assert main([str(run), str(pictures / "test"), f"--csv={table}", "--batch_size=10"]) == 0
    check_rows(rows_of(table), [f"{pictures}/{name}" for name in names], logits, trained.format.class_names)


@pytest.mark.parametrize("size", [None, 4, 11])
@pytest.mark.parametrize("resize", [None, 13])
def test_files_of_a_set_in_memory_are_resized_as_it_was(tmp_path: Path, size: int | None, resize: int | None) -> None:
    """Digits as PNG files, one of each class and more; the filter is that of arrays, and not Pillow's."""
    if resize and not size:
        pytest.skip("resize needs size")
    trained = saved(tmp_path / "run", DataConfig(name="digits", size=size, resize=resize))
    _, logits = evaluated(tmp_path / "run")
    digits = load_images(DataConfig(name="digits"), "test").pixels()[:40]
    (tmp_path / "files").mkdir()
    for number, image in enumerate(digits):
        Image.fromarray(image[0].numpy()).save(tmp_path / "files" / f"{number:03}.png")
    assert main([f"{tmp_path}/run", f"{tmp_path}/files", f"--csv={tmp_path}/out.csv"]) == 0
    names = [f"{tmp_path}/files/{number:03}.png" for number in range(40)]
    check_rows(rows_of(tmp_path / "out.csv"), names, logits[:40], trained.format.class_names)


@pytest.mark.parametrize("kind", ["bytes", "colour", "floating", "nchw", "resized"])
def test_arrays_are_predicted_as_they_are_evaluated(tmp_path: Path, kind: str) -> None:
    random = np.random.default_rng(0)
    shape = {"colour": (9, 9, 3), "nchw": (3, 9, 9), "resized": (9, 7, 3)}.get(kind, (9, 9))
    parts = {name: random.integers(0, 256, (30, *shape)).astype(np.uint8) for name in ("x_train", "x_test")}
    if kind == "floating":
        parts = {name: values / 300 for name, values in parts.items()}
    labels = {name: np.arange(30) % 4 for name in ("y_train", "y_test")}
    np.savez(tmp_path / "all.npz", **parts, **labels)
    np.savez(tmp_path / "only.npz", pictures=parts["x_test"])
    size = {"size": 6, "fit": "stretch"} if kind == "resized" else {}
    trained = saved(tmp_path / "run", DataConfig(name="npz", root=str(tmp_path / "all.npz"), **size))
    _, logits = evaluated(tmp_path / "run")
    for file in ("all.npz", "only.npz"):
        assert main([f"{tmp_path}/run", f"{tmp_path}/{file}", f"--csv={tmp_path}/{file}.csv", "--batch_size=7"]) == 0
        names = [f"{tmp_path}/{file}#{number}" for number in range(30)]
        check_rows(rows_of(tmp_path / f"{file}.csv"), names, logits, trained.format.class_names)
    found = trained.predict(parts["x_test"])
    torch.testing.assert_close(found.outputs, logits.double().softmax(1), rtol=0, atol=1e-5)
    assert found[3].name == "3" and found.classes.tolist() == logits.argmax(1).tolist()
    if kind == "resized":  # a network of files resizes arrays as it does files
        by_files = replace(trained, resizing=replace(trained.resizing, filter="bilinear")).predict(parts["x_test"])
        assert not torch.allclose(by_files.outputs, found.outputs, atol=1e-3)


def test_python_takes_folders_files_arrays_and_tensors(pictures: Path, tmp_path: Path) -> None:
    trained = saved(tmp_path / "run", DataConfig(name="folder", root=str(pictures), size=8))
    folder = trained.predict(pictures / "test", batch_size=9)
    assert folder.output_names == ("a", "b", "c", "d") and not folder.errors and folder.is_classifier
    assert [one.name for one in folder] == list(folder.names) and len(folder[:3]) == 3
    most = folder[0].answers
    assert [name for name, _ in most] == [folder.output_names[one] for one in folder.outputs[0].argsort(descending=True)[:3]]
    files = trained.predict([Path(name) for name in folder.names[:5]])
    torch.testing.assert_close(files.outputs, folder.outputs[:5])
    pixels = np.stack([np.asarray(Image.open(pictures / "test/a/10.bmp"))] * 2)
    whole = trained.predict(pictures / "test/a/10.bmp").outputs.expand(2, 4)
    for images in (pixels, torch.from_numpy(pixels), pixels.transpose(0, 3, 1, 2)):
        torch.testing.assert_close(trained.predict(images).outputs, whole)
    assert trained.predict(pixels, layout="nhwc")[1].name == "1"


def test_python_gives_numbers_in_their_unit_for_a_network_of_numbers(tmp_path: Path) -> None:
    form = form_of(1, names=("age", "height"), values=Standardisation((40.0, 1.7), (10.0, 0.1)))
    trained = Trained(network_for(form), form, "regression")
    pixels = torch.randint(256, (5, 8, 8), dtype=torch.uint8)
    with torch.no_grad():
        outputs = trained.network(form.normalised(pixels[:, None])).double()
    expected = outputs * torch.tensor([10, 0.1]).double() + torch.tensor([40, 1.7]).double()
    found = trained.predict(pixels)
    torch.testing.assert_close(found.outputs, expected, rtol=1e-5, atol=1e-5)
    assert [name for name, _ in found[0].answers] == ["age", "height"]
    with pytest.raises(ValueError, match="no classifier"):
        _ = found.classes
    assert Task.answer_columns(form) == ("age", "height")
    cells = Task.answer_cells(form, outputs.float())
    assert cells[2] == pytest.approx(tuple(expected[2].tolist()), rel=1e-5)


def test_a_table_of_numbers_has_a_column_for_each(tmp_path: Path) -> None:
    form = form_of(1, names=("=age", "height"), values=Standardisation((-40.0, 1.7), (0.1, 0.1)))
    trained = Trained(network_for(form), form, "regression")
    (tmp_path / "run").mkdir()
    trained.save(tmp_path / "run")
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8)).astype(np.uint8)
    np.savez(tmp_path / "x.npz", images)
    assert main([f"{tmp_path}/run", f"{tmp_path}/x.npz", f"--csv={tmp_path}/out.csv"]) == 0
    rows = rows_of(tmp_path / "out.csv")
    assert list(rows[0]) == ["file", "'=age", "height", "error"]
    for row, (age, height) in zip(rows, trained.predict(images).outputs.tolist(), strict=True):
        assert (float(row["'=age"]), float(row["height"])) == pytest.approx((age, height), rel=1e-6)  # -40 is no formula


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six images, one of them of another size."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        pixels = np.random.default_rng(number).integers(0, 256, (8 + (number == 5), 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


def test_what_cannot_be_read_has_its_error_in_its_row(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = plain(tmp_path / "run", form_of())
    (photos / "1.png").write_bytes(b"no image")
    (photos / "2.png").write_bytes((photos / "3.png").read_bytes()[:60])
    Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(photos / "3a.png")
    answer = retrain.predict.answer

    def vanished(*arguments: Any) -> Any:
        (photos / "4.png").unlink()
        return answer(*arguments)

    monkeypatch.setattr(retrain.predict, "answer", vanished)
    assert main([str(run), str(photos), f"--csv={tmp_path}/out.csv"]) == 1
    rows = {Path(row["file"]).stem: row for row in rows_of(tmp_path / "out.csv")}
    assert [stem for stem in rows if not rows[stem]["error"]] == ["0", "3"]
    for stem, error in {
        "1": "of no known format",
        "4": "no such file",
        "3a": "has 16 bits a pixel, as no training image had; say how many are used with --data.bits",
        "5": "has 8x9 pixels and the network was trained on 8x8; images are brought to one size with --data.size",
    }.items():
        assert rows[stem]["error"] == error
        assert (rows[stem]["class"], rows[stem]["third_probability"]) == ("", "")
    assert rows["2"]["error"]
    *_, refused, speed, written = capsys.readouterr().out.splitlines()
    assert refused == "5 of 7 images: could not be read"
    assert speed.startswith("7 images in ") and speed.endswith(" images/s")
    assert written == f"written: {tmp_path}/out.csv"


def test_options_say_how_other_images_are_read(photos: Path, tmp_path: Path) -> None:
    run = plain(tmp_path / "run", form_of())
    Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(photos / "gray.png")
    assert main([str(run), str(photos), f"--csv={tmp_path}/out.csv", "--data.size=8", "--data.bits=12"]) == 0
    stretched = replace(Trained.load(run), resizing=Resizing(8, "stretch")).predict(photos / "5.png")
    assert main([str(run), f"{photos}/5.png", f"--csv={tmp_path}/s.csv", "--data.size=8", "--data.fit=stretch"]) == 0
    ((_, chance), *_) = stretched[0].answers
    found = [float(rows_of(tmp_path / name)[place]["probability"]) for name, place in (("s.csv", 0), ("out.csv", 5))]
    assert found[0] == pytest.approx(chance, abs=1e-6) and found[1] != pytest.approx(chance, abs=1e-4)


def test_where_nothing_can_be_read_it_is_said(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = plain(tmp_path / "run", form_of(side=6))
    assert main([str(run), str(photos)]) == 1
    assert "6 of 6 images: none of the images could be read" in capsys.readouterr().out


def test_numbers_that_are_not_finite_spoil_their_image_alone(tmp_path: Path) -> None:
    run = plain(tmp_path / "run", form_of(1, scale=1.0))
    images = np.random.default_rng(0).normal(size=(4, 8, 8))
    images[1, 3, 3] = np.nan
    images[2] = 1e300
    np.savez(tmp_path / "x.npz", images)
    assert main([str(run), f"{tmp_path}/x.npz", f"--csv={tmp_path}/out.csv"]) == 1
    assert [bool(row["error"]) for row in rows_of(tmp_path / "out.csv")] == [False, True, True, False]


def test_a_table_on_the_terminal(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "5.png").unlink()
    run = plain(tmp_path / "run", form_of(names=("a\x1b[2J", "b")))
    assert main([str(run), str(photos)]) == 0
    columns, *rows, counts, _ = capsys.readouterr().out.splitlines()
    assert columns.split() == ["file", "class", "probability", "second", "second_probability"]
    assert len(rows) == 5 and counts.startswith("predicted: ")
    assert "\x1b" not in "".join(rows)
    assert main([str(run), *[f"{photos}/0.png"] * 30]) == 0
    assert "... and 10 more; --csv FILE has all" in capsys.readouterr().out


def test_a_table_is_safe_for_spreadsheets(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = plain(tmp_path / "run", form_of(names=("=1+1", "@b")))
    monkeypatch.chdir(photos)
    os.rename("0.png", "=cmd|x.png")
    os.rename("1.png", b"\xff\n,.png")
    os.unlink("5.png")
    assert main([str(run), ".", "--csv=out.csv"]) == 0
    assert main([str(run), "=cmd|x.png", "--csv=one.csv"]) == 0
    rows = rows_of(photos / "out.csv")
    assert {row["class"] for row in rows} <= {"'=1+1", "'@b"}
    assert "./\\udcff ,.png" in {row["file"] for row in rows}
    assert rows_of(photos / "one.csv")[0]["file"] == "'=cmd|x.png"


def test_folders_are_listed_as_those_of_a_training(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Hidden files, others and links back are left out, and said."""
    run = plain(tmp_path / "run", form_of())
    (photos / "5.png").unlink()
    for name in (".hidden.png", "text.txt", "Thumbs.db", "one.heic"):
        (photos / name).write_bytes(b"")
    (photos / "below").mkdir()
    (photos / "below/again").symlink_to(photos)
    (photos / "0.png").rename(photos / "below/0.png")
    assert main([str(run), str(photos), f"--csv={tmp_path}/out.csv"]) == 0
    assert sorted(os.path.relpath(row["file"], photos) for row in rows_of(tmp_path / "out.csv")) == [
        "1.png", "2.png", "3.png", "4.png", "below/0.png",
    ]  # fmt: skip
    said = capsys.readouterr().out
    assert "1 .heic file" in said and "1 hidden" in said and "1 links to folders" in said


def test_many_files_go_through_processes(tmp_path: Path) -> None:
    trained = Trained(network_for(form_of()), form_of(), "classification", Resizing(8))
    (tmp_path / "one").mkdir()
    for number in range(4):
        pixels = np.random.default_rng(number).integers(0, 256, (9, 8, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    for number in range(260):
        os.link(tmp_path / f"{number % 4}.png", tmp_path / f"one/{number:03}.png")
    (tmp_path / "one/100.png").unlink()
    (tmp_path / "one/100.png").write_bytes(b"")
    found = trained.predict(tmp_path / "one", batch_size=50, workers=1)
    here = trained.predict([tmp_path / f"{number}.png" for number in range(4)])
    assert list(found.errors) == [100]
    for number in set(range(260)) - {100}:
        torch.testing.assert_close(found.outputs[number], here.outputs[number % 4])


def test_paths_take_little_memory_and_come_back() -> None:
    paths, names = Paths(), ["a", "", "ä/b.png", os.fsdecode(b"\xff.png"), "x" * 300]
    for name in names:
        paths.append(name)
    assert [paths[place] for place in range(len(paths))] == names
    with pytest.raises(IndexError):
        paths[5]


# What ends before anything is written


@pytest.mark.parametrize("end", [KeyboardInterrupt(), OSError(28, "No space left on device"), RuntimeError("out of memory")])
def test_a_prediction_that_is_cut_short_leaves_no_table(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: BaseException
) -> None:
    run, answer = plain(tmp_path / "run", form_of()), retrain.predict.answer

    def cut(*arguments: Any) -> Any:
        yield next(answer(*arguments))
        raise end

    monkeypatch.setattr(retrain.predict, "answer", cut)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables/old.csv").write_text("file,old")
    status = 130 if isinstance(end, KeyboardInterrupt) else 2
    assert main([str(run), str(photos), f"--csv={tmp_path}/tables/new.csv", "--batch_size=2"]) == status
    assert main([str(run), str(photos), f"--csv={tmp_path}/tables/old.csv", "--overwrite"]) == status
    assert [file.name for file in (tmp_path / "tables").iterdir()] == ["old.csv"]
    assert (tmp_path / "tables/old.csv").read_text() == "file,old"


def test_a_table_is_replaced_only_when_asked(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = plain(tmp_path / "run", form_of())
    (tmp_path / "out.csv").write_text("file,old")
    given = [str(run), f"{photos}/0.png", f"--csv={tmp_path}/out.csv"]
    assert main(given) == 2
    assert capsys.readouterr().err == (
        f"retrain.predict: error: --csv: {tmp_path}/out.csv is there already; --overwrite replaces it\n"
    )
    assert (tmp_path / "out.csv").read_text() == "file,old"
    assert main([*given, "--overwrite"]) == 0
    assert len(rows_of(tmp_path / "out.csv")) == 1


@pytest.mark.parametrize("place", ["photos/0.png", "run/weights.safetensors"])
def test_only_a_table_is_replaced(place: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = plain(tmp_path / "run", form_of())
    target = photos / "0.png" if place.startswith("photos") else tmp_path / place
    before = target.read_bytes()
    assert main([str(run), str(photos), f"--csv={target}", "--overwrite"]) == 2
    said = f"--csv: {target} is there already, and no table of predictions; name another file"
    assert capsys.readouterr().err == f"retrain.predict: error: {said}\n"
    assert target.read_bytes() == before


Prepare = Callable[[Path], list[str]]


def _npz(**arrays: Any) -> Prepare:
    def prepare(folder: Path) -> list[str]:
        np.savez(folder / "x.npz", **arrays)
        return [f"{folder}/x.npz"]

    return prepare


def _folder(*names: str) -> Prepare:
    def prepare(folder: Path) -> list[str]:
        for name in names:
            (folder / name).write_bytes(b"")
        return [str(folder)]

    return prepare


BYTES = np.zeros((2, 8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("form", "prepare", "message"),
    [
        (form_of(), _folder(), "HERE: no images found; name a folder with images in it or below it"),
        (form_of(), _folder("a.txt"), "HERE: no images found; name"),
        (form_of(), _folder("a.heic", "b.heic"), "HERE: no images found, only 2 .heic files, which are not read; name"),
        (form_of(), lambda here: [f"{here}/absent"], "HERE/absent: there is no such file or folder"),
        (form_of(), lambda here: [f"{here}/absent.npz"], "HERE/absent.npz: there is no such file"),
        (form_of(), lambda here: [*_folder("a.png")(here), str(here)], "HERE and HERE: are the same folder"),
        (form_of(scale=1.0), _folder("a.png"), "the network was trained on images of floating numbers, which image"),
        (form_of(4), _folder("a.png"), "the network was trained on images of 4 channels, which image files do not hold"),
        (form_of(), _npz(a=BYTES, b=BYTES), "HERE/x.npz: holds a, b; say which has the images, --array NAME"),
        (form_of(), _npz(a=BYTES / 2), "HERE/x.npz: a: must be uint8, as the images that the network was trained on"),
        (form_of(scale=1.0), _npz(a=BYTES), "HERE/x.npz: a: must be floating numbers, as the images"),
        (form_of(1), _npz(a=BYTES), "HERE/x.npz: a: [2, 8, 8, 3] has no axis of 1 channels"),
        (form_of(), _npz(a=BYTES[..., 0]), "HERE/x.npz: a: [2, 8, 8] has 1 channels, the network was trained on 3"),
        (form_of(), _npz(a=np.zeros((2, 3, 5, 3), np.uint8)), "HERE/x.npz: a: [2, 3, 5, 3] may be [N, H, W, C] or"),
        (form_of(), _npz(a=BYTES[:0]), "HERE/x.npz: has no images"),
        (form_of(), _npz(a=BYTES[0]), "HERE/x.npz: a: [8, 8, 3] has 1 channels"),
        (form_of(), _npz(a=np.array([None])), "HERE/x.npz: a: holds Python objects, which are never unpickled"),
        (form_of(), lambda here: [*_npz(a=BYTES)(here), "--array=b"], "HERE/x.npz: has no array b, only a"),
        (form_of(), lambda here: [*_folder("a.png")(here), "--data.size=2"], "data.size: must be from 4 to 4096 pixels"),
        (form_of(), lambda here: [*_folder("a.png")(here), "--data.resize=9"], "data.resize: must be from data.size to 8192"),
        (form_of(), lambda here: [*_folder("a.png")(here), "--data.bits=9"], "data.bits: must be one of 8, 10, 12, 14, 16"),
        (form_of(), lambda here: [*_folder("a.png")(here), "--batch_size=0"], "batch_size: must be at least 1, not 0"),
        (form_of(), lambda here: [*_folder("a.png")(here), f"--csv={here}"], "--csv: HERE cannot be written: a directory"),
        (form_of(), lambda here: [*_folder("a.png")(here), "--csv=absent/x.csv"], "--csv: absent/x.csv cannot be written"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line(
    form: ImageFormat, prepare: Prepare, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = plain(tmp_path / "run", form)
    (tmp_path / "here").mkdir()
    arguments = prepare(tmp_path / "here")
    before = sorted(tmp_path.rglob("*"))
    assert main([str(run), *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"retrain.predict: error: {message.replace('HERE', f'{tmp_path}/here')}")
    assert captured.err.count("\n") == 1 and captured.out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main([f"{tmp_path}/empty", "."]) == 2
    assert "weights.safetensors: no such file; retrain a genotype" in capsys.readouterr().err
    run = plain(tmp_path / "run", form_of())
    trained = Trained.load(run)
    torch.nn.init.constant_(trained.network.head.classifier.bias, float("nan"))
    trained.save(run)
    np.savez(tmp_path / "x.npz", BYTES)
    assert main([str(run), f"{tmp_path}/x.npz", f"--csv={tmp_path}/out.csv"]) == 2
    assert f"{run}/weights.safetensors: gives outputs that are NaN or infinite; the training had" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


def test_python_refuses_what_it_cannot_take() -> None:
    reader = PixelReader(form_of(), AS_THEY_ARE)
    for images, message in ((3, "not 3"), ([], "there are none"), ([1.0], "must be a folder"), (BYTES[:0], "there are none")):
        with pytest.raises(ValueError, match=message):
            Inputs.of(images, reader)
