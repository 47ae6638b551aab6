"""Checkpoints of a run, written atomically and read back exactly."""

import collections
import hashlib
import io
import re
import sys
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from base.checks import InputError
from base.files import read_limited, temporary_pattern
from base.texts import excerpt
from training.run.ownership.files import write_file
from training.run.structure import Part, anything, integer

CHECKPOINT_FILES = "epoch_*.pt"
"""Pattern of the names of checkpoints."""
_MAGIC = b"fusenas checkpoint 1 "
_PRIMITIVES = (type(None), bool, int, float, str)


Structure = Callable[[int], Part]
"""The structure of the state after so many epochs."""


class _Damaged(InputError):
    """A file does not hold what was written to it."""


class _Foreign(InputError):
    """What has the name of a checkpoint is none of this run: to go on would write over it."""


class Checkpoints:
    """The newest `keep` checkpoints of a run, in `directory`/checkpoints/epoch_0012.pt.

    A file is one line with a SHA-256 and then, covered by it, the state and the header by
    `torch.save`.
    """

    def __init__(
        self, directory: Path, keep: int = 2, header: Mapping[str, str] | None = None, before: Collection[str] = ()
    ) -> None:
        """`directory` is that of the run.

        A checkpoint is loaded only if it was saved with `header`, or with one of the hashes in
        `before` for that of its configuration.
        """
        if keep < 1:
            raise InputError(f"keep: at least 1 checkpoint must stay, not {keep}")
        self.directory = directory / "checkpoints"
        self.keep = keep
        self.header = dict(header or {})
        self.before = before

    def save(self, epoch: int, state: dict[str, Any]) -> Path:
        """Writes the state after `epoch` epochs, then deletes all earlier ones but the newest
        `keep`.

        `state` holds tensors, None, bool, int, float, str, and dicts, lists and tuples of them.

        Raises:
            TypeError: another type is in `state`; loading would refuse it.
            OSError: the file cannot be written; all earlier checkpoints are still there.
        """
        buffer = io.BytesIO()
        torch.save({"header": _plain(self.header, "header"), "epoch": epoch, "state": _plain(state, "state")}, buffer)
        payload = buffer.getvalue()
        content = _MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload
        for leftover in self.directory.glob(temporary_pattern(CHECKPOINT_FILES)):
            leftover.unlink(missing_ok=True)  # of a process that was killed
        path = write_file(self.directory.parent, f"{self.directory.name}/epoch_{epoch:04d}.pt", content)
        # Later files are those that a resumed run has skipped as damaged.
        for old in [file for file in self._files() if _epoch(file) <= epoch][: -self.keep]:
            old.unlink(missing_ok=True)
        return path

    def latest(self, structure: Structure = lambda epochs: anything) -> tuple[int, dict[str, Any]] | None:
        """Returns the newest checkpoint, its epoch and its state on the CPU; None where there is
        none.

        Nothing is changed, so that another process may write further ones.

        Raises:
            InputError: the newest file is damaged, of another run, or not what `structure` takes.
        """
        files = self._files()
        if not files:
            return None
        try:
            return self._read(files[-1], structure)
        except InputError as error:
            earlier = "--resume goes on from an earlier one" if len(files) > 1 else _mend(error)
            raise InputError(f"{files[-1]}: {error}; {earlier}") from error

    def last_good(self, structure: Structure) -> tuple[int, dict[str, Any], tuple[str, ...]] | None:
        """Returns the newest checkpoint that can be gone on from, its epoch and its state on the
        CPU, and why each later one cannot; None where there is no checkpoint at all.

        Later ones are damaged, or not what `structure` takes. They stay where they are until the
        run comes to their epoch again.

        Raises:
            InputError: none is good, or the newest is of another run.
        """
        skipped: list[tuple[str, str]] = []  # why, and the way out; an error would keep the whole state by its traceback
        for path in reversed(self._files()):
            try:
                found = self._read(path, structure)
            except _Foreign as error:
                raise InputError(f"{path}: {error}; delete it, or begin anew with --overwrite") from error
            except InputError as error:
                skipped.append((f"{path}: {error}", _mend(error)))
            else:
                return *found, tuple(why for why, _ in skipped)
        if not skipped:
            return None
        why, mend = skipped[0]
        others = "" if len(skipped) == 1 else f"; of {len(skipped)} checkpoints none is good"
        raise InputError(f"{why}{others}; {mend}")

    def newest_epoch(self) -> int | None:
        """Returns the epoch of the newest checkpoint, by its name alone; None where there is
        none."""
        files = self._files()
        return _epoch(files[-1]) if files else None

    def _read(self, path: Path, structure: Structure) -> tuple[int, dict[str, Any]]:
        """Reads and checks a file. Raises InputError, without the name of the file."""
        if path.is_dir():
            raise _Foreign("is a folder, where a file is needed")
        try:
            # What is no file has no size, and is refused instead of waited for.
            whole = read_limited(path, path.stat().st_size)
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror}") from error
        except InputError as error:
            raise InputError(str(error).removeprefix(f"{path}: ")) from error
        first, _, payload = whole.partition(b"\n")
        if not first.startswith(_MAGIC):
            raise _Damaged("not a checkpoint of this program")
        if first != _MAGIC + hashlib.sha256(payload).hexdigest().encode():
            raise _Damaged("the checkpoint is damaged or cut short")
        try:
            with warnings.catch_warnings():
                # torch warns of values that no run saves; what they are in is refused below.
                warnings.simplefilter("ignore")
                content = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        except Exception as error:  # errors of any type; as the bytes are those that were saved, the versions differ
            raise InputError("this version of torch cannot read the checkpoint") from error
        if type(content) is not dict or type(content.get("header")) is not dict or "state" not in content:
            raise _Damaged("not a checkpoint of this program")
        epochs, header = content.get("epoch"), content["header"]
        integer(1)("epoch", epochs)
        if epochs != _epoch(path):
            raise InputError(f"the file was renamed, it holds epoch {epochs}")
        for key, value in self.header.items():
            if header.get(key) != value and not (key == "config_hash" and header.get(key) in self.before):
                raise _Foreign(f"of another run ({key} {excerpt(header.get(key))}, not {value})")
        structure(epochs)("", content["state"])
        return epochs, content["state"]

    def _files(self) -> list[Path]:
        """Returns the files, oldest first."""
        files = (path for path in self.directory.glob(CHECKPOINT_FILES) if re.fullmatch(r"epoch_\d{4,}\.pt", path.name))
        return sorted(files, key=_epoch)


