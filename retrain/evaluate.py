"""`python -m retrain.evaluate RUN ...`: accuracy and speed of retrained networks on the test part.

RUN is the directory of a finished retraining; it needs its weights.safetensors and, if it is there,
genotype.json. For one network the classes, or the numbers that it predicts, are listed one by one.
For several, which must be for the same images, more lines have the ensemble: of classifiers by the
average of the softmax probabilities and by majority vote, of numbers by their average, and, on the
images that all of them held out of their training (`validation_fraction`), by an average with
fitted weights and with those of a greedy selection. Each directory gets evaluation.json, with all
figures, and confusion.png or, of numbers, predictions.png.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from base.checks import FieldError, InputError, check_whole
from base.files import check_writable, write_atomically
from base.texts import decimals, escape, table
from retrain.evaluation.kinds import FITTED, GREEDY, KINDS, Kind
from retrain.evaluation.networks import NetworkScore, Run, evaluate_runs
from retrain.evaluation.speed import Speed
from supernet.drawing.draw import save_figure
from training.format import ImageFormat
from training.hardware import Hardware, choose_device
from training.images.arguments import add_data_arguments, data_fields
from training.images.data import DataConfig, load_images
from training.images.prints import check_seen
from training.images.sets import Images
from training.run.arguments import TRUTH, Parser, whole_number
from training.run.command import command
from training.run.ownership.files import check_own, record
from training.tasks.held_out import Division, held_out_of_all
from training.tasks.images import ImageData

PROG = "retrain.evaluate"
EVALUATION_FILE = "evaluation.json"
COLUMNS = ("network", "parameters", "multiply-adds")
"""Columns of the table of networks, before the numbers that the task has."""
SPEED_COLUMNS = ("batch size", "ms a batch", "10th to 90th percentile", "images/s")
_HOLD_OUT = "--validation_fraction 0.1 and one --seed, or a larger fraction where seeds differ"
# What decides, with the network, on the images that it is evaluated on.
_SAME_IMAGES = (
    "name", "root", "size", "fit", "resize", "gray", "layout", "bits", "train_folder", "test_folder", "test_fraction",
    "split_seed",
)  # fmt: skip


def _parser() -> Parser:
    parser = Parser(
        prog=PROG,
        usage=f"python -m {PROG} RUN [RUN ...] [--OPTION VALUE ...]",
        description="Evaluate retrained networks on the test part, each alone and, where there are several, as an ensemble.",
        allow_abbrev=False,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="Directory of a finished retraining.")
    files = f"Write {EVALUATION_FILE} and a picture into each RUN (default: true)."
    parser.add_argument("--files", default=True, help=files, **TRUTH)
    parser.add_argument("--output", type=Path, metavar="FILE", help="Write all metrics of all networks to one JSON file.")
    speed = "Measure latency and throughput at batch 1 and 64 (default: true)."
    parser.add_argument("--speed", default=True, help=speed, **TRUTH)
    parser.add_argument("--batch_size", type=whole_number, default=256, metavar="N", help="Images at once (default: 256).")
    parser.add_argument("--device", default="auto", help="auto (cuda where there is one; default), cpu, cuda, cuda:1 ...")
    parser.add_argument("--threads", type=whole_number, metavar="N", help="CPU threads (default: one for each core).")
    add_data_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return command(PROG, lambda: _main(argv), less="a smaller --batch_size, or --speed false")


def _main(argv: list[str] | None) -> None:
    options = vars(_parser().parse_intermixed_args(argv))
    output: Path | None = options["output"]
    for name in ("batch_size", "threads"):
        check_whole(name, options[name])
    if output is not None:
        check_writable(output, "--output: ")
    device = choose_device(options["device"], options["threads"])
    runs = read_runs(options["runs"], data_fields(options))
    kind = KINDS[runs[0].trained.task]
    for run in runs if options["files"] else ():
        for name in (EVALUATION_FILE, kind.picture):
            check_writable(run.path / name, "", "; with --files false the result is only shown")
        check_own(run.path, EVALUATION_FILE, kind.picture)
    images = load_test_images(runs, device)
    datasets = [ImageData(one, Hardware(device, run.settings.precision)) for one, run in zip(images, runs, strict=True)]
    held_out, without = load_held_out(runs, images[0], device)
    to_choose = [ImageData(one, data.hardware) for one, data in zip(held_out, datasets, strict=False)]
    rows = evaluate_runs(runs, datasets, options["batch_size"], device, options["speed"], to_choose)
    networks, ensembles = ([row.to_dict() for row in part] for part in (rows[: len(runs)], rows[len(runs) :]))
    data = _described(runs[0].settings.data, images[0])
    # The report is shown first: a full disk then loses nothing.
    print("\n".join(_report(runs, images[0], rows, kind)))
    if without:
        print(f"{FITTED} and {GREEDY} are left out: {without}")
    for run, row in zip(runs, rows, strict=False) if options["files"] else ():
        figures, picture = run.path / EVALUATION_FILE, run.path / kind.picture
        record(run.path, EVALUATION_FILE, kind.picture)
        _write_json(figures, row.to_dict() | {"data": data})
        save_figure(kind.draw(row.evaluation, images[0].format), picture)
        print(f"written: {figures}, {picture}")
    if output is not None:
        _write_json(output, {"data": data, "networks": networks, "ensembles": ensembles})
        print(f"written: {output}")


def read_runs(paths: Sequence[Path], data: Mapping[str, Any]) -> list[Run]:
    """Reads the runs in the directories `paths`, with `data` as in `Run.read`.

    Raises InputError where one cannot be read, is named twice, or was trained on other images than
    the first.
    """
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise InputError(f"{path}: named twice; in an ensemble each network has one vote")
        seen.add(path.resolve())
    first, *others = runs = [Run.read(path, data) for path in paths]
    for run in others:
        for name in _SAME_IMAGES:
            ours, theirs = getattr(first.settings.data, name), getattr(run.settings.data, name)
            if ours != theirs:
                raise InputError(
                    f"{run.path}: data.{name} is {_plain(theirs)}, but {_plain(ours)} in {first.path}; "
                    f"all have to see the same images: choose with --data.{name}"
                )
        ours, theirs = ((one.trained.task, one.trained.format.class_names, one.trained.format.shape[0]) for one in (first, run))
        if ours != theirs:
            raise InputError(
                f"{run.path}: the network is for {_format_of(run)}, that of {first.path} for {_format_of(first)}; "
                "evaluate them one by one"
            )
    return runs


def _format_of(run: Run) -> str:
    form = run.trained.format
    return f"{form.class_names_in_short()} and {form.shape[0]} channels"


def _plain(value: str | float | None) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def load_test_images(runs: Sequence[Run], device: torch.device) -> list[Images]:
    """Loads the test images for each of `runs`, normalised as those that its network was trained on;
    equal ones are read once.

    Raises InputError where there are none, they cannot be read, or are of other classes or channels
    than the network is for.
    """
    found: list[Images] = []
    for run in runs:
        form = run.trained.format
        images = next((one for one in found if one.format == replace(form, shape=one.format.shape)), None)
        if images is None:
            images = load_images(run.settings.data, "test", device, form, surveyed=True)
        if not len(images):
            raise FieldError("data.name", f"{run.settings.data.name} has no test images")
        try:
            note = check_seen(run.path, images.prints, run.has_own_images)
        except InputError as error:
            raise FieldError("data.root", *error.parts) from error
        if note:
            print(note)
        found.append(images)
    return found


def load_held_out(runs: Sequence[Run], test: Images, device: torch.device) -> tuple[list[Images], str]:
    """Loads, for each of several runs, the images that all of them held out of their training and
    that are not in the `test` part, normalised as for its network.

    Where there are none, nothing is returned but a line that says why and how to get some.
    """
    if len(runs) < 2:
        return [], ""
    mend = f"; they need images that no network was trained on: retrain all with {_HOLD_OUT}"
    for run in runs:
        if not run.settings.validation_fraction:
            return [], f"{run.path} held out no images{mend}"
    read: list[tuple[DataConfig, ImageFormat, Images]] = []
    divisions = []
    try:
        for run in runs:
            config, form = replace(run.settings.data, limit=run.limit), run.trained.format
            images = next((one for settings, other, one in read if (settings, other) == (config, form)), None)
            if images is None:
                images = load_images(config, "train", device, form, lambda line: None, surveyed=True)
                read.append((config, form, images))
            divisions.append(Division(run.path, images, run.settings.validation_fraction, run.settings.seed))
        return held_out_of_all(divisions, test.prints), ""
    except InputError as error:
        return [], f"{error}{mend}"


def _write_json(path: Path, content: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def _described(data: DataConfig, images: Images) -> dict[str, Any]:
    """Returns a description of the images of the evaluation, ready for JSON."""
    form = images.format
    named = {"name": data.name, "root": data.root, "size": data.size}
    names = "class_names" if form.values is None else "number_names"
    return named | {"images": len(images), "shape": list(form.shape), names: list(form.class_names)}


def _report(runs: Sequence[Run], images: Images, rows: Sequence[NetworkScore], kind: Kind[Any]) -> Iterator[str]:
    """Yields the lines of the report."""
    form = images.format
    yield f"{runs[0].settings.data.name}: {len(images):,} test images of {_by(form.shape)}, {kind.said(form)}"
    yield from images.notes
    for run in runs:
        trained_on = run.trained.format.shape
        if trained_on != form.shape:
            yield f"{run.path}: the network was trained on images of {_by(trained_on)}"
    yield from table([*COLUMNS, *kind.columns.values()], (_cells(row, kind.columns) for row in rows))
    for row in rows:
        if row.weights is not None:
            parts = zip(row.weights, runs, strict=True)
            shares = ", ".join(f"{weight:.4f} {run.path}" for weight, run in parts if weight)
            yield f"{row.name}, on {row.validation_images:,} images that no network was trained on: {shares}"
    if len(rows) == 1:
        yield ""
        yield from kind.details(rows[0].evaluation, form, EVALUATION_FILE)
        if rows[0].speed is not None:
            yield ""
            yield from _speed_lines(rows[0].speed)


def _by(shape: Iterable[int]) -> str:
    return "x".join(map(str, shape))


def _cells(row: NetworkScore, columns: Iterable[str]) -> tuple[str, ...]:
    """Returns the cells of the table of networks, with the numbers of those names."""
    measures = (decimals(row.metrics[name]) for name in columns)
    return escape(row.name), f"{row.parameters:,}", f"{row.multiply_adds / 1e6:,.2f} M", *measures


def _speed_lines(speed: Speed) -> Iterator[str]:
    threads = "" if speed.threads is None else f", {speed.threads} thread{'s' if speed.threads > 1 else ''}"
    yield f"speed on {speed.device}{threads}, {speed.precision}, images of {_by(speed.image_shape)}"
    yield from table(
        SPEED_COLUMNS,
        (
            (
                str(batch.batch_size),
                f"{batch.latency_ms:.2f}",
                f"{batch.latency_ms_p10:.2f} to {batch.latency_ms_p90:.2f}",
                f"{batch.images_per_second:,.0f}",
            )
            for batch in speed.batches
        ),
    )


if __name__ == "__main__":
    raise SystemExit(main())
