"""Retraining from configuration to weights and metrics."""

import json
import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from retrain.config import RetrainConfig
from retrain.evaluation import evaluate_network
from retrain.page import Compared, retrain_page
from retrain.weights import Trained
from supernet.discrete import DiscreteNetwork
from supernet.draw import draw_cell
from supernet.files import write_atomically
from supernet.genotype import Genotype
from supernet.published import list_genotypes, read_genotype
from supernet.skeleton import check_size
from supernet.space import get_space
from training.batches import Batches
from training.checkpoint import RunDirectory
from training.config import RunOptions
from training.data import class_weights, load_images, save_format, saved_format, split_halves
from training.graph import GraphedStep, new_capture
from training.history import write_history
from training.images import ImageFormat, Images
from training.loop import Watch, choose_device, opened, placed, run_epochs
from training.metrics import Evaluation, Meter, count_multiply_adds, count_parameters
from training.monitor import Monitor, StopConfig, check_finite
from training.optim import cosine, descend, load_optimizer, new_optimizer, set_lr
from training.page import Process
from training.precision import autocast
from training.seeds import derive_seed, new_generator

KIND = "retrain"


@dataclass(frozen=True)
class Result:
    """What retraining ends with."""

    genotype: Genotype
    epochs: int
    """Epochs trained."""
    parameters: int
    """Weights of the network, without the auxiliary head."""
    multiply_adds: int
    """Of one image, as `training.metrics.count_multiply_adds` counts them."""
    test: Evaluation
    """On the test part, with the weights in weights.safetensors."""
    trained: Trained = field(compare=False, repr=False)
    """The network with those weights, in evaluation mode, and the format of its images."""
    run: Path
    """Directory of the run."""
    others: "tuple[Result, ...]" = ()
    """The random genotypes that were trained for comparison."""


