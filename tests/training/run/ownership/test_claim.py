"""Tests of training/run/ownership/claim.py and replaced.py."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from base.checks import InputError
from training.run.ownership.claim import claimed, restore
from training.run.ownership.files import begin_record, belongings, record, recorded, write_file
from training.run.ownership.lock import LOCK_FILE, Lock
from training.run.ownership.replaced import REPLACED


def contents(path: Path) -> dict[str, bytes]:
    found = (file for file in path.rglob("*") if file.is_file() and not file.match(LOCK_FILE))
    return {str(file.relative_to(path)): file.read_bytes() for file in found}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with one that belongs to it, and files of the user's own."""
    path = tmp_path / "run"
    names = {path: ("config.yaml", "log.txt", "export/a"), path / "search": ("log.txt", "checkpoints/epoch_0002.pt")}
    for each, theirs in names.items():
        begin_record(each)
        for name in theirs:
            write_file(each, name, f"old {name}\n")
    record(path, "search/")
    (path / "notes.txt").write_text("mine")
    (path / "export/mine").write_text("mine")
    return path


def begin_new(path: Path) -> None:
    write_file(path, "config.yaml", "new\n")
    write_file(path, "log.txt", "new\n")
    record(path, "checkpoints/epoch_0001.pt")
    (path / "checkpoints").mkdir()


MINE = {"notes.txt": b"mine", "export/mine": b"mine"}


def test_a_new_run_replaces_another_when_it_has_a_checkpoint(run: Path) -> None:
    with claimed(run) as claim:
        claim.begin(list(belongings(run)))
        begin_new(run)
        assert (run / REPLACED / "search/checkpoints/epoch_0002.pt").is_file()
        assert not (run / "search").exists()
        write_file(run, "checkpoints/epoch_0001.pt", "new\n")
        claim.keep()
        assert not (run / REPLACED).exists()
    own = dict.fromkeys(("config.yaml", "log.txt", "checkpoints/epoch_0001.pt"), b"new\n")
    assert contents(run) == MINE | own | {".fusenas/files": "".join(f"{name}\n" for name in own).encode()}


@pytest.mark.parametrize("error", [InputError("refused"), RuntimeError("ours"), KeyboardInterrupt(), OSError(28, "full"), None])
def test_a_new_run_without_a_checkpoint_gives_way(
    run: Path, error: BaseException | None, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(run)
    try:
        with claimed(run) as claim:
            claim.begin(list(belongings(run)))
            begin_new(run)
            if error is not None:
                raise error
    except BaseException as raised:
        assert raised is error
    after = contents(run)
    assert list(run.rglob("*.tmp")) == [] and not (run / REPLACED).exists() and not (run / "checkpoints").exists()
    if isinstance(error, InputError):
        assert after == before
        assert capsys.readouterr().out == ""
    else:
        assert after == before | {"log.txt": b"old log.txt\nnew\n"}
        said = "the new run ended before its first checkpoint; the run that it was to replace is back\n"
        assert capsys.readouterr().out == f"{run}: {said}"


@pytest.mark.parametrize("refused", [True, False])
def test_a_refused_run_leaves_nothing(tmp_path: Path, refused: bool) -> None:
    path = tmp_path / "a/b/run"
    with pytest.raises(ValueError, match="late"), claimed(path) as claim:
        claim.begin()
        begin_new(path)
        raise InputError("late") if refused else ValueError("late")
    assert (list(tmp_path.iterdir()) == []) is refused


def test_a_run_that_was_refused_after_a_checkpoint_stays(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="late"), claimed(tmp_path) as claim:
        claim.begin()
        begin_new(tmp_path)
        write_file(tmp_path, "checkpoints/epoch_0001.pt", "new\n")
        raise InputError("late")
    assert len(recorded(tmp_path)) == 3 and (tmp_path / "checkpoints/epoch_0001.pt").is_file()


def killed_at(number: int, work: Callable[[], None]) -> bool:
    """Does `work` in a process that ends at once instead of its change number `number` of names in directories.

    Says whether it came to its end before.
    """
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    left = number

    def counted(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                os._exit(1)
            return function(*arguments, **options)

        return call

    try:
        for name in ("rename", "replace", "unlink", "rmdir", "mkdir"):
            setattr(os, name, counted(getattr(os, name)))
        work()
        os._exit(0)
    finally:
        os._exit(2)


def replace_by_a_new_one(run: Path, with_checkpoint: bool) -> None:
    with claimed(run) as claim:
        claim.begin(list(belongings(run)))
        begin_new(run)
        if with_checkpoint:
            write_file(run, "checkpoints/epoch_0001.pt", "new\n")


def without_logs(found: dict[str, bytes]) -> dict[str, bytes]:
    return {name: text for name, text in found.items() if not name.endswith("log.txt")}


@pytest.mark.parametrize("with_checkpoint", [True, False])
@pytest.mark.parametrize("second", [None, *(pytest.param(number, marks=pytest.mark.slow) for number in (1, 4, 7))])
def test_killed_at_any_moment_one_of_both_is_whole(run: Path, with_checkpoint: bool, second: int | None) -> None:
    """`second`: the change at which the next process, which puts it right, is killed, too."""
    saved = shutil.copytree(run, run.with_name("saved"))
    before, outcomes, first, ended = contents(run), set(), 0, False
    while not ended:
        shutil.rmtree(run)
        shutil.copytree(saved, run)
        ended = killed_at(first, lambda: replace_by_a_new_one(run, with_checkpoint))
        if second is not None:
            killed_at(second, lambda: restore(run))
        restore(run)
        after = contents(run)
        assert not [entry for entry in (run / ".fusenas").iterdir() if entry.name not in ("files", "lock")]
        is_new = without_logs(after) != without_logs(before)
        if is_new:
            assert with_checkpoint and after["checkpoints/epoch_0001.pt"] == b"new\n"
            assert not any(text.startswith(b"old") for text in after.values()), first
        else:
            assert after["log.txt"].startswith(b"old log.txt\n"), first
        assert {name: after[name] for name in MINE} == MINE
        outcomes.add(is_new)
        first += 1
    assert outcomes == {False, with_checkpoint}
    assert first > 15


def test_a_file_in_the_way_of_a_run_that_comes_back(run: Path) -> None:
    before = contents(run)
    message = r"search/log\.txt: is in the way of a file of the run that is moved there; move it"
    with pytest.raises(ValueError, match=message), claimed(run) as claim:
        claim.begin(list(belongings(run)))
        (run / "search").mkdir()
        (run / "search/log.txt").write_text("mine, too")
    (run / "search/log.txt").unlink()
    restore(run)
    assert contents(run) == before


def test_a_directory_in_use_is_not_put_right_by_another(run: Path) -> None:
    lock = Lock.take(run)
    with pytest.raises(ValueError, match="at work"):
        restore(run)
    with pytest.raises(ValueError, match="at work"), claimed(run):
        raise AssertionError
    lock.release()
