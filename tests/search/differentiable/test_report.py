"""Tests of search/differentiable/report.py: what the reports of searches say is what the searches have done."""

import csv
import json
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from retrain.config import RetrainConfig
from search.differentiable.report import weights_over_time
from search.history import SearchEpoch
from search.methods import get_method
from search.reporting import default_costs
from search.sampling.encoding import Encoding
from supernet import DiscreteNetwork, Genotype, SearchSpace, get_space
from supernet.genotypes.published import get_genotype
from supernet.spaces.nasbench201 import NASBENCH201_SKELETON
from training.format import ImageFormat
from training.images.data import load_images
from training.metrics import count_multiply_adds, count_parameters
from training.run.config import config_from_file, parse_command_line

Read = Callable[[Path], str]

SMALL: dict[str, Any] = {
    "space": "nasbench201", "cells": 1, "channels": 4, "batch_size": 8, "data.limit": 32, "epochs": 2, "eigenvalue_every": 2,
    "alphas.lr": 0.1, "device": "cpu", "threads": 1, "data.crop_padding": 1,
}  # fmt: skip
SAMPLED: dict[str, Any] = {name: value for name, value in SMALL.items() if name not in ("eigenvalue_every", "alphas.lr")} | {
    "evaluations": 6, "round": 2, "evaluated_images": 8, "recalibrate": 1, "best": 3,
}  # fmt: skip


def run(method: str, path: Path, settings: dict[str, Any], *flags: str) -> None:
    arguments = [f"--{name}={value}" for name, value in settings.items()]
    assert get_method(method).main([*arguments, f"--run={path}", *flags]) == 0


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "it's a run"
    run("darts", path, SMALL)
    return path


def history(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "history.jsonl").read_text().splitlines()]


def test_a_page_has_the_numbers_of_the_run(searched: Path, read_page: Read) -> None:
    text = read_page(searched)
    last = history(searched)[-1]
    assert "|epochs|2 of 2|" in text
    assert f"|accuracy of the supernet|{100 * last['supernet_accuracy']:.2f}%|" in text
    assert f"|of the derived cell|{100 * last['derived_accuracy']:.2f}%|" in text
    assert f"|train {last['train/loss']:.4g}|" in text and f"|validation {last['valid/loss']:.4g}|" in text
    assert f"|eigenvalue {last['eigenvalue']:.4g}|" in text
    assert f"|cell {last['entropy']['cell']:.4g}|" in text
    for entry in history(searched):
        assert f"|train, {entry['epoch']}: {entry['train/accuracy']:.6g}|" in text
    assert "batch_size|8|64|" in text and "alphas.lr|0.1|0.0003|" in text and "weights.lr|" not in text
    assert "batch_size: 8\n" in text and "Seed 0, hash of the configuration" in text
    assert "training images|32, of 10 classes|" in text
    assert f"torch|{torch.__version__}|" in text
    assert f"report in {searched / 'report.html'}" in (searched / "log.txt").read_text()


def test_the_cost_is_that_of_the_network_that_is_retrained(searched: Path, read_page: Read) -> None:
    genotype = Genotype.load(searched / "genotype.json")
    with torch.device("meta"):
        network = DiscreteNetwork(genotype, classes=10, image_channels=1)
    parameters, multiply_adds = count_parameters(network), count_multiply_adds(network, (1, 8, 8))
    assert f"{parameters:,} parameters and {multiply_adds:,} multiply-adds an image" in read_page(searched)


@pytest.mark.parametrize(("stem", "side", "parameters"), [("cifar", 32, 3_349_342), ("imagenet", 64, 4_718_752 - 990 * 769)])
def test_published_cells_have_the_published_number_of_parameters(stem: Any, side: int, parameters: int) -> None:
    """Those on ImageNet lack the 990 classes that images of 10 do not have: 768 weights and a bias each."""
    images = ImageFormat((3, side, side), 255.0, (0.5,) * 3, (0.5,) * 3, tuple(map(str, range(10))))
    assert default_costs(get_genotype("DARTS_V2"), get_space("darts"), stem, images)["parameters"] == parameters