class Retraining:
    """The network of a genotype and its optimiser; a `training.loop.Trainer`.

    Raises ValueError for a configuration that does not fit the genotype or the images.
    """

    def __init__(self, config: RetrainConfig, genotype: Genotype, images: Images):
        self.config = config
        self.genotype = genotype
        self.device = choose_device(config.device, config.threads)
        self.meters = {"train": Meter(self.device)}
        self.graphed = GraphedStep(self._step, new_capture(config.graph, self.device, config.weights.name))
        self.format = images.format
        channels, height, width = self.format.shape
        check_size(height, width)
        weights = class_weights(images, config.data)
        self.class_weights = None if weights is None else weights.to(self.device)
        self.train_batches, self.valid_batches = self._batches(images)
        self.epochs, self.steps = config.epochs, len(self.train_batches)
        torch.manual_seed(derive_seed(config.seed, "weights"))
        self.network = DiscreteNetwork(
            genotype, config.channels, config.cells, images.classes, channels, config.auxiliary_weight > 0, config.stem
        )
        placed(self.network, self.device)
        if config.drop_path:
            # Filled anew in each epoch; where it is 0, as in the first, masks are drawn all the same: the step is one graph.
            self.network.drop_path = torch.zeros((), device=self.device)
        self.optimizer = new_optimizer(config.weights, self.network.parameters())
        self.history: list[dict[str, Any]] = []
        """What was read at the end of each epoch behind, for the curves of the report."""

    def _batches(self, images: Images) -> tuple[Batches, Batches | None]:
        """Batches of the images to train on and, where some are held out, of those to validate on."""
        config = self.config
        train, valid = images, None
        if config.validation_fraction:
            if not 0 < int((1 - config.validation_fraction) * len(images)) < len(images):
                raise ValueError(
                    f"validation_fraction: {config.validation_fraction} of {len(images)} images leaves a part empty"
                )
            train, valid = split_halves(images, 1 - config.validation_fraction, config.seed)
        # Batch norm cannot learn from the single image that might be left over.
        drop_last = len(train) % config.batch_size == 1
        augment = config.data.augmentation()
        train_batches = Batches(train, config.batch_size, self.device, config.seed, augment, True, drop_last, stream="train")
        return train_batches, None if valid is None else Batches(valid, min(config.batch_size, len(valid)), self.device)

    def run_epoch(self, epoch: int, watch: Watch) -> float | None:
        """Trains one epoch. Returns the accuracy on the held-out images where there are any."""
        config = self.config
        rate = cosine(epoch, config.epochs, config.weights.lr, config.weights.lr_min)
        set_lr(self.optimizer, rate)
        drop_path = config.drop_path * epoch / config.epochs
        if isinstance(self.network.drop_path, Tensor):
            self.network.drop_path.fill_(drop_path)
        self.network.train()
        for images, labels in watch.batches(self.train_batches.epoch(epoch)):
            self.graphed(images, labels)
            watch.images += len(labels)
        readings = watch.finish()
        valid = self._validate(watch)
        watch.monitor.scalars(watch.step, {"lr/weights": rate, "drop_path": drop_path})
        trained = {name: value for name, value in readings.items() if name.startswith("train/")}
        self.history.append({"epoch": epoch + 1, **trained, **(valid or {}), "lr": rate})
        held_out = "" if valid is None else f", valid loss {valid['valid/loss']:.4f} accuracy {valid['valid/accuracy']:.4f}"
        watch.monitor.log(
            f"epoch {epoch + 1}/{config.epochs}: train loss {readings['train/loss']:.4f} "
            f"accuracy {readings['train/accuracy']:.4f}{held_out}, {readings['speed/images_per_second']:.0f} images/s"
        )
        return None if valid is None else valid["valid/accuracy"]

    def _step(self, images: Tensor, labels: Tensor) -> None:
        loss, logits, auxiliary = self._loss(images, labels)
        self.meters["train"].update(loss, logits, labels)
        descend([loss + auxiliary], self.optimizer, self.config.weights.clip)

    def _loss(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor | float]:
        """The loss of the network, its logits, and the weighted loss of the auxiliary head."""
        weight = self.config.auxiliary_weight
        with autocast(self.config.precision, self.device):
            logits, auxiliary = self.network.forward_with_auxiliary(images) if weight else (self.network(images), None)
        loss = F.cross_entropy(logits.float(), labels, self.class_weights)
        if auxiliary is None:
            return loss, logits, 0.0
        return loss, logits, weight * F.cross_entropy(auxiliary.float(), labels, self.class_weights)

    @torch.no_grad()
    def _validate(self, watch: Watch) -> dict[str, float] | None:
        """Loss and accuracy on the held-out images, in evaluation mode; also points on the curves."""
        if self.valid_batches is None:
            return None
        self.network.eval()
        meter = Meter(self.device)
        for images, labels in self.valid_batches.epoch(0):
            with autocast(self.config.precision, self.device):
                logits = self.network(images)
            meter.update(F.cross_entropy(logits.float(), labels), logits, labels)
        reading = meter.read()
        check_finite(None if reading.first_bad_step is None else watch.step - 1, 0, "validation loss after the step")
        values = {"valid/loss": reading.loss, "valid/accuracy": reading.accuracy}
        watch.monitor.scalars(watch.step, values)
        return values

    def reason_to_stop(self) -> str | None:
        return None

    def close(self) -> None:
        """Lets go of the images and of the processes that read them."""
        for batches in (self.train_batches, self.valid_batches):
            if batches is not None:
                batches.close()

    def state_dict(self) -> dict[str, Any]:
        return {
            "genotype": self.genotype.to_text("json"),
            "network": dict(self.network.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["genotype"] != self.genotype.to_text("json"):
            raise ValueError(
                "genotype.json in the directory of the run is not the genotype that the checkpoint was trained with"
            )
        self.network.load_state_dict(state["network"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.history = list(state["history"])
        self.graphed.release()


def retrain(config: RetrainConfig, options: RunOptions, genotype: Genotype | None = None) -> Result:
    """Trains a genotype (None: the one that the configuration names) into the directory of the run, then evaluates it on the
    test part, once.

    Writes genotype.json, weights.safetensors, metrics.json, history.jsonl and report.html. Raises ValueError, before anything
    is written, for a configuration that cannot be run; see `training.loop.run_epochs` for what may happen later.
    """
    began = time.monotonic()
    RunDirectory.check(options.run, config, options.resume, options.overwrite)
    genotype = _genotype(genotype, config, options)
    others = _random_runs(config, options, genotype)
    notes: list[str] = []
    device = choose_device(config.device, config.threads)
    known = saved_format(options)
    images = load_images(config.data, "train", device, known, notes.append, surveyed=known is not None)
    test = _test_images(config, device, images.format, notes.append, known is not None)
    trainer = Retraining(config, genotype, images)
    with closing(trainer), opened(trainer, config, options, KIND) as (run, monitor, start):
        save_format(images, run.path)
        for note in notes:
            monitor.log(note)
        genotype.save(run.path / "genotype.json")
        if not start.epochs:
            _introduce(genotype, monitor)
        epochs = run_epochs(trainer, config, run, monitor, KIND, start)
        result = _conclude(trainer, test, run, monitor, epochs)
        process = Process(start.epochs, epochs, time.monotonic() - began)
        monitor.log(f"{KIND}: report in {retrain_page(trainer, result, process, run.config_hash).write(run.path)}")
    if others and epochs < trainer.epochs:
        print(f"{KIND}: stopped early, so no random genotypes are trained; --resume, with another stop, goes on")
        return result
    found = tuple(retrain(alone, theirs, other) for alone, theirs, other in others)
    if found:
        compared = [Compared(one.run.name, one.parameters, one.multiply_adds, one.test.accuracy) for one in found]
        path = retrain_page(trainer, result, process, run.config_hash, compared).write(run.path)
        print(f"{KIND}: compared with random genotypes in {path}")
    return replace(result, others=found)


def measure(config: RetrainConfig, options: RunOptions) -> dict[str, float]:
    """Retrains; returns what runs with other seeds are compared by."""
    result = retrain(config, options)
    test = {name: value for name, value in result.test.to_dict().items() if isinstance(value, float)}
    return test | {"parameters": result.parameters, "multiply_adds": result.multiply_adds}


def random_genotype(space: str, number: int) -> Genotype:
    """Random genotype number `number` of a space, every one of the space being as likely as another.

    Raises ValueError for an unknown space.
    """
    return get_space(space).random(new_generator(number, "random genotype"), number)


def _random_runs(
    config: RetrainConfig, options: RunOptions, genotype: Genotype
) -> list[tuple[RetrainConfig, RunOptions, Genotype]]:
    """What is trained for comparison, and where. Raises ValueError where a directory is in the way."""
    runs = []
    for number in range(config.random_genotypes):
        try:
            other = random_genotype(genotype.space, number)
        except ValueError as error:
            raise ValueError(f"random_genotypes: {error}; a space of your own is known once its file is imported") from error
        path = options.run / f"random_{number}"
        # Cut short they would be no match for the genotype that was not.
        alone = replace(config, random_genotypes=0, stop=StopConfig())
        theirs = replace(options, run=path, resume=options.resume and path.exists())
        RunDirectory.check(theirs.run, alone, theirs.resume, theirs.overwrite)
        runs.append((alone, theirs, other))
    return runs


def _test_images(
    config: RetrainConfig, device: torch.device, form: ImageFormat, log: Callable[[str], None], surveyed: bool
) -> Images:
    """The test part, before anything is trained: what is wrong with it is better known then.

    Raises ValueError where it cannot be read or its images have another size.
    """
    images = load_images(config.data, "test", device, form, log, surveyed)
    if images.format.shape != form.shape:
        (_, height, width), (_, trained_height, trained_width) = images.format.shape, form.shape
        raise ValueError(
            f"data.size: test images have {width}x{height} pixels and training images {trained_width}x{trained_height}; "
            "bring all to one size with --data.size"
        )
    return images


def _genotype(given: Genotype | None, config: RetrainConfig, options: RunOptions) -> Genotype:
    """The genotype of a call, or else of the configuration; on resume that which the run began with, as its file may have
    changed since."""
    saved = options.run / "genotype.json"
    if options.resume and saved.is_file():
        try:
            begun = Genotype.load(saved)
        except ValueError as error:
            again = f"delete it to read {config.genotype} again, or " if given is None else ""
            raise ValueError(f"{error}; {again}begin anew with --overwrite") from error
        if given is not None and given != begun:
            raise ValueError(f"genotype: the run was begun with another one, which {saved} has; begin anew with overwrite=True")
        return begun
    if given is not None:
        return given
    if not config.genotype:
        raise ValueError(f"genotype: give a file or one of {', '.join(list_genotypes())} with --genotype")
    try:
        return read_genotype(config.genotype)
    except ValueError as error:
        raise ValueError(f"genotype: {error}") from error


def _introduce(genotype: Genotype, monitor: Monitor) -> None:
    """What is trained, for TensorBoard."""
    monitor.text("genotype", genotype.to_text(genotype.text_form))
    for kind, cell in genotype.cells.items():
        monitor.figure(f"cell/{kind}", draw_cell(cell, genotype.skeleton.inputs, kind), 0)


def _conclude(trainer: Retraining, images: Images, run: RunDirectory, monitor: Monitor, epochs: int) -> Result:
    """Saves the weights, evaluates what was saved on the test images, and writes and shows the outcome."""
    config = trainer.config
    Trained(trainer.network, trainer.format).save(run.path)
    trained = Trained.load(run.path)
    network = trained.network
    parameters, multiply_adds = count_parameters(network), count_multiply_adds(network, trainer.format.shape)
    test = evaluate_network(network, images, config.batch_size, trainer.device, config.precision)
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
    write_history(run.path, trainer.history)
    write_atomically(run.path / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    monitor.scalars(epochs * trainer.steps, {"test/loss": test.loss, "test/accuracy": test.accuracy})
    monitor.log(
        f"{KIND}: {epochs} epochs, {parameters:,} parameters, {multiply_adds / 1e6:.2f} M multiply-adds"
        f"{', balanced class weights' if config.data.class_weights == 'balanced' else ''}; "
        f"on {test.images} test images: accuracy {test.accuracy:.4f}, top-5 {test.top5:.4f}, "
        f"macro recall {test.macro_recall:.4f}, macro F1 {test.macro_f1:.4f}, loss {test.loss:.4f}"
    )
    monitor.log(f"{KIND}: weights and metrics in {run.path}")
    return Result(trainer.genotype, epochs, parameters, multiply_adds, test, trained, run.path)
