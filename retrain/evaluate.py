"""`python -m retrain.evaluate RUN ...`: how well retrained networks do on the test part, each alone and all as an ensemble.

RUN is the directory of a finished retraining. With several, which all have to be for the same images, two more lines say how
their ensemble does: by the average of the softmax probabilities, and by majority vote.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from retrain.config import RetrainConfig
from retrain.ensemble import average_log_probabilities, majority_vote
from retrain.weights import WEIGHTS_FILE, Trained
from supernet.files import write_atomically
from training.batches import Batches
from training.command import command
from training.config import config_from_file
from training.data import DataConfig, load_images
from training.images import Images
from training.loop import choose_device
from training.metrics import Evaluation, count_multiply_adds, count_parameters, evaluate
from training.precision import Precision, autocast
from training.ranges import check_whole

PROG = "retrain.evaluate"
AVERAGE, VOTE = "average of probabilities", "majority vote"
COLUMNS = ("network", "parameters", "multiply-adds", "accuracy", "loss")
_AT_ONCE = 4096  # images whose logits are evaluated together


def evaluate_network(
    network: nn.Module, images: Images, batch_size: int, device: torch.device, precision: Precision
) -> Evaluation:
    """Moves `network` to `device` and evaluates it there on all `images`, with the precision that `autocast` takes."""
    return _evaluate_alone(network_logits(network, images, batch_size, device, precision), images)


@torch.no_grad()
def network_logits(network: nn.Module, images: Images, batch_size: int, device: torch.device, precision: Precision) -> Tensor:
    """Logits [N, classes] of all `images`, float32 on the CPU, computed on `device`, where `network` stays."""
    network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]  # unknown to the stubs
    batches = Batches(images, min(batch_size, len(images)), device)
    with autocast(precision, device):
        return torch.cat([network(batch).float() for batch, _ in batches.epoch(0)]).cpu()


def _evaluate_alone(logits: Tensor, images: Images) -> Evaluation:
    """Evaluates one network by its logits [N, classes] of all `images`."""
    return _evaluate(lambda batch: batch[0], logits[None], images)


def _evaluate(combine: Callable[[Tensor], Tensor], logits: Tensor, images: Images) -> Evaluation:
    """Evaluates what `combine` makes, [B, classes], of the networks' logits [K, N, classes] of all `images`."""
    batches = zip(logits.split(_AT_ONCE, 1), images.labels.split(_AT_ONCE), strict=True)
    return evaluate(combine, batches, images.classes, "cpu")


@dataclass(frozen=True)
class Run:
    """A finished retraining: its network, and what it was trained on and with."""

    path: Path
    trained: Trained
    data: DataConfig
    precision: Precision

    @classmethod
    def read(cls, path: Path, data: Mapping[str, Any]) -> "Run":
        """The run in directory `path`; `data`: fields of `DataConfig` that replace those in its config.yaml.

        Raises ValueError where the directory or a file is absent or damaged. With a name in `data`, config.yaml may be.
        """
        if not path.is_dir():
            raise ValueError(f"{path}: {'not a directory' if path.exists() else 'no such directory'}; name that of a run")
        trained = Trained.load(path)
        try:
            config = config_from_file(RetrainConfig, path / "config.yaml")
        except ValueError as error:
            if "name" not in data:
                raise ValueError(f"{error}; to do without this file, name the data set with --data.name") from error
            config = RetrainConfig()
        # Only the training images are augmented or fewer.
        return cls(path, trained, replace(config.data.as_they_are(), **data), config.precision)


def read_runs(paths: Sequence[Path], data: Mapping[str, Any]) -> list[Run]:
    """The runs in the directories `paths`, with `data` as in `Run.read`.

    Raises ValueError where one cannot be read, is named twice, or was trained on other images than the first.
    """
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise ValueError(f"{path}: named twice; in an ensemble each network has one vote")
        seen.add(path.resolve())
    first, *others = runs = [Run.read(path, data) for path in paths]
    for run in others:
        for name in ("name", "root", "size"):
            ours, theirs = getattr(first.data, name), getattr(run.data, name)
            if ours != theirs:
                raise ValueError(
                    f"{run.path}: data.{name} is {_plain(theirs)}, but {_plain(ours)} in {first.path}; "
                    f"all have to see the same images: choose with --data.{name}"
                )
    return runs


def _plain(value: str | int | None) -> str:
    return "null" if value is None else str(value)


@dataclass(frozen=True)
class Row:
    """How a network or an ensemble does."""

    name: str
    """Directory of the run, or how the ensemble decides."""
    parameters: int
    multiply_adds: int
    """Of one image, as `training.metrics.count_multiply_adds` counts them; of an ensemble the sum, as of its parameters."""
    metrics: dict[str, Any]
    """Fields of `Evaluation`; loss and top5 of a majority vote are None."""

    def cells(self) -> tuple[str, ...]:
        """What the table of `COLUMNS` has of it."""
        loss = self.metrics["loss"]
        numbers = f"{self.parameters:,}", f"{self.multiply_adds / 1e6:,.2f} M", f"{self.metrics['accuracy']:.4f}"
        return self.name, *numbers, "-" if loss is None else f"{loss:.4f}"

    def to_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        size = {"parameters": self.parameters, "multiply_adds": self.multiply_adds}
        return {"name": self.name, **size, **self.metrics}


