"""The searches of `benchmarks.samplers`: variants, one search on a benchmark table, and the
records."""

import hashlib
import json
import math
import os
import signal
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

from base.checks import InputError
from base.files import naming_errors, open_to_append, write_atomically
from search.costs.tabular import Table
from search.methods import get_method
from search.sampling.config import SamplingConfig
from search.sampling.encoding import Encoding, Genome
from search.sampling.method import SamplingMethod
from search.sampling.scores.table import TableScores
from search.sampling.trials import Trials
from supernet import get_space
from training.run.config import config_to_dict

STEP = 10
"""Number of evaluations between two readings of the incumbent."""


@dataclass(frozen=True)
class Variant:
    """A method and its options beside the defaults, as on its command line."""

    method: str
    options: tuple[str, ...] = ()

    def config(self, tabular: str, evaluations: int) -> SamplingConfig:
        """Returns the configuration of its searches, but for their seeds."""
        common = ["--space=nasbench201", "--evaluate=table", f"--tabular={tabular}", f"--evaluations={evaluations}"]
        config, _ = get_method(self.method).parse([*common, *self.options])
        assert isinstance(config, SamplingConfig)
        return config


VARIANTS = {
    "random": Variant("random"),
    "local": Variant("local"),
    "evolution": Variant("evolution", ("--evolution.population=30", "--evolution.sample=10")),
    "genetic": Variant("evolution", ("--evolution.name=generational", "--evolution.population=30")),
    "nsga2": Variant("evolution", ("--evolution.name=nsga2", "--evolution.population=30")),
    "bananas": Variant("bayes", ("--bayes.model=bananas",)),
    "gp": Variant("bayes", ("--bayes.model=gp",)),
    "optuna_tpe": Variant("bayes", ("--bayes.model=optuna_tpe",)),
    "optuna_gp": Variant("bayes", ("--bayes.model=optuna_gp",)),
    "enas": Variant("enas"),
    "enas_replay": Variant("enas", ("--controller.replay_epochs=4",)),
    "hybrid": Variant("hybrid"),
    "hybrid_genetic": Variant("hybrid", ("--hybrid.share=0", "--controller.replay_epochs=0")),
    "nao": Variant("nao"),
}
"""Variants by name."""


# One search


@dataclass(frozen=True)
class Search:
    """The result of one search."""

    seed: int
    accuracies: tuple[float, ...]
    """Test accuracy of the incumbent in percent, after STEP, 2 * STEP ... evaluations."""
    seconds: float
    """Processor time of the whole search, nearly all of it the sampler's own."""


Searches = Mapping[int, Search]
"""Searches of one variant by seed, in its order."""


@cache
def read_table(path: str) -> Table:
    """Reads the table, once in each process."""
    return Table.read(path)


def search(method: str, config: SamplingConfig, seed: int) -> Search:
    """Searches on the table that `config` names."""
    assert config.tabular is not None
    table, encoding, chosen = read_table(config.tabular), Encoding(get_space(config.space), config.exclude), get_method(method)
    assert isinstance(chosen, SamplingMethod)

    def costs(genome: Genome) -> dict[str, float]:
        row = table[encoding.genotype(genome)]
        return {"parameters": row.parameters, "multiply_adds": row.multiply_adds}

    start = time.process_time()
    sampler = chosen.sampler(encoding, replace(config, seed=seed), seed, costs)
    done = Trials(sampler, TableScores(encoding, table)).advance(config.evaluations)
    seconds = time.process_time() - start
    best = incumbents([trial.score for trial in done])
    # A sampler that has nothing more to ask for keeps its incumbent.
    readings = [best[min(count, len(best)) - 1] for count in range(STEP, config.evaluations + 1, STEP)]
    rows = [table[encoding.genotype(done[place].genome)] for place in readings]
    return Search(seed, tuple(row.test_accuracy for row in rows), seconds)


def incumbents(scores: Sequence[float]) -> list[int]:
    """Returns for each evaluation the best one up to it, the first of equals."""
    best: list[int] = []
    for place, score in enumerate(scores):
        best.append(best[-1] if best and scores[best[-1]] >= score else place)
    return best


# The directory


