"""Disks that are full, memory that is short; and the commands as processes of their own."""

import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from base.files import temporary_pattern

Refuse = Callable[..., str]
Run = Callable[..., int | str | None]
Files = Callable[[Path], Mapping[str, bytes | str | None]]
both = pytest.mark.parametrize("command", ["search.darts", "retrain"])


# The disk


def fill_at(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Takes away the space for the file `name` from now on."""

    def full(path: Path | int, mode: str, **options: Any) -> io.IOBase:
        if isinstance(path, Path) and (path.match(temporary_pattern(name)) or (mode == "a" and path.name == name)):
            return open("/dev/full", mode.replace("x", "w"), encoding=options.get("encoding"))  # type: ignore[return-value]
        return open(path, mode, **options)  # type: ignore[no-any-return]

    monkeypatch.setattr("base.files.open", full, raising=False)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("command", "name"),
    [
        pytest.param("search.darts", "config.yaml", marks=pytest.mark.slow),
        pytest.param("search.darts", "genotype.json", marks=pytest.mark.slow),
        ("search.darts", "checkpoints/epoch_0002.pt"),
        pytest.param("retrain", "genotype.json", marks=pytest.mark.slow),
        pytest.param("retrain", "checkpoints/epoch_0002.pt", marks=pytest.mark.slow),
        ("retrain", "weights.safetensors"),
        pytest.param("retrain", "metrics.json", marks=pytest.mark.slow),
    ],
)
def test_a_full_disk(
    refuse: Refuse,
    here: Path,
    command: str,
    name: str,
    finished: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    run: Run,
    files: Files,
) -> None:
    with monkeypatch.context() as patch:
        fill_at(patch, Path(name).name)
        message = refuse(command, "--run=run", may_write=True)
    if name == "config.yaml":
        assert message == "run: the run directory cannot be written: No space left on device"
        assert not (here / "run").exists()
        return
    advice = "make room, then the same --run with --resume goes on"
    assert message == f"run/{name}: No space left on device; {advice}"
    assert not list(here.rglob("*.tmp"))
    whole = files(finished[command])
    found = files(here / "run")
    last = "checkpoints/epoch_0001.pt"
    if name != "genotype.json":
        assert found[last] == whole[last]
    assert run(command, "--run=run", "--resume") == 0
    for result in ("checkpoints/epoch_0002.pt", "genotype.json" if command != "retrain" else "weights.safetensors"):
        assert files(here / "run")[result] == whole[result]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@both
def test_a_log_that_cannot_be_written(
    refuse: Refuse, here: Path, command: str, finished: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished[command], here / "run")
    fill_at(monkeypatch, "log.txt")
    message = refuse(command, "--run=run", "--resume", may_write=True)
    assert message.startswith("run/log.txt: No space left on device; make room")


@both
def test_a_log_that_is_a_link(refuse: Refuse, here: Path, command: str, finished: dict[str, Path]) -> None:
    shutil.copytree(finished[command], here / "run")
    (here / "run/log.txt").unlink()
    (here / "notes.txt").write_text("mine")
    (here / "run/log.txt").symlink_to(here / "notes.txt")
    message = refuse(command, "--run=run", "--resume", may_write=True)
    assert message == "run/log.txt: is no regular file but a link or the like; remove it"
    assert (here / "notes.txt").read_text() == "mine"


@pytest.fixture
def small_disk(here: Path) -> Iterator[Path]:
    """A file system of its own with a MiB of space."""
    path = here / "disk"
    path.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(path)], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("needs the right to mount a file system")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


@pytest.mark.skipif(shutil.which("mount") is None, reason="needs mount")
@pytest.mark.parametrize("left", ["a checkpoint and a half", "half of the events"])
def test_a_disk_that_fills_up(refuse: Refuse, small_disk: Path, left: str, finished: dict[str, Path], run: Run) -> None:
    whole = finished["retrain"]
    events = next(whole.glob("events*")).stat().st_size
    checkpoint = (whole / "checkpoints/epoch_0001.pt").stat().st_size
    needed = 6 * 4096 + (events + 3 * checkpoint // 2 if left == "a checkpoint and a half" else events // 2)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - needed))
    message = refuse("retrain", "--run=disk/run", may_write=True)
    file = "disk/run/checkpoints/epoch_0002.pt: " if left == "a checkpoint and a half" else "disk/run/events.out.tfevents."
    assert message.startswith(file) and "No space left on device; make room" in message
    assert not list(small_disk.rglob("*.tmp"))
    filler.unlink()
    assert run("retrain", "--run=disk/run", "--resume") == 0
    assert (small_disk / "run/weights.safetensors").read_bytes() == (whole / "weights.safetensors").read_bytes()


# As programs


@pytest.mark.slow
@both
def test_as_a_program(refuse_program: Refuse, here: Path, command: str) -> None:
    assert refuse_program(command, "--run=run", "--epoch=3") == "--epoch: no such option; did you mean --epochs?"
    assert not any(here.iterdir())


@pytest.mark.slow
def test_a_file_that_may_not_grow(refuse_program: Refuse, here: Path) -> None:
    limits = "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))"
    message = refuse_program("retrain", "--run=run", limits=limits, begins=True)
    assert message.startswith("run/events.out.tfevents.") and message.endswith(": File too large")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited elsewhere in other ways")
def test_too_little_memory(refuse_program: Refuse, here: Path) -> None:
    limits = (
        "import retrain.trainer; taken = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize(); "
        "resource.setrlimit(resource.RLIMIT_AS, (taken + 700 * 2**20,) * 2)"
    )
    message = refuse_program("retrain", "--run=run", "--channels=2048", limits=limits)
    less = "recompute cells, or smaller channels, cells, batch_size or data.limit"
    assert message == f"not enough memory; less is needed with {less}"
    assert not any(here.iterdir())
