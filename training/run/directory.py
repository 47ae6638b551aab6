"""A run is a directory: how it is made ready, gone on with, replaced and told from others."""

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from base.checks import InputError
from base.files import temporary_pattern
from base.plain_yaml import read_yaml
from base.texts import excerpt, one_line
from training.run.base import RunConfig
from training.run.checkpoint import CHECKPOINT_FILES, Checkpoints
from training.run.config import CONFIG_FILE, config_hash, config_to_dict, config_to_yaml
from training.run.ownership.claim import Claim, claimed, restore
from training.run.ownership.files import belongings, has_record, recorded, remove_halves, write_file
from training.run.ownership.lock import OWN_FOLDER, check_free
from training.run.schema import check_text

# The first line of a run's config.yaml; it tells a run from a directory that merely holds a file of
# this name.
_RUN_MARK = "# A run of fusenas. Continue it with --resume.\n"
_KIND_MARK = "# Kind: "
_LONGEST_LINE = 4096  # bytes of the first lines
_LONGEST_NAME = 400  # bytes of the name of a file in the directory of a run, and of runs below it


class RunDirectory:
    """The directory of one run: config.yaml, log.txt, TensorBoard events, checkpoints/ and
    results."""

    def __init__(self, path: Path, config: RunConfig) -> None:
        """Use `open` to write in it; this leaves the directory unread."""
        self.path = path
        self.config = config
        self.config_hash = config_hash(config, ignore=config.may_change())
        """Hash of the settings that stay the same over the whole run."""
        self._hashes_before = [config_hash(each, ignore=each.may_change()) for each in config.before()]
        self._claim: Claim | None = None
        self._resumes = False

    @classmethod
    def check(cls, path: Path, config: RunConfig, resume: bool, overwrite: bool) -> None:
        """Raises the errors of `open`: for the beginning of a run, before data are read.

        Nothing is changed, except that a run is put back which an --overwrite, killed before its
        first checkpoint, has set aside.

        Raises:
            ValueError: see `open`.
        """
        if resume and overwrite:
            raise InputError("--resume and --overwrite exclude each other: go on with the run, or begin it anew")
        _check_text(path, config)
        if os.path.lexists(path) and not path.is_dir():
            raise InputError(f"{path}: is a file; choose another directory with --run")
        _check_writable(path)
        if path.exists():
            restore(path)
        _check_state(path, config, resume, overwrite)

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path, config: RunConfig, resume: bool, overwrite: bool) -> "Iterator[RunDirectory]":
        """Takes the directory for this process until the end of the block, after all of `check`.

        Nothing is written there before `begin`, and nothing is left of a new run that is refused
        (InputError) before its first checkpoint.

        Raises:
            ValueError: another process is at work there; the directory holds a run and neither flag
                is given, or something that is no run; there is nothing to resume; the saved
                configuration is another one; the directory cannot be written.
        """
        cls.check(path, config, resume, overwrite)
        with claimed(path) as claim:
            # Another process may have been there since.
            _check_state(path, config, resume, overwrite)
            run = cls(path, config)
            run._claim, run._resumes = claim, resume
            yield run

    def begin(self, kind: str | None = None) -> None:
        """Makes the directory ready and writes config.yaml, when all else is known to be good.

        To overwrite sets the run that is there aside, until `keep`; should the new one end before,
        it is put back. To resume a run that has no checkpoint yet starts it from the beginning. The
        fields that `RunConfig.may_change` names may then differ from the saved ones. config.yaml
        says of what `kind` the run is, which `read_kind` returns.

        Raises InputError if the directory cannot be written.
        """
        assert self._claim is not None, "use open"
        try:
            if not self._resumes or not _is_run(self.path):
                # A directory that holds a run is to be written over: `open` has refused it otherwise.
                self._claim.begin(list(belongings(self.path)) if _is_run(self.path) else ())
            elif has_record(self.path):
                remove_halves(self.path, recorded(self.path))
            for half in self.path.glob(temporary_pattern(CONFIG_FILE)):
                half.unlink(missing_ok=True)
            mark = _RUN_MARK if kind is None else f"{_RUN_MARK}{_KIND_MARK}{one_line(kind)}\n"
            write_file(self.path, CONFIG_FILE, mark + config_to_yaml(self.config))
        except OSError as error:
            raise InputError(f"{self.path}: the run directory cannot be written: {error.strerror}") from error

    @property
    def is_locked(self) -> bool:
        """Whether other processes are kept out: False where the file system has no locks."""
        assert self._claim is not None, "use open"
        return self._claim.is_locked

    def confirm(self) -> None:
        """Raises InputError if the directory is no longer this process's: before a checkpoint."""
        if self._claim is not None:
            self._claim.confirm()

    def keep(self) -> None:
        """Lets the run that was replaced go, as this one has a checkpoint."""
        if self._claim is not None:
            self._claim.keep()

    def checkpoints(self, kind: str, keep: int = 2) -> "Checkpoints":
        """Returns the checkpoints of this run; another `kind` ("search", "retrain") or
        configuration is refused."""
        return Checkpoints(self.path, keep, {"kind": kind, "config_hash": self.config_hash}, self._hashes_before)


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
        second = _first_lines(path)[1]
    except OSError as error:
        raise InputError(f"{path / CONFIG_FILE}: cannot be read: {error.strerror}") from error
    return second.removeprefix(_KIND_MARK).rstrip("\r\n") if _is_run(path) and second.startswith(_KIND_MARK) else None


