"""The command for machines with a GPU, as far as it goes without one."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.floor import Rates
from benchmarks.gpu_parts import PARTS, Job, difference, smoothed
from supernet.cell import Kernels


@pytest.mark.parametrize("kernels", ["reference", "fused"])
@pytest.mark.parametrize("space", ["darts", "nasbench201"])
def test_the_comparison_with_the_plain_network_holds_on_the_cpu(space: str, kernels: Kernels) -> None:
    found = difference(space, torch.device("cpu"), torch.float64, kernels, channels=2)
    assert 0 <= found.largest < 1e-10 and abs(found.turned) < 1e-12


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_it_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 2
    assert capsys.readouterr().err == "benchmarks.gpu: error: device: 'cuda' cannot be used here; try auto or cpu\n"


@pytest.mark.slow
def test_parts_run_on_and_leave_records_where_one_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "search").write_text("no place for a run")
    parts = ["search", "retrain", "converge"]
    assert gpu.main(["--device", "cpu", "--directory", str(tmp_path), "--only", *parts]) == 1
    verdicts = [line.split() for line in capsys.readouterr().out.splitlines()[-len(parts) :]]
    assert [line[:2] for line in verdicts] == [["search", "FAILED"], *([part, "passed"] for part in parts[1:])]
    for part in parts:
        text = (tmp_path / f"{part}.md").read_text()
        assert text.startswith(f"# {part}\n") and f"torch {torch.__version__}" in text and "`python -m benchmarks.gpu" in text
        assert json.loads((tmp_path / f"{part}.json").read_text())["values"]
    assert all(" ".join(line) in " ".join((tmp_path / "summary.md").read_text().split()) for line in verdicts)


@pytest.mark.slow
def test_a_part_that_raises_is_a_verdict(tmp_path: Path) -> None:
    job = Job("cpu", tmp_path / "absent", None, 1, 1.0, Rates(), "a command")
    verdict = gpu.judge("memory", job)
    assert not verdict.passed and "FileNotFoundError" in verdict.words


def test_each_part_is_told_of() -> None:
    assert gpu.__doc__ is not None and all(part in gpu.__doc__ for part in PARTS)


def test_a_curve_is_smoothed_by_what_came_before() -> None:
    assert smoothed([1.0, 3.0, 5.0, 7.0], 2) == [1, 2, 4, 6]
