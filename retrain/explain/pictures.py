"""Images, maps and weights of attention as pictures within a page."""

import base64
import io
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from training.format import ImageFormat
from training.report.html import Markup, element

if TYPE_CHECKING:
    import numpy as np

_LARGEST = 160
"""Pixels of a side that a picture has at most."""
_STRONGEST = 0.99
"""Quantile of the sizes of a map's values that has the full colour: one extreme pixel would leave
all others white."""


def picture_of(pixels: Tensor, form: ImageFormat, description: str) -> Markup:
    """Returns an image [C, H, W]; of other channels than 1 or 3 the first is shown."""
    shown = pixels.float() / form.scale
    if form.scale == 1:
        low, high = shown.amin(), shown.amax()
        shown = (shown - low) / (high - low).clamp_min(1e-12)
    shown = shown if len(shown) in (1, 3) else shown[:1]
    shown = _smaller(shown).expand(3, -1, -1)
    return _picture((shown.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy(), description)


def picture_of_map(values: Tensor, description: str) -> Markup:
    """Returns a map [H, W]: red above 0, blue below, white at 0."""
    from matplotlib import colormaps

    coarse = _smaller(values[None].float())[0]
    most = float(coarse.abs().flatten().quantile(_STRONGEST)) or float(coarse.abs().max()) or 1.0
    colours = colormaps["RdBu_r"]((coarse / most).clamp(-1, 1).numpy() / 2 + 0.5, bytes=True)[..., :3]
    return _picture(colours, description)


def picture_of_shares(values: Tensor, description: str) -> Markup:
    """Returns values of at least 0, [H, W], from the least, dark, to the largest, bright."""
    from matplotlib import colormaps

    coarse = _smaller(values[None].float())[0]
    low, high = coarse.amin(), coarse.amax()
    scaled = (coarse - low) / (high - low).clamp_min(1e-12)
    return _picture(colormaps["viridis"](scaled.numpy(), bytes=True)[..., :3], description)


def _smaller(values: Tensor) -> Tensor:
    """Returns values [C, H, W] in at most `_LARGEST` rows and columns, each the mean of its area."""
    _, height, width = values.shape
    sides = min(_LARGEST, height), min(_LARGEST, width)
    return values if sides == (height, width) else F.adaptive_avg_pool2d(values, sides)


def _picture(colours: "np.ndarray", description: str) -> Markup:
    from PIL import Image

    content = io.BytesIO()
    Image.fromarray(colours).save(content, "PNG")
    encoded = base64.b64encode(content.getvalue()).decode()
    return element("img", src=f"data:image/png;base64,{encoded}", alt=description)
