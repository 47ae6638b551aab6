"""`python -m retrain.export RUN --format torch_export|onnx`: the network of a retraining as a file
that needs nothing of ours.

Writes RUN/export/model.pt2 or RUN/export/model.onnx, with --int8 also RUN/export/model_int8.onnx,
and beside them model.json, which says how the files are used. What is written has been read back
and gives the outputs of the network, at batch 1 and 7: logits, or numbers in their own unit.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from base.checks import FieldError, InputError, check_whole
from base.files import write_atomically
from base.plain_json import read_json
from base.seeds import new_generator
from base.texts import decimals
from retrain.evaluation.kinds import KINDS, Kind
from retrain.evaluation.networks import open_trained
from retrain.portable import (
    DESCRIPTION_FILE,
    OPSET,
    Exported,
    Model,
    describe,
    export_onnx,
    export_torch,
    output_name,
    require_extra,
    without_normalisation,
)
from retrain.quantise import quantise
from retrain.weights import WEIGHTS_FILE, Trained
from training.format import DATA_FILE
from training.hardware import Hardware, choose_device
from training.images.arguments import add_data_arguments, data_fields
from training.images.data import DataConfig, Part, load_images, stratified
from training.images.prints import check_seen
from training.images.sets import Images
from training.metrics import count_parameters
from training.run.arguments import TRUTH, Parser, one_of, whole_number
from training.run.command import command
from training.run.ownership.files import record
from training.tasks.images import ImageData

PROG = "retrain.export"
Form = Literal["torch_export", "onnx"]
TORCH_FILE, ONNX_FILE, INT8_FILE = "model.pt2", "model.onnx", "model_int8.onnx"

_USAGE: dict[Form, str] = {
    "torch_export": """\
import torch

model = torch.export.load("{file}").module()
images = torch.zeros({shape})  # in place of zeros: {preprocessing}
with torch.no_grad():
    {output} = model(images)
""",
    "onnx": """\
import numpy
import onnxruntime

