"""`python -m retrain.predict RUN FILES_OR_FOLDER`: what a retrained network says of images without labels.

RUN is the directory of a finished retraining, of which weights.safetensors is enough: it says how
the images of the training were read, and these are read in the same way, any number of them in
bounded memory. The answers go to a table on the terminal or, with --csv, to a file, a row for each
image as it comes; an image that cannot be read has its error there, and the others are predicted.

Exit status: 0, all images are predicted; 1, some could not be read; 2, there is nothing to predict
or the run cannot be used.
"""

import csv
import io
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from base.checks import FieldError, InputError, check_whole
from base.files import check_writable, replacing
from base.texts import as_wide, csv_cell, escape, label, width
from retrain.finished import RetrainRun
from retrain.weights import WEIGHTS_FILE, Trained
from training.format import ImageFormat, Resizing
from training.hardware import Hardware, Precision, choose_device
from training.images.arguments import UNLABELLED, add_data_arguments, data_fields
from training.images.data import DataConfig
from training.images.inputs import Inputs, PixelReader
from training.run.arguments import TRUTH, Parser, whole_number
from training.run.command import command
from training.run.config import CONFIG_FILE
from training.run.monitor import Bar
from training.tasks.prediction import Answers, answer
from training.tasks.task import TASKS, Task

PROG = "retrain.predict"
MOST_ROWS, MOST_FAULTS, MOST_CLASSES = 20, 10, 20  # that the terminal shows
_WIDEST = 60  # columns of a name in the table
_BEGINS = b"file,"
Row = tuple[str | float, ...]