def test_the_commands_do_what_they_say(searched: Path, read_page: Read, tmp_path: Path) -> None:
    lines = [line for line in re.split(r"[|\n]", read_page(searched)) if line.startswith("python -m ") and "--run" in line]
    (again, retrain), prefix = map(shlex.split, lines), ["python", "-m"]
    assert again[:3] == [*prefix, "search.darts"] and retrain[:3] == [*prefix, "retrain"]
    config, options = get_method("darts").parse(again[3:])
    assert config == config_from_file(type(config), searched / "config.yaml")
    assert options.run.name == "it's a run_again"
    retrained, options = parse_command_line(RetrainConfig, retrain[3:], "retrain", "")
    assert retrained.data == config.data and retrained.genotype == str(searched / "genotype.json")
    assert options.run.name == "it's a run_retrained" and retrained.auxiliary_weight == 0
    again[again.index("--run") + 1] = str(tmp_path / "again")
    assert get_method("darts").main(again[3:]) == 0
    assert (tmp_path / "again" / "history.jsonl").read_bytes() == (searched / "history.jsonl").read_bytes()


def test_a_search_that_is_stopped_and_goes_on_says_so_and_keeps_its_curves(
    searched: Path, tmp_path: Path, read_page: Read
) -> None:
    path = tmp_path / "run"
    run("darts", path, SMALL | {"stop.score": 0.001})
    text = read_page(path)
    assert "|epochs|1 of 2|" in text
    assert "Ended after epoch 1 of 2, as asked by stop.score 0.001; --resume, with another stop, goes on." in text
    run("darts", path, SMALL | {"stop.score": "null"}, "--resume")
    text = read_page(path)
    assert "with epochs 2 to 2" in text and "Ended after" not in text
    charts = [page.partition("|Curves|")[2].partition("|What was asked|")[0] for page in (text, read_page(searched))]
    assert charts[0] == charts[1] and charts[0]


def test_a_search_without_time_has_an_epoch_to_show(tmp_path: Path, read_page: Read) -> None:
    run("darts", tmp_path / "run", SMALL | {"stop.hours": 1e-9})
    assert "|epochs|1 of 2|" in read_page(tmp_path / "run")


def test_a_collapse_is_told(tmp_path: Path, read_page: Read) -> None:
    settings = {"early_stop.when": "skips", "early_stop.skip_share": 0, "early_stop.start": 0, "epochs": 6, "seed": 3}
    run("darts", tmp_path / "run", SMALL | settings)
    entries = history(tmp_path / "run")
    assert len(entries) < 6 and entries[-1]["skips"]["cell"], "this seed has a skip connection in one of the first epochs"
    text = read_page(tmp_path / "run")
    assert f"Collapsed, after epoch {len(entries)} of 6: skip connections are" in text
    assert f"After epoch {len(entries)}: the search may be collapsing" in text and "Ended after" not in text


def test_a_table_says_what_the_cell_is_worth(searched: Path, tmp_path: Path, read_page: Read) -> None:
    columns = "arch,cifar10_test_200,cifar10_valid_200,cifar10_valid_12,params_cifar10,flops_cifar10"
    for name, architecture, said in (
        ("known", history(searched)[0]["genotype"], "a test accuracy of 91.25%, a validation accuracy of 88.50%"),
        ("other", "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|", "The benchmark table does not have this cell."),
    ):
        (tmp_path / f"{name}.csv").write_text(f"{columns}\n{architecture},91.25,88.5,80.0,1234,5678\n")
        run("darts", tmp_path / name, SMALL | {"tabular": tmp_path / f"{name}.csv", "epochs": 1, "eigenvalue_every": 0})
        text = read_page(tmp_path / name)
        assert said in text and ("|derived cell 91.25|" in text) == (name == "known")


