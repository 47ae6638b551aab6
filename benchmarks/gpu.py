"""`python -m benchmarks.gpu`: all checks and measurements that need a GPU, in one command.

In the order of their worth, after the one that spares the others their waiting:

- build: the kernels that agree, step and profile start, by all processors at once
- agree: the supernet on kernels against the plain network in float64
- tests: all tests that use a GPU
- step: the table of `benchmarks.search_step`
- profile: kernels by time, with and without a graph
- memory: peak memory of ours and of the plain network
- converge: the loss curves of a search by kernels and by plain torch
- search: a whole search by the clock, on CIFAR-10 with --data
- retrain: the table of `benchmarks.retrain_step`
- methods: a step of every method by its published protocol on NAS-Bench-201

Each part is a process of its own, in a session of its own, which takes none of the others along and
is killed with all its processes once its share of --budget is over. A share is the part's weight
among those of the parts to come, so that the time a part leaves goes to the later ones. A part
leaves its output (PART.log) and records (PART.md, PART.json), which are kept up to date while it
runs. summary.md names all parts, with what they came to in this call or an earlier one in the same
directory; a call with --only does the parts it names and leaves the records of the others.

Exit status: 0 if all parts asked for are done, 1 if one failed, was stopped or did not begin, 2 for
wrong input or no such device, 130 after Ctrl-C or SIGTERM. A goal that is missed is no failure; the
lines count them.
"""

import argparse
import codecs
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
import zipfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from base.checks import InputError
from base.files import write_atomically
from base.texts import one_line
from benchmarks.gpu_parts.processes import MARK, SECONDS, kill
from benchmarks.options import above_zero, add_rates, at_least, command_line, duration, rates_of
from training.run.arguments import Parser
from training.run.command import command

PROG = "benchmarks.gpu"
PARTS = {
    "build": 40,
    "agree": 40,
    "tests": 75,
    "step": 60,
    "profile": 40,
    "memory": 20,
    "converge": 25,
    "search": 45,
    "retrain": 15,
    "methods": 15,
}
"""The parts in the order of their worth, with the weights of their shares."""
LEAST = 25.0
"""Seconds of the smallest share: less would not do for the start of Python and a device."""
MARGIN = 1.0
"""Seconds of the budget for the end of the last part and the summary, and the least to begin one."""
ASKED = 60.0
"""Most seconds to wait for the device to say what it is."""
POLL = 0.05


# one part


@dataclass(frozen=True)
class Ending:
    """The end of a process: its status, None if it was stopped, and the seconds that it took."""

    status: int | None
    seconds: float


def supervise(
    command: Sequence[str], log: Path, seconds: float | None, show: Callable[[str], object], packages: Path | None = None
) -> Ending:
    """Runs a command in a session of its own and shows its output, which also goes to `log`.

    The command finds Python's packages in `packages` first. However it ends, after `seconds`, by
    itself or by an exception here, no process that it has started is left.
    """
    mark, decode = uuid.uuid4().hex, codecs.getincrementaldecoder("utf-8")("replace").decode
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", MARK: mark}
    if packages is not None:
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(packages), os.environ.get("PYTHONPATH")]))
    start = time.monotonic()
    # Not a pipe: a process that cannot be killed would keep it open.
    with open(log, "wb") as output, open(log, "rb") as written:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        try:
            status = process.poll()
            while status is None and (seconds is None or time.monotonic() - start < seconds):
                with suppress(subprocess.TimeoutExpired):
                    status = process.wait(POLL)
                show(decode(written.read()))
        finally:
            kill(process.pid, mark)
            with suppress(subprocess.TimeoutExpired):  # of a process that waits for a broken device for good
                process.wait(SECONDS)
        show(decode(written.read(), final=True))
    return Ending(status, time.monotonic() - start)


