"""The command for machines with a GPU, as far as it goes without one."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from base.checks import InputError
from benchmarks import gpu
from benchmarks.gpu import LEAST, PARTS, Ending, Row, Summary, judged, share, supervise, unpacked
from benchmarks.gpu_parts.__main__ import reason
from benchmarks.gpu_parts.agree import difference
from benchmarks.gpu_parts.converge import smoothed
from ops.kernels.launch import triton
from supernet.cell import Kernels

ROOT = Path(__file__).parents[2]


def python(code: str) -> list[str]:
    """Returns the command that runs the code."""
    return [sys.executable, "-c", code]


@contextlib.contextmanager
def started(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Starts the command in a session of its own, and leaves nothing of it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "0", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=partial(signal.signal, signal.SIGHUP, signal.SIG_DFL),  # nohup's children would ignore it
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def is_alive(process: int) -> bool:
    """Says whether a process runs; one that has ended and that nobody has waited for does not."""
    with contextlib.suppress(OSError):
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    return False


def gone(processes: list[int], seconds: float = 60.0) -> bool:
    """Says whether the processes have ended, once they have, or after so many seconds."""
    end = time.monotonic() + seconds
    while (alive := any(map(is_alive, processes))) and time.monotonic() < end:
        time.sleep(0.05)
    return not alive


def child_of(process: int) -> int:
    """Returns the child of a process, as soon as there is one."""
    path, end = Path(f"/proc/{process}/task/{process}/children"), time.monotonic() + 60
    while not (found := path.read_text().split()):
        assert time.monotonic() < end
    return int(found[0])


# the parts


@pytest.mark.parametrize("kernels", ["reference", "fused"])
@pytest.mark.parametrize("space", ["darts", "nasbench201"])
def test_the_comparison_with_the_plain_network_holds_on_the_cpu(space: str, kernels: Kernels) -> None:
    found = difference(space, torch.device("cpu"), torch.float64, kernels, channels=2)
    assert 0 <= found.largest < 1e-10 and abs(found.turned) < 1e-12


def test_a_curve_is_smoothed_by_what_came_before() -> None:
    assert smoothed([1.0, 3.0, 5.0, 7.0], 2) == [1, 2, 4, 6]


def test_each_part_is_told_of_and_has_its_file() -> None:
    assert gpu.__doc__ is not None and all(f"- {part}: " in gpu.__doc__ for part in PARTS)
    assert all((ROOT / "benchmarks" / "gpu_parts" / f"{part}.py").is_file() for part in PARTS)


BUILD_THEN_LAUNCH = """
import os, torch
from triton.runtime import driver
from benchmarks import aot
from ops.kernels.launch import recording

class Driver:
    get_current_device = lambda self: 0
    get_current_stream = lambda self, device: 0
    get_current_target = lambda self: aot.target(aot.CAPABILITY)

found = []
for name, call in aot.calls(16, torch.bfloat16):
    if name in ("mix_sums", "collect"):
        with recording() as launches:
            call()
        found += launches
for launched in found:
    aot.compiled(aot.specialise(launched))
print(*sorted(os.listdir(os.environ["TRITON_CACHE_DIR"])))
driver.set_active(Driver())
for one in found:
    one.kernel.run(*one.arguments, grid=one.grid, warmup=True, num_warps=one.warps, **one.constants)
print(*sorted(os.listdir(os.environ["TRITON_CACHE_DIR"])))
"""


@pytest.mark.slow
@pytest.mark.skipif(triton is None, reason="needs Triton")
def test_a_launch_finds_in_tritons_cache_what_was_built_beforehand(tmp_path: Path) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(python(BUILD_THEN_LAUNCH), cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    built, launched = done.stdout.splitlines()
    assert len(built.split()) >= 2 and launched == built


TESTS = """
import pytest

@pytest.mark.parametrize("number", range(3))
def test_a_number(number):
    assert number != 1, "one | is wrong"

@pytest.fixture
def broken():
    raise RuntimeError("no fixture")

def test_with_a_fixture(broken):
    pass

def test_that_is_skipped():
    pytest.skip("not here")
