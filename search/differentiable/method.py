"""Methods that descend a gradient in architecture parameters."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from search.costs.tabular import Table
from search.differentiable.architecture import Architecture
from search.differentiable.config import SearchConfig
from search.differentiable.relaxations import Mixture
from search.differentiable.report import Story, search_page
from search.differentiable.schedule import SupernetSchedule
from search.differentiable.trainer import BilevelSearch, choices, new_architecture
from search.finished import SearchRun
from search.history import SearchEntry, SearchEpoch
from search.methods import Method
from search.reporting import RunFacts
from search.supernet_build import build_supernet
from supernet import Genotype, Supernet, get_space
from supernet.genotypes.genotype import GENOTYPE_FILE
from training.hardware import Hardware
from training.loop import open_run, run_epochs
from training.report.sections import Process
from training.run.config import RunOptions
from training.run.directory import RunDirectory
from training.run.extension import extended
from training.run.ownership.files import write_file
from training.run.structure import like
from training.schedule import in_words
from training.tasks.task import TASKS, asked_score, check_parts, open_task


class DifferentiableRun(SearchRun):
    """The run of a method that descends a gradient."""

    config: SearchConfig
    history: Sequence[SearchEpoch]

    @cached_property
    def network(self) -> Supernet:
        """The supernet with its weights, on the CPU and in evaluation mode, with the candidates and channels that are left."""
        config, state, form = self.config, self.state, self.format
        space = get_space(config.space)
        with self.restoring(), torch.random.fork_rng([]):
            self.expect(**choices(config, space, SupernetSchedule.of(config, space), self.epochs))
            network = build_supernet(
                config,
                len(TASKS[config.task].output_names(form)),
                form.shape[0],
                state["keep"],
                partial=state["partial"],
                tie_cells=config.tie_cells,
            )
            self.expect(network=like(dict(network.state_dict())))
            network.load_state_dict(state["network"])
        return network.eval()

    @cached_property
    def architecture(self) -> Architecture:
        """The alphas and every way from them to a mixture, as they are after the last epoch."""
        cells = None if self.config.tie_cells else self.network.cells_of_kind
        state = self.state
        with self.restoring(), torch.random.fork_rng([]):
            architecture = new_architecture(self.config, get_space(self.config.space), cells, torch.device("cpu"))
            self.expect(**{part: like(table) for part, table in architecture.state_dict().items()})
            architecture.load_state_dict(state)
        architecture.begin_epoch(max(0, self.epochs - 1))
        return architecture

    @cached_property
    def mixture(self) -> Mixture:
        """Weights of the candidates {kind: [edges, candidates]} that the genotype is derived from; untied, a table a cell."""
        return {kind: table.detach() for kind, table in self.architecture.mean().items()}


@dataclass(frozen=True)
class DifferentiableMethod(Method[SearchConfig]):
    """A method whose parts a `SearchConfig` names."""

    def run(self, config: SearchConfig, options: RunOptions) -> Genotype:
        """Searches into the directory of the run; see `search`."""
        return search(config, options, self.name, self.paper, self.defaults())

    def planned_epochs(self, config: SearchConfig) -> int:
        """Returns the epochs of a search that nothing stops, with those in which a selection by perturbation decides."""
        return SupernetSchedule.of(config, get_space(config.space)).planned_epochs

    def is_complete(self, config: SearchConfig, history: Sequence[SearchEntry]) -> bool:
        """Returns whether a search with this history is at its last epoch or has ended for a collapse."""
        judged = [entry for entry in history if isinstance(entry, SearchEpoch)]
        collapsed = SupernetSchedule.of(config, get_space(config.space)).collapse(judged) is not None
        return collapsed or super().is_complete(config, history)

    def reopen(self, path: Path) -> DifferentiableRun:
        """Reads the run of this method in the directory `path` back; see `SearchRun.open`."""
        return DifferentiableRun.read(path, self)


def search(
    config: SearchConfig, options: RunOptions, method: str, paper: str = "", defaults: SearchConfig | None = None
) -> Genotype:
    """Runs a whole search into the directory of the run and returns the genotype, also saved there as genotype.json.

    The report there, report.html, introduces the method with its `paper` and with what differs from its `defaults` (None:
    those of DARTS).
    Raises ValueError, before anything is written, for a configuration that cannot be run; see `training.loop.run_epochs` for
    what may happen later.
    """
    began = time.monotonic()
    config = extended(config, options)
    RunDirectory.check(options.run, config, options.resume, options.overwrite)
    table = None if config.tabular is None else Table.of_run(config.tabular, options)
    notes: list[str] = in_words(config.extended)
    notes += [] if table is None else table.notes
    hardware = Hardware.of(config, config.graph)
    config.stop.check(asked_score(config))
    task = open_task(config, hardware, options, notes.append)
    if options.resume:
        check_parts(task, options.run, config.train_fraction, config.seed)
    trainer = BilevelSearch(config, task, RunDirectory(options.run, config), hardware, table, options.pictures)
    with open_run(trainer, config, options, method) as (run, monitor, start):
        task.save_description(run.path, trains=start.epochs < trainer.epochs)
        if table is not None:
            table.save_description(run.path)
        for note in notes:
            monitor.log(note)
        done = run_epochs(trainer, config, run, monitor, method, start, options.profile)
        if done == trainer.epochs and (reason := trainer.reason_to_stop()):
            monitor.log(f"collapsed in the last epoch: {reason}")
        if trainer.perturbation is not None and done < trainer.epochs:
            monitor.log("warning: the selection is not complete, and alphas choose where it has not; --resume goes on with it")
        genotype = trainer.genotype()
        write_file(run.path, GENOTYPE_FILE, genotype.to_text("json"))
        monitor.log(f"{method}: {done} epochs; genotype in {run.path / GENOTYPE_FILE}:")
        monitor.log(genotype.to_text(genotype.text_form))
        process = Process(start.epochs, done, time.monotonic() - began)
        asked = method, paper, defaults or SearchConfig()
        facts = RunFacts(*asked, run.path, run.config_hash, trainer.device, trainer.epochs, process, options.pictures)
        story = Story(facts, config, task, trainer.space, trainer.format, trainer.recorder.history, genotype, table)
        monitor.log(f"{method}: report in {search_page(story).write(run.path)}")
    return genotype
