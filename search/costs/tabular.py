"""A benchmark table as judge of a search: NAS-Bench-201 (Dong & Yang 2020) on CIFAR-10.

The table is a CSV file, plain or gzip, that the user names. Beside it stand the exact results of
two baselines: an architecture drawn at random, and the best of some.
"""

import csv
import gzip
import hashlib
import io
import itertools
import json
import math
import re
import statistics
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

from base.checks import FieldError, InputError, check_whole
from base.files import read_limited
from base.texts import escape, show
from supernet import Genotype
from training.run.config import RunOptions
from training.run.ownership.files import write_file

LARGEST_TABLE = 2**26  # bytes, decompressed: twenty times the whole benchmark; a small gzip file can hold any number
MOST_ROWS = 100_000  # six times the architectures of the benchmark
LONGEST_ROW = 2**18  # characters, also where quotes let it go on over several lines

TABLE_FILE = "table.json"
"""The file in the directory of a run by which its table is known again."""
_LARGEST_DESCRIPTION = 2**16  # bytes

_FORM = "|op~0|+|op~0|op~1|+|op~0|op~1|op~2|"
_ARCHITECTURE = re.compile(re.escape(_FORM).replace("op", r"\w+"))
_REQUIRED = ("arch", "cifar10_test_200", "cifar10_valid_200", "cifar10_valid_12", "params_cifar10", "flops_cifar10")
_FIELDS = {
    "cifar10_test_200": "test_accuracy",
    "cifar10_valid_200": "valid_accuracy",
    "cifar10_valid_12": "valid_accuracy_12",
}
_LATENCY = "latency_ms_"
_MOST = 1e15  # parameters, multiply-adds, milliseconds


@dataclass(frozen=True)
class TableRow:
    """The row of one architecture; accuracies are in percent on CIFAR-10."""

    test_accuracy: float
    """Accuracy on the test images, after 200 epochs (cifar10_test_200)."""
    valid_accuracy: float
    """Accuracy on the validation images, after 200 epochs (cifar10_valid_200)."""
    valid_accuracy_12: float
    """Accuracy on the validation images, after the schedule of 12 epochs (cifar10_valid_12)."""
    parameters: int
    """Trainable parameters of the network (params_cifar10)."""
    multiply_adds: int
    """Multiply-adds of one image, as the benchmark counts them (flops_cifar10)."""
    latency_ms: Mapping[str, float]
    """Milliseconds of one forward pass by device: NAME for each column latency_ms_NAME, so it may
    be empty."""


@dataclass(frozen=True, eq=False)
class Table:
    """A benchmark table; `table[genotype]` is the row of that architecture."""

    rows: Mapping[str, TableRow]
    """Rows by architecture string, `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|`, in the order of the
    file."""
    notes: tuple[str, ...] = ()
    """Lines for the log that say how the table was read."""
    is_changed: bool = False
    """Whether the run that goes on began with another table."""

    @cached_property
    def fingerprint(self) -> str:
        """Returns a short text that differs where an architecture or a figure does; latencies, which
        are no score, are left out."""
        rows = sorted((architecture, astuple(replace(row, latency_ms={}))) for architecture, row in self.rows.items())
        return hashlib.blake2b(repr(rows).encode(), digest_size=8).hexdigest()

    @classmethod
    def read(cls, path: str | Path) -> "Table":
        """Reads a CSV file in UTF-8, gzip if its name ends in .gz, whose first line names the
        columns.

        It needs the columns arch, cifar10_test_200, cifar10_valid_200, cifar10_valid_12,
        params_cifar10 and flops_cifar10. Columns latency_ms_NAME are read, too; all others are
        passed over. Accuracies are in percent; if none of them is above 1 they are shares, which
        become percent.

        Raises:
            ValueError: a file that cannot be read or is damaged, larger than 64 MiB when
                decompressed, or no such table, also one of shares and percents. The message is one
                line that begins with "tabular:" and the path, and names line and column if there
                are any.
        """
        path = Path(path)
        try:
            rows = _read_rows(_read_bytes(path))
            in_percent = _in_percent(rows)
            notes = [f"table {escape(str(path))}: {len(rows):,} architectures"]
            if in_percent is not rows:
                notes.append("accuracies in the table are shares, none above 1: they are taken times 100, as percent")
            return cls(in_percent, tuple(notes))
        except ValueError as error:
            name = str(path)
            raise FieldError("tabular", f"{name if name.isprintable() else repr(name)}: {error}") from None

    @classmethod
    def of_run(cls, path: str | Path, options: RunOptions) -> "Table":
        """Reads the table of a run, as `read` does; where the run goes on, `is_changed` and a note
        say if the table is another than it was."""
        table = cls.read(path)
        before = _described(options.run) if options.resume else None
        if before is None or before == table._description():
            return table
        was, now = before["architectures"], len(table.rows)
        how = f"{was:,} architectures then, {now:,} now" if was != now else "other architectures or figures"
        return replace(table, notes=(*table.notes, f"the table has changed since the run began: {how}"), is_changed=True)

    def save_description(self, run: Path) -> None:
        """Writes table.json, by which a table is known again, in the directory of a run."""
        write_file(run, TABLE_FILE, json.dumps(self._description()) + "\n")

    def _description(self) -> dict[str, Any]:
        return {"architectures": len(self.rows), "fingerprint": self.fingerprint}

    def __getitem__(self, genotype: Genotype) -> TableRow:
        """Returns the row of `genotype`, in any order of the inputs within its nodes.

        Raises ValueError for a genotype that has no NAS-Bench-201 text or no row.
        """
        misfit = genotype.misfit("nasbench201")
        if misfit:
            raise FieldError(
                "tabular",
                f"a genotype of space {genotype.space} has no NAS-Bench-201 text: {misfit}; "
                "a table judges searches in the space nasbench201 alone",
            )
        architecture = genotype.to_text("nasbench201")
        if architecture not in self.rows:
            raise FieldError(
                "tabular",
                f"the table has no {architecture}; "
                "take a table of the whole space, or keep the search to operations that the table has",
            )
        return self.rows[architecture]