"""


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["-n", "2"]])
def test_tests_are_counted_and_failures_named_while_they_run(options: list[str], tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    settings = {"device": "cpu", "directory": str(tmp_path), "outcome": str(tmp_path / "told"), "data": None, "epochs": 1}
    settings |= {"compile_limit": None, "rates": {}, "command": "a command", "seconds": None, "begun": 0.0}
    given = ["-p", "no:cacheprovider", *options, str(tmp_path / "test_some.py")]
    code = "import pytest; from benchmarks.gpu_parts.job import Job; from benchmarks.gpu_parts.tests import Tally;"
    code += f"pytest.main({given}, plugins=[Tally(Job(**{settings}))])"
    subprocess.run(python(code), cwd=ROOT, check=True, capture_output=True)
    found = json.loads((tmp_path / "tests.json").read_text())["values"]
    assert found["counts"]["failed"] == found["counts"]["errors"] == 1
    assert sorted(reason for _, reason in found["failures"]) == ["AssertionError: one | is wrong", "RuntimeError: no fixture"]
    assert "test_a_number[1] | AssertionError: one \\| is wrong |" in (tmp_path / "tests.md").read_text()
    assert "1 failed" in json.loads((tmp_path / "told").read_text())["words"]


# options


@pytest.mark.parametrize("text", ["0", "-3m", "abc", "5x", "5", "", "0s", "0h0m", "3s5m", "5m 3s", "1e3s", "nan", "-"])
def test_a_budget_that_is_no_duration_is_answered_in_one_line(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "records"
    for given in (["--budget", text], [f"--budget={text}"]):
        assert gpu.main([*given, "--directory", str(directory)]) == 2
        wanted = f"--budget: must be a duration above 0 such as 90s, 5m or 1h30m, not {text}".rstrip()
        assert capsys.readouterr().err == f"benchmarks.gpu: error: {wanted}\n"
    assert not directory.exists()


@pytest.mark.parametrize(("text", "seconds"), [("5m", 300), ("90s", 90), ("1h30m", 5400), ("1h0m5s", 3605), ("0.5m", 30)])
def test_durations(text: str, seconds: float) -> None:
    assert gpu.options_of(["--budget", text]).budget == seconds


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget"], "--budget: expected one argument"),
        (["--only", "nonsense"], "--only: invalid choice: 'nonsense'"),
        (["--compile-limit", "-1"], "--compile-limit: must be a number above 0, not -1"),
        (["--bandwidth", "0"], "--bandwidth: must be a number above 0, not 0"),
        (["--data", "/absent"], "--data: there is no folder cifar-10-batches-py in /absent"),
        (["--packages", "/absent"], "--packages: /absent: No such file or directory"),
        (["--directory", __file__], f"{__file__}: File exists"),
    ],
)
def test_wrong_options_are_answered_in_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"benchmarks.gpu: error: {message}") and error.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_it_says_so_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--directory", str(tmp_path)]) == 2
    captured = capfd.readouterr()
    assert captured.err == "benchmarks.gpu: error: device: 'cuda' cannot be used here; try auto or cpu\n"
    assert captured.out == "" and not list(tmp_path.iterdir())


def test_the_command_itself_needs_no_package() -> None:
    """A part that lacks one says so, and a device that hangs holds up its part alone."""
    code = "import sys, benchmarks.gpu; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    names = subprocess.run(python(code), cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert "benchmarks" in names and not {"torch", "numpy", "yaml", "einops", "triton"} & set(names)


def test_packages_are_taken_from_wheels_or_from_a_folder(tmp_path: Path) -> None:
    wheels, site = tmp_path / "wheels", tmp_path / "site"
    wheels.mkdir()
    site.mkdir()
    (site / "carried.py").write_text("FROM = 'a folder'")
    with zipfile.ZipFile(wheels / "carried-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("carried.py", "FROM = 'a wheel'")
        program = zipfile.ZipInfo("carried/bin/program")
        program.external_attr = 0o100755 << 16
        archive.writestr(program, "")
    for folder in (wheels, site):
        shown: list[str] = []
        packages = unpacked(folder, tmp_path / "scratch")
        ending = supervise(python("import carried; print(carried.FROM)"), tmp_path / "log", None, shown.append, packages)
        assert ending.status == 0 and "".join(shown) == ("a wheel\n" if folder is wheels else "a folder\n")
    assert os.access(tmp_path / "scratch" / "carried" / "bin" / "program", os.X_OK)
    assert not os.access(tmp_path / "scratch" / "carried.py", os.X_OK)


@pytest.mark.parametrize("content", [None, b"", b"PK no zip"])
def test_packages_that_are_none_are_named(content: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "wheels"
    folder.mkdir()
    if content is not None:
        (folder / "some.whl").write_bytes(content)
    assert gpu.main(["--packages", str(folder), "--directory", str(tmp_path / "records")]) == 2
    error = capsys.readouterr().err
    message = f"{folder} is empty" if content is None else f"{folder / 'some.whl'} is damaged, or no wheel"
    assert error.startswith(f"benchmarks.gpu: error: --packages: {message}") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ModuleNotFoundError("No module named 'a.b'", name="a.b"), "needs the package a, which is missing here"),
        (torch.OutOfMemoryError("CUDA out of memory.\nTried"), "out of memory: CUDA out of memory. Tried"),
        (MemoryError(), "out of memory"),
        (InputError("a field: is wrong"), "a field: is wrong"),
        (RuntimeError("two\nlines"), "RuntimeError: two lines"),
    ],
)
def test_the_reason_of_a_failure_is_one_line(error: Exception, words: str) -> None:
    assert reason(error) == words


# one process


def test_a_process_is_shown_and_logged_to_its_end(tmp_path: Path) -> None:
    shown: list[str] = []
    code = "import sys; print('é'); print('wrong', file=sys.stderr); sys.exit(3)"
    ending = supervise(python(code), tmp_path / "log", None, shown.append)
    assert ending.status == 3 and sorted("".join(shown).split()) == ["wrong", "é"]
    assert (tmp_path / "log").read_text(encoding="utf-8") == "".join(shown)


HANGS = """
import os, signal, subprocess, sys, time
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
sleep = [sys.executable, "-c", "import time; time.sleep(1000)"]
pids = [os.getpid(), subprocess.Popen(sleep).pid, subprocess.Popen(sleep, start_new_session=True).pid]
print(*pids, flush=True)
time.sleep(float(sys.argv[1]))
"""


def test_a_process_that_hangs_is_stopped_with_all_that_it_has_started(tmp_path: Path) -> None:
    """It ignores signals, and one of its processes has left for a session of its own."""
    shown: list[str] = []
    ending = supervise([*python(HANGS), "1000"], tmp_path / "log", 1.0, shown.append)
    assert ending.status is None and 1 <= ending.seconds < 5
    processes = [int(number) for number in "".join(shown).split()]
    assert len(processes) == 3 and gone(processes)


def test_a_process_that_ends_leaves_none_behind(tmp_path: Path) -> None:
    shown: list[str] = []
    ending = supervise([*python(HANGS), "0"], tmp_path / "log", None, shown.append)
    assert ending.status == 0 and ending.seconds < 5
    assert gone([int(number) for number in "".join(shown).split()])


def test_an_interrupt_ends_the_process_that_runs(tmp_path: Path) -> None:
    shown: list[str] = []

    def show(text: str) -> None:
        shown.append(text)
        if text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        supervise([*python(HANGS), "1000"], tmp_path / "log", None, show)
    assert gone([int(number) for number in "".join(shown).split()])


def test_every_end_of_a_part_is_an_outcome() -> None:
    ended, killed = Ending(0, 3.4), Ending(-signal.SIGSEGV, 3.4)
    assert judged(ended, {"passed": True, "words": "7 ms"}) == Row("done", 3.4, "7 ms")
    assert judged(ended, {"passed": False, "words": "out of memory"}) == Row("failed", 3.4, "out of memory")
    assert judged(killed, {}) == Row("failed", 3.4, "killed by signal 11 (Segmentation fault)")
    assert judged(killed, {"words": "7 ms"}).words == "killed by signal 11 (Segmentation fault); so far: 7 ms"
    assert judged(Ending(-9, 1), {}).words == "killed by signal 9 (Killed), perhaps for lack of memory"
    assert judged(Ending(1, 1), {}).words == "ended with status 1"
    stopped = judged(Ending(None, 60.2), {"words": "7 ms"})
    assert (stopped.ending, stopped.words) == ("stopped after 60 s", "so far: 7 ms")
    # A part whose verdict is there and that hangs in its end is done.
    assert judged(Ending(None, 60.2), {"passed": True, "words": "7 ms"}).outcome == "done"


# the budget and the summary


def test_shares_go_by_weight_and_what_a_part_leaves_goes_to_the_later_ones() -> None:
    names, left = list(PARTS), 3000.0
    total = sum(PARTS.values())
    for number, name in enumerate(names):
        assert share(left, name, names[number + 1 :]) == pytest.approx(3000 * PARTS[name] / total)
        left -= 3000 * PARTS[name] / total
    assert left == pytest.approx(0)
    assert share(1000, "search", names[names.index("search") + 1 :]) > share(500, "search", names[names.index("search") + 1 :])
    assert share(77, "methods", []) == 77


def test_a_small_budget_does_the_parts_of_most_worth() -> None:
    assert share(30, "agree", [name for name in PARTS if name != "agree"]) == LEAST
    assert share(10, "tests", ["step"]) == 10


def test_a_second_call_keeps_the_rows_of_the_first(tmp_path: Path) -> None:
    first = Summary(tmp_path, "`first`")
    first.calls[-1]["device"] = "a GPU"
    first.note("agree", Row("done", 31, "6 of 6 | all"))
    first.note("step", Row("stopped", 60, "so far: 7 ms"))
    second = Summary(tmp_path, "`second`")
    second.calls[-1]["device"] = "another GPU"
    second.note("step", Row("done", 80, "7 ms"))
    lines = (tmp_path / "summary.md").read_text().splitlines()
    assert [line.partition(",")[0] for line in lines if line[:1].isdigit()] == ["1. `first`", "2. `second`"]
    assert "| agree | done in 31 s | 6 of 6 \\| all | 1 |" in lines and "| step | done in 80 s | 7 ms | 2 |" in lines
    assert [line.split()[1] for line in lines[lines.index("|---|---|---|---|") + 1 :]] == list(PARTS)
    assert "| search | not begun | - | - |" in lines
    # A call that no row is left of is left out.
    Summary(tmp_path, "`third`").note("agree", Row("done", 1, "6 of 6"))
    lines = (tmp_path / "summary.md").read_text().splitlines()
    assert [line.partition(",")[0] for line in lines if line[:1].isdigit()] == ["1. `second`", "2. `third`"]
    assert "| step | done in 80 s | 7 ms | 1 |" in lines


def test_a_part_that_ran_when_the_command_was_killed_has_failed(tmp_path: Path) -> None:
    Summary(tmp_path, "`first`").note("agree", Row("running"))
    row = Summary(tmp_path, "`second`").rows["agree"]
    assert (row.outcome, row.words) == ("failed", "killed with the whole command")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"calls": []}', '{"calls": [], "parts": {"agree": {"call": 3}}}', "\x00"])
def test_a_summary_that_is_damaged_is_named(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "summary.json"
    path.write_text(text)
    assert gpu.main(["--directory", str(tmp_path)]) == 2
    wanted = f"benchmarks.gpu: error: --directory: {path} is damaged; remove it, or name another directory\n"
    assert capsys.readouterr().err == wanted and path.read_text() == text


# the whole command

BLOCKED = """
import importlib.machinery, os, sys

