"""The layout: which file may import which, and how many files a folder holds."""

import ast
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from search.methods import METHODS

ROOT = Path(__file__).parent.parent
FLOORS = {"base": 0, "ops": 1, "supernet": 2, "training": 3, "search": 4, "retrain": 4, "fusenas": 5}
FILES = [file for package in FLOORS for file in sorted((ROOT / package).rglob("*.py"))]
BENCHMARKS = sorted((ROOT / "benchmarks").rglob("*.py"))
MOST_FILES = 15


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


MODULES = {name_of(file).removesuffix(".py").removesuffix("/__init__").replace("/", "."): file for file in FILES + BENCHMARKS}


def imported(file: Path) -> set[str]:
    """Modules that a file imports anywhere in it, for types alone, too."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            within = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in MODULES else str(node.module) for name in within}
    return names


IMPORTS = {name_of(file): imported(file) for file in FILES + BENCHMARKS}
"""Modules, ours and others, by file."""
GRAPH = {file: {name_of(MODULES[name]) for name in names if name in MODULES} - {file} for file, names in IMPORTS.items()}
"""Files by the files that import them."""


def test_there_is_something_to_test() -> None:
    """Each way of importing a file of ours is found."""
    assert len(GRAPH) > 150 and sum(map(len, GRAPH.values())) > 500
    assert "supernet/__init__.py" in GRAPH["search/api.py"]  # from supernet import Genotype
    assert "search/methods.py" in GRAPH["search/api.py"]  # from search.methods import get_method
    assert "ops/images.py" in GRAPH["ops/__init__.py"]  # from ops import images


@pytest.mark.parametrize("file", [name_of(file) for file in FILES])
def test_an_import_only_goes_down(file: str) -> None:
    """Therefore `base` imports nothing of ours, and `search` and `retrain` never import each other."""
    package = file.partition("/")[0]
    packages = {name.partition(".")[0] for name in IMPORTS[file]}
    assert not [name for name in packages - {package} if FLOORS.get(name, -1) >= FLOORS[package]]
    assert not packages & {"tests", "benchmarks"}


def test_no_files_import_each_other_in_a_circle() -> None:
    try:
        TopologicalSorter(GRAPH).prepare()
    except CycleError as error:
        pytest.fail(" is imported by ".join(error.args[1]))


@pytest.mark.parametrize(("wing", "other"), [("differentiable", "sampling"), ("sampling", "differentiable")])
def test_the_wings_of_search_know_nothing_of_each_other(wing: str, other: str) -> None:
    within = [file for file in GRAPH if file.startswith(f"search/{wing}/")]
    assert within
    wrong = {file: found for file in within if (found := [at for at in GRAPH[file] if at.startswith(f"search/{other}/")])}
    assert not wrong


def may_import_images(file: str) -> bool:
    """The domain of images itself, the tasks on it, reports, and what a user or a benchmark starts."""
    folders = ("training/images/", "training/tasks/", "training/report/", "fusenas/", "benchmarks/")
    commands = ("search/explain/__main__.py", *(f"retrain/{name}.py" for name in ("evaluate", "export", "predict")))
    files = (*commands, "retrain/explain/__main__.py", "retrain/explain/examples.py")
    return file.startswith(folders) or file in files or Path(file).name in ("report.py", "reporting.py", "page.py")


OTHERS = [file for file in GRAPH if not may_import_images(file)]


@pytest.mark.parametrize("file", OTHERS)
def test_only_tasks_reports_and_commands_know_images(file: str) -> None:
    assert not [other for other in GRAPH[file] if other.startswith("training/images/")]


def test_no_folder_holds_too_many_files() -> None:
    commands = {ROOT / "search" / f"{name}.py" for name in METHODS}
    held = Counter(
        name_of(file.parent)
        for folder in (*FLOORS, "benchmarks", "configs", "docs")
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and file not in commands
    )
    assert len(held) > 20
    assert {folder: count for folder, count in held.items() if count > MOST_FILES} == {}
