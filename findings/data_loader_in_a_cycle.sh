#!/usr/bin/env bash
# A DataLoader's iterator that the garbage collector finds waits 5 seconds for each of its worker processes.
#
# A good engineer expects that it makes no difference how an iterator over a DataLoader is let go of: by the last reference to
# it, or by the garbage collector, if it is part of a cycle of references. Both call its __del__, which tells the workers to end
# and waits for them. They wait for nothing else, so that this takes milliseconds.
#
# In a cycle the queues of the iterator are garbage as well, and their finalizers, which are callbacks of weak references, run
# before any __del__: they end the threads that carry messages to the workers. So the message of __del__ is never sent, and it
# waits for each worker in vain, 5 seconds, one after the other, before it terminates them. The collector may run anywhere,
# so the program seems to stand still at a place that has nothing to do with images.
#
# A cycle is made without noticing: a function with the iterator in a local variable that raises an exception which is in
# another of its local variables. The exception holds the frame by its traceback, and the frame holds the exception.
#
# Seen with torch 2.13.0 for the CPU and Python 3.11 on Linux, two workers. The script printed (the times differ a little):
#
#   torch 2.13.0+cpu, Python 3.11.7
#   let go of by the last reference: 0.3 s
#   found by the collector:          10.3 s
#   an exception that was raised from a local variable, found by the collector: 10.3 s
#   as described
#
# Fails if that changes.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet torch==2.13.0 numpy==2.4.6
cd "$folder"
cat > surprise.py <<'PYTHON'
import gc
import platform
import sys
import time

import torch
from torch.utils.data import DataLoader, TensorDataset

WORKERS = 2


def begun():
    iterator = iter(DataLoader(TensorDataset(torch.zeros(64, 8)), num_workers=WORKERS))
    next(iterator)
    return iterator


def let_go(iterator):
    del iterator


def leave_in_a_cycle():
    cycle = [begun()]
    cycle.append(cycle)


def raise_from_a_local_variable():
    iterator = begun()
    error = ValueError("an image cannot be read") if iterator else None
    raise error


def raised():
    try:
        raise_from_a_local_variable()
    except ValueError:
        pass


def seconds(leave):
    """Seconds until the workers are gone."""
    start = time.perf_counter()
    leave()
    gc.collect()
    return time.perf_counter() - start


gc.disable()  # runs only where it is asked for
print(f"torch {torch.__version__}, Python {platform.python_version()}")
seconds(lambda: let_go(begun()))  # the first start of processes takes longer
last_reference = seconds(lambda: let_go(begun()))
print(f"let go of by the last reference: {last_reference:.1f} s")
collected = seconds(leave_in_a_cycle)
print(f"found by the collector:          {collected:.1f} s")
exception = seconds(raised)
print(f"an exception that was raised from a local variable, found by the collector: {exception:.1f} s")
same = last_reference < 3 and all(5 * WORKERS <= value + 0.1 < 5 * WORKERS + 4 for value in (collected, exception))
print("as described" if same else "this is no longer as described")
sys.exit(not same)
PYTHON
venv/bin/python surprise.py
