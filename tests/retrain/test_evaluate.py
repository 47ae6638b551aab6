"""Tests of retrain/evaluate.py and retrain/evaluation/networks.py."""

import errno
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import retrain.__main__
import retrain.evaluate
import retrain.evaluation.networks
import retrain.evaluation.speed
from base.seeds import new_generator
from retrain.config import RetrainConfig
from retrain.evaluate import EVALUATION_FILE, load_test_images, main, read_runs
from retrain.evaluation.ensemble import fitted_weights, greedy_weights
from retrain.evaluation.kinds import AVERAGE, FITTED, GREEDY, KINDS, MOST_CLASSES, VOTE, WORST_CLASSES
from retrain.evaluation.networks import (
    Run,
    evaluate_network,
    evaluate_runs,
    network_outputs,
)
from retrain.weights import Trained
from supernet.discrete import DiscreteNetwork
from supernet.genotypes.published import get_genotype
from training.format import AS_THEY_ARE, ImageFormat
from training.hardware import Hardware
from training.images.data import DataConfig, load_images
from training.images.prints import SeenImages
from training.images.sets import ImageSet
from training.metrics import count_parameters
from training.run.config import config_to_yaml
from training.run.ownership.files import recorded
from training.tasks.classification import Classification
from training.tasks.images import ImageData

CPU = Hardware(torch.device("cpu"))


def trained_on(network: DiscreteNetwork, side: int = 8, mean: float = 0.5) -> Trained:
    """The network with a format of images that it fits."""
    channels, classes = network.image_channels, network.classes
    names = tuple(map(str, range(classes)))
    return Trained(network, ImageFormat((channels, side, side), 255.0, (mean,) * channels, (0.25,) * channels, names))


@pytest.fixture
def network() -> DiscreteNetwork:
    network = DiscreteNetwork(get_genotype("DARTS_V2"), channels=4, cells=3, classes=7, image_channels=1, auxiliary=True)
    network(torch.randn(8, 1, 8, 8))  # moves the running statistics
    return network.to(memory_format=torch.channels_last)


def test_a_network_survives_the_file(network, tmp_path):
    trained_on(network).save(tmp_path)
    loaded = Trained.load(tmp_path).network
    assert not loaded.training
    assert loaded.auxiliary is None
    assert loaded.genotype == network.genotype
    ours, theirs = network.state_dict(), loaded.state_dict()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in theirs.items())
    images = torch.randn(4, 1, 8, 8)
    torch.testing.assert_close(loaded(images), network.eval()(images))  # the weights are in another layout


def test_a_network_with_the_mobile_stem_survives_the_file(tmp_path):
    network = DiscreteNetwork(get_genotype("DARTS_V2"), channels=4, cells=3, classes=7, stem="imagenet").eval()
    trained_on(network).save(tmp_path)
    loaded = Trained.load(tmp_path).network
    assert loaded.stem_name == "imagenet"
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(loaded(images), network(images))


def test_the_weights_load_strictly_without_the_auxiliary_head(network, tmp_path):
    trained_on(network).save(tmp_path)
    tensors = load_file(tmp_path / "weights.safetensors")
    assert not any(name.startswith("auxiliary") for name in tensors)
    DiscreteNetwork(network.genotype, channels=4, cells=3, classes=7, image_channels=1).load_state_dict(tensors, strict=True)


def test_the_same_network_gives_the_same_bytes(network, tmp_path):
    trained_on(network).save(tmp_path)
    first = (tmp_path / "weights.safetensors").read_bytes()
    trained_on(network).save(tmp_path)
    assert (tmp_path / "weights.safetensors").read_bytes() == first
    assert [file.name for file in tmp_path.iterdir()] == ["weights.safetensors"]


