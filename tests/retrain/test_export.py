"""Tests of retrain/export.py and retrain/quantise.py."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

import retrain.__main__
from retrain.config import RetrainConfig
from retrain.evaluation.networks import network_outputs
from retrain.export import ExportInput, export, main
from retrain.portable import onnx_model
from retrain.weights import Trained
from training.hardware import Hardware
from training.images.data import DataConfig, load_images
from training.run.directory import RunDirectory
from training.run.ownership.files import record
from training.tasks.images import ImageData

CELL = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|skip_connect~2|"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short retraining, to be copied."""
    path = tmp_path_factory.mktemp("retrain")
    (path / "cell.txt").write_text(CELL)
    size = {"channels": 8, "cells": 1, "epochs": 3, "auxiliary_weight": 0, "drop_path": 0}
    small = [f"--{name}={value}" for name, value in size.items()]
    begin = ["--config=retrain_digits", f"--genotype={path}/cell.txt", f"--run={path}/run"]
    assert retrain.__main__.main([*begin, *small]) == 0
    return path / "run"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def accuracy(model: Callable[[torch.Tensor], torch.Tensor]) -> float:
    images = load_images(DataConfig("digits"), "test")
    return (model(images.pixels() / 255).argmax(1) == images.labels).float().mean().item()


def test_no_more_images_are_read_than_calibrate(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[str, int]] = []

    def recorded(*given: Any, **named: Any) -> Any:
        images = load_images(*given, **named)
        read.append((given[1], len(images)))
        return images

    monkeypatch.setattr(retrain.export, "load_images", recorded)
    ExportInput.read(run, {}, calibration=50)
    assert read == [("test", 360), ("train", 50)]
    (run / "data.json").unlink()
    ExportInput.read(run, {}, calibration=50)
    assert read[2:] == [("test", 360), ("train", 1437)]


