"""`python -m benchmarks.search_step`: time and memory of one search step, ours beside the plain
network's.

A search step is a validation pass for the alphas and a training pass for the weights with clipping
and both optimisers, first order, DARTS space. The plain network has one module an edge and
operation and calls `loss.backward()` in both passes, as published. Ours is the step that `search`
runs, its loss and accuracy included. All compute in the same precision, have the same fused
optimisers, and take turns.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from base.texts import one_line
from benchmarks.floor import floor_of_pass
from benchmarks.options import Rates, add_rates, at_least, command_line, rates_of
from benchmarks.plain.counting import saved_bytes
from benchmarks.plain.network import PlainSupernet
from benchmarks.plain.pairing import softmax
from benchmarks.timing import Measured, Step, goal, header, measure, random_images, ratio, shown
from search.differentiable.config import SearchConfig
from search.differentiable.trainer import BilevelSearch
from supernet import get_space
from supernet.cell import Kernels
from training.graph import GraphedStep, new_capture
from training.hardware import Hardware, Precision, autocast, choose_device
from training.images.data import DataConfig
from training.images.sets import Images
from training.metrics import Batch
from training.optim import OptimizerConfig, descend, new_optimizer
from training.report.markdown import table
from training.run.arguments import Parser, number
from training.run.command import command
from training.run.directory import RunDirectory
from training.tasks.classification import Classification

PLAIN_NCHW, PLAIN_CHANNELS_LAST = "plain, NCHW", "plain, channels_last"
PLAIN_EAGER, PLAIN_COMPILED, PLAIN_GRAPH = "plain, eager", "plain, compiled", "plain, CUDA graph"
OURS, OURS_EAGER, OURS_REFERENCE = "ours", "ours, no graph", "ours in plain torch, CUDA graph"
OURS_PLAIN_TORCH = "ours in plain torch"
SHARE_OF_PLAIN, SHARE_OF_SMALL_PLAIN = 0.15, 0.12
"""Goals on a CPU: the most of the plain network's time, from 16 channels on and below."""
CPU_SIZES = [(4, 3, 64, 8, 1), (16, 8, 16, 32, 3), (16, 8, 64, 32, 3)]
"""The networks measured on a CPU: channels, cells, batch, side of an image, its channels."""
COUNTED = 8
"""The most images of a pass in which memory is counted: that of an image is then known to 1%."""


@dataclass(frozen=True)
class Settings:
    """The settings of a measurement."""

    device: torch.device
    channels: int = 16
    cells: int = 8
    size: int = 32
    image_channels: int = 3
    runs: int = 5
    precision: Precision = "auto"
    compile_limit: float = 600.0
    rates: Rates = field(default_factory=Rates)

    @property
    def dtype(self) -> torch.dtype:
        """Returns the type that convolutions compute in."""
        with autocast(self.precision, self.device):
            enabled = torch.is_autocast_enabled(self.device.type)
        return torch.bfloat16 if enabled else torch.float32


def plain_step(settings: Settings, batch: int, compiled: bool = False, graphed: bool = False, nhwc: bool = False) -> Step:
    """Returns a step of the plain network."""
    device = settings.device
    torch.manual_seed(0)
    network: nn.Module = PlainSupernet("darts", settings.channels, settings.cells, 10, settings.image_channels).to(device)
    weights = new_optimizer(OptimizerConfig(), network.parameters())
    alphas = get_space("darts").new_alphas(device=device)
    on_gpu = device.type == "cuda"
    architecture = torch.optim.Adam(alphas.values(), 3e-4, (0.5, 0.999), weight_decay=1e-3, fused=True, capturable=on_gpu)
    run = torch.compile(network, dynamic=False) if compiled else network

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        with autocast(settings.precision, device):
            logits = run(images, softmax(alphas))
        return F.cross_entropy(logits.float(), labels)

    def step(images: Tensor, labels: Tensor, valid_images: Tensor, valid_labels: Tensor) -> None:
        architecture.zero_grad()
        loss(valid_images, valid_labels).backward()
        architecture.step()
        descend([loss(images, labels)], weights, 5.0)

    memory = torch.channels_last if nhwc else torch.contiguous_format
    return partial(GraphedStep(step, new_capture(graphed, device, "sgd")), *random_batches(settings, batch, memory))