class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in os.environ["ABSENT"].split() else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Finder
"""
"""A module that Python imports when it starts, and that hides the packages ABSENT."""


@pytest.fixture
def hide(tmp_path: Path) -> dict[str, str]:
    """Returns the environment in which packages can be hidden."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BLOCKED)
    return {"PYTHONPATH": str(folder), "ABSENT": ""}


@pytest.mark.slow
def test_within_a_budget_every_part_runs_and_leaves_records(tmp_path: Path, hide: dict[str, str]) -> None:
    """Alone, 3 minutes do for all. The packages that the command line was once made with are not there."""
    directory = tmp_path / "records"
    absent = hide | {"ABSENT": "jsonargparse docstring_parser"}
    with started("--budget", "6m", "--directory", str(directory), **absent) as process:
        output, _ = process.communicate()
    assert process.returncode == 0, output
    lines = output.splitlines()[-len(PARTS) :]
    assert [line.split()[:3] for line in lines] == [[part, "done", "in"] for part in PARTS]
    for part in PARTS:
        text = (directory / f"{part}.md").read_text()
        assert text.startswith(f"# {part}\n") and f"torch {torch.__version__}" in text and "`python -m benchmarks.gpu" in text
        assert json.loads((directory / f"{part}.json").read_text())["values"]
        assert (directory / f"{part}.log").stat().st_size
    assert all(f"| {line.split()[0]} | done in " in (directory / "summary.md").read_text() for line in lines)
    assert not list(directory.glob("*.tmp"))


