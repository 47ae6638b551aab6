"""The package that is built holds what it needs."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("base", "ops", "supernet", "training", "search", "retrain", "fusenas", "configs")
SUFFIXES = {".py", ".yaml", ".css", ".cpp", ".h"}


def test_the_wheel_holds_the_packages_and_the_configs(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    subprocess.run([*build, str(source)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("fusenas-*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    files = [file for name in PACKAGES for file in (ROOT / name).rglob("*") if file.suffix in SUFFIXES]
    assert len(files) > 150 and {file.suffix for file in files} >= {".py", ".yaml"}
    assert {str(file.relative_to(ROOT)) for file in files} <= held
    assert not any(name.startswith(("tests", "benchmarks")) for name in held)
