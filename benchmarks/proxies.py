"""`python -m benchmarks.proxies`: ranks of NAS-Bench-201's architectures by zero-cost proxies.

Architectures are drawn from the table with a seed, each once; every proxy scores their networks, of
the benchmark's own size unless options say otherwise, on the same batch of training images. The
ranks are compared with those of the test accuracy after 200 epochs on CIFAR-10 (cifar10_test_200).
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from scipy.stats import kendalltau, spearmanr

from base.checks import InputError
from base.files import write_atomically
from base.seeds import derive_seed
from benchmarks.options import at_least, command_line
from benchmarks.timing import header, shown
from search.costs.tabular import Table
from search.sampling.encoding import Encoding, Genome
from search.sampling.scores.proxies import ProxyScores, list_proxies
from supernet import Genotype, get_space
from training.hardware import Hardware, choose_device
from training.images.data import DataConfig
from training.report.markdown import table as markdown
from training.run.arguments import Parser
from training.run.command import command
from training.tasks.classification import Classification
from training.tasks.task import Task

PROG = "benchmarks.proxies"
SPACE = "nasbench201"
PUBLISHED = {"synflow": 0.74, "jacob_cov": 0.73, "snip": 0.60}
"""Spearman's rho over all architectures on CIFAR-10 (Abdelfattah et al. 2021, notebook
nasbench201_correlations)."""


@dataclass(frozen=True)
class Settings:
    """The architectures and the images of a comparison."""

    device: torch.device
    architectures: int = 200
    seed: int = 0
    channels: int = 16
    cells: int = 5
    batch: int = 64


@dataclass(frozen=True)
class Result:
    """The scores of a proxy, in the order of the architectures."""

    scores: list[float]
    seconds: float
    """CPU time of all scores."""


def draw(table: Table, encoding: Encoding, settings: Settings) -> dict[Genome, float]:
    """Returns the architectures and the test accuracy of each in percent.

    Raises ValueError if the table has fewer.
    """
    if settings.architectures > len(table.rows):
        raise InputError(f"--architectures: the table has {len(table.rows)}, not {settings.architectures}")
    texts = Random(derive_seed(settings.seed, "architectures")).sample(list(table.rows), settings.architectures)
    return {encoding.of_genotype(Genotype.parse(text)): table.rows[text].test_accuracy for text in texts}


def score_all(genomes: Sequence[Genome], encoding: Encoding, task: Task, settings: Settings) -> dict[str, Result]:
    """Returns the scores by every proxy; prints a line when one is done."""
    batch = next(task.train.shuffled(settings.batch, settings.seed, "proxies").epoch(0))
    results = {}
    for name in list_proxies():
        score = ProxyScores(
            encoding, name, settings.channels, settings.cells, batch, task.outputs, task.evaluation_loss, settings.seed
        )
        start = time.process_time()
        scores = [score(genome, 1.0) for genome in genomes]
        results[name] = Result(scores, time.process_time() - start)
        print(f"{name}: {results[name].seconds:.0f} s", flush=True)
    return results


def report(results: dict[str, Result], accuracies: Sequence[float]) -> str:
    """Returns the table in Markdown. A proxy that scores all alike has no rank correlation."""
    rows = []
    for name, result in results.items():
        constant = len(set(result.scores)) == 1
        tau = None if constant else kendalltau(result.scores, accuracies).statistic
        rho = None if constant else spearmanr(result.scores, accuracies).statistic
        each = result.seconds / len(accuracies)
        rows.append([name, shown(tau, ".3f"), shown(rho, ".3f"), shown(PUBLISHED.get(name)), f"{each:.2g}"])
    return markdown(["proxy", "Kendall's tau", "Spearman's rho", "published rho", "CPU seconds an architecture"], rows)


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog=PROG, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tabular", required=True, metavar="FILE", help="the table of the benchmark (CSV, .gz)")
    parser.add_argument("--data.name", dest="name", default="cifar10", help="data set of the images")
    parser.add_argument("--data.root", dest="root", default="data", help="folder with its files")
    parser.add_argument("--architectures", type=at_least(2), default=200, metavar="N", help="how many are drawn")
    parser.add_argument("--seed", type=at_least(0), default=0, help="of the draw, the batch and the weights")
    parser.add_argument("--channels", type=at_least(1), default=16, help="C of the first cells")
    parser.add_argument("--cells", type=at_least(1), default=5, help="cells a stage")
    parser.add_argument("--batch", type=at_least(2), default=64, help="images that a proxy sees")
    parser.add_argument("--device", default="cpu", help="cpu, cuda ...")
    parser.add_argument("--threads", type=at_least(1), help="CPU threads")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write the record there, too")
    options = parser.parse_args(argv)

    def run() -> None:
        device = choose_device(options.device, options.threads)
        size = (options.architectures, options.seed, options.channels, options.cells, options.batch)
        text = benchmark(options, Settings(device, *size), command_line(PROG, argv))
        if options.record is not None:
            write_atomically(options.record, text)
        print(f"\n{text}", end="")

    return command(PROG, run)


def benchmark(options: argparse.Namespace, settings: Settings, typed: str) -> str:
    """Returns the record in Markdown."""
    encoding = Encoding(get_space(SPACE))
    known = draw(Table.read(options.tabular), encoding, settings)
    task = Classification.open(DataConfig(name=options.name, root=options.root), Hardware(settings.device))
    results = score_all(list(known), encoding, task, settings)
    facts = header(settings.device, f"seed {settings.seed}")
    size = f"C={settings.channels}, {settings.cells} cells a stage, {settings.batch} images of {options.name}"
    return (
        f"# Zero-cost proxies on NAS-Bench-201, CIFAR-10\n\n{facts}\n\n{typed}\n\n"
        f"{settings.architectures} architectures drawn from the table, {size}; rank correlations with the test accuracy after "
        "200 epochs. Published: over all 15,625 (Abdelfattah et al. 2021).\n\n"
        f"{report(results, list(known.values()))}"
    )


if __name__ == "__main__":
    raise SystemExit(command(PROG, main))
