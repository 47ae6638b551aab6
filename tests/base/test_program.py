"""Tests of base/program.py: the first seconds of a program."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TORCH = "import os, time\nos.write(1, b'importing\\n')\ntime.sleep(10)\nraise ImportError\n"
PACKAGES = ["benchmarks", "fusenas", "retrain", "search"]
PROGRAMS = ["search.darts", "retrain", "retrain.evaluate", "retrain.export", "fusenas", "benchmarks.demo"]


def start(*arguments: str, folder: Path, **options: object) -> "subprocess.Popen[str]":
    """Starts a program in which `import torch` says so and then takes ten seconds."""
    (folder / "torch").mkdir(exist_ok=True)
    (folder / "torch/__init__.py").write_text(TORCH)
    path = f"{folder}{os.pathsep}{ROOT}"
    return subprocess.Popen(
        [sys.executable, *arguments], env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, cwd=folder, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), **options,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["search.darts", *(pytest.param(name, marks=pytest.mark.slow) for name in PROGRAMS[1:])])
@pytest.mark.parametrize(
    ("number", "said"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGHUP")]
)
def test_a_program_that_is_stopped_while_it_is_imported(name: str, number: signal.Signals, said: str, tmp_path: Path) -> None:
    with start("-m", name, folder=tmp_path) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "importing\n"
        process.send_signal(number)
        assert process.stderr.read() == f"{name}: stopped by {said} before it had begun\n"
    assert process.returncode == 130


@pytest.mark.parametrize(
    "arguments", [["-c", "import search"], pytest.param(["-m", "own.tool", "search.darts"], marks=pytest.mark.slow)]
)
def test_the_program_of_somebody_else_keeps_its_signals(arguments: list[str], tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own/__init__.py").write_text("import search")
    with start(*arguments, folder=tmp_path) as process:
        assert process.stdout is not None and process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGTERM)
    assert process.returncode == -signal.SIGTERM


def test_no_file_takes_the_place_of_a_stream_that_is_closed(tmp_path: Path) -> None:
    """Libraries write to standard error by its number."""
    (tmp_path / "torch.py").write_text("import os\nos.write(1, os.readlink('/proc/self/fd/2').encode())\nos._exit(0)\n")
    done = subprocess.run(
        [sys.executable, "-m", "retrain"], env=os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}, cwd=tmp_path,
        stdout=subprocess.PIPE, preexec_fn=lambda: os.close(2), check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, b"/dev/null")


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_of_programs_begins_with_it(package: str) -> None:
    lines = (ROOT / package / "__init__.py").read_text(encoding="utf-8").splitlines()
    assert next(line for line in lines if line.startswith(("import ", "from "))).startswith("import base.program")


def test_every_program_ends_as_a_command() -> None:
    """Otherwise the answer to signals would stay that of the first seconds."""
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    programs = {file: text for file in files if '\nif __name__ == "__main__":\n' in (text := file.read_text(encoding="utf-8"))}
    assert len(programs) > 30
    assert [str(file) for file, text in programs.items() if "command(" not in text and "main = METHOD.main" not in text] == []
