"""`python -m benchmarks.cpu_steps`: steps of other kinds on a CPU, on compiled kernels and in plain
torch.

GDAS and a method that samples run one path of the supernet, PC-DARTS sends some channels past all
operations; retraining runs the network of a genotype. All take turns.

`--scaling` measures the search step of DARTS with one thread and with two, in the networks of the
table of `benchmarks.search_step`. `--levers` measures what makes the search step fast: the step as
it is, and with one thing left out.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks import retrain_step, search_step
from benchmarks.options import at_least, command_line
from benchmarks.timing import Measured, Step, goal, header, measure, random_images, ratio, shown
from ops.native import entrance, executor, library, memory
from search.differentiable import steps
from search.differentiable.trainer import BilevelSearch
from search.methods import get_method
from search.sampling.method import SamplingMethod
from search.sampling.trainer import SamplingSearch
from supernet import cell
from supernet.genotypes.published import get_genotype
from training.hardware import Hardware, choose_device
from training.report.markdown import table
from training.run.arguments import Parser
from training.run.command import command
from training.run.directory import RunDirectory
from training.tasks.classification import Classification

METHODS = ("gdas", "random", "pcdarts")
GENOTYPE = "DARTS_V2"
MOST = 0.6
"""Goal: the most of the time in plain torch."""
SPEEDUP = 1.5
"""Goal: how many times as fast two threads are."""
WARM_SECONDS, TURN_SECONDS = 0.1, 0.5
"""How long a turn of `--scaling` runs before it is timed, and how long it is timed, at least: threads
that have been asked for are there some steps later."""
SIZES = {"channels": 16, "cells": 8, "batch": 16, "size": 32}
"""The network that is measured where nothing else is asked for."""
UNREAD = {"levers": tuple(SIZES), "scaling": (*SIZES, "threads")}
"""Options that a mode does not read."""


def search_method_step(settings: search_step.Settings, batch: int, name: str, kernels: str) -> Step:
    """Returns a step of a method in the DARTS space."""
    sizes = ["--channels", str(settings.channels), "--cells", str(settings.cells), "--batch_size", str(batch)]
    return method_step(name, ["--space", "darts", "--device", "cpu", "--kernels", kernels, *sizes], settings.size)


def method_step(name: str, arguments: Sequence[str], size: int) -> Step:
    """Returns a step of a method with these arguments of its command, on noise of that many pixels
    a side."""
    method = get_method(name)
    config, _ = method.parse(list(arguments))
    images, run = random_images(4 * config.batch_size, size), RunDirectory(Path("nowhere"), config)
    hardware = Hardware.of(config, getattr(config, "graph", False))
    task = Classification.of_images(config.data, images, hardware)
    if isinstance(method, SamplingMethod):
        weights = SamplingSearch(method.sampler, config, task, run, hardware, None).weights
        assert weights is not None
        weights.network.train()
        return partial(weights.steps, next(iter(weights.train.epoch(0))))
    search = BilevelSearch(config, task, run, hardware)
    search.network.train()
    return partial(search.graphed, *next(search.batches_of(0)))


Replacement = tuple[object, str, object]
"""An object, the name of its attribute, and what is there instead."""


def _shared_memory() -> list[Replacement]:
    own = memory.Memory()
    return [(memory, "PRIVATE", {}), (entrance, "MEMORY", own), (executor, "MEMORY", own)]


def _narrow_vectors() -> list[Replacement]:
    """The kernels are built for any processor of this kind."""
    flags = [flag for flag in library._flags() if "native" not in flag]
    with patch.object(library, "_flags", lambda: flags), tempfile.TemporaryDirectory() as directory:
        built = library._kept(library.find_compiler(), torch.float32, Path(directory) / "cells.so")
    return [(library, "load", lambda dtype: built)]


def _new_memory(self: memory.Memory, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype)


LEVERS: dict[str, Callable[[], list[Replacement]]] = {
    "all": list,
    "without compiled entrances": lambda: [(cell, "is_entrance", lambda layer: False)],
    "without memory that is kept": lambda: [(memory.Memory, "empty", _new_memory)],
    "without large pages": _shared_memory,
    "without vectors above 16 bytes": _narrow_vectors,
    "with weight gradients in the architecture pass": lambda: [(steps, "frozen", lambda parameters: nullcontext())],
}
"""What the search step is measured without."""


def lever_step(settings: search_step.Settings, batch: int, name: str) -> Step:
    """Returns the search step with one thing left out."""
    step, replacements = search_step.our_step(settings, batch), LEVERS[name]()

    def run() -> None:
        with ExitStack() as stack:
            for replacement in replacements:
                stack.enter_context(patch.object(*replacement))
            step()

    return run


def lever_report(settings: search_step.Settings, command: str) -> Iterator[str]:
    """Yields the parts of the record of all levers, for the first two networks of the table of
    `benchmarks.search_step`."""
    yield f"{header(settings.device, f'{settings.runs} paired runs', 'float32')}\n\n{command}: first-order search step\n"
    for channels, cells, batch, size, image_channels in search_step.CPU_SIZES[:2]:
        own = replace(settings, channels=channels, cells=cells, size=size, image_channels=image_channels)
        found = measure({name: partial(lever_step, own, batch, name) for name in LEVERS}, own.device, own.runs)
        yield f"\nDARTS space, C={channels}, {cells} cells, batch {batch}, {size}x{size}x{image_channels}\n\n"
        rows = [[name, *_cells(each), shown(ratio(each, found["all"]))] for name, each in found.items()]
        yield table(["search step", "ms", "ratio (median of pairs)"], rows)


def run_for(step: Step, seconds: float) -> float:
    """Runs a step for that long, once at least, and returns its mean time."""
    start, count = time.perf_counter(), 0
    while not count or time.perf_counter() - start < seconds:
        step()
        count += 1
    return (time.perf_counter() - start) / count


def scaling_report(settings: search_step.Settings, command: str) -> Iterator[str]:
    """Yields the parts of the record of one thread and of two, for the networks of the table of
    `benchmarks.search_step`."""
    threads = torch.get_num_threads()
    yield f"{header(settings.device, f'{settings.runs} paired runs', 'float32')}\n\n{command}: first-order search step\n\n"
    for channels, cells, batch, size, image_channels in search_step.CPU_SIZES:
        own = replace(settings, channels=channels, cells=cells, size=size, image_channels=image_channels)
        step = search_step.our_step(own, batch)
        one, two = Measured("1 thread"), Measured("2 threads")
        for _ in range(settings.runs):
            for count, measured in ((1, one), (2, two)):
                torch.set_num_threads(count)
                run_for(step, WARM_SECONDS)
                measured.seconds.append(run_for(step, TURN_SECONDS))
        torch.set_num_threads(threads)
        ratios = sorted(slow / fast for slow, fast in zip(one.seconds, two.seconds, strict=True))
        value = median(ratios)
        yield f"C={channels}, {cells} cells, batch {batch}, {size}x{size}x{image_channels}: {one.milliseconds:.1f} ms "
        yield f"with one thread, {two.milliseconds:.1f} with two; pairs from {ratios[0]:.2f} to {ratios[-1]:.2f}\n"
        yield goal(f"{SPEEDUP} times as fast with 2 threads as with one", value, value >= SPEEDUP) + "\n"


def report(settings: search_step.Settings, batch: int, command: str) -> str:
    """Returns the record in Markdown."""
    head = header(settings.device, f"{settings.runs} paired runs", "float32")
    retraining = retrain_step.Settings(settings.device, get_genotype(GENOTYPE), settings.channels, settings.cells, batch)
    retraining = replace(retraining, size=settings.size)
    makes: dict[str, Callable[[str], Step]] = {name: partial(search_method_step, settings, batch, name) for name in METHODS}
    makes["retraining"] = lambda kernels: retrain_step.our_step(
        retraining, kernels="auto" if kernels == "auto" else "reference"
    )
    variants = {
        f"{name}, {kernels}": partial(make, kernels) for name, make in makes.items() for kernels in ("auto", "reference")
    }
    found = measure(variants, settings.device, settings.runs)
    rows: list[list[object]] = []
    goals = ""
    for name in makes:
        own, plain = found[f"{name}, auto"], found[f"{name}, reference"]
        value = ratio(own, plain)
        rows.append([name, *_cells(own), *_cells(plain), shown(value)])
        goals += goal(f"{name}: at most {MOST} of the time in plain torch", value, value is not None and value <= MOST)
    size = f"C={settings.channels}, {settings.cells} cells, batch {batch}, {settings.size}x{settings.size}"
    text = f"{head}\n\n{command}: {size}\n\n"
    text += table(["step", "ms on compiled kernels", "ms in plain torch", "ratio (median of pairs)"], rows)
    return f"{text}\n{goals}"


def _cells(measured: Measured) -> list[str | None]:
    return [shown(measured.milliseconds, ".1f") or measured.words]


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="benchmarks.cpu_steps", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--channels", type=at_least(2), help="C of the first cells (16)")
    parser.add_argument("--cells", type=at_least(3), help="number of cells (8)")
    parser.add_argument("--batch", type=at_least(2), help="images a step (16)")
    parser.add_argument("--size", type=at_least(8), help="side of an image in pixels (32)")
    parser.add_argument("--runs", type=at_least(1), default=5, help="paired runs: each variant in turn")
    parser.add_argument("--threads", type=at_least(1), help="CPU threads (1)")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--scaling", action="store_true", help="the search step of three networks on 1 thread and on 2")
    mode.add_argument("--levers", action="store_true", help="what makes the search step of two networks fast")
    options = parser.parse_args(argv)
    for mode_name, unread in UNREAD.items():
        given = [f"--{name}" for name in unread if getattr(options, mode_name) and getattr(options, name) is not None]
        if given:
            parser.error(f"argument --{mode_name}: has its own; leave out {', '.join(given)}")
    sizes = {name: getattr(options, name) or usual for name, usual in SIZES.items()}
    device = choose_device("cpu", options.threads or 1)
    settings = search_step.Settings(device, sizes["channels"], sizes["cells"], sizes["size"], runs=options.runs)
    command = command_line("benchmarks.cpu_steps", argv)
    if options.levers or options.scaling:
        for part in (lever_report if options.levers else scaling_report)(settings, command):
            print(part, end="", flush=True)
        return 0
    print(report(settings, sizes["batch"], command), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(command("benchmarks.cpu_steps", main))