@pytest.mark.slow
def test_parts_run_on_where_one_fails_or_lacks_a_package(tmp_path: Path, hide: dict[str, str]) -> None:
    directory = tmp_path / "records"
    directory.mkdir()
    (directory / "search").write_text("no place for a run")
    parts = ["search", "retrain", "tests"]
    with started("--directory", str(directory), "--only", *parts, **hide | {"ABSENT": "hypothesis"}) as process:
        output, _ = process.communicate()
    assert process.returncode == 1
    rows = {line.split()[0]: line for line in output.splitlines()[-len(PARTS) :]}
    assert list(rows) == list(PARTS)
    assert rows["tests"].partition(" s: ")[2] == "needs the package hypothesis, which is missing here"
    assert rows["search"].split()[1] == "failed" and "status 2 after" in rows["search"] and "search" in rows["search"]
    assert rows["retrain"].split()[1] == "done" and rows["agree"].split()[1:] == ["not", "begun"]
    assert "Traceback" not in (directory / "tests.log").read_text()
    # A second call goes on, and the package is there.
    (directory / "search").unlink()
    with started("--directory", str(directory), "--only", "tests") as process:
        process.communicate()
    assert process.returncode == 0
    summary = (directory / "summary.md").read_text()
    assert "| tests | done in " in summary and "| retrain | done in " in summary and "| search | failed after " in summary


