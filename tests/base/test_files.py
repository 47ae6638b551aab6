"""Files are replaced whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from base.files import write_atomically


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


def test_names_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "result"
    with pytest.raises(FileNotFoundError, match=r"absent/result'$"):
        write_atomically(path, "new")
    (tmp_path / "taken").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "taken", "new")
    assert os.listdir(tmp_path) == ["taken"]


def test_takes_over_what_a_killed_process_left(tmp_path: Path) -> None:
    (tmp_path / "result.tmp").write_text("half of a longer te")
    write_atomically(tmp_path / "result", "whole")
    assert (tmp_path / "result").read_text() == "whole"
    assert os.listdir(tmp_path) == ["result"]