def _described(run: Path) -> dict[str, Any] | None:
    """Returns what `Table.save_description` has written in the directory of a run; None where there
    is nothing of the kind."""
    try:
        content = json.loads(read_limited(run / TABLE_FILE, _LARGEST_DESCRIPTION))
    except (ValueError, RecursionError):
        return None
    known = isinstance(content, dict) and type(content.get("architectures")) is int and "fingerprint" in content
    return content if known else None


def random_architecture(table: Table) -> tuple[float, float]:
    """Returns mean and standard deviation of the test accuracy of a random architecture, in
    percent.

    It is drawn uniformly from the table.
    """
    accuracies = [row.test_accuracy for row in table.rows.values()]
    return statistics.fmean(accuracies), statistics.pstdev(accuracies)


def best_of_random(table: Table, count: int) -> tuple[float, float]:
    """Returns mean and standard deviation of the test accuracy of the best of `count`, in percent.

    The `count` architectures are drawn uniformly with replacement, and the best is the one with the
    highest validation accuracy after 12 epochs; equals have equal chances. Both numbers are exact:
    of n architectures, the best has a validation accuracy that at most m of them do not exceed with
    probability (m / n)^count. Raises ValueError for a `count` below 1.
    """
    check_whole("count", count)
    ranked = sorted(table.rows.values(), key=lambda row: row.valid_accuracy_12)
    weights, accuracies = [], []
    reached = 0
    for _, equals in itertools.groupby(ranked, key=lambda row: row.valid_accuracy_12):
        tied = [row.test_accuracy for row in equals]
        before, reached = reached, reached + len(tied)
        chance = (reached / len(ranked)) ** count - (before / len(ranked)) ** count
        weights += [chance / len(tied)] * len(tied)
        accuracies += tied
    mean = math.fsum(weight * accuracy for weight, accuracy in zip(weights, accuracies, strict=True))
    # Moments about the mean: a difference of two large moments would lose the digits of a small
    # deviation.
    variance = math.fsum(weight * (accuracy - mean) ** 2 for weight, accuracy in zip(weights, accuracies, strict=True))
    return mean, math.sqrt(variance)


