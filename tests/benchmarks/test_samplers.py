"""The benchmark of samplers: its statistics, what it reads of a search, and that it goes on where it was stopped."""

import contextlib
import csv
import gzip
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from statistics import stdev
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from base.checks import InputError
from benchmarks import samplers
from benchmarks.nasbench201 import table_searches
from benchmarks.nasbench201.table_searches import (
    STEP,
    VARIANTS,
    Record,
    Search,
    Searches,
    Variant,
    incumbents,
    read_table,
    search,
)
from benchmarks.samplers import budgets, differences, draw, interval, report, summary
from search.costs.tabular import Table, TableRow, best_of_random
from search.methods import list_methods
from search.sampling.config import SamplingConfig
from search.sampling.encoding import Encoding, Genome
from search.sampling.method import SamplingMethod
from search.sampling.samplers.sampler import Sampler, Scored
from supernet import Genotype, get_space

ROOT = Path(__file__).parent.parent.parent
HEAD = "arch,cifar10_test_200,cifar10_valid_200,cifar10_valid_12,params_cifar10,flops_cifar10\n"
OPERATIONS = ("nor_conv_3x3", "skip_connect")
SMALL = {
    "random": Variant("random", ("--exclude=[none,nor_conv_1x1,avg_pool_3x3]",)),
    "evolution": Variant("local", ("--exclude=[none,nor_conv_1x1,avg_pool_3x3]",)),
}
"""Real methods in the space of the table of these tests; the second has the name of one for which there are goals."""


def lines(valid: Callable[[int], float] = lambda number: 50 + number % 40) -> str:
    """A table of the 64 architectures of two operations."""
    text = HEAD
    for number, (a, b, c, d, e, f) in enumerate(itertools.product(OPERATIONS, repeat=6)):
        text += (
            f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|,{90 + number / 16},80,{valid(number)},{100 + number},{1000 + number}\n"
        )
    return text


@pytest.fixture
def tabular(tmp_path: Path) -> str:
    path = tmp_path / "table.csv"
    path.write_text(lines())
    return str(path)


