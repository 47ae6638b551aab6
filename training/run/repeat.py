"""One run for each of several seeds, and the mean and deviation over them."""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from statistics import mean, stdev
from typing import Any, TypeVar

from base.checks import InputError
from training.run.base import RunConfig
from training.run.command import resumable
from training.run.config import RunOptions, seed_directory
from training.run.directory import RunDirectory
from training.run.ownership.claim import claimed, restore
from training.run.ownership.files import belongings, has_record, record, write_file
from training.run.ownership.lock import OWN_FOLDER

C = TypeVar("C", bound=RunConfig)

SEEDS_FILE = "seeds.json"


@dataclass(frozen=True)
class Spread:
    """A quantity over seeds."""

    name: str
    values: tuple[float, ...]
    """One value for each seed."""

    @property
    def mean(self) -> float:
        return mean(self.values)

    @property
    def std(self) -> float | None:
        """Returns the standard deviation of the sample (divided by n - 1); None for a single
        seed, and where a value is not finite."""
        return stdev(self.values) if len(self.values) > 1 and all(map(isfinite, self.values)) else None

    def __str__(self) -> str:
        spread = "" if self.std is None else f"±{_number(self.std)}"
        return f"{self.name} {_number(self.mean)}{spread}"


def repeat(run: Callable[[C, RunOptions], Mapping[str, float]], config: C, options: RunOptions) -> list[Spread]:
    """Calls `run` for each of `options.seeds`, with that seed and a directory of its own below the
    run's.

    `run` returns measured quantities by name. The mean and standard deviation of each quantity that
    all seeds have are printed and written to seeds.json. On `resume`, runs that are there go on and
    the others begin.

    Raises ValueError, before any run begins, where a directory cannot be taken.
    """
    if options.run.is_dir():
        restore(options.run)
    _checked(config, options)
    with claimed(options.run) as claim:
        runs = _checked(config, options)  # another process may have been there since
        replaced = _replaced(options)
        if replaced or not has_record(options.run):
            claim.begin(replaced)
        record(options.run, SEEDS_FILE, *(f"{seed_directory(Path(), seed)}/" for seed in options.seeds))
        measured: list[Mapping[str, float]] = []
        for seed, (one, theirs) in zip(options.seeds, runs, strict=True):
            print(f"seed {seed}: {theirs.run}", flush=True)
            with resumable() if measured else contextlib.nullcontext():
                measured.append(run(one, theirs))
            # Until all seeds have run again the file would speak of other runs.
            (options.run / SEEDS_FILE).unlink(missing_ok=True)
            claim.keep()
        spreads = spread(measured)
        _write(options, measured, spreads)
    print(f"{len(runs)} seeds: {'; '.join(map(str, spreads))}")
    return spreads


def _checked(config: C, options: RunOptions) -> list[tuple[C, RunOptions]]:
    """Returns configuration and options for each seed. Raises ValueError where a directory cannot
    be taken."""
    _check_directory(options)
    runs = [_of_seed(config, options, seed) for seed in options.seeds]
    for one, theirs in runs:
        RunDirectory.check(theirs.run, one, theirs.resume, theirs.overwrite)
    return runs


def _replaced(options: RunOptions) -> list[str]:
    """Returns the names of the files that give way to the new runs."""
    if not options.overwrite:
        return []
    names = [SEEDS_FILE] if (options.run / SEEDS_FILE).is_file() else []
    for seed in options.seeds:
        names += [f"{seed_directory(Path(), seed)}/{name}" for name in belongings(seed_directory(options.run, seed))]
    return names


def _check_directory(options: RunOptions) -> None:
    """Raises ValueError if the directory above the runs holds other files, or nothing to resume."""
    path = options.run
    if not path.exists():
        if options.resume:
            raise InputError(f"{path}: nothing to resume, there is no such run; leave out --resume to start it")
        return
    if not path.is_dir():
        raise InputError(f"{path}: is a file; choose another directory with --run")
    foreign = [
        entry.name
        for entry in path.iterdir()
        if entry.name not in (SEEDS_FILE, OWN_FOLDER) and not entry.match(seed_directory(path, "*").name)
    ]
    if foreign:
        raise InputError(f"{path}: holds {sorted(foreign)[0]}, which is no run of a seed; choose another directory with --run")


def spread(measured: Sequence[Mapping[str, float]]) -> list[Spread]:
    """Returns the quantities that all seeds have."""
    names = [name for name in measured[0] if all(name in other for other in measured)]
    return [Spread(name, tuple(values[name] for values in measured)) for name in names]


def _of_seed(config: C, options: RunOptions, seed: int) -> tuple[C, RunOptions]:
    path = seed_directory(options.run, seed)
    changed: dict[str, Any] = {"seed": seed}
    trace = None if options.profile is None else seed_directory(options.profile, seed)
    theirs = replace(options, run=path, resume=options.resume and path.exists(), seeds=(), profile=trace)
    return replace(config, **changed), theirs


def _write(options: RunOptions, measured: Sequence[Mapping[str, float]], spreads: Sequence[Spread]) -> None:
    content = {
        "seeds": list(options.seeds),
        "runs": [str(seed_directory(Path("."), seed)) for seed in options.seeds],
        "values": [dict(values) for values in measured],
        "mean": {of.name: of.mean for of in spreads},
        "standard_deviation": {of.name: of.std for of in spreads},
    }
    write_file(options.run, SEEDS_FILE, json.dumps(content, indent=2) + "\n")


def _number(value: float) -> str:
    """Returns a number as text: counts as they are, shares with four digits."""
    return f"{value:,.0f}" if value == 0 or abs(value) >= 1000 else f"{value:.4f}"
