"""Tests of training/run/profile.py."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from base.checks import InputError
from training.run import profile
from training.run.profile import batches, check, first_recorded, prepare, profiled, span

CPU = torch.device("cpu")


def annotated(path: Path) -> dict[str, int]:
    """How often each named range is in a trace."""
    events = json.loads((path / "trace.json").read_text())["traceEvents"]
    names = [event["name"] for event in events if event.get("cat") == "user_annotation"]
    return {name: names.count(name) for name in names}


def run(path: Path, epochs: int, steps: int, evaluated: int, fails: int | None = None) -> list[str]:
    """Lines of the log of a training that is recorded into `path`."""
    lines: list[str] = []
    with profiled(path, epochs, steps, CPU, lines.append):
        for epoch in range(epochs):
            for step in batches(range(steps), "step"):
                if epoch * steps + step == fails:
                    raise KeyboardInterrupt
                with span("forward"):
                    torch.ones(3).sum()
            for _ in batches(range(evaluated), "evaluation"):
                torch.ones(3).sum()
    return lines


@pytest.mark.parametrize(
    ("epochs", "steps", "evaluated", "first", "found"),
    [
        (2, 100, 3, 5, {"step": 10}),
        (1, 15, 3, 5, {"step": 10}),
        (2, 12, 1, 12, {"step": 10}),  # the next epoch, since 7 steps would be followed by an evaluation
        (1, 12, 20, 5, {"step": 7, "evaluation": 3}),  # there is no other epoch
        (9, 4, 2, 8, {"step": 8, "evaluation": 2}),
        (2, 5, 20, 5, {"step": 5, "evaluation": 5}),
        (1, 3, 2, 1, {"step": 2, "evaluation": 2}),
        (1, 1, 0, 0, {"step": 1}),
    ],
)
def test_some_steps_are_recorded_however_few_there_are(
    epochs: int, steps: int, evaluated: int, first: int, found: dict[str, int], tmp_path: Path
) -> None:
    lines = run(tmp_path, epochs, steps, evaluated)
    ranges = annotated(tmp_path)
    assert first_recorded(epochs, steps) == first
    assert {name: ranges[name] for name in ("step", "evaluation") if name in ranges} == found
    assert ranges["forward"] == found["step"] and ranges["loading"] >= sum(found.values())
    evaluations = f" and {found['evaluation']} batches of evaluations" if "evaluation" in found else ""
    assert lines[0].startswith(f"profile: {found['step']} steps{evaluations} after {first} others, ")
    assert lines[0].endswith(f"in {tmp_path / 'trace.json'}")
    table = {line.removeprefix("profile: ").rsplit(maxsplit=4)[0]: line.split()[-4] for line in lines[2:]}
    assert {name: int(count) for name, count in table.items()} == ranges
    assert profile._profile is None and os.listdir(tmp_path) == ["trace.json"]


def test_the_table_has_the_times_of_the_ranges(tmp_path: Path) -> None:
    lines: list[str] = []
    with profiled(tmp_path, 1, 4, CPU, lines.append):
        for _ in batches(range(4), "step"):
            with span("optimiser of weights"):
                time.sleep(0.05)
    assert lines[1].split() == ["profile:", "range", "calls", "ms", "ms", "a", "call", "share"]
    row = next(line for line in lines if "optimiser of weights" in line)
    calls, ms, each, share = row.removeprefix("profile: optimiser of weights").split()
    assert int(calls) == 2 and 100 <= float(ms) < 1000 and float(each) == pytest.approx(float(ms) / 2, abs=0.06)
    assert 0 < float(share.removesuffix("%")) <= 100


def test_the_log_says_that_nothing_is_recorded(tmp_path: Path) -> None:
    assert run(tmp_path, 0, 10, 0) == ["profile: nothing is recorded, as the run ended before that"]
    assert not list(tmp_path.iterdir())


def test_a_stopped_run_leaves_no_trace_and_no_profiler(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 1, 20, 0, fails=8)
    assert not list(tmp_path.iterdir()) and profile._profile is None
    assert run(tmp_path, 1, 20, 0)[0].startswith("profile: 10 steps after 5 others")


def test_a_trace_that_cannot_be_written_is_an_error_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"nowhere/trace\.json"):
        run(tmp_path / "nowhere", 1, 4, 0)
    assert profile._profile is None


def test_ranges_are_nothing_without_a_recording(tmp_path: Path) -> None:
    assert span("forward") is span("backward")
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        assert list(batches(iter("abc"), "step")) == ["a", "b", "c"]
    assert "step" not in {event.key for event in found.key_averages()}
    with profiled(None, 3, 3, CPU, print):
        assert span("forward") is span("backward")


def test_a_loader_is_asked_no_further_than_batches_are_taken() -> None:
    asked: list[int] = []

    def loader() -> Any:
        for number in range(9):
            asked.append(number)
            yield number

    stream = batches(loader(), "step")
    assert [next(stream), next(stream)] == [0, 1] and asked == [0, 1]


# The directory


def test_a_directory_is_made_and_nothing_in_it_is_touched(tmp_path: Path) -> None:
    prepare(tmp_path / "new" / "deep", tmp_path / "run")
    assert list((tmp_path / "new" / "deep").iterdir()) == []
    (tmp_path / "other.txt").write_text("mine")
    check(tmp_path, tmp_path / "run")
    prepare(tmp_path, tmp_path / "run")
    assert (tmp_path / "other.txt").read_text() == "mine"


@pytest.mark.parametrize("is_link", [False, True])
def test_a_trace_that_is_there_stays(is_link: bool, tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    trace.symlink_to(tmp_path / "elsewhere") if is_link else trace.write_text("mine")
    with pytest.raises(InputError, match=r"holds a trace\.json, which stays as it is; name another directory"):
        check(tmp_path, tmp_path / "run")


def test_a_file_and_the_directory_of_the_run_are_no_place(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file; name a directory"):
        check(tmp_path / "file", tmp_path / "run")
    for path in (tmp_path / "run", tmp_path / "run" / "profile", tmp_path / "x" / ".." / "run"):
        with pytest.raises(InputError, match="is in the directory of the run"):
            check(path, tmp_path / "run")
    with pytest.raises(OSError, match="file/deep"):
        prepare(tmp_path / "file" / "deep", tmp_path / "run")
