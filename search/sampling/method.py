"""Methods that sample whole architectures."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch

from base.checks import FieldError, InputError
from search.costs.tabular import Table
from search.finished import SearchRun
from search.history import SamplingEntry, SamplingRound, SearchEntry
from search.methods import Method
from search.reporting import RunFacts
from search.sampling.config import SamplingConfig
from search.sampling.encoding import Encoding
from search.sampling.report import Story, sampling_page
from search.sampling.samplers.sampler import Sampler, genome_of
from search.sampling.scores.chosen import chosen_score
from search.sampling.trainer import SamplingSearch
from search.sampling.trials import Trial
from search.sampling.weights import new_supernet
from supernet import Genotype, Supernet, get_space
from training.hardware import Hardware
from training.loop import open_run, run_epochs
from training.metrics import Score
from training.report.sections import Process
from training.run.config import RunOptions
from training.run.directory import RunDirectory
from training.run.extension import extended
from training.run.repeat import Spread
from training.run.structure import fields, like, numeric, row, rows, share
from training.schedule import in_words
from training.tasks.task import TASKS, check_parts, open_task

C = TypeVar("C", bound=SamplingConfig)


@dataclass(frozen=True)
class Evaluated:
    """An evaluation that a search has made."""

    genotype: Genotype
    score: float
    """The score in its own sign; see `SamplingRun.scored_by`."""
    share: float
    """Share of a whole evaluation that it was."""


class SamplingRun(SearchRun):
    """The run of a method that samples whole architectures."""

    config: SamplingConfig
    history: Sequence[SamplingEntry]

    @cached_property
    def encoding(self) -> Encoding:
        """Returns the encoding of the architectures of its space."""
        return Encoding(get_space(self.config.space), self.config.exclude)

    @cached_property
    def network(self) -> Supernet:
        """The supernet with its shared weights, on the CPU and in evaluation mode.

        Raises InputError for a search whose scores need no weights.
        """
        config, state = self.config, self.state
        if "weights" not in state:
            raise InputError(f"{self.path}: has no network; its scores are from {config.evaluate}")
        form = self.format
        with self.restoring(), torch.random.fork_rng([]):
            network = new_supernet(config, self.encoding, len(TASKS[config.task].output_names(form)), form.shape[0])
            self.expect(weights=fields({"network": like(dict(network.state_dict()))}, may_have_more=True))
            network.load_state_dict(state["weights"]["network"])
        return network.eval()

    @property
    def scored_by(self) -> Score:
        """Returns the score that architectures were compared by."""
        with self.restoring():
            return chosen_score(self.config)

    @cached_property
    def evaluations(self) -> list[Evaluated]:
        """Returns all evaluations that are done at the newest checkpoint, in their order."""
        if not self.epochs:
            return []
        with self.restoring():
            done = rows(row(genome_of(self.encoding), numeric, share))
            self.expect(trials=fields({"done": done}, may_have_more=True))
            trials = [Trial(*trial) for trial in self.state["trials"]["done"]]
            own = self.scored_by.own
            return [Evaluated(self.encoding.genotype(trial.genome), own(trial.score), trial.share) for trial in trials]


@dataclass(frozen=True)
class SamplingMethod(Method[C]):
    """A method that samples whole architectures with `sampler`, whose own fields are in the
    configuration."""

    sampler: type[Sampler] = field(kw_only=True)

    def run(self, config: C, options: RunOptions) -> Genotype | None:
        """Searches into the directory of the run; see `sample`."""
        return sample(self.sampler, config, options, self.name, self.paper, self.defaults())

    def planned_epochs(self, config: C) -> int:
        """Returns the epochs and the rounds of evaluations of a search that nothing stops."""
        return config.planned_epochs

    def is_complete(self, config: C, history: Sequence[SearchEntry]) -> bool:
        """Returns whether a search with this history has made all its evaluations, or there was
        nothing more to evaluate."""
        last = history[-1] if history else None
        exhausted = isinstance(last, SamplingRound) and bool(last.exhausted)
        return exhausted or super().is_complete(config, history)

    def reopen(self, path: Path) -> SamplingRun:
        """Reads the run of this method in the directory `path` back; see `SearchRun.open`."""
        return SamplingRun.read(path, self)

    def repeat(self, config: C, options: RunOptions) -> list[Spread]:
        """Searches once for each of `options.seeds`."""
        if config.weights_from is not None:
            raise InputError("--seeds: weights_from has the weights of one seed; leave one of them out")
        return super().repeat(config, options)


def sample(
    sampler: type[Sampler],
    config: SamplingConfig,
    options: RunOptions,
    method: str,
    paper: str = "",
    defaults: SamplingConfig | None = None,
) -> Genotype | None:
    """Runs a whole search into the directory of the run and returns the best architecture, also
    saved there as genotype.json.

    The report there, report.html, introduces the method with its `paper` and with what differs from
    its `defaults` (None: those of its configuration's class). Returns None where `stop` ended it
    before any architecture was evaluated wholly. Raises ValueError, before anything is written, for
    a configuration that cannot be run; see `training.loop.run_epochs` for what may happen later.
    """
    began = time.monotonic()
    config = extended(config, options)
    RunDirectory.check(options.run, config, options.resume, options.overwrite)
    if options.profile is not None and not config.trains:
        raise InputError("--profile: this search trains no weights, so there is no step to record; leave it out")
    table = None if config.tabular is None else Table.of_run(config.tabular, options)
    if table is not None and table.is_changed and config.evaluate == "table":
        raise FieldError("tabular", f"{table.notes[-1]}; bring it back, or begin anew with --overwrite")
    notes: list[str] = in_words(config.extended)
    notes += [] if table is None else table.notes
    hardware = Hardware.of(config)
    config.stop.check(chosen_score(config))
    task = open_task(config, hardware, options, notes.append) if config.needs_images else None
    if task is not None and options.resume and config.trained_epochs:
        check_parts(task, options.run, config.train_fraction, config.seed)
    directory = RunDirectory(options.run, config)
    trainer = SamplingSearch(sampler, config, task, directory, hardware, table, options.pictures)
    with open_run(trainer, config, options, method) as (run, monitor, start):
        if task is not None:
            task.save_description(run.path, trains=start.epochs < trainer.epochs)
        if table is not None:
            table.save_description(run.path)
        for note in [*notes, *trainer.notes]:
            monitor.log(note)
        done = run_epochs(trainer, config, run, monitor, method, start, options.profile)
        findings = trainer.recorder.conclude(trainer.trials, monitor, done * trainer.steps)
        genotype = None if findings is None else findings.genotype
        if genotype is None:
            monitor.log(f"{method}: no architecture has been evaluated wholly yet, so there is no genotype; --resume goes on")
        else:
            monitor.log(f"{method}: {len(trainer.trials.done)} evaluations; genotype in {run.path / 'genotype.json'}:")
            monitor.log(genotype.to_text(genotype.text_form))
        process = Process(start.epochs, done, time.monotonic() - began)
        asked = method, paper, defaults or type(config)()
        facts = RunFacts(*asked, run.path, run.config_hash, trainer.device, trainer.epochs, process, options.pictures)
        trials = trainer.trials
        story = Story(
            facts,
            config,
            trainer.scored_by,
            trainer.recorder.history,
            trials.done,
            trials.spent,
            trials.exhausted,
            findings,
        )
        monitor.log(f"{method}: report in {sampling_page(story).write(run.path)}")
    return genotype
