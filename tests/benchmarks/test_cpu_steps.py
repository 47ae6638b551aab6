"""The table of steps on a CPU."""

import pytest
import torch

from benchmarks import cpu_steps

SMALL = ["--channels", "4", "--cells", "3", "--batch", "4", "--size", "8", "--runs", "1"]


@pytest.mark.slow
def test_every_step_is_timed_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.get_num_threads()
    try:
        assert cpu_steps.main(SMALL) == 0
    finally:
        torch.set_num_threads(before)
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]
    assert [row[0] for row in rows] == ["step", *cpu_steps.METHODS, "retraining"]
    assert all(float(cell) > 0 for row in rows[1:] for cell in row[1:])
    goals = [line for line in lines if line.startswith("- goal: ")]
    assert len(goals) == len(rows) and not any("not measured" in line for line in goals)


@pytest.mark.slow
def test_every_lever_is_timed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_steps.search_step, "CPU_SIZES", [(4, 3, 4, 8, 1), (8, 3, 4, 8, 3), (16, 3, 4, 8, 3)])
    assert cpu_steps.main(["--levers", "--runs", "1"]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| with") or "| all" in line]
    assert len(rows) == 2 * len(cpu_steps.LEVERS) and all(float(row[1]) > 0 for row in rows)


def test_levers_have_networks_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cpu_steps.main(["--levers", "--channels", "4", "--size", "8"])
    assert end.value.code == 2
    assert capsys.readouterr().err.endswith("measures two given networks; leave out --channels, --size\n")
