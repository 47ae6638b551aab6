"""`make demo`: searches a cell on scikit-learn's digits and compares it with three random cells.

All four are retrained by one recipe. A cell that does no better than random ones of the same space
is no argument for the search, so the table shows both.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from retrain.api import random_genotype
from supernet import Genotype, get_space
from supernet.drawing.draw import draw_genotype, save_figure

RANDOM = 3
ENOUGH = 0.97  # test accuracy that every sound installation reaches with a wide margin
DECIDED = 0.95  # share of the largest entropy; alphas that have moved are below


@dataclass(frozen=True)
class Row:
    """A retrained network."""

    name: str
    parameters: int
    accuracy: float
    directory: Path


def run(command: Sequence[str | Path], quiet: bool = False) -> None:
    """Runs `python -m ...`; two that run at once get one core each.

    Ends the program if the command fails.
    """
    arguments = [sys.executable, "-m", *map(str, command)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} if quiet else None
    if not quiet:
        print("$ python -m", *map(str, command), flush=True)
    done = subprocess.run(arguments, env=environment, stdout=subprocess.DEVNULL if quiet else None)
    if done.returncode:
        sys.exit(done.returncode)


def retrain(name: str, genotype: Path, directory: Path) -> Row:
    """Trains a genotype from scratch with the recipe of configs/retrain_digits.yaml."""
    run(["retrain", "--genotype", genotype, "--config", "retrain_digits", "--run", directory, "--overwrite"], quiet=True)
    metrics = json.loads((directory / "metrics.json").read_text())
    return Row(name, metrics["parameters"], metrics["accuracy"], directory)


def entropy_share(directory: Path) -> float:
    """Returns the mean entropy of the alphas at the end of a search, as a share of its largest
    value, from the run's curves."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory))
    events.Reload()
    space = get_space(Genotype.load(directory / "genotype.json").space)
    last = [events.Scalars(f"alphas/entropy_{kind}")[-1].value for kind in space.kinds]
    return sum(last) / len(last) / math.log(len(space.candidates))


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--directory", type=Path, default=Path("runs/demo"), help="where everything is written")
    directory: Path = parser.parse_args().directory
    started = time.perf_counter()
    search = directory / "search"
    run(["search.darts", "--config", "digits", "--run", search, "--overwrite"])
    found = Genotype.load(search / "genotype.json")
    save_figure(draw_genotype(found), directory / "cell.png")

    genotypes = {"derived": search / "genotype.json"}
    for seed in range(RANDOM):
        genotypes[f"random_{seed}"] = directory / f"random_{seed}.json"
        random_genotype(found.space, seed).save(genotypes[f"random_{seed}"])
    print(
        f"\n$ python -m retrain --genotype ... --config retrain_digits   (the derived cell and {RANDOM} random ones)",
        flush=True,
    )
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(lambda name: retrain(name, genotypes[name], directory / f"retrain_{name}"), genotypes))
    share = entropy_share(search)
    report(found, rows[0], rows[1:], directory, share, time.perf_counter() - started)
    return 0 if rows[0].accuracy >= ENOUGH and share <= DECIDED else 1


def report(found: Genotype, derived: Row, others: Sequence[Row], directory: Path, share: float, seconds: float) -> None:
    """Returns the table and the conclusion from it."""
    accuracies = [row.accuracy for row in others]
    low, high, mean = min(accuracies), max(accuracies), sum(accuracies) / len(accuracies)
    parameters = sum(row.parameters for row in others) // len(others)
    print(f"\nDerived: {found.to_text(found.text_form)}\n")
    print(f"{'':24}{'parameters':>12}{'test accuracy':>16}")
    print(f"{'derived cell':24}{derived.parameters:>12,}{derived.accuracy:>16.4f}")
    print(f"{f'{len(others)} random cells, mean':24}{parameters:>12,}{mean:>16.4f}   from {low:.4f} to {high:.4f}")
    if low <= derived.accuracy <= high:
        verdict = "The derived cell is within the range of the random ones: no advantage of the search shows here."
    else:
        side = "above" if derived.accuracy > high else "below"
        verdict = (
            f"The derived cell is {side} the range of {len(others)} random ones; one seed of so small a problem proves little."
        )
    print(f"\n{verdict}")
    print(f"Entropy of the alphas: {share:.1%} of that of an undecided edge.")
    print(
        f"Written to {directory}: search/genotype.json, cell.png (a picture), retrain_derived/weights.safetensors, metrics.json"
    )
    print(f"Curves and pictures: tensorboard --logdir {directory}")
    print(f"{seconds:.0f} seconds in all")


if __name__ == "__main__":
    raise SystemExit(main())