session = onnxruntime.InferenceSession("{file}")
images = numpy.zeros(({shape}), numpy.float32)  # in place of zeros: {preprocessing}
({output},) = session.run(None, {{"images": images}})
""",
}
_SHOWN = {
    "logits": "print(logits.argmax(1))  # numbers of the classes, whose names are in {description}\n",
    "values": "print(values)  # [batch, {numbers}] in the unit of the training data; their names are in {description}\n",
}


@dataclass(frozen=True)
class ExportInput:
    """A finished retraining, and its images where they are at hand, their batches being what an
    exported network takes."""

    path: Path
    trained: Trained
    data: DataConfig | None = None
    train: Images | None = None
    """Images that calibrate int8; None if it is not asked for."""
    test: Images | None = None
    missing: str = ""
    """Why there are no test images."""
    note: str = ""
    """A line on how the test images differ from those of the training, if they do."""

    @property
    def kind(self) -> Kind[Any]:
        """Returns what is done with networks of its task."""
        return KINDS[self.trained.task]

    @classmethod
    def read(cls, path: Path, data: Mapping[str, Any], calibration: int = 0) -> "ExportInput":
        """The run in directory `path`; `data`: fields of `DataConfig` that replace those in its
        config.yaml; `calibration`: training images that int8 needs.

        Raises ValueError where the network cannot be read, and where its images cannot although
        they are needed: to calibrate with, or because there is something in `data`.
        """
        run = open_trained(path)
        trained = run.trained
        try:
            config = run.settings(data).data
            test = _load(config, "test", trained)
            note = check_seen(path, test.prints, not data)
            train = _load(_of_calibration(config, path, calibration), "train", trained) if calibration else None
        except (InputError, OSError) as error:
            if calibration:
                raise InputError(f"--int8 needs images of the training to calibrate with: {error}") from error
            if data:
                raise
            return cls(path, trained, missing=str(error))
        return cls(path, trained, config, train, test, note=note)


def _of_calibration(config: DataConfig, path: Path, count: int) -> DataConfig:
    """Returns settings with a limit, if the run says how many images it had, so that only needed
    images are read."""
    try:
        had = read_json(path / DATA_FILE)["train_images"]
    except (InputError, KeyError, TypeError):
        return config
    return replace(config, limit=min(count, had)) if type(had) is int and had > 0 else config


def _load(config: DataConfig, part: Part, trained: Trained) -> Images:
    images = load_images(config, part, "cpu", without_normalisation(trained.format))
    ours, theirs = ("x".join(map(str, form.shape)) for form in (images.format, trained.format))
    if ours != theirs:
        raise FieldError("data.size", f"the images of {config.name} are {ours}, those that the network was trained on {theirs}")
    if not len(images):
        raise FieldError("data.name", f"{config.name} has no {part} images")
    return images


@dataclass(frozen=True)
class ExportedFile:
    """A file that was written, and what it is worth."""

    file: Exported
    scores: Mapping[str, float | None]
    """The task's numbers on the test images by name, such as "accuracy"; None where the images are
    not at hand, or do not have it."""
    about: dict[str, Any]
    """Description of the file, ready for JSON."""

    def to_dict(self) -> dict[str, Any]:
        """Returns all of it, ready for JSON."""
        found = {str(batch): difference for batch, difference in self.file.differences.items()}
        return self.about | {"bytes": self.file.size, "largest_difference": found, **self.scores}


@dataclass(frozen=True)
class Outcome:
    """The result of an export."""

    source: ExportInput
    rows: list[ExportedFile]

    @property
    def files(self) -> tuple[Path, ...]:
        """Returns the files that were exported; model.json beside them explains their use."""
        return tuple(row.file.path for row in self.rows)


def export(
    run: Path,
    form: Form,
    *,
    directory: Path | None = None,
    int8: bool = False,
    calibration: int = 512,
    batch_size: int = 256,
    data: Mapping[str, Any] | None = None,
) -> Outcome:
    """Writes the network of the retraining in the directory `run` into `directory` (None:
    `run`/export; made where absent).

    With `int8`, which is for the form "onnx", a second file is in int8, calibrated on that many
    training images. model.json in the same directory describes both, and whatever was exported
    there from the same weights before. `data` is as in `ExportInput.read`; accuracies are measured
    where the images are at hand.

    Raises ValueError where the run cannot be read, the network cannot be exported, what was written
    gives other outputs, images are needed and absent, or a package is; OSError where a file cannot
    be written.
    """
    if form not in get_args(Form):
        raise InputError(f"format: must be {' or '.join(get_args(Form))}, not {form!r}")
    if int8 and form != "onnx":
        raise InputError(
            "--int8: is for --format onnx; a torch.export program in int8 calls operations of torchao, without which nobody "
            "could load it"
        )
    if form == "onnx":
        require_extra("--format onnx")
    source = ExportInput.read(run, data or {}, calibration if int8 else 0)
    if directory is None:
        names = [TORCH_FILE if form == "torch_export" else ONNX_FILE, *([INT8_FILE] if int8 else []), DESCRIPTION_FILE]
        record(run, *(f"export/{name}" for name in names))
        directory = run / "export"
    directory.mkdir(exist_ok=True)
    rows = [_export_float(source, form, directory, batch_size)]
    if int8:
        rows.append(_export_int8(source, rows[0], directory, calibration, batch_size))
    _describe_files(source, directory, rows)
    return Outcome(source, rows)


def _export_float(source: ExportInput, form: Form, directory: Path, batch_size: int) -> ExportedFile:
    trained = source.trained
    if form == "torch_export":
        exported = export_torch(trained, directory / TORCH_FILE)
        kind = f"torch.export program, torch {torch.__version__}"
    else:
        exported = export_onnx(trained, directory / ONNX_FILE)
        kind = f"ONNX, opset {OPSET}"
    about = {"format": kind, "usage": _usage(form, exported.path.name, trained)}
    return ExportedFile(exported, _scores(source, exported.model, batch_size), about)


def _export_int8(source: ExportInput, before: ExportedFile, directory: Path, calibration: int, batch_size: int) -> ExportedFile:
    assert source.train is not None
    count = min(calibration, len(source.train))
    chosen = source.train.take(stratified(source.train.labels, count, new_generator("calibration")))
    batches = (batch.inputs for batch in _data(chosen).in_order(batch_size).epoch(0))
    exported = quantise(before.file, directory / INT8_FILE, batches, source.trained.format)
    about = {
        "format": f"ONNX, opset {OPSET}, int8 (weights by channel; activations uint8)",
        "usage": _usage("onnx", INT8_FILE, source.trained),
        "calibration_images": count,
        **{f"{name}_before": value for name, value in before.scores.items()},
    }
    return ExportedFile(exported, _scores(source, exported.model, batch_size), about)


@torch.no_grad()
def _scores(source: ExportInput, model: Model, batch_size: int) -> dict[str, float | None]:
    form, kind = source.trained.format, source.kind
    if source.test is None:
        return dict.fromkeys(kind.compared)

    def outputs(images: Tensor) -> Tensor:
        found = model(images)
        return found if form.values is None else form.values.standardised(found)

    return kind.scores(outputs, _data(source.test).in_order(batch_size).epoch(0), form)


def _data(images: Images) -> ImageData:
    return ImageData(images, Hardware(torch.device("cpu")))


def _usage(form: Form, file: str, trained: Trained) -> str:
    """Lines of Python that run `file`."""
    shape = ", ".join(map(str, (1, *trained.format.shape)))
    preprocessing = describe(trained.format)["preprocessing"].partition(";")[0]
    output = output_name(trained.format)
    lines = _USAGE[form].format(file=file, shape=shape, preprocessing=preprocessing, output=output)
    return lines + _SHOWN[output].format(description=DESCRIPTION_FILE, numbers=len(trained.format.class_names))


def _describe_files(source: ExportInput, directory: Path, rows: list[ExportedFile]) -> None:
    """Writes model.json; what it says of other files stays where they are of the same weights."""
    path = directory / DESCRIPTION_FILE
    weights = hashlib.sha256((source.path / WEIGHTS_FILE).read_bytes()).hexdigest()
    data = None
    if source.data is not None:
        data = {name: getattr(source.data, name) for name in ("name", "size", "fit", "resize")}
        data["test_images"] = None if source.test is None else len(source.test)
    content = describe(source.trained.format) | {
        "data": data,
        "genotype": source.trained.network.genotype.to_text(source.trained.network.genotype.text_form),
        "parameters": count_parameters(source.trained.network),
        "weights_sha256": weights,
        "files": _earlier_files(path, weights) | {row.file.path.name: row.to_dict() for row in rows},
    }
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def _earlier_files(path: Path, weights: str) -> dict[str, Any]:
    try:
        content = read_json(path)
    except InputError:
        return {}  # absent, or damaged and now replaced
    if not isinstance(content, dict) or content.get("weights_sha256") != weights or not isinstance(content.get("files"), dict):
        return {}
    return {name: about for name, about in content["files"].items() if (path.parent / name).is_file()}


def _parser() -> Parser:
    parser = Parser(
        prog=PROG,
        usage=f"python -m {PROG} RUN --format torch_export|onnx [--OPTION VALUE ...]",
        description="Export the network of a retraining to a file that can be used without this project.",
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="Directory of a finished retraining.")
    form = "torch_export: a program that torch.export.load reads; onnx: for onnxruntime and others."
    parser.add_argument("--format", required=True, type=one_of(get_args(Form)), metavar="FORM", help=form)
    parser.add_argument("--int8", default=False, help="With onnx: a second file with weights of 8 bits.", **TRUTH)
    calibration = "Training images that choose the ranges of int8 (default: 512)."
    parser.add_argument("--calibration", type=whole_number, default=512, metavar="N", help=calibration)
    parser.add_argument("--output", type=Path, metavar="DIR", help="Where the files go (default: RUN/export).")
    parser.add_argument("--batch_size", type=whole_number, default=256, metavar="N", help="Images at once (default: 256).")
    parser.add_argument("--threads", type=whole_number, metavar="N", help="CPU threads (default: one for each core).")
    add_data_arguments(parser)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return command(PROG, lambda: _main(argv), less="a smaller --batch_size or --calibration")


def _main(argv: list[str] | None) -> None:
    options = vars(_parser().parse_args(argv))
    for name in ("calibration", "batch_size", "threads"):
        check_whole(name, options[name])
    choose_device("cpu", options["threads"])
    outcome = export(
        options["run"],
        options["format"],
        directory=options["output"],
        int8=options["int8"],
        calibration=options["calibration"],
        batch_size=options["batch_size"],
        data=data_fields(options),
    )
    for line in _report(outcome.source, outcome.rows):
        print(line)


def _report(source: ExportInput, rows: list[ExportedFile]) -> Iterator[str]:
    form = source.trained.format
    shape, size = "x".join(map(str, form.shape)), (source.path / WEIGHTS_FILE).stat().st_size
    parameters = count_parameters(source.trained.network)
    yield f"{source.path}: {parameters:,} parameters, {size:,} bytes; images of {shape}, {form.class_names_in_short()}"
    of = "logit" if form.values is None else "number, in standard deviations"
    for row in rows:
        found = ", ".join(f"{difference:.1e} at batch {batch}" for batch, difference in row.file.differences.items())
        yield f"{row.file.path}: {row.file.size:,} bytes; largest difference of a {of}: {found}"
    kind = source.kind
    if source.test is None:
        yield f"{kind.columns[kind.compared[0]]} not measured: {source.missing}"
    else:
        for name in kind.compared:
            compared = ", ".join(f"{row.file.path.name} {decimals(row.scores[name])}" for row in rows)
            yield f"{kind.columns[name]} on {len(source.test):,} test images: {compared}"
        if source.note:
            yield source.note
    yield f"To use it without this project, as {rows[0].file.path.parent / DESCRIPTION_FILE} says, too:"
    yield ""
    yield from ("    " + line if line else "" for line in rows[-1].about["usage"].splitlines())


if __name__ == "__main__":
    raise SystemExit(main())
