"""A search from the command line to its files."""

import copy
import json
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import retrain.__main__
import supernet
from base.seeds import derive_seed
from benchmarks.plain.pairing import softmax
from ops import register_op
from ops.banks import ChainBank, ModuleBank
from ops.registry import OPERATIONS
from retrain.weights import Trained
from search.attribution.players import Players
from search.attribution.update import ShapleyConfig
from search.darts import main
from search.differentiable import recorder as report
from search.differentiable.config import AlphaConfig, SearchConfig, StagesConfig
from search.differentiable.recorder import Recorder
from search.differentiable.relaxations import Mixture, RelaxationConfig
from search.differentiable.steps import Steps
from search.differentiable.trainer import BilevelSearch
from supernet import Genotype, Supernet, get_space
from supernet.spaces.darts import DARTS_SKELETON
from supernet.spaces.space import SPACES, SearchSpace, register_space
from training.hardware import Hardware
from training.images.data import DataConfig
from training.images.sets import ImageSet
from training.loop import Watch
from training.metrics import Batch
from training.optim import OptimizerConfig
from training.run.checkpoint import Checkpoints
from training.run.directory import RunDirectory
from training.run.monitor import Monitor
from training.tasks.classification import Classification
from training.tasks.images import ImageData

NASBENCH = {"space": "nasbench201", "cells": 1, "channels": 2, "alphas.lr": 0.02, "eigenvalue_every": 0}
TINY_DARTS = {"space": "darts", "cells": 3, "channels": 2, "alphas.lr": 0.02}
SIZE = {"data.limit": 64, "batch_size": 16, "epochs": 2, "device": "cpu"}


def argv(path: Path, *flags: str, **settings: Any) -> list[str]:
    """Returns the options of a tiny search in NAS-Bench-201's space; `settings` have "__" in place of dots."""
    settings = {name.replace("__", "."): value for name, value in settings.items()}
    return ["--run", str(path), *(f"--{name}={value}" for name, value in (NASBENCH | SIZE | settings).items()), *flags]


def saved(path: Path) -> tuple[int, dict[str, Any]]:
    """Epoch and state of the newest checkpoint."""
    found = Checkpoints(path).latest()
    assert found is not None
    return found[0], found[1]["trainer"]


def alphas(path: Path) -> dict[str, torch.Tensor]:
    return saved(path)[1]["alphas"]


def events(path: Path) -> Any:
    """Returns the events that TensorBoard itself reads in the directory."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(path), size_guidance={"scalars": 0, "images": 0, "tensors": 0, "histograms": 0})
    accumulator.Reload()
    return accumulator


def quick(arguments: list[str]) -> int:
    """The exit status of a search without pictures, which would take most of the time of so small a one."""
    return main(arguments, pictures=False)


def new_search(tmp_path: Path, **settings: Any) -> BilevelSearch:
    config = SearchConfig(
        **{"space": "nasbench201", "channels": 2, "cells": 1, "batch_size": 16, "eigenvalue_every": 0, "device": "cpu"}
        | {"data": DataConfig(limit=64)}
        | settings
    )
    hardware = Hardware.of(config, config.graph)
    task = Classification.open(config.data, hardware)
    return BilevelSearch(config, task, RunDirectory(tmp_path, config), hardware, pictures=False)


def pair(search: BilevelSearch) -> tuple[Batch, Batch]:
    """The first training batch and the first validation batch."""
    train, valid = next(search.batches_of(0))
    return train, valid


def run_epoch(search: BilevelSearch, epoch: int) -> None:
    """Runs an epoch as `training.loop.run_epochs` does, without a checkpoint."""
    torch.manual_seed(derive_seed(search.config.seed, "epoch", epoch))
    with Monitor(search.run.path) as monitor:
        search.run_epoch(epoch, Watch(monitor, monitor.bar(0), search.device, search.meters, epoch, search.steps, 50))


# A whole search


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that was never stopped."""
    path = tmp_path_factory.mktemp("runs") / "whole"
    assert main(argv(path)) == 0
    return path


def test_it_ends_with_a_genotype_that_says_where_it_is_from(finished: Path) -> None:
    genotype = Genotype.load(finished / "genotype.json")
    config = SearchConfig(
        space="nasbench201", cells=1, channels=2, batch_size=16, epochs=2, device="cpu", data=DataConfig(limit=64)
    )
    config.alphas.lr, config.eigenvalue_every = 0.02, 0
    assert genotype.seed == 0
    assert genotype.config_hash == RunDirectory(finished, config).config_hash
    assert genotype.space == "nasbench201"
    assert genotype.skeleton.name == "nasbench201"
    mixture = softmax(alphas(finished))
    assert genotype == get_space("nasbench201").derive(mixture)
    assert json.loads((finished / "genotype.json").read_text())["format"] == 1
    assert genotype.to_text("nasbench201") in (finished / "log.txt").read_text()


