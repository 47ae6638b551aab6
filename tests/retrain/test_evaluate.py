"""Tests of retrain/evaluate.py."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import retrain.__main__
import retrain.evaluate
from retrain.config import RetrainConfig
from retrain.evaluate import (
    AVERAGE,
    VOTE,
    Run,
    evaluate_network,
    evaluate_runs,
    main,
    network_logits,
    read_runs,
)
from retrain.weights import Trained
from supernet.discrete import DiscreteNetwork
from supernet.published import get_genotype
from training.config import config_to_yaml
from training.data import DataConfig
from training.images import ImageFormat, ImageSet
from training.metrics import count_parameters


def trained_on(network: DiscreteNetwork) -> Trained:
    """The network with a format of images that it fits."""
    channels, classes = network.image_channels, network.classifier.out_features
    names = tuple(map(str, range(classes)))
    return Trained(network, ImageFormat((channels, 8, 8), 255.0, (0.5,) * channels, (0.25,) * channels, names))


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
    for broken in (b"", b"\x00\xff" * 40, whole[:100], whole[:-10]):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="damaged or no safetensors file"):
            Trained.load(tmp_path)
    tensors = {"weight": torch.zeros(3)}
    save_file(tensors, path)
    with pytest.raises(ValueError, match="not those of a retrained genotype"):
        Trained.load(tmp_path)
    images = trained_on(network).format.to_dict()
    good = {"genotype": get_genotype("DARTS_V2").to_text("json"), "channels": 4, "cells": 3, "images": images}
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


def test_a_network_is_evaluated_on_all_images(network):
    images = ImageSet(torch.randint(256, (5, 1, 8, 8), dtype=torch.uint8), torch.tensor([0, 1, 2, 3, 6]), 7, (0.5,), (0.5,))
    found = evaluate_network(network, images, 3, torch.device("cpu"), "float32")
    assert found.images == 5
    logits = network((images.images / 255 - 0.5) / 0.5)
    assert found.accuracy == pytest.approx((logits.argmax(1) == images.labels).float().mean().item())
    assert not network.training


def test_logits_do_not_depend_on_the_batch_size(network):
    images = pictures(9)
    whole, parts = (network_logits(network, images, size, torch.device("cpu"), "float32") for size in (100, 4))
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
    torch.nn.init.normal_(network.classifier.weight, std=3)  # networks that do not agree
    network(torch.randn(32, image_channels, 8, 8))
    return network.eval()


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., str]:
    """Writes what is read of a run: weights that were not trained, and a configuration."""

    def make(name: str, seed: int = 0, precision: str = "auto", data: DataConfig | None = None, **network: int) -> str:
        path = tmp_path / name
        path.mkdir()
        trained_on(untrained(seed, **network)).save(path)
        (path / "config.yaml").write_text(config_to_yaml(RetrainConfig(data=data or DataConfig(), precision=precision)))
        return str(path)

    return make


def test_rows_are_those_of_a_direct_computation(monkeypatch):
    monkeypatch.setattr(retrain.evaluate, "_AT_ONCE", 16)  # several times, the last one short
    images = pictures(50)
    runs = [Run(Path(f"run{seed}"), untrained(seed, 7), DataConfig(), "float32") for seed in range(3)]
    rows = evaluate_runs(runs, images, 20, torch.device("cpu"))
    assert [row.name for row in rows] == ["run0", "run1", "run2", AVERAGE, VOTE]

    pixels = (images.images / 255 - 0.5) / 0.5
    with torch.no_grad():
        probabilities = torch.stack([run.network(pixels).softmax(1) for run in runs])
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
    assert (vote["loss"], vote["top5"]) == (None, None)
    assert torch.tensor(vote["confusion"]).sum(0).tolist() == torch.tensor(votes).bincount(minlength=7).tolist()
    assert len({row.metrics["accuracy"] for row in rows}) > 2  # the networks and their ensembles do differ

    for row in rows[:3]:
        assert (row.parameters, row.multiply_adds) == (count_parameters(runs[0].network), rows[0].multiply_adds)
    assert [(row.parameters, row.multiply_adds) for row in rows[3:]] == 2 * [
        (3 * rows[0].parameters, 3 * rows[0].multiply_adds)
    ]


def test_each_network_computes_with_the_precision_of_its_run(make_run):
    paths = [Path(make_run("exact", precision="float32")), Path(make_run("short", precision="bfloat16"))]
    runs, images = read_runs(paths, {}), pictures(40, 10)
    device = torch.device("cpu")
    found = [row.metrics["loss"] for row in evaluate_runs(runs, images, 40, device)]
    network = untrained(0)
    assert found[:2] == [evaluate_network(network, images, 40, device, name).loss for name in ("float32", "bfloat16")]
    assert found[0] != found[1]


# The command line


def test_two_retrained_networks(tmp_path, capsys):
    size = {"channels": 4, "cells": 3, "epochs": 2, "batch_size": 50, "data.limit": 150, "auxiliary_weight": 0}
    small = [f"--{name}={value}" for name, value in size.items()]
    runs = [str(tmp_path / f"run{seed}") for seed in (1, 2)]
    for seed, run in enumerate(runs):
        begin = ["--config=retrain_digits", "--genotype=DARTS_V2", f"--seed={seed}", f"--run={run}"]
        assert retrain.__main__.main([*begin, *small]) == 0
    capsys.readouterr()
    output = tmp_path / "found.json"
    assert main([*runs, "--output", str(output)]) == 0
    about, columns, *lines = capsys.readouterr().out.splitlines()
    assert about == "digits: 360 test images of 1x8x8, 10 classes"
    assert columns.split() == ["network", "parameters", "multiply-adds", "accuracy", "loss"]
    assert len({len(line) for line in (columns, *lines)}) == 1

    content = json.loads(output.read_text())
    assert content["data"] == {"name": "digits", "root": "data", "size": None}
    assert [row["name"] for row in content["networks"]] == runs
    assert [row["name"] for row in content["ensembles"]] == [AVERAGE, VOTE]
    for row, line in zip(content["networks"] + content["ensembles"], lines, strict=True):
        loss = "-" if row["loss"] is None else f"{row['loss']:.4f}"
        millions = f"{row['multiply_adds'] / 1e6:.2f}"
        assert line.split() == [*row["name"].split(), f"{row['parameters']:,}", millions, "M", f"{row['accuracy']:.4f}", loss]
    for run, row in zip(runs, content["networks"], strict=True):
        metrics = json.loads((Path(run) / "metrics.json").read_text())
        assert metrics["loss"] == pytest.approx(row["loss"], rel=1e-5)
        assert all(metrics[name] == row[name] for name in ("accuracy", "confusion", "parameters", "multiply_adds"))


def test_a_single_network_is_no_ensemble(make_run, tmp_path, capsys):
    assert main([make_run("run"), f"--output={tmp_path / 'found.json'}"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    content = json.loads((tmp_path / "found.json").read_text())
    assert (len(content["networks"]), content["ensembles"]) == (1, [])


def test_options_replace_what_the_runs_say_of_the_data(make_run, capsys):
    first = make_run("first", data=DataConfig(size=6))
    assert main([first]) == 0
    assert "of 1x6x6" in capsys.readouterr().out
    # Augmentation and limit, which are for training images, count for nothing: such a crop of 8x8 is refused there.
    other = make_run("other", seed=1, data=DataConfig(name="absent", root="elsewhere", crop_padding=9, limit=10**6))
    options = ["--data.name", "digits", "--data.root", ".", "--data.download", "false"]
    assert main([other, *options, "--data.size", "5", first]) == 0
    assert "of 1x5x5" in capsys.readouterr().out
    assert main([other, *options, "--data.size", "null", first]) == 0
    assert "of 1x8x8" in capsys.readouterr().out


@pytest.mark.parametrize("content", [None, "epochs: [", "relaxation: softmax\n"])
def test_a_run_without_configuration_needs_the_name_of_the_data(make_run, refused, capsys, content):
    run = make_run("run")
    config = Path(run) / "config.yaml"
    config.unlink()
    if content is not None:
        config.write_text(content)
    message = refused(run)
    assert message.startswith(str(config))
    assert message.endswith("; to do without this file, name the data set with --data.name")
    assert main([run, "--data.name=digits"]) == 0
    assert "digits: 360 test images" in capsys.readouterr().out


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What the command says, in one line, of input that is wrong."""

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
    weights.write_bytes(weights.read_bytes()[:-10])
    assert refused(good).startswith(f"{weights}: damaged or no safetensors file: ")


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
    ],
    ids=["name", "root", "size"],
)
def test_runs_on_different_images_are_no_ensemble(make_run, refused, data, message):
    first, second = make_run("first"), make_run("second", data=data)
    said = refused(first, second)
    assert said.startswith(f"{second}: {message}{first}; ")
    assert said.endswith(f"choose with --{message.split()[0]}")


