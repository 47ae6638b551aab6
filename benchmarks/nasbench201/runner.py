"""The searches of the benchmark: one process a method and seed, gone on with where it was stopped."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from base.checks import InputError
from base.files import write_atomically
from search.differentiable.config import SearchConfig
from search.differentiable.method import DifferentiableMethod
from search.history import SearchEntry, read_search_history
from search.methods import get_method, list_methods
from search.sampling.config import SamplingConfig
from search.sampling.method import SamplingMethod
from training.run.config import config_from_file, config_to_dict

ALL = (*list_methods(DifferentiableMethod), *list_methods(SamplingMethod))
Config = SearchConfig | SamplingConfig
OWN = ("--run", "--seed", "--resume", "--overwrite")
"""Options of a search that this program sets itself."""
POLL = 0.2
"""Seconds between two looks at the running searches."""


@dataclass(frozen=True)
class Run:
    """One search: a method and a seed."""

    method: str
    seed: int
    path: Path
    """Returns the directory of the run."""

    @property
    def name(self) -> str:
        return f"{self.method}, seed {self.seed}"

    @property
    def log(self) -> Path:
        """Returns the file of the output of the process."""
        return self.path.with_name(f"{self.path.name}.log")

    @property
    def begun(self) -> bool:
        """Says whether there is something to go on with."""
        return (self.path / "config.yaml").is_file()

    @property
    def finished(self) -> bool:
        return self._mark.is_file()

    def finish(self, epochs: int, hours: float | None) -> None:
        """Writes finished.json; `hours` is None if more than one process had a part in the run."""
        write_atomically(self._mark, json.dumps({"epochs": epochs, "hours": hours}) + "\n")

    def ending(self) -> dict[str, Any]:
        """Returns the epochs and hours of a finished run."""
        ending: dict[str, Any] = json.loads(self._mark.read_text())
        return ending

    def config(self) -> Config:
        """Returns the configuration that the run was begun with."""
        config: Config = config_from_file(type(get_method(self.method).defaults()), self.path / "config.yaml")
        return config

    def history(self) -> list[SearchEntry]:
        """One entry an epoch; empty before the first has ended."""
        try:
            return read_search_history(self.path)
        except ValueError as error:
            raise InputError(f"{error}; delete {self.path} to run it again") from error

    @property
    def _mark(self) -> Path:
        return self.path / "finished.json"


def all_runs(directory: Path, methods: Sequence[str], seeds: Sequence[int]) -> list[Run]:
    """Returns the runs asked for and all others in the directory, by method in the order of ALL and
    by seed."""
    places = {(method, seed) for method in methods for seed in seeds}
    for path in directory.glob("*/seed_*"):
        if path.parent.name in ALL and re.fullmatch(r"seed_(0|[1-9]\d*)", path.name) and path.is_dir():
            places.add((path.parent.name, int(path.name.removeprefix("seed_"))))
    order = sorted(places, key=lambda place: (ALL.index(place[0]), place[1]))
    return [Run(method, seed, directory / method / f"seed_{seed}") for method, seed in order]


def configuration(method: str, tabular: str, through: Sequence[str]) -> Config:
    """Returns the configuration of the searches of `method`, but for their seeds.

    Wrong options end the program in one line (status 2).
    """
    config: Config
    config, _ = get_method(method).parse(["--config", f"nasbench201_{method}", "--tabular", tabular, *through])
    return config


def check_same(directory: Path, run: Run, config: Config) -> None:
    """Raises ValueError if a run that was begun has other settings than those asked for now."""
    saved, now = config_to_dict(run.config()), config_to_dict(replace(config, seed=run.seed))
    # A report compares searches of equally many evaluations, although more of them could be made.
    free = config.may_change() - {"evaluations"}
    other = [name for name in now if name not in free and saved[name] != now[name]]
    if other:
        raise InputError(
            f"{directory}: holds runs with other settings ({run.name}: {', '.join(other)}); "
            "repeat their options, or name another --directory"
        )


def search_command(run: Run, tabular: str, through: Sequence[str]) -> list[str]:
    """Returns the command of one search, which goes on with a run that was begun."""
    own = ["--config", f"nasbench201_{run.method}", "--tabular", tabular, "--run", str(run.path), "--seed", str(run.seed)]
    # Unbuffered, so that the error that ends a search is the last line of its log.
    return [sys.executable, "-u", "-m", f"search.{run.method}", *own, *through, *(["--resume"] if run.begun else [])]


def search_all(runs: Sequence[Run], tabular: str, through: Sequence[str], jobs: int) -> int:
    """Runs the searches, `jobs` at a time, to the end of the last; returns how many failed.

    When it is interrupted, searches that are under way are stopped, too; they keep what their last
    epoch saved.
    """
    # Both streams of a search share its log, and the last line is to be what it said last.
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if jobs > 1:
        environment["OMP_NUM_THREADS"] = str(max(1, torch.get_num_threads() // jobs))
    waiting = list(runs)
    running: list[tuple[Run, subprocess.Popen[bytes], float | None]] = []
    failed = 0
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                run = waiting.pop(0)
                started = None if run.begun else time.monotonic()
                print(f"{run.name}: {'goes on' if started is None else 'begins'}; its output is in {run.log}", flush=True)
                run.path.parent.mkdir(parents=True, exist_ok=True)
                with run.log.open("wb") as log:
                    arguments = search_command(run, tabular, through)
                    process = subprocess.Popen(arguments, env=environment, stdout=log, stderr=subprocess.STDOUT)
                running.append((run, process, started))
            time.sleep(POLL)
            for run, process, started in [entry for entry in running if entry[1].poll() is not None]:
                running.remove((run, process, started))
                failed += not _settle(run, process.returncode, started)
    finally:
        for _, process, _ in running:
            process.terminate()
        for _, process, _ in running:
            process.wait()
    return failed


def _settle(run: Run, status: int, started: float | None) -> bool:
    """Says how a search has ended and marks a finished one; False for one that failed."""
    if status:
        last = (run.log.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
        print(f"{run.name}: FAILED with status {status}: {last}", flush=True)
        return False
    config, history = run.config(), run.history()
    method = get_method(run.method)
    if method.is_complete(config, history):
        run.finish(len(history), None if started is None else (time.monotonic() - started) / 3600)
        print(f"{run.name}: finished, {len(history)} epochs", flush=True)
    else:
        planned = method.planned_epochs(config)
        print(f"{run.name}: stopped after epoch {len(history)} of {planned}; not finished", flush=True)
    return True
