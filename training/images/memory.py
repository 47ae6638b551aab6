"""The amount of memory that is free."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch

GROUPS = Path("/sys/fs/cgroup")
# The files of the first and the second version of control groups: the limit, the memory in use, and
# the part of it that is given back on demand.
_FILES = {
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    "": ("memory.max", "memory.current", "inactive_file"),
}


def available_memory() -> int:
    """Returns the bytes of the host's memory that new data can take; all of it if the system does
    not say.

    Limits of a container count.
    """
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        host = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(0, min([host, *_rooms(Path("/proc/self/cgroup"))]))


def _rooms(membership: Path) -> Iterator[int]:
    """Yields the bytes that are left in each control group around this process that has a limit."""
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in _FILES:
            continue
        limit, used, reclaimable = _FILES[controllers]
        group = Path(path.lstrip("/"))
        for folder in (GROUPS / controllers / above for above in (group, *group.parents)):
            try:
                most, taken = ((folder / name).read_text(encoding="utf-8").strip() for name in (limit, used))
                stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines())
            except OSError:
                continue  # seen from within a container, the groups outside are not there
            if most != "max":
                yield int(most) - int(taken) + int(stat.get(reclaimable, 0))


def free_on(device: torch.device) -> int:
    """Returns the bytes that new data can take on `device` and, on the way there, in the memory of
    the host."""
    host = available_memory()
    return min(host, torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else host
