"""Tests of retrain/portable.py."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from ops.attention import SelfAttention
from ops.registry import OPERATIONS, register_op
from retrain.portable import IR_VERSION, OPSET, PixelNetwork, describe, export_onnx, export_torch
from retrain.weights import Trained
from supernet.discrete import DiscreteNetwork
from supernet.genotypes.genotype import Genotype
from supernet.genotypes.published import get_genotype, list_genotypes
from training.format import ImageFormat

# What one user or another may call; with all operations of NAS-Bench-201 in it.
NASBENCH201 = "|nor_conv_3x3~0|+|avg_pool_3x3~0|nor_conv_1x1~1|+|skip_connect~0|none~1|nor_conv_3x3~2|"
ATTENDING = "|self_attention~0|+|none~0|se~1|+|nor_conv_3x3~0|skip_connect~1|self_attention~2|"
ALL = [NASBENCH201, ATTENDING, *(pytest.param(name, marks=pytest.mark.slow) for name in list_genotypes())]


def trained(genotype: str, shape: tuple[int, int, int] = (3, 8, 8), scale: float = 255.0, auxiliary: bool = False) -> Trained:
    """A network that nobody has trained, of the fewest cells, with a format of images that it fits."""
    parsed = get_genotype(genotype) if genotype in list_genotypes() else Genotype.parse(genotype)
    network = DiscreteNetwork(parsed, 2, parsed.skeleton.fewest_cells, 5, shape[0], auxiliary)
    network(torch.randn(16, *shape))  # moves the running statistics
    for module in network.modules():
        if isinstance(module, SelfAttention):
            nn.init.normal_(module.project.weight)  # else it computes nothing
    form = ImageFormat(shape, scale, (0.4, 0.5, 0.6)[: shape[0]], (0.2, 0.3, 0.25)[: shape[0]], ("cat", "dog", "é", '"', "e"))
    return Trained(network.eval(), form)


def logits(source: Trained, images: Tensor) -> Tensor:
    """Returns the logits of images that are divided by the scale, but not normalised."""
    with torch.no_grad():
        return source.network(source.format.normalised(images * source.format.scale))


@pytest.mark.parametrize("genotype", ALL)
def test_a_program_gives_the_logits_of_the_network_at_any_batch(genotype: str, tmp_path: Path) -> None:
    source = trained(genotype, (3, 7, 10))
    exported = export_torch(source, tmp_path / "model.pt2")
    assert set(exported.differences) == {1, 7} and max(exported.differences.values()) < 1e-4
    assert exported.size == (tmp_path / "model.pt2").stat().st_size
    held = {"model.json": ""}
    model = torch.export.load(tmp_path / "model.pt2", extra_files=held).module()
    for batch in (1, 2, 5):
        images = torch.rand(batch, 3, 7, 10)
        torch.testing.assert_close(model(images), logits(source, images))
    assert json.loads(held["model.json"]) == describe(source.format)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("genotype", "size"),
    [*((name, (7, 10)) for name in (NASBENCH201, ATTENDING, *list_genotypes())), (ATTENDING, (35, 18))],
)
def test_an_onnx_file_gives_the_logits_of_the_network_at_any_batch(
    genotype: str, size: tuple[int, int], tmp_path: Path
) -> None:
    source = trained(genotype, (1, *size), scale=1.0)
    exported = export_onnx(source, tmp_path / "model.onnx")
    assert set(exported.differences) == {1, 7} and max(exported.differences.values()) < 1e-4
    for batch in (1, 2, 5):
        images = torch.randn(batch, 1, *size)
        torch.testing.assert_close(exported.model(images), logits(source, images), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def darts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trained, Path]:
    """A network and the directory of its two files: exporting takes seconds."""
    torch.manual_seed(0)
    source, path = trained("DARTS_V2"), tmp_path_factory.mktemp("darts")
    export_torch(source, path / "model.pt2")
    assert max(export_onnx(source, path / "model.onnx").differences.values()) < 1e-4
    return source, path


@pytest.mark.slow
def test_an_onnx_file_says_what_it_is(darts: tuple[Trained, Path]) -> None:
    source, path = darts
    assert sorted(file.name for file in path.iterdir()) == ["model.onnx", "model.pt2"]  # the weights are inside
    file = onnx.load(path / "model.onnx")
    assert (file.ir_version, [(each.domain, each.version) for each in file.opset_import]) == (IR_VERSION, [("", OPSET)])
    for value, name, rest in ((file.graph.input, "images", [3, 8, 8]), (file.graph.output, "logits", [5])):
        first, *others = value[0].type.tensor_type.shape.dim
        assert (len(value), value[0].name, first.dim_param, [each.dim_value for each in others]) == (1, name, "batch", rest)
    assert {each.key: json.loads(each.value) for each in file.metadata_props} == describe(source.format)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["model.pt2", "model.onnx"])
def test_nothing_of_the_one_who_exported_is_in_the_file(darts: tuple[Trained, Path], name: str) -> None:
    content = (darts[1] / name).read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in content
    assert sys.prefix.encode() not in content


def test_the_network_stays_as_it_is() -> None:
    source = trained("DARTS_V2", auxiliary=True)
    source.network.train()
    network = PixelNetwork(source)
    assert source.network.training and source.network.auxiliary is not None
    assert not network.training and not any("auxiliary" in name for name in network.state_dict())
    images = torch.rand(4, 3, 8, 8)
    source.network.eval()
    torch.testing.assert_close(network(images), logits(source, images))


def test_what_is_said_of_the_pixels() -> None:
    assert describe(trained(NASBENCH201).format)["preprocessing"].startswith("pixels from 0 to 255, divided by 255; ")
    said = describe(trained(NASBENCH201, scale=1.0).format)
    assert said["preprocessing"].startswith("pixels as they are (mean in training: 0.4, 0.5, 0.6); ")
    assert said["input"]["shape"] == ["batch", 3, 8, 8]
    assert said["classes"] == ["cat", "dog", "é", '"', "e"]


# A process that cannot import the project

STRANGER = """
import json, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("ops", "supernet", "training", "search", "retrain", "fusenas"):
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Blocked())
for name in ("ops", "supernet", "training", "retrain"):
    try:
        __import__(name)
    except ImportError:
        continue
    raise SystemExit(f"{name} was imported")