@pytest.mark.slow
def test_a_run_is_exported_in_all_forms(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run), "--format", "onnx", "--int8", "--calibration", "200"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    about, first, second, accuracies, *usage = captured.out.splitlines()
    directory = run / "export"
    assert sorted(file.name for file in directory.iterdir()) == ["model.json", "model.onnx", "model_int8.onnx"]

    content = json.loads((directory / "model.json").read_text())
    images = load_images(DataConfig("digits"), "test")
    module = Trained.load(run).network
    hardware = Hardware(torch.device("cpu"))
    logits = network_outputs(module, ImageData(images, hardware), 360, hardware).inputs
    exact = (logits.argmax(1) == images.labels).float().mean().item()
    assert exact > 0.7  # what follows means something
    assert about.startswith(f"{run}: {content['parameters']:,} parameters, ")
    for line, name in ((first, "model.onnx"), (second, "model_int8.onnx")):
        found, size = content["files"][name], (directory / name).stat().st_size
        assert found["bytes"] == size
        assert line.startswith(f"{directory / name}: {size:,} bytes; largest difference of a logit: ")
        assert found["accuracy"] == pytest.approx(accuracy(onnx_model((directory / name).read_bytes())))
        assert f"{name} {found['accuracy']:.4f}" in accuracies
    whole, small = content["files"]["model.onnx"], content["files"]["model_int8.onnx"]
    assert whole["accuracy"] == pytest.approx(exact)
    assert max(whole["largest_difference"].values()) < 1e-4
    assert small["accuracy_before"] == whole["accuracy"]
    assert abs(small["accuracy"] - exact) < 0.03
    assert small["calibration_images"] == 200
    assert content["data"] == {"name": "digits", "size": None, "fit": "crop", "resize": None, "test_images": 360}

    # The weights of all convolutions are bytes, with a scale for each channel.
    file = onnx.load(directory / "model_int8.onnx")
    held = {each.name: each for each in file.graph.initializer}
    made = {node.output[0]: node for node in file.graph.node}
    convolutions = [node for node in file.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == len([layer for layer in module.modules() if isinstance(layer, torch.nn.Conv2d)])
    for node in convolutions:
        weight = made[node.input[1]]
        assert weight.op_type == "DequantizeLinear"
        values, scales = held[weight.input[0]], held[weight.input[1]]
        assert values.data_type == onnx.TensorProto.INT8
        assert list(scales.dims) == list(values.dims)[:1]
        assert made[node.input[0]].op_type == "DequantizeLinear"
    assert {each.key for each in file.metadata_props} >= {"input", "preprocessing", "classes"}
    floats = sum(onnx.numpy_helper.to_array(each).size for each in held.values() if each.data_type == onnx.TensorProto.FLOAT)
    bytes_ = sum(onnx.numpy_helper.to_array(each).size for each in held.values() if each.data_type == onnx.TensorProto.INT8)
    assert bytes_ > 5 * floats

    # What is printed runs as it stands.
    start = usage.index("")
    code = "\n".join(line[4:] for line in usage[start + 1 :])
    assert code + "\n" == small["usage"]
    for name in ("model.onnx", "model_int8.onnx"):
        ran = content["files"][name]["usage"].replace(f'"{name}"', repr(str(directory / name)))
        exec(compile(ran, name, "exec"), {})

    # The other form joins them, and leaves them when the weights are others.
    assert main([str(run), "--format=torch_export"]) == 0
    content = json.loads((directory / "model.json").read_text())
    assert set(content["files"]) == {"model.onnx", "model_int8.onnx", "model.pt2"}
    assert content["files"]["model.pt2"]["accuracy"] == pytest.approx(exact)
    code = content["files"]["model.pt2"]["usage"].replace("model.pt2", str(directory / "model.pt2"))
    capsys.readouterr()
    exec(compile(code, "usage", "exec"), {})
    assert capsys.readouterr().out.startswith("tensor([")
    trained = Trained.load(run)
    trained.network.head.classifier.bias.data += 1
    trained.save(run)
    assert export(run, "torch_export").files == (directory / "model.pt2",)
    assert set(json.loads((directory / "model.json").read_text())["files"]) == {"model.pt2"}


def test_images_that_are_not_at_hand(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = run / "config.yaml"
    config.write_text(
        config.read_text().replace("name: digits", "name: cifar10").replace("root: data", f"root: {tmp_path}/none")
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "out/model.json").write_text("[")  # damaged, and replaced
    assert main([str(run), "--format=torch_export", f"--output={tmp_path}/out"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("accuracy"))
    assert line.startswith("accuracy not measured: data.root: ") and f"{tmp_path}/none" in line
    content = json.loads((tmp_path / "out/model.json").read_text())
    assert content["files"]["model.pt2"]["accuracy"] is None and content["data"] is None
    assert not (run / "export").exists()


def test_overwrite_removes_what_was_exported_and_nothing_else(run: Path) -> None:
    (run / "export").mkdir()
    record(run, *(f"export/{name}" for name in ("model.pt2", "model.onnx", "model_int8.onnx", "model.json")))
    for name in ("model.pt2", "model.onnx", "model_int8.onnx", "model.json", ".model.onnx.0123abcd.tmp", "mine.onnx"):
        (run / "export" / name).touch()
    with RunDirectory.open(run, RetrainConfig(), resume=False, overwrite=True) as directory:
        directory.begin()
        directory.keep()
    assert [file.name for file in (run / "export").iterdir()] == ["mine.onnx"]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Returns the one line that the command says of wrong input."""

    def refuse(*argv: str | Path) -> str:
        capsys.readouterr()
        assert main([str(word) for word in argv]) == 2
        captured = capsys.readouterr()
        line, end, rest = captured.err.partition("\n")
        assert (captured.out, end, rest) == ("", "\n", "")
        return line.removeprefix("retrain.export: error: ")

    return refuse


def test_directories_that_hold_no_network(run: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    form = "--format=torch_export"
    assert refused(tmp_path / "absent", form) == f"{tmp_path}/absent: no such directory; name that of a run"
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "empty", form).startswith(f"{tmp_path}/empty/weights.safetensors: no such file; retrain ")
    weights = run / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    assert refused(run, form).startswith(f"{weights}: damaged or no safetensors file: ")
    assert refused(run, "--format=onnx", "--int8").startswith(f"{weights}: damaged or no safetensors file: ")
    weights.write_bytes(whole)
    genotype = run / "genotype.json"
    genotype.write_text(genotype.read_text().replace("nor_conv_3x3", "nor_conv_1x1"))
    assert refused(run, form).startswith(f"{genotype}: weights.safetensors was trained with another genotype; ")
    assert not (run / "export").exists()


def test_options_that_are_wrong(run: Path, refused: Callable[..., str], tmp_path: Path) -> None:
    assert refused(run) == "the following arguments are required: --format"
    assert refused("--format=onnx") == "the following arguments are required: RUN"
    assert refused(run, "--format=tflite").startswith("--format: must be one of torch_export, onnx, not 'tflite'")
    assert refused(run, "--format=torch_export", "--int8").startswith("--int8: is for --format onnx; ")
    assert refused(run, "--format=onnx", "--calibration=0") == "calibration: must be at least 1, not 0"
    assert refused(run, "--format=onnx", "--batch_size=x") == "--batch_size: must be a whole number, not 'x'"
    absent = refused(run, "--format=onnx", "--output", tmp_path / "no/where")
    assert absent == f"{tmp_path}/no/where: No such file or directory"
    assert refused(run, "--format=onnx", "--output", run / "config.yaml") == f"{run}/config.yaml: File exists"
    assert refused(run, "--format=onnx", "--data.size=6").startswith("data.size: the images of digits are 1x6x6, those that ")
    (run / "config.yaml").unlink()
    message = refused(run, "--format=onnx", "--int8")
    assert message.startswith("--int8 needs images of the training to calibrate with: ")
    assert message.endswith("; to do without this file, name the data set with --data.name")
    assert not (run / "export").exists()


def test_packages_that_are_not_installed(run: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)
    assert refused(run, "--format=onnx") == "--format onnx needs onnx, onnxruntime: pip install 'fusenas[export]'"
    assert not (run / "export").exists()