def test_the_terminal_shows_every_epoch_and_the_genotype(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv(tmp_path / "run", epochs=1)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    images, limit, epoch, where, text, page = out.splitlines()
    assert images.startswith("training part: 64 images of 10 classes: ") and limit.startswith("data.limit: 64 of 1,437 ")
    assert epoch.startswith("epoch 1/1: train loss ")
    assert where == f"darts: 1 epochs; genotype in {tmp_path / 'run' / 'genotype.json'}:"
    assert page == f"darts: report in {tmp_path / 'run' / 'report.html'}"
    assert Genotype.parse(text) == Genotype.load(tmp_path / "run" / "genotype.json")


def test_a_seed_decides_everything(finished: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        assert quick(argv(tmp_path / str(seed), seed=seed)) == 0
    same, other = saved(tmp_path / "0")[1], saved(tmp_path / "1")[1]
    expected = saved(finished)[1]
    for part in ("alphas", "network"):
        assert all(torch.equal(same[part][name], value) for name, value in expected[part].items())
    assert (tmp_path / "0" / "genotype.json").read_bytes() == (finished / "genotype.json").read_bytes()
    assert not torch.equal(other["alphas"]["cell"], expected["alphas"]["cell"])
    assert Genotype.load(tmp_path / "1" / "genotype.json").seed == 1


# What runs with each part of a method, test_combinations.py takes steps of.
VARIANTS: dict[str, dict[str, Any]] = {
    "darts, batch statistics": TINY_DARTS | {"batch_statistics": True},
    "nasbench201, second order, exact": {"order": "second", "hessian_vector": "exact"},
    "nasbench201, a table for each cell": {"tie_cells": False, "order": "second"},
    "adagrad, running statistics": {"weights.name": "adagrad", "weights.lr": 0.01, "batch_statistics": False},
    "adamw, bfloat16, second order": {
        "weights.name": "adamw", "weights.lr": 0.01, "precision": "bfloat16", "order": "second"
    },
    "augmented, uneven parts": {
        "data.crop_padding": 1, "data.flip": True, "data.cutout": 2, "train_fraction": 0.7, "validate_every": 2
    },
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_kind_of_search_ends_with_a_genotype(variant: str, tmp_path: Path) -> None:
    settings = {name.replace(".", "__"): value for name, value in VARIANTS[variant].items()}
    path = tmp_path / "run"
    assert quick(argv(path, **settings)) == 0
    genotype = Genotype.load(path / "genotype.json")
    searched = get_space(genotype.space)
    tables = alphas(path)
    assert genotype == searched.derive(softmax(tables))
    for kind, table in tables.items():
        tied = settings.get("tie_cells", True)
        assert table.shape[-2:] == (len(searched.edges), len(searched.candidates))
        assert table.ndim == 2 if tied else len(table) == (3 if kind == "cell" else {"normal": 1, "reduce": 2}[kind])
        if not tied:
            assert (table[0] - table[1]).abs().max() > 0.01, "cells with tables of their own go apart"
        # Adam's steps are about as large as its rate: twenty times the initial values here.
        assert table.abs().amax(-1).min() > 0.01


@pytest.mark.slow
def test_the_alphas_decide_more_and_more(tmp_path: Path) -> None:
    """A smaller copy of the shipped digits search."""
    path = tmp_path / "run"
    flags = ["--config", "digits", "--data.limit", "128", "--batch_size", "16", "--cells", "3", "--channels", "2"]
    assert main([*flags, "--run", str(path), "--epochs", "3", "--alphas.lr", "0.1", "--eigenvalue_every", "0"]) == 0
    entropy = {kind: [point.value for point in events(path).Scalars(f"alphas/entropy_{kind}")] for kind in ("normal", "reduce")}
    for values in entropy.values():
        assert values == sorted(values, reverse=True)
        assert values[-1] < 0.99 * torch.tensor(8.0).log().item()


@pytest.mark.slow
def test_the_shipped_digits_search_decides(tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert main(["--config", "digits", "--run", str(path)]) == 0
    entropies = [events(path).Scalars(f"alphas/entropy_{kind}")[-1].value for kind in ("normal", "reduce")]
    assert sum(entropies) / 2 <= 0.95 * torch.tensor(8.0).log().item()
    assert saved(path)[0] >= 12
    assert alphas(path)["normal"].shape == (14, 8)


# TensorBoard


@pytest.mark.slow
def test_tensorboard_has_curves_pictures_and_texts_without_gaps_after_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "run"
    settings = {name.replace(".", "__"): value for name, value in TINY_DARTS.items()}
    settings |= {"epochs": 3, "data__limit": 32, "eigenvalue_every": 1}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        raise_in_step(patch, 1, KeyboardInterrupt)
        run_without_command(argv(path, **settings))
    # TensorBoard reads files in the order of the second in which they were begun.
    time.sleep(1.01)
    assert main(argv(path, "--resume", **settings)) == 0
    seen = events(path)
    curves = {tag: [point.step for point in seen.Scalars(tag)] for tag in seen.Tags()["scalars"]}
    both = ("loss", "accuracy")
    assert set(curves) == {
        *(f"{level}/{what}" for level in ("train", "valid", "evaluation") for what in both),
        *("lr/weights", "lr/alphas", "speed/images_per_second", "memory/peak_mb"),
        *("evaluation/derived_accuracy", "evaluation/gap", "alphas/eigenvalue", "maps/largest_offset"),
        *(f"{what}_{kind}" for what in ("alphas/entropy", "genotype/skips") for kind in ("normal", "reduce")),
    }
    assert set(map(tuple, curves.values())) == {(1, 2, 3)}
    rates = [point.value for point in seen.Scalars("lr/weights")]
    assert rates == pytest.approx([0.025, 0.001 + 0.024 * 0.75, 0.001 + 0.024 * 0.25])
    images = {tag: [image.step for image in seen.Images(tag)] for tag in seen.Tags()["images"]}
    assert images == {f"{what}/{kind}": [1, 2, 3] for what in ("alphas", "cell") for kind in ("normal", "reduce")}
    assert all(image.encoded_image_string.startswith(b"\x89PNG") for tag in images for image in seen.Images(tag))
    texts = {tag: seen.Tensors(tag) for tag in seen.Tags()["tensors"]}
    assert {tag: [text.step for text in found] for tag, found in texts.items()} == {
        "config/text_summary": [0],
        "genotype/text_summary": [1, 2, 3],
    }
    assert b"space: darts" in texts["config/text_summary"][0].tensor_proto.string_val[0]
    shown = texts["genotype/text_summary"][-1].tensor_proto.string_val[0].decode()
    assert Genotype.parse(shown).cells == Genotype.load(path / "genotype.json").cells


def raise_in_step(patch: pytest.MonkeyPatch, step: int, error: type[BaseException]) -> None:
    """Raises `error` between the two halves of that step, counted from 0 over the whole run."""
    steps = 0
    take = Steps.weight_step

    def weight_step(self: Steps, *arguments: Any) -> None:
        nonlocal steps
        if steps == step:
            raise error
        steps += 1
        take(self, *arguments)

    patch.setattr(Steps, "weight_step", weight_step)


def run_without_command(arguments: list[str]) -> None:
    """`main` with its exceptions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("search.methods.command", lambda prog, run: run())
        main(arguments)


# What is only watched


def history(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "history.jsonl").read_text().splitlines()]


def write_table(path: Path, architecture: str) -> Path:
    """A benchmark table of one architecture."""
    columns = "arch,cifar10_test_200,cifar10_valid_200,cifar10_valid_12,params_cifar10,flops_cifar10,latency_ms_phone"
    path.write_text(f"{columns}\n{architecture},91.25,88.5,80.0,1234,5678,2.5\n")
    return path


def assert_same_but_for_the_history(path: Path, expected: Path) -> None:
    """Weights, alphas and optimisers are equal, bit for bit."""
    (epoch, state), (known_epoch, known) = saved(path), saved(expected)
    assert epoch == known_epoch
    assert state.pop("history") and known.pop("history")
    torch.testing.assert_close(state, known, rtol=0, atol=0)


@pytest.mark.parametrize("settings", [{"eigenvalue_every": 1}, {"validate_every": 2}])
def test_what_is_measured_of_a_search_changes_nothing_in_it(settings: dict[str, int], finished: Path, tmp_path: Path) -> None:
    assert quick(argv(tmp_path / "run", **settings)) == 0
    assert_same_but_for_the_history(tmp_path / "run", finished)
    (name,) = settings
    curve, steps = ("alphas/eigenvalue", [2, 4]) if name == "eigenvalue_every" else ("evaluation/accuracy", [4])
    assert [point.step for point in events(tmp_path / "run").Scalars(curve)] == steps


def test_a_table_judges_and_changes_nothing(finished: Path, tmp_path: Path) -> None:
    """One table has the genotype of the first epoch, the other one that of none."""
    genotypes = [entry["genotype"] for entry in history(finished)]
    other = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
    assert other not in genotypes
    for name, architecture in (("known", genotypes[0]), ("unknown", other)):
        path = tmp_path / name
        assert quick(argv(path, tabular=write_table(tmp_path / "table.csv", architecture))) == 0
        assert_same_but_for_the_history(path, finished)
        lines = [line for line in (path / "log.txt").read_text().splitlines() if " epoch " in line]
        told = ["table: test accuracy 91.25%, 1,234 parameters, 2.50 ms on phone" in line for line in lines]
        assert told == [genotype == architecture for genotype in genotypes]
        assert ["not in the table" in line for line in lines] == [not known for known in told]
        tags = [tag for tag in events(path).Tags()["scalars"] if tag.startswith("table/")]
        curves = ("test_accuracy", "valid_accuracy", "parameters", "multiply_adds", "latency_ms_phone")
        assert sorted(tags) == (sorted(f"table/{curve}" for curve in curves) if any(told) else [])


def test_a_resumed_search_may_bring_a_table(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    shutil.copytree(finished, path)
    (path / "checkpoints" / "epoch_0002.pt").unlink()
    table = write_table(tmp_path / "table.csv", history(finished)[1]["genotype"])
    assert quick(argv(path, "--resume", tabular=table)) == 0
    assert_same_but_for_the_history(path, finished)
    assert (path / "log.txt").read_text().count("table: test accuracy 91.25%") == 1


@pytest.mark.slow
def test_the_history_has_a_line_for_each_epoch_and_is_the_same_after_a_resume(tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    settings = {"epochs": 3, "eigenvalue_every": 2, "validate_every": 2}
    assert quick(argv(whole, **settings)) == 0
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        raise_in_step(patch, 5, KeyboardInterrupt)
        run_without_command(argv(stopped, **settings))
    assert history(stopped) == history(whole)[:2]
    assert quick(argv(stopped, "--resume", **settings)) == 0
    assert (stopped / "history.jsonl").read_bytes() == (whole / "history.jsonl").read_bytes()
    entries = history(whole)
    assert [entry["epoch"] for entry in entries] == [1, 2, 3]
    assert [entry["eigenvalue"] is not None for entry in entries] == [False, True, False]
    # The last epoch is always evaluated.
    for name in ("supernet_accuracy", "derived_accuracy"):
        assert [name in entry for entry in entries] == [False, True, True]
    assert Genotype.parse(entries[-1]["genotype"]).cells == Genotype.load(whole / "genotype.json").cells
    assert all(0 < entry["entropy"]["cell"] < math.log(5) for entry in entries)
    for entry in entries:
        assert entry["skips"] == {"cell": entry["genotype"].count("skip_connect")}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("settings", [{}, {"space": "darts", "cells": 3}], ids=["nasbench201", "darts"])
def test_supernet_and_derived_cell_are_evaluated_on_the_validation_images(
    settings: dict[str, Any], tied: bool, tmp_path: Path
) -> None:
    """The derived cell alone, with the weights that it has in the supernet and the statistics of each batch."""
    search = new_search(tmp_path, epochs=1, tie_cells=tied, **settings)
    run_epoch(search, 0)
    (entry,) = history(tmp_path)
    searched, network = search.space, search.network
    one_hot, choices = {}, {}
    for kind, cell in Genotype.load(tmp_path / "genotype.json").cells.items():
        table = torch.zeros(len(searched.edges), len(searched.candidates))
        for node, feeds in enumerate(cell.nodes):
            for operation, source in feeds:
                table[searched.edges.index((source, searched.inputs + node)), searched.candidates.index(operation)] = 1
        choices[kind] = [int(row.argmax()) if row.any() else -1 for row in table]
        one_hot[kind] = table if tied else table.expand(network.cells_of_kind[kind], -1, -1)

    @torch.no_grad()
    def accuracy(*arguments: Any) -> float:
        correct = sum((network(images, *arguments).argmax(1) == labels).sum() for images, labels in batches)
        return int(correct) / sum(len(labels) for _, labels in batches)

    batches = list(search.evaluation_batches.epoch(0))
    assert sum(len(labels) for _, labels in batches) == 32
    network.train()
    assert entry["derived_accuracy"] == pytest.approx(accuracy(one_hot, supernet.Path(choices)), abs=1e-6)
    run_epoch(search, 0)  # what the passes above did to running statistics is not the network that is asked for next
    entry = history(tmp_path)[1]
    network.eval()
    assert entry["supernet_accuracy"] == pytest.approx(accuracy(softmax(search.architecture.alphas)), abs=1e-6)


# Stopping


def test_a_target_score_ends_a_search_early(tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert quick(argv(path, epochs=9, stop__score=0.01)) == 0
    epoch, _ = saved(path)
    assert epoch < 9
    assert "has reached the target of 0.01" in (path / "log.txt").read_text()
    assert Genotype.load(path / "genotype.json").space == "nasbench201"


def test_a_time_limit_ends_a_search_and_a_longer_one_goes_on(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        # An hour passes before each epoch.
        hours = iter(range(9))
        clock = SimpleNamespace(monotonic=lambda: 3600 * next(hours), perf_counter=time.perf_counter)
        patch.setattr("training.run.monitor.time", clock)
        assert quick(argv(path, stop__hours=1)) == 0
    assert saved(path)[0] == 1
    assert "stopped after epoch 1: the time of 1.0 hours is over" in (path / "log.txt").read_text()
    assert (path / "genotype.json").exists()
    assert quick(argv(path, "--resume", stop__hours=100)) == 0
    for kind, table in alphas(finished).items():
        assert torch.equal(alphas(path)[kind], table)
    assert (path / "genotype.json").read_bytes() == (finished / "genotype.json").read_bytes()


def test_no_time_at_all_still_leaves_a_run_to_resume(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert quick(argv(path, stop__hours=1e-9)) == 0
    assert "stopped after epoch 1" in (path / "log.txt").read_text()
    assert (path / "genotype.json").exists()
    assert quick(argv(path, "--resume", stop__hours=1)) == 0
    assert (path / "genotype.json").read_bytes() == (finished / "genotype.json").read_bytes()


# Early stopping

FULL = 'skip connections are 100% of the cell "cell", more than 50%'


def collapse_in(patch: pytest.MonkeyPatch, epoch: int) -> None:
    """Makes cells count as all skip connections from that epoch on, counted from 1 over the whole run."""
    shares = chain([0.0] * (epoch - 1), repeat(1.0))
    patch.setattr(report, "skip_share", lambda genotype: {"cell": next(shares)})


def test_a_search_that_collapses_stops_with_the_genotype_from_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run"
    settings = {"epochs": 9, "early_stop__when": "skips", "early_stop__start": 0, "alphas__lr": 0.3}
    collapse_in(monkeypatch, 3)
    assert quick(argv(path, **settings)) == 0
    genotypes = [entry["genotype"] for entry in history(path)]
    assert len(genotypes) == saved(path)[0] == 3
    assert genotypes[1] != genotypes[2]
    found = Genotype.load(path / "genotype.json")
    assert found.to_text("nasbench201") == genotypes[1]
    assert found.seed == 0 and found.config_hash is not None
    log = (path / "log.txt").read_text()
    assert log.count(f"warning: the search may be collapsing: {FULL}\n") == 1
    assert log.count(f"stopped after epoch 3: {FULL}; the genotype is that of epoch 2\n") == 1

    files = [path / "history.jsonl", path / "genotype.json", *path.glob("checkpoints/*")]
    before = [file.read_bytes() for file in files]
    assert quick(argv(path, "--resume", **settings)) == 0
    assert [file.read_bytes() for file in files] == before
    assert sorted(path.glob("checkpoints/*")) == sorted(files[2:])
    assert (path / "log.txt").read_text().count("warning: ") == 1


def test_a_collapse_in_the_last_epoch_is_told_with_the_genotype_that_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    collapse_in(monkeypatch, 2)
    assert quick(argv(path, early_stop__when="skips", alphas__lr=0.3)) == 0
    genotypes = [entry["genotype"] for entry in history(path)]
    assert genotypes[0] != genotypes[1]
    assert Genotype.load(path / "genotype.json").to_text("nasbench201") == genotypes[0]
    assert f"{FULL}; the genotype is that of epoch 1\n" in (path / "log.txt").read_text()


# Divergence


@pytest.fixture
def error_of(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The one line on stderr of a search that diverges."""

    def find(arguments: list[str]) -> str:
        assert main(arguments) == 1
        err = capsys.readouterr().err
        assert err.startswith("search.darts: error: ") and err.endswith("\n") and err.count("\n") == 1
        return err.removeprefix("search.darts: error: ").rstrip("\n")

    return find


@pytest.mark.parametrize("order", ["first", "second"])
def test_a_rate_that_is_far_too_high_is_said_in_one_line(order: str, tmp_path: Path, error_of: Callable[..., str]) -> None:
    message = error_of(argv(tmp_path / "run", order=order, weights__lr=1000, weights__weight_decay=1000, weights__clip=0))
    assert message.startswith("step ") and "is NaN or infinite; try a lower learning rate" in message
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_weights_that_only_an_evaluation_shows_to_be_spoilt_are_not_saved(tmp_path: Path, error_of: Callable[..., str]) -> None:
    """One step an epoch: its losses are those before it, and what it leads to is huge but finite."""
    message = error_of(argv(tmp_path / "run", data__limit=32, weights__lr=1000, weights__weight_decay=1000, weights__clip=0))
    assert message.startswith("step 0: the evaluation loss after the step is NaN or infinite")
    assert not list((tmp_path / "run").glob("checkpoints/*"))


@pytest.mark.parametrize(
    ("half", "step", "message"),
    [
        ("weight_step", 2, "step 3: the train loss is NaN"),
        ("weight_step", 3, "step 3: the evaluation loss after the step is NaN"),
        ("alpha_step", 3, "step 3: the train loss is NaN"),
    ],
)
def test_the_last_good_checkpoint_is_kept_and_leads_on(
    half: str, step: int, message: str, finished: Path, tmp_path: Path, error_of: Callable[..., str]
) -> None:
    path = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch, half, step)
        assert error_of(argv(path)).startswith(message)
    epoch, state = saved(path)
    assert epoch == 1
    assert all(tensor.isfinite().all() for part in ("network", "alphas") for tensor in state[part].values())
    assert quick(argv(path, "--resume")) == 0
    assert all(torch.equal(tensor, saved(path)[1]["network"][name]) for name, tensor in saved(finished)[1]["network"].items())
    assert (path / "genotype.json").read_bytes() == (finished / "genotype.json").read_bytes()


def spoil(patch: pytest.MonkeyPatch, half: str, step: int) -> None:
    """A NaN in what that half of that step moves, right after it; steps are counted from 0 over the whole run."""
    steps = 0
    take = getattr(Steps, half)

    def spoilt(self: Steps, *arguments: Any) -> None:
        nonlocal steps
        take(self, *arguments)
        if steps == step:
            moved = self.architecture.alphas["cell"] if half == "alpha_step" else self.network.head.classifier.bias
            with torch.no_grad():
                moved.view(-1)[0] = float("nan")
        steps += 1

    patch.setattr(Steps, half, spoilt)


def test_meters_are_the_same_in_every_epoch_and_start_each_one_empty(tmp_path: Path) -> None:
    path = tmp_path / "run"
    meters: list[tuple[int, ...]] = []
    with pytest.MonkeyPatch.context() as patch:
        epoch = Recorder.epoch

        def recorded(self: Recorder, *arguments: Any) -> float | None:
            assert [meter.read().count for meter in self.steps.meters.values()] == [32, 32]
            meters.append(tuple(map(id, self.steps.meters.values())))
            return epoch(self, *arguments)

        patch.setattr(Recorder, "epoch", recorded)
        assert quick(argv(path)) == 0
    assert len(meters) == 2 and len(set(meters)) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has graphs")
def test_a_graph_on_a_device_without_any_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert quick(argv(tmp_path / "run", graph=True)) == 2
    message = "graph: the device cpu has no CUDA graphs; null uses one where that can be done"
    assert capsys.readouterr().err == f"search.darts: error: {message}\n"
    assert not (tmp_path / "run").exists()


# Warm-up and stages


@pytest.mark.parametrize("bilevel", [True, False])
def test_only_weights_move_while_the_schedule_says_so(bilevel: bool, tmp_path: Path) -> None:
    search = new_search(tmp_path, epochs=2, bilevel=bilevel, edge_normalization=True, alphas=AlphaConfig(lr=0.02, warmup=0.5))
    moving = [*search.architecture.parameters(), search.network.head.classifier.weight]
    for epoch, moves in enumerate([False, True]):
        assert search.begin_epoch(epoch, print) == search.schedule.plan(epoch)
        before = [table.detach().clone() for table in moving]
        search.step(*next(search.batches_of(epoch)))
        assert [not torch.equal(*both) for both in zip(before, moving, strict=True)] == [moves, moves, True]


Part = dict[tuple[int, int, str, str], dict[str, torch.Tensor]]


def parts(search: BilevelSearch) -> Part:
    """Returns weights and their momentum of each operation that there is, by cell, edge, candidate and name of the tensor."""
    found: Part = {}
    for number, cell in enumerate(search.network.mixed_cells()):
        for key, slot in cell.slots.items():
            for name, parameter in cell.banks[key].named_parameters():
                state = search.step.weight_optimizer.state[parameter]
                for row, edge in enumerate(slot.edges):
                    found[number, edge, search.space.candidates[slot.column], name] = {
                        "weights": parameter[row].detach().clone(),
                        "momentum": state["momentum_buffer"][row].clone(),
                    }
    return found


def test_a_stage_keeps_the_strongest_candidates_and_their_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of four channels go through the operations first, and then all."""
    search = new_search(
        tmp_path, channels=4, partial=2, epochs=2, stages=StagesConfig(keep=[3], partial=[1]), alphas=AlphaConfig(lr=0.02)
    )
    run_epoch(search, 0)
    assert search.network.mixed_cells()[0].partial == 2
    strongest = search.architecture.alphas["cell"].argsort(-1, descending=True)[:, :3].sort(-1).values
    snapshots = []
    rebuild = Supernet.rebuild

    def watched(self: Supernet, *arguments: Any) -> None:
        snapshots.append(parts(search))
        rebuild(self, *arguments)
        snapshots.append(parts(search))

    monkeypatch.setattr(Supernet, "rebuild", watched)
    run_epoch(search, 1)
    before, after = snapshots
    left = {(edge, search.space.candidates[column]) for edge, row in enumerate(strongest.tolist()) for column in row}
    assert {key[1:3] for key in before} - left and {key[1:3] for key in after} <= left
    assert after.keys() == {key for key in before if key[1:3] in left}
    grown = 0
    for key, values in after.items():
        for name, value in values.items():
            old = before[key][name]
            assert old.any()
            assert torch.equal(value[tuple(slice(side) for side in old.shape)], old)
            grown += value.shape != old.shape
    assert grown

    for cell in search.network.mixed_cells():
        assert cell.partial == 1
        assert [[column for column, there in enumerate(row) if there] for row in cell.keep] == strongest.tolist()
    weights = search.architecture.mean()["cell"]
    assert torch.equal(weights.nonzero()[:, 1].view(6, 3), strongest)
    torch.testing.assert_close(weights.sum(-1), torch.ones(6))
    assert "stage 2: 3 candidates an edge, 1/1 of the channels through them\n" in (tmp_path / "log.txt").read_text()


@pytest.mark.slow
def test_a_search_resumed_across_its_stages_has_the_same_bits(tmp_path: Path) -> None:
    """Three stages of two epochs of one step: stopped in the epoch that begins the second one, and within the third."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    settings = {"channels": 4, "partial": 4, "stages__keep": "[4,2]", "stages__partial": "[2,1]"}
    settings |= {"epochs": 6, "data__limit": 32}
    assert quick(argv(whole, **settings)) == 0
    for step, flags, epochs in ((2, (), 2), (3, ("--resume",), 5)):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            raise_in_step(patch, step, KeyboardInterrupt)
            run_without_command(argv(stopped, *flags, **settings))
        assert saved(stopped)[0] == epochs
    assert quick(argv(stopped, "--resume", **settings)) == 0
    state = saved(whole)[1]
    assert state["partial"] == 1
    assert state["keep"]["cell"].sum(-1).tolist() == [2] * 6
    assert_same_but_for_the_history(stopped, whole)
    for name in ("history.jsonl", "genotype.json"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes()


# A user's own operation


def squeeze(channels: int, stride: int, affine: bool) -> nn.Module:
    """One that banks do not know."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, stride, 1), nn.GELU(), nn.BatchNorm2d(channels, affine=affine), nn.Dropout(0.1)
    )


def grouped(channels: int, stride: int, affine: bool) -> nn.Module:
    """One of the form that edges can share."""
    return nn.Sequential(
        nn.ReLU(), nn.Conv2d(channels, channels, 3, stride, 1, groups=2, bias=False), nn.BatchNorm2d(channels, affine=affine)
    )


@pytest.fixture
def own_names() -> Iterator[None]:
    """Forgets the operations of a test after it."""
    with OPERATIONS.temporarily(), SPACES.temporarily():
        yield


@pytest.mark.parametrize(("factory", "bank"), [(squeeze, ModuleBank), (grouped, ChainBank)])
@pytest.mark.parametrize("order", ["first", "second"])
def test_an_operation_of_ones_own_is_searched_and_retrained(
    factory: Any, bank: type, order: str, tmp_path: Path, own_names: None
) -> None:
    register_op("my_op")(factory)
    mine = SearchSpace("mine", DARTS_SKELETON, nodes=2, candidates=("none", "my_op"), concat=(2, 3), derived_inputs=2)
    register_space(mine)
    banks = {type(slot) for slot in Supernet(mine, 4, 3).mixed_cells()[0].banks.values()}
    assert banks == {bank}

    path = tmp_path / "search"
    assert quick(argv(path, space="mine", cells=3, channels=4, order=order)) == 0
    genotype = Genotype.load(path / "genotype.json")
    assert {name for cell in genotype.cells.values() for feeds in cell.nodes for name, _ in feeds} == {"my_op"}

    size = {"channels": 4, "cells": 3, "epochs": 1, "batch_size": 16, "data.limit": 64, "auxiliary_weight": 0.4}
    flags = [f"--{name}={value}" for name, value in size.items()]
    final = tmp_path / "retrain"
    assert retrain.__main__.main(["--run", str(final), "--genotype", str(path / "genotype.json"), *flags]) == 0
    assert Genotype.load(final / "genotype.json") == genotype
    assert 0 <= json.loads((final / "metrics.json").read_text())["accuracy"] <= 1


@pytest.mark.slow
def test_a_search_and_a_retraining_with_the_mobile_stem(tmp_path: Path) -> None:
    """Digits as large as the stem needs them; the search is stopped once and goes on from what it saved."""
    path, final = tmp_path / "search", tmp_path / "retrain"
    settings = TINY_DARTS | {"stem": "imagenet", "data.size": 32, "data.limit": 32, "eigenvalue_every": 0}
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        raise_in_step(patch, 1, KeyboardInterrupt)
        run_without_command(argv(path, **settings))
    assert saved(path)[0] == 1
    assert main(["--run", str(path), "--resume"]) == 0
    epochs, state = saved(path)
    assert epochs == 2 and state["network"]["stem.newer.conv.weight"].shape == (2, 2, 3, 3)
    genotype = Genotype.load(path / "genotype.json")

    size = {"stem": "imagenet", "data.size": 32, "channels": 4, "cells": 3, "epochs": 1, "batch_size": 16, "data.limit": 32}
    flags = [f"--{name}={value}" for name, value in size.items()]
    assert retrain.__main__.main(["--run", str(final), "--genotype", str(path / "genotype.json"), *flags]) == 0
    trained = Trained.load(final)
    assert (trained.network.stem_name, trained.network.genotype) == ("imagenet", genotype)
    assert trained.format.shape == (1, 32, 32)


@pytest.mark.slow
def test_a_search_resumed_while_it_selects_has_the_same_bits(tmp_path: Path) -> None:
    """One epoch of search, then six decisions with an epoch of training after each."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    settings = {"epochs": 1, "selection__name": "perturbation", "selection__tune_epochs": 1, "exclude": "[none]"}
    assert quick(argv(whole, **settings)) == 0
    for step, flags in ((2, ()), (5, ("--resume",))):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            raise_in_step(patch, step, KeyboardInterrupt)
            run_without_command(argv(stopped, *flags, **settings))
    assert saved(stopped)[0] == 3
    assert quick(argv(stopped, "--resume", **settings)) == 0
    epochs, state = saved(whole)
    assert epochs == 7
    kept = state["keep"]["cell"]
    assert kept.sum(-1).tolist() == [1] * 6 and not kept[:, 0].any()
    genotype = Genotype.load(whole / "genotype.json")
    assert genotype == get_space("nasbench201").derive({"cell": kept.float()})
    assert_same_but_for_the_history(stopped, whole)
    for name in ("history.jsonl", "genotype.json"):
        assert (stopped / name).read_bytes() == (whole / name).read_bytes()


# One level


@pytest.mark.slow
@pytest.mark.parametrize("bilevel", [True, False])
def test_validation_images_train_alphas_in_a_search_of_two_levels_alone(
    bilevel: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other pixels and labels in them change nothing that moves where they only judge."""
    assert quick(argv(tmp_path / "one", bilevel=bilevel, eigenvalue_every=1)) == 0
    split = ImageData.split

    def changed(self: ImageData, fraction: float, seed: int) -> tuple[ImageData, ImageData]:
        train, valid = split(self, fraction, seed)
        images = valid.images
        assert isinstance(images, ImageSet)
        return train, replace(valid, images=replace(images, images=255 - images.images, labels=images.labels.flip(0)))

    monkeypatch.setattr(ImageData, "split", changed)
    assert quick(argv(tmp_path / "other", bilevel=bilevel, eigenvalue_every=1)) == 0
    one, other = history(tmp_path / "one"), history(tmp_path / "other")
    assert one[0]["eigenvalue"] != other[0]["eigenvalue"]
    assert ("valid/loss" in one[0]) == bilevel
    if bilevel:
        assert not torch.equal(alphas(tmp_path / "one")["cell"], alphas(tmp_path / "other")["cell"])
    else:
        assert_same_but_for_the_history(tmp_path / "one", tmp_path / "other")


def test_an_epoch_of_one_level_is_one_pass_over_the_training_images(tmp_path: Path) -> None:
    assert new_search(tmp_path, train_fraction=0.75).steps == 1
    search = new_search(tmp_path, train_fraction=0.75, bilevel=False)
    assert search.steps == 3
    search.network.train()
    for batch in search.batches_of(0):
        search.step(*batch)
    assert [search.meters[level].read().count for level in ("train", "valid")] == [48, 0]


# Alphas by Shapley values


def by_shapley(tmp_path: Path, **settings: Any) -> BilevelSearch:
    shapley = ShapleyConfig(permutations=2, batch=16)
    return new_search(tmp_path, epochs=2, alphas=AlphaConfig(update="shapley", warmup=0.5), shapley=shapley, **settings)


@pytest.mark.parametrize("settings", [{}, {"tie_cells": False, "cells": 2}, {"auxiliary_skip": 1.0}])
def test_alphas_take_one_step_along_shapley_values_before_the_weights_of_an_epoch(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step is that of an estimate made anew, with candidates taken out of the mixture of the steps one by one."""
    search = by_shapley(tmp_path, **settings)
    begun = {kind: alpha.detach().clone() for kind, alpha in search.architecture.alphas.items()}
    run_epoch(search, 0)
    assert all(torch.equal(alpha, begun[kind]) for kind, alpha in search.architecture.alphas.items())
    other = by_shapley(tmp_path, **settings)
    other.load_state_dict(copy.deepcopy(search.state_dict()))
    other.begin_epoch(1, print)
    assert other.shapley is not None
    players = Players({"cell": torch.ones_like(begun["cell"], dtype=torch.bool)})
    skip = other.space.candidates.index("skip_connect")
    mean = other.architecture.mean()["cell"].detach()

    def score(batches: Iterable[Batch], mixture: Mixture) -> float:
        (batch,) = batches
        table = mixture["cell"].clone()
        assert torch.equal(table[table != 0], mean[table != 0])
        table[..., skip] += other.architecture.schedule().get("auxiliary_skip", 0.0)
        with torch.no_grad():
            return float((other.network(batch.inputs, {"cell": table}).argmax(1) == batch.targets).double().mean())

    found = other.shapley.estimate(1, players, other.architecture.mean(), score)
    other.shapley.move(other.architecture.alphas, players, found)
    step, taken = Steps.__call__, []

    def recorded(self: Steps, *batch: Batch) -> None:
        taken.append(self.architecture.alphas["cell"].detach().clone())
        assert len(batch) == 1
        step(self, *batch)

    monkeypatch.setattr(Steps, "__call__", recorded)
    run_epoch(search, 1)
    assert len(taken) == search.steps and not torch.equal(taken[0], begun["cell"])
    assert all(torch.equal(table, other.architecture.alphas["cell"]) for table in (*taken, search.architecture.alphas["cell"]))
    readings = search.recorder.history[1].readings
    assert readings["shapley/evaluations"] == found.evaluations
    assert readings["shapley/reached"] == float(found.reached.double().mean())
    assert not {"shapley/evaluations", "speed/shapley_seconds"} & set(search.recorder.history[0].readings)
    assert "speed/shapley_seconds" not in readings


def test_curves_of_shapley_values_begin_with_them(tmp_path: Path) -> None:
    more = {"alphas__update": "shapley", "alphas__warmup": 0.5, "shapley__permutations": 2, "shapley__stop": 0}
    assert quick(argv(tmp_path / "run", **more)) == 0
    seen = events(tmp_path / "run")
    last = 2 * len(seen.Scalars("train/loss"))
    for tag, value in {"shapley/evaluations": 2 * 31, "shapley/reached": 1.0}.items():
        assert [(point.step, point.value) for point in seen.Scalars(tag)] == [(last, value)]
    assert [point.value > 0 for point in seen.Scalars("speed/shapley_seconds")] == [True]
    assert not {"lr/alphas", "valid/loss"} & set(seen.Tags()["scalars"])
    log = (tmp_path / "run" / "log.txt").read_text(encoding="utf-8")
    assert log.count("Shapley values of 30 candidates: at most 62 evaluations on 32 of the 32 validation images\n") == 1
    assert "shapley evaluations 62.0000 reached 1.0000" in log


# One operation an edge

GDAS = {"relaxation": RelaxationConfig("straight_through", temperature=5.0)}


def draws_of(search: BilevelSearch, patch: pytest.MonkeyPatch) -> list[list[int]]:
    """Returns a list that gets each draw of `search` from now on: the candidates of the edges."""
    drawn = []
    draw = search.architecture.draw

    def recorded() -> Any:
        mixture, path = draw()
        drawn.append(mixture["cell"].argmax(-1).tolist())
        return mixture, path

    patch.setattr(search.architecture, "draw", recorded)
    return drawn


@pytest.mark.parametrize("bilevel", [True, False])
@pytest.mark.parametrize("optimizer", [{}, {"name": "sgd", "nesterov": True, "momentum": 0.9}])
def test_what_was_not_sampled_does_not_move(
    bilevel: bool, optimizer: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither weights nor momentum, bit for bit, though there is weight decay and momentum from earlier steps."""
    weights = OptimizerConfig(**optimizer, weight_decay=0.1)
    search = new_search(tmp_path, data=DataConfig(limit=256), batch_size=8, bilevel=bilevel, weights=weights, **GDAS)
    search.network.train()
    drawn = draws_of(search, monkeypatch)
    columns = {name: column for column, name in enumerate(search.space.candidates)}
    moved = idle_with_momentum = 0
    for batch in search.batches_of(0):
        before, known = parts(search), len(drawn)
        search.step(*batch)
        # Of two levels the second draw is that of the weights.
        assert len(drawn) - known == 1 + bilevel
        for key, values in parts(search).items():
            _, edge, operation, _ = key
            same = all(torch.equal(value, before[key][name]) for name, value in values.items())
            sampled = drawn[-1][edge] == columns[operation]
            assert same or sampled, key
            moved += not same
            idle_with_momentum += not sampled and bool(values["momentum"].any())
    assert moved and idle_with_momentum
    assert len({tuple(choices) for choices in drawn}) > 1


@pytest.mark.parametrize("one_path", [True, False])
def test_only_what_is_sampled_runs(one_path: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_names: None) -> None:
    for name in ("my_op", "your_op"):
        register_op(name)(squeeze)
    mine = SearchSpace(
        "mine", DARTS_SKELETON, nodes=2, candidates=("none", "my_op", "your_op"), concat=(2, 3), derived_inputs=2
    )
    register_space(mine)
    search = new_search(tmp_path, space="mine", cells=3, channels=4, **(GDAS if one_path else {}))
    search.network.train()
    ran: list[tuple[str, int, int]] = []
    for cell in search.network.mixed_cells():
        for key, slot in cell.slots.items():
            bank = cell.banks[key]
            assert isinstance(bank, ModuleBank)
            for edge, module in zip(slot.edges, bank.modules_of_edges, strict=True):
                place = cell.position.kind, edge, slot.column
                module.register_forward_hook(lambda *_, place=place: ran.append(place))
    paths = []
    draw = search.architecture.draw

    def recorded() -> Any:
        paths.append(draw())
        return paths[-1]

    monkeypatch.setattr(search.architecture, "draw", recorded)
    train, valid = pair(search)
    for half in (lambda: search.step.alpha_step(train, valid), lambda: search.step.weight_step(train)):
        ran.clear()
        half()
        mixture = paths[-1][0]
        expected = []
        for kind, table in mixture.items():
            for edge, row in enumerate(table):
                columns = [int(row.argmax())] if one_path else range(3)
                expected += [(kind, edge, column) for column in columns if column] * search.network.cells_of_kind[kind]
        assert sorted(ran) == sorted(expected)
    assert len(paths) == 2


# Histograms and traces


@pytest.mark.parametrize("settings", [{}, {"order": "second"}, {"bilevel": False}])
def test_histograms_and_a_trace_change_no_bit(
    settings: dict[str, Any], tmp_path: Path, assert_same: Callable[[Any, Any], None]
) -> None:
    watched = argv(tmp_path / "watched", "--profile", str(tmp_path / "trace"), histograms_every=1, **settings)
    assert quick(argv(tmp_path / "plain", **settings)) == quick(watched) == 0
    assert_same(saved(tmp_path / "watched"), saved(tmp_path / "plain"))
    found = set(events(tmp_path / "watched").Tags()["histograms"])
    parts = ("stem", "head", "layers.0.nor_conv_3x3", "alphas_cell")
    assert found >= {f"{of}/{part}" for of in ("weights", "gradients") for part in parts}
    assert not events(tmp_path / "plain").Tags()["histograms"]
    names = ["step", "loading", "forward", "backward", "optimiser of weights", "optimiser of alphas", "evaluation"]
    names += ["architecture step"] if settings.get("bilevel", True) else []
    trace = json.loads((tmp_path / "trace" / "trace.json").read_text())["traceEvents"]
    ranges = {event["name"] for event in trace if event.get("cat") == "user_annotation"}
    assert {name for name in ranges if not name.startswith("Optimizer.")} == set(names)  # torch names its own


def test_alphas_that_rest_have_no_histogram(tmp_path: Path) -> None:
    assert quick(argv(tmp_path, histograms_every=1, epochs=2, alphas__warmup=0.5)) == 0
    read = events(tmp_path)
    assert len(read.Histograms("weights/stem")) == 2 and len(read.Histograms("weights/alphas_cell")) == 1


def test_seeds_have_traces_of_their_own(tmp_path: Path) -> None:
    assert quick(argv(tmp_path / "run", "--seeds=3,5", "--profile", str(tmp_path / "traces"))) == 0
    assert sorted(path.name for path in (tmp_path / "traces").iterdir()) == ["seed_3", "seed_5"]
    assert (tmp_path / "traces/seed_5/trace.json").is_file()
