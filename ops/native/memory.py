"""Memory that passes use again and again.

A pass of a supernet keeps hundreds of megabytes for its backward pass. If they were returned to the
system each time, the next pass would wait for each page to be cleared (docs/performance.md).
"""

import mmap
import threading
import weakref
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

PAGE = 2**21
"""Blocks of memory are multiples of it: a large page of the processor."""
PRIVATE: dict[str, int] = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
"""Memory that no forked process shares; shared memory is Python's default, for which systems often
keep no large pages."""


class Memory:
    """Blocks of memory that come back when the tensors in them are no longer used.

    As many bytes as have been in use at a time are kept, at most.
    """

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []
        self._lent: dict[int, tuple[weakref.ref[memoryview], mmap.mmap]] = {}
        self._lock = threading.RLock()
        self._used = self._most = 0

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Returns a tensor of any values, contiguous, that begins at a page."""
        size = prod(shape) * dtype.itemsize
        if size < PAGE // 2:
            return torch.empty(shape, dtype=dtype)
        try:
            block = self._take(size)
        except OSError:  # no memory is left: torch says so in its own words
            return torch.empty(shape, dtype=dtype)
        # The tensor keeps this view alive for as long as its memory is used.
        view = memoryview(block)
        reference = weakref.ref(view, self._give)
        self._lent[id(reference)] = reference, block
        return torch.frombuffer(view, dtype=dtype, count=prod(shape)).view(shape)

    def bytes_kept(self) -> int:
        """Returns the bytes that no tensor uses."""
        return sum(map(len, self._free))

    def _take(self, size: int) -> mmap.mmap:
        with self._lock:
            fitting = [block for block in self._free if size <= len(block) <= 2 * size]
            block = min(fitting, key=len, default=None)
            if block is None:
                block = mmap.mmap(-1, -(-size // PAGE) * PAGE, **PRIVATE)
                if hasattr(mmap, "MADV_HUGEPAGE"):
                    block.madvise(mmap.MADV_HUGEPAGE)
            else:
                self._free.remove(block)
            self._used += len(block)
            self._most = max(self._most, self._used)
            self._trim()
            return block

    def _give(self, reference: "weakref.ref[memoryview]") -> None:
        with self._lock:
            _, block = self._lent.pop(id(reference))
            self._used -= len(block)
            self._free.append(block)
            self._trim()

    def _trim(self) -> None:
        """Returns the oldest free blocks to the system if there are too many."""
        while self._used + self.bytes_kept() > self._most:
            self._free.pop(0)


MEMORY = Memory()
"""The memory of this process."""
