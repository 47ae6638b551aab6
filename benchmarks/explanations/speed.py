"""`python -m benchmarks.explanations.speed`: the time of an explanation with its default budget, as a
share of the time of an epoch of the search that it explains.

The search is one in the space of DARTS on made images of CIFAR-10's size; its epoch is that of the
steps alone, without evaluations. Both grow with the number of images alike. They run in turns.
"""

import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

import torch

from benchmarks.options import at_least
from benchmarks.timing import header
from search.differentiable.config import SearchConfig
from search.differentiable.method import DifferentiableRun, search
from search.differentiable.trainer import BilevelSearch
from search.explain.explanation import ExplainOptions
from search.explain.supernets.explain import measure
from training.hardware import Hardware
from training.images.data import DATASETS, DataConfig, register_dataset
from training.images.sets import ImageSet
from training.run.arguments import Parser
from training.run.command import command
from training.run.config import RunOptions
from training.run.directory import RunDirectory
from training.tasks.task import open_task

PROG = "benchmarks.explanations.speed"


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog=PROG, description=(__doc__ or "").partition("\n\n")[0].replace("\n", " "), allow_abbrev=False)
    for name, usual, said in (
        ("images", 4096, "training images, half of which are for validation"),
        ("side", 32, "pixels a side"),
        ("cells", 8, "cells of the supernet"),
        ("channels", 16, "channels of its first cells"),
        ("batch_size", 64, "images of a step, for each level"),
        ("runs", 3, "turns, of which the median counts"),
        ("threads", 1, "CPU threads"),
    ):
        parser.add_argument(f"--{name}", type=at_least(1), default=usual, metavar="N", help=f"{said} (default: {usual})")
    options = parser.parse_args(argv)
    return command(PROG, lambda: compare(**vars(options)))


def compare(images: int, side: int, cells: int, channels: int, batch_size: int, runs: int, threads: int) -> None:
    """Prints the seconds of an epoch and of an explanation in each turn, and the median of their
    ratios."""
    with tempfile.TemporaryDirectory() as folder, DATASETS.temporarily():
        register_dataset("made")(partial(_made, images, side))
        path = Path(folder) / "run"
        config = SearchConfig(
            channels=channels, cells=cells, batch_size=batch_size, epochs=1, eigenvalue_every=0, device="cpu", threads=threads,
            data=DataConfig(name="made"),
        )  # fmt: skip
        search(config, RunOptions(path, False, False, pictures=False), "darts")
        hardware = Hardware.of(config, config.graph)
        searched = BilevelSearch(config, open_task(config, hardware), RunDirectory(path, config), hardware, pictures=False)
        print(header(hardware.device), flush=True)
        ratios = []
        for turn in range(runs):
            start = time.perf_counter()
            for batches in searched.batches_of(turn):
                searched.step(*batches)
            epoch = time.perf_counter() - start
            start = time.perf_counter()
            found = measure(DifferentiableRun.open(path), ExplainOptions(hardware.device))
            explained = time.perf_counter() - start
            ratios.append(explained / epoch)
            estimate = found.images / found.plan.of_epoch
            print(
                f"turn {turn + 1}: epoch {epoch:.1f} s, explanation {explained:.1f} s, {ratios[-1]:.2f} epochs; "
                f"{found.images:,} images through the supernet, {estimate:.2f} epochs by its estimate",
                flush=True,
            )
        print(f"median: {median(ratios):.2f} epochs")


def _made(images: int, side: int, config: DataConfig, part: str) -> ImageSet:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (images, 3, side, side), generator=generator, dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(images) % 10, 10, (0.5,) * 3, (0.25,) * 3)


if __name__ == "__main__":
    raise SystemExit(main())