@dataclass
class Row:
    """The row of a part in the summary."""

    outcome: str = "not begun"
    """done, failed, stopped, running or not begun."""
    seconds: float = 0.0
    words: str = ""
    call: int | None = None
    """The number of the call that it belongs to."""

    @property
    def ending(self) -> str:
        """Returns the outcome with the time that it took."""
        joined = {"done": "in", "failed": "after", "stopped": "after"}.get(self.outcome)
        return self.outcome if joined is None else f"{self.outcome} {joined} {self.seconds:.0f} s"


def judged(ending: Ending, told: dict[str, Any]) -> Row:
    """Returns the row of a part that has ended so and has told that; empty, if nothing."""
    words = str(told.get("words", ""))
    if "passed" in told:
        return Row("done" if told["passed"] else "failed", ending.seconds, words)
    so_far = f"; so far: {words}" if words else ""
    if ending.status is None:
        return Row("stopped", ending.seconds, so_far.removeprefix("; "))
    cause = f"ended with status {ending.status}"
    if ending.status < 0:
        cause = f"killed by signal {-ending.status} ({signal.strsignal(-ending.status)})"
        cause += ", perhaps for lack of memory" if -ending.status == signal.SIGKILL else ""
    return Row("failed", ending.seconds, f"{cause}{so_far}")


def told_in(path: Path) -> dict[str, Any]:
    """Returns what a part has told; empty if it has not come that far."""
    with suppress(OSError, ValueError):
        told = json.loads(path.read_bytes())
        if isinstance(told, dict):
            return told
    return {}


# all parts


def unpacked(folder: Path, scratch: Path) -> Path:
    """Returns a folder to import the packages of `folder` from: itself, or `scratch` if it holds
    wheels, which are unpacked there.

    Raises InputError if it holds no packages.
    """
    try:
        found = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"--packages: {folder}: {error.strerror}") from error
    wheels = [path for path in found if path.suffix == ".whl"]
    for wheel in wheels:
        try:
            with zipfile.ZipFile(wheel) as archive:
                for member in archive.infolist():
                    path = archive.extract(member, scratch)
                    if member.external_attr >> 16 & 0o100:  # a program, such as an assembler; the module forgets it
                        os.chmod(path, 0o755)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise InputError(f"--packages: {wheel} is damaged, or no wheel ({one_line(error)}); fetch it again") from error
    if not found:
        raise InputError(f"--packages: {folder} is empty; name a folder of wheels or of installed packages")
    return scratch if wheels else folder.absolute()


def share(left: float, name: str, later: Sequence[str]) -> float:
    """Returns the seconds of part `name` among the `left` that it has with the parts after it."""
    part = left * PARTS[name] / sum(PARTS[other] for other in (name, *later))
    return min(left, max(part, LEAST))


class Summary:
    """The outcomes of all parts in a directory, by this call and by those before it."""

    def __init__(self, directory: Path, command: str) -> None:
        self.directory = directory
        self.rows = {name: Row() for name in PARTS}
        self.calls: list[dict[str, str]] = []
        self._read(directory / "summary.json")
        self.calls.append({"command": command, "device": "", "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"})

    def _read(self, path: Path) -> None:
        """Takes over the outcomes of earlier calls. Raises InputError if the file is no summary."""
        try:
            found = json.loads(path.read_bytes())
            calls = [{key: str(call[key]) for key in ("command", "device", "date")} for call in found["calls"]]
            rows = {name: Row(**row) for name, row in found["parts"].items() if name in PARTS}
            if any(row.call is not None and not 0 <= row.call < len(calls) for row in rows.values()):
                raise ValueError
        except FileNotFoundError:
            return
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"--directory: {path} is damaged; remove it, or name another directory") from error
        for name, row in rows.items():
            if row.outcome == "running":  # the call was killed
                row.outcome, row.words = "failed", "killed with the whole command"
            self.rows[name] = row
        self.calls = calls

    def note(self, name: str, row: Row) -> None:
        """Takes the row of this call for a part, and writes the summary."""
        row.call = len(self.calls) - 1
        self.rows[name] = row
        self.write()

    def write(self) -> None:
        """Writes summary.md and summary.json, without the calls that no row is left of."""
        kept = sorted({row.call for row in self.rows.values() if row.call is not None} | {len(self.calls) - 1})
        numbers = {old: new for new, old in enumerate(kept)}
        for row in self.rows.values():
            row.call = None if row.call is None else numbers[row.call]
        self.calls = [self.calls[number] for number in kept]
        lines = ["# Summary", ""]
        for number, call in enumerate(self.calls, 1):
            lines += [f"{number}. {call['command']}, {call['date']}: {call['device']}"]
        lines += ["", "| part | outcome | found | call |", "|---|---|---|---|"]
        for name, row in self.rows.items():
            words = row.words.replace("|", "\\|") or "-"
            lines.append(f"| {name} | {row.ending} | {words} | {'-' if row.call is None else row.call + 1} |")
        found = {"calls": self.calls, "parts": {name: asdict(row) for name, row in self.rows.items()}}
        write_atomically(self.directory / "summary.json", json.dumps(found, indent=1))
        write_atomically(self.directory / "summary.md", "\n".join([*lines, ""]))


