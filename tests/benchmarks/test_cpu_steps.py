"""The table of steps on a CPU."""

import re
from types import SimpleNamespace

import pytest
import torch

from base.checks import InputError
from benchmarks import cpu_steps

SMALL = ["--channels", "4", "--cells", "3", "--batch", "4", "--size", "8", "--runs", "1"]


@pytest.mark.slow
def test_every_step_is_timed_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    assert cpu_steps.main(SMALL) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| ")]
    assert [row[0] for row in rows] == ["step", *cpu_steps.METHODS, "retraining"]
    assert all(float(cell) > 0 for row in rows[1:] for cell in row[1:])
    goals = [line for line in lines if line.startswith("- goal: ")]
    assert len(goals) == len(rows) - 1 and not any("not measured" in line for line in goals)


@pytest.mark.slow
def test_every_lever_is_timed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_steps.search_step, "CPU_SIZES", [(4, 3, 4, 8, 1), (8, 3, 4, 8, 3), (16, 3, 4, 8, 3)])
    assert cpu_steps.main(["--levers", "--runs", "1"]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| with") or "| all" in line]
    assert len(rows) == 2 * len(cpu_steps.LEVERS) and all(float(row[1]) > 0 for row in rows)


@pytest.mark.slow
def test_one_thread_and_two_are_timed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_steps.search_step, "CPU_SIZES", [(4, 3, 4, 8, 1), (8, 3, 4, 8, 3)])
    counts: list[int] = []
    run = cpu_steps.run_for
    monkeypatch.setattr(cpu_steps, "run_for", lambda step, _: (counts.append(torch.get_num_threads()), run(step, 0))[1])
    before = torch.get_num_threads()
    try:
        assert cpu_steps.main(["--scaling", "--runs", "2"]) == 0
    finally:
        torch.set_num_threads(before)
    assert counts == 2 * 2 * [1, 1, 2, 2], "each time is taken of a step that is warm"
    said = capsys.readouterr().out
    found = re.findall(r"^(C=.*): ([\d.]+) ms with one thread, ([\d.]+) with two; pairs from ([\d.]+) to ([\d.]+)$", said, re.M)
    assert [name for name, *_ in found] == ["C=4, 3 cells, batch 4, 8x8x1", "C=8, 3 cells, batch 4, 8x8x3"]
    values = re.findall(r"^- goal: 1\.5 times as fast .* measured: ([\d.]+), (?:not )?met$", said, re.M)
    for (_, one, two, low, high), value in zip(found, values, strict=True):
        assert float(one) > 0 and float(two) > 0 and float(low) <= float(value) <= float(high)


def test_a_step_runs_once_at_least_and_for_as_long_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(cpu_steps, "time", SimpleNamespace(perf_counter=lambda: now[0]))

    def step() -> None:
        now[0] += 2

    assert cpu_steps.run_for(step, 0) == 2 and now[0] == 2
    assert cpu_steps.run_for(step, 5) == 2 and now[0] == 2 + 6


@pytest.mark.parametrize(("mode", "unread"), cpu_steps.UNREAD.items())
def test_what_a_mode_does_not_read_is_refused(mode: str, unread: tuple[str, ...]) -> None:
    for name in unread:
        with pytest.raises(InputError, match=f"^--{mode}: has its own; leave out --{name}$"):
            cpu_steps.main([f"--{mode}", f"--{name}", "8"])
