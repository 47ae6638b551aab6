"""Parts that skeletons for images are made of: stems, the preprocessing of a cell's inputs, the
head."""

from torch import Tensor, nn

from ops.images import FactorizedReduce, ReluConvNorm, batch_norm
from supernet.spaces.skeleton import CellPosition


def small_stem(image_channels: int, channels: int) -> nn.Sequential:
    """Returns the stem for small images: [B, image_channels, H, W] to [B, channels, H, W]."""
    return nn.Sequential(nn.Conv2d(image_channels, channels, 3, padding=1, bias=False), batch_norm(channels))


class MobileStem(nn.Module):
    """The stem of DARTS (Liu et al. 2019) on ImageNet: three convolutions of stride 2, 224 to 28
    pixels.

    It maps [B, image_channels, H, W] to the older state [B, channels, ceil(H/4), ceil(W/4)] and the
    newer [B, channels, ceil(H/8), ceil(W/8)].
    """

    def __init__(self, image_channels: int, channels: int):
        super().__init__()
        half = channels // 2
        self.older = nn.Sequential(
            nn.Conv2d(image_channels, half, 3, stride=2, padding=1, bias=False),
            batch_norm(half),
            ReluConvNorm(half, channels, kernel=3, stride=2),
        )
        self.newer = ReluConvNorm(channels, channels, kernel=3, stride=2)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        older = self.older(images)
        return older, self.newer(older)


def projections(position: CellPosition, affine: bool) -> nn.ModuleList:
    """Returns the preprocessing of DARTS: for each input ReLU, a 1x1 convolution and batch norm.

    A factorised reduction takes their place for an older input that is still twice as large.
    """
    layers = nn.ModuleList()
    for number, entering in enumerate(position.in_channels):
        halve = position.halve_first and number == 0
        make = FactorizedReduce if halve else ReluConvNorm
        layers.append(make(entering, position.channels, affine=affine))
    return layers


class PooledClassifier(nn.Module):
    """The mean over all pixels and a linear layer: [B, channels, H, W] to [B, classes].

    With `norm` batch norm and ReLU stand before them.
    """

    def __init__(self, channels: int, classes: int, norm: bool = False):
        super().__init__()
        self.norm = nn.Sequential(batch_norm(channels), nn.ReLU()) if norm else nn.Identity()
        self.classifier = nn.Linear(channels, classes)

    def forward(self, state: Tensor) -> Tensor:
        features: Tensor = self.norm(state).mean((2, 3))
        return self.classifier(features)
