"""A sampling search as a whole: from options to files, stopped and resumed, and what it refuses."""

import csv
import itertools
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from search.methods import get_method, list_methods
from search.sampling import trainer as sampling
from search.sampling.encoding import Encoding, Genome
from search.sampling.method import SamplingMethod, SamplingRun
from search.sampling.paths import PathSteps
from search.sampling.samplers.uniform import UniformSampler
from search.sampling.trainer import SamplingSearch
from search.sampling.trials import Trials
from supernet import Genotype, get_space, list_spaces
from training.hardware import Hardware
from training.loop import restore
from training.run.checkpoint import Checkpoints
from training.run.config import RunOptions
from training.run.directory import RunDirectory
from training.tasks.task import open_task

SAMPLING_METHODS = list_methods(SamplingMethod)
Same = Callable[[Any, Any], None]

SIZE: dict[str, Any] = {
    "batch_size": 8, "epochs": 2, "channels": 4, "data.limit": 32, "train_fraction": 0.5, "device": "cpu",
    "evaluations": 6, "round": 2,
    "evaluated_images": 8, "recalibrate": 1, "best": 3, "threads": 1,
}  # fmt: skip
OF_SPACE: dict[str, dict[str, Any]] = {
    "darts": {"cells": 3, "exclude": ["sep_conv_5x5", "dil_conv_5x5"]},
    "nasbench201": {"cells": 1},
}
# So small that each of its parts has its turn within a few evaluations.
OF_METHOD: dict[str, dict[str, Any]] = {
    "evolution": {"evolution.population": 3, "evolution.sample": 2},
    "bayes": {"bayes.initial": 3, "bayes.batch": 2},
    "enas": {"guide": 4, "controller.batch": 2},
    "hybrid": {"guide": 0, "controller.batch": 2, "hybrid.population": 3},
    "nao": {"nao.initial": 3, "nao.proposals": 2, "nao.hidden": 8, "nao.updates": 10, "nao.steps": 4},
}


def options(method: str, space: str, /, **settings: Any) -> list[str]:
    together = {"space": space} | SIZE | OF_SPACE[space] | OF_METHOD.get(method, {}) | settings
    return [f"--{name}={'null' if value is None else value}" for name, value in together.items()]


def run_search(method: str, arguments: Sequence[str]) -> int:
    """The exit status of a search without pictures, which would take most of the time of so small a one."""
    return get_method(method).main(arguments, pictures=False)


@pytest.fixture(scope="module")
def table_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of all architectures: accuracy and size count convolutions."""
    encoding, path = Encoding(get_space("nasbench201")), tmp_path_factory.mktemp("published") / "table.csv"
    lines = ["arch,cifar10_test_200,cifar10_valid_200,cifar10_valid_12,params_cifar10,flops_cifar10,latency_ms_phone"]
    for number, genome in enumerate(encoding.all()):
        worth = sum((0, 1, 2, 3, 1)[column] for column in genome) + number / 1e5
        text = encoding.genotype(genome).to_text("nasbench201")
        lines.append(
            f"{text},{worth + 50},{worth + 40},{worth + 30},{1000 + sum(genome)},{2000 + sum(genome)},{sum(genome) / 7}"
        )
    path.write_text("\n".join(lines) + "\n")
    return path


def state_of(run: Path) -> dict[str, Any]:
    found = Checkpoints(run).latest()
    assert found is not None
    return {"epoch": found[0], **found[1]}


RESULTS = ("genotype.json", "history.jsonl", "evaluations.jsonl", "architectures.csv", "report.md")


def copy_before(patch: pytest.MonkeyPatch, run: Path, steps: dict[int, Path], rounds: dict[int, Path]) -> None:
    """Before these steps and rounds, from 0, the run's files are copied: what a kill at that moment leaves."""
    for owner, name, copies in ((PathSteps, "__call__", steps), (Trials, "advance", rounds)):
        numbers, take = itertools.count(), getattr(owner, name)

        def copied(self: Any, *arguments: Any, _take: Any = take, _numbers: Any = numbers, _copies: Any = copies) -> Any:
            if (copy := _copies.get(next(_numbers))) is not None:
                shutil.copytree(run, copy)
            return _take(self, *arguments)

        patch.setattr(owner, name, copied)


CASES = [
    pytest.param(method, space, marks=[pytest.mark.slow] if space == "darts" else [])
    for method in SAMPLING_METHODS
    for space in list_spaces()
]
"""Resuming does not depend on the space, and DARTS takes three times as long."""


