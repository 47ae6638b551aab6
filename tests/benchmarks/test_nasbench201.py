"""The benchmark of methods over seeds. Most of its searches are stand-ins that write the files of a run at once."""

import csv
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import benchmarks.nasbench201.__main__ as nasbench201
from benchmarks.nasbench201 import runner
from benchmarks.nasbench201.report import COLUMNS, curves, draw_curves, report
from benchmarks.nasbench201.runner import Run
from search.costs.tabular import Table
from search.differentiable.config import SearchConfig
from search.differentiable.method import DifferentiableMethod
from search.methods import get_method, list_methods
from supernet import Genotype
from training.run.config import config_to_yaml

METHODS = list_methods(DifferentiableMethod)
TINY = [
    "--data.name", "digits", "--channels", "2", "--cells", "1", "--epochs", "2", "--data.limit", "64", "--batch_size", "16",
    "--threads", "1", "--data.crop_padding", "1", "--eigenvalue_every", "0",
]  # fmt: skip
OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
HEAD = "arch,cifar10_test_200,cifar10_valid_200,cifar10_valid_12,params_cifar10,flops_cifar10\n"


def architecture(*operations: str) -> str:
    a, b, c, d, e, f = operations
    return f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"


SKIPS, POOLS, CONVOLUTIONS = (architecture(*[name] * 6) for name in ("skip_connect", "avg_pool_3x3", "nor_conv_3x3"))
SMALL = f"{HEAD}{SKIPS},50,40,45,100,1000\n{POOLS},80,70,75,200,2000\n{CONVOLUTIONS},94,90,85,300,3000\n"
"""In 12 epochs the best of 100 is all but surely the one of convolutions."""


@pytest.fixture
def tabular(tmp_path: Path) -> str:
    """A table of three architectures."""
    (tmp_path / "table.csv").write_text(SMALL)
    return str(tmp_path / "table.csv")


def entry(epoch: int, text: str) -> dict[str, Any]:
    skips = text.count("skip_connect")
    return {
        "epoch": epoch, "genotype": text, "supernet_accuracy": 0.5, "derived_accuracy": None, "eigenvalue": None,
        "entropy": {"cell": 1.5}, "skips": {"cell": skips}, "skip_share": {"cell": skips / 6}, "mixture": {"cell": []},
    }  # fmt: skip


def write_run(run: Run, config: SearchConfig, texts: Sequence[str]) -> None:
    """Writes the files that a search leaves after one epoch for each of `texts`."""
    run.path.mkdir(parents=True, exist_ok=True)
    (run.path / "config.yaml").write_text(config_to_yaml(replace(config, seed=run.seed)))
    lines = [json.dumps(entry(number, text)) for number, text in enumerate(texts, start=1)]
    (run.path / "history.jsonl").write_text("\n".join(lines))
    if texts:
        Genotype.parse(texts[-1]).save(run.path / "genotype.json")


class StandIn:
    """Stands for `search_command`: writes the run at once; the process then says something and ends with a status."""

    def __init__(self) -> None:
        self.started: list[tuple[str, int, bool]] = []
        """Method, seed and whether it went on."""
        self.texts: Callable[[Run], Sequence[str]] = lambda run: [POOLS, CONVOLUTIONS]
        self.script: Callable[[Run], str] = lambda run: ""

    def __call__(self, run: Run, tabular: str, through: Sequence[str]) -> list[str]:
        self.started.append((run.method, run.seed, run.begun))
        write_run(run, runner.configuration(run.method, tabular, through), self.texts(run))
        return [sys.executable, "-S", "-c", self.script(run)]


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setattr(runner, "search_command", stand_in)
    monkeypatch.setattr(runner, "POLL", 0.01)
    return stand_in


def arguments(tabular: str, *more: str) -> list[str]:
    return ["--tabular", tabular, "--directory", str(Path(tabular).parent / "runs"), *more]