def evaluate_runs(runs: Sequence[Run], images: Images, batch_size: int, device: torch.device) -> list[Row]:
    """A row for each of `runs` and, where there are several, those of the ensemble: `AVERAGE` and `VOTE`.

    Raises ValueError for a network of other classes or channels than `images` have, or whose logits are not finite.
    """
    for run in runs:
        _check_fit(run, images)
    rows, all_logits = [], []
    for run in runs:
        logits = network_logits(run.trained.network, images, batch_size, device, run.precision)
        if not logits.isfinite().all():
            raise ValueError(f"{run.path / WEIGHTS_FILE}: gives logits that are NaN or infinite; the training had diverged")
        all_logits.append(logits)
        multiply_adds = count_multiply_adds(run.trained.network, images.format.shape)
        metrics = _evaluate_alone(logits, images).to_dict()
        rows.append(Row(str(run.path), count_parameters(run.trained.network), multiply_adds, metrics))
    return rows if len(rows) == 1 else rows + _ensemble_rows(rows, torch.stack(all_logits), images)


def _check_fit(run: Run, images: Images) -> None:
    if not len(images):
        raise ValueError(f"data.name: {run.data.name} has no test images")
    network = run.trained.network
    ours, theirs = (network.classifier.out_features, network.image_channels), (images.classes, images.format.shape[0])
    if ours != theirs:
        raise ValueError(
            f"{run.path}: the network is for {ours[0]} classes and {ours[1]} channels, "
            f"but {run.data.name} has {theirs[0]} classes and {theirs[1]} channels"
        )


def _ensemble_rows(rows: Sequence[Row], logits: Tensor, images: Images) -> list[Row]:
    """Of the networks that `rows` are of, from their logits [K, N, classes]."""
    average = _evaluate(average_log_probabilities, logits, images).to_dict()
    vote = _evaluate(lambda batch: F.one_hot(majority_vote(batch), images.classes), logits, images).to_dict()
    # A vote gives one class an image, with no probability and no second place.
    vote |= {"loss": None, "top5": None}
    size = sum(row.parameters for row in rows), sum(row.multiply_adds for row in rows)
    return [Row(AVERAGE, *size, average), Row(VOTE, *size, vote)]


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as the other commands do."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(message.removeprefix("argument "))


def _whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}") from None


def _size(text: str) -> int | None:
    return None if text == "null" else _whole_number(text)


def _truth(text: str) -> bool:
    if text not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"must be true or false, not {text!r}")
    return text == "true"


def _parser() -> _Parser:
    parser = _Parser(
        prog=PROG,
        usage=f"python -m {PROG} RUN [RUN ...] [--OPTION VALUE ...]",
        description="Evaluate retrained networks on the test part, each alone and, where there are several, as an ensemble.",
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="Directory of a finished retraining.")
    parser.add_argument("--output", type=Path, metavar="FILE", help="Write all metrics to a JSON file.")
    parser.add_argument("--batch_size", type=_whole_number, default=256, metavar="N", help="Images at once (default: 256).")
    parser.add_argument("--device", default="auto", help="auto (cuda where there is one; default), cpu, cuda, cuda:1 ...")
    parser.add_argument("--threads", type=_whole_number, metavar="N", help="CPU threads (default: one for each core).")
    data = parser.add_argument_group("data", "Where left out, as in config.yaml of the runs.")
    given = partial(data.add_argument, default=argparse.SUPPRESS)
    given("--data.name", metavar="NAME", help="Data set: digits, cifar10, or one that was added with @register_dataset.")
    given("--data.root", metavar="DIR", help="Folder that holds the files of the data set.")
    given("--data.download", type=_truth, nargs="?", const=True, metavar="true|false", help="Download it where it is absent.")
    given("--data.size", type=_size, metavar="PIXELS", help="Resize images to that many a side; null: as they are.")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return command(PROG, lambda: _main(argv))


def _main(argv: list[str] | None) -> None:
    options = vars(_parser().parse_intermixed_args(argv))
    given = {name.removeprefix("data."): value for name, value in options.items() if name.startswith("data.")}
    output: Path | None = options["output"]
    for name in ("batch_size", "threads"):
        check_whole(name, options[name])
    if output is not None and (output.is_dir() or not output.parent.is_dir()):
        raise ValueError(f"--output: {output} cannot be written: {'a directory' if output.is_dir() else 'no such directory'}")
    device = choose_device(options["device"], options["threads"])
    runs = read_runs(options["runs"], given)
    data = runs[0].data
    images = load_images(data, "test")
    rows = evaluate_runs(runs, images, options["batch_size"], device)
    shape = "x".join(str(length) for length in images.format.shape)
    print(f"{data.name}: {len(images):,} test images of {shape}, {images.classes} classes")
    print(_table(rows), end="")
    if output is not None:
        networks, ensembles = ([row.to_dict() for row in part] for part in (rows[: len(runs)], rows[len(runs) :]))
        named = {"name": data.name, "root": data.root, "size": data.size}
        content = {"data": named, "networks": networks, "ensembles": ensembles}
        write_atomically(output, json.dumps(content, indent=2) + "\n")


def _table(rows: Sequence[Row]) -> str:
    """Names to the left, numbers to the right of their columns."""
    lines = [COLUMNS, *(row.cells() for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    padded = ([name.ljust(widths[0]), *map(str.rjust, numbers, widths[1:])] for name, *numbers in lines)
    return "".join("  ".join(cells) + "\n" for cells in padded)


if __name__ == "__main__":
    raise SystemExit(main())
