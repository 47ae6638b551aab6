"""Tests of training/run/ownership/lock.py."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from training.run.ownership.lock import LOCK_FILE, Lock, check_free

ROOT = Path(__file__).parents[4]
HOLD = """
import os, sys, time
from pathlib import Path
from training.run.ownership.lock import Lock
lock = Lock.take(Path(sys.argv[1]))
if "fork" in sys.argv:  # a worker that is not told that its parent has died
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
else:
    print("held", flush=True)
time.sleep(60)
"""


@contextmanager
def holder(path: Path, *argv: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that holds the lock on a directory, and the line that it has printed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLD, str(path), *argv]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def test_a_lock_is_held_by_one_process_and_names_it(tmp_path: Path) -> None:
    with holder(tmp_path) as (process, _):
        before = (tmp_path / LOCK_FILE).read_bytes()
        held = rf"^{tmp_path}: process {process.pid} on .+ has been at work in it since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d; wait"
        for attempt in (Lock.take, check_free):
            with pytest.raises(ValueError, match=held):
                attempt(tmp_path)
        assert (tmp_path / LOCK_FILE).read_bytes() == before
        assert [str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*")] == [".fusenas", LOCK_FILE]


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    with holder(tmp_path) as (process, _):
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (tmp_path / LOCK_FILE).is_file()
        check_free(tmp_path)
        Lock.take(tmp_path).release()
    assert list(tmp_path.iterdir()) == []


def test_the_workers_of_a_killed_process_hold_nothing(tmp_path: Path) -> None:
    with holder(tmp_path, "fork") as (process, child):
        process.kill()
        process.wait()
        os.kill(int(child), 0)  # is alive
        check_free(tmp_path)
        Lock.take(tmp_path).release()
        os.kill(int(child), signal.SIGKILL)


def test_a_process_takes_a_directory_once(tmp_path: Path) -> None:
    lock = Lock.take(tmp_path / "run")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    for attempt in (Lock.take, check_free):
        for path in (tmp_path / "run", tmp_path / "link"):
            with pytest.raises(ValueError, match="this process is at work in it already"):
                attempt(path)
    lock.confirm()
    Lock.take(tmp_path / "other").release()
    lock.release()
    Lock.take(tmp_path / "run").release()


def test_one_who_only_looks_is_in_nobodys_way(tmp_path: Path) -> None:
    lock = Lock.take(tmp_path)
    lock.release()
    (tmp_path / LOCK_FILE).parent.mkdir()
    (tmp_path / LOCK_FILE).touch()
    code = f"import fcntl, os, time; f = os.open({str(tmp_path / LOCK_FILE)!r}, os.O_RDONLY); " + (
        "fcntl.lockf(f, fcntl.LOCK_SH, 1, 2**30); print('looks', flush=True); time.sleep(0.1)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"looks\n"
        check_free(tmp_path)
        Lock.take(tmp_path).release()


def test_of_many_threads_one_gets_it_at_a_time(tmp_path: Path) -> None:
    """The file comes and goes between them."""
    held, most, taken = 0, 0, 0
    count = threading.Lock()

    def work() -> None:
        nonlocal held, most, taken
        for _ in range(30):
            try:
                lock = Lock.take(tmp_path)
            except ValueError:
                continue
            with count:
                held, taken = held + 1, taken + 1
                most = max(most, held)
            time.sleep(0)
            with count:
                held -= 1
            lock.release()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1 and taken >= 4
    assert list(tmp_path.iterdir()) == []


def test_a_lock_whose_directory_was_removed_or_taken_is_lost(tmp_path: Path) -> None:
    lock = Lock.take(tmp_path)
    lock.confirm()
    (tmp_path / LOCK_FILE).unlink()
    with pytest.raises(ValueError, match="was removed, or taken by another process, while this one was at work in it"):
        lock.confirm()
    with holder(tmp_path):
        with pytest.raises(ValueError, match="was removed, or taken"):
            lock.confirm()
        lock.release()
        with pytest.raises(ValueError, match="has been at work"):  # and what is released is not theirs
            check_free(tmp_path)


def test_a_lock_that_this_process_has_let_slip_is_taken_again(tmp_path: Path) -> None:
    """A copy of the directory closes a descriptor of the file, and with it goes the lock."""
    lock = Lock.take(tmp_path)
    (tmp_path / LOCK_FILE).read_bytes()
    lock.confirm()
    look = (
        f"import sys, pathlib; from training.run.ownership.lock import check_free; check_free(pathlib.Path({str(tmp_path)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "has been at work" in done.stderr
    lock.release()


def test_a_forked_process_leaves_the_lock_alone(tmp_path: Path) -> None:
    lock = Lock.take(tmp_path)
    child = os.fork()
    if child == 0:
        lock.release()
        os._exit(0)
    os.waitpid(child, 0)
    lock.confirm()
    lock.release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_where_there_are_no_locks_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    lock = Lock.take(tmp_path)
    assert not lock.is_kept
    lock.confirm()
    lock.release()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.symlink_to("elsewhere"), r"lock: is no regular file; remove it"),
        (os.mkfifo, r"lock: is no regular file; remove it"),
        (lambda path: (path.parent.rmdir(), path.parent.symlink_to("elsewhere")), r"\.fusenas: is no folder; remove it"),
        (lambda path: (path.parent.rmdir(), path.parent.touch()), r"\.fusenas: is no folder; remove it"),
    ],
    ids=["link", "pipe", "folder", "file"],
)
def test_no_link_is_followed_and_no_pipe_waited_for(tmp_path: Path, make: Callable[[Path], object], message: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "run" / LOCK_FILE
    path.parent.mkdir(parents=True)
    make(path)
    for attempt in (Lock.take, check_free):
        with pytest.raises(ValueError, match=message):
            attempt(tmp_path / "run")
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"pid": 1}', "[" * 10**5, "\0"])
def test_a_holder_that_cannot_be_named(tmp_path: Path, text: str) -> None:
    with holder(tmp_path):
        with (tmp_path / LOCK_FILE).open("r+") as file:
            file.truncate(0)
            file.write(text)
        with pytest.raises(ValueError, match=r": another process is at work in it; wait for its end"):
            check_free(tmp_path)
