"""Tests of retrain/trainer.py and of its command line."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from retrain import DiscreteNetwork
from retrain.__main__ import main
from retrain.api import retrain
from retrain.config import RetrainConfig
from retrain.result import Result
from retrain.trainer import Retraining
from supernet.genotypes.genotype import Genotype
from supernet.genotypes.published import get_genotype
from training.hardware import Hardware
from training.images.batches import Batches
from training.images.data import DataConfig, load_images
from training.images.sets import ImageSet
from training.loop import Watch
from training.metrics import count_parameters
from training.optim import OptimizerConfig
from training.run.config import RunOptions
from training.run.monitor import StopConfig
from training.tasks.classification import Classification

NASBENCH_TEXT = "|nor_conv_1x1~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|skip_connect~1|nor_conv_3x3~2|"
RESULTS = ("weights.safetensors", "genotype.json", "metrics.json")


def small(**fields) -> RetrainConfig:
    """A run of a second or two."""
    defaults = {
        "genotype": "DARTS_V2",
        "channels": 4,
        "cells": 3,
        "epochs": 2,
        "batch_size": 50,
        "log_every": 2,
        "data": DataConfig(limit=150, crop_padding=1),
        "weights": OptimizerConfig(lr=0.1, lr_min=0.0),
    }
    return RetrainConfig(**(defaults | fields))


def options(path: Path, resume: bool = False, overwrite: bool = False) -> RunOptions:
    return RunOptions(path, resume, overwrite)


def small_argv(path: Path, *more: str) -> list[str]:
    """The same on the command line."""
    size = {"channels": 4, "cells": 3, "epochs": 2, "batch_size": 50, "data.limit": 150, "auxiliary_weight": 0}
    sizes = [f"--{name}={value}" for name, value in size.items()]
    return ["--run", str(path), "--config", "retrain_digits", "--genotype", "DARTS_V2", *sizes, *more]


def results(path: Path) -> dict[str, bytes]:
    return {name: (path / name).read_bytes() for name in RESULTS}


def events(path: Path):
    """Returns the events that TensorBoard itself reads in the directory."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(path), size_guidance={"scalars": 0, "images": 0, "tensors": 0, "histograms": 0})
    accumulator.Reload()
    return accumulator


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Ctrl-C before that step, counted from 0 over the whole run."""
    steps = 0
    take = Retraining._step

    def interrupted(self, *arguments):
        nonlocal steps
        if steps == step:
            raise KeyboardInterrupt
        steps += 1
        take(self, *arguments)

    monkeypatch.setattr(Retraining, "_step", interrupted)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, Result]:
    """A run that was never stopped."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    return path, retrain(small(), options(path))


# A whole run


