"""`python -m benchmarks.gpu_parts PART JOB`: runs one part; `benchmarks.gpu` starts it.

JOB is the job as JSON. Whatever ends the part is written to the job's file `outcome`. The process
ends with `benchmarks.gpu`, even if that is killed.
"""

import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

from base.checks import InputError
from base.files import write_atomically
from base.texts import one_line
from benchmarks.gpu_parts.processes import MARK, kill_marked
from training.run.command import command


def reason(error: Exception) -> str:
    """Returns the reason for the end of a part, in one line."""
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        return f"needs the package {error.name.partition('.')[0]}, which is missing here"
    if isinstance(error, MemoryError) or "out of memory" in str(error):
        return ": ".join(filter(None, ["out of memory", one_line(error)]))
    return one_line(error) if isinstance(error, InputError) else f"{type(error).__name__}: {one_line(error)}"


def end_with(parent: int) -> None:
    """Kills this process and all that it has started once its parent is gone."""
    while os.getppid() == parent:
        time.sleep(0.5)
    kill_marked(os.environ[MARK])
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    name, given = sys.argv[1:]
    job = json.loads(given)
    threading.Thread(target=end_with, args=(job.pop("parent"),), daemon=True).start()
    outcome: dict[str, object]
    try:
        # Imported here, as one of their packages may be missing.
        part = importlib.import_module(f"benchmarks.gpu_parts.{name}")
        verdict = part.run(importlib.import_module("benchmarks.gpu_parts.job").Job(**job))
        outcome = {"passed": verdict.passed, "words": verdict.words}
    except Exception as error:
        is_input = isinstance(error, InputError)
        if not (is_input or isinstance(error, ModuleNotFoundError)):
            traceback.print_exc()
        outcome = {"passed": False, "words": reason(error), "is_input": is_input}
    write_atomically(Path(job["outcome"]), json.dumps(outcome))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # the end of the interpreter may wait for a device that hangs


if __name__ == "__main__":
    raise SystemExit(command("benchmarks.gpu_parts", main))
