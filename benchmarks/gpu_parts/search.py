"""A whole search by the clock."""

import re
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from benchmarks.gpu_parts.job import Job, Verdict
from training.run.history import HISTORY_FILE

END = 20.0
"""Seconds of its share that a search has left for its last epoch, its genotype and its report."""


def run(job: Job) -> Verdict:
    """Times a whole first-order search as published, from the start of Python to the genotype.

    It is on CIFAR-10, or on as many random images. A share of a budget ends it after the epoch that
    goes beyond.
    """
    with tempfile.TemporaryDirectory() as folder:
        if job.data is not None and not job.small:
            arguments = ["--data.root", job.data]
        else:
            images = Path(folder) / "images.npz"
            write_images(images, *((160, 32, 8) if job.small else (50_000, 10_000, 32)))
            arguments = ["--data.name", "npz", "--data.root", str(images)]
        epochs = 1 if job.small else job.epochs
        if job.small:
            arguments += ["--channels", "4", "--cells", "3", "--batch_size", "32", "--threads", "1"]
        left = job.left()
        if left is not None:
            arguments += ["--stop.hours", f"{max(left - END, 1.0) / 3600:.4f}"]
        directory = Path(job.directory) / "search"
        arguments += ["--epochs", str(epochs), "--device", job.device, "--run", str(directory), "--overwrite"]
        return search(job, directory, ["--config", "cifar10_darts", *arguments])


def search(job: Job, directory: Path, arguments: list[str]) -> Verdict:
    """Runs the search, and tells of its epochs as they end."""
    with suppress(OSError):
        (directory / HISTORY_FILE).unlink()  # that of an earlier search
    done, start = 0, time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen([sys.executable, "-m", "search.darts", *arguments], stderr=errors)
        while True:
            try:
                status: int | None = process.wait(0.5)
            except subprocess.TimeoutExpired:
                status = None
            seconds = time.perf_counter() - start
            if (ended := epochs_of(directory)) != done or status is not None:
                done = ended
                words = f"{seconds:.0f} s for {done} epochs, {seconds / max(done, 1):.1f} s an epoch, all included"
                text = f"`python -m search.darts {' '.join(arguments)}`: {words}\n"
                job.write("search", text, {"seconds": seconds, "epochs": done, "status": status})
                job.tell(words)
            if status is not None:
                break
        reason = last_line(errors)
    if status:
        missing = re.search(r"No module named '(\w+)", reason)
        needs = f"needs the package {missing[1]}, which is missing here; " if missing else ""
        return Verdict(False, f"{needs}status {status} after {seconds:.0f} s: {reason}")
    return Verdict((directory / "genotype.json").is_file(), words)


def epochs_of(directory: Path) -> int:
    """Returns the number of epochs that a search has behind it."""
    try:
        return len((directory / HISTORY_FILE).read_text(encoding="utf-8").splitlines())
    except OSError:
        return 0


def last_line(errors: IO[str]) -> str:
    """Prints the errors of a search and returns the last line."""
    errors.seek(0)
    text = errors.read()
    print(text, end="", flush=True)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def write_images(path: Path, train: int, test: int, size: int) -> None:
    """Writes random images of ten classes, uint8 [N, size, size, 3], as an .npz file."""
    random = np.random.default_rng(0)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for part, count in (("train", train), ("test", test)):
        arrays[f"x_{part}"] = random.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
        arrays[f"y_{part}"] = np.arange(count) % 10
    np.savez(path, **arrays)  # type: ignore[arg-type]  # the stubs take them for its option of type bool
