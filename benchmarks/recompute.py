"""`python -m benchmarks.recompute`: memory and time of steps that compute cells again for backward.

A step of a search (first order, DARTS space) and one of a retraining (with auxiliary head and drop
path), as `search` and `retrain` run them, each without and with `--recompute cells`, in turns. Both
end with the same bits, which is checked before anything is timed.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from benchmarks.options import at_least, command_line
from benchmarks.plain.counting import alive_bytes, saved_bytes
from benchmarks.retrain_step import DROP_PATH
from benchmarks.timing import Measured, Step, goal, header, measure, random_images, ratio, shown
from retrain.config import RetrainConfig
from retrain.trainer import Retraining
from search.differentiable.config import SearchConfig
from search.differentiable.trainer import BilevelSearch
from supernet.genotypes.genotype import Genotype
from supernet.genotypes.published import read_genotype
from supernet.recompute import Recompute
from training.hardware import Hardware, Precision, choose_device
from training.metrics import Batch
from training.report.markdown import table
from training.run.arguments import Parser
from training.run.command import command
from training.run.directory import RunDirectory
from training.tasks.classification import Classification

MOST_MEMORY = 0.25
MOST_TIME = 1.35


@dataclass(frozen=True)
class Settings:
    """The settings of a measurement."""

    device: torch.device
    genotype: Genotype
    channels: int = 16
    cells: int = 8
    batch: int = 16
    size: int = 32
    runs: int = 5
    precision: Precision = "auto"
    kernels: Literal["auto", "reference"] = "auto"

    def batches(self, count: int) -> list[Batch]:
        """Returns `count` batches of noise, the same ones each time."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(count, self.batch, 3, self.size, self.size, generator=generator).to(self.device)
        labels = torch.randint(0, 10, (count, self.batch), generator=generator).to(self.device)
        return [Batch(part.contiguous(memory_format=torch.channels_last), of) for part, of in zip(images, labels, strict=True)]

    def common(self, recompute: Recompute) -> dict[str, Any]:
        """Returns the fields that both configurations have."""
        size = {"channels": self.channels, "cells": self.cells, "batch_size": self.batch}
        return size | {"precision": self.precision, "device": str(self.device), "kernels": self.kernels, "recompute": recompute}


@dataclass(frozen=True)
class Stage:
    """One of both trainers, with its step and the forward pass whose memory is counted."""

    trainer: BilevelSearch | Retraining
    step: Step
    forward: Callable[[], object]

    def kept_anyway(self) -> list[Tensor]:
        """Returns tensors that are there with or without a pass."""
        return [*self.trainer.network.parameters(), *self.trainer.network.buffers()]


def searching(settings: Settings, recompute: Recompute) -> Stage:
    """Returns a search as `python -m search.darts` makes it, which writes nothing."""
    config = SearchConfig(**settings.common(recompute))
    hardware = Hardware.of(config, config.graph)
    task = Classification.of_images(config.data, random_images(2 * settings.batch, settings.size), hardware)
    search = BilevelSearch(config, task, RunDirectory(Path("nowhere"), config), hardware)
    search.network.train()
    batches = settings.batches(2)
    mixture = {kind: table.detach() for kind, table in search.architecture.mean().items()}
    return Stage(search, partial(search.graphed, *batches), partial(search.step.outputs, batches[0], mixture))


def retraining(settings: Settings, recompute: Recompute) -> Stage:
    """Returns a retraining as `python -m retrain` makes it, which writes nothing."""
    weight = 0.4 if settings.genotype.skeleton.auxiliary else 0.0
    config = RetrainConfig(**settings.common(recompute), auxiliary_weight=weight)
    hardware = Hardware.of(config, config.graph)
    task = Classification.of_images(config.data, random_images(settings.batch, settings.size), hardware)
    trainer = Retraining(config, settings.genotype, task, hardware)
    trainer.network.train()
    assert isinstance(trainer.network.drop_path, Tensor)
    trainer.network.drop_path.fill_(DROP_PATH)
    (batch,) = settings.batches(1)

    def forward() -> object:
        with hardware.autocast():
            return trainer.network.forward_with_auxiliary(batch.inputs) if weight else trainer.network(batch.inputs)

    return Stage(trainer, partial(trainer.graphed, batch), forward)


STAGES: dict[str, Callable[[Settings, Recompute], Stage]] = {"search": searching, "retraining": retraining}