class Fixed(Sampler):
    """Asks for what it was made with, three at a time."""

    order: Sequence[Genome] = ()

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.asked = 0

    def ask(self) -> list[Genome]:
        assert self.costs is not None and self.config.seed == self.seed
        self.asked += 3
        return list(self.order[self.asked - 3 : self.asked])

    def tell(self, scored: Sequence[Scored]) -> None:
        assert self.costs is not None
        assert [set(self.costs(genome)) for genome, _ in scored] == [{"parameters", "multiply_adds"}] * len(scored)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Two small variants that are searched in this process; returns a list that tells how many processes were asked for."""
    asked: list[int] = []

    def workers(jobs: int) -> ThreadPoolExecutor:
        asked.append(jobs)
        return ThreadPoolExecutor(1)

    monkeypatch.setattr(table_searches, "workers", workers)
    monkeypatch.setattr(samplers, "VARIANTS", SMALL)
    monkeypatch.setattr(table_searches, "VARIANTS", SMALL)
    return asked


def arguments(tabular: str, *more: str) -> list[str]:
    folder = Path(tabular).parent
    return ["--tabular", tabular, "--directory", str(folder / "runs"), "--evaluations", "30", "--methods", *SMALL, *more]


def rows_of(text: str) -> dict[str, list[str]]:
    """The lines of a Markdown table by their first cell."""
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| ")]
    return {first: rest for first, *rest in cells}


def searches_of(*values: Sequence[float], first: int = 0) -> Searches:
    return {seed: Search(seed, tuple(line), 1.0) for seed, line in enumerate(values, start=first)}


def table_of(*accuracies: float) -> Table:
    return Table({str(number): TableRow(accuracy, 0.0, accuracy, 0, 0, {}) for number, accuracy in enumerate(accuracies)})


# Statistics


def test_one_seed_has_no_deviation_and_no_interval() -> None:
    """And so has the difference of two variants that share one seed; equal values have a width of 0."""
    one, two = searches_of([90.0, 91.0, 92.0]), searches_of([90.0, 91.0, 92.0], [90.0, 91.0, 92.0])
    for row in summary({"random": one}):
        assert [row[key] for key in ("std", "low", "high")] == [None] * 3
    for row in summary({"random": two}):
        assert row["std"] == 0 and row["low"] == row["high"] == row["mean"]


def test_the_interval_of_two_values_is_from_one_to_the_other() -> None:
    # A resample is twice the one, twice the other, or both, with chances 1/4, 1/4 and 1/2.
    assert interval(np.array([1.0, 3.0])).tolist() == [1.0, 3.0]


def test_the_interval_of_many_values_is_that_of_the_normal_approximation() -> None:
    values = np.random.default_rng(1).normal(5, 2, 500)
    error = values.std() / np.sqrt(len(values))
    assert interval(values) == pytest.approx([values.mean() - 1.96 * error, values.mean() + 1.96 * error], abs=0.06 * error)


def test_the_interval_covers_the_mean_in_about_95_of_100_samples() -> None:
    low, high = interval(np.random.default_rng(2).normal(3, 1, (40, 500)))
    # The bootstrap does not know that a deviation is estimated, so with 40 values it is a little short.
    assert 0.90 < np.mean((low < 3) & (high > 3)) < 0.96


def test_columns_have_the_intervals_that_they_have_alone_in_each_call() -> None:
    values = np.random.default_rng(3).normal(size=(20, 3))
    together = interval(values)
    assert together.shape == (2, 3)
    assert np.allclose(together[:, 1], interval(values[:, 1]), rtol=0, atol=1e-12)
    assert np.array_equal(together, interval(values))


def test_differences_are_taken_seed_by_seed_where_both_have_been_searched() -> None:
    one, other = searches_of([1, 10], [2, 20], [3, 30]), searches_of([0.5, 5], [2, 50], [7, 7], first=1)
    assert differences(one, other).tolist() == [[1.5, 15], [1, -20]]
    assert len(differences(one, searches_of([1, 1], first=9))) == 0


def test_a_gain_that_is_small_beside_the_spread_is_seen_where_seeds_are_paired() -> None:
    levels = np.random.default_rng(4).normal(94, 5, 50)
    noise = np.random.default_rng(5).normal(0.1, 0.05, 50)
    worse, better = searches_of(*levels[:, None]), searches_of(*(levels + noise)[:, None])
    found = {"random": worse, "evolution": better}
    assert interval(differences(better, worse))[0, 0] > 0
    unpaired = interval(samplers.accuracies(better.values()))
    assert unpaired[0, 0] < levels.mean() < unpaired[1, 0]
    cells = rows_of(report(found, table_of(90, 95), STEP))["evolution"]
    assert cells[3].startswith(f"{noise.mean():+.2f} [+0.")
    assert rows_of(report(found, table_of(90, 95), STEP))["random"][3] == "-"


@given(st.lists(st.integers(0, 5), max_size=30))
def test_an_incumbent_is_the_first_of_the_best_so_far(scores: list[int]) -> None:
    assert incumbents(scores) == [scores.index(max(scores[: count + 1])) for count in range(len(scores))]


def test_variants_are_compared_at_the_budgets_and_at_the_end() -> None:
    assert [budgets(count) for count in (50, 100, 150, 300, 500)] == [[50], [100], [100, 150], [100, 300], [100, 300, 500]]


# One search


def test_a_search_reads_the_test_accuracy_of_its_incumbents(tabular: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoding = Encoding(get_space("nasbench201"))
    table = read_table(tabular)
    genomes = [encoding.of_genotype(Genotype.parse(architecture)) for architecture in table.rows]
    # The validation accuracy of number n is 50 + n % 40: by it the best is 39, by test 63. After 25 there are no more.
    monkeypatch.setattr(Fixed, "order", [genomes[number] for number in [*range(20, 30), *range(50, 60), 39, 38, 63, 62, 3]])
    method = SamplingMethod("fixed", "none", "fixed", SamplingConfig, sampler=Fixed)
    monkeypatch.setattr(table_searches, "get_method", lambda name: method)
    config = SamplingConfig(space="nasbench201", evaluate="table", tabular=tabular, evaluations=40)
    found = search("fixed", config, 7)
    best = [table[encoding.genotype(genomes[number])].test_accuracy for number in (29, 29, 39, 39)]
    assert found.seed == 7 and found.accuracies == tuple(best) == (91.8125, 91.8125, 92.4375, 92.4375)
    assert 0 < found.seconds < 5


def test_every_sampling_method_has_a_variant_and_every_variant_is_one_of_a_method(tabular: str) -> None:
    assert {variant.method for variant in VARIANTS.values()} == set(list_methods(SamplingMethod)) == set(samplers.COLOURS)
    for variant in VARIANTS.values():
        config = variant.config(tabular, 300)
        assert (config.space, config.evaluate, config.evaluations) == ("nasbench201", "table", 300)
    named = {*samplers.BETTER, *samplers.PARTS, *itertools.chain(*samplers.PARTS.values()), *samplers.PUBLISHED}
    assert named <= set(VARIANTS)


def test_random_search_does_what_is_expected_of_it_exactly(shared_data: Callable[[str], Path]) -> None:
    path = str(shared_data("nasbench201/cifar10.csv.gz"))
    config = VARIANTS["random"].config(path, 100)
    last = [search("random", config, seed).accuracies[-1] for seed in range(60)]
    mean, deviation = best_of_random(read_table(path), 100)
    assert abs(np.mean(last) - mean) < 4 * deviation / np.sqrt(len(last))


# The record


@pytest.fixture
def record(tmp_path: Path) -> Record:
    record = Record(tmp_path, "random", 20)
    record.begin({"evaluations": 20})
    for seed in (3, 1):
        record.add(Search(seed, (90.123456789, 1 / 3 + seed), 0.5))
    return record


def test_what_is_recorded_is_read_back_by_seed(record: Record) -> None:
    assert record.path.read_text().splitlines()[0] == "seed,10,20,seconds"
    assert record.read() == {1: Search(1, (90.123456789, 1 / 3 + 1), 0.5), 3: Search(3, (90.123456789, 1 / 3 + 3), 0.5)}
    assert list(record.read()) == [1, 3]


@pytest.mark.parametrize("left", range(1, 40, 6))
def test_a_last_line_that_was_cut_is_dropped(record: Record, left: int) -> None:
    text = record.path.read_text()
    record.path.write_text(text[:-left])
    assert 1 not in record.read()
    record.begin({"evaluations": 20})
    record.add(Search(1, (90.123456789, 1 / 3 + 1), 0.5))
    if left <= len(text.splitlines()[-1]):
        assert record.path.read_text() == text


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("5,90.0,0.1", "line 4 is no search; delete it"),
        ("5,90.0,91.0,92.0,0.1", "line 4 is no search"),
        ("x,90.0,91.0,0.1", "line 4 is no search"),
        ("5,90.0,nan,0.1", "line 4 is no search"),
        ("", "line 4 is no search"),
        ("3,90.0,91.0,0.1", "line 4 has seed 3 again"),
    ],
)
def test_a_line_that_was_not_recorded_is_refused(record: Record, line: str, said: str) -> None:
    with record.path.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(ValueError, match=said):
        record.read()


# The program


def test_it_searches_what_is_missing_and_says_what_is_there(
    tabular: str, in_process: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert samplers.main(arguments(tabular, "--seeds", "3", "--jobs", "4")) == 0
    said = capsys.readouterr().out
    assert "6 of 6 searches" in said and in_process == [4]
    first = {name: Record(tmp_path / "runs", name, 30).read() for name in SMALL}
    assert [list(searches) for searches in first.values()] == [[0, 1, 2]] * 2
    outputs = [tmp_path / name for name in ("summary.csv", "figure.png", "table.md")]
    written = [
        argument
        for name, path in zip(("csv", "figure", "table"), outputs, strict=True)
        for argument in (f"--{name}", str(path))
    ]
    assert samplers.main(arguments(tabular, "--seeds", "5", *written)) == 0
    assert "4 of 4 searches" in capsys.readouterr().out
    record = Record(tmp_path / "runs", "random", 30)
    assert list(record.read()) == [0, 1, 2, 3, 4] and all(record.read()[seed] == first["random"][seed] for seed in range(3))
    assert samplers.main(arguments(tabular, "--seeds", "5")) == 0
    assert len(in_process) == 2  # nothing was left to search
    text = outputs[2].read_text()
    assert text.startswith("# Samplers on NAS-Bench-201, CIFAR-10\n") and "`python -m benchmarks.samplers --tabular" in text
    cells = rows_of(text)
    last = [found.accuracies[-1] for found in record.read().values()]
    assert cells["random"][:3] == [
        "search.random --exclude=[none,nor_conv_1x1,avg_pool_3x3]",
        "5",
        f"{np.mean(last):.2f} ± {stdev(last):.2f}",
    ]
    assert cells["the optimum"] == ["93.94"] and cells["random search as stated for 500 seeds"] == ["-"]
    assert "evolution has a mean of at least 94.15 at 300; measured: not measured" in text
    rows = list(csv.DictReader(outputs[0].open()))
    assert tuple(rows[0]) == samplers.COLUMNS and [row["evaluations"] for row in rows] == ["10", "20", "30"] * 2
    assert float(rows[2]["mean"]) == pytest.approx(np.mean(last), abs=1e-4)
    assert float(rows[2]["low"]) <= float(rows[2]["mean"]) <= float(rows[2]["high"])
    assert outputs[1].read_bytes().startswith(b"\x89PNG")


def test_the_same_command_goes_on_after_a_file_was_cut(
    tabular: str, in_process: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert samplers.main(arguments(tabular, "--seeds", "3")) == 0
    record = Record(tmp_path / "runs", "evolution", 30)
    before = record.read()
    record.path.write_text(record.path.read_text()[:-4])
    capsys.readouterr()
    assert samplers.main(arguments(tabular, "--seeds", "3")) == 0
    assert "1 of 1 searches" in capsys.readouterr().out
    assert [found.accuracies for found in record.read().values()] == [found.accuracies for found in before.values()]


@pytest.mark.slow
def test_processes_find_what_one_finds(
    tabular: str, tmp_path: Path, in_process: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert samplers.main(arguments(tabular, "--seeds", "3", "--directory", str(tmp_path / "one"))) == 0
    monkeypatch.undo()
    monkeypatch.setattr(samplers, "VARIANTS", SMALL)
    monkeypatch.setattr(table_searches, "VARIANTS", SMALL)
    assert samplers.main(arguments(tabular, "--seeds", "3", "--jobs", "2", "--directory", str(tmp_path / "two"))) == 0
    for name in SMALL:
        one, two = (Record(tmp_path / folder, name, 30).read() for folder in ("one", "two"))
        assert [found.accuracies for found in one.values()] == [found.accuracies for found in two.values()] and len(one) == 3


class Stopped(ThreadPoolExecutor):
    """The third task ends with an error."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(1)
        self.error = error
        self.count = 0

    def submit(self, *arguments: Any, **options: Any) -> Future[Any]:
        self.count += 1
        if self.count != 3:
            return super().submit(*arguments, **options)
        future: Future[Any] = Future()
        future.set_exception(self.error)
        return future