def test_loading_leaves_the_random_state_alone(network, tmp_path):
    trained_on(network).save(tmp_path)
    state = torch.get_rng_state()
    Trained.load(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


def test_files_that_hold_no_network_are_refused(network, tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        Trained.load(tmp_path)
    trained_on(network).save(tmp_path)
    path = tmp_path / "weights.safetensors"
    whole = path.read_bytes()
    # Of the last one the library would take a gigabyte of memory.
    large = (2**24 + 1).to_bytes(8, "little") + b"{" + b" " * 2**24
    for broken in (b"", b"\x00\xff" * 40, whole[:100], whole[:-10], large):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="damaged or no safetensors file"):
            Trained.load(tmp_path)
    tensors = {"weight": torch.zeros(3)}
    save_file(tensors, path)
    with pytest.raises(ValueError, match="not those of a retrained genotype"):
        Trained.load(tmp_path)
    images = trained_on(network).format.to_dict()
    good = {
        "genotype": get_genotype("DARTS_V2").to_text("json"),
        "channels": 4,
        "cells": 3,
        "task": "classification",
        "resizing": asdict(AS_THEY_ARE),
        "images": images,
    }
    for description in (
        "[]",
        "{",
        "{}",
        json.dumps(good),
        json.dumps(good | {"channels": "4"}),
        json.dumps(good | {"more": 1}),
        json.dumps(good | {"stem": "mobile"}),
        json.dumps(good | {"stem": ["imagenet"]}),
        json.dumps(good | {"cells": 10**9}),
        json.dumps(good | {"channels": 10**9}),
        json.dumps(good | {"images": images | {"shape": [1, 8]}}),
    ):
        save_file(tensors, path, {"fusenas": description})
        with pytest.raises(ValueError, match="do not fit together"):
            Trained.load(tmp_path)


def test_what_a_description_says_is_checked_before_a_network_is_built(network, tmp_path):
    """Each of these took minutes or gigabytes, or ended in an AttributeError."""
    trained = trained_on(network)
    trained.save(tmp_path)
    path = tmp_path / "weights.safetensors"
    tensors = load_file(path)
    good = {"genotype": network.genotype.to_text("json"), "channels": 4, "cells": 3, "stem": "cifar"}
    good |= {"task": "classification", "images": trained.format.to_dict(), "resizing": asdict(trained.resizing)}
    save_file(tensors, path, {"fusenas": json.dumps(good)})
    assert Trained.load(tmp_path).network.genotype == network.genotype
    wide = str([("sep_conv_5x5", 0)] * 124)
    large = f"Genotype(normal={wide}, normal_concat=range(2, 64), reduce={wide}, reduce_concat=range(2, 64))"
    huge = {"shape": [1, 20000, 20000]}
    for change, message in [
        ({"genotype": []}, r"genotype of the description must be of type str, not \[\]$"),
        ({"genotype": None}, "genotype of the description must be of type str, not None"),
        ({"cells": True}, "cells of the description must be of type int, not True"),
        ({"cells": 10**6}, "cells: must be at most 1000"),
        ({"channels": 10**9}, "channels: must be at most 4096"),
        ({"resizing": {"size": 8}}, "resizing: must have size, fit, resize, filter"),
        ({"resizing": good["resizing"] | {"fit": "squeeze"}}, "resizing: fit must be one of crop, stretch, not 'squeeze'"),
        ({"resizing": good["resizing"] | {"size": 10**9}}, "resizing: size must be from 1 to 8192 pixels, not 1000000000"),
        ({"resizing": good["resizing"] | {"resize": 8}}, "resizing: resize must be from size to 8192 pixels"),
        ({"images": good["images"] | huge}, r"shape \(1, 20000, 20000\) has more than 67108864 numbers in an image"),
        ({"images": good["images"] | {"shape": [1, 10**400, 1]}}, "more than 67108864 numbers"),
        ({"images": good["images"] | {"class_names": ["a" * 2**22]}}, "longer than the 4194304 allowed"),
        ({"genotype": large, "cells": 1000}, "are those of another network"),
        ({"cells": 1000}, "are those of another network"),
        ({"more": 1}, "must have genotype, channels, cells, stem, task, images, resizing, but is "),
        ({"task": 1}, "task of the description must be of type str, not 1"),
        ({"task": "regression"}, "the task is regression, but the images of the description have classes"),
        ({"images": good["images"] | {"values": {"mean": [0], "std": [1]}}}, "values must be 7, as there are names"),
        ({"images": good["images"] | {"values": {"mean": [0], "std": [0]}}}, "std positive"),
        (
            {"images": good["images"] | {"values": {"mean": [0] * 7, "std": [1] * 7}}},
            "but the images of the description have n",
        ),
    ]:
        save_file(tensors, path, {"fusenas": json.dumps(good | change)})
        began = time.process_time()
        with pytest.raises(ValueError, match=message) as error:
            Trained.load(tmp_path)
        assert str(error.value).startswith(f"{path}: weights and description do not fit together: "), change
        assert len(str(error.value)) < 600 and "\n" not in str(error.value), change
        assert time.process_time() - began < 5, change  # a tenth of it alone

    deep = json.dumps(good)[:-1] + ', "more": ' + "[" * 10**5
    save_file(tensors, path, {"fusenas": deep})
    with pytest.raises(ValueError, match="the description is nested too deeply"):
        Trained.load(tmp_path)
    short = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    save_file(short, path, {"fusenas": json.dumps(good)})
    with pytest.raises(ValueError, match="shapes or types of the weights are those of another network"):
        Trained.load(tmp_path)


def test_a_network_is_evaluated_on_all_images(network):
    images = ImageSet(torch.randint(256, (5, 1, 8, 8), dtype=torch.uint8), torch.tensor([0, 1, 2, 3, 6]), 7, (0.5,), (0.5,))
    task = Classification.of_images(DataConfig(), images, CPU)
    found = evaluate_network(network, task, task.train, 3, CPU)
    assert found.images == 5
    logits = network((images.images / 255 - 0.5) / 0.5)
    assert found.accuracy == pytest.approx((logits.argmax(1) == images.labels).float().mean().item())
    assert not network.training


def test_logits_do_not_depend_on_the_batch_size(network):
    images = pictures(9)
    whole, parts = (network_outputs(network, ImageData(images, CPU), size, CPU).inputs for size in (100, 4))
    assert whole.shape == (9, 7)
    torch.testing.assert_close(parts, whole)


# Several runs


def pictures(count: int, classes: int = 7) -> ImageSet:
    drawn = torch.Generator().manual_seed(3)
    images = torch.randint(256, (count, 1, 8, 8), dtype=torch.uint8, generator=drawn)
    return ImageSet(images, torch.randint(classes, (count,), generator=drawn), classes, (0.5,), (0.5,))


def untrained(seed: int, classes: int = 10, image_channels: int = 1) -> DiscreteNetwork:
    torch.manual_seed(seed)
    network = DiscreteNetwork(get_genotype("DARTS_V2"), 2, 3, classes, image_channels)
    torch.nn.init.normal_(network.head.classifier.weight, std=3)  # networks that do not agree
    network(torch.randn(32, image_channels, 8, 8))
    return network.eval()


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., str]:
    """Writes what is read of a run: weights that were not trained, and a configuration."""

    def make(
        name: str,
        seed: int = 0,
        precision: str = "auto",
        data: DataConfig | None = None,
        side: int = 8,
        mean: float = 0.5,
        **network: int,
    ) -> str:
        path = tmp_path / name
        path.mkdir()
        trained = trained_on(untrained(seed, **network), side, mean)
        trained.save(path)
        trained.network.genotype.save(path / "genotype.json")
        (path / "config.yaml").write_text(config_to_yaml(RetrainConfig(data=data or DataConfig(), precision=precision)))
        return str(path)

    return make


