"""The parts that the reports of all searches share."""

from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import TYPE_CHECKING

import torch

from search.config import SupernetSearchConfig
from search.costs.counted import CostTable
from supernet import Genotype, Path, SearchSpace
from supernet.spaces.skeleton import Stem
from training.format import ImageFormat
from training.images.data import DataConfig
from training.report.html import Markup, Page, element, paragraph
from training.report.sections import Process, asked, commands, environment, setting
from training.run.config import config_to_dict

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


@dataclass(frozen=True)
class RunFacts:
    """The facts about a run that a page shows beside the search itself."""

    method: str
    paper: str
    """Authors and year; may be empty."""
    defaults: "DataclassInstance"
    """The defaults of the method."""
    directory: FilePath
    config_hash: str
    device: torch.device
    epochs: int
    """Planned epochs."""
    process: Process
    pictures: bool = True
    """Whether the page has figures."""


def introduction(facts: RunFacts, space: str) -> list[Markup]:
    """Returns the lines that say whose method it is, in which space, and how it is called."""
    source = f"{facts.paper[:1].upper()}{facts.paper[1:]}" if facts.paper else "A method of your own"
    return [paragraph(f"{source}, in the space {space}. ", element("code", f"python -m search.{facts.method}"))]


def default_costs(genotype: Genotype, space: SearchSpace, stem: Stem, images: ImageFormat) -> dict[str, float]:
    """Returns {"parameters": ..., "multiply_adds": ...} of the network that retraining builds by
    default."""
    used = {operation for cell in genotype.cells.values() for feeds in cell.nodes for operation, _ in feeds}
    operations = [name for name in space.candidates if name in used]
    size = space.skeleton.default_size(stem)
    costs = CostTable(space, *size, len(images.class_names), images.shape, stem, operations)
    return costs(Path.of_genotype(genotype, space).flat(space))


def close(
    page: Page,
    config: SupernetSearchConfig,
    facts: RunFacts,
    data: Markup,
    genotype: Genotype | None,
) -> None:
    """Adds the sections that every report of a search ends with; `data` describes the images of the
    search."""
    page.section("What was asked", asked(config, facts.defaults, facts.method))
    page.section("Images", data)
    run, again = facts.directory, f"{facts.directory}_again"
    repeat: list[str | FilePath] = [f"search.{facts.method}", "--config", run / "config.yaml", "--run", again]
    parts = [paragraph("The same search once more, into another directory:"), commands(repeat)]
    if genotype is not None:
        parts += [
            paragraph("The network of this cell, trained from scratch:"),
            commands(retrain_command(config, run, genotype)),
        ]
    threads = " with as many threads" if facts.device.type == "cpu" else ""
    parts.append(
        paragraph(
            f"Seed {config.seed}, hash of the configuration {facts.config_hash}. On the same versions and the same kind of "
            f"device{threads} the same numbers come out."
        )
    )
    page.section("How to repeat it", *parts, environment(facts.device))


def retrain_command(config: SupernetSearchConfig, run: FilePath, genotype: Genotype) -> list[str | FilePath]:
    """Returns the command line, without `python -m`, that retrains the result on the images of the
    search."""
    usual = config_to_dict(DataConfig())
    options = {f"data.{name}": value for name, value in config_to_dict(config.data).items() if value != usual[name]}
    if config.score is not None:
        options["score"] = config.score
    if config.stem != "cifar":
        options["stem"] = config.stem
    if not genotype.skeleton.auxiliary:
        options["auxiliary_weight"] = 0
    given = [f"--{name}={setting(value)}" for name, value in options.items()]
    return ["retrain", "--genotype", run / "genotype.json", *given, "--run", f"{run}_retrained"]
