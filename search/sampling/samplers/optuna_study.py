"""Architectures proposed by a sampler of Optuna, through a study that several processes can share.

This is the only module that imports Optuna, which is installed with the extra `bayes`.
"""

import json
import os
import platform
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.exceptions import ExperimentalWarning, OptunaError
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import create_engine, inspect, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, OperationalError, SQLAlchemyError

from base.checks import InputError
from base.seeds import derive_seed
from search.sampling.encoding import Encoding, Genome
from search.sampling.samplers.sampler import Costs, Sampler, Scored, genome_of
from training.run.structure import (
    Part,
    integer,
    misfit,
    numeric,
    optional,
    random_state,
    row,
    rows,
    table,
    text,
    truth,
    within,
)

STUDY = "fusenas"
"""The name of a study that is given no other."""
ATTEMPTS = 5
"""Number of proposals in a row that may repeat known architectures; then a new one is drawn at
random."""
OPENING_WAITS = (0.1, 0.2, 0.4, 0.8)
"""Seconds between attempts to open a database."""
IDENTITY, SCORES = "fusenas", "fusenas_scores"
"""The attributes of a study that identify its architectures, and all that its scores depend on."""
JOURNAL_KEYS = frozenset(("op_code", "worker_id"))
"""The keys that each line of Optuna's journal has."""
_LONGEST_LINE = 2**20  # bytes of a journal's first line
_OPTUNA_TABLES = frozenset(("studies", "trials", "version_info"))  # each alone may be another program's


