"""Zero-cost proxies: scores of a network with the weights that it was made with, from one batch of
images.

`@register_proxy` adds one. For every network each gives a finite score; where its formula gives
none, as for a network without a path from images to logits, it is the proxy's lowest, named below.
None of them changes the network.
"""

import copy
import math
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from base.checks import FieldError
from base.registry import Registry
from base.seeds import derive_seed
from search.costs.counted import CostTable
from search.sampling.encoding import Encoding, Genome
from supernet import DiscreteNetwork
from supernet.spaces.skeleton import Stem
from training.metrics import Batch, Convolution, TransposedConvolution, count_multiply_adds, count_parameters

Loss = Callable[[Tensor, Batch], Tensor]
"""Outputs [B, ...] of a network and their batch to the mean loss, a scalar."""
Proxy = Callable[[nn.Module, Batch, Loss], float]
"""A network, which maps images [B, C, H, W] to outputs, a batch and the loss of the task to a
score; more is better."""
BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm

PROXIES: Registry[Proxy] = Registry("proxy")


def register_proxy(name: str) -> Callable[[Proxy], Proxy]:
    """Makes the decorated function the proxy `name`.

    Raises InputError where another one has the name.
    """
    return PROXIES.register(name)


def get_proxy(name: str) -> Proxy:
    """Returns the proxy of that name. Raises InputError for an unknown one."""
    return PROXIES[name]


def list_proxies() -> list[str]:
    """Returns the names of all registered proxies."""
    return PROXIES.names()


@register_proxy("synflow")
def synflow(network: nn.Module, batch: Batch, loss: Loss) -> float:
    """SynFlow (Tanaka et al. 2020, summed over the network by Abdelfattah et al. 2021): log10 of
    the sum of |w * dR/dw| over the weights of convolutions and linear layers.

    R is the sum of the logits of one image of ones in the network without batch norm and with
    absolute values for weights, in float64. Of the images only the shape counts. Lowest: -307.65,
    the logarithm of the smallest normal number, for a sum of 0.
    """
    twin = _twin(network).double().eval()
    for layer in twin.modules():
        if isinstance(layer, BatchNorm):
            layer.register_forward_hook(lambda _, inputs, __: inputs[0])
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.abs_()
    twin(torch.ones_like(batch.inputs[:1], dtype=torch.float64)).sum().backward()
    total = _saliency(twin)
    largest = sys.float_info.max  # NaN can only be infinity times 0
    return math.log10(max(total, sys.float_info.min) if total < largest else largest)


@register_proxy("jacob_cov")
def jacob_cov(network: nn.Module, batch: Batch, loss: Loss) -> float:
    """Jacobian covariance (Mellor et al. 2020, the first version of "Neural architecture search
    without training").

    -sum of log(v + k) + 1 / (v + k), k = 1e-5, over the eigenvalues v of the correlation matrix
    [B, B] of the gradients of the summed logits with respect to each image, in training mode.
    Lowest: what equal gradients give, about -1e5 * (B - 1), if one has no variance.
    """
    images = batch.inputs.detach().clone().requires_grad_()
    logits = _twin(network)(images)
    (jacobian,) = torch.autograd.grad(logits.sum(), images, materialize_grads=True)
    correlations = torch.corrcoef(jacobian.flatten(1).double()).view(len(images), -1)
    if not correlations.isfinite().all():
        correlations = torch.ones_like(correlations)
    values = torch.linalg.eigvalsh(correlations) + 1e-5
    return -(values.log() + 1 / values).sum().item()


@register_proxy("snip")
def snip(network: nn.Module, batch: Batch, loss: Loss) -> float:
    """SNIP (Lee et al. 2019, summed over the network by Abdelfattah et al. 2021): the sum of |w *
    dL/dw| over the weights of convolutions and linear layers, L the loss in training mode. Lowest:
    0."""
    twin = _twin(network)
    loss(twin(batch.inputs).float(), batch).backward()
    total = _saliency(twin)
    return total if math.isfinite(total) else 0.0


@register_proxy("naswot")
def naswot(network: nn.Module, batch: Batch, loss: Loss) -> float:
    """NASWOT (Mellor et al. 2021): the logarithm of the determinant of the kernel [B, B] that says
    for each two images how many ReLUs are on for both or off for both, in training mode.

    As in the authors' code, only those ReLUs count that the gradient of the logits comes to.
    Eigenvalues that are 0 but for rounding count as B * 2^-52 times the largest one, or times 1;
    lowest: B times the logarithm of that, without a ReLU.
    """
    images = batch.inputs
    with _Rectified() as rectified:
        logits = _twin(network)(images.detach().clone().requires_grad_())
    kernel = torch.zeros(len(images), len(images), dtype=torch.float64, device=images.device)
    for pattern in rectified.patterns_before(logits):
        on = pattern.flatten(1).float()
        kernel += on @ on.T + (1 - on) @ (1 - on).T
    values = torch.linalg.eigvalsh(kernel)
    rounding = len(images) * sys.float_info.epsilon * values[-1].clamp_min(1)
    return values.maximum(rounding).log().sum().item()


