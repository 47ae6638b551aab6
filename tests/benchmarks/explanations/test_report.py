"""The record of how well explanations agree with a table: its lines, means and figure."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from benchmarks.explanations.__main__ import main
from benchmarks.explanations.report import COLUMNS, as_csv, draw, report, rows_of
from search.explain.supernets.measures import MEASURES
from search.explain.supernets.truth import SCALES, TRUTHS


def numbers(tau: float | None) -> dict[str, Any]:
    """Those of an explanation in which each tau is the same, and 0.1 more over the operations of the cell."""
    chosen = None if tau is None else tau + 0.1
    truth = [
        {
            "of": name,
            "scale": scale,
            "all_operations": dict.fromkeys(MEASURES, tau),
            "operations_of_the_cell": dict.fromkeys(MEASURES, chosen),
        }
        for name in TRUTHS
        for scale in SCALES
    ]
    return {"truth": truth, "measures": [{}] * 30, "edges": [{}] * 6}


def made_rows() -> list[Any]:
    runs = [("darts", 0, 90.0, 0.25), ("darts", 1, 91.5, 0.75), ("gdas", 0, 80.0, None)]
    return [row for method, seed, accuracy, tau in runs for row in rows_of(method, seed, accuracy, numbers(tau))]


def test_the_record_has_a_line_for_each_truth_and_measure() -> None:
    read = list(csv.DictReader(io.StringIO(as_csv(made_rows()))))
    assert tuple(read[0]) == COLUMNS
    assert len(read) == 3 * len(TRUTHS) * len(SCALES) * len(MEASURES) * 2
    first = read[0]
    assert (first["method"], first["seed"], first["operations"], first["of"]) == ("darts", "0", "30", "all")
    assert {line["kendall_tau"] for line in read if line["method"] == "gdas"} == {""}
    assert {line["operations"] for line in read if line["of"] == "cell"} == {"6"}


def test_tables_have_the_means_over_searches() -> None:
    by_method, over_all = report(made_rows()).split("\n\n")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in by_method.splitlines()[2:]]
    assert lines[0][:3] == ["darts", "90.00, 91.50", "30"] and set(lines[0][3:]) == {"0.50"}
    assert lines[1][0] == "gdas" and set(lines[1][3:]) == {"-"}
    means = [[cell.strip() for cell in line.split("|")[1:-1]] for line in over_all.splitlines()[2:]]
    assert {tuple(line[3:]) for line in means if line[2] == "all"} == {("0.50",) * 4}
    assert {tuple(line[3:]) for line in means if line[2] == "cell"} == {("0.60",) * 4}


def test_the_figure_has_a_panel_for_each_truth() -> None:
    drawn = draw(made_rows())
    drawn.draw_without_rendering()
    titles = [axes.get_title() for axes in drawn.axes]
    assert titles == [f"{name}, {scale}" for name in TRUTHS for scale in SCALES]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--methods", "evolution"], "--methods: evolution is none that descends a gradient"),
        (["--methods", "darts", "darts"], "--methods: names one of them twice"),
        (["--run", "here"], "--run: is set for each search"),
        (["--csv", "no/such/file.csv"], "--csv: there is no folder no/such"),
    ],
)
def test_wrong_options_are_one_line(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--tabular", "table.csv", *options]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
