"""Two processes in the directory of one run: the second is refused in one line, the first ends as if it had been alone."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from training.run.ownership.lock import LOCK_FILE

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
SIZE = ["--data.limit=64", "--batch_size=16", "--channels=2", "--cells=1", "--threads=1", "--device=cpu"]
COMMAND = ["--config=digits", *SIZE, "--space=nasbench201", "--eigenvalue_every=0", "--epochs=3"]
MODES: dict[str, list[str]] = {"new": [], "overwrite": ["--overwrite"], "resume": ["--resume"]}

pytestmark = pytest.mark.slow


def start(run: Path, *flags: str, of: list[str] = COMMAND) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "search.darts", *of, f"--run={run}", *flags]
    return subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = process.communicate(timeout=120)
    return process.returncode, said


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def stop_when_it_holds(process: subprocess.Popen[str], run: Path) -> None:
    """Lets the process stand still, so that the directory changes by nobody else."""
    until = time.monotonic() + 60
    while not (run / LOCK_FILE).is_file() or not (run / "log.txt").is_file() or not (run / "log.txt").stat().st_size:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(signal.SIGSTOP)
    time.sleep(0.1)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nobody came near."""
    path = tmp_path_factory.mktemp("alone") / "run"
    assert ended(start(path))[0] == 0
    return path


@pytest.mark.parametrize("first", MODES)
def test_the_second_of_two_is_refused(first: str, alone: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    if first == "overwrite":
        assert ended(start(run, "--seed=5", "--epochs=1"))[0] == 0
    if first == "resume":
        assert ended(start(run, "--stop.hours=1e-9"))[0] == 0
        (run / "log.txt").write_text("")
    holder = start(run, *(["--resume", "--stop.hours=null"] if first == "resume" else MODES[first]))
    try:
        stop_when_it_holds(holder, run)
        before = contents(run)
        others = [start(run, *flags) for flags in MODES.values()]
        for other in others:
            status, said = ended(other)
            assert (status, said.count("\n")) == (2, 1), said
            assert f"{run}: process {holder.pid} on " in said and "has been at work in it since" in said
        assert contents(run) == before
        holder.send_signal(signal.SIGCONT)
        assert ended(holder) == (0, "")
    finally:
        holder.kill()
    for name in ("genotype.json", "history.jsonl", "checkpoints/epoch_0003.pt"):
        assert (run / name).read_bytes() == (alone / name).read_bytes()
    assert not (run / LOCK_FILE).exists()


def test_of_two_new_runs_that_start_together_one_goes_on(alone: Path, tmp_path: Path) -> None:
    run = tmp_path / "a/b/run"
    both = [start(run), start(run)]
    (first, _), (second, said) = sorted(map(ended, both))
    assert (first, second, said.count("\n")) == (0, 2, 1), said
    assert "at work in it" in said or "holds a run already" in said
    for name in ("genotype.json", "history.jsonl", "checkpoints/epoch_0003.pt"):
        assert (run / name).read_bytes() == (alone / name).read_bytes()


def test_the_workers_of_a_killed_run_are_in_nobodys_way(tmp_path: Path) -> None:
    run = tmp_path / "run"
    of = [*COMMAND, "--data.loading=workers", "--data.workers=2", "--epochs=200"]
    holder, children = start(run, of=of), []
    try:
        until = time.monotonic() + 60
        while not list(run.glob("checkpoints/epoch_*.pt")):
            assert holder.poll() is None and time.monotonic() < until
            time.sleep(0.02)
        children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGSTOP)  # so that they do not see that they are alone
        holder.kill()
        holder.wait()  # its pipes stay open as long as the workers live
        assert children and all(Path(f"/proc/{child}").exists() for child in children)
        assert ended(start(run, "--resume", "--stop.hours=1e-9", of=of))[0] == 0
    finally:
        holder.kill()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
