"""Checkpoints of a run, written atomically and read back exactly."""

import collections
import hashlib
import io
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from base.checks import InputError
from base.files import temporary_pattern
from training.run.ownership.files import write_file

CHECKPOINT_FILES = "epoch_*.pt"
"""Pattern of the names of checkpoints."""
_MAGIC = b"fusenas checkpoint 1 "
_PRIMITIVES = (type(None), bool, int, float, str)


class Checkpoints:
    """The newest `keep` checkpoints of a run, in `directory`/checkpoints/epoch_0012.pt.

    A file is one line with a SHA-256 and then, covered by it, the state and the header by
    `torch.save`.
    """

    def __init__(self, directory: Path, keep: int = 2, header: Mapping[str, str] | None = None) -> None:
        """`directory` is that of the run.

        A checkpoint is loaded only if it was saved with `header`.
        """
        if keep < 1:
            raise InputError(f"keep: at least 1 checkpoint must stay, not {keep}")
        self.directory = directory / "checkpoints"
        self.keep = keep
        self.header = dict(header or {})

    def save(self, epoch: int, state: dict[str, Any]) -> Path:
        """Writes the state after `epoch` epochs, then deletes all but the newest `keep`.

        `state` holds tensors, None, bool, int, float, str, and dicts, lists and tuples of them.

        Raises:
            TypeError: another type is in `state`; loading would refuse it.
            OSError: the file cannot be written; all earlier checkpoints are still there.
        """
        buffer = io.BytesIO()
        torch.save({"header": _plain(self.header, "header"), "epoch": epoch, "state": _plain(state, "state")}, buffer)
        payload = buffer.getvalue()
        content = _MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n" + payload
        path = write_file(self.directory.parent, f"{self.directory.name}/epoch_{epoch:04d}.pt", content)
        for old in self._files()[: -self.keep]:
            old.unlink(missing_ok=True)
        return path

    def load_latest(self) -> tuple[int, dict[str, Any]] | None:
        """Returns what `latest` does, for a run that goes on: what a killed write has left is
        removed."""
        for leftover in self.directory.glob(temporary_pattern(CHECKPOINT_FILES)):
            leftover.unlink(missing_ok=True)
        return self.latest()

    def latest(self) -> tuple[int, dict[str, Any]] | None:
        """Returns the newest checkpoint, its epoch and its state on the CPU; None where there is
        none.

        Nothing is changed, so that another process may write further ones.

        Raises:
            ValueError: the newest file is damaged or of another run; the message says how to go on.
        """
        files = self._files()
        if not files:
            return None
        try:
            return self._read(files[-1])
        except (InputError, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            earlier = f"go on from epoch {_epoch(files[-2])}" if len(files) > 1 else "start from the beginning"
            raise InputError(f"{files[-1]}: {reason}; delete it to {earlier}, or begin anew with --overwrite") from error

    def newest_epoch(self) -> int | None:
        """Returns the epoch of the newest checkpoint, by its name alone; None where there is
        none."""
        files = self._files()
        return _epoch(files[-1]) if files else None

    def _read(self, path: Path) -> tuple[int, dict[str, Any]]:
        first, _, payload = path.read_bytes().partition(b"\n")
        if not first.startswith(_MAGIC):
            raise InputError("not a checkpoint of this program")
        if first != _MAGIC + hashlib.sha256(payload).hexdigest().encode():
            raise InputError("the checkpoint is damaged or cut short")
        try:
            content = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
        except Exception as error:  # errors of any type; as the bytes are those that were saved, the versions differ
            raise InputError("this version of torch cannot read the checkpoint") from error
        try:
            epoch, header, state = content["epoch"], dict(content["header"]), content["state"]
        except (TypeError, KeyError, ValueError) as error:
            raise InputError("not a checkpoint of this program") from error
        if epoch != _epoch(path):
            raise InputError(f"the file was renamed, it holds epoch {epoch}")
        for key, value in self.header.items():
            if header.get(key) != value:
                raise InputError(f"of another run ({key} {header.get(key)}, not {value})")
        return epoch, state

    def _files(self) -> list[Path]:
        """Returns the files, oldest first."""
        files = (path for path in self.directory.glob(CHECKPOINT_FILES) if re.fullmatch(r"epoch_\d{4,}\.pt", path.name))
        return sorted(files, key=_epoch)


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
