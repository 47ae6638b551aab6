"""`python -m benchmarks.retrain_step`: images a second of a training step, ours beside the plain
one.

Both train a genotype's network, with the auxiliary head and drop paths. The plain network runs as
published code does: eager, float32 (with TF32 where torch uses it by default), NCHW, the stock
optimiser. Ours is the step that `retrain` runs: bfloat16 on a GPU, channels_last, fused optimiser,
as a CUDA graph.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.options import at_least, command_line
from benchmarks.timing import Measured, Step, goal, header, measure, random_images, ratio, shown
from retrain.config import RetrainConfig
from retrain.trainer import Retraining
from supernet.discrete import DiscreteNetwork
from supernet.genotypes.genotype import Genotype
from supernet.genotypes.published import read_genotype
from training.hardware import Hardware, Precision, choose_device
from training.metrics import Batch
from training.optim import OptimizerConfig, descend
from training.report.markdown import table
from training.run.arguments import Parser
from training.run.command import command
from training.tasks.classification import Classification

PLAIN, OURS, OURS_EAGER = "plain, eager, float32, NCHW", "ours", "ours, no graph"
DROP_PATH = 0.1  # the probability halfway through training


@dataclass(frozen=True)
class Settings:
    """The settings of a measurement."""

    device: torch.device
    genotype: Genotype
    channels: int = 36
    cells: int = 20
    batch: int = 96
    size: int = 32
    runs: int = 5
    precision: Precision = "auto"

    @property
    def auxiliary_weight(self) -> float:
        """Returns the weight of the auxiliary head; 0 if the skeleton has no place for it."""
        return 0.4 if self.genotype.skeleton.auxiliary else 0.0


class PlainDiscreteNetwork(DiscreteNetwork):
    """The network in the memory format of its images."""

    def run(self, images: Tensor, run_cell: Callable[[nn.Module, Sequence[Tensor]], Tensor]) -> Tensor:
        states = [self.stem(images)] * self.skeleton.inputs
        cells = self.cells
        for layer in self.layers:
            states = [*states[1:], run_cell(layer, states) if layer in cells else layer(states[-1])]
        return self.head(states[-1])


def plain_step(settings: Settings) -> Step:
    """Returns a step of the plain network."""
    torch.manual_seed(0)
    weight = settings.auxiliary_weight
    network = PlainDiscreteNetwork(settings.genotype, settings.channels, settings.cells, auxiliary=weight > 0)
    network.to(settings.device)
    network.drop_path = DROP_PATH
    config = OptimizerConfig()
    optimizer = torch.optim.SGD(network.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay)

    def step(images: Tensor, labels: Tensor) -> None:
        if weight:
            logits, auxiliary = network.forward_with_auxiliary(images)
            loss = F.cross_entropy(logits, labels) + weight * F.cross_entropy(auxiliary, labels)
        else:
            loss = F.cross_entropy(network(images), labels)
        descend([loss], optimizer, config.clip)

    return partial(step, *random_batch(settings, torch.contiguous_format))


def our_step(settings: Settings, graph: bool | None = None, kernels: Literal["auto", "reference"] = "auto") -> Step:
    """Returns the step that `retrain` runs."""
    config = RetrainConfig(
        channels=settings.channels,
        cells=settings.cells,
        batch_size=settings.batch,
        auxiliary_weight=settings.auxiliary_weight,
        precision=settings.precision,
        device=str(settings.device),
        graph=graph,
        kernels=kernels,
    )
    hardware = Hardware.of(config, graph)
    task = Classification.of_images(config.data, random_images(settings.batch, settings.size), hardware)
    trainer = Retraining(config, settings.genotype, task, hardware)
    trainer.network.train()
    assert isinstance(trainer.network.drop_path, Tensor)
    trainer.network.drop_path.fill_(DROP_PATH)
    return partial(trainer.graphed, Batch(*random_batch(settings, torch.channels_last)))


def random_batch(settings: Settings, memory: torch.memory_format) -> tuple[Tensor, Tensor]:
    """Returns images and labels."""
    images = torch.randn(settings.batch, 3, settings.size, settings.size, device=settings.device)
    return images.contiguous(memory_format=memory), torch.randint(0, 10, (settings.batch,), device=settings.device)


def report(settings: Settings, name: str, command: str) -> tuple[str, dict[str, Measured]]:
    """Returns the record in Markdown, and its values; `name` is the genotype's."""
    on_gpu = settings.device.type == "cuda"
    variants: dict[str, Callable[[], Step]] = {PLAIN: partial(plain_step, settings), OURS: partial(our_step, settings)}
    if on_gpu:
        variants[OURS_EAGER] = partial(our_step, settings, graph=False)
    found = measure(variants, settings.device, settings.runs, variants if on_gpu else ())
    rows: list[list[object]] = []
    for row, own in found.items():
        speed = settings.batch / (own.milliseconds / 1000) if own.milliseconds else None
        time = shown(own.milliseconds, ".1f") or own.words
        rows.append([row, time, shown(speed, ".0f"), shown(ratio(found[PLAIN], own)), shown(own.peak_mb, ".0f"), own.launches])
    columns = ["network", "median ms a step", "images/s", "speed relative to plain (median of pairs)", "peak memory, MB"]
    notes = [f"- {row}: {own.words}\n" for row, own in found.items() if own.words and own.seconds]
    speedup = ratio(found[PLAIN], found[OURS])
    size = f"C={settings.channels}, {settings.cells} cells, batch {settings.batch}, {settings.size}x{settings.size}"
    text = f"{header(settings.device, f'{settings.runs} paired runs', f'precision {settings.precision}')}\n\n"
    text += f"{command}: training step of {name}, {size}\n\n{table([*columns, 'launches a step'], rows)}\n{''.join(notes)}"
    return text + goal(f"4 times the images/s of {PLAIN}", speedup, speedup is not None and speedup >= 4), found


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="benchmarks.retrain_step", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu", help="cpu, cuda ...")
    parser.add_argument("--genotype", default="DARTS_V2", help="a file, or the name of a published genotype")
    parser.add_argument("--channels", type=at_least(1), default=36, help="C of the first cells")
    parser.add_argument("--cells", type=at_least(3), default=20, help="number of cells")
    parser.add_argument("--batch", type=at_least(2), default=96, help="images a step")
    parser.add_argument("--size", type=at_least(4), default=32, help="side of an image in pixels")
    parser.add_argument(
        "--runs", type=at_least(1), help="paired runs: each variant in turn, on a GPU 5 steps of it (5, on a GPU 20)"
    )
    parser.add_argument("--threads", type=at_least(1), help="CPU threads")
    parser.add_argument(
        "--precision", choices=["auto", "float32", "bfloat16"], default="auto", help="ours; auto: bfloat16 on a GPU"
    )
    options = parser.parse_args(argv)
    try:
        device = choose_device(options.device, options.threads)
        genotype = read_genotype(options.genotype)
    except ValueError as error:
        print(f"benchmarks.retrain_step: error: {error}", file=sys.stderr)
        return 2
    runs = options.runs or (20 if device.type == "cuda" else 5)
    settings = Settings(device, genotype, options.channels, options.cells, options.batch, options.size, runs, options.precision)
    print(report(settings, options.genotype, command_line("benchmarks.retrain_step", argv))[0], end="")
    return 0


if __name__ == "__main__":
    raise SystemExit(command("benchmarks.retrain_step", main))