@dataclass
class Runner:
    """Runs parts, one after the other."""

    job: dict[str, Any]
    """The settings that all parts have in common."""
    summary: Summary
    deadline: float | None
    """The end of the budget, by `time.monotonic`."""
    outcome: Path
    """The file in which a part tells what it has found."""
    packages: Path | None
    """Folder of Python packages that parts find first."""
    show: Callable[[str], object]

    @property
    def left(self) -> float | None:
        """Returns the seconds that are left of the budget."""
        return None if self.deadline is None else self.deadline - time.monotonic()

    def run(self, name: str, log: Path, seconds: float | None) -> tuple[Ending, dict[str, Any]]:
        """Runs a part; returns how it ended, and what it told."""
        self.outcome.unlink(missing_ok=True)
        job = {**self.job, "outcome": str(self.outcome), "seconds": seconds, "begun": time.time(), "parent": os.getpid()}
        command = [sys.executable, "-m", "benchmarks.gpu_parts", name, json.dumps(job)]
        ending = supervise(command, log, seconds, self.show, self.packages)
        return ending, told_in(self.outcome)

    def ask_device(self) -> str:
        """Returns the header of the device. Raises InputError if there is no such device."""
        seconds = ASKED if self.left is None else min(ASKED, self.left / 3)
        with tempfile.TemporaryDirectory() as scratch:
            log = Path(scratch) / "device.log"
            ending, told = self.run("device", log, seconds)
        if told.get("is_input"):
            raise InputError(told["words"])
        if told.get("passed"):
            return str(told["words"])
        row = judged(ending, told)
        return f"device {self.job['device']} not known ({row.ending}{f': {row.words}' if row.words else ''})"

    def run_part(self, name: str, later: Sequence[str]) -> None:
        """Runs a part within its share and notes the outcome."""
        left = self.left
        if left is not None and left < 2 * MARGIN:
            return
        seconds = None if left is None else share(left - MARGIN, name, later)
        self.show(f"== {name}{'' if seconds is None else f', at most {seconds:.0f} s'}\n")
        directory = self.summary.directory
        for kind in ("md", "json"):
            (directory / f"{name}.{kind}").unlink(missing_ok=True)  # of an earlier call
        self.summary.note(name, Row("running"))
        start = time.monotonic()
        try:
            ending, told = self.run(name, directory / f"{name}.log", seconds)
        except BaseException as error:
            words = "interrupted" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {one_line(error)}"
            so_far = told_in(self.outcome).get("words")
            words += f"; so far: {so_far}" if so_far else ""
            self.summary.note(name, Row("stopped", time.monotonic() - start, words))
            raise
        self.summary.note(name, judged(ending, told))


