"""A run is a directory: how it is made ready, gone on with, replaced and told from others."""

import contextlib
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from base.checks import InputError
from base.files import temporary_pattern, write_atomically
from base.plain_yaml import read_yaml
from base.texts import one_line
from training.run.base import RunConfig
from training.run.checkpoint import CHECKPOINT_FILES, Checkpoints
from training.run.config import CONFIG_FILE, config_hash, config_to_dict, config_to_yaml

# The first line of a run's config.yaml; it tells a run from a directory that merely holds a file of
# this name.
_RUN_MARK = "# A run of fusenas. Continue it with --resume.\n"
_KIND_MARK = "# Kind: "
# Behind it, in JSON, `RunConfig.run_files`: who overwrites a run may be a command that knows
# nothing of runs of its sort.
_FILES_MARK = "# Files: "
_PATTERN = re.compile(r"(\w+/)?\w[\w.]*\*?[\w.]*")


class RunDirectory:
    """The directory of one run: config.yaml, log.txt, TensorBoard events, checkpoints/ and
    results."""

    def __init__(self, path: Path, config: RunConfig) -> None:
        """Use `open`; this leaves the directory unread."""
        self.path = path
        self.config_hash = config_hash(config, ignore=config.may_change())
        """Hash of the settings that stay the same over the whole run."""

    @classmethod
    def check(cls, path: Path, config: RunConfig, resume: bool, overwrite: bool) -> None:
        """Raises the errors of `open` and changes nothing: for the beginning of a run, before data
        are read.

        Raises:
            ValueError: see `open`.
        """
        if resume and overwrite:
            raise InputError("--resume and --overwrite exclude each other: go on with the run, or begin it anew")
        if os.path.lexists(path) and not path.is_dir():
            raise InputError(f"{path}: is a file; choose another directory with --run")
        _check_writable(path)
        if resume and not path.exists():
            raise InputError(f"{path}: nothing to resume, there is no such run; leave out --resume to start it")
        if not path.exists() or _is_empty(path):
            return
        if not _is_run(path):
            raise InputError(f"{path}: not empty and not a run of this program; choose another directory with --run")
        if resume:
            _check_same_config(path, config)
        elif not overwrite:
            state = f"a run already, {_progress(path)}"
            raise InputError(f"{path}: holds {state}; continue it with --resume or replace it with --overwrite")

    @classmethod
    def open(cls, path: Path, config: RunConfig, resume: bool, overwrite: bool, kind: str | None = None) -> "RunDirectory":
        """Makes the directory ready and writes config.yaml, after all of `check`.

        `overwrite` removes the files of the run that is there, so open only when the rest of the
        input is known to be good. `resume` of a run that has no checkpoint yet starts it from the
        beginning. The fields that `RunConfig.may_change` names may then differ from the saved ones.
        config.yaml says of what `kind` the run is, which `read_kind` returns.

        Raises:
            ValueError: the directory holds a run and neither flag is given, or something that is no
                run; there is nothing to resume; the saved configuration is another one; the
                directory cannot be written.
        """
        cls.check(path, config, resume, overwrite)
        is_new = not path.exists()
        try:
            path.mkdir(parents=True, exist_ok=True)
            patterns = {*config.run_files, *_files_of_run(path)}
            if overwrite:
                _remove_run(path, patterns)
            for pattern in (CONFIG_FILE, *patterns):
                for leftover in _temporary(path, pattern):
                    leftover.unlink(missing_ok=True)
            mark = _RUN_MARK if kind is None else f"{_RUN_MARK}{_KIND_MARK}{one_line(kind)}\n"
            mark += f"{_FILES_MARK}{json.dumps(config.run_files)}\n"
            write_atomically(path / CONFIG_FILE, mark + config_to_yaml(config))
        except OSError as error:
            if is_new:
                with contextlib.suppress(OSError):
                    path.rmdir()
            raise InputError(f"{path}: the run directory cannot be written: {error.strerror}") from error
        return cls(path, config)

    def checkpoints(self, kind: str, keep: int = 2) -> "Checkpoints":
        """Returns the checkpoints of this run; another `kind` ("search", "retrain") or
        configuration is refused."""
        return Checkpoints(self.path, keep, {"kind": kind, "config_hash": self.config_hash})


