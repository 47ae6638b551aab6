"""The table of steps that compute cells again."""

import pytest

from benchmarks import recompute

SMALL = ["--channels", "4", "--cells", "5", "--batch", "2", "--size", "16", "--runs", "1", "--threads", "1"]


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["auto", "reference"])
def test_both_steps_are_measured_without_and_with_it(kernels: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert recompute.main([*SMALL, "--kernels", kernels]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")][1:]
    assert [row[:2] for row in rows] == [[step, each] for step in ("search", "retraining") for each in ("none", "cells")]
    assert all(float(cell) > 0 for row in rows for cell in row[2:5])
    assert all(row[5].isdigit() == (kernels == "reference") for row in rows), "compiled kernels hide their tensors"
    kept = [float(row[4]) for row in rows]
    assert kept[1] < 0.6 * kept[0] and kept[3] < 0.5 * kept[2], "most layers of a larger network are computed again"
    assert sum(line.startswith("- goal: ") and "not measured" not in line for line in lines) == 4
    assert [line for line in lines if "bits" in line] == [
        "- search, two steps: the same bits",
        "- retraining, two steps: the same bits",
    ]


def test_a_genotype_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert recompute.main(["--genotype", "nothing"]) == 2
    assert capsys.readouterr().err.startswith("benchmarks.recompute: error: ")