def test_a_run_writes_weights_that_give_its_metrics(finished):
    path, result = finished
    metrics = json.loads((path / "metrics.json").read_text())
    network = DiscreteNetwork(Genotype.load(path / "genotype.json"), channels=4, cells=3, image_channels=1)
    network.load_state_dict(load_file(path / "weights.safetensors"), strict=True)
    test = load_images(DataConfig(), "test")
    (images, labels), *_ = Batches(test, len(test), "cpu").epoch(0)
    with torch.no_grad():
        logits = network.eval()(images)
    assert metrics["accuracy"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert metrics["top5"] == pytest.approx((logits.topk(5).indices == labels[:, None]).any(1).float().mean().item())
    assert metrics["loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)
    assert metrics["parameters"] == count_parameters(network) == result.parameters
    assert metrics["multiply_adds"] == result.multiply_adds > 0


def test_the_metrics_are_complete(finished):
    path, result = finished
    metrics = json.loads((path / "metrics.json").read_text())
    assert set(metrics) == {
        *("accuracy", "top5", "macro_recall", "macro_f1", "confusion", "loss", "images", "parameters", "multiply_adds"),
        *("epochs", "seed", "config_hash", "genotype", "calibration_error", "per_class", "class_weights"),
        "balanced_accuracy",
    }
    confusion = torch.tensor(metrics["confusion"])
    assert confusion.shape == (10, 10)
    assert confusion.sum() == metrics["images"] == 360
    assert metrics["accuracy"] == pytest.approx(confusion.diagonal().sum().item() / 360)
    assert metrics["macro_recall"] == pytest.approx((confusion.diagonal() / confusion.sum(1)).mean().item())
    assert (metrics["epochs"], metrics["seed"]) == (result.epochs, 0) == (2, 0)
    assert Genotype.parse(metrics["genotype"]) == result.genotype == get_genotype("DARTS_V2")
    assert result.test.accuracy == metrics["accuracy"]
    assert metrics["class_weights"] == "none"


def test_tensorboard_has_the_curves_and_the_drawn_cells(finished):
    path, _ = finished
    seen = events(path)
    scalars = {tag: [(point.step, point.value) for point in seen.Scalars(tag)] for tag in seen.Tags()["scalars"]}
    curves = {"train/loss", "train/accuracy", "lr/weights", "drop_path", "speed/images_per_second", "memory/peak_mb"}
    assert set(scalars) == curves | {"test/loss", "test/accuracy"}
    assert all([step for step, _ in scalars[tag]] == [3, 6] for tag in curves)
    assert [value for _, value in scalars["drop_path"]] == pytest.approx([0, 0.1])
    assert [value for _, value in scalars["lr/weights"]] == pytest.approx([0.1, 0.05])
    assert [step for step, _ in scalars["test/accuracy"]] == [6]
    assert set(seen.Tags()["images"]) == {"cell/normal", "cell/reduce"}
    assert all(len(seen.Images(tag)) == 1 for tag in seen.Tags()["images"])
    texts = {tag: seen.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in seen.Tags()["tensors"]}
    assert "drop_path: 0.2" in texts["config/text_summary"]
    assert "sep_conv_3x3" in texts["genotype/text_summary"]


def test_both_parts_are_read_once_before_anything_is_written(tmp_path, monkeypatch):
    read = []

    def recorded(config: DataConfig, part: str, *more, **named) -> ImageSet:
        read.append((part, (tmp_path / "run").exists()))
        return load_images(config, part, *more, **named)

    monkeypatch.setattr("training.tasks.images.load_images", recorded)
    retrain(small(), options(tmp_path / "run"))
    assert read == [("train", False), ("test", False)]


def test_a_genotype_of_nasbench201_is_retrained(tmp_path):
    file = tmp_path / "genotype.txt"
    file.write_text(NASBENCH_TEXT)
    config = small(genotype=str(file), cells=1, epochs=1, auxiliary_weight=0.0, precision="bfloat16")
    result = retrain(config, options(tmp_path / "run"))
    assert result.genotype == Genotype.parse(NASBENCH_TEXT)
    assert {tensor.dtype for tensor in load_file(tmp_path / "run" / "weights.safetensors").values()} == {torch.float32}


def test_the_shipped_recipe_runs_from_the_command_line(tmp_path, capsys):
    assert main(small_argv(tmp_path / "run")) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "epoch 2/2: train loss" in out
    *_, summary, where, report = out.splitlines()
    assert summary.startswith("retrain: 2 epochs, ") and "on 360 test images: accuracy 0." in summary
    assert where == f"retrain: weights and metrics in {tmp_path / 'run'}"
    assert report == f"retrain: report in {tmp_path / 'run' / 'report.html'}"


# Training


class Recorder:
    """A monitor and a bar that show nothing; `curves` are the points of each tag."""

    def __init__(self) -> None:
        self.curves: dict[str, list[float]] = {}

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for tag, value in values.items():
            self.curves.setdefault(tag, []).append(value)

    def log(self, *_: object) -> None: ...
    def advance(self, *_: object) -> None: ...
    def show(self, *_: object) -> None: ...


def new_trainer(config: RetrainConfig) -> Retraining:
    hardware = Hardware.of(config, config.graph)
    return Retraining(config, get_genotype("DARTS_V2"), Classification.open(config.data, hardware), hardware)


def run_epochs(trainer: Retraining, *epochs: int) -> dict[str, list[float]]:
    """Trains those epochs and returns the curves."""
    recorder = Recorder()
    for epoch in epochs:
        torch.manual_seed(epoch)
        trainer.run_epoch(epoch, Watch(recorder, recorder, trainer.device, trainer.meters, epoch, trainer.steps, 10))
    return recorder.curves


def test_the_auxiliary_loss_trains_head_and_network():
    with_head, without = new_trainer(small(auxiliary_weight=0.4)), new_trainer(small(auxiliary_weight=0.0))
    assert without.network.auxiliary is None
    before = with_head.network.auxiliary.classifier.weight.detach().clone()
    without.network.load_state_dict(with_head.network.state_dict(), strict=False)
    run_epochs(with_head, 0)
    run_epochs(without, 0)
    assert not torch.equal(with_head.network.auxiliary.classifier.weight, before)
    assert not torch.equal(with_head.network.stem[0].weight, without.network.stem[0].weight)


def test_drop_path_rises_linearly_and_the_rate_falls_by_a_cosine():
    trainer = new_trainer(small(epochs=4, drop_path=0.3))
    curves = run_epochs(trainer, 0, 2, 3)
    assert curves["drop_path"] == pytest.approx([0, 0.15, 0.225])
    assert curves["lr/weights"] == pytest.approx([0.1, 0.05, 0.1 * (1 - 0.5**0.5) / 2])
    assert float(trainer.network.drop_path) == pytest.approx(0.225)


def test_masks_are_drawn_in_every_epoch_or_in_none():
    """All epochs are then one CUDA graph; in the first the probability is 0 and the masks drop nothing."""
    without, with_masks = new_trainer(small(drop_path=0.0)), new_trainer(small(drop_path=0.3))
    drawn = []
    for trainer in (without, with_masks):
        run_epochs(trainer, 0)
        drawn.append(torch.get_rng_state())
    torch.manual_seed(0)
    assert torch.equal(drawn[0], torch.get_rng_state()) and not torch.equal(drawn[1], drawn[0])
    trained = [dict(trainer.network.named_parameters()) for trainer in (without, with_masks)]
    torch.testing.assert_close(*trained, rtol=1e-3, atol=1e-4)


def test_the_probability_is_one_tensor_that_epochs_fill():
    trainer = new_trainer(small(epochs=4, drop_path=0.3))
    probability = trainer.network.drop_path
    run_epochs(trainer, 2)
    assert trainer.network.drop_path is probability and probability.item() == pytest.approx(0.15)


def test_cells_that_are_computed_again_change_no_bit(finished, tmp_path):
    """With the auxiliary head and dropped paths; the second half is resumed with the other setting."""
    path, _ = finished
    retrain(small(recompute="cells"), options(tmp_path / "run"))
    assert results(tmp_path / "run") == results(path)
    shutil.copytree(path, tmp_path / "resumed")
    (tmp_path / "resumed" / "checkpoints" / "epoch_0002.pt").unlink()
    retrain(small(recompute="cells"), options(tmp_path / "resumed", resume=True))
    assert results(tmp_path / "resumed") == results(path)


def test_histograms_and_a_trace_change_no_bit(finished, tmp_path):
    """Networks of random genotypes have histograms of their own, and no trace."""
    watched = small(histograms_every=2, random_genotypes=1)
    retrain(watched, replace(options(tmp_path / "run"), profile=tmp_path / "trace", pictures=False))
    assert results(tmp_path / "run") == results(finished[0])
    trace = json.loads((tmp_path / "trace" / "trace.json").read_text())["traceEvents"]
    ranges = {event["name"] for event in trace if event.get("cat") == "user_annotation"}
    assert {name for name in ranges if not name.startswith("Optimizer.")} == {
        "step",
        "loading",
        "forward",
        "backward",
        "optimiser of weights",
    }
    assert [path.name for path in tmp_path.glob("**/trace.json")] == ["trace.json"]
    for run in (tmp_path / "run", tmp_path / "run" / "random_0"):
        read = events(run)
        parts = ("stem", "head", "auxiliary", "layers.0.nodes")
        assert set(read.Tags()["histograms"]) >= {f"{of}/{part}" for of in ("weights", "gradients") for part in parts}
        assert len(read.Histograms("weights/stem")) == 1


def test_the_mobile_stem_brings_the_size_of_networks_for_imagenet():
    network = new_trainer(small(stem="imagenet", channels=None, cells=None)).network
    assert (network.stem_name, network.channels, network.cell_count) == ("imagenet", 48, 14)
    assert network.auxiliary is not None


def test_weights_stay_channels_last():
    trainer = new_trainer(small())
    run_epochs(trainer, 0)
    assert trainer.network.stem[0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw", "adagrad"])
def test_every_optimiser_learns(optimizer):
    lr = 0.1 if optimizer == "sgd" else 0.01
    trainer = new_trainer(
        small(weights=OptimizerConfig(name=optimizer, lr=lr, lr_min=0.0), auxiliary_weight=0.0, drop_path=0.0)
    )
    losses = run_epochs(trainer, 0, 0, 0, 0)["train/loss"]
    assert losses[-1] < 0.85 * losses[0]


def test_a_single_image_that_is_left_over_is_not_trained_on():
    assert new_trainer(small(data=DataConfig(limit=151))).steps == 3
    assert new_trainer(small(data=DataConfig(limit=149))).steps == 3
    assert new_trainer(small(data=DataConfig(limit=151), batch_size=49)).steps == 4


def test_images_that_are_held_out_are_not_trained_on():
    trainer = new_trainer(small(validation_fraction=0.2))
    assert trainer.steps == 3 and trainer.valid_batches is not None
    assert sum(len(labels) for _, labels in trainer.train_batches.epoch(0)) == 120
    assert sum(len(labels) for _, labels in trainer.valid_batches.epoch(0)) == 30


# Stop and go on


@pytest.mark.parametrize("step", [0, 2, 4])
def test_a_resumed_run_ends_with_the_same_bits(finished, tmp_path, monkeypatch, step):
    path = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupt_at(patch, step)
        retrain(small(), options(path))
    assert not (path / "metrics.json").exists()
    retrain(small(), options(path, resume=True))
    assert results(path) == results(finished[0])
    seen = events(path)
    assert [point.step for point in seen.Scalars("train/loss")] == [3, 6]
    assert len(seen.Images("cell/normal")) == 1


def test_resuming_a_finished_run_writes_the_same_again(tmp_path):
    path = tmp_path / "run"
    config = small(epochs=1)
    first = retrain(config, options(path))
    before = results(path)
    for name in RESULTS[::2]:
        (path / name).unlink()
    assert retrain(config, options(path, resume=True)) == first
    assert results(path) == before


def test_resume_trains_the_genotype_that_the_run_began_with(tmp_path, monkeypatch):
    file, path = tmp_path / "mine.json", tmp_path / "run"
    get_genotype("DARTS_V1").save(file)
    config = small(genotype=str(file), epochs=1)
    retrain(config, options(path))
    get_genotype("DARTS_V2").save(file)
    assert retrain(config, options(path, resume=True)).genotype == get_genotype("DARTS_V1")
    get_genotype("DARTS_V2").save(path / "genotype.json")
    with pytest.raises(ValueError, match="not the genotype that the checkpoint was trained with"):
        retrain(config, options(path, resume=True))


def test_a_target_accuracy_ends_a_run_early_and_all_is_written(tmp_path):
    config = small(epochs=50, validation_fraction=0.3, stop=StopConfig(score=0.01), auxiliary_weight=0.0)
    path = tmp_path / "run"
    result = retrain(config, options(path))
    assert result.epochs < 50
    assert json.loads((path / "metrics.json").read_text())["epochs"] == result.epochs
    assert all((path / name).is_file() for name in RESULTS)
    seen = events(path)
    assert seen.Scalars("valid/accuracy")[-1].value >= 0.01
    assert len(seen.Scalars("valid/loss")) == result.epochs
    assert "validation accuracy" in (path / "log.txt").read_text()


def test_a_second_run_needs_a_flag(finished):
    path, _ = finished
    before = results(path)
    with pytest.raises(ValueError, match="continue it with --resume or replace it with --overwrite"):
        retrain(small(), options(path))
    assert results(path) == before


# Wrong input


@pytest.fixture
def refused(tmp_path, capsys):
    """The one line on stderr for a command that ends with `status`; nothing has been written."""

    def run(*argv: str, status: int = 2) -> str:
        path = tmp_path / "run"
        try:
            found = main(small_argv(path, *argv))
        except SystemExit as stopped:
            found = stopped.code
        assert found == status
        err = capsys.readouterr().err
        assert err.startswith("retrain: error: ") and err.endswith("\n") and err.count("\n") == 1
        if status == 2:
            assert not path.exists()
        return err.removeprefix("retrain: error: ").rstrip("\n")

    return run


def test_a_genotype_must_be_given_and_exist(refused, tmp_path):
    assert refused("--genotype", "").startswith("genotype: give a file or one of DARTS_V1, DARTS_V2")
    assert refused("--genotype", "DARTS_V9").startswith("genotype: 'DARTS_V9' is neither a file nor a published genotype")
    assert refused("--genotype", str(tmp_path / "no.json")) == f"genotype: {tmp_path / 'no.json'}: no such file"


@pytest.mark.parametrize("content", [b"", b"\x00\xff\x00", b'{"format": 1, "cells": {"nor', b"|made_up~0|+|none~0|none~1|"])
def test_files_that_hold_no_genotype_are_refused(refused, tmp_path, content):
    file = tmp_path / "broken.json"
    file.write_bytes(content)
    assert refused("--genotype", str(file)).startswith(f"genotype: {file}: ")


def test_nasbench201_has_no_auxiliary_head(refused, tmp_path):
    file = tmp_path / "genotype.txt"
    file.write_text(NASBENCH_TEXT)
    message = refused("--genotype", str(file), "--auxiliary_weight", "0.4")
    assert message == "the nasbench201 skeleton has no place for an auxiliary head; set auxiliary_weight to 0"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--stop.score", "0.9"], "stop.score: needs images to validate on"),
        (["--batch_size", "151"], "batch_size: 151 is larger than the number of images, 150"),
        (["--weights.lr", "nan"], "weights.lr: must be a number, not nan"),
        (["--epochs", "-1"], "epochs: must be at least 1, not -1"),
        (["--cells", "2"], "cells: the darts skeleton needs at least 3 cells, not 2"),
        (["--stem", "imagenet", "--channels", "5"], "channels: must be even with stem imagenet"),
        (["--stem", "mobile"], "stem: must be one of cifar, imagenet"),
        (["--validation_fraction", "0.999"], "validation_fraction: 0.999 of 150 images leaves a part empty"),
        (["--validation_fraction", "0.8"], "batch_size: 50 is larger than the number of images, 29"),
        (["--device", "abacus"], "device: 'abacus' cannot be used here"),
        (
            ["--device", "cpu", "--graph", "true"],
            "graph: the device cpu has no CUDA graphs; null uses one where that can be done",
        ),
        (["--data.name", "imagenet"], "data.name: unknown data set 'imagenet'"),
        (["--precision", "float16"], "precision: must be one of auto, float32, bfloat16"),
        (["--drop_paht", "0.1"], "--drop_paht: no such option; did you mean --drop_path?"),
        (["--resume"], "nothing to resume"),
    ],
)
def test_wrong_settings_are_refused(refused, argv, message):
    assert message in refused(*argv)


def test_images_that_are_too_small_are_refused_before_anything_is_written(tmp_path, monkeypatch):
    tiny = ImageSet(torch.zeros(60, 1, 3, 8, dtype=torch.uint8), torch.arange(60) % 10, 10, (0.5,), (0.5,))
    monkeypatch.setattr("training.tasks.images.load_images", lambda *arguments, **named: tiny)
    with pytest.raises(ValueError, match="3x8 is too small"):
        retrain(small(), options(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_ends_the_run(refused, tmp_path):
    message = refused(
        "--weights.lr", "1000", "--weights.weight_decay", "1000", "--weights.clip", "0", "--log_every", "1", status=1
    )
    assert message.startswith("step 2: the train loss is NaN or infinite; try a lower learning rate")
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_weights_that_only_a_validation_shows_to_be_spoilt_are_not_saved(refused, tmp_path):
    flags = ("--validation_fraction", "0.5", "--batch_size", "75")  # one step an epoch: its loss is that before it
    message = refused("--weights.lr", "1000", "--weights.weight_decay", "1000", "--weights.clip", "0", *flags, status=1)
    assert message.startswith("step 0: the validation loss after the step is NaN or infinite; try a lower learning rate")
    assert not (tmp_path / "run" / "checkpoints").exists()
