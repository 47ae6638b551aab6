"""Readings while a network is trained, and the costs of a network."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from base.texts import decimals

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
TransposedConvolution = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d


class Batch(NamedTuple):
    """Examples that a network sees together: tensors alone, all on the device, so that a CUDA graph
    can take them."""

    inputs: Tensor
    """Input of the network, [B, ...]: images [B, C, H, W]."""
    targets: Tensor
    """Right answers, [B, ...]: labels [B] of images that are classified."""

    @property
    def size(self) -> int:
        """Number of examples."""
        return len(self.targets)


@dataclass(frozen=True)
class Score:
    """A number that networks are compared by: its name, which values are better, and which there
    can be."""

    name: str
    """The name that it has among the values of a `Reading`, or "loss"."""
    larger_is_better: bool = True
    """False for an error, which a search makes small."""
    lowest: float = -math.inf
    """The least value that there can be."""
    highest: float = math.inf
    """The largest value that there can be."""
    title: str = ""
    """Its name as logs and reports write it; where left out, `name` with spaces."""
    percent: bool = False
    """A share, 0 to 1, that reports write as 97.22%."""

    @classmethod
    def share(cls, name: str, title: str = "") -> "Score":
        """Makes a score that is a share, 0 to 1, of which more is better."""
        return cls(name, lowest=0, highest=1, title=title, percent=True)

    @property
    def words(self) -> str:
        """Returns its name as logs and reports write it."""
        return self.title or self.name.replace("_", " ")

    def written(self, value: float) -> str:
        """Returns a value, in its own sign, as reports write it."""
        return f"{100 * value:.2f}%" if self.percent else f"{value:.4f}"

    def maximised(self, value: float) -> float:
        """Returns the value as a search has it, more being better: the negative of an error."""
        return value if self.larger_is_better else -value

    def own(self, maximised: float) -> float:
        """Returns the value, in its own sign, that a search has as `maximised`."""
        return maximised if self.larger_is_better else -maximised

    def reaches(self, value: float, target: float) -> bool:
        """Says whether the value is at least as good as the target; a NaN is not."""
        return value >= target if self.larger_is_better else value <= target

    @property
    def best(self) -> float:
        """The best value that there can be."""
        return self.highest if self.larger_is_better else self.lowest

    @property
    def worst(self) -> float:
        """The worst value that there can be."""
        return self.lowest if self.larger_is_better else self.highest

    def is_target(self, value: float) -> bool:
        """Says whether the value is one that can be reached and that not every network reaches."""
        return math.isfinite(value) and self.lowest <= value <= self.highest and value != self.worst

    @property
    def targets(self) -> str:
        """Returns the values that may be a target, in words: "above 0 and at most 1"."""
        above, below = ("above", "at most") if self.larger_is_better else ("at least", "below")
        limits = [(above, self.lowest), (below, self.highest)]
        return " and ".join(f"{word} {limit:g}" for word, limit in limits if math.isfinite(limit)) or "a finite number"


LOSS = Score("loss", larger_is_better=False)
"""The loss, which every task has."""


@dataclass(frozen=True)
class Reading:
    """The loss and the values of all the examples that a `Meter` has seen since it was last
    reset."""

    loss: float
    """Mean loss per example; NaN before the first update."""
    values: Mapping[str, float]
    """Each quantity that the meter measures, over all examples, by name; NaN before the first
    update."""
    count: int
    """Number of examples."""
    first_bad_step: int | None = None
    """Number, counted from 0, of the first update whose loss was NaN or infinite; None while all
    were finite."""

    def named(self, level: str) -> dict[str, float]:
        """Returns loss and values by the names that curves and histories have for them, such as
        "train/loss"."""
        return {f"{level}/{name}": value for name, value in {"loss": self.loss, **self.values}.items()}

    def to_dict(self) -> dict[str, Any]:
        """Returns the number of examples, the mean loss and the values by name, ready for JSON."""
        return {"count": self.count, "loss": self.loss, **self.values}


def in_words(named: Mapping[str, float]) -> str:
    """Returns readings, by the names that `Reading.named` gives them, for a log: "train loss 0.4100
    accuracy 0.8750"."""
    levels: dict[str, list[str]] = {}
    for tag, value in named.items():
        level, _, name = tag.partition("/")
        levels.setdefault(level, [level]).append(f"{name.replace('_', ' ')} {decimals(value)}")
    return ", ".join(" ".join(words) for words in levels.values())


