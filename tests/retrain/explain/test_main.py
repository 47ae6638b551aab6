"""Tests of the command retrain.explain: the files that it writes, and the input that it refuses."""

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ops import register_op
from ops.registry import OPERATIONS
from retrain.explain.__main__ import NUMBERS_FILE, PAGE_FILE, main
from retrain.explain.attributions import METHODS
from retrain.weights import Trained
from supernet.discrete import DiscreteNetwork
from supernet.genotypes.genotype import Genotype
from training.format import ImageFormat
from training.run.ownership.files import begin_record, recorded

CLASSES = ("<b>bold", "plain & simple")
CELL = "|nor_conv_3x3~0|+|none~0|{}~1|+|skip_connect~0|none~1|nor_conv_1x1~2|"
SMALL = ["--patches", "2", "--samples", "10", "--steps", "4", "--checked", "2", "--threads", "1", "--device", "cpu"]
MARK = "# A run of fusenas. Continue it with --resume.\n"
Explain = Callable[..., tuple[int, str, str]]


def new_run(path: Path, operation: str = "nor_conv_3x3", task: str = "classification") -> Path:
    """A directory with the weights of a network for images of 8x8 pixels in colour."""
    torch.manual_seed(0)
    network = DiscreteNetwork(Genotype.parse(CELL.format(operation)), channels=4, cells=1, classes=2)
    for _ in range(10):  # moves the running statistics
        network(torch.randn(16, 3, 8, 8))
    path.mkdir()
    form = ImageFormat((3, 8, 8), 255.0, (0.5,) * 3, (0.25,) * 3, CLASSES)
    Trained(network.eval(), form, task).save(path)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of classes, with 14 images each to train on and as many to test on."""
    root, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for part in ("train", "test"):
        for shade, name in zip((40, 200), CLASSES, strict=True):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(14):
                pixels = random.normal(shade, 40, (8, 8, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


@pytest.fixture
def explain(images: Path, capsys: pytest.CaptureFixture[str]) -> Explain:
    """Runs the command on a run in which nothing is missing but what the arguments say."""

    def run(path: Path, *argv: object) -> tuple[int, str, str]:
        data = [] if "--images" in argv else ["--data.name", "folder", "--data.root", str(images)]
        capsys.readouterr()
        status = main([str(path), *SMALL, *data, *map(str, argv)])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def refused(said: tuple[int, str, str]) -> str:
    """The one line of an error."""
    status, _, error = said
    assert status == 2 and error.count("\n") == 1, said
    return error.removeprefix("retrain.explain: error: ").rstrip("\n")


def test_the_page_and_the_numbers(tmp_path: Path, explain: Explain, read_page: Callable[[Path], str]) -> None:
    run = new_run(tmp_path / "run")
    begin_record(run)
    status, out, _ = explain(run, "--per_class", 2)
    assert status == 0
    assert {PAGE_FILE, NUMBERS_FILE} <= set(recorded(run))
    numbers = json.loads((run / NUMBERS_FILE).read_text())
    assert list(numbers["methods"]) == list(METHODS) and numbers["images"] == 28
    shown = [(one["class"], one["class"] == one["predicted"]) for one in numbers["explained"]]
    assert shown == sorted(shown, key=lambda one: (CLASSES.index(one[0]), not one[1]))
    assert max(map(shown.count, shown)) == 2 and {name for name, _ in shown} == set(CLASSES)
    assert numbers["methods"]["kernel_shap"]["completeness_error"] and "completeness_error" not in numbers["methods"]["lime"]
    # Each sentence is shown, stands on the page and in the numbers; names of classes stay text.
    (run / PAGE_FILE).rename(run / "report.html")
    page = read_page(run)
    for sentence in numbers["sentences"]:
        assert sentence in out and sentence in page
    assert "“<b>bold”" in page and "“plain & simple”" in page
    assert "<b>" not in (run / "report.html").read_text()
    for name, found in numbers["methods"].items():
        cells = [f"{found[area]:.3f}" for area in ("deletion_area", "insertion_area")]
        assert f"|{METHODS[name].title}|{'|'.join(cells)}|" in page
    passes = re.search(r"takes ([\d,]+) images through the network: integrated gradients (\d+),", out)
    assert passes and int(passes[2]) == 4 * len(shown)


def test_the_same_seed_gives_the_same_files(tmp_path: Path, explain: Explain) -> None:
    run, contents = new_run(tmp_path / "run"), []
    begin_record(run)
    for _ in range(2):  # the second time they are the run's own, which it replaces
        assert explain(run, "--methods", "lime", "occlusion")[0] == 0
        contents.append([(run / name).read_bytes() for name in (PAGE_FILE, NUMBERS_FILE)])
    assert contents[0] == contents[1]
    assert list(json.loads(contents[0][1])["methods"]) == ["occlusion", "lime"]


def test_attention_is_on_the_page(tmp_path: Path, explain: Explain) -> None:
    for operation, dimensions in (("self_attention", 3), ("se", 2)):
        run = new_run(tmp_path / operation, operation)
        assert explain(run, "--methods", "grad_cam")[0] == 0
        attention = json.loads((run / NUMBERS_FILE).read_text())["attention"]
        assert attention and all(np.array(weights).ndim == dimensions for weights in attention.values())
        # The second edge into node 2, in each of the three cells.
        assert list(attention) == [f"cell {cell}: 1 to 2" for cell in range(3)]
        assert all(name in (run / PAGE_FILE).read_text() for name in attention)


def test_a_folder_of_classes_loose_files_and_one_that_cannot_be_read(tmp_path: Path, explain: Explain, images: Path) -> None:
    run, output = new_run(tmp_path / "run"), tmp_path / "made" / "out"
    before = sorted(file.name for file in run.iterdir())
    folder = images / "test" / CLASSES[0]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    given = [*sorted(folder.iterdir())[:2], broken]
    status, _, error = explain(run, "--methods", "grad_cam", "--output", output, "--images", *given)
    assert status == 1 and error.count("\n") == 1 and f"{broken}: of no known format" in error
    numbers = json.loads((output / NUMBERS_FILE).read_text())
    assert numbers["accuracy"] is None and numbers["images"] == 2
    assert {one["class"] for one in numbers["explained"]} == {None}
    assert sorted(file.name for file in run.iterdir()) == before
    assert refused(explain(run, "--output", output)).startswith(f"{output / PAGE_FILE}: is there already")
    assert explain(run, "--methods", "grad_cam", "--images", images / "test")[0] == 0
    numbers = json.loads((run / NUMBERS_FILE).read_text())
    assert numbers["images"] == 28 and numbers["accuracy"] is not None


def test_images_that_cannot_be_used(tmp_path: Path, explain: Explain, images: Path) -> None:
    run = new_run(tmp_path / "run")
    empty, others = tmp_path / "empty", tmp_path / "others"
    empty.mkdir()
    shutil.copytree(images / "test" / CLASSES[0], others / "cats")
    assert refused(explain(run, "--images", empty)) == f"images: {empty}: no images found"
    assert refused(explain(run, "--images", others)).startswith(f"images: {others}: its folders (cats) are none of the classes")
    assert refused(explain(run, "--images", tmp_path / "no")) == f"images: {tmp_path / 'no'}: no such file or folder"
    assert refused(explain(run, "--images", others, empty)) == "images: name one folder, or files alone"
    mixed = explain(run, "--images", images / "test", "--data.size", 8)
    assert refused(mixed) == "images: files are read as those of the training were; leave out the options --data..."
    (empty / "one.png").write_bytes(b"no image")
    assert refused(explain(run, "--images", empty)).startswith("images: no image can be read: ")
    assert sorted(file.name for file in run.iterdir()) == ["weights.safetensors"]


def test_runs_that_cannot_be_used(tmp_path: Path, explain: Explain) -> None:
    assert "no such" in refused(explain(tmp_path / "nowhere"))
    (tmp_path / "search").mkdir()
    (tmp_path / "search/config.yaml").write_text(f"{MARK}# Kind: darts\nseed: 0\n")
    assert "is a run of darts and no retraining" in refused(explain(tmp_path / "search"))
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished/config.yaml").write_text(
        "# A run of fusenas. Continue it with --resume.\n# Kind: retrain\nseed: 0\n"
    )
    assert "weights.safetensors: no such file; retrain a genotype" in refused(explain(tmp_path / "unfinished"))

    numbers = new_run(tmp_path / "numbers", task="of_mine")
    assert "its task is of_mine, and this command explains classes alone" in refused(explain(numbers))
    with OPERATIONS.temporarily():
        register_op("op_of_mine")(lambda channels, stride, affine: torch.nn.Identity())
        run = new_run(tmp_path / "mine", "op_of_mine")
    assert "op_of_mine" in refused(explain(run))
    assert sorted(file.name for file in run.iterdir()) == ["weights.safetensors"]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--cell", 3], "cell: must be from 0 to 2"),
        (["--patches", 9, "--samples", 500], "patches: must be from 2 to 8"),
        (["--samples", 7], "samples: 7 is too few: LIME and KernelSHAP over 2x2 patches need at least 8"),
        (["--steps", 0], "steps: must be at least 1"),
        (["--per_class", 0], "per_class: must be at least 1"),
        (["--methods", "magic"], "methods: must be some of integrated_gradients, grad_cam, occlusion, lime, kernel_shap"),
        (["--depth", 21], "depth: must be at most 20"),
    ],
)
def test_options_that_cannot_be_used(tmp_path: Path, explain: Explain, argv: list[object], said: str) -> None:
    run = new_run(tmp_path / "run")
    assert refused(explain(run, *argv)).startswith(said)
    assert sorted(file.name for file in run.iterdir()) == ["weights.safetensors"]


def test_without_captum(tmp_path: Path, explain: Explain, monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_run(tmp_path / "run")
    for name in ("captum", "captum.attr"):
        monkeypatch.setitem(sys.modules, name, None)
    assert refused(explain(run)) == "retrain.explain needs captum: pip install 'fusenas[explain]'"


def test_a_captum_that_does_not_work(tmp_path: Path, explain: Explain, monkeypatch: pytest.MonkeyPatch) -> None:
    run, package = new_run(tmp_path / "run"), tmp_path / "site" / "captum"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import nowhere_to_be_found")
    for name in [name for name in sys.modules if name.partition(".")[0] == "captum"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path / "site")
    needed = "retrain.explain needs captum: pip install 'fusenas[explain]'"
    assert refused(explain(run)) == f"{needed} (No module named 'nowhere_to_be_found')"
    for name in [name for name in sys.modules if name.partition(".")[0] == "captum"]:
        monkeypatch.delitem(sys.modules, name)


def test_a_file_that_is_none_of_the_run_is_kept(tmp_path: Path, explain: Explain) -> None:
    run = new_run(tmp_path / "run")
    begin_record(run)
    (run / PAGE_FILE).write_text("mine")
    assert "is there already, and none of this run's files" in refused(explain(run))
    assert (run / PAGE_FILE).read_text() == "mine" and not (run / NUMBERS_FILE).exists()