def random_batches(settings: Settings, batch: int, memory: torch.memory_format) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Returns images and labels for training, then for validation."""
    images = torch.randn(2, batch, settings.image_channels, settings.size, settings.size, device=settings.device)
    labels = torch.randint(0, 10, (2, batch), device=settings.device)
    train, valid = (part.contiguous(memory_format=memory) for part in images)
    return train, labels[0], valid, labels[1]


def new_search(
    settings: Settings,
    batch: int,
    kernels: Kernels = "auto",
    graph: bool | None = None,
    images: Images | None = None,
    data: DataConfig | None = None,
) -> BilevelSearch:
    """Returns a search as `python -m search.darts` makes it, which writes nothing; on `images`
    augmented as `data` says, or on noise."""
    config = SearchConfig(
        channels=settings.channels,
        cells=settings.cells,
        batch_size=batch,
        device=str(settings.device),
        precision=settings.precision,
        kernels="reference" if kernels == "reference" else "auto",
        graph=graph,
        data=data or DataConfig(),
    )
    hardware = Hardware.of(config, graph)
    task = Classification.of_images(
        config.data, images or random_images(2 * batch, settings.size, channels=settings.image_channels), hardware
    )
    search = BilevelSearch(config, task, RunDirectory(Path("nowhere"), config), hardware)
    for cell in search.network.mixed_cells():
        cell.kernels = kernels
    search.network.train()
    return search


def our_step(settings: Settings, batch: int, kernels: Kernels = "auto", graph: bool | None = None) -> Step:
    """Returns the step of such a search."""
    search = new_search(settings, batch, kernels, graph)
    train, labels, valid, valid_labels = random_batches(settings, batch, torch.channels_last)
    return partial(search.graphed, Batch(train, labels), Batch(valid, valid_labels))


def saved_megabytes(network: nn.Module, images: Tensor) -> float:
    """Returns the memory that a training pass keeps for backward, without weights, in MB an
    image."""
    alphas = get_space("darts").new_alphas(device=images.device)
    kept_anyway = [*network.parameters(), *network.buffers()]
    return saved_bytes(lambda: network(images, softmax(alphas)), kept_anyway) / len(images) / 1e6


def variants(settings: Settings, batch: int) -> dict[str, Callable[[], Step]]:
    """Returns the functions that make the step of each row."""
    plain, ours = partial(plain_step, settings, batch), partial(our_step, settings, batch)
    if settings.device.type != "cuda":
        return {
            PLAIN_NCHW: plain,
            PLAIN_CHANNELS_LAST: partial(plain, nhwc=True),
            OURS_PLAIN_TORCH: partial(ours, kernels="reference"),
            OURS: ours,
        }
    compiled = {PLAIN_COMPILED: partial(_compiled_step, settings, batch)} if settings.compile_limit else {}
    return {
        PLAIN_EAGER: plain,
        **compiled,
        PLAIN_GRAPH: partial(plain, graphed=True),
        OURS: ours,
        OURS_EAGER: partial(ours, graph=False),
        OURS_REFERENCE: partial(ours, kernels="reference"),
    }


def _compiled_step(settings: Settings, batch: int) -> Step:
    """Returns the compiled step, once another process has compiled it into torch's cache.

    A compilation cannot be stopped from within its process. Raises RuntimeError if it fails or
    takes too long.
    """
    arguments = ["--device", str(settings.device), "--channels", str(settings.channels), "--cells", str(settings.cells)]
    arguments += ["--size", str(settings.size), "--precision", settings.precision, "--batch", str(batch), "--compile-only"]
    with tempfile.TemporaryFile("w+") as errors:
        command = [sys.executable, "-m", "benchmarks.search_step", *arguments]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True)
        try:
            status = process.wait(settings.compile_limit)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"compiling took longer than {settings.compile_limit:g} s") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # the compiler has processes of its own
                process.wait()
        errors.seek(0)
        last = [line for line in errors.read().splitlines() if line.strip()][-1:]
    if status:
        raise RuntimeError(f"compiling failed: {one_line(last[0] if last else f'status {status}')}")
    torch._dynamo.reset()
    return plain_step(settings, batch, compiled=True)


def measure_batch(settings: Settings, batch: int, only: tuple[str, ...] = ()) -> dict[str, Measured]:
    """Measures all rows (or those named `only`) for one batch size."""
    chosen = {name: make for name, make in variants(settings, batch).items() if not only or name in only}
    on_gpu = settings.device.type == "cuda"
    # Compiled code, and code that runs without a dispatcher, cannot be counted.
    counted = [name for name in chosen if name != PLAIN_COMPILED] if on_gpu else []
    found = measure(chosen, settings.device, settings.runs, counted)
    for name, measured in found.items() if not on_gpu else ():
        images = torch.randn(min(batch, COUNTED), settings.image_channels, settings.size, settings.size)
        if name in (OURS, OURS_PLAIN_TORCH):
            network: nn.Module = new_search(settings, batch, "auto" if name == OURS else "reference").network
        else:
            network = PlainSupernet("darts", settings.channels, settings.cells, 10, settings.image_channels)
            memory = torch.channels_last if name == PLAIN_CHANNELS_LAST else torch.contiguous_format
            images = images.contiguous(memory_format=memory)
        with autocast(settings.precision, settings.device):
            measured.saved_mb = saved_megabytes(network, images)
    return found


def floor_seconds(settings: Settings, batch: int) -> float:
    """Returns the least time of a step: that of its two passes."""
    floor = floor_of_pass(settings.channels, settings.cells, batch, settings.size, settings.dtype.itemsize)
    return 2 * floor.seconds(settings.rates)


def rows_of(settings: Settings, batch: int, found: dict[str, Measured]) -> tuple[list[str], list[list[object]]]:
    """Returns columns and rows of the table for one batch size."""
    rows: list[list[object]] = []
    if settings.device.type != "cuda":
        floor = floor_seconds(settings, batch)
        for name, own in found.items():
            over = own.milliseconds / 1000 / floor if own.milliseconds else None
            cells = [
                shown(own.milliseconds, ".1f"),
                shown(ratio(own, found[PLAIN_NCHW])),
                shown(own.saved_mb, ".1f"),
                shown(over),
            ]
            rows.append([name, *(cells if own.seconds else [own.words, *cells[1:]])])
        columns = ["network", "median ms a step", "ratio to plain NCHW (median of pairs)", "saved for backward, MB an image"]
        return [*columns, "time over the floor"], rows
    for name, own in found.items():
        over_floor = own.milliseconds / 1000 / floor_seconds(settings, batch) if own.milliseconds and name == OURS else None
        rows.append(
            [
                name,
                shown(own.milliseconds) or own.words,
                shown(ratio(own, found[OURS])),
                shown(own.peak_mb, ".0f"),
                own.launches,
                shown(over_floor),
            ]
        )
    columns = ["network", "median ms a step", "ratio to ours (median of pairs)", "peak memory, MB", "launches a step"]
    return [*columns, "time over the floor"], rows


def goals(settings: Settings, batch: int, found: dict[str, Measured]) -> str:
    """Returns a list of goals and measurements."""
    lines = ""
    if settings.device.type != "cuda":
        limit = SHARE_OF_PLAIN if settings.channels >= 16 else SHARE_OF_SMALL_PLAIN
        value = ratio(found[OURS], found[PLAIN_NCHW])
        lines += goal(f"at most {limit} of the time of {PLAIN_NCHW}", value, value is not None and value <= limit)
        saved = [found[name].saved_mb for name in (OURS, PLAIN_NCHW)]
        kept = saved[0] / saved[1] if saved[0] and saved[1] else None
        return lines + goal("at most 0.65 of its memory", kept, kept is not None and kept <= 0.65)

    def speedup(name: str) -> float | None:
        return ratio(found[name], found[OURS]) if name in found else None

    speed = speedup(PLAIN_EAGER)
    lines += goal(f"20 times faster than {PLAIN_EAGER}", speed, speed is not None and speed >= 20)
    stock = [value for name in (PLAIN_COMPILED, PLAIN_GRAPH) if (value := speedup(name)) is not None]
    best = min(stock, default=None)
    lines += goal("5 times faster than the best stock way", best, best is not None and best >= 5)
    ours = found[OURS].milliseconds
    over = None if ours is None else ours / 1000 / floor_seconds(settings, batch)
    lines += goal("at most 2 times the floor", over, over is not None and over <= 2)
    peaks = [found[name].peak_mb for name in (OURS, PLAIN_EAGER)]
    memory = peaks[0] / peaks[1] if peaks[0] and peaks[1] else None
    return lines + goal(f"at most 0.25 of the peak memory of {PLAIN_EAGER}", memory, memory is not None and memory <= 0.25)


def report(settings: Settings, batches: list[int], command: str) -> tuple[str, dict[int, dict[str, Measured]]]:
    """Returns the record in Markdown, and its values by batch size."""
    facts = [f"{settings.runs} paired runs", str(settings.dtype).removeprefix("torch.")]
    lines = [header(settings.device, *facts), f"{command}: first-order search step"]
    lines.append(f"floor: the shapes' work (benchmarks/floor.py) at {settings.rates}")
    text, results = "\n\n".join(lines) + "\n", {}
    for batch in batches:
        found = results[batch] = measure_batch(settings, batch)
        text += section(settings, batch, found)
    return f"{text}\nBatch {batches[0]}:\n\n{goals(settings, batches[0], results[batches[0]])}", results


def section(settings: Settings, batch: int, found: dict[str, Measured]) -> str:
    """Returns the table for one batch size, with its heading and remarks."""
    size = f"{settings.size}x{settings.size}x{settings.image_channels}"
    text = f"\nDARTS space, C={settings.channels}, {settings.cells} cells, batch {batch}, {size}\n\n"
    text += table(*rows_of(settings, batch, found))
    notes = [f"- {name}: {own.words}\n" for name, own in found.items() if own.words and own.seconds]
    return text + ("".join(["\n", *notes]) if notes else "")


def cpu_report(settings: Settings, command: str) -> Iterator[str]:
    """Yields the parts of a CPU's record, for the networks of `CPU_SIZES`."""
    facts = f"{settings.runs} paired runs, float32"
    yield f"{header(settings.device, facts)}\n\n{command}: first-order search step\n\nfloor: the shapes' work "
    yield f"(benchmarks/floor.py) at {settings.rates}\n"
    for channels, cells, batch, size, image_channels in CPU_SIZES:
        own = replace(settings, channels=channels, cells=cells, size=size, image_channels=image_channels)
        found = measure_batch(own, batch)
        yield f"{section(own, batch, found)}\n{goals(own, batch, found)}"


