"""What the README tells a user to do works."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import retrain.__main__ as retrain_main
from benchmarks import nasbench201
from search import relaxations
from search.methods import METHODS, SAMPLING_METHODS, get_method

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
MY_OPERATION, MY_METHOD, MY_SAMPLER, EXAMPLE = (text for language, text in BLOCKS if language == "python")
COMMANDS = [line for language, text in BLOCKS if not language for line in text.splitlines()]
COMMANDS += re.findall(r"`(python -m search\.\w+ --config \w+)`", README)
ALL = (*METHODS, *SAMPLING_METHODS)
PROGRAMS = {f"search.{name}": get_method(name).main for name in ALL} | {"retrain": retrain_main.main}


def test_there_is_something_to_test() -> None:
    assert len(COMMANDS) >= 6 + len(ALL)
    assert all(any(f"search.{name} " in command for command in COMMANDS) for name in ALL)


@pytest.mark.parametrize("command", [line for line in COMMANDS if re.match(r"python -m (search|retrain)\b", line)])
def test_commands_are_accepted(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is read to the end by the program that it names, which prints what it amounts to."""
    _, _, module, *arguments = shlex.split(command)
    with pytest.raises(SystemExit) as end:
        PROGRAMS[module]([*arguments, "--print_config"])
    captured = capsys.readouterr()
    assert end.value.code == 0, captured.err
    assert "seed: 0" in captured.out


BENCHMARK = "python -m benchmarks.nasbench201 "
SEARCHES = [*COMMANDS, *(ROOT / "docs" / "nasbench201.md").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("command", [line for line in SEARCHES if line.startswith(BENCHMARK)])
def test_commands_of_the_benchmark_are_accepted(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as the searches that they would begin."""
    asked: list[tuple[Any, list[str]]] = []
    monkeypatch.setattr(nasbench201, "benchmark", lambda options, through, typed: asked.append((options, through)) or 0)
    assert nasbench201.main(shlex.split(command)[3:]) == 0
    ((options, through),) = asked
    assert options.methods or options.report
    for method in options.methods:
        assert nasbench201.configuration(method, options.tabular, through).space == "nasbench201"


@pytest.mark.parametrize("target", [line.split("#")[0].split()[1] for line in COMMANDS if line.startswith("make")])
def test_make_targets_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_files_that_are_linked_exist() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_python_example_runs() -> None:
    exec(compile(EXAMPLE, "README.md", "exec"), {})


def test_a_users_own_method_searches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relaxations, "_RELAXATIONS", dict(relaxations._RELAXATIONS))
    names: dict[str, Any] = {"__name__": "my_method"}
    exec(compile(MY_METHOD, "my_method.py", "exec"), names)
    small = "--config digits --space nasbench201 --data.limit 64 --batch_size 32 --epochs 1 --channels 2 --cells 1"
    assert names["METHOD"].main([*small.split(), "--eigenvalue_every=0", f"--run={tmp_path / 'run'}"]) == 0
    assert (tmp_path / "run" / "genotype.json").exists()


def test_a_users_own_sampler_searches(tmp_path: Path) -> None:
    names: dict[str, Any] = {"__name__": "my_sampler"}
    exec(compile(MY_SAMPLER, "my_sampler.py", "exec"), names)
    small = "--space nasbench201 --data.limit 64 --batch_size 16 --epochs 1 --channels 2 --cells 1 --evaluations 8 --round 4"
    assert names["METHOD"].main([*small.split(), f"--run={tmp_path / 'run'}"]) == 0
    found = [json.loads(line) for line in (tmp_path / "run" / "evaluations.jsonl").open()]
    assert len(found) == 8
    assert names["METHOD"].main([*small.split(), "--evaluations=12", f"--run={tmp_path / 'longer'}"]) == 0
    assert [json.loads(line) for line in (tmp_path / "longer" / "evaluations.jsonl").open()][:8] == found


def test_a_users_own_operation_searches_and_retrains(tmp_path: Path) -> None:
    (tmp_path / "my_search.py").write_text(MY_OPERATION)
    small = "--data.limit 128 --batch_size 32 --epochs 1 --channels 2 --cells 3"
    found = tmp_path / "run" / "genotype.json"
    module = ["-c", "import my_search, retrain.__main__ as r; raise SystemExit(r.main())"]
    assert module[1] in README
    for command in (
        ["my_search.py", *f"--config digits --space mine {small} --run run".split()],
        [*module, *f"--genotype {found} --config retrain_digits {small} --run retrained".split()],
    ):
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    text = found.read_text()
    assert '"mine"' in text
    assert (tmp_path / "retrained" / "weights.safetensors").exists()