# Weights over time


def with_mixture(mixture: dict[str, list[list[float]]]) -> SearchEpoch:
    """An epoch in which nothing but the mixture was measured."""
    return SearchEpoch(
        epoch=1, readings={}, genotype="", entropy={}, skips={}, skip_share={}, mixture=mixture,
        eigenvalue=None,
    )  # fmt: skip


def field_count(parts: list[Any]) -> tuple[int, int]:
    """Fields, and outlined rows in them."""
    made = "".join(parts)
    return made.count("<image "), made.count('stroke="var(--ink)"')


@pytest.mark.parametrize("name", ["darts", "nasbench201"])
def test_each_edge_has_a_field_in_which_the_chosen_operation_is_outlined(name: str) -> None:
    space = get_space(name)
    shape = (3, len(space.edges), len(space.candidates))
    tables = {kind: torch.rand(shape) for kind in space.kinds}
    genotype = space.derive({kind: values[-1] for kind, values in tables.items()})
    entries = [with_mixture({kind: values[epoch].tolist() for kind, values in tables.items()}) for epoch in range(3)]
    parts = weights_over_time(entries, space, genotype)
    chosen = sum(len(feeds) for cell in genotype.cells.values() for feeds in cell.nodes)
    assert field_count(parts) == (len(space.kinds) * len(space.edges), chosen)
    first = {"darts": "cₖ₋₂ → 0", "nasbench201": "input → 0"}[name]
    kind = space.kinds[0]
    at_first, at_the_end = tables[kind][[0, -1], 0, 1].tolist()
    assert f"{first}, {space.candidates[1]}: {at_first:.4f} at first, {at_the_end:.4f} at the end" in "".join(parts)


def test_candidates_that_never_have_a_weight_are_left_out_and_own_spaces_are_shown() -> None:
    candidates = ("none", "skip_connect", *(f"nor_conv_{size}x{size}" for size in (1, 3)), "avg_pool_3x3", "sep_conv_7x7")
    space = SearchSpace("own & <new>", NASBENCH201_SKELETON, 5, candidates, (5,))
    table = torch.rand(len(space.edges), len(candidates))
    table[:, [0, 3]] = 0
    genotype = space.derive({"cell": table})
    parts = weights_over_time([with_mixture({"cell": table.tolist()})] * 2, space, genotype)
    made = "".join(parts)
    assert "sep_conv_7x7" in made and ">none<" not in made and "nor_conv_3x3" not in made
    assert field_count(parts) == (15, 15) and "epochs 1 to 2" in made


def test_untied_cells_are_shown_by_their_mean(tmp_path: Path, read_page: Read) -> None:
    run("darts", tmp_path / "run", SMALL | {"tie_cells": "false", "cells": 2, "epochs": 1})
    assert len(history(tmp_path / "run")[0]["mixture"]["cell"]) == 6
    assert "Weights of the operations over the epochs" in read_page(tmp_path / "run")


def test_the_history_has_the_weights_after_each_epoch(searched: Path) -> None:
    space = get_space("nasbench201")
    for entry in history(searched):
        (table,) = entry["mixture"].values()
        assert torch.tensor(table).sum(-1) == pytest.approx(1, abs=3e-4)
        derived = space.derive({"cell": torch.tensor(table)})
        assert derived.to_text("nasbench201") == entry["genotype"]
        assert all(value == round(value, 4) for row in table for value in row)


# Sampling


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "run"
    run("random", path, SAMPLED)
    return path