@pytest.mark.parametrize(("method", "space"), CASES)
def test_a_method_searches_and_goes_on_to_the_same_bits(
    method: str, space: str, tmp_path: Path, assert_same: Same, read_page: Callable[[Path], str]
) -> None:
    """Killed while the weights are trained, and in the middle of the evaluations."""
    whole, training, evaluating = (tmp_path / name for name in ("whole", "training", "evaluating"))
    arguments = options(method, space)
    with pytest.MonkeyPatch.context() as patch:
        copy_before(patch, whole, {3: training}, {2: evaluating})
        assert run_search(method, [*arguments, "--run", str(whole)]) == 0
    for run, epoch in ((training, 1), (evaluating, 4)):
        assert state_of(run)["epoch"] == epoch
        assert run_search(method, [*arguments, "--run", str(run), "--resume"]) == 0
        assert_same(state_of(run), state_of(whole))
        for file in RESULTS:
            assert (run / file).read_bytes() == (whole / file).read_bytes(), file
    check_results(whole, space, 6)
    page = read_page(whole)
    assert get_method(method).paper[1:] in page and f"python -m search.{method} --config" in page
    ranked = list(csv.DictReader((whole / "architectures.csv").open()))
    assert all(f"{float(row['score_accuracy']):.2%}|{int(row['parameters']):,}|" in page for row in ranked[:3])


def check_results(run: Path, space: str, evaluations: int) -> None:
    """The best of what was evaluated is what the run ends with, and the files agree."""
    encoding = Encoding(get_space(space))
    made = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    assert len(made) == evaluations
    scores: dict[str, float] = {}
    for entry in made:
        encoding.of_genotype(Genotype.parse(entry["genotype"]))
        scores.setdefault(entry["genotype"], entry["score"])
    found = Genotype.load(run / "genotype.json")
    assert scores[found.to_text(found.text_form)] == max(scores.values())
    assert Genotype.load(run / "genotype_1.json") == found and found.seed == 0
    rows = list(csv.DictReader((run / "architectures.csv").open()))
    assert [row["genotype"] for row in rows] == sorted(scores, key=lambda text: -scores[text])
    (column,) = [name for name in rows[0] if name.startswith("score_")]
    assert [float(row[column]) for row in rows] == sorted(scores.values(), reverse=True)
    assert all(int(row["parameters"]) > 0 for row in rows)
    assert "Pareto front" in (run / "report.md").read_text()


# Tables


@pytest.mark.parametrize("method", SAMPLING_METHODS)
def test_a_method_searches_in_a_table(method: str, tmp_path: Path, table_file: Path) -> None:
    """It needs neither images nor network, and is better than its own first guess."""
    settings = {"evaluate": "table", "tabular": table_file, "data.name": "nothing", "evaluations": 40, "round": 10}
    assert run_search(method, [*options(method, "nasbench201", **settings), f"--run={tmp_path / 'run'}"]) == 0
    check_results(tmp_path / "run", "nasbench201", 40)
    history = [json.loads(line) for line in (tmp_path / "run/history.jsonl").read_text().splitlines()]
    assert [entry["evaluations"] for entry in history] == [10, 20, 30, 40]
    best = [entry["best_score"] for entry in history]
    assert best == sorted(best) and history[-1]["test_accuracy"] == pytest.approx(100 * best[-1] + 20, abs=0.01)
    assert "Kendall's tau" in (tmp_path / "run/report.md").read_text()


def test_weights_of_one_seed_serve_no_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--weights_from", str(tmp_path), "--seeds=0,1", f"--run={tmp_path / 'run'}"]
    assert run_search("random", arguments) == 2
    assert capsys.readouterr().err.startswith("search.random: error: --seeds: weights_from has the weights of one seed")


def test_the_table_is_the_truth_and_nothing_else_where_weights_score(
    tmp_path: Path, table_file: Path, assert_same: Same
) -> None:
    arguments = options("random", "nasbench201")
    for name, more in (("with", [f"--tabular={table_file}"]), ("without", [])):
        assert run_search("random", [*arguments, *more, f"--run={tmp_path / name}"]) == 0
    with_it, without = (state_of(tmp_path / name)["trainer"] for name in ("with", "without"))
    assert_same(with_it["weights"], without["weights"])
    assert_same(with_it["trials"], without["trials"])
    row = next(csv.DictReader((tmp_path / "with/architectures.csv").open()))
    assert float(row["test_accuracy"]) - float(row["valid_accuracy"]) == pytest.approx(10)


