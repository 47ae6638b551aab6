"""Tests of training/run/repeat.py."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import pytest

from training.run.base import RunConfig
from training.run.config import RunOptions, parse_command_line
from training.run.directory import RunDirectory
from training.run.repeat import Spread, repeat, spread


@dataclass
class Config(RunConfig):
    """A dummy run."""

    width: int = 3
    """Something else."""


def run(config: Config, options: RunOptions) -> dict[str, float]:
    with RunDirectory.open(options.run, config, options.resume, options.overwrite) as directory:
        directory.begin()
        directory.keep()
    found = {"accuracy": 0.5 + config.seed / 10, "parameters": 1500}
    return found | ({"only": 1.0} if config.seed == 0 else {})


def test_each_seed_has_a_directory_and_all_have_a_spread(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run"
    found = repeat(run, Config(), RunOptions(path, False, False, (0, 2, 4)))
    assert found == [Spread("accuracy", (0.5, 0.7, 0.9)), Spread("parameters", (1500, 1500, 1500))]
    assert found[0].mean == pytest.approx(0.7)
    assert found[0].std == pytest.approx(0.2)
    assert "3 seeds: accuracy 0.7000±0.2000; parameters 1,500±0" in capsys.readouterr().out
    content = json.loads((path / "seeds.json").read_text())
    assert content["seeds"] == [0, 2, 4]
    assert [(path / name / "config.yaml").is_file() for name in content["runs"]] == [True] * 3
    assert content["standard_deviation"]["accuracy"] == pytest.approx(0.2)
    assert [values["accuracy"] for values in content["values"]] == [0.5, 0.7, 0.9]


def test_one_seed_has_no_deviation() -> None:
    (alone,) = spread([{"loss": 2.0}])
    assert (alone.std, str(alone)) == (None, "loss 2.0000")


def test_further_seeds_begin_where_others_go_on(tmp_path: Path) -> None:
    path = tmp_path / "run"
    repeat(run, Config(), RunOptions(path, False, False, (0,)))
    seen = []

    def again(config: Config, options: RunOptions) -> dict[str, float]:
        seen.append((options.run.name, options.resume))
        return run(config, options)

    repeat(again, Config(), RunOptions(path, True, False, (0, 1)))
    assert seen == [("seed_0", True), ("seed_1", False)]


def test_nothing_begins_where_a_directory_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "run"
    repeat(run, Config(), RunOptions(path, False, False, (1,)))
    with pytest.raises(ValueError, match=r"seed_1: holds a run already"):
        repeat(run, Config(), RunOptions(path, False, False, (0, 1)))
    assert not (path / "seed_0").exists()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file: is a file; choose another directory with --run"):
        repeat(run, Config(), RunOptions(tmp_path / "file", False, False, (0,)))


def test_what_is_no_run_of_a_seed_stays_alone(tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    run(Config(), RunOptions(alone, False, False))
    with pytest.raises(ValueError, match=r"alone: holds config\.yaml, which is no run of a seed; choose another directory"):
        repeat(run, Config(), RunOptions(alone, False, True, (0,)))
    with pytest.raises(ValueError, match=r"nowhere: nothing to resume"):
        repeat(run, Config(), RunOptions(tmp_path / "nowhere", True, False, (0,)))
    assert not (tmp_path / "nowhere").exists()


def files_below(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_earlier_runs_are_whole_until_a_new_one_is_done(tmp_path: Path) -> None:
    path = tmp_path / "run"
    repeat(run, Config(), RunOptions(path, False, False, (0, 1)))
    before = files_below(path)

    def fail(config: Config, options: RunOptions) -> dict[str, float]:
        raise ValueError("failed")

    with pytest.raises(ValueError, match="failed"):
        repeat(fail, Config(), RunOptions(path, False, True, (0, 1)))
    assert files_below(path) == before

    def fail_later(config: Config, options: RunOptions) -> dict[str, float]:
        return fail(config, options) if config.seed else run(config, options)

    with pytest.raises(ValueError, match="failed"):
        repeat(fail_later, Config(width=4), RunOptions(path, False, True, (0, 1)))
    assert "width: 4" in (path / "seed_0/config.yaml").read_text()
    # The mean of all seeds and the run of the other one were of other settings.
    assert [entry.name for entry in path.iterdir() if entry.name != ".fusenas"] == ["seed_0"]


def test_resumed_without_a_configuration_it_takes_the_saved_one(tmp_path: Path) -> None:
    path = tmp_path / "run"
    repeat(run, Config(width=7), RunOptions(path, False, False, (5, 6)))
    config, options = parse_command_line(Config, ["--seeds", "6,5", "--resume", "--run", str(path)], "prog", "")
    assert config.width == 7
    assert options.seeds == (6, 5)


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        ("0,1,0", "--seeds: 0,1,0 has a seed twice"),
        ("0,,1", "--seeds: must be whole numbers with commas between them, such as 0,1,2, not '0,,1'"),
        ("all", "--seeds: must be whole numbers with commas between them, such as 0,1,2, not 'all'"),
    ],
)
def test_wrong_seeds(seeds: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse_command_line(Config, [f"--seeds={seeds}"], "prog", "")
    assert end.value.code == 2
    assert capsys.readouterr().err == f"prog: error: {message}\n"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_value_that_is_not_finite_has_no_deviation(bad: float) -> None:
    """The mean says what happened; Python's stdev ends in an AttributeError."""
    found = Spread("loss", (0.5, bad))
    assert found.std is None and not math.isfinite(found.mean) and str(found) == f"loss {bad}"


def test_files_of_the_user_in_the_directory_of_a_seed_stay(tmp_path: Path) -> None:
    path = tmp_path / "run"
    repeat(run, Config(), RunOptions(path, False, False, (0, 1)))
    for seed in (0, 1):
        (path / f"seed_{seed}/notes.txt").write_text("mine")
    repeat(run, Config(width=4), RunOptions(path, False, True, (0, 1)))
    for seed in (0, 1):
        assert (path / f"seed_{seed}/notes.txt").read_text() == "mine"
        assert "width: 4" in (path / f"seed_{seed}/config.yaml").read_text()
