"""Tests of training/run/command.py."""

import contextlib
import errno
import io
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from base.checks import FieldError, InputError
from training.run.command import Stopped, TrainingDiverged, command, resumable, stops_wait
from training.run.monitor import Bar, Monitor

ROOT = Path(__file__).parents[3]
ROOM = "make room"
GOES_ON = "the same --run with --resume goes on"
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
        (OSError(2, "No such file", "\x1b[31mx\n"), 2, "error: \\x1b[31mx : No such file"),
        (KeyboardInterrupt(), 130, "stopped"),
        (Stopped("SIGTERM"), 130, "stopped by SIGTERM"),
    ],
)  # fmt: skip
def test_command_turns_errors_into_one_line(capsys, error, status, line):
    assert command("prog", raising(error)) == status
    assert capsys.readouterr().err == f"prog: {line}\n"


def test_each_command_says_what_needs_less_memory(capsys):
    assert command("prog", raising(MemoryError()), less="a smaller --batch_size") == 2
    assert capsys.readouterr().err == "prog: error: not enough memory; less is needed with a smaller --batch_size\n"


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


def test_the_log_has_the_line_of_wrong_input_and_no_traceback(capsys, tmp_path):
    def main() -> None:
        with Monitor(tmp_path):
            raise InputError("no such image")

    assert command("prog", main) == 2
    assert re.fullmatch(r"\S+ \S+ error: no such image\n", (tmp_path / "log.txt").read_text())
    assert capsys.readouterr().err == "prog: error: no such image\n"


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGHUP")]
)
def test_what_stops_a_program_from_outside_is_one_line(capsys, tmp_path, number, name):
    before = signal.getsignal(number)

    def main() -> None:
        with resumable(), Monitor(tmp_path) as monitor:
            monitor.log("first line")
            os.kill(os.getpid(), number)

    assert command("prog", lambda: os.kill(os.getpid(), number)) == 130
    assert capsys.readouterr().err == f"prog: stopped by {name}\n"
    assert command("prog", main) == 130
    assert capsys.readouterr().err == f"prog: stopped by {name}; {GOES_ON}\n"
    assert re.fullmatch(rf".* first line\n\S+ \S+ stopped by {name}; {GOES_ON}\n", (tmp_path / "log.txt").read_text())
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_on_the_way_out_changes_no_status(number):
    """A terminal that is closed may send more than one."""
    program = (
        "import os, signal, sys\n"
        "from base.program import leave\n"
        "from training.run.command import command\n"
        "number = int(sys.argv[1])\n"
        "signal.signal(number, leave)  # as of a program that is started with -m\n"
        "status = command('prog', lambda: os.kill(os.getpid(), number))\n"
        "os.kill(os.getpid(), number)\n"
        "sys.exit(status + 1)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(number)], capture_output=True, text=True, check=False)
    said = "Ctrl-C" if number == signal.SIGINT else number.name
    assert (done.returncode, done.stdout, done.stderr) == (130, "", f"prog: stopped by {said}\n")


def test_what_is_ignored_from_the_start_stays_so(capsys):
    """As nohup has it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert command("prog", lambda: os.kill(os.getpid(), signal.SIGHUP)) == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert capsys.readouterr() == ("", "")


def test_a_second_signal_does_not_break_into_the_last_line(capsys, monkeypatch):
    def stop_while_speaking(text: str) -> int:
        os.kill(os.getpid(), signal.SIGINT)
        return write(text)

    monkeypatch.setattr(sys, "stderr", io.StringIO())
    write = sys.stderr.write
    monkeypatch.setattr(sys.stderr, "write", stop_while_speaking)
    assert command("prog", raising(Stopped("Ctrl-C"))) == 130
    assert sys.stderr.getvalue() == "prog: stopped by Ctrl-C\n"


def test_a_full_disk_of_a_run_that_can_go_on(capsys):
    def main() -> None:
        with resumable(), resumable():
            raise OSError(28, "No space left on device", "x")

    assert command("prog", main) == 2
    assert capsys.readouterr().err == f"prog: error: x: No space left on device; make room, then {GOES_ON}\n"


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


def test_a_stop_waits_for_the_end_of_a_section(capsys):
    passed: list[str] = []

    def main() -> None:
        with stops_wait():
            os.kill(os.getpid(), signal.SIGTERM)
            passed.append("within")
        passed.append("behind")

    assert command("prog", main) == 130
    assert passed == ["within"]
    assert capsys.readouterr().err == "prog: stopped by SIGTERM\n"


@pytest.mark.parametrize("second", [signal.SIGINT, None])
def test_a_stop_does_not_wait_for_ever(capsys, monkeypatch, second):
    """Two seconds, or until a second one comes."""
    monkeypatch.setattr("training.run.command._LONGEST_HELD", 0.1 if second is None else 30.0)

    def main() -> None:
        with stops_wait():
            os.kill(os.getpid(), signal.SIGTERM)
            if second:
                os.kill(os.getpid(), second)
            time.sleep(20)

    began = time.monotonic()
    assert command("prog", main) == 130
    assert time.monotonic() - began < 5
    assert capsys.readouterr().err == "prog: stopped by SIGTERM\n"
    assert signal.setitimer(signal.ITIMER_REAL, 0) == (0.0, 0.0)  # no alarm is left


# Standard streams


def test_no_text_makes_the_terminal_do_anything(capsys):
    def main() -> None:
        print("\x1b[2J\u202ecat\rdog", "caf\xe9 猫")
        print("\rstep 1\x07", file=sys.stderr)  # a bar goes back to the beginning of its line

    assert command("prog", main) == 0
    assert capsys.readouterr() == ("\\x1b[2J\\u202ecat dog caf\xe9 猫\n", "\rstep 1\\x07\n")


def test_what_the_encoding_lacks_is_shown_escaped(monkeypatch):
    shown = io.BytesIO()
    stream = io.TextIOWrapper(shown, encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert command("prog", lambda: print("0.5±0.1, café, \udcff")) == 0
    assert sys.stdout is stream
    assert shown.getvalue() == b"0.5\\xb10.1, caf\\xe9, \\udcff\n"


class Failing(io.StringIO):
    """A stream that cannot be written."""

    def __init__(self, number: int | None) -> None:
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        if self.number is None:
            raise ValueError("I/O operation on closed file.")
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC, errno.EIO, None])
def test_a_run_goes_on_where_nobody_sees_its_errors(monkeypatch, capsys, number):
    monkeypatch.setattr(sys, "stderr", Failing(number))

    def main() -> None:
        print("a warning", file=sys.stderr)
        sys.stderr.flush()
        print("done")

    assert command("prog", main) == 0
    assert capsys.readouterr().out == "done\n"
    assert command("prog", raising(InputError("x"))) == 2


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO, None])
def test_a_run_stops_where_nobody_reads_its_output(monkeypatch, capsys, tmp_path, number):
    monkeypatch.setattr(sys, "stdout", Failing(number))
    stopped = f"stopped by the end of its output, which nobody reads any more; {GOES_ON}\n"

    def main() -> None:
        with resumable(), Monitor(tmp_path) as monitor:
            try:
                monitor.log("epoch 1")
            finally:
                print("what is said on the way out")  # is lost without a further error

    assert command("prog", main) == 130
    assert capsys.readouterr().err == f"prog: {stopped}"
    first, last = (tmp_path / "log.txt").read_text().splitlines(keepends=True)
    assert first.endswith(" epoch 1\n") and last.endswith(f" {stopped}")


def test_a_program_that_ignores_the_hangup_outlives_its_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Failing(errno.EIO))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert command("prog", lambda: print("epoch 1")) == 0
    finally:
        signal.signal(signal.SIGHUP, before)


def test_output_to_a_full_disk(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Failing(errno.ENOSPC))
    assert command("prog", lambda: print("a result")) == 2
    assert capsys.readouterr().err == "prog: error: standard output: No space left on device; make room\n"


def test_streams_that_were_closed_before_the_start(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)

    def main() -> None:
        print("x")
        with Bar(total=1) as bar:
            bar.advance()
        raise InputError("y")

    assert command("prog", main) == 2
    assert sys.stdout is None and sys.stderr is None


@pytest.mark.slow
def test_a_reader_that_leaves(tmp_path):
    """Nothing of what waits to be written is left to fail at the exit."""
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "from training.run.command import command\n"
        "sys.exit(command('program', lambda: [print('x' * 100) for _ in range(100_000)] and None))\n"
    )
    with subprocess.Popen(
        [sys.executable, program],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "x" * 100 + "\n"
        process.stdout.close()
        assert process.stderr.read() == "program: stopped by the end of its output, which nobody reads any more\n"
    assert process.returncode == 130


def test_a_pipe_that_does_not_wait_is_made_to(monkeypatch):
    """As another program may have left it: 100 lines are more than it holds at once."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    monkeypatch.setattr(sys, "stdout", open(writer, "w"))  # noqa: SIM115
    read: list[bytes] = []

    def read_late() -> None:
        time.sleep(0.2)
        with open(reader, "rb") as file:
            read.append(file.read())

    thread = threading.Thread(target=read_late)
    thread.start()
    status = command("prog", lambda: [print("x" * 4999) for _ in range(100)] and None)
    sys.stdout.close()
    thread.join()
    assert status == 0
    assert read == [(b"x" * 4999 + b"\n") * 100]


@pytest.mark.slow
@pytest.mark.parametrize("typed", [b"\x03", None])
def test_a_terminal_that_is_closed_and_a_key_that_is_typed(tmp_path, typed):
    """A run on a terminal of its own."""
    import pty

    program = tmp_path / "program.py"
    program.write_text(
        "import sys, time\n"
        "from pathlib import Path\n"
        "from training.run.command import command, resumable\n"
        "from training.run.monitor import Monitor\n"
        "def main():\n"
        "    with resumable(), Monitor(Path(sys.argv[1])) as monitor, monitor.bar(1000) as bar:\n"
        "        for epoch in range(1000):\n"
        "            bar.advance()\n"
        "            monitor.log(f'epoch {epoch}')\n"
        "            time.sleep(0.02)\n"
        "sys.exit(command('program', main))\n"
    )
    child, terminal = pty.fork()
    if child == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        os.execve(sys.executable, [sys.executable, program, tmp_path], os.environ | {"PYTHONPATH": str(ROOT)})
    shown = b""
    while b"epoch 3" not in shown:
        shown += os.read(terminal, 4096)
    if typed:
        os.write(terminal, typed)
        with contextlib.suppress(OSError):  # the end of it
            while more := os.read(terminal, 4096):
                shown += more
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 130
    by = "Ctrl-C" if typed else "SIGHUP|the end of its output, which nobody reads any more"
    assert re.search(rf" stopped by ({by}); {GOES_ON}\n$", (tmp_path / "log.txt").read_text())
    assert not typed or f"program: stopped by Ctrl-C; {GOES_ON}\r\n".encode() in shown