class Meter:
    """Adds up the loss on the device, in place, so that a CUDA graph can do it; only `read` waits
    for the device.

    A task whose readings hold more than the loss has a subclass that names the quantities and
    implements `sums`. A quantity that is no mean per example, such as the F1 of a class, is made by
    `values` from sums that are; then the constructor gets the `shapes` of these.
    """

    names: tuple[str, ...] = ()
    """Quantities that are measured beside the loss."""

    def __init__(self, device: torch.device | str, shapes: Mapping[str, tuple[int, ...]] | None = None) -> None:
        """`shapes` are those of the tensors that `sums` returns, by name; None: scalars, one for
        each of `names`."""
        self.device = torch.device(device)
        shapes = dict.fromkeys(self.names, ()) if shapes is None else shapes
        self._loss = torch.zeros((), dtype=torch.float64, device=self.device)
        self._sums = {name: torch.zeros(shape, dtype=torch.float64, device=self.device) for name, shape in shapes.items()}
        self._count = torch.zeros((), dtype=torch.int64, device=self.device)
        self._fine = torch.ones((), dtype=torch.bool, device=self.device)
        self._fine_steps = torch.zeros((), dtype=torch.int64, device=self.device)

    def sums(self, outputs: Tensor, batch: Batch) -> Mapping[str, Tensor]:
        """Returns the sums over the examples of a batch, by name and in the shapes that the meter
        was made for.

        Nothing in it may wait for the device.
        """
        return {}

    def values(self, sums: Mapping[str, Tensor], count: int) -> Mapping[str, float]:
        """Returns each of `names` from the sums, float64 on the CPU, over all `count` examples (at
        least 1): their means."""
        return {name: sums[name].item() / count for name in self.names}

    def reset(self) -> None:
        """Forgets everything."""
        for total in (self._loss, *self._sums.values(), self._count, self._fine_steps):
            total.zero_()
        self._fine.fill_(True)

    @torch.no_grad()
    def update(self, loss: Tensor, outputs: Tensor, batch: Batch) -> None:
        """Adds a batch: its mean loss (scalar) and the network's outputs [B, ...], all on the
        meter's device."""
        self._loss.add_(loss, alpha=batch.size)
        for name, total in self.sums(outputs, batch).items():
            self._sums[name] += total
        self._fine &= torch.isfinite(loss)
        self._fine_steps += self._fine
        self._count += batch.size

    def read(self) -> Reading:
        """Returns the readings so far; waits for the device once and changes nothing."""
        numbers = [self._loss, self._count, self._fine, self._fine_steps, *self._sums.values()]
        parts = torch.cat([number.double().flatten() for number in numbers]).cpu().split([number.numel() for number in numbers])
        loss, count, fine, fine_steps = (part.item() for part in parts[:4])
        sums = {name: part.view(total.shape) for (name, total), part in zip(self._sums.items(), parts[4:], strict=True)}
        return Reading(
            loss=loss / count if count else math.nan,
            values=self.values(sums, int(count)) if count else dict.fromkeys(self.names, math.nan),
            count=int(count),
            first_bad_step=None if fine else int(fine_steps),
        )


def count_parameters(module: nn.Module) -> int:
    """Number of trainable parameters of `module`; a tensor that several places share counts
    once."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def count_multiply_adds(
    module: nn.Module, image_shape: tuple[int, int, int], forward: Callable[[Tensor], object] | None = None
) -> int:
    """Multiply-adds that `module` spends on one image of `image_shape` (C, H, W), in evaluation
    mode.

    Counts as NAS-Bench-201 does (Dong and Yang, arXiv:2001.00326): convolutions without their bias,
    linear layers with it, no batch norm, no pooling. Only layers that are `torch.nn` modules are
    seen, and modules that have a method `multiply_adds`: called with the inputs of the module, it
    returns those of its own arithmetic for the whole batch. The module is run once where its
    parameters live (a module on the meta device is counted without computing anything) and is left
    as it was, random state included.

    Args:
        forward: what to call with the images [2, C, H, W] in place of the module itself, where that
            needs more arguments.
    """
    parameter = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    # Two images because batch statistics are undefined for a single value per channel.
    images = torch.zeros(2, *image_shape, device=parameter.device, dtype=parameter.dtype)
    total = 0

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        count = getattr(layer, "multiply_adds", None)
        total += _multiply_adds(layer, inputs[0], output) if count is None else count(*inputs)

    was_training = [(part, part.training) for part in module.modules()]
    counted = Convolution | TransposedConvolution | nn.Linear
    parts = [part for part in module.modules() if isinstance(part, counted) or hasattr(part, "multiply_adds")]
    hooks = [part.register_forward_hook(add) for part in parts]
    devices = [parameter.device] if parameter.is_cuda else []
    try:
        module.eval()
        with torch.no_grad(), torch.random.fork_rng(devices):
            (forward or module)(images)
    finally:
        for hook in hooks:
            hook.remove()
        for part, training in was_training:
            part.training = training
    return total // len(images)


def _multiply_adds(layer: nn.Module, images: Tensor, output: Tensor) -> int:
    """Multiply-adds of one call of a convolution or linear layer, for the whole batch."""
    if isinstance(layer, nn.Linear):
        return output.numel() * (layer.in_features + (layer.bias is not None))
    assert isinstance(layer.weight, Tensor)
    # Weights are [out, in / groups, *kernel]; a transposed convolution's are
    # [in, out / groups, *kernel].
    values = images if isinstance(layer, TransposedConvolution) else output
    return values.numel() * layer.weight[0].numel()
