"""A bilevel search from configuration to genotype: what every differentiable method runs."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from search.bilevel import VirtualStep, Weights, first_order, second_order
from search.config import SearchConfig
from search.monitors import entropy, largest_entropy, skip_connections
from search.relaxations import Relaxation
from supernet import Genotype, Supernet, get_space
from supernet.draw import draw_alphas, draw_cell
from supernet.skeleton import check_images
from training.checkpoint import RunDirectory
from training.config import RunOptions, config_to_yaml
from training.data import Batches, ImageSet, load_images, split_halves
from training.graph import GraphedStep, new_capture
from training.loop import Progress, Watch, choose_device, restore, run_epochs
from training.metrics import Meter
from training.monitor import Monitor, check_finite
from training.optim import cosine, descend, load_optimizer, new_optimizer, requiring_no_grad, set_lr
from training.precision import Precision, autocast
from training.seeds import derive_seed, new_generator

EVALUATED_PIXELS = 512 * 32 * 32
"""So many pixels are evaluated together where that changes nothing."""


class BilevelSearch:
    """Supernet, architecture parameters and their two optimisers; a `training.loop.Trainer`.

    Each step first moves the alphas by a validation batch, then the weights by a training batch (DARTS, algorithm 1).
    """

    def __init__(self, config: SearchConfig, relaxation: Relaxation, images: ImageSet, run: RunDirectory):
        self.config = config
        self.relaxation = relaxation
        self.run = run
        self.device = choose_device(config.device, config.threads)
        self.meters = {level: Meter(self.device) for level in ("train", "valid")}
        self.graphed = GraphedStep(self._step, new_capture(config.graph, self.device, config.weights.name))
        self.space = get_space(config.space)
        check_images(images.images[:1], images.images.shape[1])
        self.train_batches, self.valid_batches, self.evaluation_batches = self._batches(images)
        self.steps = min(len(self.train_batches), len(self.valid_batches))
        # A kernel has no second derivative, which a double backward needs.
        exact = config.order == "second" and config.hessian_vector == "exact"
        torch.manual_seed(derive_seed(config.seed, "weights"))
        self.network = Supernet(
            self.space,
            config.channels,
            config.cells,
            images.classes,
            images.images.shape[1],
            partial=config.partial,
            tie_cells=config.tie_cells,
            batch_statistics=config.batch_statistics,
            kernels="reference" if exact else config.kernels,
        ).to(self.device)
        self.alphas = self.space.new_alphas(
            None if config.tie_cells else self.network.cells_of_kind,
            config.alphas.scale,
            new_generator(config.seed, "alphas"),
            self.device,
        )
        self.weight_optimizer = new_optimizer(config.weights, self.network.parameters())
        betas = (config.alphas.beta1, config.alphas.beta2)
        self.alpha_optimizer = torch.optim.Adam(
            self.alphas.values(),
            config.alphas.lr,
            betas,
            weight_decay=config.alphas.weight_decay,
            fused=True,
            capturable=self.device.type == "cuda",
        )

    def _batches(self, images: ImageSet) -> tuple[Batches, Batches, Batches]:
        config = self.config
        train, valid = split_halves(images, config.train_fraction, config.seed)
        augment = config.data.augmentation()

        def batches(part: ImageSet, stream: str) -> Batches:
            return Batches(part, config.batch_size, self.device, config.seed, augment, True, True, stream=stream)

        together = config.batch_size
        if not (get_space(config.space).batch_statistics if config.batch_statistics is None else config.batch_statistics):
            # An image's result depends on no other image, so that as many are evaluated together as fill a GPU.
            together = max(together, EVALUATED_PIXELS // images.images[0, 0].numel())
        return batches(train, "train"), batches(valid, "valid"), Batches(valid, min(together, len(valid)), self.device)

    def mixture(self) -> dict[str, Tensor]:
        """The mixture of the present alphas, without a graph."""
        with torch.no_grad():
            return self.relaxation(self.alphas)

    def genotype(self) -> Genotype:
        """What the space's rule derives from the present alphas."""
        return self.space.derive(self.mixture(), self.config.seed, self.run.config_hash)

    def run_epoch(self, epoch: int, watch: Watch) -> float | None:
        """One epoch of both levels. Returns the supernet's validation accuracy where it is due, otherwise None."""
        config = self.config
        rate = cosine(epoch, config.epochs, config.weights.lr, config.weights.lr_min)
        set_lr(self.weight_optimizer, rate)
        self.network.train()
        for train, valid in watch.batches(self._pairs(epoch)):
            self.graphed(*train, *valid)
            watch.images += len(train[1]) + len(valid[1])
        readings = watch.finish()
        accuracy = None
        if (epoch + 1) % config.validate_every == 0 or epoch + 1 == config.epochs:
            accuracy = self._evaluate(watch)
        self._report(epoch, watch, rate, readings, accuracy)
        return accuracy

    def _pairs(self, epoch: int) -> Iterator[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]]:
        return zip(self.train_batches.epoch(epoch), self.valid_batches.epoch(epoch), strict=False)

    def _step(self, images: Tensor, labels: Tensor, valid_images: Tensor, valid_labels: Tensor) -> None:
        """One step of both levels on a training batch and a validation batch."""
        self._alpha_step((images, labels), (valid_images, valid_labels))
        self._weight_step((images, labels))

    def _alpha_step(self, train: tuple[Tensor, Tensor], valid: tuple[Tensor, Tensor]) -> None:
        alphas = list(self.alphas.values())
        if self.config.order == "first":
            with requiring_no_grad(self.network.parameters()):
                logits = self._logits(valid[0], self.relaxation(self.alphas))
                loss = F.cross_entropy(logits, valid[1])
                self.meters["valid"].update(loss, logits, valid[1])
                gradients = first_order(loss, alphas)
        else:
            gradients = self._second_order(train, valid)
        for alpha, gradient in zip(alphas, gradients, strict=True):
            alpha.grad = gradient
        self.alpha_optimizer.step()

    def _second_order(self, train: tuple[Tensor, Tensor], valid: tuple[Tensor, Tensor]) -> list[Tensor]:
        """The gradient through a virtual step; it leaves running statistics and weights as they are."""
        config = self.config

        def forward(weights: Weights, images: Tensor, precision: Precision) -> Tensor:
            buffers = dict(self.network.named_buffers())
            copies = [torch.empty_like(buffer) for buffer in buffers.values()]
            if copies:
                torch._foreach_copy_(copies, list(buffers.values()))
            statistics = dict(zip(buffers, copies, strict=True))
            mixture = self.relaxation(self.alphas)
            with autocast(precision, self.device):
                logits: Tensor = functional_call(self.network, (weights, statistics), (images, mixture))
            return logits.float()

        def train_loss(weights: Weights, precision: Precision = config.precision) -> Tensor:
            return F.cross_entropy(forward(weights, train[0], precision), train[1])

        def valid_loss(weights: Weights) -> Tensor:
            logits = forward(weights, valid[0], config.precision)
            loss = F.cross_entropy(logits, valid[1])
            self.meters["valid"].update(loss, logits, valid[1])
            return loss

        weights: Weights = dict(self.network.named_parameters())
        # In TF32, which cuDNN may take for float32, w + h v is no other weight than w.
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            return second_order(
                train_loss,
                valid_loss,
                weights,
                list(self.alphas.values()),
                VirtualStep.of(self.weight_optimizer, weights),
                config.hessian_vector,
                config.hessian_epsilon,
                precise_train_loss=partial(train_loss, precision="float32"),
            )

    def _logits(self, images: Tensor, mixture: dict[str, Tensor]) -> Tensor:
        """Logits [B, classes] in float32, computed in the configured precision."""
        with autocast(self.config.precision, self.device):
            logits: Tensor = self.network(images, mixture)
        return logits.float()

    def _weight_step(self, train: tuple[Tensor, Tensor]) -> None:
        logits = self._logits(train[0], self.mixture())
        loss = F.cross_entropy(logits, train[1])
        self.meters["train"].update(loss, logits, train[1])
        descend(loss, self.weight_optimizer, self.config.weights.clip)

    @torch.no_grad()
    def _evaluate(self, watch: Watch) -> float:
        """Accuracy of the supernet on the validation half, in evaluation mode."""
        self.network.eval()
        meter = Meter(self.device)
        mixture = self.mixture()
        for images, labels in self.evaluation_batches.epoch(0):
            logits = self._logits(images, mixture)
            meter.update(F.cross_entropy(logits, labels), logits, labels)
        reading = meter.read()
        check_finite(None if reading.first_bad_step is None else watch.step - 1, 0, "evaluation loss after the step")
        watch.monitor.scalars(watch.step, {"evaluation/loss": reading.loss, "evaluation/accuracy": reading.accuracy})
        return reading.accuracy

    def _report(self, epoch: int, watch: Watch, rate: float, readings: dict[str, float], accuracy: float | None) -> None:
        """Curves, pictures, genotype.json and a line of the log for the epoch that ends."""
        mixture, genotype = self.mixture(), self.genotype()
        entropies, skips = entropy(mixture), skip_connections(genotype)
        monitor, step = watch.monitor, watch.step
        monitor.scalars(step, {"lr/weights": rate, "lr/alphas": self.config.alphas.lr})
        if (offset := self.network.largest_offset()) is not None:
            monitor.scalars(step, {"maps/largest_offset": offset})
        monitor.scalars(step, {f"alphas/entropy_{kind}": value for kind, value in entropies.items()})
        monitor.scalars(step, {f"genotype/skips_{kind}": value for kind, value in skips.items()})
        monitor.text("genotype", genotype.to_text(genotype.text_form), step)
        for kind, table in mixture.items():
            mean = table if table.ndim == 2 else table.mean(0)
            monitor.figure(f"alphas/{kind}", draw_alphas(mean.cpu(), self.space.edges, self.space.candidates, kind), step)
            monitor.figure(f"cell/{kind}", draw_cell(genotype.cells[kind], self.space.inputs, kind), step)
        genotype.save(self.run.path / "genotype.json")
        evaluated = "" if accuracy is None else f", supernet accuracy {accuracy:.4f}"
        monitor.log(
            f"epoch {epoch + 1}/{self.config.epochs}: "
            f"train loss {readings['train/loss']:.4f} accuracy {readings['train/accuracy']:.4f}, "
            f"valid loss {readings['valid/loss']:.4f} accuracy {readings['valid/accuracy']:.4f}{evaluated}, "
            f"entropy {_listed(entropies, '.4f')} of {largest_entropy(mixture):.4f}, skips {_listed(skips, 'd')}, "
            f"{readings['speed/images_per_second']:.0f} images/s"
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": dict(self.network.state_dict()),
            "alphas": {kind: alpha.detach() for kind, alpha in self.alphas.items()},
            "weight_optimizer": self.weight_optimizer.state_dict(),
            "alpha_optimizer": self.alpha_optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        with torch.no_grad():
            for kind, alpha in self.alphas.items():
                alpha.copy_(state["alphas"][kind])
        load_optimizer(self.weight_optimizer, state["weight_optimizer"])
        load_optimizer(self.alpha_optimizer, state["alpha_optimizer"])
        self.graphed.release()


def search(config: SearchConfig, options: RunOptions, relaxation: Relaxation, method: str) -> Genotype:
    """Runs a whole search into the directory of the run and returns the genotype, also saved there as genotype.json.

    Raises ValueError, before anything is written, for a configuration that cannot be run; see `training.loop.run_epochs` for
    what may happen later.
    """
    RunDirectory.check(options.run, config, options.resume, options.overwrite)
    images = load_images(config.data, "train")
    directory = RunDirectory(options.run, config)
    trainer = BilevelSearch(config, relaxation, images, directory)
    start = restore(trainer, directory.checkpoints(method)) if options.resume else Progress()
    run = RunDirectory.open(options.run, config, options.resume, options.overwrite)
    with Monitor(run.path, first_step=start.epochs * trainer.steps + 1 if start.epochs else 0) as monitor:
        if not start.epochs:
            monitor.text("config", config_to_yaml(config))
        done = run_epochs(trainer, config, run, monitor, method, start)
        genotype = trainer.genotype()
        genotype.save(run.path / "genotype.json")
        monitor.log(f"{method}: {done} epochs; genotype in {run.path / 'genotype.json'}:")
        monitor.log(genotype.to_text(genotype.text_form))
    return genotype


def _listed(values: dict[str, Any], form: str) -> str:
    return ", ".join(f"{kind} {value:{form}}" for kind, value in values.items())