def measured_rates(device: torch.device) -> Rates:
    """Returns the rates of this CPU: of copies (bytes read and written) and of float32 products."""
    values, side = torch.ones(2**26), torch.rand(1024, 1024)
    copy = torch.empty_like(values)

    def best(run: Callable[[], object]) -> float:
        times = []
        for _ in range(6):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return min(times)

    product = 2 * 1024**3 / best(lambda: side @ side) / 1e12
    return Rates(8 * len(values) / best(lambda: copy.copy_(values)) / 1e12, product, product)


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="benchmarks.search_step", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu, cuda ...")
    parser.add_argument("--channels", type=at_least(1), help="C of the first cells (16)")
    parser.add_argument("--cells", type=at_least(3), help="number of cells (8)")
    parser.add_argument("--batch", type=at_least(2), nargs="+", help="images a pass; a table each (16, on a GPU 64 and 256)")
    parser.add_argument(
        "--size", type=at_least(4), help="side of an image in pixels (32); on a CPU without any size: three networks"
    )
    parser.add_argument(
        "--runs", type=at_least(1), help="paired runs: each variant in turn, on a GPU 5 steps of it (5, on a GPU 20)"
    )
    parser.add_argument("--threads", type=at_least(1), help="CPU threads")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto", help="auto: bfloat16 on a GPU")
    parser.add_argument("--compile-limit", type=number, default=600.0, help="most seconds for torch.compile (0: leave it out)")
    parser.add_argument("--compile-only", action="store_true", help=argparse.SUPPRESS)
    add_rates(parser)
    options = parser.parse_args(argv)
    try:
        device = choose_device(options.device, options.threads)
    except ValueError as error:
        print(f"benchmarks.search_step: error: {error}", file=sys.stderr)
        return 2
    on_gpu = device.type == "cuda"
    settings = Settings(
        device,
        options.channels or 16,
        options.cells or 8,
        options.size or 32,
        runs=options.runs or (20 if on_gpu else 5),
        precision=options.precision,
        compile_limit=options.compile_limit,
        rates=rates_of(options) if on_gpu else measured_rates(device),
    )
    command = command_line("benchmarks.search_step", argv)
    batches = options.batch or ([64, 256] if on_gpu else [16])
    if options.compile_only:
        plain_step(settings, batches[0], compiled=True)()
    elif on_gpu or options.channels or options.cells or options.batch or options.size:
        print(report(settings, batches, command)[0], end="")
    else:
        for part in cpu_report(settings, command):
            print(part, end="", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(command("benchmarks.search_step", main))