@pytest.mark.slow
def test_without_a_package_that_all_need_each_part_says_so(tmp_path: Path, hide: dict[str, str]) -> None:
    with started(
        "--directory", str(tmp_path / "records"), "--only", "agree", "memory", **hide | {"ABSENT": "einops"}
    ) as process:
        output, _ = process.communicate()
    assert process.returncode == 1 and "Traceback" not in output
    assert output.count("s: needs the package einops, which is missing here\n") == 2
    assert "device cpu not known" in output


@pytest.mark.slow
def test_a_search_without_a_package_names_it(tmp_path: Path, hide: dict[str, str]) -> None:
    with started("--directory", str(tmp_path / "records"), "--only", "search", **hide | {"ABSENT": "tensorboard"}) as process:
        output, _ = process.communicate()
    assert process.returncode == 1
    assert "s: needs the package tensorboard, which is missing here; status 1 after" in output


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_command_leaves_a_summary_and_no_process(number: signal.Signals, tmp_path: Path) -> None:
    with started("--budget", "3m", "--directory", str(tmp_path), "--only", "search", "methods") as process:
        assert process.stdout is not None
        assert any(line.startswith("== search, at most ") for line in process.stdout)
        part = child_of(process.pid)
        process.send_signal(number)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in output and gone([part])
    rows = [line.split("|")[1:4] for line in (tmp_path / "summary.md").read_text().splitlines() if line.startswith("| ")][1:]
    found = {part.strip(): (outcome.strip(), words.strip()) for part, outcome, words in rows}
    assert found["search"][0].startswith("stopped after ") and found["search"][1].startswith("interrupted")
    assert found["methods"] == ("not begun", "-")


@pytest.mark.slow
def test_a_part_ends_with_a_command_that_is_killed(tmp_path: Path) -> None:
    with started("--directory", str(tmp_path), "--only", "methods") as process:
        assert process.stdout is not None
        assert any("methods make their steps" in line for line in process.stdout)
        part = child_of(process.pid)
        process.kill()
        process.wait()
        assert gone([part])
    assert "| methods | running | - | 1 |" in (tmp_path / "summary.md").read_text()
    assert json.loads((tmp_path / "methods.json").read_text())["values"]


def test_a_part_beyond_its_share_is_stopped_and_the_budget_is_kept(tmp_path: Path) -> None:
    """The part is stopped in its midst; parts of an earlier call that do not begin keep their records."""
    Summary(tmp_path, "`earlier`").note("methods", Row("done", 20, "every method"))
    (tmp_path / "methods.md").write_text("earlier")
    (tmp_path / "step.md").write_text("earlier")
    start = time.monotonic()
    with started("--budget", "5s", "--directory", str(tmp_path), "--only", "step", "methods") as process:
        output, _ = process.communicate()
    assert time.monotonic() - start < 30 and process.returncode == 1
    rows = {line.split()[0]: line for line in output.splitlines()[-len(PARTS) :]}
    assert rows["step"].split()[1:3] == ["stopped", "after"] and rows["methods"].split()[1:4] == ["done", "in", "20"]
    assert (tmp_path / "methods.md").exists() and not (tmp_path / "step.md").exists()
