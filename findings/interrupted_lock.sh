#!/usr/bin/env bash
# An exception that a signal raises can leave a lock of `with` locked for ever.
#
# A good engineer expects that `with condition:` releases the lock however the block is left, so that Ctrl-C, whose
# KeyboardInterrupt may come anywhere, cannot leave it locked.
#
# But it may come after the lock was taken and before the block has begun: `Condition.__enter__` is a function in Python, and
# an exception that is raised in it once it has the lock is not followed by `__exit__`. Where a program does little else than
# to take such locks, as the queues of torch's DataLoader do between two small batches, that happens at every few stops. The
# exit of the program then tells the processes of the loader to end, through the same queue, and waits for its lock for ever.
#
# Seen with Python 3.11.7 on Linux. The script printed (the number differs):
#
#   Python 3.11.7: locked for ever after 2 exceptions of a signal
#   as described
#
# Fails if that changes.
set -euo pipefail
python3 - <<'PYTHON'
import platform
import signal
import sys
import threading
import time


class Stopped(Exception):
    pass


def stop(number, frame):
    raise Stopped


signal.signal(signal.SIGALRM, stop)
lock = threading.Lock()
condition = threading.Condition(lock)
stops, began = 0, time.monotonic()
while not lock.locked() and time.monotonic() - began < 60:
    stops += 1
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-4 * (1 + stops % 50))
        while True:
            with condition:
                pass
    except Stopped:
        pass
found = f"locked for ever after {stops} exceptions of a signal" if lock.locked() else f"not locked after {stops}"
print(f"Python {platform.python_version()}: {found}")
print("as described" if lock.locked() else "this is no longer as described")
sys.exit(not lock.locked())
PYTHON