def _mend(error: InputError) -> str:
    """Returns a way out where no checkpoint can be gone on from."""
    undo = "put back the file as it was" if isinstance(error, _Damaged) else "undo what has changed since"
    return f"{undo}, or begin anew with --overwrite"


def _epoch(path: Path) -> int:
    return int(path.stem.removeprefix("epoch_"))


def _plain(value: Any, where: str) -> Any:
    """Returns the state as it is written.

    Equal texts become one object: otherwise the bytes would depend on which are.
    """
    if type(value) is str:
        return sys.intern(value)
    if isinstance(value, torch.Tensor) or type(value) in _PRIMITIVES:
        return value
    if type(value) in (dict, collections.OrderedDict):
        for key in value:
            if not all(type(part) in _PRIMITIVES for part in (key if type(key) is tuple else (key,))):
                raise TypeError(
                    f"{where}: the key {key!r} is a {type(key).__name__}; keys are names, numbers or tuples of them"
                )
        return type(value)((_plain(key, where), _plain(entry, f"{where}[{key!r}]")) for key, entry in value.items())
    if type(value) in (list, tuple):
        return type(value)(_plain(entry, f"{where}[{index}]") for index, entry in enumerate(value))
    raise TypeError(f"{where}: is a {type(value).__name__}; allowed are tensors, numbers, text, dicts, lists, tuples")