@register_proxy("parameters")
def parameters(network: nn.Module, batch: Batch, loss: Loss) -> float:
    """The number of trainable parameters: larger networks do better."""
    return float(count_parameters(network))


@register_proxy("multiply_adds")
def multiply_adds(network: nn.Module, batch: Batch, loss: Loss) -> float:
    """Multiply-adds of one image: networks that compute more do better."""
    channels, height, width = batch.inputs.shape[1:]
    return float(count_multiply_adds(network, (channels, height, width)))


class ProxyScores:
    """The proxy `name` as the score of an architecture, an `Evaluate`.

    The network is the one that retraining builds, of `channels`, `cells` and `stem` as
    `supernet.DiscreteNetwork` takes them, with fresh weights that depend on `seed` and architecture
    alone. It has so many `outputs`; the batch, of images [B, C, H, W] on the device, is the same
    for all. Raises ValueError for an unknown proxy.
    """

    def __init__(
        self,
        encoding: Encoding,
        name: str,
        channels: int,
        cells: int,
        batch: Batch,
        outputs: int,
        loss: Loss,
        seed: int,
        stem: Stem = "cifar",
    ) -> None:
        self._encoding = encoding
        self._proxy = get_proxy(name)
        self._name = name
        shape = batch.inputs.shape
        self._size = channels, cells, outputs, shape[1]
        self._stem = stem
        self._batch = batch
        self._loss = loss
        self._seed = seed
        self._device = batch.inputs.device
        self._count: Callable[[Genome], float] | None = None
        if name in ("parameters", "multiply_adds"):
            pixels = shape[1], shape[2], shape[3]
            space = encoding.space
            operations = [space.candidates[column] for column in encoding.operations]
            costs = CostTable(space, channels, cells, outputs, pixels, stem, operations)
            self._count = lambda genome: float(costs(genome)[name])

    def __call__(self, genome: Genome, share: float) -> float:
        """Raises InputError for a part of an evaluation, which a proxy does not have, and for a score
        that is NaN or infinite."""
        if share != 1:
            raise FieldError("evaluate", "a proxy has whole evaluations only; take a sampler without parts, or a supernet")
        if self._count is not None:
            return self._count(genome)
        with torch.random.fork_rng([self._device] if self._device.type == "cuda" else []):
            torch.manual_seed(derive_seed(self._seed, "proxy", *genome))
            # Made on the CPU, so that a seed means the same weights on every device.
            network = DiscreteNetwork(self._encoding.genotype(genome), *self._size, stem=self._stem).to(self._device)
            score = self._proxy(network, self._batch, self._loss)
        if not math.isfinite(score):
            raise FieldError("evaluate", f"proxy {self._name} gave an architecture the score {score}; scores must be finite")
        return score


def _twin(network: nn.Module) -> nn.Module:
    """A copy in training mode; its parameters have no gradients yet, and all will."""
    return copy.deepcopy(network).train().requires_grad_()


def _saliency(network: nn.Module) -> float:
    """The sum of |w * gradient| over the weights of convolutions and linear layers, each tensor
    once."""
    layers = [layer for layer in network.modules() if isinstance(layer, Convolution | TransposedConvolution | nn.Linear)]
    weights = dict.fromkeys(layer.weight for layer in layers)
    parts = [(weight * weight.grad).abs().sum(dtype=torch.float64) for weight in weights if weight.grad is not None]
    return sum(part.item() for part in parts)


class _Rectified(TorchFunctionMode):
    """Sees every ReLU that is computed while it is on, in a module or not."""

    _FUNCTIONS = (F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)

    def __init__(self) -> None:
        super().__init__()
        self._seen: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        output = function(*args, **(kwargs or {}))
        if function in self._FUNCTIONS:
            # Of zeros that nothing was computed from there is no gradient either, unless it is
            # asked for.
            output = output if output.requires_grad else output.requires_grad_()
            self._seen.append((output, output > 0))
        return output

    def patterns_before(self, logits: Tensor) -> Iterable[Tensor]:
        """Returns for each ReLU on a way to `logits` the outputs [B, ...] that are above 0."""
        outputs = [output for output, _ in self._seen]
        gradients = torch.autograd.grad(logits.sum(), outputs, allow_unused=True) if outputs else ()
        for (_, pattern), gradient in zip(self._seen, gradients, strict=True):
            if gradient is not None:
                yield pattern
