"""Methods that descend a gradient in architecture parameters."""

import time
from dataclasses import dataclass

from search.costs.tabular import Table
from search.differentiable.config import SearchConfig
from search.differentiable.report import Story, search_page
from search.differentiable.trainer import BilevelSearch
from search.methods import Method
from search.reporting import RunFacts
from supernet import Genotype
from training.hardware import choose_device
from training.images.data import load_images, save_format, saved_format
from training.loop import open_run, run_epochs
from training.report.sections import Process
from training.run.checkpoint import RunDirectory
from training.run.config import RunOptions


@dataclass(frozen=True)
class DifferentiableMethod(Method[SearchConfig]):
    """A method whose parts a `SearchConfig` names."""

    def run(self, config: SearchConfig, options: RunOptions) -> Genotype:
        """Searches into the directory of the run; see `search`."""
        return search(config, options, self.name, self.paper, self.defaults())


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
    RunDirectory.check(options.run, config, options.resume, options.overwrite)
    table = None if config.tabular is None else Table.read(config.tabular)
    notes: list[str] = []
    device = choose_device(config.device, config.threads)
    known = saved_format(options)
    images = load_images(config.data, "train", device, known, notes.append, surveyed=known is not None)
    trainer = BilevelSearch(config, images, RunDirectory(options.run, config), table, options.pictures)
    with open_run(trainer, config, options, method) as (run, monitor, start):
        save_format(images, run.path)
        for note in notes:
            monitor.log(note)
        done = run_epochs(trainer, config, run, monitor, method, start)
        if done == trainer.epochs and (reason := trainer.reason_to_stop()):
            monitor.log(f"collapsed in the last epoch: {reason}")
        if trainer.perturbation is not None and done < trainer.epochs:
            monitor.log("warning: the selection is not complete, and alphas choose where it has not; --resume goes on with it")
        genotype = trainer.genotype()
        genotype.save(run.path / "genotype.json")
        monitor.log(f"{method}: {done} epochs; genotype in {run.path / 'genotype.json'}:")
        monitor.log(genotype.to_text(genotype.text_form))
        process = Process(start.epochs, done, time.monotonic() - began)
        asked = method, paper, defaults or SearchConfig()
        facts = RunFacts(*asked, run.path, run.config_hash, trainer.device, trainer.epochs, process, options.pictures)
        story = Story(facts, config, trainer.space, trainer.format, trainer.recorder.history, genotype, table)
        monitor.log(f"{method}: report in {search_page(story).write(run.path)}")
    return genotype
