"""A search from the command line to its files."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import retrain.__main__
from ops import register_op, registry
from ops.banks import ChainBank, ModuleBank
from search import loop
from search.config import SearchConfig
from search.darts import main
from search.loop import BilevelSearch
from search.relaxations import softmax
from supernet import Genotype, Supernet, space
from supernet.skeleton import DARTS
from supernet.space import SearchSpace, register_space
from training.checkpoint import Checkpoints, RunDirectory
from training.data import DataConfig, load_images

NASBENCH = {"space": "nasbench201", "cells": 1, "channels": 2, "alphas.lr": 0.02}
TINY_DARTS = {"space": "darts", "cells": 3, "channels": 2, "alphas.lr": 0.02}
SIZE = {"data.limit": 64, "batch_size": 16, "epochs": 2, "device": "cpu"}


def argv(path: Path, *flags: str, **settings: Any) -> list[str]:
    """Of a tiny search in NAS-Bench-201's space; `settings` with "__" in place of dots."""
    settings = {name.replace("__", "."): value for name, value in settings.items()}
    return ["--run", str(path), *(f"--{name}={value}" for name, value in (NASBENCH | SIZE | settings).items()), *flags]


def saved(path: Path) -> tuple[int, dict[str, Any]]:
    """Epoch and state of the newest checkpoint."""
    found = Checkpoints(path).load_latest()
    assert found is not None
    return found[0], found[1]["trainer"]


def alphas(path: Path) -> dict[str, torch.Tensor]:
    return saved(path)[1]["alphas"]


def events(path: Path) -> Any:
    """What TensorBoard itself reads in the directory."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(path), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of the time of so small a search."""
    from matplotlib.figure import Figure

    for name in ("draw_alphas", "draw_cell"):
        monkeypatch.setattr(loop, name, lambda *_: Figure((1, 1)))


def new_search(tmp_path: Path, **settings: Any) -> BilevelSearch:
    config = SearchConfig(
        space="nasbench201", channels=2, cells=1, batch_size=16, device="cpu", data=DataConfig(limit=64), **settings
    )
    return BilevelSearch(config, softmax, load_images(config.data, "train"), RunDirectory(tmp_path, config))


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
    config.alphas.lr = 0.02
    assert genotype.seed == 0
    assert genotype.config_hash == RunDirectory(finished, config).config_hash
    assert genotype.space == "nasbench201"
    assert genotype.skeleton.name == "nasbench201"
    mixture = softmax(alphas(finished))
    assert genotype == space.get_space("nasbench201").derive(mixture)
    assert json.loads((finished / "genotype.json").read_text())["format"] == 1
    assert genotype.to_text("nasbench201") in (finished / "log.txt").read_text()


