"""How much memory is free."""

import os
from pathlib import Path

import torch


def available_memory() -> int:
    """Bytes of the host's memory that new data can take, as far as the system says; what it has in all where it does not."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_on(device: torch.device) -> int:
    """Bytes that new data can take on `device` and, on the way there, in the memory of the host."""
    host = available_memory()
    return min(host, torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else host
