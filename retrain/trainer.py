"""Retraining from configuration to weights and metrics."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from base.checks import FieldError, InputError
from base.seeds import derive_seed
from retrain.config import RetrainConfig
from retrain.history import RetrainEpoch
from supernet.discrete import DiscreteNetwork
from supernet.genotypes.genotype import Genotype
from training.graph import GraphedStep, new_capture
from training.hardware import Hardware, move_to
from training.loop import Watch
from training.metrics import Batch, Reading, in_words
from training.optim import cosine, descend, load_optimizer, new_optimizer, optimizer_structure, set_lr
from training.run.monitor import check_finite
from training.run.profile import span
from training.run.structure import Part, fields, history, like, numeric
from training.tasks.task import Batches, Task


class Retraining:
    """The network of a genotype and its optimiser; a `training.loop.Trainer`.

    Raises ValueError for a configuration that does not fit the genotype or the data.
    """

    def __init__(self, config: RetrainConfig, genotype: Genotype, task: Task, hardware: Hardware) -> None:
        self.config = config
        self.genotype = genotype
        self.task = task
        self.scored_by = task.scored_by
        self.hardware = hardware
        self.device = hardware.device
        self.meters = {"train": task.new_meter(self.device)}
        self.graphed = GraphedStep(self._step, new_capture(hardware.graph, self.device, config.weights.name))
        self.format = task.train.format
        genotype.skeleton.check(self.format.shape)
        self.train_batches, self.valid_batches = self._batches()
        self.epochs = self.trained_epochs = config.epochs
        self.steps = len(self.train_batches)
        torch.manual_seed(derive_seed(config.seed, "weights"))
        self.network = DiscreteNetwork(
            genotype,
            config.channels,
            config.cells,
            task.outputs,
            self.format.shape[0],
            config.auxiliary_weight > 0,
            config.stem,
            config.recompute,
            config.kernels,
        )
        move_to(self.network, self.device)
        if config.drop_path:
            # Filled anew in each epoch; where it is 0, as in the first, masks are drawn all the
            # same: the step is one graph.
            self.network.drop_path = torch.zeros((), device=self.device)
        self.optimizer = new_optimizer(config.weights, self.network.parameters())
        self.history: list[RetrainEpoch] = []
        """Readings at the end of each epoch that is done, for the curves of the report."""

    def _batches(self) -> tuple[Batches, Batches | None]:
        """Returns batches of the examples to train on and, where some are held out, of those to
        validate on."""
        config, train, valid = self.config, self.task.train, None
        if config.validation_fraction:
            if not 0 < int((1 - config.validation_fraction) * len(train)) < len(train):
                raise FieldError(
                    "validation_fraction", f"{config.validation_fraction} of {len(train)} images leaves a part empty"
                )
            train, valid = train.split(1 - config.validation_fraction, config.seed)
        # Batch norm cannot learn from the single example that might be left over.
        train_batches = train.shuffled(config.batch_size, config.seed, "train", rest="drop_single")
        return train_batches, None if valid is None else valid.in_order(config.batch_size)

    def run_epoch(self, epoch: int, watch: Watch) -> float | None:
        """Trains one epoch. Returns the score on the held-out examples, in its own sign, where there
        are any."""
        config = self.config
        behind, length = config.phases.place(epoch)
        rate = cosine(behind, length, config.weights.lr, config.weights.lr_min)
        set_lr(self.optimizer, rate)
        drop_path = config.drop_path * behind / length
        if isinstance(self.network.drop_path, Tensor):
            self.network.drop_path.fill_(drop_path)
        self.network.train()
        for batch in watch.batches(self.train_batches.epoch(epoch)):
            self.graphed(batch)
            watch.images += batch.size
        readings = watch.finish()
        reading = self._validate(watch)
        valid = {} if reading is None else reading.named("valid")
        watch.monitor.scalars(watch.step, {"lr/weights": rate, "drop_path": drop_path})
        trained = {name: value for name, value in readings.items() if name.startswith("train/")}
        self.history.append(RetrainEpoch(epoch=epoch + 1, readings={**trained, **valid}, lr=rate))
        said = in_words({**trained, **valid})
        watch.monitor.log(f"epoch {epoch + 1}/{config.epochs}: {said}, {readings['speed/images_per_second']:.0f} images/s")
        return None if reading is None else self.task.value(reading)

    def _step(self, batch: Batch) -> None:
        loss, outputs, auxiliary = self._loss(batch)
        self.meters["train"].update(loss, outputs, batch)
        descend([loss + auxiliary], self.optimizer, self.config.weights.clip)

    def _loss(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | float]:
        """Returns the loss of the network, its outputs, and the weighted loss of the auxiliary
        head."""
        weight, task = self.config.auxiliary_weight, self.task
        auxiliary: list[Tensor] = []

        def network(inputs: Tensor) -> Tensor:
            with span("forward"), self.hardware.autocast():
                outputs, *others = self.network.forward_with_auxiliary(inputs) if weight else (self.network(inputs),)
            auxiliary.extend(others)
            return outputs

        outputs = task.forward(network, batch)
        loss = task.loss(outputs, batch)
        return loss, outputs, weight * task.loss(auxiliary[0].float(), batch) if auxiliary else 0.0

    @torch.no_grad()
    def _validate(self, watch: Watch) -> Reading | None:
        """Reads loss and values on the held-out examples, in evaluation mode; they also become
        points on the curves."""
        if self.valid_batches is None:
            return None
        self.network.eval()
        reading = self.task.read(self.hardware.running(self.network), self.valid_batches.epoch(0), self.device)
        check_finite(None if reading.first_bad_step is None else watch.step - 1, 0, "validation loss after the step")
        watch.monitor.scalars(watch.step, reading.named("valid"))
        return reading

    def reason_to_stop(self) -> str | None:
        return None

    def close(self) -> None:
        """Lets go of the images and of the processes that read them."""
        for batches in (self.train_batches, self.valid_batches):
            if batches is not None:
                batches.close()

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return self.network.named_parameters()

    def state_dict(self) -> dict[str, Any]:
        return {
            "genotype": self.genotype.to_text("json"),
            "network": dict(self.network.state_dict()),
            "optimizer": self.optimizer.state_dict(),
            "history": [entry.to_plain() for entry in self.history],
        }

    def structure(self, epochs: int) -> Part:
        readings = [f"{level}/{name}" for level in self._levels for name in ("loss", *self.meters["train"].names)]
        entry = fields(dict.fromkeys(readings, numeric), may_have_more=True)
        return fields(
            {
                "genotype": self._same_genotype,
                "network": like(dict(self.network.state_dict())),
                "optimizer": optimizer_structure(self.optimizer, list(self.network.parameters()), "some"),
                "history": history([RetrainEpoch] * epochs, {RetrainEpoch: entry}),
            }
        )

    @property
    def _levels(self) -> list[str]:
        return ["train"] if self.valid_batches is None else ["train", "valid"]

    def _same_genotype(self, name: str, value: Any) -> None:
        if value != self.genotype.to_text("json"):
            raise InputError(
                f"{name}: genotype.json in the directory of the run is not the genotype that the checkpoint was trained with"
            )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        load_optimizer(self.optimizer, state["optimizer"])
        self.history = [RetrainEpoch.from_plain(entry) for entry in state["history"]]
        self.graphed.release()