def test_rows_are_those_of_a_direct_computation(monkeypatch):
    monkeypatch.setattr(retrain.evaluation.networks, "_AT_ONCE", 16)  # several times, the last one short
    images = pictures(50)
    settings = RetrainConfig(precision="float32")
    runs = [Run(Path(f"run{seed}"), trained_on(untrained(seed, 7)), settings) for seed in range(3)]
    rows = evaluate_runs(runs, [ImageData(images, CPU)] * 3, 20, torch.device("cpu"), speed=False)
    assert [row.name for row in rows] == ["run0", "run1", "run2", AVERAGE, VOTE]

    pixels = (images.images / 255 - 0.5) / 0.5
    with torch.no_grad():
        probabilities = torch.stack([run.trained.network(pixels).softmax(1) for run in runs])
    average = probabilities.mean(0)
    for chances, row in zip([*probabilities, average], rows, strict=False):
        assert row.metrics["accuracy"] == pytest.approx((chances.argmax(1) == images.labels).double().mean().item())
        assert row.metrics["loss"] == pytest.approx(F.nll_loss(chances.log(), images.labels).item(), rel=1e-3)
    votes = []
    for image in range(50):
        chosen = probabilities[:, image].argmax(1).tolist()
        votes.append(max(range(7), key=lambda kind: (chosen.count(kind), average[image, kind].item())))
    vote = rows[-1].metrics
    assert vote["accuracy"] == pytest.approx((torch.tensor(votes) == images.labels).double().mean().item())
    assert (vote["loss"], vote["top5"], vote["calibration_error"]) == (None, None, None)
    assert all(row.metrics["calibration_error"] > 0 for row in rows[:-1])
    assert torch.tensor(vote["confusion"]).sum(0).tolist() == torch.tensor(votes).bincount(minlength=7).tolist()
    assert len({row.metrics["accuracy"] for row in rows}) > 2  # the networks and their ensembles do differ

    for row in rows[:3]:
        assert (row.parameters, row.multiply_adds) == (count_parameters(runs[0].trained.network), rows[0].multiply_adds)
    assert [(row.parameters, row.multiply_adds) for row in rows[3:]] == 2 * [
        (3 * rows[0].parameters, 3 * rows[0].multiply_adds)
    ]