class Interrupts:
    """Takes Ctrl-C, SIGTERM and the end of the terminal while it is entered, and says whether one
    has come.

    It is asked where a part can be ended: an exception of the signal itself could fall between the
    start of a process and the knowledge of it, or into the writing of a summary.
    """

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Self:
        numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        kept = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]  # as nohup has it
        self._before = {number: signal.signal(number, self._ask) for number in kept}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: object) -> None:
        self.asked = True

    def show(self, text: str) -> None:
        """Prints the output of a part as it comes. Raises KeyboardInterrupt once one has come."""
        if text:
            print(text, end="", flush=True)
        if self.asked:
            raise KeyboardInterrupt


def options_of(argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the options. Raises InputError for wrong ones."""
    parser = Parser(prog=PROG, description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 ... (cpu tries the command itself, in small)")
    parser.add_argument("--budget", type=duration, metavar="DURATION", help="time for all, as 90s, 5m or 1h30m (no limit)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--directory", type=Path, default=Path("runs/gpu"), help="where the records go")
    parser.add_argument("--packages", type=Path, metavar="FOLDER", help="wheels, or installed packages, that are missing here")
    parser.add_argument("--data", help="folder above cifar-10-batches-py; without it there are random images")
    parser.add_argument("--epochs", type=at_least(1), default=50, help="of the whole search")
    parser.add_argument(
        "--compile-limit", type=above_zero, metavar="SECONDS", help="time torch.compile, too, if it takes no longer"
    )
    add_rates(parser)
    given = list(sys.argv[1:] if argv is None else argv)
    # argparse takes -3m for an option.
    for at in [at for at, text in enumerate(given[:-1]) if text == "--budget"][::-1]:
        given[at : at + 2] = [f"--budget={given[at + 1]}"]
    return parser.parse_args(given)


def run(argv: Sequence[str] | None) -> int:
    """Runs the command and returns the exit status. Raises InputError and OSError."""
    start = time.monotonic()
    options = options_of(argv)
    if options.data is not None and not (Path(options.data) / "cifar-10-batches-py").is_dir():
        raise InputError(f"--data: there is no folder cifar-10-batches-py in {options.data}")
    options.directory.mkdir(parents=True, exist_ok=True)
    summary = Summary(options.directory.absolute(), command_line(PROG, argv))
    job = {
        "device": options.device,
        "directory": str(summary.directory),
        "data": options.data,
        "epochs": options.epochs,
        "compile_limit": options.compile_limit,
        "rates": asdict(rates_of(options)),
        "command": command_line(PROG, argv),
    }
    names = [name for name in PARTS if name in options.only]
    deadline = None if options.budget is None else start + options.budget
    with tempfile.TemporaryDirectory() as scratch, Interrupts() as interrupts:
        packages = None if options.packages is None else unpacked(options.packages, Path(scratch) / "packages")
        runner = Runner(job, summary, deadline, Path(scratch) / "outcome.json", packages, interrupts.show)
        with suppress(KeyboardInterrupt):
            summary.calls[-1]["device"] = runner.ask_device()
            print(summary.calls[-1]["device"], flush=True)
            for number, name in enumerate(names):
                runner.run_part(name, names[number + 1 :])
        summary.write()
    taken = f"{time.monotonic() - start:.0f} s"
    print(f"\n{taken}{'' if options.budget is None else f' of {options.budget:.0f} s'}; {options.directory / 'summary.md'}")
    for name, row in summary.rows.items():
        print(f"{name:9}{row.ending}{f': {row.words}' if row.words else ''}")
    last = len(summary.calls) - 1
    done = all(summary.rows[name].outcome == "done" and summary.rows[name].call == last for name in names)
    return 130 if interrupts.asked else int(not done)


def main(argv: Sequence[str] | None = None) -> int:
    try:
        return run(argv)
    except InputError as error:
        message = one_line(error)
    except OSError as error:
        message = one_line(f"{error.filename}: {error.strerror}" if error.filename else error)
    print(f"{PROG}: error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(command(PROG, main))