@pytest.mark.parametrize("latency", ["phone", "measured"])
def test_latency_is_a_cost_like_the_others(latency: str, tmp_path: Path, table_file: Path) -> None:
    settings = {"evaluate": "table", "tabular": table_file, "latency": latency, "evolution.name": "nsga2", "evaluations": 12}
    more = {"evolution.objective": "latency_ms", "evolution.population": 4}
    arguments = options("evolution", "nasbench201", **settings, **more)
    assert run_search("evolution", [*arguments, f"--run={tmp_path / 'run'}"]) == 0
    rows = list(csv.DictReader((tmp_path / "run/architectures.csv").open()))
    encoding = Encoding(get_space("nasbench201"))
    for row in rows:
        genome = encoding.of_genotype(Genotype.parse(row["genotype"]))
        assert float(row["latency_ms"]) > 0 or not any(genome)
        if latency == "phone":
            assert float(row["latency_ms"]) == pytest.approx(sum(genome) / 7)
    assert "latency ms" in (tmp_path / "run/report.md").read_text()


# Weights of another run


def test_weights_are_taken_from_a_run_that_trained_them(tmp_path: Path, assert_same: Same) -> None:
    trained, taken = tmp_path / "trained", tmp_path / "taken"
    assert run_search("random", [*options("random", "nasbench201"), f"--run={trained}"]) == 0
    arguments = options("local", "nasbench201", weights_from=trained)
    assert run_search("local", [*arguments, f"--run={taken}"]) == 0
    one, other = (state_of(run)["trainer"]["weights"]["network"] for run in (trained, taken))
    assert_same(one, other)
    assert state_of(taken)["epoch"] == 3, "no epoch but the rounds"
    known = {entry["genotype"]: entry["score"] for entry in map(json.loads, (trained / "evaluations.jsonl").open())}
    repeated = options("random", "nasbench201", weights_from=trained, recompute="cells")
    assert run_search("random", [*repeated, f"--run={tmp_path / 'again'}"]) == 0
    for line in (tmp_path / "again/evaluations.jsonl").open():
        entry = json.loads(line)
        assert known[entry["genotype"]] == entry["score"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"seed": 1}, "was begun with other settings: seed; set the same here"),
        ({"channels": 2}, "was begun with other settings: channels; set the same here"),
        ({"stem": "imagenet"}, "was begun with other settings: stem; set the same here"),
        ({"data.limit": 40}, "was begun with other settings: data; set the same here"),
    ],
)
def test_weights_of_other_settings_are_refused(
    settings: dict[str, Any], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = tmp_path / "trained"
    assert run_search("random", [*options("random", "nasbench201", evaluations=1), f"--run={trained}"]) == 0
    arguments = options("random", "nasbench201", weights_from=trained, **settings)
    assert run_search("random", [*arguments, f"--run={tmp_path / 'run'}"]) == 2
    assert reason in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_histograms_and_a_trace_change_no_bit(tmp_path: Path, assert_same: Same) -> None:
    """Of the shared weights there are histograms after each epoch that trains them, not after rounds."""
    plain = options("random", "nasbench201", run=tmp_path / "plain")
    watched = options("random", "nasbench201", run=tmp_path / "watched", histograms_every=1)
    assert run_search("random", plain) == 0
    assert run_search("random", [*watched, "--profile", str(tmp_path / "trace")]) == 0
    assert_same(state_of(tmp_path / "watched"), state_of(tmp_path / "plain"))
    trace = (tmp_path / "trace" / "trace.json").read_text()
    assert all(f'"{name}"' in trace for name in ("step", "loading", "forward", "backward", "optimiser of weights"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(tmp_path / "watched"), size_guidance={"histograms": 0})
    read.Reload()
    epochs = sum("evaluations" not in json.loads(line) for line in (tmp_path / "watched/history.jsonl").open())
    assert {"weights/stem", "gradients/head"} <= set(read.Tags()["histograms"])
    assert len(read.Histograms("weights/stem")) == epochs > 0


def test_what_trains_nothing_has_no_steps_to_watch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proxy = options("random", "nasbench201", run=tmp_path / "run", evaluate="snip")
    assert run_search("random", [*proxy, "--profile", str(tmp_path / "trace")]) == 2
    assert "--profile: this search trains no weights, so there is no step to record; leave it out" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run_search("random", [*proxy, "--histograms_every=1"])
    assert "histograms_every: this run trains no weights; set it to 0" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_more_evaluations_go_on_from_those_that_are_made(tmp_path: Path, table_file: Path) -> None:
    for method in ("evolution", "bayes"):
        settings = {"evaluate": "table", "tabular": table_file, "round": 10}
        long, short = tmp_path / f"{method} long", tmp_path / f"{method} short"
        assert run_search(method, [*options(method, "nasbench201", **settings, evaluations=35), f"--run={long}"]) == 0
        assert run_search(method, [*options(method, "nasbench201", **settings, evaluations=15), f"--run={short}"]) == 0
        assert run_search(method, ["--resume", "--evaluations=35", f"--run={short}"]) == 0
        for file in ("evaluations.jsonl", "architectures.csv", "genotype.json"):
            assert (short / file).read_bytes() == (long / file).read_bytes()


# What is refused

WRONG = [
    ("random", {"evaluate": "table"}, "evaluate: table needs a benchmark table; name its file with --tabular"),
    ("random", {"evaluate": "oracle"}, "evaluate: must be one of supernet, table, synflow, "),
    (
        "random",
        {"space": "darts", "tabular": "t.csv", "cells": 3},
        "tabular: it has cells of NAS-Bench-201, not of space darts",
    ),
    ("random", {"paths": "sampler"}, "paths: this method has no policy of its own"),
    ("evolution", {"guide": 5}, "guide: this method compares scores, which must be of the same weights; set it to 0"),
    ("random", {"weights_from": "nowhere"}, "weights_from: nowhere: no such directory; name that of a run"),
    ("random", {"latency": "phone"}, "latency: phone is a column of a table, and there is none"),
    ("random", {"evaluated_images": 17}, "evaluated_images: there are 16 validation images, not 17"),
    ("random", {"recalibrate": -1}, "recalibrate: must be from 0 to a million, not -1"),
    ("random", {"prefilter.proxy": "supernet", "evaluate": "synflow"}, "prefilter.proxy: synflow scores without the weights"),
    ("random", {"prefilter.proxy": "luck"}, "prefilter.proxy: must be one of supernet, "),
    ("random", {"exclude": ["sep"]}, "exclude: space nasbench201 has none, "),
    ("random", {"evaluations": 0}, "evaluations: must be at least 1, not 0"),
    ("random", {"stem": "imagenet", "channels": 3}, "channels: must be even with stem imagenet"),
    ("random", {"weights_from": "x", "evaluate": "synflow"}, "weights_from: synflow scores without weights"),
    ("random", {"halving.eta": 3, "evaluate": "naswot"}, "halving.eta: naswot has no evaluations in part; set it to 0"),
    ("random", {"nao.initial": 3}, "--nao.initial: no such option"),
]


@pytest.mark.parametrize(("method", "settings", "reason"), WRONG)
def test_what_cannot_be_is_refused_in_one_line(
    method: str, settings: dict[str, Any], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = run_search(method, [*options(method, "nasbench201", **settings), f"--run={tmp_path / 'run'}"])
    except SystemExit as ended:
        status = int(ended.code or 0)
    error = capsys.readouterr().err
    assert status == 2 and error.startswith(f"search.{method}: error: {reason}") and error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_latency_that_the_table_lacks_is_refused(
    tmp_path: Path, table_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = options("random", "nasbench201", evaluate="table", tabular=table_file, latency="toaster")
    assert run_search("random", [*arguments, f"--run={tmp_path / 'run'}"]) == 2
    error = capsys.readouterr().err
    assert "toaster" in error and "phone" in error and not (tmp_path / "run").exists()


# Other ends


def test_a_stop_before_any_evaluation_says_so_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, run = options("random", "nasbench201"), tmp_path / "run"
    assert run_search("random", [*arguments, f"--run={run}", "--stop.hours=1e-9"]) == 0
    assert "no architecture has been evaluated wholly" in capsys.readouterr().out and not (run / "genotype.json").exists()
    assert run_search("random", [*arguments, f"--run={run}", "--resume", "--stop.hours=null"]) == 0
    check_results(run, "nasbench201", 6)


def test_a_reached_accuracy_ends_it(tmp_path: Path, table_file: Path) -> None:
    settings = {"evaluate": "table", "tabular": table_file, "evaluations": 100, "round": 10, "stop.score": 0.3}
    assert run_search("random", [*options("random", "nasbench201", **settings), f"--run={tmp_path / 'run'}"]) == 0
    check_results(tmp_path / "run", "nasbench201", 10)


@pytest.mark.parametrize("proxy", ["naswot", "parameters"])
def test_a_proxy_is_a_score_and_a_filter(proxy: str, tmp_path: Path) -> None:
    run = tmp_path / "score"
    assert run_search("random", [*options("random", "nasbench201", evaluate=proxy), f"--run={run}"]) == 0
    check_results(run, "nasbench201", 6)
    filtered = options(
        "random", "nasbench201", **{"prefilter.proxy": proxy, "prefilter.factor": 4, "epochs": 1, "evaluations": 3}
    )
    assert run_search("random", [*filtered, f"--run={tmp_path / 'filter'}"]) == 0
    check_results(tmp_path / "filter", "nasbench201", 3)


@pytest.mark.parametrize("name", ["accuracy", "loss"])
def test_the_score_itself_is_a_filter(name: str, tmp_path: Path) -> None:
    """Of the proposals the one is evaluated that has the best score on a batch with the shared weights."""
    filtered = {"prefilter.proxy": "supernet", "prefilter.factor": 6, "epochs": 1, "evaluations": 1, "evaluated_images": 16}
    run = tmp_path / "run"
    assert run_search("random", [*options("random", "nasbench201", score=name, **filtered), f"--run={run}"]) == 0
    opened = SamplingRun.open(run)
    assert isinstance(opened, SamplingRun)
    config, hardware = opened.config, Hardware.of(opened.config)
    task = open_task(config, hardware, RunOptions(run, True, False), lambda line: None)
    trainer = SamplingSearch(UniformSampler, config, task, RunDirectory(run, config), hardware, None, False)
    restore(trainer, Checkpoints(run))
    proposals: list[Genome] = []
    inner = UniformSampler(trainer.encoding, config, config.seed, trainer.costs)
    while len(set(proposals)) < 6:
        proposals += inner.ask()
    assert trainer.weights is not None
    scores = trainer.weights.scores
    assert scores.share_of_a_batch == 0.5
    found = [scores(genome, 0.5) for genome in proposals]
    best = proposals[found.index(max(found))]
    assert trainer.encoding.of_genotype(opened.evaluations[0].genotype) == best
    # Without the filter the first proposal would be evaluated.
    assert best != proposals[0]


def test_a_filter_by_moving_weights_goes_on_to_the_same_bits(tmp_path: Path, assert_same: Same) -> None:
    settings = {"prefilter.proxy": "supernet", "prefilter.factor": 2, "guide": 4}
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    arguments = options("enas", "nasbench201", **settings)
    with pytest.MonkeyPatch.context() as patch:
        copy_before(patch, whole, {3: stopped}, {})
        assert run_search("enas", [*arguments, "--run", str(whole)]) == 0
    assert run_search("enas", [*arguments, "--run", str(stopped), "--resume"]) == 0
    assert_same(state_of(stopped), state_of(whole))


def test_hyperband_spends_parts(tmp_path: Path) -> None:
    settings = {"halving.eta": 2, "halving.smallest": 0.25, "evaluations": 5, "epochs": 1}
    assert run_search("random", [*options("random", "nasbench201", **settings), f"--run={tmp_path / 'run'}"]) == 0
    made = [json.loads(line) for line in (tmp_path / "run/evaluations.jsonl").open()]
    assert {entry["share"] for entry in made} >= {0.25, 0.5, 1.0}
    assert 5 <= sum(entry["share"] for entry in made) < 6


@pytest.mark.parametrize("paths", ["uniform", "fair", "sampler"])
def test_every_policy_trains_with_every_space(paths: str, tmp_path: Path) -> None:
    for space in list_spaces():
        arguments = options("enas", space, paths=paths, epochs=1, evaluations=1)
        assert run_search("enas", [*arguments, f"--run={tmp_path / space}"]) == 0


def test_a_sampling_method_is_one_with_a_sampler() -> None:
    for name in SAMPLING_METHODS:
        method = get_method(name)
        assert isinstance(method, SamplingMethod) and method.name == name
        assert isinstance(method.defaults(), sampling.SamplingConfig)


def test_pictures_are_of_the_front_and_the_best_cell_unless_there_shall_be_none(tmp_path: Path, table_file: Path) -> None:
    arguments = options("random", "nasbench201", evaluate="table", tabular=table_file)
    for pictures in (True, False):
        run = tmp_path / str(pictures)
        assert get_method("random").main([*arguments, f"--run={run}"], pictures=pictures) == 0
        assert (run / "pareto.png").exists() == pictures == ("pareto.png" in (run / "report.md").read_text())
        page = (run / "report.html").read_text()
        assert ("Every architecture, and those" in page) == pictures == ("The cells of" in page)
    drawn, plain = ((tmp_path / name / "architectures.csv").read_bytes() for name in ("True", "False"))
    assert drawn == plain