def test_each_network_computes_with_the_precision_of_its_run(make_run):
    paths = [Path(make_run("exact", precision="float32")), Path(make_run("short", precision="bfloat16"))]
    runs, images = read_runs(paths, {}), pictures(40, 10)
    device = torch.device("cpu")
    found = [row.metrics["loss"] for row in evaluate_runs(runs, [ImageData(images, CPU)] * 2, 40, device, speed=False)]
    network = untrained(0)
    task = Classification.of_images(DataConfig(), images, CPU)
    hardware = [Hardware(device, name) for name in ("float32", "bfloat16")]
    assert found[:2] == [evaluate_network(network, task, task.train, 40, one).loss for one in hardware]
    assert found[0] != found[1]


def test_each_network_sees_the_images_as_its_training_did(make_run):
    """Mean and std are those that the weights came with, which only runs on the same images share."""
    paths = [Path(make_run(name, mean=mean)) for name, mean in (("one", 0.5), ("two", 0.25), ("three", 0.5))]
    runs = read_runs(paths, {})
    one, two, three = load_test_images(runs, torch.device("cpu"))
    assert one is three
    assert [images.format.mean for images in (one, two)] == [(0.5,), (0.25,)]
    rows = evaluate_runs(runs, [ImageData(images, CPU) for images in (one, two, three)], 100, torch.device("cpu"), speed=False)
    for row, mean in zip(rows[:2], (0.5, 0.25), strict=True):
        with torch.no_grad():
            logits = untrained(0)((one.pixels() / 255 - mean) / 0.25)
        assert row.metrics["loss"] == pytest.approx(F.cross_entropy(logits, one.labels).item(), rel=1e-4)
    assert rows[0].metrics["loss"] != rows[1].metrics["loss"]


# The command line

QUIET = ("--speed=false", "--files=false")


def test_two_retrained_networks(tmp_path, capsys):
    size = {"channels": 4, "cells": 3, "epochs": 2, "batch_size": 50, "data.limit": 150, "auxiliary_weight": 0}
    small = [f"--{name}={value}" for name, value in size.items()]
    runs = [str(tmp_path / f"run{seed}") for seed in (1, 2)]
    for seed, run in enumerate(runs):
        begin = ["--config=retrain_digits", "--genotype=DARTS_V2", f"--seed={seed}", f"--run={run}"]
        assert retrain.__main__.main([*begin, *small]) == 0
    capsys.readouterr()
    output = tmp_path / "found.json"
    assert main([*runs, "--output", str(output), "--speed=false"]) == 0
    about, columns, *lines = capsys.readouterr().out.splitlines()
    lines, written = lines[:4], lines[4:]
    assert about == "digits: 360 test images of 1x8x8, 10 classes"
    assert columns.split() == ["network", "parameters", "multiply-adds", "accuracy", "loss", "calibration", "error"]
    assert len({len(line) for line in (columns, *lines)}) == 1
    why = f"{runs[0]} held out no images; they need images that no network was trained on: retrain all with "
    assert written.pop(0).startswith(f"{FITTED} and {GREEDY} are left out: {why}--validation_fraction 0.1 ")
    assert written == [*(f"written: {run}/evaluation.json, {run}/confusion.png" for run in runs), f"written: {output}"]

    content = json.loads(output.read_text())
    named = {"name": "digits", "root": "data", "size": None}
    assert content["data"] == named | {"images": 360, "shape": [1, 8, 8], "class_names": list("0123456789")}
    assert [row["name"] for row in content["networks"]] == runs
    assert [row["name"] for row in content["ensembles"]] == [AVERAGE, VOTE]
    for row, line in zip(content["networks"] + content["ensembles"], lines, strict=True):
        shown = ["-" if row[name] is None else f"{row[name]:.4f}" for name in ("accuracy", "loss", "calibration_error")]
        millions = f"{row['multiply_adds'] / 1e6:.2f}"
        assert line.split() == [*row["name"].split(), f"{row['parameters']:,}", millions, "M", *shown]
    for run, row in zip(runs, content["networks"], strict=True):
        metrics = json.loads((Path(run) / "metrics.json").read_text())
        for name in ("loss", "calibration_error"):
            assert metrics[name] == pytest.approx(row[name], rel=1e-5)
        assert all(metrics[name] == row[name] for name in ("accuracy", "confusion", "per_class", "parameters", "multiply_adds"))
        assert json.loads((Path(run) / "evaluation.json").read_text()) == row | {"data": content["data"]}
        assert {EVALUATION_FILE, KINDS["classification"].picture} <= set(recorded(Path(run)))  # which --overwrite removes


def held_out(run: str, fraction: float, seed: int, limit: int | None = 400) -> None:
    """Makes the run in a directory one on digits that held images out."""
    data = DataConfig(limit=limit)
    settings = RetrainConfig(data=data, validation_fraction=fraction, seed=seed, precision="float32")
    (Path(run) / "config.yaml").write_text(config_to_yaml(settings))
    parts = {part: load_images(data, part).prints for part in ("train", "test")}
    SeenImages({part: prints for part, prints in parts.items() if prints is not None}).save(Path(run))


