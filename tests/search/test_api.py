"""Tests of search/api.py and of searches that are repeated."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

import search
from search.differentiable.config import SearchConfig
from search.methods import METHODS, get_method
from supernet import Genotype
from training.images.data import DataConfig

SMALL = SearchConfig(
    epochs=1, channels=2, cells=3, batch_size=32, eigenvalue_every=0, threads=1, device="cpu", data=DataConfig(limit=80)
)
OPTIONS = "--epochs=1 --channels=2 --cells=3 --batch_size=32 --eigenvalue_every=0 --threads=1 --device=cpu --data.limit=80"


@pytest.fixture(scope="module")
def called(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Genotype]:
    """The run directory of a search that was called, and what it found."""
    run = tmp_path_factory.mktemp("called") / "run"
    return run, search.run(SMALL, run=run)


def test_the_call_does_what_the_command_does(called: tuple[Path, Genotype], tmp_path: Path) -> None:
    run, found = called
    assert get_method("darts").main([*OPTIONS.split(), f"--run={tmp_path / 'command'}"]) == 0
    assert found == Genotype.load(tmp_path / "command" / "genotype.json")
    files = [(directory / "history.jsonl").read_text() for directory in (run, tmp_path / "command")]
    assert files[0] == files[1]
    with pytest.raises(ValueError, match="holds a run already"):
        search.run(SMALL, run=run)
    assert search.run(SMALL, run=run, resume=True) == found


def test_a_method_by_name(tmp_path: Path) -> None:
    config = replace(get_method("local").defaults(), evaluate="parameters", evaluations=4, round=2, space="nasbench201")
    config = replace(config, threads=1, device="cpu", data=DataConfig(limit=80))
    assert search.run(config, method="local", run=tmp_path / "run").space == "nasbench201"
    with pytest.raises(ValueError, match=r"^config: search\.local takes a \w+, not a SearchConfig$"):
        search.run(SMALL, method="local", run=tmp_path / "other")
    with pytest.raises(ValueError, match="unknown method 'best'"):
        search.run(SMALL, method="best", run=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_method_of_ones_own_by_name(called: tuple[Path, Genotype], tmp_path: Path) -> None:
    mine = search.DifferentiableMethod("mine", "unpublished", "DARTS on few images", lambda: SMALL)
    with METHODS.temporarily():
        search.register_method(mine)
        assert search.run(method="mine", run=tmp_path / "mine") == called[1]


@pytest.mark.slow
def test_seeds_end_with_mean_and_deviation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert get_method("darts").main([*OPTIONS.split(), "--seeds=0,1", f"--run={tmp_path / 'run'}"]) == 0
    content = json.loads((tmp_path / "run" / "seeds.json").read_text())
    assert "2 seeds: supernet_accuracy" in capsys.readouterr().out
    for seed, values in zip(content["seeds"], content["values"], strict=True):
        last = json.loads((tmp_path / "run" / f"seed_{seed}" / "history.jsonl").read_text().splitlines()[-1])
        assert values == {name: last[name] for name in ("supernet_accuracy", "derived_accuracy")}
    assert get_method("darts").main(["--resume", "--seeds=0,1", f"--run={tmp_path / 'run'}"]) == 0
    assert json.loads((tmp_path / "run" / "seeds.json").read_text()) == content