def test_the_terminal_shows_every_epoch_and_the_genotype(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv(tmp_path / "run", epochs=1)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    epoch, where, text = out.splitlines()
    assert epoch.startswith("epoch 1/1: train loss ")
    assert where == f"darts: 1 epochs; genotype in {tmp_path / 'run' / 'genotype.json'}:"
    assert Genotype.parse(text) == Genotype.load(tmp_path / "run" / "genotype.json")


def test_a_seed_decides_everything(finished: Path, tmp_path: Path, without_pictures: None) -> None:
    for seed in (0, 1):
        assert main(argv(tmp_path / str(seed), seed=seed)) == 0
    same, other = saved(tmp_path / "0")[1], saved(tmp_path / "1")[1]
    expected = saved(finished)[1]
    for part in ("alphas", "network"):
        assert all(torch.equal(same[part][name], value) for name, value in expected[part].items())
    assert (tmp_path / "0" / "genotype.json").read_bytes() == (finished / "genotype.json").read_bytes()
    assert not torch.equal(other["alphas"]["cell"], expected["alphas"]["cell"])
    assert Genotype.load(tmp_path / "1" / "genotype.json").seed == 1


VARIANTS: dict[str, dict[str, Any]] = {
    "darts": TINY_DARTS,
    "darts, second order": TINY_DARTS | {"order": "second", "data.limit": 32},
    "darts, partial channels": TINY_DARTS | {"partial": 2, "channels": 4},
    "darts, a table for each cell": TINY_DARTS | {"tie_cells": False},
    "darts, batch statistics": TINY_DARTS | {"batch_statistics": True},
    "nasbench201, second order": {"order": "second"},
    "nasbench201, second order, exact": {"order": "second", "hessian_vector": "exact"},
    "nasbench201, partial channels": {"partial": 2},
    "nasbench201, a table for each cell": {"tie_cells": False, "order": "second"},
    "nasbench201, running statistics": {"batch_statistics": False},
    "adam": {"weights.name": "adam", "weights.lr": 0.01},
    "adamw, second order": {"weights.name": "adamw", "weights.lr": 0.01, "order": "second"},
    "adagrad": {"weights.name": "adagrad", "weights.lr": 0.01},
    "without clipping or momentum": {"weights.clip": 0, "weights.momentum": 0},
    "augmented": {"data.crop_padding": 1, "data.flip": True, "data.cutout": 2},
    "bfloat16": TINY_DARTS | {"precision": "bfloat16"},
    "bfloat16, second order": {"precision": "bfloat16", "order": "second"},
    "plain torch, no graph": {"kernels": "reference", "graph": False},
    "uneven parts": {"train_fraction": 0.7, "validate_every": 2},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_kind_of_search_ends_with_a_genotype(variant: str, tmp_path: Path, without_pictures: None) -> None:
    settings = {name.replace(".", "__"): value for name, value in VARIANTS[variant].items()}
    path = tmp_path / "run"
    assert main(argv(path, **settings)) == 0
    genotype = Genotype.load(path / "genotype.json")
    searched = space.get_space(genotype.space)
    tables = alphas(path)
    assert genotype == searched.derive(softmax(tables))
    for kind, table in tables.items():
        tied = settings.get("tie_cells", True)
        assert table.shape[-2:] == (len(searched.edges), len(searched.candidates))
        assert table.ndim == 2 if tied else len(table) == (3 if kind == "cell" else {"normal": 1, "reduce": 2}[kind])
        # Adam's steps are about as large as its rate: twenty times the initial values here.
        assert table.abs().amax(-1).min() > 0.01


def test_cells_with_tables_of_their_own_go_apart(tmp_path: Path, without_pictures: None) -> None:
    assert main(argv(tmp_path / "run", tie_cells=False)) == 0
    first, second, third = alphas(tmp_path / "run")["cell"]
    assert (first - second).abs().max() > 0.01 and (second - third).abs().max() > 0.01


def test_the_alphas_decide_more_and_more(tmp_path: Path, without_pictures: None) -> None:
    """A smaller copy of the shipped digits search."""
    path = tmp_path / "run"
    flags = ["--config", "digits", "--data.limit", "128", "--batch_size", "16", "--cells", "3", "--channels", "2"]
    assert main([*flags, "--run", str(path), "--epochs", "3", "--alphas.lr", "0.1"]) == 0
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


def test_tensorboard_has_curves_pictures_and_texts_without_gaps_after_a_resume(tmp_path: Path) -> None:
    path = tmp_path / "run"
    settings = {name.replace(".", "__"): value for name, value in TINY_DARTS.items()} | {"epochs": 3, "data__limit": 32}
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
    take = BilevelSearch._weight_step

    def weight_step(self: BilevelSearch, *arguments: Any) -> None:
        nonlocal steps
        if steps == step:
            raise error
        steps += 1
        take(self, *arguments)

    patch.setattr(BilevelSearch, "_weight_step", weight_step)


def run_without_command(arguments: list[str]) -> None:
    """`main` with its exceptions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("search.darts.command", lambda prog, run: run())
        main(arguments)


# Stopping


def test_a_target_accuracy_ends_a_search_early(tmp_path: Path, without_pictures: None) -> None:
    path = tmp_path / "run"
    assert main(argv(path, epochs=9, stop__accuracy=0.01)) == 0
    epoch, _ = saved(path)
    assert epoch < 9
    assert "has reached the target of 0.01" in (path / "log.txt").read_text()
    assert Genotype.load(path / "genotype.json").space == "nasbench201"


def test_a_time_limit_ends_a_search_and_a_longer_one_goes_on(finished: Path, tmp_path: Path, without_pictures: None) -> None:
    path = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        # An hour passes before each epoch.
        hours = iter(range(9))
        clock = SimpleNamespace(monotonic=lambda: 3600 * next(hours), perf_counter=time.perf_counter)
        patch.setattr("training.monitor.time", clock)
        assert main(argv(path, stop__hours=2)) == 0
    assert saved(path)[0] == 1
    assert "stopped after epoch 1: the time of 2.0 hours is over" in (path / "log.txt").read_text()
    assert (path / "genotype.json").exists()
    assert main(argv(path, "--resume", stop__hours=100)) == 0
    for kind, table in alphas(finished).items():
        assert torch.equal(alphas(path)[kind], table)
    assert (path / "genotype.json").read_bytes() == (finished / "genotype.json").read_bytes()


def test_no_time_at_all_still_leaves_a_run_to_resume(finished: Path, tmp_path: Path, without_pictures: None) -> None:
    path = tmp_path / "run"
    assert main(argv(path, stop__hours=1e-9)) == 0
    assert "stopped after epoch 0" in (path / "log.txt").read_text()
    assert (path / "genotype.json").exists()
    assert main(argv(path, "--resume", stop__hours=1)) == 0
    assert (path / "genotype.json").read_bytes() == (finished / "genotype.json").read_bytes()


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
    message = error_of(argv(tmp_path / "run", order=order, weights__lr=1e30, weights__clip=0))
    assert message.startswith("step ") and "is NaN or infinite; try a lower learning rate" in message
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_weights_that_only_an_evaluation_shows_to_be_spoilt_are_not_saved(tmp_path: Path, error_of: Callable[..., str]) -> None:
    """One step an epoch: its losses are those before it, and what it leads to is huge but finite."""
    message = error_of(argv(tmp_path / "run", data__limit=32, weights__lr=1e30, weights__clip=0))
    assert message.startswith("step 0: the evaluation loss after the step is NaN or infinite")
    assert not list((tmp_path / "run").glob("checkpoints/*"))


@pytest.mark.parametrize(
    ("half", "step", "message"),
    [
        ("_weight_step", 2, "step 3: the train loss is NaN"),
        ("_weight_step", 3, "step 3: the evaluation loss after the step is NaN"),
        ("_alpha_step", 3, "step 3: the train loss is NaN"),
    ],
)
def test_the_last_good_checkpoint_is_kept_and_leads_on(
    half: str, step: int, message: str, finished: Path, tmp_path: Path, without_pictures: None, error_of: Callable[..., str]
) -> None:
    path = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        spoil(patch, half, step)
        assert error_of(argv(path)).startswith(message)
    epoch, state = saved(path)
    assert epoch == 1
    assert all(tensor.isfinite().all() for part in ("network", "alphas") for tensor in state[part].values())
    assert main(argv(path, "--resume")) == 0
    assert all(torch.equal(tensor, saved(path)[1]["network"][name]) for name, tensor in saved(finished)[1]["network"].items())
    assert (path / "genotype.json").read_bytes() == (finished / "genotype.json").read_bytes()


def spoil(patch: pytest.MonkeyPatch, half: str, step: int) -> None:
    """A NaN in what that half of that step moves, right after it; steps are counted from 0 over the whole run."""
    steps = 0
    take = getattr(BilevelSearch, half)

    def spoilt(self: BilevelSearch, *arguments: Any) -> None:
        nonlocal steps
        take(self, *arguments)
        if steps == step:
            moved = self.alphas["cell"] if half == "_alpha_step" else self.network.classifier.bias
            with torch.no_grad():
                moved.view(-1)[0] = float("nan")
        steps += 1

    patch.setattr(BilevelSearch, half, spoilt)


# The two halves of a step


def test_in_first_order_the_weights_take_no_part_in_the_architecture_step(tmp_path: Path, monkeypatch: Any) -> None:
    search = new_search(tmp_path)
    needing: list[bool] = []
    forward = Supernet.forward

    def recorded(self: Supernet, *arguments: Any) -> torch.Tensor:
        needing.append(any(parameter.requires_grad for parameter in self.parameters()))
        return forward(self, *arguments)

    monkeypatch.setattr(Supernet, "forward", recorded)
    (train, valid), *_ = search._pairs(0)
    before = [parameter.detach().clone() for parameter in search.network.parameters()]
    search._alpha_step(train, valid)
    assert needing == [False]
    assert all(parameter.grad is None and parameter.requires_grad for parameter in search.network.parameters())
    assert all(torch.equal(*pair) for pair in zip(search.network.parameters(), before, strict=True))
    search._weight_step(train)
    assert needing == [False, True]
    assert all(parameter.grad is not None for parameter in search.network.parameters())


@pytest.mark.parametrize("order", ["first", "second"])
def test_each_half_of_a_step_moves_its_own_parameters(order: str, tmp_path: Path) -> None:
    search = new_search(tmp_path, order=order, batch_statistics=False)
    (train, valid), *_ = search._pairs(0)

    def snapshot() -> tuple[dict[str, torch.Tensor], ...]:
        parts = search.alphas, dict(search.network.named_parameters()), dict(search.network.named_buffers())
        return tuple({name: value.detach().clone() for name, value in part.items()} for part in parts)

    def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
        return all(torch.equal(one[name], other[name]) for name in one)

    start = snapshot()
    search._alpha_step(train, valid)
    middle = snapshot()
    # Running statistics follow the images that the network sees; the virtual step of second order is not one of its own.
    assert [same(*pair) for pair in zip(start, middle, strict=True)] == [False, True, order == "second"]
    search._weight_step(train)
    assert [same(*pair) for pair in zip(middle, snapshot(), strict=True)] == [True, False, False]


def test_alphas_descend_the_validation_loss(tmp_path: Path) -> None:
    search = new_search(tmp_path)
    (train, valid), *_ = search._pairs(0)

    def loss() -> float:
        with torch.no_grad():
            return F.cross_entropy(search.network(valid[0], search.mixture()), valid[1]).item()

    before = loss()
    search.alpha_optimizer.param_groups[0]["lr"] = 0.05
    for _ in range(5):
        search._alpha_step(train, valid)
    assert loss() < before


def test_losses_and_alphas_are_float32_where_the_network_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = new_search(tmp_path, precision="bfloat16")
    computed: list[torch.dtype] = []
    search.network.classifier.register_forward_hook(lambda layer, inputs, logits: computed.append(logits.dtype))
    losses: list[torch.dtype] = []
    cross_entropy = F.cross_entropy

    def recorded(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        losses.append(logits.dtype)
        return cross_entropy(logits, labels)

    monkeypatch.setattr(loop.F, "cross_entropy", recorded)
    ((train, valid), *_) = search._pairs(0)
    search._step(*train, *valid)
    assert computed == [torch.bfloat16] * 2 and losses == [torch.float32] * 2
    state = search.state_dict()
    assert all(alpha.dtype == torch.float32 and alpha.isfinite().all() for alpha in state["alphas"].values())
    assert {parameter.dtype for parameter in search.network.parameters()} == {torch.float32}


def test_differences_of_second_order_are_taken_in_float32(tmp_path: Path) -> None:
    search = new_search(tmp_path, precision="bfloat16", order="second")
    computed: list[torch.dtype] = []
    search.network.classifier.register_forward_hook(lambda layer, inputs, logits: computed.append(logits.dtype))
    ((train, valid), *_) = search._pairs(0)
    search._alpha_step(train, valid)
    assert computed == [torch.bfloat16] * 2 + [torch.float32] * 2


@pytest.mark.parametrize(
    ("settings", "kernels"),
    [
        ({}, "auto"),
        ({"kernels": "reference"}, "reference"),
        ({"order": "second"}, "auto"),
        ({"order": "second", "hessian_vector": "exact"}, "reference"),
        ({"hessian_vector": "exact"}, "auto"),
    ],
)
def test_a_double_backward_runs_without_kernels(settings: dict[str, str], kernels: str, tmp_path: Path) -> None:
    cells = new_search(tmp_path, **settings).network.mixed_cells()
    assert {cell.kernels for cell in cells} == {kernels}


def test_meters_are_the_same_in_every_epoch_and_start_each_one_empty(tmp_path: Path, without_pictures: None) -> None:
    path = tmp_path / "run"
    meters: list[tuple[int, ...]] = []
    with pytest.MonkeyPatch.context() as patch:
        report = BilevelSearch._report

        def recorded(self: BilevelSearch, *arguments: Any) -> None:
            assert [meter.read().images for meter in self.meters.values()] == [32, 32]
            meters.append(tuple(map(id, self.meters.values())))
            report(self, *arguments)

        patch.setattr(BilevelSearch, "_report", recorded)
        assert main(argv(path)) == 0
    assert len(meters) == 2 and len(set(meters)) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has graphs")
def test_a_graph_on_a_device_without_any_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv(tmp_path / "run", graph=True)) == 2
    message = "graph: the device cpu has no CUDA graphs; null uses one where that can be done"
    assert capsys.readouterr().err == f"search.darts: error: {message}\n"
    assert not (tmp_path / "run").exists()


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


@pytest.mark.parametrize(("factory", "bank"), [(squeeze, ModuleBank), (grouped, ChainBank)])
@pytest.mark.parametrize("order", ["first", "second"])
def test_an_operation_of_ones_own_is_searched_and_retrained(
    factory: Any, bank: type, order: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without_pictures: None
) -> None:
    monkeypatch.setattr(registry, "_FACTORIES", dict(registry._FACTORIES))
    monkeypatch.setattr(space, "_SPACES", dict(space._SPACES))
    register_op("my_op")(factory)
    mine = SearchSpace("mine", DARTS, nodes=2, candidates=("none", "my_op"), concat=(2, 3), derived_inputs=2)
    register_space(mine)
    banks = {type(slot) for slot in Supernet(mine, 4, 3).mixed_cells()[0].banks.values()}
    assert banks == {bank}

    path = tmp_path / "search"
    assert main(argv(path, space="mine", cells=3, channels=4, order=order)) == 0
    genotype = Genotype.load(path / "genotype.json")
    assert {name for cell in genotype.cells.values() for feeds in cell.nodes for name, _ in feeds} == {"my_op"}

    size = {"channels": 4, "cells": 3, "epochs": 1, "batch_size": 16, "data.limit": 64, "auxiliary_weight": 0.4}
    flags = [f"--{name}={value}" for name, value in size.items()]
    final = tmp_path / "retrain"
    assert retrain.__main__.main(["--run", str(final), "--genotype", str(path / "genotype.json"), *flags]) == 0
    assert Genotype.load(final / "genotype.json") == genotype
    assert 0 <= json.loads((final / "metrics.json").read_text())["accuracy"] <= 1