def test_weights_are_chosen_on_images_that_no_network_was_trained_on(make_run, tmp_path, capsys):
    """Runs of two seeds held out other images; the ones that both did are found by hand."""
    runs = [make_run(name, seed) for seed, name in enumerate("abc")]
    for run, seed in zip(runs, (5, 6, 5), strict=True):
        held_out(run, 0.5, seed)
    assert main([*runs, *QUIET, f"--output={tmp_path / 'found.json'}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    content = json.loads((tmp_path / "found.json").read_text())
    assert [row["name"] for row in content["ensembles"]] == [AVERAGE, VOTE, FITTED, GREEDY]

    images, test = load_images(DataConfig(limit=400), "train"), load_images(DataConfig(), "test")
    held = [torch.randperm(400, generator=new_generator(seed, "split"))[200:].tolist() for seed in (5, 6)]
    copies = {*images.pixels()[sorted({*range(400)} - (set(held[0]) & set(held[1])))], *test.pixels()}
    seen = {image.numpy().tobytes() for image in copies}
    both = [place for place in sorted(set(held[0]) & set(held[1])) if images.pixels()[place].numpy().tobytes() not in seen]
    assert 60 < len(both) < 140

    networks = [untrained(seed) for seed in range(3)]

    def logits_of(pixels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return torch.stack([network((pixels / 255 - 0.5) / 0.25) for network in networks])

    chosen_on = logits_of(images.pixels()[both]), images.labels[both]
    on_test = logits_of(test.pixels())
    for row, choose, line in zip(content["ensembles"][2:], (fitted_weights, greedy_weights), lines[-3:-1], strict=True):
        weights = choose(*chosen_on)
        assert row["validation_images"] == len(both)
        assert row["weights"] == pytest.approx(weights.tolist(), abs=1e-4)
        chances = sum(weight * logits.softmax(1) for weight, logits in zip(weights, on_test, strict=True))
        assert row["accuracy"] == pytest.approx((chances.argmax(1) == test.labels).float().mean().item(), abs=0.01)
        used = sum(weight > 0 for weight in row["weights"])
        assert row["parameters"] == used * content["networks"][0]["parameters"]
        shares = [f"{weight:.4f} {run}" for weight, run in zip(row["weights"], runs, strict=True) if weight]
        assert line == f"{row['name']}, on {len(both)} images that no network was trained on: {', '.join(shares)}"
    assert content["ensembles"][2]["weights"] != content["ensembles"][3]["weights"]
    assert all("weights" not in row for row in content["ensembles"][:2])


@pytest.mark.parametrize("change", ["fraction", "unknown", "images", "nothing in common", "trained before"])
def test_without_images_that_no_network_was_trained_on_no_weights_are_chosen(make_run, capsys, change):
    runs = [make_run("a", 0), make_run("b", 1)]
    for run in runs:
        held_out(run, 0.5, 5)
    if change == "fraction":
        held_out(runs[1], 0.0, 5)
        reason = f"{runs[1]} held out no images"
    elif change == "unknown":
        (Path(runs[1]) / "images.safetensors").unlink()
        reason = f"{runs[1]} has no images.safetensors, which says what it was trained on"
    elif change == "images":
        prints = load_images(DataConfig(limit=300), "train").prints
        SeenImages({"train": prints}).save(Path(runs[0]))
        reason = f"the training images of {runs[0]} have changed since: "
    elif change == "nothing in common":
        held_out(runs[0], 0.01, 5)
        held_out(runs[1], 0.01, 6)
        reason = "no image was held out by every one of them"
    else:  # the weights were trained on them before the run was resumed with others
        seen = SeenImages.read(Path(runs[0]))
        before = SeenImages({"train": seen.parts["test"]}, seen.parts["train"].contents)
        before.save(Path(runs[0]))
        content = load_file(Path(runs[0]) / "images.safetensors")
        held_out(runs[0], 0.5, 5)
        now = load_file(Path(runs[0]) / "images.safetensors")
        save_file({**now, "earlier": content["earlier"]}, Path(runs[0]) / "images.safetensors")
        reason = "no image was held out by every one of them"
    assert main([*runs, *QUIET]) == 0
    *_, line = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{FITTED} and {GREEDY} are left out: {reason}") and "--validation_fraction" in line


def test_a_single_network_in_full(make_run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(retrain.evaluation.speed, "LEAST_SECONDS", 0.0)
    run = make_run("run")
    assert main([run, f"--output={tmp_path / 'found.json'}", "--threads=1"]) == 0
    unknown, *lines = capsys.readouterr().out.splitlines()
    assert unknown == f"{run}: has no images.safetensors: the test images are not compared with those that it was trained on"
    content = json.loads((tmp_path / "found.json").read_text())
    assert (len(content["networks"]), content["ensembles"]) == (1, [])
    (found,) = content["networks"]
    assert lines[2].split()[-1] == f"{found['calibration_error']:.4f}"

    assert lines[4].split() == ["class", "images", "precision", "recall", "F1"]
    for number, (line, scores) in enumerate(zip(lines[5:15], found["per_class"], strict=True)):
        measures = ("precision", "recall", "f1")
        shown = ["-" if scores[name] is None else f"{scores[name]:.4f}" for name in measures]
        assert line.split() == [str(number), str(scores["images"]), *shown]
    counts = torch.tensor(found["confusion"])
    assert [scores["images"] for scores in found["per_class"]] == counts.sum(1).tolist()

    wrong = counts - counts.diag().diag()
    true, predicted = divmod(int(wrong.argmax()), 10)
    most = f"{true} as {predicted} ({wrong.max()} of {counts[true].sum()})"
    assert lines[16].startswith(f"most often confused: {most}, ")
    assert lines[16].count(" as ") == 5

    speed = found["speed"]
    assert lines[18] == f"speed on {speed['device']}, 1 thread, float32, images of 1x8x8"
    assert lines[19].split() == ["batch", "size", "ms", "a", "batch", "10th", "to", "90th", "percentile", "images/s"]
    for line, batch, size in zip(lines[20:22], speed["batches"], (1, 64), strict=True):
        low, middle, high = (f"{batch[name]:.2f}" for name in ("latency_ms_p10", "latency_ms", "latency_ms_p90"))
        assert batch["batch_size"] == size
        assert line.split() == [str(size), middle, low, "to", high, f"{batch['images_per_second']:,.0f}"]
    assert len(lines) == 24

    assert json.loads((Path(run) / "evaluation.json").read_text()) == found | {"data": content["data"]}
    picture = (Path(run) / "confusion.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert {file.name for file in Path(run).iterdir()} == {
        "config.yaml", "genotype.json", "weights.safetensors", "evaluation.json", "confusion.png",
    }  # fmt: skip


def test_of_many_classes_the_worst_are_shown(make_run, tmp_path, capsys):
    labels = np.repeat(np.arange(25), 4)
    labels[labels == 7] = 6  # no test image of class 7
    images = np.random.default_rng(0).integers(256, size=(100, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "many.npz", x_train=images, y_train=np.repeat(np.arange(25), 4), x_test=images, y_test=labels)
    run = make_run("run", data=DataConfig(name="npz", root=str(tmp_path / "many.npz")), classes=25)
    assert main([run, "--speed=false"]) == 0
    _, head, *lines = capsys.readouterr().out.splitlines()
    notes, lines = lines[:3], [head, *lines[3:]]
    assert notes == [  # how the images were read
        "training part: x_train, y_train; test part: x_test, y_test, 100 images",
        "x_train [100, 8, 8] is read as [N, H, W], uint8",
        "the test part has no image of 7",
    ]
    assert MOST_CLASSES < 25
    assert lines[4] == f"the {WORST_CLASSES} classes of lowest recall; evaluation.json has all 25"
    found = json.loads((Path(run) / "evaluation.json").read_text())["per_class"]
    recalls = sorted(scores["recall"] for scores in found if scores["images"])
    shown = [line.split() for line in lines[6 : 6 + WORST_CLASSES]]
    assert [float(cells[3]) for cells in shown] == [round(recall, 4) for recall in recalls[:WORST_CLASSES]]
    assert found[7] == {"images": 0, "precision": found[7]["precision"], "recall": None, "f1": found[7]["f1"]}
    assert "7" not in [cells[0] for cells in shown]
    assert not lines[6 + WORST_CLASSES]


def test_nothing_is_written_where_it_is_not_wanted(make_run, capsys):
    run = Path(make_run("run"))
    before = {file.name for file in run.iterdir()}
    assert main([str(run), *QUIET]) == 0
    assert "\nwritten: " not in capsys.readouterr().out
    assert {file.name for file in run.iterdir()} == before


def test_options_replace_what_the_runs_say_of_the_data(make_run, capsys):
    first = make_run("first", data=DataConfig(size=6))
    assert main([first, *QUIET]) == 0
    about, note = capsys.readouterr().out.splitlines()[1:3]
    assert "of 1x6x6" in about
    assert note == f"{first}: the network was trained on images of 1x8x8"
    # Augmentation and limit, which are for training images, count for nothing: such a crop of 8x8 is refused there.
    other = make_run(
        "other", seed=1, data=DataConfig(name="absent", root="elsewhere", crop_padding=9, limit=10**6, fit="stretch")
    )
    options = ["--data.name", "digits", "--data.root", ".", "--data.download", "false", "--data.fit", "crop", *QUIET]
    assert main([other, *options, "--data.size", "5", first]) == 0
    assert "of 1x5x5" in capsys.readouterr().out
    assert main([other, *options, "--data.size", "null", first]) == 0
    out = capsys.readouterr().out
    assert "of 1x8x8" in out and "the network was trained on" not in out


@pytest.mark.parametrize("content", [None, "epochs: [", "relaxation: softmax\n"])
def test_a_run_without_configuration_needs_the_name_of_the_data(make_run, refused, capsys, content):
    run = make_run("run", side=6)
    config = Path(run) / "config.yaml"
    config.unlink()
    if content is not None:
        config.write_text(content)
    message = refused(run)
    assert message.startswith(str(config))
    assert message.endswith("; to do without this file, name the data set with --data.name")
    # The weights know how large the images have to be.
    for options, shape in (((), "1x6x6"), (("--data.size=null",), "1x8x8"), (("--data.size=7",), "1x7x7")):
        assert main([run, "--data.name=digits", *QUIET, *options]) == 0
        assert f"digits: 360 test images of {shape}, " in capsys.readouterr().out


def test_a_folder_of_images_without_configuration(make_run, tmp_path, capsys):
    from PIL import Image

    drawn = np.random.default_rng(0)
    for number in range(10):
        (tmp_path / "images" / str(number)).mkdir(parents=True)
        for image in range(4):
            pixels = drawn.integers(256, size=(12, 9 + image, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / str(number) / f"{image}.png")
    run = make_run("run", image_channels=3)
    (Path(run) / "config.yaml").unlink()
    options = ["--data.name=folder", f"--data.root={tmp_path}/images", "--data.test_fraction=0.5"]
    for more in ([], ["--data.loading=workers", "--data.workers=1", "--data.split_seed=0"]):
        assert main([run, *options, *more, "--speed=false"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[1] == "folder: 18 test images of 3x8x8, 10 classes"
    assert (Path(run) / "confusion.png").is_file()


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Returns the one line that the command says of wrong input."""

    def refuse(*argv: str) -> str:
        capsys.readouterr()
        assert main(list(argv)) == 2
        captured = capsys.readouterr()
        line, end, rest = captured.err.partition("\n")
        assert (captured.out, end, rest) == ("", "\n", "")
        return line.removeprefix("retrain.evaluate: error: ")

    return refuse


def test_directories_that_hold_no_network(make_run, refused, tmp_path):
    good = make_run("good")
    assert refused(good, f"{tmp_path}/absent") == f"{tmp_path}/absent: no such directory; name that of a run"
    assert refused(f"{good}/config.yaml") == f"{good}/config.yaml: not a directory; name that of a run"
    (tmp_path / "empty").mkdir()
    assert refused(good, f"{tmp_path}/empty").startswith(f"{tmp_path}/empty/weights.safetensors: no such file; retrain ")
    weights = Path(good) / "weights.safetensors"
    whole = weights.read_bytes()
    for damaged in (b"", whole[:-10], whole[:200], whole[100:], b"\xff" * 1000):
        weights.write_bytes(damaged)
        assert refused(good).startswith(f"{weights}: damaged or no safetensors file: ")


def test_weights_of_another_genotype(make_run, refused):
    run = make_run("run")
    genotype = Path(run) / "genotype.json"
    get_genotype("P-DARTS").save(genotype)
    assert refused(run).startswith(f"{genotype}: weights.safetensors was trained with another genotype; ")
    genotype.write_text("{")
    assert refused(run).startswith(f"{genotype}: not valid JSON")
    genotype.unlink()  # the weights have it too
    assert main([run, *QUIET]) == 0


def test_files_that_cannot_be_written_are_said_before_the_work(make_run, refused, monkeypatch):
    run = make_run("run")
    monkeypatch.setattr(retrain.evaluate, "load_test_images", lambda *_: pytest.fail("the work has begun"))
    hint = "; with --files false the result is only shown"
    for name in ("evaluation.json", "confusion.png"):
        (Path(run) / name).mkdir()
        assert refused(run) == f"{run}/{name} cannot be written: a directory{hint}"
        (Path(run) / name).rmdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != Path(run))
    assert refused(run) == f"{run}/evaluation.json cannot be written: no permission for {run}{hint}"


def test_a_result_that_cannot_be_written_is_shown(make_run, capsys, monkeypatch):
    def full(path: Path, content: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    run = make_run("run")
    monkeypatch.setattr(retrain.evaluate, "write_atomically", full)
    assert main([run, "--speed=false"]) == 2
    captured = capsys.readouterr()
    assert "most often confused: " in captured.out
    assert captured.err.startswith(f"retrain.evaluate: error: {run}/evaluation.json: No space left on device")
    assert captured.err.count("\n") == 1


def test_a_run_is_named_once(make_run, refused, tmp_path):
    run = make_run("run")
    (tmp_path / "link").symlink_to(run)
    for again in (run, f"{run}/../run", f"{tmp_path}/link"):
        assert refused(run, again) == f"{again}: named twice; in an ensemble each network has one vote"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (DataConfig(name="cifar10"), "data.name is cifar10, but digits in "),
        (DataConfig(root="elsewhere"), "data.root is elsewhere, but data in "),
        (DataConfig(size=16), "data.size is 16, but null in "),
        (DataConfig(gray=True), "data.gray is true, but false in "),
        (DataConfig(split_seed=1), "data.split_seed is 1, but 0 in "),
    ],
    ids=["name", "root", "size", "gray", "split_seed"],
)
def test_runs_on_different_images_are_no_ensemble(make_run, refused, data, message):
    first, second = make_run("first"), make_run("second", data=data)
    said = refused(first, second)
    assert said.startswith(f"{second}: {message}{first}; ")
    assert said.endswith(f"choose with --{message.split()[0]}")


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            {"classes": 7},
            "the images have 10 classes (0, 1, 2, ...), those that the network was trained on 7 classes (0, 1, 2, ...)",
        ),
        ({"image_channels": 3}, "the images have 1 channels, those that the network was trained on 3"),
    ],
)
def test_networks_for_other_images_than_those_of_the_data_set(make_run, refused, network, message):
    first, second = make_run("first"), make_run("second", **network)
    assert refused(second).startswith(f"data: {message}")
    described = f"{network.get('classes', 10)} classes (0, 1, 2, ...) and {network.get('image_channels', 1)} channels"
    assert refused(first, second) == (
        f"{second}: the network is for {described}, that of {first} for 10 classes (0, 1, 2, ...) and 1 channels; "
        "evaluate them one by one"
    )


def test_a_data_set_without_test_images(make_run, refused, tmp_path):
    images, labels = np.zeros((20, 8, 8), np.uint8), np.arange(20) % 10
    np.savez(tmp_path / "none.npz", x_train=images, y_train=labels, x_test=images[:0], y_test=labels[:0])
    assert refused(make_run("run"), "--data.name=npz", f"--data.root={tmp_path}/none.npz").startswith("data.")


def test_a_network_that_diverged(make_run, refused, tmp_path):
    run = make_run("run")
    SeenImages({}).save(Path(run))
    network = untrained(0)
    torch.nn.init.constant_(network.head.classifier.bias, float("nan"))
    trained_on(network).save(Path(run))
    assert refused(run, *QUIET).startswith(f"{run}/weights.safetensors: gives logits that are NaN or infinite")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--batch_size=0"], "batch_size: must be at least 1, not 0"),
        (["--batch_size=many"], "--batch_size: must be a whole number, not 'many'"),
        (["--threads=-1"], "threads: must be at least 1, not -1"),
        (["--device=tpu"], "device: 'tpu' cannot be used here; try auto or cpu"),
        (["--data.name=nope"], "data.name: unknown data set 'nope'; known: cifar10, cifar100, digits, "),
        (["--data.size=3"], "data.size: must be from 4 to 4096 pixels, or null for images as they are, not 3"),
        (["--data.size=small"], "--data.size: must be a whole number, not 'small'"),
        (["--data.workers=some"], "--data.workers: must be a whole number, not 'some'"),
        (["--data.test_fraction=half"], "--data.test_fraction: must be a number, not 'half'"),
        (["--data.test_fraction=nan"], "--data.test_fraction: must be a number, not 'nan'"),
        (["--data.fit=squeeze"], "--data.fit: must be one of crop, stretch, not 'squeeze'"),
        (["--speed=fast"], "--speed: must be true or false, not 'fast'"),
        (["--data.download=maybe"], "--data.download: must be true or false, not 'maybe'"),
        (["--data.name=cifar10", "--data.root=absent"], "data.root: there is no folder absent/cifar-10-batches-py; "),
        (["--output=absent/found.json"], "--output: absent/found.json cannot be written: no such directory"),
        (["--output=."], "--output: . cannot be written: a directory"),
        (["--bach_size=3"], "unrecognized arguments: --bach_size=3"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_options(make_run, refused, argv, message):
    assert refused(make_run("run"), *argv).startswith(message)


def test_no_run_at_all(refused):
    assert refused() == "the following arguments are required: RUN"
