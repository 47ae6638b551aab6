"""Retraining from configuration to weights, metrics and report."""

import json
import math
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Literal

from base.checks import FieldError, InputError
from base.seeds import new_generator
from base.texts import decimals, excerpt
from retrain.config import RetrainConfig
from retrain.evaluation.networks import evaluate_network
from retrain.finished import KIND, METRICS_FILE
from retrain.page import Story, retrain_page
from retrain.result import Compared, Result
from retrain.trainer import Retraining
from retrain.weights import Trained
from supernet.drawing.draw import draw_cell
from supernet.genotypes.genotype import GENOTYPE_FILE, Genotype
from supernet.genotypes.published import find_genotype, list_genotypes
from supernet.spaces.space import get_space
from training.hardware import Hardware
from training.loop import open_run, run_epochs
from training.metrics import count_multiply_adds, count_parameters
from training.report.sections import Process
from training.run.config import RunOptions
from training.run.directory import RunDirectory
from training.run.extension import extended
from training.run.history import write_history
from training.run.monitor import Monitor, StopConfig, check_finite
from training.run.ownership.files import record, write_file
from training.schedule import in_words
from training.tasks.task import Dataset, asked_score, check_parts, open_task


def run(
    genotype: Genotype | str | Path,
    config: RetrainConfig | None = None,
    run: str | Path = "runs/retrain",
    resume: bool = False,
    overwrite: bool = False,
    extend: Literal["restart", "tail"] | None = None,
) -> Result:
    """Trains the network of a genotype from scratch, as `python -m retrain` does, and evaluates it
    on the test part.

    Args:
        genotype: what a search returned, or what `--genotype` takes: a file, a name or a text.
        config: how it is trained; None: as DARTS was published. Its own field `genotype` is left
            out of account.
        run: directory of the run.
        resume: go on from the run's last checkpoint.
        overwrite: replace the run that the directory holds.
        extend: the way on of a run that is resumed with more epochs: its schedules begin anew for
            these, or stay at their last values.

    Raises:
        ValueError: no such genotype, a configuration that cannot be run, or a directory that cannot
            be taken; nothing is written then.
        TrainingDiverged: the loss is NaN or infinite.
    """
    note = ""
    if not isinstance(genotype, Genotype):
        genotype, note = find_genotype(str(genotype))
    return retrain(config or RetrainConfig(), RunOptions(Path(run), resume, overwrite, extend=extend), genotype, note)


def retrain(config: RetrainConfig, options: RunOptions, genotype: Genotype | None = None, note: str = "") -> Result:
    """Trains a genotype (None: the one that the configuration names) into the directory of the run,
    then evaluates it on the test part, once.

    `note` is a line on how the genotype was found, for the log. Writes genotype.json,
    weights.safetensors, metrics.json, history.jsonl and report.html. Raises ValueError, before
    anything is written, for a configuration that cannot be run; see `training.loop.run_epochs` for
    what may happen later.
    """
    began = time.monotonic()
    config = extended(config, options)
    RunDirectory.check(options.run, config, options.resume, options.overwrite)
    genotype, chosen = _genotype(genotype, note, config, options)
    others = _random_runs(config, options, genotype)
    notes = [*([chosen] if chosen else []), *in_words(config.extended)]
    hardware = Hardware.of(config, config.graph)
    config.stop.check(asked_score(config))
    task = open_task(config, hardware, options, notes.append)
    # Before anything is trained: what is wrong with it is better known then.
    test = task.load_test(notes.append)
    if options.resume and config.validation_fraction:
        check_parts(task, options.run, 1 - config.validation_fraction, config.seed)
    notes += task.summary(test)
    trainer = Retraining(config, genotype, task, hardware)
    with closing(trainer), open_run(trainer, config, options, KIND) as (run, monitor, start):
        task.save_description(run.path, trains=start.epochs < trainer.epochs)
        for note in notes:
            monitor.log(note)
        write_file(run.path, GENOTYPE_FILE, genotype.to_text("json"))
        if not start.epochs:
            _introduce(genotype, monitor, options.pictures)
        epochs = run_epochs(trainer, config, run, monitor, KIND, start, options.profile)
        result = _conclude(trainer, test, run, monitor, epochs)
        process = Process(start.epochs, epochs, time.monotonic() - began)
        story = Story(
            config, task, result, trainer.history, trainer.device, process, run.config_hash, pictures=options.pictures
        )
        monitor.log(f"{KIND}: report in {retrain_page(story).write(run.path)}")
        if others and epochs < trainer.epochs:
            print(f"{KIND}: stopped early, so no random genotypes are trained; --resume, with another stop, goes on")
            return result
        trainer.close()
        record(run.path, *(f"{theirs.run.name}/" for _, theirs, _ in others))
        found = tuple(retrain(alone, theirs, other) for alone, theirs, other in others)
        if found:
            compared = [Compared.of(one.run.name, one, story.task) for one in found]
            path = retrain_page(replace(story, others=compared)).write(run.path)
            print(f"{KIND}: compared with random genotypes in {path}")
    return replace(result, others=found)


