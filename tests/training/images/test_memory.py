"""How much memory is free."""

from pathlib import Path

import pytest
import torch

from training.images import memory
from training.images.memory import available_memory, free_on


def test_no_more_than_the_machine_has() -> None:
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    total = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:"))
    assert 0 < available_memory() <= total
    assert 0 < free_on(torch.device("cpu")) <= total


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "groups")
    return tmp_path / "groups"


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(f"{content}\n")


def rooms(tmp_path: Path, membership: str) -> list[int]:
    (tmp_path / "cgroup").write_text(membership)
    return list(memory._rooms(tmp_path / "cgroup"))


def test_the_limit_of_a_container(tmp_path: Path, groups: Path) -> None:
    stat = "anon 5\ninactive_file 300"
    write(groups / "a/b", memory__max="max", memory__current=7, memory__stat=stat)
    write(groups / "a", memory__max=5000, memory__current=1000, memory__stat=stat)
    assert rooms(tmp_path, "0::/a/b\n") == [4300]
    # Seen from within the container, its own group is the root.
    write(groups, memory__max=900, memory__current=1000, memory__stat="anon 1")
    assert rooms(tmp_path, "0::/elsewhere/c\n") == [-100]


def test_the_first_version_of_control_groups(tmp_path: Path, groups: Path) -> None:
    files = {"memory__limit_in_bytes": 5000, "memory__usage_in_bytes": 4000, "memory__stat": "total_inactive_file 50"}
    write(groups / "memory/docker", **files)
    assert rooms(tmp_path, "7:cpu:/x\n4:memory:/docker\n0::/\n") == [1050]


def test_where_there_are_no_control_groups(tmp_path: Path, groups: Path) -> None:
    assert rooms(tmp_path, "") == []
    assert list(memory._rooms(tmp_path / "absent")) == []
    assert rooms(tmp_path, "0::/a\n") == []


def test_the_smallest_room_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_rooms", lambda path: iter([10**18, 4000]))
    assert available_memory() == 4000
    monkeypatch.setattr(memory, "_rooms", lambda path: iter([-5]))
    assert available_memory() == 0