class OptunaSampler(Sampler):
    """A sampler that asks a study of Optuna for one architecture at a time.

    The variables of the encoding are the study's categorical parameters.

    A proposal that has been evaluated is told to the study as failed, and another one is made. An
    architecture that was asked for and left out when others were told fails with the next ask.

    Without `bayes.storage` the study is in memory, and a checkpoint holds all its trials. With it,
    any number of processes with a sampler of their own work at the study until it has `evaluations`
    finished trials, or up to one more for each other process. A process that is killed leaves its
    trial running; resumed, it tells the study that the trial failed.

    Raises ValueError for a storage that cannot be opened and for a study of other architectures or
    scores.
    """

    def __init__(self, encoding: Encoding, config: Any, seed: int, costs: Costs | None = None) -> None:
        super().__init__(encoding, config, seed, costs)
        self._choices = _choices(encoding)
        self._distributions: dict[str, BaseDistribution] = {
            name: CategoricalDistribution(choices) for name, choices in self._choices.items()
        }
        self._worker = f"{platform.node()} {uuid.uuid4().hex[:8]}"
        self._running: dict[int, Genome] = {}
        """Trials that were asked for and are to be told, by number."""
        self._told: list[Genome] = []
        self._heard = False
        """Whether a score has been told since the last ask."""
        self._study = self._open()

    def begin(self, identity: Mapping[str, str]) -> None:
        with self._storage_errors():
            _check_study(self._study, SCORES, identity)

    def ask(self) -> list[Genome]:
        with self._storage_errors():
            if self._heard:
                self._give_up(list(self._running))
                self._heard = False
            finished = self._finished()
            known = {self._genome(trial.params) for trial in finished} | set(self._running.values())
            complete = self.config.bayes.storage is not None and len(finished) >= self.config.evaluations
            if complete or len(known) >= self.encoding.size:
                return []
            return [self._propose(known)]

    def tell(self, scored: Sequence[Scored]) -> None:
        self._heard = True
        with self._storage_errors():
            for genome, score in scored:
                self._told.append(genome)
                number = next((number for number, running in self._running.items() if running == genome), None)
                if number is not None:
                    del self._running[number]
                if number is None or self._study.tell(number, score, skip_if_finished=True).state != TrialState.COMPLETE:
                    # The trial had been given up.
                    self._study.add_trial(self._trial(genome, TrialState.COMPLETE, score))

    def gathered(self) -> Sequence[Scored]:
        if self.config.bayes.storage is None:
            return ()
        own = set(self._told)
        with self._storage_errors():
            found = {self._genome(trial.params): trial.value for trial in self._finished()}
        return [(genome, score) for genome, score in found.items() if genome not in own and score is not None]

    def state_dict(self) -> dict[str, Any]:
        state = {
            "random": self.random.getstate(),
            "worker": self._worker,
            "running": dict(self._running),
            "told": list(self._told),
            "heard": self._heard,
        }
        if self.config.bayes.storage is None:
            trials = self._study.get_trials(deepcopy=False)
            state["trials"] = [(self._genome(trial.params), trial.state.name, trial.value) for trial in trials]
        return state

    def parts(self) -> dict[str, Part]:
        genome = genome_of(self.encoding)
        parts = {
            "random": random_state,
            "worker": text,
            "running": table(integer(), genome),
            "told": rows(genome),
            "heard": truth,
        }
        return parts | ({"trials": rows(row(genome, _state, optional(numeric)))} if self.config.bayes.storage is None else {})

    def structure(self) -> Part:
        whole = super().structure()

        def check(name: str, state: Any) -> None:
            whole(name, state)
            trials = state.get("trials", ())
            for index, (_, which, score) in enumerate(trials):
                if which == "COMPLETE" and score is None:
                    raise InputError(f"{within(within(name, 'trials'), index)}: is complete without a score")
            for number_of, genome in state["running"].items() if "trials" in state else ():
                if number_of >= len(trials) or trials[number_of][:2] != (genome, "RUNNING"):
                    raise InputError(f"{within(within(name, 'running'), number_of)}: is no running trial of that architecture")

        return check

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.random.setstate(state["random"])
        self._worker = state["worker"]
        self._running, self._told, self._heard = dict(state["running"]), list(state["told"]), state["heard"]
        if self.config.bayes.storage is None:
            self._study = self._open()
            self._study.add_trials(self._trial(genome, TrialState[name], score) for genome, name, score in state["trials"])
        else:
            with self._storage_errors():
                running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
                own = [trial.number for trial in running if trial.user_attrs.get("worker") == self._worker]
                self._give_up([number for number in own if number not in self._running])

    def _open(self) -> Study:
        bayes = self.config.bayes
        new = partial(_new_sampler, bayes.model, bayes.initial)
        self._sampler = SeededSampler(new, self.seed, self._distributions)
        with self._storage_errors(), _quiet():
            study = optuna.create_study(
                storage=None if bayes.storage is None else _storage(bayes.storage),
                sampler=self._sampler,
                study_name=bayes.study or STUDY,
                direction="maximize",
                load_if_exists=bayes.storage is not None,
            )
            _check_study(study, IDENTITY, _identity(self.encoding, self.config))
        return study

    def _propose(self, known: set[Genome]) -> Genome:
        """Returns a new trial of an architecture that is not known."""
        for attempt in range(ATTEMPTS + 1):
            # Another process might take a trial that this one enqueues.
            self._sampler.forced = self._params(_unknown(self.encoding, known, self.random)) if attempt == ATTEMPTS else None
            trial = self._study.ask(self._distributions)
            genome = self._genome(trial.params)
            if genome not in known:
                break
            self._study.tell(trial, state=TrialState.FAIL)
        for name, value in self._attributes(genome).items():
            trial.set_user_attr(name, value)
        self._running[trial.number] = genome
        return genome

    def _give_up(self, numbers: Sequence[int]) -> None:
        """Makes these trials fail, unless they are finished."""
        for number in numbers:
            self._study.tell(number, state=TrialState.FAIL, skip_if_finished=True)
            self._running.pop(number, None)

    def _finished(self) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))

    def _trial(self, genome: Genome, state: TrialState, score: float | None) -> FrozenTrial:
        return create_trial(
            state=state,
            value=score,
            params=self._params(genome),
            distributions=self._distributions,
            user_attrs=self._attributes(genome),
        )

    def _attributes(self, genome: Genome) -> dict[str, str]:
        """Returns the attributes of a trial, for Optuna's dashboard for one."""
        genotype = self.encoding.genotype(genome)
        return {"worker": self._worker, "genotype": genotype.to_text(genotype.text_form)}

    def _params(self, genome: Genome) -> dict[str, Any]:
        values = self.encoding.values(genome)
        return {name: choices[value] for (name, choices), value in zip(self._choices.items(), values, strict=True)}

    def _genome(self, params: Mapping[str, Any]) -> Genome:
        return self.encoding.of_values([choices.index(params[name]) for name, choices in self._choices.items()])

    @contextmanager
    def _storage_errors(self) -> Iterator[None]:
        """Turns errors of the storage into an error of one line."""
        storage = self.config.bayes.storage
        try:
            yield
        except (SQLAlchemyError, OptunaError) as error:
            raise InputError(f"bayes.storage: {_shown(storage)}: {_reason(error)}") from error


class SeededSampler(BaseSampler):
    """A new sampler of Optuna for each trial, seeded by the trial's number.

    So a proposal depends on the study, the seed and the number alone: neither on the process nor on
    earlier proposals. If `forced` has parameters, it proposes these.

    All trials have the parameters `distributions`, which a new sampler would have to find by
    comparing all trials.
    """

    def __init__(self, new: Callable[[int], BaseSampler], seed: int, distributions: Mapping[str, BaseDistribution]) -> None:
        self._new = new
        self._seed = seed
        self._space = {name: each for name, each in sorted(distributions.items()) if not each.single()}
        self.forced: Mapping[str, Any] | None = None

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._sampler = self._new(derive_seed(self._seed, "optuna", trial.number) % 2**32)
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {} if self.forced is not None else self._space

    def sample_relative(self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        if self.forced is not None:
            return self.forced[param_name]
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)


def _new_sampler(model: str, initial: int, seed: int) -> BaseSampler:
    if model == "optuna_tpe":
        return TPESampler(n_startup_trials=initial, multivariate=True, constant_liar=True, seed=seed)
    with warnings.catch_warnings():
        # deterministic_objective is an experimental option. The same weights give an architecture
        # the same score.
        warnings.simplefilter("ignore", ExperimentalWarning)
        return GPSampler(n_startup_trials=initial, deterministic_objective=True, seed=seed)