def check_directory(path: Path) -> None:
    """Raises InputError where there is no directory `path`."""
    if not path.is_dir():
        raise InputError(f"{path}: {'not a directory' if path.exists() else 'no such directory'}; name that of a run")


def _check_writable(path: Path) -> None:
    """Raises InputError unless the directory, or the nearest one above it that exists, can take new
    entries."""
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    _check_names(path, existing)
    if not existing.is_dir():
        raise InputError(f"{path}: the run directory cannot be made, {existing} is a file")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{path}: the run directory cannot be written, no permission for {existing}")


def _check_names(path: Path, existing: Path) -> None:
    """Raises InputError if a part of `path` that is to be made below the directory `existing` has
    too long a name."""
    most = os.pathconf(existing, "PC_NAME_MAX")
    for part in path.absolute().relative_to(existing.absolute()).parts:
        if len(os.fsencode(part)) > most:
            raise InputError(f"{excerpt(str(path))}: the run directory cannot be written: File name too long")


def _check_text(path: Path, config: RunConfig) -> None:
    """Raises InputError for texts that no file of the run can hold; the command line has looked at
    its own already."""
    check_text("--run", str(path))
    if len(os.fsencode(path.absolute())) + _LONGEST_NAME > os.pathconf("/", "PC_PATH_MAX"):
        raise InputError(f"{excerpt(str(path))}: the path of the run directory is too long; choose another one with --run")
    for name, value in leaves(config_to_dict(config)).items():
        for entry in value if isinstance(value, list) else [value]:
            if isinstance(entry, str):
                check_text(name, entry)


def _check_state(path: Path, config: RunConfig, resume: bool, overwrite: bool) -> None:
    """Raises InputError if the directory does not hold what the flags go with."""
    if resume and not path.exists():
        raise InputError(f"{path}: nothing to resume, there is no such run; leave out --resume to start it")
    if not path.exists() or _is_empty(path):
        return
    if not _is_run(path) and _is_part(path):
        return
    if not _is_run(path):
        raise InputError(f"{path}: not empty and not a run of this program; choose another directory with --run")
    if resume:
        _check_same_config(path, config)
    elif overwrite:
        _check_replaceable(path)
    else:
        state = f"a run already, {_progress(path)}"
        raise InputError(f"{path}: holds {state}; continue it with --resume or replace it with --overwrite")


def _check_replaceable(path: Path) -> None:
    """Raises InputError unless the run can be taken away and leaves nothing that would pass for a
    part of another."""
    if not has_record(path):
        raise InputError(
            f"{path}: the run has no list of its files, so --overwrite cannot tell them from yours; delete it yourself, or "
            "choose another directory with --run"
        )
    for name in recorded(path):
        if name.endswith("/") and (path / name).is_dir():
            check_free(path / name)
    own = {path / name for name in belongings(path)}
    for file in sorted((path / "checkpoints").glob(CHECKPOINT_FILES)):
        if re.fullmatch(r"epoch_\d{4,}\.pt", file.name) and file not in own:
            raise InputError(f"{file}: is none of the run's files but would pass for a checkpoint of the new one; move it away")


def _is_empty(path: Path) -> bool:
    """Says whether nothing is there, or only the files of a run that was killed while it began."""
    return all(entry.name == OWN_FOLDER or entry.match(temporary_pattern(CONFIG_FILE)) for entry in path.iterdir())


def _is_part(path: Path) -> bool:
    """Says whether the run in the directory above has this one as a part: what lies there beside
    its files, when these were set aside, is the user's own and stays."""
    above = path.absolute().parent
    return has_record(above) and f"{path.name}/" in recorded(above)


def _is_run(path: Path) -> bool:
    return _first_lines(path)[0] == _RUN_MARK


def _first_lines(path: Path) -> tuple[str, str]:
    """Returns the first two lines of config.yaml in a directory, of any file of this name; empty
    ones where there is none."""
    file = path / CONFIG_FILE
    if not file.is_file():
        return "", ""
    with file.open("rb") as content:
        first, second = (content.readline(_LONGEST_LINE).decode(errors="replace") for _ in range(2))
    return first, second


def _progress(path: Path) -> str:
    epoch = Checkpoints(path).newest_epoch()
    return "without a checkpoint" if epoch is None else f"saved after epoch {epoch}"


def _check_same_config(path: Path, config: RunConfig) -> None:
    try:
        saved, new = leaves(read_yaml(path / CONFIG_FILE)), leaves(config_to_dict(config))
    except InputError as error:
        raise InputError(f"{error}; the run cannot be resumed, begin anew with --overwrite") from error
    # One that went on for longer is compared as it was before.
    earlier = [old for each in config.before() if (old := leaves(config_to_dict(each)))["epochs"] == saved.get("epochs")]
    new = earlier[0] if earlier else new
    for name in [*new, *(name for name in saved if name not in new)]:
        if name.partition(".")[0] in config.may_change():
            continue
        before, now = saved.get(name, "absent"), new.get(name, "absent")
        if type(before) is not type(now) or before != now:
            raise InputError(
                f"{path}: the run was started with {name} {excerpt(before)}, not {excerpt(now)}; resume it without changes, "
                "or begin anew with --overwrite"
            )


def leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the values of nested dictionaries by dotted name; an empty one is a value itself."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= leaves(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found