def test_a_sampling_search_has_the_ranks_and_scores_of_its_files(sampled: Path, read_page: Read) -> None:
    text = read_page(sampled)
    rows = list(csv.DictReader((sampled / "architectures.csv").open()))
    shown = [
        f"{row['rank']}|{float(row['score_accuracy']):.2%}|{int(row['parameters']):,}|{int(row['multiply_adds']) / 1e6:.2f}|"
        f"{row['genotype']}|" for row in rows
    ]  # fmt: skip
    assert all(row in text for row in shown[:3]) and not any(row in text for row in shown[3:])
    assert f"|evaluations|6 of 6|best accuracy|{float(rows[0]['score_accuracy']):.2%}|" in text
    made = [json.loads(line) for line in (sampled / "evaluations.jsonl").read_text().splitlines()]
    for number, entry in enumerate(made, start=1):
        assert f"|evaluated, {number}: {entry['score']:.6g}|" in text
        best = max(one["score"] for one in made[:number])
        assert f"|best so far, {number}: {best:.6g}|" in text
    assert "Kendall" not in text and "evaluations|6|1000|" in text


def test_a_search_in_a_table_needs_no_images(tmp_path: Path, read_page: Read) -> None:
    encoding = Encoding(get_space("nasbench201"))
    columns = "arch,cifar10_test_200,cifar10_valid_200,cifar10_valid_12,params_cifar10,flops_cifar10"
    rows = [
        f"{encoding.genotype(genome).to_text('nasbench201')},{50 + number / 400},{40 + number / 400},{30 + number / 400},1,2"
        for number, genome in enumerate(encoding.all())
    ]
    (tmp_path / "table.csv").write_text("\n".join([columns, *rows]) + "\n")
    run("random", tmp_path / "run", SAMPLED | {"evaluate": "table", "tabular": tmp_path / "table.csv"})
    text = read_page(tmp_path / "run")
    assert f"None: scores are read from |{tmp_path / 'table.csv'}|." in text
    assert "rank correlation with the table|1.000|" in text and "|test accuracy, %|" in text


def test_a_search_that_has_found_nothing_yet_has_a_page_all_the_same(tmp_path: Path, read_page: Read) -> None:
    run("random", tmp_path / "run", SAMPLED | {"stop.hours": 1e-9})
    text = read_page(tmp_path / "run")
    assert "No architecture has been evaluated wholly yet" in text and "|evaluations|0 of 6|" in text
    assert "python -m retrain" not in text
    run("random", tmp_path / "run", SAMPLED | {"stop.hours": "null"}, "--resume")
    assert "No architecture" not in read_page(tmp_path / "run")


# Other people's names


def test_a_method_of_ones_own_is_introduced_and_names_are_but_text(
    tmp_path: Path, read_page: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = "<img src=x onerror=alert(1)> & \"'"

    def load(*arguments: Any, **named: Any) -> Any:
        images = load_images(*arguments, **named)
        return replace(images, class_names=tuple(f"{hostile} {number}" for number in range(10)))

    monkeypatch.setattr("training.tasks.images.load_images", load)
    method = replace(get_method("darts"), name="own", paper=hostile)
    arguments = [f"--{name}={value}" for name, value in SMALL.items()]
    assert method.main([*arguments, f"--run={tmp_path / 'run'}"]) == 0
    text = read_page(tmp_path / "run")
    assert f"{hostile}, in the space nasbench201." in text and f"{hostile} 9|3|" in text


def test_a_search_without_pictures_has_all_the_rest(searched: Path, tmp_path: Path, read_page: Read) -> None:
    path = tmp_path / "run"
    assert (
        get_method("darts").main([*(f"--{name}={value}" for name, value in SMALL.items()), f"--run={path}"], pictures=False)
        == 0
    )
    assert (path / "history.jsonl").read_bytes() == (searched / "history.jsonl").read_bytes()
    pages = [(run / "report.html").read_text() for run in (path, searched)]
    assert ["The cells of" in page for page in pages] == [False, True]
    text = Genotype.load(path / "genotype.json").to_text("nasbench201")
    assert text in read_page(path) and "Weights of the operations over the epochs" in read_page(path)
