"""The steps of a search over one supernet: how alphas and weights move, and what can be measured of them."""

from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.func import functional_call

from search.differentiable.architecture import Architecture
from search.differentiable.bilevel import VirtualStep, Weights, first_order, second_order
from search.differentiable.config import AlphaConfig, HessianVector, Order
from search.differentiable.relaxations import Mixture
from supernet import Path, Supernet
from training.hardware import Hardware, Precision
from training.metrics import Batch, Reading
from training.optim import OptimizerConfig, descend, freezing_slices, frozen, new_optimizer, parameters_of, statistics_kept
from training.run import profile
from training.run.profile import span
from training.tasks.task import Batches, Network, Task


class Steps:
    """One call moves the alphas by a validation batch and then the weights by a training batch (DARTS, algorithm 1).

    The architecture gradient is taken with respect to the mixture; the relaxation that drew it carries it on to the alphas, so
    that all passes of a step see the same draw. Where the configuration says `bilevel: false`, one pass on the training batch
    moves both (SNAS, Xie et al. 2019).
    """

    def __init__(
        self,
        network: Supernet,
        architecture: Architecture,
        task: Task,
        hardware: Hardware,
        weights: OptimizerConfig,
        alphas: AlphaConfig,
        order: Order = "first",
        hessian_vector: HessianVector = "finite",
        hessian_epsilon: float = 0.01,
    ) -> None:
        """`order` and the two fields after it are as `SearchConfig` has them."""
        self.weights = weights
        self.alphas = alphas
        self.order = order
        self.hessian_vector = hessian_vector
        self.hessian_epsilon = hessian_epsilon
        self.network = network
        self.architecture = architecture
        self.task = task
        self.hardware = hardware
        self.moves_alphas = True
        """False while only the weights are trained by their gradient."""
        self.meters = {level: task.new_meter(hardware.device) for level in ("train", "valid")}
        self.weight_optimizer = new_optimizer(weights, network.parameters())
        self.alpha_optimizer = torch.optim.Adam(
            architecture.parameters(),
            alphas.lr,
            (alphas.beta1, alphas.beta2),
            weight_decay=alphas.weight_decay,
            fused=True,
            capturable=hardware.device.type == "cuda",
        )

    def __call__(self, train: Batch, valid: Batch | None = None) -> None:
        """One step on a training batch and, where the levels are two, a validation batch."""
        if valid is not None:
            if self.moves_alphas:
                with span("architecture step"):
                    self.alpha_step(train, valid)
            self.weight_step(train)
        elif self.moves_alphas:
            self.joint_step(train)
        else:
            self.weight_step(train)

    def alpha_step(self, train: Batch, valid: Batch) -> None:
        """Moves the alphas down the validation loss, by the configured order."""
        mixture, path = self.architecture.draw()
        leaves = _leaves(mixture)
        if self.order == "first":
            with frozen(parameters_of(self.weight_optimizer)):
                gradients = first_order(self._loss("valid", valid, leaves, path), list(leaves.values()))
        else:
            gradients = self._second_order(train, valid, leaves, path)
        self._move_alphas(mixture, gradients)

    def weight_step(self, train: Batch) -> None:
        """Moves the weights down the training loss."""
        with torch.no_grad():
            mixture, path = self.architecture.draw()
        self._move_weights(self._loss("train", train, mixture, path), path)

    def joint_step(self, train: Batch) -> None:
        """Moves both down the training loss, by one pass."""
        mixture, path = self.architecture.draw()
        leaves = _leaves(mixture)
        self._move_weights(self._loss("train", train, leaves, path), path)
        self._move_alphas(mixture, [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves.values()])

    def _move_alphas(self, mixture: Mixture, gradients: Sequence[Tensor]) -> None:
        """One step of their optimiser along gradients with respect to the mixture, and the regulariser's."""
        with span("optimiser of alphas"):
            self.alpha_optimizer.zero_grad(set_to_none=True)
            penalty = self.architecture.penalty()
            if penalty is None:
                torch.autograd.backward(list(mixture.values()), list(gradients))
            else:
                torch.autograd.backward([*mixture.values(), penalty], [*gradients, torch.ones_like(penalty)])
            self.alpha_optimizer.step()

    def _move_weights(self, loss: Tensor, path: Path | None) -> None:
        if path is None:
            descend([loss], self.weight_optimizer, self.weights.clip)
            return
        with freezing_slices(self.weight_optimizer, self.network.idle(path)):
            descend([loss], self.weight_optimizer, self.weights.clip)

    def _second_order(self, train: Batch, valid: Batch, mixture: Mixture, path: Path | None) -> list[Tensor]:
        """The gradient through a virtual step; it leaves running statistics and weights as they are."""

        def train_loss(weights: Weights, precision: Precision | None = None) -> Tensor:
            return self.task.loss(self.outputs(train, mixture, path, precision, weights), train)

        def valid_loss(weights: Weights) -> Tensor:
            outputs = self.outputs(valid, mixture, path, weights=weights)
            loss = self.task.loss(outputs, valid)
            self.meters["valid"].update(loss, outputs, valid)
            return loss

        weights: Weights = dict(self.network.named_parameters())
        # In TF32, which cuDNN may take for float32, w + h v is no other weight than w.
        with statistics_kept(self.network), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            return second_order(
                train_loss,
                valid_loss,
                weights,
                list(mixture.values()),
                VirtualStep.of(self.weight_optimizer, weights),
                self.hessian_vector,
                self.hessian_epsilon,
                precise_train_loss=partial(train_loss, precision="float32"),
            )

    def outputs(
        self,
        batch: Batch,
        mixture: Mixture,
        path: Path | None = None,
        precision: Precision | None = None,
        weights: Weights | None = None,
        bypass: Mixture | None = None,
    ) -> Tensor:
        """Outputs [B, ...] in float32, computed in `precision` (None: the configured one), with other `weights` if given; for
        `bypass` see `Supernet.forward`."""
        return self.task.forward(self._under(mixture, path, bypass, precision, weights), batch)

    def _under(
        self,
        mixture: Mixture,
        path: Path | None = None,
        bypass: Mixture | None = None,
        precision: Precision | None = None,
        weights: Weights | None = None,
    ) -> Network:
        """The supernet as a function of its inputs alone."""

        def network(inputs: Tensor) -> Tensor:
            arguments = (inputs, mixture, path, bypass)
            outputs: Tensor
            with span("forward"), self.hardware.autocast(precision):
                outputs = self.network(*arguments) if weights is None else functional_call(self.network, weights, arguments)
            return outputs

        return network

    def _loss(self, level: str, batch: Batch, mixture: Mixture, path: Path | None) -> Tensor:
        outputs = self.outputs(batch, mixture, path)
        loss = self.task.loss(outputs, batch)
        self.meters[level].update(loss, outputs, batch)
        return loss

    @torch.no_grad()
    def evaluate(
        self,
        batches: Iterable[Batch],
        mixture: Mixture,
        path: Path | None = None,
        training: bool = False,
        bypass: Mixture | None = None,
    ) -> Reading:
        """Loss and values of the supernet over `batches`, in evaluation mode; for `bypass` see `Supernet.forward`.

        With `training` batch norm takes each batch's statistics instead of the running ones, which fit no other mixture than
        that of the training.
        """
        self.network.train(training)
        with statistics_kept(self.network):
            return self.task.read(self._under(mixture, path, bypass), batches, self.hardware.device)

    def score(self, batches: Iterable[Batch], mixture: Mixture) -> float:
        """Score over `batches` under a mixture from which something was taken away, by the weight 0, with each batch's
        statistics; channels that pass the operations by are scaled as `Architecture.bypass` says.
        """
        bypass = self.architecture.bypass(mixture)
        return self.task.score(self.evaluate(batches, mixture, training=True, bypass=bypass))

    def alpha_gradient(self, batches: Batches, alphas: Sequence[Tensor]) -> list[Tensor]:
        """Gradient of the mean loss of `batches` at other alphas: nothing random, each batch's own statistics, float32."""
        self.network.train()
        points = [alpha.detach().clone().requires_grad_() for alpha in alphas]
        total = [torch.zeros_like(point) for point in points]
        with (
            statistics_kept(self.network),
            frozen(parameters_of(self.weight_optimizer)),
            torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False),
        ):
            for batch in profile.batches(batches.epoch(0), "evaluation"):
                mixture = self.architecture.mean(dict(zip(self.architecture.alphas, points, strict=True)))
                loss = self.task.loss(self.outputs(batch, mixture, precision="float32"), batch)
                torch._foreach_add_(total, first_order(loss, points), alpha=1 / len(batches))
        return total


def _leaves(mixture: Mixture) -> Mixture:
    """The same values as the end of a graph, where its gradient is taken."""
    return {kind: table.detach().requires_grad_() for kind, table in mixture.items()}
