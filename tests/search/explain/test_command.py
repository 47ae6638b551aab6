"""Tests of `python -m search.explain` on tables and sampling searches: files, refusals, agreement with the truth."""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import search.random
from search.explain.__main__ import main

OPTIONS = ["--evaluate=table", "--space=nasbench201", "--evaluations=120", "--device=cpu", "--threads=1"]


def files_below(path: Path) -> dict[str, bytes | None]:
    """Returns the content of each file, None for a directory."""
    return {str(entry.relative_to(path)): entry.read_bytes() if entry.is_file() else None for entry in path.rglob("*")}


def write_table(path: Path, operations: tuple[str, ...] = ("none", "skip_connect", "nor_conv_3x3")) -> Path:
    """A table in which the operations on 0 to 3 and on 0 to 1 decide."""
    lines = ["arch,cifar10_test_200,cifar10_valid_200,cifar10_valid_12,params_cifar10,flops_cifar10"]
    for one, two, three, four, five, six in itertools.product(operations, repeat=6):
        score = 50 + 10 * operations.index(four) + 4 * operations.index(one) + 0.5 * operations.index(six)
        lines.append(f"|{one}~0|+|{two}~0|{three}~1|+|{four}~0|{five}~1|{six}~2|,{score},{score},{score},1,1")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with table.csv and the random search in it, run."""
    folder = tmp_path_factory.mktemp("explain")
    table = write_table(folder / "table.csv")
    without = "--exclude=[nor_conv_1x1,avg_pool_3x3]"
    assert search.random.main([*OPTIONS, without, f"--tabular={table}", f"--run={folder / 'run'}"], pictures=False) == 0
    return folder


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


def explain(*arguments: object, pictures: bool = False) -> int:
    return main([*map(str, arguments), "--threads=1", "--device=cpu"], pictures)


def test_a_search_is_explained_in_its_directory(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, place = copied / "run", copied / "run" / "explanation"
    assert explain(run, "--tabular", copied / "table.csv", "--budget=60", pictures=True) == 0
    said = capsys.readouterr().out
    assert said.startswith("60 trees over 11") and f"written: {place / 'explanation.html'}" in said
    numbers = json.loads((place / "explanation.json").read_text())
    for measure in ("score", "rank"):
        found = numbers["measures"][measure]
        assert max(found["total"], key=lambda slot: found["total"][slot]["value"]) == "0 to 3"
        for effect in ("main", "total"):
            for slot, share in found[effect].items():  # of few values, ranks among 112 trials are rough
                assert share["low"] - 0.02 <= found["exact"][effect][slot] <= share["high"] + 0.02, (effect, slot)
        assert found["exact"]["kendall_tau_main"] > 0.5
    score = numbers["measures"]["score"]["main"]["0 to 3"]
    assert score["low"] <= 100 * 2 / 3 / (100 * 2 / 3 + 16 * 2 / 3 + 0.25 * 2 / 3) <= score["high"]
    first = next(motif for motif in numbers["motifs"] if not motif["is_pair"])
    assert first["name"] in ("none on 0 to 3", "nor_conv_3x3 on 0 to 3")
    page = (place / "explanation.html").read_text()
    assert "on cifar10_test_200 of the table" in page and "(--column cifar10_valid_12 has the scores)" in page
    assert "warning: The exact effects are those on cifar10_test_200" in said
    assert "nor_conv_3x3 on 0 to 3" in page and "not draw architectures uniformly" not in page
    # Again: the same numbers, in the place of the old ones.
    before = (place / "explanation.json").read_bytes()
    assert explain(run, "--tabular", copied / "table.csv", "--budget=60", pictures=True) == 0
    assert (place / "explanation.json").read_bytes() == before
    assert len(list(place.glob("events.*"))) == 1
    capsys.readouterr()
    assert explain(run, "--tabular", copied / "table.csv", "--budget=60", "--column=cifar10_valid_12") == 0
    assert "warning: " not in capsys.readouterr().out and "has the scores" not in (place / "explanation.html").read_text()
    # It goes with the run.
    assert search.random.main([*OPTIONS, f"--tabular={copied / 'table.csv'}", "--exclude=[nor_conv_1x1,avg_pool_3x3]",
                               "--seed=1", f"--run={run}", "--overwrite"], pictures=False) == 0  # fmt: skip
    assert not place.exists()


def test_a_table_is_explained_in_a_directory_of_its_own(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = copied / "out"
    command = ["--tabular", copied / "table.csv", "--output", place]
    assert explain(*command) == 0
    numbers = json.loads((place / "explanation.json").read_text())
    assert numbers["measures"]["accuracy"]["shapley"]["0 to 3"] == pytest.approx(100 / 116.25)
    assert "Edge 0 to 3 has the largest part in the accuracy" in capsys.readouterr().out
    before = files_below(place)
    assert explain(*command) == 2
    assert "holds an explanation already; replace it with --overwrite" in capsys.readouterr().err
    assert files_below(place) == before
    assert explain(*command, "--overwrite", "--column=cifar10_valid_12") == 0
    assert json.loads((place / "explanation.json").read_text())["column"] == "cifar10_valid_12"


WRONG: list[tuple[Callable[[Path], list[Any]], str]] = [
    (lambda at: [], "name the directory of a finished search"),
    (lambda at: [at / "nowhere"], "no such directory"),
    (lambda at: [at], "holds no run"),
    (lambda at: [at / "run", "--budget=39"], "39 trees are too few"),
    (lambda at: [at / "run", "--budget=0"], "budget"),
    (lambda at: [at / "run", "--column=cifar10_valid_12"], "name its file with --tabular"),
    (lambda at: [at / "run", "--output", at / "x"], "output: is for a table alone"),
    (lambda at: [at / "run", "--data.size=8"], "reads no images"),
    (lambda at: ["--tabular", at / "table.csv", "--budget=100"], "budget: is for a search"),
    (lambda at: ["--tabular", at / "table.csv", "--output", at / "run"], "no explanation of a table"),
    (lambda at: ["--tabular", at / "table.csv", "--output", at / "table.csv"], "is no directory"),
    (lambda at: ["--tabular", at / "table.csv", "--output", at / "new", "--architecture=730"], "architecture: "),
    (lambda at: ["--tabular", at / "table.csv", "--output", at / "new", "--from=mine"], "from: "),
    (lambda at: [at / "run", "--from=0"], "from: is for a table alone"),
    (lambda at: ["--tabular", at / "absent.csv"], "no such file"),
    (lambda at: ["--tabular", at / "table.csv", "--column=best"], "must be one of cifar10_test_200"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[message for _, message in WRONG])
def test_wrong_input_is_one_line(
    arguments: Callable[[Path], list[Any]], message: str, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_below(copied)
    assert explain(*arguments(copied)) == 2
    line = capsys.readouterr().err
    assert line.startswith("search.explain: error: ") and line.count("\n") == 1 and message in line
    assert files_below(copied) == before


def test_runs_that_cannot_be_explained(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = copied / "run"
    part = write_table(copied / "part.csv", ("none", "skip_connect"))
    assert explain(run, "--tabular", part) == 2
    assert "has 64 of the 729 architectures of the space nasbench201" in capsys.readouterr().err
    (run / "explanation").mkdir()
    assert explain(run) == 2
    assert "none of this run's files; move it away" in capsys.readouterr().err
    (run / "explanation").rmdir()
    lines = (run / "history.jsonl").read_text().splitlines()
    (run / "history.jsonl").write_text("\n".join(lines[:-1]) + "\n")
    assert explain(run) == 2
    assert "is not finished" in (line := capsys.readouterr().err) and "--resume goes on" in line
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("nasbench201", "mine"))
    assert explain(run) == 2
    assert "is known once its file is imported" in capsys.readouterr().err
    assert not (run / "explanation").exists()


def test_too_few_trials(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = [*OPTIONS[:2], "--evaluations=10", "--device=cpu", "--threads=1", f"--tabular={copied / 'table.csv'}"]
    assert search.random.main([*few, "--exclude=[nor_conv_1x1,avg_pool_3x3]", f"--run={copied / 'few'}"], pictures=False) == 0
    assert explain(copied / "few") == 2
    assert "10 different architectures evaluated wholly, and 30 are needed" in capsys.readouterr().err
