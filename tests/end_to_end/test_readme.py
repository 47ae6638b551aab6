"""README's commands for your own images and the Python blocks of README and docs/running.md work; test_docs.py has the rest."""

import re
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

import fusenas.__main__ as fusenas_main
import retrain.evaluate
import retrain.export
import retrain.predict
from fusenas import settings

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
RUNNING = (Path(__file__).parents[2] / "docs" / "running.md").read_text(encoding="utf-8")
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
ONE_CALL, EXAMPLE = PYTHON.findall(README)
(OPEN_AGAIN,) = PYTHON.findall(RUNNING)
OWN_IMAGES = README[README.index("## Your own images") : README.index("## Search, then retrain")]


@pytest.fixture
def little_effort(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves as little work as there can be, in place of minutes of it."""
    quick = settings.BUDGETS["quick"]
    search = replace(quick.search, steps=1, shortest=1, channels=2)
    retraining = replace(quick.retrain, steps=1, shortest=1, channels=2, cells=3)
    monkeypatch.setitem(settings.BUDGETS, "quick", replace(quick, search=search, retrain=retraining))


@pytest.mark.usefixtures("little_effort")
def test_commands_take_a_folder_of_images_to_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, colour in (("cats", "orange"), ("dogs", "grey")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(20):
            Image.new("RGB", (20 + number, 16), colour).save(tmp_path / "photos" / name / f"{number}.png")
    (tmp_path / "new_photos").mkdir()
    Image.new("RGB", (30, 20), "orange").save(tmp_path / "new_photos" / "new.png")
    ours = (retrain.evaluate, retrain.predict, retrain.export)
    programs = {"fusenas": fusenas_main.main, **{module.__name__: module.main for module in ours}}
    commands = [shlex.split(line)[2:] for line in OWN_IMAGES.splitlines() if line.startswith("python -m")]
    assert [module for module, *_ in commands] == list(programs)
    for module, *arguments in commands:
        quick = ["--size=16", "--effort=quick"] if module == "fusenas" else []
        assert programs[module]([*arguments, *quick]) == 0
    assert len((tmp_path / "predicted.csv").read_text().splitlines()) == 2
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
    exec(compile(OPEN_AGAIN, "running.md", "exec"), {})


def test_python_example_runs() -> None:
    exec(compile(EXAMPLE, "README.md", "exec"), {})
