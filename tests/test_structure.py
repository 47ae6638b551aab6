"""The floors, and the package that is built."""

import ast
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = {"base": 0, "ops": 1, "supernet": 2, "training": 3, "search": 4, "retrain": 4, "fusenas": 5}
FILES = [file for package in FLOORS for file in sorted((ROOT / package).rglob("*.py"))]


def imported(file: Path) -> set[str]:
    """Top-level packages that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            names.add(node.module or "")
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("file", FILES, ids=[str(file.relative_to(ROOT)) for file in FILES])
def test_an_import_only_goes_down(file: Path) -> None:
    package = file.relative_to(ROOT).parts[0]
    wrong = [name for name in imported(file) if name != package and FLOORS.get(name, -1) >= FLOORS[package]]
    assert not wrong and not imported(file) & {"tests", "benchmarks"}


def test_the_wheel_holds_the_packages_and_the_configs(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in (*FLOORS, "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    subprocess.run([*build, str(source)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("fusenas-*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    expected = {str(file.relative_to(ROOT)) for file in FILES} | {
        str(file.relative_to(ROOT)) for file in (ROOT / "configs").rglob("*.yaml")
    }
    assert expected and expected <= held
    assert not any(name.startswith(("tests", "benchmarks")) for name in held)
