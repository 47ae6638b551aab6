"""The history of a run: an entry for each epoch, in a file that is whole at any moment."""

import dataclasses
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from base.checks import InputError
from base.plain_json import read_json_bytes
from base.texts import one_line, show
from training.run.ownership.files import write_file

HISTORY_FILE = "history.jsonl"


@dataclass(frozen=True, kw_only=True)
class HistoryEntry:
    """One epoch of a run.

    Subclasses add fields of plain values: numbers, texts, and lists and mappings of them.

    Neither the time of day nor a duration belongs here: a run that was killed and resumed ends with
    the same bytes as one that was not.
    """

    epoch: int
    """Number of the epoch, from 1."""
    readings: Mapping[str, float]
    """Readings of meters and the like, under names of their own such as "train/loss"."""

    def to_plain(self) -> dict[str, Any]:
        """Returns the entry as a checkpoint and history.jsonl hold it: readings stand beside the
        fields.

        A field with a default is left out where it is None.
        """
        own = {field.name: (getattr(self, field.name), field.default) for field in self._own_fields()}
        return {name: value for name, (value, default) in own.items() if not value is default is None} | dict(self.readings)

    @classmethod
    def from_plain(cls, values: Mapping[str, Any]) -> Self:
        """Makes an entry of what `to_plain` has returned.

        Raises InputError unless the values are those of such an entry.
        """
        fields = {field.name: field for field in cls._own_fields()}
        for name, field in fields.items():
            if field.default is dataclasses.MISSING and name not in values:
                raise InputError(f"{name} is missing")
        readings = {name: value for name, value in values.items() if name not in fields and value is not None}
        for name, value in ({"epoch": values["epoch"]} | readings).items():
            if type(value) not in (int, float):
                raise InputError(f"{name} is no number but {show(value)}")
        return cls(**{name: values[name] for name in fields if name in values}, readings=readings)

    @classmethod
    def _own_fields(cls) -> list[dataclasses.Field[Any]]:
        return [field for field in dataclasses.fields(cls) if field.name != "readings"]


E = TypeVar("E", bound=HistoryEntry)


def write_history(directory: Path, history: Sequence[HistoryEntry]) -> None:
    """Writes history.jsonl in the directory of a run: a line of JSON for each entry.

    Checkpoints hold the same entries, so that a resumed run goes on from them. Raises OSError where
    the file cannot be written.
    """
    lines = (json.dumps(entry.to_plain(), sort_keys=True) + "\n" for entry in history)
    write_file(directory, HISTORY_FILE, "".join(lines))


def read_history(directory: Path, from_plain: Callable[[Mapping[str, Any]], E]) -> list[E]:
    """Reads history.jsonl in the directory of a run, each line with `from_plain`; there is no entry
    where there is no file.

    Raises InputError, which names the file and the line, for a line that is no such entry, and for
    a file that is too large.
    """
    path, history = directory / HISTORY_FILE, []
    if not path.is_file():
        return []
    for number, line in enumerate(io.BytesIO(read_json_bytes(path)), start=1):
        try:
            values = json.loads(line)
            if not isinstance(values, dict):
                raise InputError("is no mapping")
            history.append(from_plain(values))
        except (ValueError, TypeError, RecursionError) as error:
            raise InputError(f"{path}: line {number} is no entry of such a history ({one_line(error)})") from error
    return history