def _parser() -> Parser:
    parser = Parser(
        prog=PROG,
        usage=f"python -m {PROG} RUN FILES_OR_FOLDER ... [--csv FILE] [--OPTION VALUE ...]",
        description="Predict images without labels with a retrained network.",
        allow_abbrev=False,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="Directory of a finished retraining.")
    inputs = "Image files, folders (with all images below them), .npz files."
    parser.add_argument("inputs", nargs="+", metavar="FILES_OR_FOLDER", help=inputs)
    table = "File for the answers, a row an image (default: the first are shown)."
    parser.add_argument("--csv", type=Path, metavar="FILE", help=table)
    parser.add_argument("--overwrite", default=False, help="Replace the file of --csv.", **TRUTH)
    array = "Array of .npz files that has the images (default: the only one, or x_test)."
    parser.add_argument("--array", metavar="NAME", help=array)
    parser.add_argument("--batch_size", type=whole_number, default=256, metavar="N", help="Images at once (default: 256).")
    parser.add_argument("--device", default="auto", help="auto (cuda where there is one; default), cpu, cuda, cuda:1 ...")
    parser.add_argument("--threads", type=whole_number, metavar="N", help="CPU threads (default: one for each core).")
    add_data_arguments(parser, UNLABELLED)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status."""
    return command(PROG, lambda: _main(argv), less="a smaller --batch_size, or fewer --data.workers")


def _main(argv: list[str] | None) -> int:
    options = vars(_parser().parse_intermixed_args(argv))
    for name in ("batch_size", "threads"):
        check_whole(name, options[name])
    run = RetrainRun.open(options["run"])
    trained = run.trained
    if trained.task not in TASKS:
        mend = "; a task of your own is known once its file is imported"
        raise InputError(f"{run.path}: task: {TASKS.unknown(trained.task)}{mend}")
    task = TASKS[trained.task]
    target: Path | None = options["csv"]
    if target is not None:
        _check_new(target, options["overwrite"])
    hardware = Hardware(choose_device(options["device"], options["threads"]), _precision(run))
    data = data_fields(options)
    reader = _reader(trained, data)
    inputs = Inputs.open(options["inputs"], reader, options["array"], data.get("layout", "auto"))
    for note in inputs.notes:
        print(note)
    seen = _Seen(task.answer_columns(trained.format), len(inputs))
    with ExitStack() as opened:
        write = None if target is None else opened.enter_context(replacing(target))
        bar = opened.enter_context(Bar(len(inputs), description="predict", of="image"))
        if write is not None:
            write(_lines([("file", *seen.columns, "error")]))
        try:
            parts = answer(trained.network, reader, inputs, hardware, options["batch_size"], data.get("workers"))
            for part in parts:
                rows = list(_rows(task, trained.format, part))
                if write is not None:
                    write(_lines(rows))
                seen.add(rows)
                bar.advance(len(rows))
                bar.show({}, seen.images_per_second)
        except InputError as error:
            raise InputError(f"{run.path / WEIGHTS_FILE}: ", *error.parts) from error
        if target is not None:
            _check_new(target, options["overwrite"])  # it may have come meanwhile
    print("\n".join(seen.report(table=target is None)))
    if target is not None:
        print(f"written: {target}")
    return 1 if seen.unread else 0


def _precision(run: RetrainRun) -> Precision:
    return run.config.precision if (run.path / CONFIG_FILE).exists() else "auto"


def _check_new(target: Path, overwrite: bool) -> None:
    check_writable(target, "--csv: ")
    if not os.path.lexists(target):
        return
    if not target.is_file():
        raise InputError(f"--csv: {target} is there already, and no file")
    with target.open("rb") as file:
        begins = file.read(len(_BEGINS))
    if begins not in (_BEGINS, b""):  # an image to be predicted, perhaps
        raise InputError(f"--csv: {target} is there already, and no table of predictions; name another file")
    if not overwrite:
        raise InputError(f"--csv: {target} is there already; --overwrite replaces it")


def _reader(trained: Trained, data: dict[str, Any]) -> PixelReader:
    """Returns the way in which the images of the training were read, with the fields `data` of
    `DataConfig` in the place of its own."""
    found, bits = trained.resizing, data.get("bits")
    ours = {"size": found.size, "fit": found.fit, "resize": found.resize}
    if "size" in data or data.get("fit") == "stretch":
        ours["resize"] = None
    try:
        chosen = DataConfig(**(ours | {name: value for name, value in data.items() if name != "layout"}))
    except FieldError as error:
        raise error.within("data") from error
    form = trained.format if bits is None else replace(trained.format, bits=bits)
    return PixelReader(form, Resizing(chosen.size, chosen.fit, chosen.resize, found.filter))


def _rows(task: type[Task], form: ImageFormat, part: Answers) -> Iterator[Row]:
    """Yields the row of each image: name, answers, error."""
    nothing = ("",) * len(task.answer_columns(form))
    for place, (name, cells) in enumerate(zip(part.names, task.answer_cells(form, part.outputs), strict=True)):
        fault = part.faults.get(place, "")
        yield (name, *(nothing if fault else cells), fault)


def _lines(rows: Sequence[Row]) -> bytes:
    """Returns lines of a CSV file, in UTF-8."""
    text = io.StringIO()
    shown = ([csv_cell(cell) if isinstance(cell, str) else f"{cell:.10g}" for cell in row] for row in rows)
    csv.writer(text, lineterminator="\n").writerows(shown)
    return text.getvalue().encode()


@dataclass
class _Seen:
    """The account of what was predicted: the first rows, and counts of all."""

    columns: tuple[str, ...]
    total: int
    first: list[Row] = field(default_factory=list)
    faults: list[Row] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    """Images by class, where the first answer is a name."""
    images: int = 0
    unread: int = 0
    _began: float = field(default_factory=time.perf_counter)

    def add(self, rows: Sequence[Row]) -> None:
        self.images += len(rows)
        self.first += rows[: MOST_ROWS - len(self.first)]
        faults = [row for row in rows if row[-1]]
        self.unread += len(faults)
        self.faults += faults[: MOST_FAULTS - len(self.faults)]
        self.counts.update(row[1] for row in rows if not row[-1] and isinstance(row[1], str))

    @property
    def images_per_second(self) -> float:
        return self.images / max(time.perf_counter() - self._began, 1e-9)

    def report(self, table: bool) -> Iterator[str]:
        """Yields the lines for the terminal, with the first rows where they are in no file."""
        seconds = time.perf_counter() - self._began
        if table and self.images > self.unread:
            yield from _table([("file", *self.columns), *(map(_shown, row[:-1]) for row in self.first if not row[-1])])
            if self.images > len(self.first):
                yield f"... and {self.images - len(self.first):,} more; --csv FILE has all"
        if self.counts:
            most = ", ".join(f"{label(name)} {count:,}" for name, count in self.counts.most_common(MOST_CLASSES))
            more = len(self.counts) - MOST_CLASSES
            yield f"predicted: {most}{f', and {more:,} classes more' if more > 0 else ''}"
        for name, *_, fault in self.faults:
            yield f"not predicted: {escape(str(name))}: {fault}"
        if self.unread:
            which = "none of the images could be read" if self.unread == self.images else "could not be read"
            yield f"{self.unread:,} of {self.images:,} images: {which}"
        yield f"{self.images:,} images in {seconds:.1f} s, {self.images / max(seconds, 1e-9):,.0f} images/s"


def _shown(cell: str | float) -> str:
    return label(cell, _WIDEST) if isinstance(cell, str) else f"{cell:.4f}"


def _table(rows: Sequence[Any]) -> Iterator[str]:
    """Yields a table with texts to the left of their columns, which numbers are, too: all have one
    width."""
    lines = [list(row) for row in rows]
    widths = [max(map(width, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  ".join(map(as_wide, line, widths)).rstrip()


if __name__ == "__main__":
    raise SystemExit(main())