def stop_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    # In the order of the tasks, where as_completed begins with those that are done.
    monkeypatch.setattr(table_searches, "as_completed", list)
    monkeypatch.setattr(table_searches, "workers", lambda jobs: Stopped(error))


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (KeyboardInterrupt(), 130, "benchmarks.samplers: stopped; the same command goes on\n"),
        (BrokenProcessPool(), 2, "benchmarks.samplers: error: a process of the searches died;"),
        (InputError("a sampler's own"), 2, "benchmarks.samplers: error: a sampler's own\n"),
    ],
)
def test_what_was_found_before_an_end_is_kept(
    tabular: str, in_process: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    error: BaseException, status: int, said: str,
) -> None:  # fmt: skip
    stop_with(monkeypatch, error)
    handler = signal.getsignal(signal.SIGINT)
    assert samplers.main(arguments(tabular, "--seeds", "3", "--table", str(tmp_path / "table.md"))) == status
    complaint = capsys.readouterr().err
    assert complaint.startswith(said) and complaint.count("\n") == 1
    assert not (tmp_path / "table.md").exists()
    assert [len(Record(tmp_path / "runs", name, 30).read()) for name in SMALL] == [1, 1]
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.slow
def test_a_real_interrupt_ends_it_in_one_line(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    table = str(shared_data("nasbench201/cifar10.csv.gz"))
    command = [sys.executable, "-m", "benchmarks.samplers", "--tabular", table, "--directory", str(tmp_path)]
    process = subprocess.Popen(
        [*command, "--methods", "random", "--seeds", "100000"], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True, start_new_session=True,
        # What starts the tests may have it ignored, as a shell does in the background.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    record = Record(tmp_path, "random", 300)
    deadline = time.monotonic() + 60
    while not (record.path.exists() and record.read()) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None, process.communicate()[1]
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all of them
    try:
        _, complaint = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert (process.returncode, complaint) == (130, "benchmarks.samplers: stopped; the same command goes on\n")
    assert record.read()


def test_one_directory_has_one_set_of_settings(
    tabular: str, in_process: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert samplers.main(arguments(tabular, "--seeds", "1", "--methods", "random")) == 0
    record = Record(tmp_path / "runs", "random", 30)
    before = record.path.read_bytes(), record.settings.read_bytes()

    def refused(name: str, *options: str, table: str = tabular) -> None:
        capsys.readouterr()
        assert samplers.main(arguments(table, "--directory", str(tmp_path / "runs"), *options)) == 2
        error = capsys.readouterr().err
        assert f"holds searches with other settings (random: {name}); repeat" in error and error.count("\n") == 1

    # Also where another variant is asked for, as it would stand in one table.
    refused("evaluations", "--evaluations", "40", "--methods", "evolution")
    other = tmp_path / "other.csv"
    other.write_text(lines(lambda number: number))
    refused("table", table=str(other))
    refused("table", "--report", table=str(other))
    monkeypatch.setitem(SMALL, "random", Variant("random", (*SMALL["random"].options, "--best=3")))
    refused("best")
    monkeypatch.undo()
    assert (record.path.read_bytes(), record.settings.read_bytes()) == before and not (
        tmp_path / "runs" / "evolution.csv"
    ).exists()


def test_the_same_table_may_be_elsewhere(tabular: str, in_process: list[int], tmp_path: Path) -> None:
    assert samplers.main(arguments(tabular, "--seeds", "1")) == 0
    elsewhere = tmp_path / "elsewhere.csv.gz"
    elsewhere.write_bytes(gzip.compress(Path(tabular).read_bytes()))
    assert samplers.main(arguments(str(elsewhere), "--seeds", "2")) == 0


def test_a_report_searches_nothing_and_changes_nothing(
    tabular: str, in_process: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert samplers.main(arguments(tabular, "--seeds", "2", "--methods", "evolution")) == 0
    record = Record(tmp_path / "runs", "evolution", 30)
    record.path.write_text(record.path.read_text()[:-2])
    before = {path.name: path.read_bytes() for path in (tmp_path / "runs").iterdir()}
    capsys.readouterr()
    assert samplers.main(arguments(tabular, "--report")) == 0
    said = capsys.readouterr().out
    cells = rows_of(said)
    # Without a second seed no deviation, without random search no difference.
    assert "report of earlier searches" in said and cells["evolution"][1] == "1" and "random" not in cells
    assert cells["evolution"][2].endswith("± -") and cells["evolution"][3] == "-"
    assert {path.name: path.read_bytes() for path in (tmp_path / "runs").iterdir()} == before and len(in_process) == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--methods", "nas"], "--methods: unknown variant 'nas'; known: random, evolution"),
        (["--evaluations", "25"], "--evaluations: must be a multiple of 10, not 25"),
        (["--tabular", "absent.csv"], "tabular: absent.csv: no such file"),
        (["--directory", __file__], "is a file; name a folder"),
        (["--figure", "absent/a.png"], "--figure: there is no folder absent"),
        (["--csv", "."], "--csv: . is a folder; name a file"),
        (["--report"], "there is no search in"),
    ],
)
def test_wrong_input_is_said_in_one_line(
    tabular: str, in_process: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str], given: list[str], said: str
) -> None:
    assert samplers.main(arguments(tabular, *given)) == 2
    error = capsys.readouterr().err
    assert error.startswith("benchmarks.samplers: error: ") and said in error and error.count("\n") == 1
    assert not in_process and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("text", ["{", "[]", None])
def test_a_record_without_its_settings_is_refused(
    tabular: str, in_process: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str | None
) -> None:
    assert samplers.main(arguments(tabular, "--seeds", "1")) == 0
    settings = tmp_path / "runs" / "random.json"
    assert json.loads(settings.read_text())["evaluations"] == 30
    if text is None:
        settings.unlink()
    else:
        settings.write_text(text)
    capsys.readouterr()
    assert samplers.main(arguments(tabular, "--seeds", "1")) == 2
    error = capsys.readouterr().err
    assert "random.json: does not say what random.csv was run with; delete both" in error and error.count("\n") == 1


def test_help_names_the_options_and_the_variants(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        samplers.main(["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0 and "python -m benchmarks.samplers" in said
    assert all(name in said for name in VARIANTS)
    options = ("tabular", "methods", "seeds", "evaluations", "directory", "jobs", "csv", "figure", "table", "report")
    assert all(f"--{name}" in said for name in options)


# What is said of the searches


def steady(*last: tuple[float, float], first: int = 0) -> Searches:
    """Searches of 300 evaluations with an accuracy from 100 on and another at the end."""
    return searches_of(*([90.0] * 9 + [middle] * 20 + [end] for middle, end in last), first=first)


def test_goals_are_met_by_the_interval_and_by_the_mean() -> None:
    low, spread = [(93.0, 93.9), (93.2, 94.0), (93.1, 93.8)], [(93.4, 94.3), (93.0, 93.2), (94.0, 94.3)]
    found = {"random": steady(*low), "evolution": steady(*((a + 0.3, 94.2) for a, _ in low)), "bananas": steady(*spread)}
    said = report(found, table_of(90, 94.3733), 300)
    goals = {line.split(";")[0]: line.rpartition(", ")[2] for line in said.splitlines() if line.startswith("- goal")}
    met = [goals[f"- goal: evolution {text}"] for text in GOALS]
    assert met == ["met", "met", "met"]
    assert [goals[f"- goal: bananas {text}"] for text in GOALS] == ["not met"] * 3
    assert all("gp" not in line or line.endswith("not measured") for line in said.splitlines() if line.startswith("- goal"))
    cells = rows_of(said)
    assert cells["evolution"][4:6] == ["+0.30 [+0.30, +0.30]", "+0.30 [+0.20, +0.40]"]
    assert cells["evolution"][6:] == ["1.00", "93.92 ± 0.30"] and cells["bananas"][7] == "-"
    assert cells["random search as stated for 500 seeds"] == ["93.76 ± 0.32", "93.92 ± 0.24"]


GOALS = (
    "beats random at 100: the lower end of the interval is above 0",
    "beats random at 300: the lower end of the interval is above 0",
    "has a mean of at least 94.15 at 300",
)


def test_a_composition_is_compared_with_its_parts() -> None:
    found = {"enas": steady((93, 94), (93.5, 94)), "hybrid": steady((93.5, 93.5), (94.0, 93.5))}
    cells = rows_of(report(found, table_of(90, 95), 300))
    assert cells["hybrid less enas"] == ["+0.50 [+0.50, +0.50]", "-0.50 [-0.50, -0.50]"]
    assert "hybrid less hybrid_genetic" not in cells


def test_the_figure_has_a_line_a_variant_and_what_chance_and_the_best_are() -> None:
    found = {name: steady((93.2, 94 + place / 50), (93.4, 94 + place / 40)) for place, name in enumerate(VARIANTS)}
    table = table_of(90, 93, 94.3733)
    figure = draw(summary(found), table)
    (axes,) = figure.axes
    drawn = {str(line.get_label()): line for line in axes.get_lines()}
    names = [label.split("  ")[1] for label in drawn]
    assert names[0] == "the optimum" and names[-1] == "random, exact" and names[1:-1] == list(reversed(VARIANTS))
    assert len(axes.collections) == len(VARIANTS)
    line = drawn["94.00  random"]
    assert np.asarray(line.get_xdata()).tolist() == list(range(10, 301, 10))
    assert np.asarray(line.get_ydata())[-2:].tolist() == pytest.approx([93.3, 94.0])
    exact = np.asarray(next(line for label, line in drawn.items() if "exact" in label).get_ydata())
    assert exact[9] == pytest.approx(best_of_random(table, 100)[0])
    # Colours tell the methods apart, and dashes the variants of one.
    assert len({str(samplers._style(name)) for name in VARIANTS}) == len(VARIANTS)
    (legend,) = figure.legends
    assert legend.get_title().get_text() == "mean of 2 seeds\nband: its 95% interval"