def _choices(encoding: Encoding) -> dict[str, list[str] | list[int]]:
    """Returns the values of each variable: operations by name, inputs by number."""
    operations = [encoding.space.candidates[column] for column in encoding.operations]
    return {each.name: list(range(each.options)) if each.is_inputs else operations for each in encoding.variables}


def _unknown(encoding: Encoding, known: set[Genome], random: Random) -> Genome:
    """Returns an architecture that is not in `known`, each with the same chance."""
    while (genome := encoding.random(random)) in known:
        pass
    return genome


def _state(name: str, value: Any) -> None:
    """Takes the name of a state of a trial."""
    if type(value) is not str or value not in TrialState.__members__:
        raise misfit(name, value, "a state of a trial")


# Storages


def _storage(name: str) -> BaseStorage:
    """Opens a database for a URL, else a journal: a file that processes append to."""
    try:
        if "://" in name:
            _check_database(name)
            return _database(name)
        _check_journal(Path(name))
        return JournalStorage(JournalFileBackend(name))
    except InputError as error:
        raise InputError(f"bayes.storage: {_shown(name)}: ", *error.parts) from error
    except Exception as error:  # a damaged file can raise anything
        raise InputError(f"bayes.storage: {_shown(name)}: {_reason(error)}") from error


def _check_journal(path: Path) -> None:
    """Raises InputError for a file that is there and is no journal: Optuna would append to it."""
    if not os.path.lexists(path):
        return
    if not path.is_file():
        said = "Is a directory" if path.is_dir() else "is no regular file"
        raise InputError(f"{said}; name a file of Optuna's journal, or a URL such as sqlite:///study.db")
    with path.open("rb") as file:
        first = file.readline(_LONGEST_LINE)
    if not first:
        return
    try:
        entry = json.loads(first)
    except (ValueError, RecursionError):
        entry = None
    if not (isinstance(entry, dict) and entry.keys() >= JOURNAL_KEYS):
        raise InputError("no journal of Optuna, or a damaged one; name another file, or a URL such as sqlite:///study.db")
    for wait in OPENING_WAITS:
        if _ends_with_a_line(path):
            return
        time.sleep(wait)  # another process might be amid a line
    raise InputError("its last line was cut short, and the next would run into it; remove that line, then try again")


def _ends_with_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _check_database(url: str) -> None:
    """Raises InputError for a file of SQLite with tables that are not Optuna's: it would add its
    own."""
    engine = create_engine(url)
    try:
        # A connection would make a file where there is none.
        file = engine.url.database
        if engine.dialect.name != "sqlite" or not file or not os.path.exists(file):
            return
        for wait in OPENING_WAITS:
            tables = set(inspect(engine).get_table_names())
            if not tables or tables >= _OPTUNA_TABLES:
                return
            time.sleep(wait)  # another process might be making them
        raise InputError("has tables of another program; name another")
    finally:
        engine.dispose()


def _database(url: str) -> BaseStorage:
    """Opens a database in several attempts: of processes that make its tables at the same time, one
    succeeds."""
    for wait in OPENING_WAITS:
        try:
            return RDBStorage(url)
        except (IntegrityError, OperationalError):
            time.sleep(wait)
    return RDBStorage(url)


def _shown(name: str) -> str:
    """Returns the name of a storage without the password that the URL of a database may have."""
    try:
        return make_url(name).render_as_string() if "://" in name else name
    except (ArgumentError, ValueError):
        return name.rpartition("@")[2]


def _reason(error: Exception) -> str:
    """Returns the reason why a storage cannot be used, in one line."""
    known = error.__cause__ if isinstance(error, ImportError | OptunaError) and error.__cause__ else error
    if isinstance(known, OSError) and known.strerror:
        return f"{known.strerror}; name a file of Optuna's journal, or a URL such as sqlite:///study.db"
    if isinstance(known, UnicodeDecodeError | json.JSONDecodeError | TypeError | LookupError | AssertionError):
        return "no journal of Optuna, or a damaged one; name another file, or a URL such as sqlite:///study.db"
    said = known.orig if isinstance(known, DBAPIError) else known
    return str(said).partition("\n")[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences the news that a study was created or found."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _identity(encoding: Encoding, config: Any) -> dict[str, Any]:
    """Returns the settings that all trials of a study share."""
    return {"space": encoding.space.name, "variables": _choices(encoding), "evaluate": config.evaluate}


def _check_study(study: Study, key: str, identity: Mapping[str, Any]) -> None:
    """Raises ValueError unless the study has this identity under `key`; a new one has it from now
    on."""
    if study.directions != [StudyDirection.MAXIMIZE]:
        raise InputError(f"bayes.study: {study.study_name} exists and does not maximize one value; name another")
    if key not in study.user_attrs:
        if study.get_trials(deepcopy=False):
            raise InputError(f"bayes.study: {study.study_name} exists and is of another program; name another")
        study.set_user_attr(key, dict(identity))
    known = study.user_attrs[key]
    if different := [name for name in {**known, **identity} if known.get(name) != identity.get(name)]:
        raise InputError(
            f"bayes.study: {study.study_name} exists with other {' and '.join(different)}; set the same, or name another study"
        )