@dataclass(frozen=True)
class Record:
    """The searches of one variant in a directory: VARIANT.csv, a line each, and their settings,
    VARIANT.json."""

    directory: Path
    variant: str
    evaluations: int

    @property
    def path(self) -> Path:
        return self.directory / f"{self.variant}.csv"

    @property
    def settings(self) -> Path:
        return self.path.with_suffix(".json")

    @property
    def begun(self) -> bool:
        return self.path.exists() or self.settings.exists()

    def read(self) -> Searches:
        """Returns the recorded searches.

        Raises ValueError, naming the line, for a file that was not written by `add`.
        """
        head, *lines = self._lines() or [self._head()]
        if head != self._head():
            raise InputError(f"{self.path}: line 1 does not name the columns; delete the file to search again")
        searches: dict[int, Search] = {}
        for number, line in enumerate(lines, start=2):
            try:
                found = self._parse(line)
            except ValueError:
                raise InputError(f"{self.path}: line {number} is no search; delete it to search again") from None
            if found.seed in searches:
                raise InputError(f"{self.path}: line {number} has seed {found.seed} again; delete one of the two")
            searches[found.seed] = found
        return dict(sorted(searches.items()))

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Makes the files ready for `add`; a last line that was cut is dropped."""
        write_atomically(self.settings, json.dumps(settings, indent=1) + "\n")
        write_atomically(self.path, "".join(f"{line}\n" for line in self._lines() or [self._head()]))

    def add(self, search: Search) -> None:
        fields = [str(search.seed), *map(repr, search.accuracies), f"{search.seconds:.4f}"]
        with naming_errors(self.path), open_to_append(self.path) as file:
            file.write(",".join(fields) + "\n")

    def check_same(self, settings: Mapping[str, Any]) -> None:
        """Raises ValueError if recorded searches have other settings."""
        if not self.begun:
            return
        try:
            saved = json.loads(self.settings.read_text(encoding="utf-8"))
            assert isinstance(saved, dict)
        except (FileNotFoundError, ValueError, AssertionError):
            raise InputError(f"{self.settings}: does not say what {self.path.name} was run with; delete both") from None
        other = [name for name in {**settings, **saved} if saved.get(name) != settings.get(name)]
        if other:
            raise InputError(
                f"{self.directory}: holds searches with other settings ({self.variant}: {', '.join(other)}); "
                "repeat their options, or name another --directory"
            )

    def _head(self) -> str:
        return ",".join(["seed", *map(str, range(STEP, self.evaluations + 1, STEP)), "seconds"])

    def _lines(self) -> list[str]:
        text = self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""
        return text[: text.rfind("\n") + 1].splitlines()

    def _parse(self, line: str) -> Search:
        seed, *values = line.split(",")
        *accuracies, seconds = map(float, values)
        if len(accuracies) != self.evaluations // STEP or not all(map(math.isfinite, [*accuracies, seconds])):
            raise ValueError
        return Search(int(seed), tuple(accuracies), seconds)


def settings_of(config: SamplingConfig, table: Table) -> dict[str, Any]:
    """Returns the settings that all searches of a variant share: the content of the table, wherever
    it is, and the options."""
    content = hashlib.sha256(repr(list(table.rows.items())).encode()).hexdigest()
    return {
        "table": content,
        **{name: value for name, value in config_to_dict(config).items() if name not in ("tabular", "seed")},
    }


# All searches


def workers(jobs: int) -> Executor:
    """Returns processes of one thread each, so that the bits do not depend on `jobs`."""
    os.environ["OMP_NUM_THREADS"] = "1"  # torch and BLAS read it when they start
    return ProcessPoolExecutor(jobs, get_context("spawn"))


def search_all(records: Sequence[Record], configs: Mapping[str, SamplingConfig], seeds: int, jobs: int) -> None:
    """Runs the missing seeds below `seeds`, `jobs` at a time, and records each as it ends.

    It goes seed by seed, so that at any time all variants have about the same seeds. If it is
    interrupted, or a search fails, those under way are lost.
    """
    there = {record.variant: record.read() for record in records}
    tasks = [(record, seed) for seed in range(seeds) for record in records if seed not in there[record.variant]]
    if not tasks:
        return
    others = active_children()
    try:
        with workers(min(jobs, len(tasks))) as pool:
            try:
                _search_in(pool, tasks, configs)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in active_children():
                    if process not in others:
                        process.terminate()
                raise
    except BrokenProcessPool as error:
        raise InputError(
            "a process of the searches died; it has said why, or was killed, as where memory is short; the same command goes on"
        ) from error


def _search_in(pool: Executor, tasks: Sequence[tuple[Record, int]], configs: Mapping[str, SamplingConfig]) -> None:
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # which new processes inherit: Ctrl-C is for this one to answer
    try:
        futures = {
            pool.submit(search, VARIANTS[record.variant].method, configs[record.variant], seed): record
            for record, seed in tasks
        }
    finally:
        signal.signal(signal.SIGINT, handler)
    for count, future in enumerate(as_completed(futures), start=1):
        futures[future].add(future.result())
        if 20 * count // len(tasks) > 20 * (count - 1) // len(tasks):  # twenty lines in all
            print(f"{count} of {len(tasks)} searches", flush=True)
