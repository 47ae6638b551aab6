"""Runs the two commands with input that is wrong."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import retrain.__main__
import search.darts

ROOT = Path(__file__).parents[2]
SIZE = ["--channels=2", "--epochs=2", "--batch_size=16", "--data.limit=64", "--threads=1"]
# Short runs in which nothing is wrong: what is wrong stands behind these.
GIVEN = {
    "search.darts": ["--config", "digits", "--space=nasbench201", "--cells=1", "--eigenvalue_every=0", *SIZE],
    "retrain": ["--config", "retrain_digits", "--genotype=DARTS_V2", "--cells=3", *SIZE],
}
MAIN = {"search.darts": search.darts.main, "retrain": retrain.__main__.main}


def files_below(path: Path) -> dict[str, bytes | str | None]:
    """Returns the content of each file, link and directory."""

    def content(entry: Path) -> bytes | str | None:
        if entry.is_symlink():
            return os.readlink(entry)
        return entry.read_bytes() if entry.is_file() else None

    return {str(entry.relative_to(path)): content(entry) for entry in path.rglob("*")}


def run_command(command: str, *argv: str) -> int | str | None:
    """The exit status."""
    try:
        return MAIN[command]([*GIVEN[command], *argv])
    except SystemExit as stopped:
        return stopped.code


def line_said(command: str, err: str) -> str:
    """The message on stderr, which is one line."""
    line, end, rest = err.partition("\n")
    assert (end, rest) == ("\n", ""), err
    assert line.startswith(f"{command}: error: ") and "Traceback" not in line
    assert len(line) < 700
    return line.removeprefix(f"{command}: error: ")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory to be in."""
    path = tmp_path / "here"
    path.mkdir()
    monkeypatch.chdir(path)
    return path


@pytest.fixture
def files() -> Callable[[Path], dict[str, bytes | str | None]]:
    return files_below


@pytest.fixture
def run() -> Callable[..., int | str | None]:
    return run_command


@pytest.fixture
def refuse(here: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that has to fail as it should, with no file changed unless `may_write`; returns what it says."""

    def fail(command: str, *argv: str, may_write: bool = False) -> str:
        before = files_below(here)
        capsys.readouterr()
        assert run_command(command, *argv) == 2
        assert may_write or files_below(here) == before
        return line_said(command, capsys.readouterr().err)

    return fail


@pytest.fixture
def refuse_program() -> Callable[..., str]:
    """The same in a process of its own. `limits`: Python to run in it first; `begins`: the run has said something before."""

    def fail(command: str, *argv: str, limits: str = "", begins: bool = False) -> str:
        code = f"import resource, runpy; {limits}\nrunpy.run_module({command!r}, run_name='__main__', alter_sys=True)"
        start = [sys.executable, "-c", code] if limits else [sys.executable, "-m", command]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run([*start, *GIVEN[command], *argv], env=environment, capture_output=True, text=True, check=False)
        assert (done.returncode, bool(done.stdout)) == (2, begins), done.stderr
        return line_said(command, done.stderr)

    return fail


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The directory of a whole run of each command, and of others, "other search.darts", with another seed."""
    paths = {}
    for command in MAIN:
        for name, seed in ((command, 0), (f"other {command}", 1)):
            paths[name] = tmp_path_factory.mktemp("runs") / "run"
            assert run_command(command, "--run", str(paths[name]), f"--seed={seed}") == 0
    return paths
