"""Retraining from configuration to weights and metrics."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from base.checks import FieldError, InputError
from base.seeds import derive_seed
from retrain.config import RetrainConfig
from retrain.history import RetrainEpoch
from supernet.discrete import DiscreteNetwork
from supernet.genotypes.genotype import Genotype
from training.graph import GraphedStep, new_capture
from training.hardware import autocast, choose_device, move_to
from training.images.batches import Batches
from training.images.data import class_weights, split_halves
from training.images.format import Images
from training.loop import Watch
from training.metrics import Meter
from training.optim import cosine, descend, load_optimizer, new_optimizer, set_lr
from training.run.monitor import check_finite


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
        genotype.skeleton.check(self.format.shape)
        weights = class_weights(images, config.data)
        self.class_weights = None if weights is None else weights.to(self.device)
        self.train_batches, self.valid_batches = self._batches(images)
        self.epochs, self.steps = config.epochs, len(self.train_batches)
        torch.manual_seed(derive_seed(config.seed, "weights"))
        self.network = DiscreteNetwork(
            genotype,
            config.channels,
            config.cells,
            images.classes,
            self.format.shape[0],
            config.auxiliary_weight > 0,
            config.stem,
        )
        move_to(self.network, self.device)
        if config.drop_path:
            # Filled anew in each epoch; where it is 0, as in the first, masks are drawn all the same: the step is one graph.
            self.network.drop_path = torch.zeros((), device=self.device)
        self.optimizer = new_optimizer(config.weights, self.network.parameters())
        self.history: list[RetrainEpoch] = []
        """What was read at the end of each epoch behind, for the curves of the report."""

    def _batches(self, images: Images) -> tuple[Batches, Batches | None]:
        """Batches of the images to train on and, where some are held out, of those to validate on."""
        config = self.config
        train, valid = images, None
        if config.validation_fraction:
            if not 0 < int((1 - config.validation_fraction) * len(images)) < len(images):
                raise FieldError(
                    "validation_fraction", f"{config.validation_fraction} of {len(images)} images leaves a part empty"
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
        self.history.append(RetrainEpoch(epoch=epoch + 1, readings={**trained, **(valid or {})}, lr=rate))
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
            "history": [entry.to_plain() for entry in self.history],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state["genotype"] != self.genotype.to_text("json"):
            raise InputError(
                "genotype.json in the directory of the run is not the genotype that the checkpoint was trained with"
            )
        self.network.load_state_dict(state["network"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.history = [RetrainEpoch.from_plain(entry) for entry in state["history"]]
        self.graphed.release()
