"""Tests of training/run/command.py."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from base.checks import FieldError, InputError
from training.run.command import TrainingDiverged, command
from training.run.monitor import Monitor

ROOT = Path(__file__).parents[3]
ROOM = "make room, then the same --run with --resume goes on from the last checkpoint"
LESS = "less is needed with recompute cells, or smaller channels, cells, batch_size or data.limit"
DIED = "a process that reads images has died, perhaps for lack of memory; try fewer, with data.workers"


def raising(error: BaseException):
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InputError("epochs: must be\n  positive"), 2, "error: epochs: must be positive"),
        (FieldError("epochs", "must be positive"), 2, "error: epochs: must be positive"),
        (OSError(28, "No space left on device", "x/1.pt"), 2, f"error: x/1.pt: No space left on device; {ROOM}"),
        (OSError(28, "No space left on device"), 2, f"error: No space left on device; {ROOM}"),
        (OSError(13, "Permission denied", "x"), 2, "error: x: Permission denied"),
        (MemoryError(), 2, f"error: not enough memory; {LESS}"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"), 2, f"error: not enough memory; {LESS}"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), 2, f"error: not enough memory; {LESS}"),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), 2, f"error: {DIED}"),
        (OSError("damaged\narchive"), 2, "error: damaged archive"),
        (TrainingDiverged("step 3: the loss is NaN"), 1, "error: step 3: the loss is NaN"),
        (KeyboardInterrupt(), 130, "stopped; the same --run with --resume goes on from the last checkpoint"),
    ],
)  # fmt: skip
def test_command_turns_errors_into_one_line(capsys, error, status, line):
    assert command("prog", raising(error)) == status
    assert capsys.readouterr().err == f"prog: {line}\n"


def test_command_lets_the_rest_through(capsys):
    assert command("prog", lambda: None) == 0
    with pytest.raises(SystemExit, match="0"):
        command("prog", raising(SystemExit(0)))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", [ValueError, RuntimeError, KeyError, AssertionError])
def test_a_mistake_of_ours_is_not_called_wrong_input(capsys, kind):
    assert command("prog", raising(kind("shapes\ndiffer"))) == 1
    line = capsys.readouterr().err
    assert line.startswith(f"prog: error: internal error: {kind.__name__}: ") and line.count("\n") == 1
    assert re.search(r"; raised in \S*test_command\.py, line \d+, main, while no run was open to log more\n$", line)


def test_a_mistake_of_ours_in_a_process_that_reads_images_is_not_its_death(capsys):
    error = RuntimeError("Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback: shapes differ")
    assert command("prog", raising(error)) == 1
    assert ": internal error: RuntimeError: Caught RuntimeError in DataLoader worker process 0." in capsys.readouterr().err


def test_the_traceback_of_a_mistake_of_ours_is_in_the_log_of_the_run(capsys, tmp_path):
    def main() -> None:
        with Monitor(tmp_path) as monitor:
            monitor.log("first line")
            raise ValueError("shapes differ")

    assert command("prog", main) == 1
    assert capsys.readouterr().err == (
        f"prog: error: internal error: ValueError: shapes differ; its traceback is in {tmp_path / 'log.txt'}\n"
    )
    log = (tmp_path / "log.txt").read_text()
    assert "first line\nTraceback (most recent call last):\n" in log
    assert log.endswith('in main\n    raise ValueError("shapes differ")\nValueError: shapes differ\n')


def test_the_log_has_no_traceback_of_wrong_input(capsys, tmp_path):
    def main() -> None:
        with Monitor(tmp_path):
            raise InputError("no such image")

    assert command("prog", main) == 2
    assert (tmp_path / "log.txt").read_text() == ""
    assert capsys.readouterr().err == "prog: error: no such image\n"


def test_command_takes_sigterm_for_ctrl_c(capsys):
    before = signal.getsignal(signal.SIGTERM)
    assert command("prog", lambda: os.kill(os.getpid(), signal.SIGTERM)) == 130
    assert "--resume" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is before


def test_command_works_in_a_thread():
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(command("prog", raising(InputError("x")))))
    thread.start()
    thread.join()
    assert statuses == [2]


def test_as_a_program(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from dataclasses import dataclass\n"
        "from training.run.command import command\n"
        "from training.run.config import parse_command_line\n"
        "@dataclass\n"
        "class Schema:\n"
        '    """A schema."""\n'
        "    epochs: int = 1\n"
        '    """Number of epochs."""\n'
        "sys.exit(command('program', lambda: print(parse_command_line(Schema, None, 'program', 'It runs.')[0])))\n"
    )

    def run(*argv: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, str(program), *argv], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
        )
        return done.returncode, done.stdout, done.stderr

    assert run("--epochs", "3") == (0, "Schema(epochs=3)\n", "")
    assert run("--epochs", "x") == (2, "", "program: error: epochs: must be a whole number, not x\n")
