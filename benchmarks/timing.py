"""The tools of the benchmarks: variants in turns, memory, launches, tables, headers of records."""

import gc
import platform
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from statistics import median
from typing import TypeVar

import torch
from torch import Tensor

from base.texts import one_line
from benchmarks.plain.counting import launches
from ops.kernels.launch import triton
from training.graph import WARM_UP
from training.images.sets import ImageSet

Step = Callable[[], object]
T = TypeVar("T")

STEPS_A_TURN = 5
"""Number of steps that are started in a row on a GPU, as in a search, before the host waits."""


@dataclass
class Measured:
    """The measurements of one variant; `words` say why some are missing."""

    name: str
    seconds: list[float] = field(default_factory=list)
    """Seconds of one step, in each turn."""
    peak_mb: float | None = None
    """Largest memory in use in a step on a GPU, counting the variant's own tensors, in 2^20
    bytes."""
    launches: int | None = None
    """Number of kernels that a step starts, or that its graph replays."""
    saved_mb: float | None = None
    """Memory that a training pass keeps for backward, MB an image."""
    words: str = ""

    @property
    def milliseconds(self) -> float | None:
        """Returns the median."""
        return 1000 * median(self.seconds) if self.seconds else None


def ratio(one: Measured, other: Measured) -> float | None:
    """Returns how many times as long `one` takes: the median over the turns, in each of which both
    ran."""
    pairs = zip(one.seconds, other.seconds, strict=False)
    return median(own / reference for own, reference in pairs) if one.seconds and other.seconds else None


def measure(
    variants: Mapping[str, Callable[[], Step]], device: torch.device, runs: int, counted: Iterable[str] = ()
) -> dict[str, Measured]:
    """Makes all variants, then times them in `runs` turns.

    A variant that fails leaves its reason; the others go on.

    The first steps warm up. On a GPU memory is measured in them, up to and with the capture of a
    graph, and in one of them kernels are counted for the variants `counted`.
    """
    found = {name: Measured(name) for name in variants}
    steps: dict[str, Step] = {}
    for name, make in variants.items():
        step = _attempt(found[name], partial(_prepare, make, found[name], device, name in counted))
        if step is not None:
            steps[name] = step
        _tidy(device)
    for _ in range(runs):
        for name, step in list(steps.items()):
            seconds = _attempt(found[name], partial(_time, step, device))
            if seconds is None:
                del steps[name]
                found[name].seconds.clear()
            else:
                found[name].seconds.append(seconds)
    steps.clear()
    _tidy(device)
    return found


def _attempt(measured: Measured, call: Callable[[], T]) -> T | None:
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = call()
    except Exception as error:  # after any error of one variant the others go on
        lacks = isinstance(error, MemoryError) or "out of memory" in str(error)
        measured.words = "out of memory" if lacks else f"{type(error).__name__}: {one_line(error)}"
        return None
    told = [one_line(warning.message) for warning in caught if str(warning.message).startswith("no ")]
    measured.words = "; ".join(dict.fromkeys(filter(None, [measured.words, *told])))
    return result


def _prepare(make: Callable[[], Step], measured: Measured, device: torch.device, counted: bool) -> Step:
    """Returns the step, warm: on a GPU a graph has been captured and replayed."""
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    step = make()
    step()
    if counted:
        measured.launches = launches(step).total()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        for _ in range(WARM_UP + 1):
            step()
        torch.cuda.synchronize(device)
        measured.peak_mb = (torch.cuda.max_memory_allocated(device) - before) / 2**20
    return step


def _time(step: Step, device: torch.device) -> float:
    steps = 1
    if device.type == "cuda":
        steps = STEPS_A_TURN
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / steps


def _tidy(device: torch.device) -> None:
    """Frees unused memory, as the next variant may need it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def device_name(device: torch.device) -> str:
    """Returns the name of the device."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"{torch.cuda.get_device_name(device)} (sm_{major}{minor}, CUDA {torch.version.cuda})"
    threads = torch.get_num_threads()
    return f"{platform.machine()} CPU, {threads} thread{'s' if threads > 1 else ''}"


def header(device: torch.device, *facts: str) -> str:
    """Returns device, versions, date and other facts about a record, in one line."""
    versions = f"torch {torch.__version__}, Triton {'none' if triton is None else triton.__version__}"
    parts = [device_name(device), versions, f"Python {platform.python_version()}", f"{datetime.now(UTC):%Y-%m-%d}", *facts]
    return ", ".join(parts)


def shown(value: float | None, form: str = ".2f") -> str | None:
    """Returns a number as text for a table."""
    return None if value is None else f"{value:{form}}"


def goal(text: str, measured: float | None, met: bool) -> str:
    """Returns a line of the list that ends a benchmark."""
    result = "not measured" if measured is None else f"{measured:.2f}, {'met' if met else 'not met'}"
    return f"- goal: {text}; measured: {result}\n"


def random_images(count: int, size: int, classes: int = 10, channels: int = 3) -> ImageSet:
    """Returns noise around one picture a class, which can be learnt: uint8
    [count, channels, size, size]."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    pictures = torch.rand(classes, channels, size, size, generator=generator)
    noise = torch.rand(count, channels, size, size, generator=generator)
    pixels: Tensor = (255 * (0.3 * pictures[labels] + 0.7 * noise)).to(torch.uint8)
    return ImageSet(pixels, labels, classes, (0.5,) * channels, (0.25,) * channels)