def read_kind(path: Path) -> str:
    """Returns the kind of the run in the directory `path`: the name of a method of search, or
    "retrain".

    Raises InputError where there is no run, or one that does not say it.
    """
    check_directory(path)
    kind = kind_of_run(path)
    if kind is None and _is_run(path):
        raise InputError(f"{path}: the run does not say what kind it is of; --resume, with the command that made it, writes it")
    if kind is None:
        raise InputError(f"{path}: holds no run; name the directory of one")
    return kind


def kind_of_run(path: Path) -> str | None:
    """Returns the kind of the run in the directory `path`; None where there is no run, or one that
    does not say it.

    Raises InputError where config.yaml cannot be read.
    """
    try:
        lines = (path / CONFIG_FILE).read_bytes().decode(errors="replace").splitlines() if _is_run(path) else []
    except OSError as error:
        raise InputError(f"{path / CONFIG_FILE}: cannot be read: {error.strerror}") from error
    says = len(lines) > 1 and lines[1].startswith(_KIND_MARK)
    return lines[1].removeprefix(_KIND_MARK) if says else None


def check_directory(path: Path) -> None:
    """Raises InputError where there is no directory `path`."""
    if not path.is_dir():
        raise InputError(f"{path}: {'not a directory' if path.exists() else 'no such directory'}; name that of a run")


def _check_writable(path: Path) -> None:
    """Raises InputError unless the directory, or the nearest one above it that exists, can take new
    entries."""
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not existing.is_dir():
        raise InputError(f"{path}: the run directory cannot be made, {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{path}: the run directory cannot be written, no permission for {existing}")


def _is_empty(path: Path) -> bool:
    """Says whether nothing is there, or only the files of a run that was killed while it began."""
    return all(entry.match(temporary_pattern(CONFIG_FILE)) for entry in path.iterdir())


def _is_run(path: Path) -> bool:
    file = path / CONFIG_FILE
    return file.is_file() and file.read_bytes().startswith(_RUN_MARK.encode())


def _progress(path: Path) -> str:
    epoch = Checkpoints(path).newest_epoch()
    return "without a checkpoint" if epoch is None else f"saved after epoch {epoch}"


def _check_same_config(path: Path, config: RunConfig) -> None:
    try:
        saved, new = leaves(read_yaml(path / CONFIG_FILE)), leaves(config_to_dict(config))
    except InputError as error:
        raise InputError(f"{error}; the run cannot be resumed, begin anew with --overwrite") from error
    for name in [*new, *(name for name in saved if name not in new)]:
        if name.partition(".")[0] in config.may_change():
            continue
        before, now = saved.get(name, "absent"), new.get(name, "absent")
        if type(before) is not type(now) or before != now:
            raise InputError(
                f"{path}: the run was started with {name} {before}, not {now}; resume it without changes, "
                "or begin anew with --overwrite"
            )


def leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the values of nested dictionaries by dotted name; an empty one is a value itself."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found


def _files_of_run(path: Path) -> list[str]:
    """The patterns of its files that a run has written into its config.yaml; those that lead
    elsewhere are left out."""
    lines = (path / CONFIG_FILE).read_text(encoding="utf-8", errors="replace").splitlines() if _is_run(path) else []
    text = next((line.removeprefix(_FILES_MARK) for line in lines if line.startswith(_FILES_MARK)), "[]")
    try:
        patterns = json.loads(text)
    except (ValueError, RecursionError):
        return []
    found = patterns if isinstance(patterns, list) else []
    return [pattern for pattern in found if isinstance(pattern, str) and _PATTERN.fullmatch(pattern)]


def _temporary(path: Path, pattern: str) -> Iterator[Path]:
    """Yields the halves of files of that pattern that a killed process left."""
    whole = path / pattern
    return whole.parent.glob(temporary_pattern(whole.name))


def _remove_run(path: Path, patterns: Collection[str]) -> None:
    """Removes all files of the run but config.yaml, which is replaced last: killed in between, the
    directory is a run still."""
    for pattern in sorted(patterns):
        for file in (*path.glob(pattern), *_temporary(path, pattern)):
            file.unlink()
    checkpoints = path / "checkpoints"
    for file in (*checkpoints.glob(CHECKPOINT_FILES), *_temporary(checkpoints, CHECKPOINT_FILES)):
        file.unlink()
    for name in sorted({"checkpoints", *(pattern.partition("/")[0] for pattern in patterns if "/" in pattern)}):
        # The folder stays if it holds a file that is not ours.
        with contextlib.suppress(OSError):
            (path / name).rmdir()