def measure(config: RetrainConfig, options: RunOptions) -> dict[str, float]:
    """Retrains; returns what runs with other seeds are compared by."""
    result = retrain(config, options)
    test = {name: value for name, value in result.test.to_dict().items() if isinstance(value, float)}
    return test | {"parameters": result.parameters, "multiply_adds": result.multiply_adds}


def random_genotype(space: str, number: int) -> Genotype:
    """Random genotype number `number` of a space, every one of the space being as likely as
    another.

    Raises ValueError for an unknown space.
    """
    return get_space(space).random(new_generator(number, "random genotype"), number)


def _random_runs(
    config: RetrainConfig, options: RunOptions, genotype: Genotype
) -> list[tuple[RetrainConfig, RunOptions, Genotype]]:
    """Returns the configurations and directories of the random genotypes that are trained for
    comparison. Raises ValueError if a directory is in the way."""
    runs = []
    for number in range(config.random_genotypes):
        try:
            other = random_genotype(genotype.space, number)
        except InputError as error:
            raise FieldError("random_genotypes", f"{error}; a space of your own is known once its file is imported") from error
        path = options.run / f"random_{number}"
        # Cut short they would be no match for the genotype that was not.
        alone = replace(config, random_genotypes=0, stop=StopConfig())
        theirs = replace(options, run=path, resume=options.resume and path.exists(), profile=None)
        RunDirectory.check(theirs.run, alone, theirs.resume, theirs.overwrite)
        runs.append((alone, theirs, other))
    return runs


def _genotype(given: Genotype | None, note: str, config: RetrainConfig, options: RunOptions) -> tuple[Genotype, str]:
    """Returns the genotype of a call with its note, or else that of the configuration; on resume
    the one that the run began with, as its file may have changed since."""
    saved = options.run / "genotype.json"
    if options.resume and saved.is_file():
        try:
            begun = Genotype.load(saved)
        except InputError as error:
            again = f"delete it to read {excerpt(config.genotype)} again, or " if given is None else ""
            raise InputError(f"{error}; {again}begin anew with --overwrite") from error
        if given is not None and given != begun:
            raise FieldError(
                "genotype", f"the run was begun with another one, which {saved} has; begin anew with overwrite=True"
            )
        return begun, ""
    if given is not None:
        return given, note
    if not config.genotype:
        raise FieldError("genotype", f"give a file or one of {', '.join(list_genotypes())} with --genotype")
    try:
        return find_genotype(config.genotype)
    except InputError as error:
        raise FieldError("genotype", *error.parts) from error


def _introduce(genotype: Genotype, monitor: Monitor, pictures: bool) -> None:
    """Shows in TensorBoard what is trained."""
    monitor.text("genotype", genotype.to_text(genotype.text_form))
    if not pictures:
        return
    for kind, cell in genotype.cells.items():
        monitor.figure(f"cell/{kind}", draw_cell(cell, genotype.skeleton.inputs, kind), 0)


def _conclude(trainer: Retraining, data: Dataset, run: RunDirectory, monitor: Monitor, epochs: int) -> Result:
    """Saves the weights, evaluates what was saved on the test part, and writes and shows the
    outcome."""
    config = trainer.config
    Trained(trainer.network, trainer.format, config.task, trainer.task.train.resizing).save(run.path)
    trained = Trained.load(run.path)
    network = trained.network
    parameters, multiply_adds = count_parameters(network), count_multiply_adds(network, trainer.format.shape)
    test = evaluate_network(network, trainer.task, data, config.batch_size, trainer.hardware)
    check_finite(None if math.isfinite(test.loss) else 0, epochs * trainer.steps, "loss on the test images")
    metrics = test.to_dict() | {
        "parameters": parameters,
        "multiply_adds": multiply_adds,
        "epochs": epochs,
        "seed": config.seed,
        "class_weights": config.data.class_weights,
        "config_hash": run.config_hash,
        "genotype": trainer.genotype.to_text(trainer.genotype.text_form),
    }
    score = trainer.scored_by
    write_history(run.path, trainer.history)
    write_file(run.path, METRICS_FILE, json.dumps(metrics, indent=2) + "\n")
    monitor.scalars(epochs * trainer.steps, {"test/loss": test.loss, f"test/{score.name}": trainer.task.value(test)})
    said = ", ".join(f"{trainer.task.words(one)} {decimals(value)}" for one, value in test.values.items())
    monitor.log(
        f"{KIND}: {epochs} epochs, {parameters:,} parameters, {multiply_adds / 1e6:.2f} M multiply-adds"
        f"{', balanced class weights' if config.data.class_weights == 'balanced' else ''}; "
        f"on {test.count} test images: {said}, loss {decimals(test.loss)}"
    )
    monitor.log(f"{KIND}: weights and metrics in {run.path}")
    return Result(trainer.genotype, epochs, parameters, multiply_adds, test, trained, run.path)