def measure_stage(settings: Settings, name: str) -> dict[str, Measured]:
    """Returns what the step of a stage takes without and with recomputation."""
    make = STAGES[name]
    variants: dict[str, Recompute] = {each: each for each in get_args(Recompute)}
    steps = {each: partial(_step, settings, name, recompute) for each, recompute in variants.items()}
    found = measure(steps, settings.device, settings.runs)
    for each, measured in found.items():
        stage = make(settings, variants[each])
        measured.saved_mb = saved_bytes(stage.forward, stage.kept_anyway()) / settings.batch / 1e6
        # Where each tensor is seen, compiled kernels do not run.
        if settings.device.type != "cuda" and settings.kernels == "reference":
            measured.peak_mb = alive_bytes(stage.step, stage.kept_anyway()).most / 2**20
    return found


def plainly_kept(settings: Settings, name: str) -> float:
    """Returns what plain torch keeps for backward without recomputation, MB an image."""
    stage = STAGES[name](replace(settings, kernels="reference"), "none")
    return saved_bytes(stage.forward, stage.kept_anyway()) / settings.batch / 1e6


def _step(settings: Settings, name: str, recompute: Recompute) -> Step:
    return STAGES[name](settings, recompute).step


def have_same_bits(settings: Settings, name: str) -> bool:
    """Says whether two steps end with the same weights, statistics and states of the optimisers."""
    ends = []
    for recompute in get_args(Recompute):
        stage = STAGES[name](settings, recompute)
        torch.manual_seed(0)
        for _ in range(2):
            stage.step()
        ends.append([leaf for leaf in tree_leaves(stage.trainer.state_dict()) if isinstance(leaf, Tensor)])
    return all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


def report(settings: Settings, name: str, command: str) -> str:
    """Returns the record in Markdown; `name` is the genotype's."""
    size = f"C={settings.channels}, {settings.cells} cells, batch {settings.batch}, {settings.size}x{settings.size}"
    facts = [f"{settings.runs} paired runs", f"precision {settings.precision}", f"kernels {settings.kernels}"]
    text = f"{header(settings.device, *facts)}\n\n"
    text += f"{command}: first-order search in the DARTS space, retraining of {name}, {size}\n\n"
    rows: list[list[object]] = []
    goals = ""
    for stage in STAGES:
        found = measure_stage(settings, stage)
        without, with_it = (found[each] for each in get_args(Recompute))
        for recompute, own in found.items():
            cells = [shown(own.milliseconds, ".0f") or own.words, shown(ratio(own, without)), shown(own.saved_mb, ".2f")]
            rows.append([stage, recompute, *cells, shown(own.peak_mb, ".0f")])
        kept = with_it.saved_mb / plainly_kept(settings, stage) if with_it.saved_mb else None
        time = ratio(with_it, without)
        goals += goal(
            f"{stage}, at most {MOST_MEMORY} of what plain torch keeps", kept, kept is not None and kept <= MOST_MEMORY
        )
        goals += goal(f"{stage}, at most {MOST_TIME} of the time", time, time is not None and time <= MOST_TIME)
        goals += f"- {stage}, two steps: {'the same bits' if have_same_bits(settings, stage) else 'OTHER BITS'}\n"
    # Compiled kernels make way for plain torch where memory is counted operation by operation.
    peak = "peak memory, MB" if settings.device.type == "cuda" else "peak of cells in plain torch, MB"
    columns = ["step", "recompute", "median ms", "ratio (median of pairs)", "kept for backward, MB an image", peak]
    return f"{text}{table(columns, rows)}\n{goals}"


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="benchmarks.recompute", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu, cuda ...")
    parser.add_argument("--genotype", default="DARTS_V2", help="a file, or the name of a published genotype")
    parser.add_argument("--channels", type=at_least(1), default=16, help="C of the first cells")
    parser.add_argument("--cells", type=at_least(3), default=8, help="number of cells")
    parser.add_argument("--batch", type=at_least(2), default=16, help="images a pass")
    parser.add_argument("--size", type=at_least(4), default=32, help="side of an image in pixels")
    parser.add_argument("--runs", type=at_least(1), help="paired runs: each variant in turn (5, on a GPU 20)")
    parser.add_argument("--threads", type=at_least(1), help="CPU threads")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto", help="auto: bfloat16 on a GPU")
    parser.add_argument("--kernels", choices=["auto", "reference"], default="auto", help="reference: plain torch everywhere")
    options = parser.parse_args(argv)
    try:
        device = choose_device(options.device, options.threads)
        genotype = read_genotype(options.genotype)
    except ValueError as error:
        print(f"benchmarks.recompute: error: {error}", file=sys.stderr)
        return 2
    runs = options.runs or (20 if device.type == "cuda" else 5)
    size = options.channels, options.cells, options.batch, options.size
    settings = Settings(device, genotype, *size, runs, options.precision, options.kernels)
    print(report(settings, options.genotype, command_line("benchmarks.recompute", argv)), end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(command("benchmarks.recompute", main))