import numpy, onnxruntime, torch

program = torch.export.load("model.pt2").module()
session = onnxruntime.InferenceSession("model.onnx")
found = {"classes": json.loads(session.get_modelmeta().custom_metadata_map["classes"])}
for batch in (1, 5):
    images = numpy.linspace(0, 1, batch * 3 * 8 * 8, dtype=numpy.float32).reshape(batch, 3, 8, 8)
    with torch.no_grad():
        found[f"torch {batch}"] = program(torch.from_numpy(images)).tolist()
    found[f"onnx {batch}"] = session.run(None, {"images": images})[0].tolist()
print(json.dumps(found))
"""


@pytest.mark.slow
def test_the_files_are_used_where_the_project_is_not(darts: tuple[Trained, Path]) -> None:
    source, path = darts
    done = subprocess.run([sys.executable, "-I", "-c", STRANGER], cwd=path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["classes"] == ["cat", "dog", "é", '"', "e"]
    for batch in (1, 5):
        expected = logits(source, torch.linspace(0, 1, batch * 3 * 8 * 8).reshape(batch, 3, 8, 8))
        for form in ("torch", "onnx"):
            torch.testing.assert_close(torch.tensor(found[f"{form} {batch}"]), expected, rtol=1e-4, atol=1e-4)


# Operations of a user's own


class Own(nn.Module):
    """Computes with the function that the test has put into `compute`."""

    compute: Callable[[Tensor], Tensor] = staticmethod(torch.tanh)

    def forward(self, state: Tensor) -> Tensor:
        return type(self).compute(state)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[Tensor], Tensor]], Trained]]:
    """A network whose cells compute a function of the test's choice."""

    def make(compute: Callable[[Tensor], Tensor]) -> Trained:
        monkeypatch.setattr(Own, "compute", staticmethod(compute))
        return trained("|own~0|+|none~0|skip_connect~1|+|none~0|none~1|skip_connect~2|")

    with OPERATIONS.temporarily():
        register_op("own")(lambda channels, stride, affine: Own())
        yield make


@pytest.mark.parametrize("export", [export_torch, pytest.param(export_onnx, marks=pytest.mark.slow)])
def test_an_own_operation(own: Callable, export: Callable, tmp_path: Path) -> None:
    source = own(lambda state: torch.nn.functional.softplus(state) * state.mean((2, 3), keepdim=True))
    images = torch.rand(3, 3, 8, 8)
    model = export(source, tmp_path / "model").model
    torch.testing.assert_close(model(images), logits(source, images), rtol=1e-4, atol=1e-4)


@torch.library.custom_op("fusenas_test::double", mutates_args=())
def double(state: Tensor) -> Tensor:
    return 2 * state


@double.register_fake
def _(state: Tensor) -> Tensor:
    return torch.empty_like(state)


def by_batch(state: Tensor) -> Tensor:
    return state * [1.0, 2.0, 3.0][: len(state)][-1]


NOT_WRITTEN = "model: not written: its logits differ from the network's by up to"


@pytest.mark.parametrize(
    ("export", "compute", "message"),
    [
        (export_torch, torch.randn_like, NOT_WRITTEN),
        (export_torch, lambda state: state / 0, f"{NOT_WRITTEN} nan at batch 1"),
        (export_torch, double, "^fusenas_test::double is no operation of torch's own"),
        (export_torch, by_batch, "^the network cannot be exported to torch.export: "),
        (export_onnx, double, "^the network cannot be exported to ONNX: "),
        pytest.param(export_onnx, torch.randn_like, NOT_WRITTEN, marks=pytest.mark.slow),
    ],
    ids=["random", "not finite", "of a library", "of one batch", "of a library, ONNX", "random, ONNX"],
)
def test_what_cannot_be_exported_leaves_no_file(
    own: Callable, export: Callable, compute: Callable[[Tensor], Tensor], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "model"
    path.write_text("what was there before")
    with pytest.raises(ValueError, match=message) as caught:
        export(own(compute), path)
    assert "\n" not in str(caught.value)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["what was there before"]


def test_the_packages_of_the_extra_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ValueError, match=r"^--format onnx needs onnxscript: pip install 'fusenas\[export\]'$"):
        export_onnx(trained(NASBENCH201), tmp_path / "model.onnx")
