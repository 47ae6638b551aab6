"""Maps of what speaks for an output of a network, by five methods; captum computes them.

The absence of a pixel, for every method, is the mean colour of the training images, which is 0 as a
network is given it.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from base.checks import FieldError
from base.seeds import derive_seed
from retrain.explain.path import complete_gradients
from supernet.discrete import DiscreteNetwork

_AT_ONCE = 64
"""Images that a method runs together."""


@dataclass(frozen=True)
class Settings:
    """The settings of the methods."""

    cell: int = -1
    """The cell whose output Grad-CAM looks at, from 0; negative numbers count from the last."""
    patches: int = 5
    """Patches along each side, for occlusion, LIME, KernelSHAP and the agreement of methods."""
    steps: int = 64
    """Steps of integrated gradients."""
    complete: bool = False
    """The path of integrated gradients is cut where the network bends, so that they add up."""
    samples: int = 256
    """Images with patches left out, of each image, that LIME and KernelSHAP are fitted to."""
    seed: int = 0

    def check(self, cells: int, height: int, width: int) -> None:
        """Raises FieldError for settings that do not fit a network of that many cells, or images of
        that size."""
        if not -cells <= self.cell < cells:
            raise FieldError("cell", f"must be from 0 to {cells - 1}, or from -{cells} to -1 from the last, not {self.cell}")
        if not 2 <= self.patches <= min(height, width):
            raise FieldError("patches", f"must be from 2 to {min(height, width)}, the pixels of a side, not {self.patches}")
        least = 2 * self.patches**2
        if self.samples < least:
            why = f"LIME and KernelSHAP over {self.patches}x{self.patches} patches need at least {least}"
            raise FieldError("samples", f"{self.samples} is too few: {why}")


@dataclass(frozen=True, eq=False)
class Subject:
    """A network that is explained: in evaluation mode, float32, on the device of its images."""

    network: DiscreteNetwork
    settings: Settings
    advance: Callable[[int], None] = field(default=lambda passes: None)
    """Called with the number of images that have gone through the network."""

    def __post_init__(self) -> None:
        self.network.eval()
        for parameter in self.network.parameters():
            parameter.requires_grad_(False)

    @cached_property
    def precise(self) -> DiscreteNetwork:
        """Returns the same network in float64."""
        return copy.deepcopy(self.network).double()

    @property
    def cell(self) -> torch.nn.Module:
        """Returns the cell that Grad-CAM looks at."""
        return self.network.cells[self.settings.cell]

    def maps(self, method: str, inputs: Tensor, targets: Tensor) -> Tensor:
        """Returns the maps [B, H, W] of a method for normalised images [B, C, H, W] and outputs [B],
        float64 on the CPU: what is above 0 speaks for the output, what is below against it."""
        found = METHODS[method].maps(self, inputs, targets)
        return found.detach().double().sum(1).cpu()


@dataclass(frozen=True)
class Method:
    """A method that makes maps."""

    title: str
    maps: Callable[[Subject, Tensor, Tensor], Tensor]
    """Maps by channel [B, C, H, W] or [B, 1, H, W], of images [B, C, H, W] and outputs [B]."""
    passes: Callable[[Settings, int, int], int]
    """Images that go through the network for one image of that height and width."""
    complete: bool = False
    """Whether its values are meant to add up to the output less that for the baseline."""


def integrated_gradients(subject: Subject, inputs: Tensor, targets: Tensor) -> Tensor:
    """Returns integrated gradients (Sundararajan et al. 2017, equation 1) in float64: by the
    midpoint rule, or complete (`path.complete_gradients`)."""
    from captum.attr import IntegratedGradients

    settings, found = subject.settings, []
    for image, target in zip(inputs.double(), targets.tolist(), strict=True):
        if settings.complete:
            gradients, points = complete_gradients(subject.precise, image, target)
            found.append(gradients[None])
            subject.advance(points)
            continue
        # Captum's trapezoidal rule is wrong even for a linear network (findings/captum_trapezoid.sh).
        found.append(
            IntegratedGradients(subject.precise).attribute(
                image[None], target=target, n_steps=settings.steps, method="riemann_middle", internal_batch_size=_AT_ONCE
            )
        )
        subject.advance(settings.steps)
    return torch.cat(found)


def grad_cam(subject: Subject, inputs: Tensor, targets: Tensor) -> Tensor:
    """Returns Grad-CAM (Selvaraju et al. 2017, equations 1 and 2) of the output of a cell, brought
    to the size of the image between the centres of its pixels."""
    from captum.attr import LayerAttribution, LayerGradCam

    explainer, size = LayerGradCam(subject.network, subject.cell), tuple(inputs.shape[2:])
    found = []
    for images, outputs in zip(inputs.split(_AT_ONCE), targets.split(_AT_ONCE), strict=True):
        coarse = explainer.attribute(images.requires_grad_(), outputs, relu_attributions=True)
        found.append(LayerAttribution.interpolate(coarse.detach(), size, "bilinear"))
        subject.advance(len(images))
    return torch.cat(found)


def occlusion(subject: Subject, inputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the mean fall of the output over the windows that hide a pixel (Zeiler & Fergus
    2014); they have the size of a patch and lie half of it apart."""
    from captum.attr import Occlusion

    channels, height, width = inputs.shape[1:]
    window, strides = _window(subject.settings, height, width)
    found, passes = [], _windows(subject.settings, height, width)
    with torch.no_grad():
        for images, outputs in zip(inputs.split(_AT_ONCE), targets.split(_AT_ONCE), strict=True):
            explainer = Occlusion(subject.network)
            found.append(explainer.attribute(images, (channels, *window), (channels, *strides), target=outputs))
            subject.advance(passes * len(images))
    return torch.cat(found)


