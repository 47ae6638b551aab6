"""What the README tells a user to do works."""

import json
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

import fusenas.__main__ as fusenas_main
import retrain.__main__ as retrain_main
import retrain.evaluate
import retrain.export
from benchmarks import nasbench201
from fusenas import settings
from search.differentiable.relaxations import RELAXATIONS
from search.methods import METHODS, SAMPLING_METHODS, get_method

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.DOTALL | re.MULTILINE)
ONE_CALL, MY_OPERATION, MY_METHOD, MY_SAMPLER, EXAMPLE = (text for language, text in BLOCKS if language == "python")
COMMANDS = [line for language, text in BLOCKS if not language for line in text.splitlines()]
COMMANDS += re.findall(r"`(python -m search\.\w+ --config \w+)`", README)
ALL = (*METHODS, *SAMPLING_METHODS)
PROGRAMS = {f"search.{name}": get_method(name).main for name in ALL}
PROGRAMS |= {"retrain": retrain_main.main, "fusenas": fusenas_main.main}
OWN_IMAGES = README[README.index("## Your own images") : README.index("## A quick tour")]


def test_there_is_something_to_test() -> None:
    assert len(COMMANDS) >= 6 + len(ALL)
    assert all(any(f"search.{name} " in command for command in COMMANDS) for name in ALL)


@pytest.mark.parametrize("command", [line for line in COMMANDS if re.match(r"python -m (search\.\w+|retrain|fusenas) ", line)])
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


@pytest.fixture
def little_effort(monkeypatch: pytest.MonkeyPatch) -> None:
    """As little work as there can be, in place of minutes of it."""
    quick = settings._BUDGETS["quick"]
    search = replace(quick.search, steps=1, shortest=1, channels=2)
    retraining = replace(quick.retrain, steps=1, shortest=1, channels=2, cells=3)
    monkeypatch.setitem(settings._BUDGETS, "quick", replace(quick, search=search, retrain=retraining))


@pytest.mark.usefixtures("little_effort")
def test_commands_take_a_folder_of_images_to_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, colour in (("cats", "orange"), ("dogs", "grey")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (20 + number, 16), colour).save(tmp_path / "photos" / name / f"{number}.png")
    programs = PROGRAMS | {"retrain.evaluate": retrain.evaluate.main, "retrain.export": retrain.export.main}
    commands = [shlex.split(line)[2:] for line in OWN_IMAGES.splitlines() if line.startswith("python -m")]
    assert [module for module, *_ in commands] == ["fusenas", "retrain.evaluate", "retrain.export"]
    for module, *arguments in commands:
        quick = ["--size=16", "--effort=quick"] if module == "fusenas" else []
        assert programs[module]([*arguments, *quick]) == 0
    for file in ("report.html", "evaluation.json", "export/model.pt2", "export/model.onnx"):
        assert (tmp_path / "runs" / "photos" / "retrain" / file).is_file()


@pytest.mark.usefixtures("little_effort")
def test_calls_take_arrays_to_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    smaller = {"epochs=2": "epochs=1", 'DataConfig("digits")': 'DataConfig("digits", limit=150)', "= load_digits()": "= few()"}
    text = ONE_CALL
    for asked, little in smaller.items():
        assert asked in text
        text = text.replace(asked, little)

    def few() -> Any:
        from sklearn.datasets import load_digits

        digits = load_digits()
        return SimpleNamespace(images=digits.images[:200], target=digits.target[:200])

    exec(compile(text, "README.md", "exec"), {"few": few})
    assert (tmp_path / "runs" / "mine" / "retrain" / "weights.safetensors").is_file()
    assert (tmp_path / "runs" / "trained" / "weights.safetensors").is_file()


def test_python_example_runs() -> None:
    exec(compile(EXAMPLE, "README.md", "exec"), {})


def test_a_users_own_method_searches(tmp_path: Path) -> None:
    names: dict[str, Any] = {"__name__": "my_method"}
    small = "--config digits --space nasbench201 --data.limit 64 --batch_size 32 --epochs 1 --channels 2 --cells 1"
    with RELAXATIONS.temporarily():
        exec(compile(MY_METHOD, "my_method.py", "exec"), names)
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