@pytest.mark.parametrize(("network", "has"), [({"classes": 7}, "7 classes and 1"), ({"image_channels": 3}, "10 classes and 3")])
def test_networks_for_other_images_than_those_of_the_data_set(make_run, refused, network, has):
    first, second = make_run("first"), make_run("second", **network)
    message = f"{second}: the network is for {has} channels, but digits has 10 classes and 1 channels"
    assert refused(first, second) == message


def test_a_network_that_diverged(make_run, refused, tmp_path):
    run = make_run("run")
    network = untrained(0)
    torch.nn.init.constant_(network.classifier.bias, float("nan"))
    trained_on(network).save(Path(run))
    assert refused(run).startswith(f"{run}/weights.safetensors: gives logits that are NaN or infinite")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--batch_size=0"], "batch_size: must be at least 1, not 0"),
        (["--batch_size=many"], "--batch_size: must be a whole number, not 'many'"),
        (["--threads=-1"], "threads: must be at least 1, not -1"),
        (["--device=tpu"], "device: 'tpu' cannot be used here; try auto or cpu"),
        (["--data.name=nope"], "data.name: unknown data set 'nope'; known: cifar10, digits"),
        (["--data.size=3"], "data.size: must be from 4 to 4096 pixels, or null for images as they are, not 3"),
        (["--data.size=small"], "--data.size: must be a whole number, not 'small'"),
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