def lime(subject: Subject, inputs: Tensor, targets: Tensor) -> Tensor:
    """Returns the weights of a sparse linear model of the output over patches, fitted near the
    image (Ribeiro et al. 2016, section 3.4)."""
    from captum.attr import Lime

    return _over_patches(subject, inputs, targets, Lime(subject.network), "lime")


def kernel_shap(subject: Subject, inputs: Tensor, targets: Tensor) -> Tensor:
    """Returns Shapley values of patches, fitted to samples of coalitions by weighted least squares
    (Lundberg & Lee 2017, theorem 2)."""
    from captum.attr import KernelShap

    return _over_patches(subject, inputs, targets, KernelShap(subject.network), "kernel_shap")


def _over_patches(subject: Subject, inputs: Tensor, targets: Tensor, explainer: object, name: str) -> Tensor:
    settings = subject.settings
    # captum takes masks that are contiguous alone.
    patches = patch_numbers(settings.patches, *inputs.shape[2:]).to(inputs.device).contiguous()
    sizes = patches.flatten().bincount()[patches]
    found = []
    with torch.no_grad(), torch.random.fork_rng([inputs.device] if inputs.device.type == "cuda" else []):
        for place, (image, target) in enumerate(zip(inputs, targets.tolist(), strict=True)):
            torch.manual_seed(derive_seed(settings.seed, name, place))
            weights = explainer.attribute(  # type: ignore[attr-defined]
                image[None],
                target=target,
                feature_mask=patches[None, None],
                n_samples=settings.samples,
                perturbations_per_eval=_AT_ONCE,
            )
            # Each pixel has an equal part of its patch, so that the map adds up.
            found.append(weights[:, :1] / sizes)
            subject.advance(settings.samples)
    return torch.cat(found)


def patch_numbers(patches: int, height: int, width: int) -> Tensor:
    """Returns the patch that each pixel is in, int64 [H, W], numbered row by row."""
    rows, columns = (torch.arange(length) * patches // length for length in (height, width))
    return rows[:, None] * patches + columns


def by_patch(maps: Tensor, patches: int) -> Tensor:
    """Returns the sums of maps [B, H, W] over each patch, [B, patches * patches]."""
    numbers = patch_numbers(patches, *maps.shape[1:]).flatten()
    return maps.new_zeros(len(maps), patches**2).index_add_(1, numbers, maps.flatten(1))


def _window(settings: Settings, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns the size of the window of occlusion, and the distance to the next."""
    sides = math.ceil(height / settings.patches), math.ceil(width / settings.patches)
    return sides, (max(1, sides[0] // 2), max(1, sides[1] // 2))


def _windows(settings: Settings, height: int, width: int) -> int:
    sides, strides = _window(settings, height, width)
    return math.prod(
        math.ceil((length - side) / stride) + 1 for length, side, stride in zip((height, width), sides, strides, strict=True)
    )


METHODS: dict[str, Method] = {
    "integrated_gradients": Method(
        "integrated gradients", integrated_gradients, lambda settings, *_: settings.steps, complete=True
    ),
    "grad_cam": Method("Grad-CAM", grad_cam, lambda *_: 1),
    "occlusion": Method("occlusion", occlusion, _windows),
    "lime": Method("LIME", lime, lambda settings, *_: settings.samples),
    "kernel_shap": Method("KernelSHAP", kernel_shap, lambda settings, *_: settings.samples, complete=True),
}
"""The methods by name."""
