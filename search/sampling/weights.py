"""The shared weights of a sampling search: trained along paths, or taken from another run."""

import hashlib
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import nn

from base.checks import FieldError, InputError
from search.config import SupernetSearchConfig
from search.finished import SearchRun
from search.sampling.config import SamplingConfig
from search.sampling.encoding import Encoding
from search.sampling.paths import GuideScores, PathNetwork, PathSteps, SupernetScores
from search.sampling.samplers.sampler import Sampler
from search.supernet_build import build_supernet, has_independent_examples
from supernet import Supernet
from training.hardware import Hardware
from training.loop import Watch
from training.optim import cosine, load_optimizer, optimizer_structure, set_lr
from training.run.schema import fields_in_order
from training.run.structure import Part, fields, like
from training.tasks.task import Task

_OF_ITS_OWN = (
    *("epochs", "extended", "weights", "tabular", "kernels", "precision", "recompute"),
    *("log_every", "histograms_every", "stop", "device", "threads", "score"),
)
SHARED = tuple(name for name in map(attrgetter("name"), fields_in_order(SupernetSearchConfig)) if name not in _OF_ITS_OWN)
"""Settings in which a search and the run that its weights come from are equal: the network, and the images that it has not
seen. How the weights were trained, and on what, may differ."""


class Weights:
    """The supernet of a search, how it is trained, and the scores that it gives."""

    def __init__(self, config: SamplingConfig, encoding: Encoding, sampler: Sampler, task: Task, hardware: Hardware) -> None:
        self.config = config
        self.sampler = sampler
        self.task = task
        self.notes: list[str] = []
        """Lines for the log on where the weights come from."""
        shape = task.train.format.shape
        encoding.space.skeleton.check(shape)
        self.network = new_supernet(config, encoding, task.outputs, shape[0]).to(hardware.device)
        self.paths = PathNetwork(self.network, encoding, task, hardware)
        self.steps = PathSteps(self.paths, sampler, config.weights, config.paths, config.seed)
        train, valid = task.train.split(config.train_fraction, config.seed)
        self.train = train.shuffled(config.batch_size, config.seed, "train")
        self.valid = valid.shuffled(min(config.batch_size, len(valid)), config.seed, "valid", augment=False)
        self.scores = SupernetScores(
            self.paths,
            self.train,
            valid,
            config.batch_size,
            config.evaluated_images,
            config.recalibrate,
            has_independent_examples(config),
        )

    def run_epoch(self, epoch: int, watch: Watch) -> float:
        """Trains one epoch, then lets the sampler learn; returns the learning rate."""
        rate = cosine(*self.config.phases.place(epoch), self.config.weights.lr, self.config.weights.lr_min)
        set_lr(self.steps.optimizer, rate)
        self.steps.begin_epoch(epoch)
        self.network.train()
        for batch in watch.batches(self.train.epoch(epoch)):
            self.steps(batch)
            watch.images += batch.size
        self._guide(epoch)
        return rate

    def _guide(self, epoch: int) -> None:
        score = GuideScores(self.paths, self.valid, epoch)
        left = self.config.guide
        while left > 0 and (asked := self.sampler.ask()[:left]):
            self.sampler.tell([(genome, score(genome)) for genome in asked])
            left -= len(asked)

    @property
    def fingerprint(self) -> str:
        """A short text that differs where a weight or a statistic does."""
        of_all = hashlib.blake2b(digest_size=8)
        for name, tensor in self.network.state_dict().items():
            of_all.update(name.encode())
            of_all.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return of_all.hexdigest()

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Returns the weights by name."""
        return self.network.named_parameters()

    def state_dict(self) -> dict[str, Any]:
        return {"network": dict(self.network.state_dict()), "weight_optimizer": self.steps.optimizer.state_dict()}

    def structure(self, epochs: int) -> Part:
        """Returns the structure that `state_dict` has after so many epochs of training."""
        return fields(
            {
                "network": like(dict(self.network.state_dict())),
                "weight_optimizer": optimizer_structure(
                    self.steps.optimizer, list(self.network.parameters()), "some" if epochs else "none"
                ),
            }
        )

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        load_optimizer(self.steps.optimizer, state["weight_optimizer"])

    def take_from(self, directory: FilePath) -> None:
        """Takes the trained weights of the run in `directory`.

        `notes` says if its images were others. Raises ValueError where there is no such run, it is of other settings, its
        weights are not fully trained, or they were trained on images that architectures are compared on here.
        """
        try:
            run = SearchRun.open(directory)
            others = [name for name in SHARED if getattr(run.config, name, None) != getattr(self.config, name)]
            done, trained = run.epochs, isinstance(run.config, SamplingConfig) and max(1, run.config.trained_epochs)
        except InputError as error:
            raise FieldError("weights_from", str(error)) from error
        if others:
            raise FieldError(
                "weights_from", f"{directory} was begun with other settings: {', '.join(others)}; set the same here"
            )
        try:
            change = self.task.check_unseen(directory, self.config.train_fraction, self.config.seed)
        except InputError as error:
            raise FieldError("weights_from", *error.parts) from error
        if done < trained:
            raise FieldError("weights_from", f"{directory} has {done} of {trained} epochs behind; finish it with --resume")
        network = fields({"network": like(dict(self.network.state_dict()))}, may_have_more=True)
        try:
            fields({"weights": network}, may_have_more=True)("", run.state)
        except InputError as error:
            none = f"{directory} holds no weights of such a supernet ({error}); name a search that trained one"
            raise FieldError("weights_from", none) from error
        self.network.load_state_dict(run.state["weights"]["network"])
        if change:
            self.notes.append(f"the training images have changed since {directory} trained the weights: {change}")


def new_supernet(config: SamplingConfig, encoding: Encoding, classes: int, image_channels: int) -> Supernet:
    """Makes the supernet of a search, with new weights, of the operations that its architectures can have."""
    return build_supernet(config, classes, image_channels, _candidates(encoding))


def _candidates(encoding: Encoding) -> dict[str, torch.Tensor]:
    """The operations that architectures can have, {kind: bool [edges, candidates]}."""
    space = encoding.space
    allowed = torch.tensor([column in encoding.operations for column in range(len(space.candidates))])
    return {kind: allowed.expand(len(space.edges), -1) for kind in space.kinds}