def _read_bytes(path: Path) -> bytes:
    """Returns the decompressed content of the file, read as far as the largest size of a table."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise InputError("is no regular file; name a CSV file or one in gzip (.csv.gz)")
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb") as file:
            content = file.read(LARGEST_TABLE + 1)
    except FileNotFoundError:
        raise InputError("no such file; name a benchmark table, a CSV file or one in gzip (.csv.gz)") from None
    except EOFError:
        raise InputError("the gzip file is cut short; copy or download it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"not gzip, or damaged ({error}); get it again, or take .gz off a plain CSV file") from None
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}; name a CSV file that you may read") from None
    if len(content) > LARGEST_TABLE:
        raise InputError(f"larger than {LARGEST_TABLE // 2**20} MiB decompressed; name the table of one benchmark alone")
    return content


def _read_rows(content: bytes) -> dict[str, TableRow]:
    """Returns the rows by architecture string."""
    source = _Lines(io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline=""))
    lines = csv.reader(source, strict=True)
    rows: dict[str, TableRow] = {}
    try:
        header = next(lines, [])
        latencies = [column for column in header if column.startswith(_LATENCY)]
        _check_header(header, latencies)
        for fields in lines:
            source.length = 0
            if not fields:  # an empty line
                continue
            line = f"line {lines.line_num}"
            if len(fields) != len(header):
                raise InputError(f"{line}: {len(fields)} fields instead of {len(header)}; give it one for each column")
            if len(rows) == MOST_ROWS:
                raise InputError(f"{line}: more than {MOST_ROWS:,} architectures; name the table of one benchmark alone")
            entry = dict(zip(header, fields, strict=True))
            architecture = entry["arch"]
            if not _ARCHITECTURE.fullmatch(architecture):
                raise InputError(f"{line}, column arch: must be of the form {_FORM}, not {show(architecture)}")
            if architecture in rows:
                raise InputError(f"{line}, column arch: {architecture} is there twice; take one of its lines out")
            rows[architecture] = TableRow(
                test_accuracy=_number(line, entry, "cifar10_test_200", 100),
                valid_accuracy=_number(line, entry, "cifar10_valid_200", 100),
                valid_accuracy_12=_number(line, entry, "cifar10_valid_12", 100),
                parameters=_whole(line, entry, "params_cifar10"),
                multiply_adds=_whole(line, entry, "flops_cifar10"),
                latency_ms={column.removeprefix(_LATENCY): _number(line, entry, column) for column in latencies},
            )
    except csv.Error as error:
        raise InputError(f"line {lines.line_num}: not CSV: {error}; mend the quotes or line ends") from None
    except UnicodeDecodeError:
        raise InputError("not a text in UTF-8; save it as one, or let the name of a gzip file end in .gz") from None
    if not rows:
        raise InputError("no architecture below the names of the columns (cut short?); get the table again")
    return rows


class _Lines:
    """The lines of a text, of which one record may take only so many characters."""

    def __init__(self, text: TextIO) -> None:
        self._text = text
        self.length = 0
        """Characters since it was last set to 0."""

    def __iter__(self) -> Iterator[str]:
        for number, line in enumerate(self._text, 1):
            self.length += len(line)
            if self.length > LONGEST_ROW:
                raise InputError(f"line {number}: longer than {LONGEST_ROW:,} characters; take out columns that are not read")
            yield line


def _in_percent(rows: dict[str, TableRow]) -> dict[str, TableRow]:
    """Returns the rows with accuracies in percent: as they are or, if they are shares, times 100.

    Raises InputError where some would be shares and others percents. No network of CIFAR-10 comes
    near an accuracy of 1%, as chance is 10%; 0 is one that could not be trained.
    """
    found = {column: [getattr(row, field) for row in rows.values()] for column, field in _FIELDS.items()}
    largest = max(max(values) for values in found.values())
    if largest == 0:
        return rows
    if largest > 1:
        for column, values in found.items():
            if share := max((value for value in values if value < 1), default=0.0):
                raise InputError(
                    f"column {column}: an accuracy of {share:g} where others are up to {largest:g}: a share, or percent? "
                    "Give all accuracies in percent"
                )
        return rows
    # Rounded, so that 0.6325 is 63.25 and not 63.24999999999999.
    return {
        name: replace(row, **{field: round(100 * getattr(row, field), 9) for field in _FIELDS.values()})
        for name, row in rows.items()
    }


def _check_header(header: list[str], latencies: list[str]) -> None:
    """Raises ValueError unless each column that is read is there once."""
    missing = [column for column in _REQUIRED if column not in header]
    if missing:
        raise InputError(f"columns missing: {', '.join(missing)}; the first line must name them, with commas between")
    times = Counter(header)
    twice = [column for column in (*_REQUIRED, *latencies) if times[column] > 1]
    if twice:
        raise InputError(f"column {show(twice[0])} is there twice; take one of the two out")


def _number(line: str, entry: Mapping[str, str], column: str, most: float = _MOST) -> float:
    try:
        value = float(entry[column])
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise InputError(f"{line}, column {column}: must be a finite number of at least 0, not {show(entry[column])}")
    if value > most:
        unit = " percent" if column in _FIELDS else ""
        raise InputError(f"{line}, column {column}: must be at most {most:g}{unit}, not {show(entry[column])}")
    return value


def _whole(line: str, entry: Mapping[str, str], column: str) -> int:
    value = _number(line, entry, column)
    if not value.is_integer():
        raise InputError(
            f"{line}, column {column}: must be a whole number, not {show(entry[column])}; millions are written out"
        )
    return int(value)