def rows_of(text: str) -> dict[str, list[str]]:
    """The lines of a Markdown table by their first cell."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]
    return {first: rest for first, *rest in lines}


@pytest.mark.slow
def test_a_real_search_is_begun_stopped_gone_on_with_and_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = tmp_path / "whole.csv"
    lines = (f"{architecture(*chosen)},50,40,30,100,1000\n" for chosen in itertools.product(OPERATIONS, repeat=6))
    whole.write_text(HEAD + "".join(lines))
    directory = tmp_path / "runs"
    common = ["--methods", "darts", "--seeds", "3", "--tabular", str(whole), "--directory", str(directory), *TINY]
    assert nasbench201.main([*common, "--stop.hours", "1e-9"]) == 0
    assert "not finished" in capsys.readouterr().out
    assert rows_of((directory / "table.md").read_text())["darts"][:2] == ["0 of 1", "-"]
    assert nasbench201.main([*common, "--curves", str(tmp_path / "curves.csv")]) == 0
    assert "darts, seed 3: goes on" in capsys.readouterr().out
    text = (directory / "table.md").read_text()
    assert text.startswith("# NAS-Bench-201, CIFAR-10\n") and "`python -m benchmarks.nasbench201 --methods darts" in text
    cells = rows_of(text)["darts *"]
    assert cells[:4] == ["1 of 1", "50.00 ± -", "54.30 ± 0.00", "40.00 ± -"] and cells[-2:] == ["2", "-"]
    points = list(csv.DictReader((tmp_path / "curves.csv").open()))
    assert [point["epoch"] for point in points] == ["1", "2"]
    assert all(0 <= float(point["supernet_accuracy"]) <= 1 and point["eigenvalue"] == "" for point in points)
    assert "darts: 2 epochs" in (directory / "darts" / "seed_3.log").read_text()


def test_each_method_has_one_row_over_its_seeds(tabular: str, searches: StandIn) -> None:
    searches.texts = lambda run: [POOLS, CONVOLUTIONS if run.seed else POOLS]
    assert (
        nasbench201.main(
            arguments(
                tabular, "--methods", "drnas", "darts", "--seeds", "0", "1", *TINY, "--alphas.warmup", "0", "--channels", "4"
            )
        )
        == 0
    )
    rows = rows_of((Path(tabular).parent / "runs" / "table.md").read_text())
    # 80 and 94: the sample standard deviation is 14 / sqrt(2).
    assert rows["darts *"][:4] == ["2 of 2", "87.00 ± 9.90", "54.30 ± 0.00", "80.00 ± 14.14"]
    assert rows["drnas *"][2] == "94.36 ± 0.00" and rows["drnas *"][6] == "2"
    assert rows["the optimum"] == ["94.00", "94.37"]
    assert rows["a random architecture"] == ["74.67 ± 18.35", "87.06"]
    assert rows["the best of 100 random ones, by validation after 12 epochs"] == ["94.00 ± 0.00", "93.74 ± 0.34"]


def test_only_a_method_that_does_not_beat_the_best_of_random_ones_is_marked(tmp_path: Path) -> None:
    # By a validation that misleads, the best of 100 is the one of pools.
    table = tmp_path / "misleading.csv"
    table.write_text(SMALL.replace(",75,", ",99,"))
    runs = [Run(method, 0, tmp_path / method / "seed_0") for method in ("darts", "gdas")]
    for run, text in zip(runs, (POOLS, CONVOLUTIONS), strict=True):
        write_run(run, SearchConfig(space="nasbench201", epochs=1), [text])
        run.finish(1, 0.5)
    said = report(runs, Table.read(table))
    assert "darts does not beat the best of 100 random architectures." in said and "gdas does not" not in said
    rows = rows_of(said)
    assert "darts *" in rows and rows["gdas"][-1] == "0.50"


def test_a_finished_run_is_not_run_again_and_another_is_gone_on_with(tabular: str, searches: StandIn) -> None:
    searches.texts = lambda run: [POOLS] * (2 if run.seed == 0 else 1)
    common = arguments(tabular, "--methods", "darts", "--seeds", "0", "1", *TINY)
    assert nasbench201.main(common) == 0
    table = Path(tabular).parent / "runs" / "table.md"
    assert rows_of(table.read_text())["darts *"][0] == "1 of 2"
    assert "not finished: darts, seed 1 (epoch 1)." in table.read_text()
    searches.texts = lambda run: [POOLS] * 2
    assert nasbench201.main(common) == 0
    assert searches.started == [("darts", 0, False), ("darts", 1, False), ("darts", 1, True)]
    assert rows_of(table.read_text())["darts *"][0] == "2 of 2"


def test_runs_that_are_there_already_stay_in_the_table(tabular: str, searches: StandIn) -> None:
    assert nasbench201.main(arguments(tabular, "--methods", "darts", "--seeds", "0", *TINY)) == 0
    assert nasbench201.main(arguments(tabular, "--methods", "gdas", "--seeds", "1", *TINY)) == 0
    assert searches.started == [("darts", 0, False), ("gdas", 1, False)]
    rows = rows_of((Path(tabular).parent / "runs" / "table.md").read_text())
    assert rows["darts *"][0] == rows["gdas *"][0] == "1 of 1"


def test_one_directory_has_one_set_of_options(tabular: str, searches: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    assert nasbench201.main(arguments(tabular, "--methods", "darts", "--seeds", "0", *TINY)) == 0
    capsys.readouterr()
    # Those of another method, too, as they would stand in one table.
    assert nasbench201.main(arguments(tabular, "--methods", "gdas", "--seeds", "0", *TINY, "--epochs", "3")) == 2
    error = capsys.readouterr().err
    assert "holds runs with other settings (darts, seed 0: epochs)" in error and error.count("\n") == 1
    assert len(searches.started) == 1
    again = [*TINY, "--stop.hours", "5"]
    assert nasbench201.main(arguments(tabular, "--methods", "gdas", "--seeds", "0", *again)) == 0


def test_one_that_fails_is_named_and_the_others_go_on(
    tabular: str, searches: StandIn, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    failing = "import sys; print('epoch 1'); sys.stderr.write('a warning\\nsearch.darts: error: no data\\n'); sys.exit(2)"
    searches.script = lambda run: "" if run.seed else failing
    assert nasbench201.main(arguments(tabular, "--methods", "darts", "--seeds", "0", "1", *TINY)) == 1
    said = capsys.readouterr().out
    assert "darts, seed 0: FAILED with status 2: search.darts: error: no data\n" in said
    assert rows_of(said)["darts *"][0] == "1 of 2"


@pytest.mark.parametrize("jobs", [1, 3])
def test_as_many_searches_run_at_a_time_as_asked_for(
    tabular: str, searches: StandIn, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    processes: list[subprocess.Popen[bytes]] = []
    most = 0

    class Counted(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            nonlocal most
            super().__init__(*arguments, **options)
            processes.append(self)
            most = max(most, sum(process.returncode is None for process in processes))

    monkeypatch.setattr(subprocess, "Popen", Counted)
    seeds = [str(seed) for seed in range(5)]
    assert nasbench201.main(arguments(tabular, "--methods", "darts", "--seeds", *seeds, *TINY, "--jobs", str(jobs))) == 0
    assert len(processes) == 5 and most == jobs


def test_an_interrupt_stops_the_searches_and_starts_no_other(
    tabular: str, searches: StandIn, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    processes: list[subprocess.Popen[bytes]] = []
    original = subprocess.Popen

    def start(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        processes.append(original(*arguments, **options))
        return processes[-1]

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    searches.script = lambda run: "import time; time.sleep(60)"
    monkeypatch.setattr(subprocess, "Popen", start)
    monkeypatch.setattr(time, "sleep", interrupt)
    assert nasbench201.main(arguments(tabular, "--methods", "darts", "--seeds", "0", "1", "2", "--jobs", "2", *TINY)) == 130
    assert capsys.readouterr().err == "benchmarks.nasbench201: stopped; the same command goes on\n"
    assert len(processes) == 2 and all(process.returncode is not None for process in processes)
    assert not list((Path(tabular).parent / "runs").glob("*/*/finished.json"))


def test_a_report_runs_nothing_and_needs_no_options(
    tabular: str, searches: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    searches.texts = lambda run: [SKIPS, POOLS]
    assert nasbench201.main(arguments(tabular, "--methods", "darts", "--seeds", "0", *TINY)) == 0
    files = [Path(tabular).with_name(name) for name in ("curves.csv", "figure.png")]
    capsys.readouterr()
    assert nasbench201.main(arguments(tabular, "--report", "--curves", str(files[0]), "--figure", str(files[1]))) == 0
    said = capsys.readouterr().out
    assert rows_of(said)["darts *"][:2] == ["1 of 1", "80.00 ± -"] and "report of earlier runs" in said
    assert len(searches.started) == 1
    points = list(csv.DictReader(files[0].open()))
    assert list(points[0]) == list(COLUMNS)
    assert [(point["test_accuracy"], point["parameters"], point["skips"]) for point in points] == [
        ("50.0", "100", "6"),
        ("80.0", "200", "0"),
    ]
    assert points[0]["derived_accuracy"] == "" and points[0]["entropy"] == "1.5"
    assert files[1].read_bytes().startswith(b"\x89PNG")


def test_the_figure_has_two_panels_a_method_and_a_mean_as_far_as_all_seeds_go(tabular: str, tmp_path: Path) -> None:
    runs = [Run(method, seed, tmp_path / method / f"seed_{seed}") for method in METHODS[:5] for seed in (0, 1)]
    for run in runs:
        write_run(run, SearchConfig(space="nasbench201"), [POOLS, SKIPS, CONVOLUTIONS][: 3 - run.seed])
    table = Table.read(tabular)
    figure = draw_curves(curves(runs, table), table)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == list(METHODS[:5])
    upper = next(axes for axes in figure.axes if axes.get_title() == METHODS[0])
    lines = {str(line.get_label()): line for line in upper.get_lines()}
    assert np.asarray(lines["a seed"].get_ydata()).tolist() == [20, 50, 6]
    assert np.asarray(lines["mean of the seeds"].get_xdata()).tolist() == [1, 2] and np.asarray(
        lines["mean of the seeds"].get_ydata()
    ).tolist() == [20, 50]
    # The error falls upwards, as accuracy rises.
    assert upper.get_ylim()[0] > upper.get_ylim()[1]
    width, _ = figure.get_size_inches() * figure.dpi
    assert width == pytest.approx(1400)


def test_every_method_has_a_protocol_and_most_have_a_published_row(tabular: str) -> None:
    published = {name for name in list_methods() if get_method(name).published.nasbench201}
    assert published == {*METHODS, "random", "enas"} - {"shapley"}
    epochs = {method: runner.configuration(method, tabular, []).epochs for method in list_methods()}
    assert epochs["darts"] == 50 and epochs["gdas"] == 250 and epochs["random"] == 250


def test_the_command_of_a_search_names_its_protocol_and_goes_on_where_there_is_a_run(tmp_path: Path) -> None:
    run = Run("gdas", 4, tmp_path / "gdas" / "seed_4")
    begin = runner.search_command(run, "t.csv", ["--epochs", "3"])
    assert begin[2:6] == ["-m", "search.gdas", "--config", "nasbench201_gdas"] and "--resume" not in begin
    assert begin[-4:] == ["--seed", "4", "--epochs", "3"]
    write_run(run, SearchConfig(space="nasbench201"), [])
    assert yaml.safe_load((run.path / "config.yaml").read_text())["seed"] == 4
    assert runner.search_command(run, "t.csv", [])[-1] == "--resume"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--methods", "nas"], "unknown method 'nas'"),
        (["--methods", "darts", "darts"], "--methods: names one of them twice: darts darts"),
        (["--methods", "darts", "--seeds", "1", "01"], "--seeds: names one of them twice: 1 1"),
        (["--methods", "darts", "--seeds", "-1"], "--seeds: must be whole numbers of at least 0, not -1"),
        (["--methods", "darts", "--seeds", "1.5"], "--seeds: must be whole numbers of at least 0, not 1.5"),
        (["--methods", "darts", "--tabular", "absent.csv"], "tabular: absent.csv: no such file"),
        (["--methods", "darts", "--directory", __file__], "is a file; name a folder"),
        (["--methods", "darts", "--figure", "absent/a.png"], "--figure: there is no folder absent"),
        (["--methods", "darts", "--seed", "3"], "--seed: is set for each search"),
        (["--methods", "darts", "--run=there"], "--run: is set for each search"),
        (["--methods", "darts", "--device", "cuda:77"], "device: 'cuda:77' cannot be used here"),
        (["--report"], "to report on"),
        ([], "--methods: name at least one of beta_darts, darts, "),
    ],
)
def test_wrong_input_is_said_in_one_line(
    tabular: str, searches: StandIn, capsys: pytest.CaptureFixture[str], given: list[str], said: str
) -> None:
    assert nasbench201.main(arguments(tabular, *given)) == 2
    error = capsys.readouterr().err
    assert error.startswith("benchmarks.nasbench201: error: ") and said in error and error.count("\n") == 1
    assert not searches.started


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("--epoch=3", "no such option; did you mean --epochs?"),
        ("--epochs=x", "epochs: must be a whole number"),
        ("--space=darts", "set space to nasbench201"),
    ],
)
def test_a_wrong_option_of_the_search_is_said_before_any_begins(
    tabular: str, searches: StandIn, capsys: pytest.CaptureFixture[str], given: str, said: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        nasbench201.main(arguments(tabular, "--methods", "darts", given))
    error = capsys.readouterr().err
    assert ended.value.code == 2 and said in error and error.count("\n") == 1
    assert not searches.started


def test_the_baselines_are_those_that_are_published(shared_data: Callable[[str], Path]) -> None:
    rows = rows_of(report([], Table.read(shared_data("nasbench201/cifar10.csv.gz"))))
    mean, published = rows["the best of 100 random ones, by validation after 12 epochs"]
    assert float(mean.split()[0]) == pytest.approx(float(published.split()[0]), abs=0.05)
    assert rows["a random architecture"][0].startswith("87.06") and rows["the optimum"][0] == "94.37"
