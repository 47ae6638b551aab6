"""Files are replaced whole or not at all."""

import errno
import importlib.resources
import os
import secrets
from pathlib import Path

import pytest

from base.checks import InputError
from base.files import open_to_append, read_limited, temporary_pattern, write_atomically


def test_writes_text_and_bytes(tmp_path: Path) -> None:
    path = tmp_path / "result"
    write_atomically(path, "é = 1\n")
    assert path.read_bytes() == "é = 1\n".encode()
    write_atomically(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert os.listdir(tmp_path) == ["result"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, failure: BaseException
) -> None:
    def fail(*_: object) -> None:
        raise failure

    path = tmp_path / "result"
    write_atomically(path, "old")
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(failure)) as caught:
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["result"]
    if isinstance(caught.value, OSError):
        assert caught.value.errno == errno.ENOSPC
        assert str(path) in str(caught.value)


def test_a_stop_as_soon_as_the_file_is_there_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(path: Path, mode: str) -> None:
        open(path, mode).close()
        raise KeyboardInterrupt

    monkeypatch.setattr("base.files.open", opened, raising=False)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "result", "new")
    assert os.listdir(tmp_path) == []


def test_names_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "result"
    with pytest.raises(FileNotFoundError, match=r"absent/result'$"):
        write_atomically(path, "new")
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "taken", "new")
    assert os.listdir(tmp_path) == ["taken"]


def test_temporary_names_cannot_be_guessed_and_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link that lies in wait under the temporary name is not followed."""
    mine, folder = tmp_path / "mine", tmp_path / "run"
    mine.write_text("mine")
    folder.mkdir()
    monkeypatch.setattr(secrets, "token_hex", lambda size: "0123abcd")
    (folder / ".result.0123abcd.tmp").symlink_to(mine)
    with pytest.raises(FileExistsError):
        write_atomically(folder / "result", "new")
    assert mine.read_text() == "mine" and not (folder / "result").exists()
    monkeypatch.undo()
    write_atomically(folder / "result", "new")
    assert (folder / "result").read_text() == "new"


def test_the_halves_of_a_killed_process_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "replace", lambda *_: None)
    write_atomically(tmp_path / "epoch_0001.pt", "whole")
    (tmp_path / ".epoch_0001.pt.mine.tmp").touch()
    (half,) = tmp_path.glob(temporary_pattern("epoch_*.pt"))
    assert half.read_text() == "whole"


def test_reads_a_file_within_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345678")
    assert read_limited(path, 8) == b"12345678"
    assert read_limited(importlib.resources.files("configs") / "digits.yaml", 10**6)
    with pytest.raises(InputError, match=r"file: is too large, above 1 KiB$"):
        path.write_bytes(bytes(1025))
        read_limited(path, 1024)


@pytest.mark.parametrize("kind", ["pipe", "folder", "absent", "device", "link to nothing"])
def test_reads_nothing_else(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "link to nothing":
        path.symlink_to(tmp_path / "nothing")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(InputError, match=f"^{path}: "):
        read_limited(path, 1024)
    assert len(os.listdir("/proc/self/fd")) == len(before)  # nothing stays open


def test_a_file_grows_at_its_end_and_nothing_else_does(tmp_path: Path) -> None:
    for line in ("one\n", "\udcff\n"):
        with open_to_append(tmp_path / "log.txt") as file:
            file.write(line)
    assert (tmp_path / "log.txt").read_text() == "one\n\\udcff\n"
    (tmp_path / "link").symlink_to(tmp_path / "log.txt")
    (tmp_path / "dangling").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "dangling", "pipe"):
        with pytest.raises(ValueError, match=f"{name}: is no regular file but a link or the like; remove it"):
            open_to_append(tmp_path / name)
    assert not (tmp_path / "elsewhere").exists()
