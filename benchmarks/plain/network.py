"""The supernet written the plain way: one module per edge and operation, as in the papers.

It is the oracle of the tests and the baseline of the benchmarks, so it shares no code with the rest
of the project. Sources: DARTS (Liu et al. 2019), NAS-Bench-201 (Dong and Yang 2020), partial
channels of PC-DARTS (Xu et al. 2020).
"""

from collections.abc import Mapping, Sequence
from functools import partial as bind

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

CANDIDATES = {
    "darts": (
        "none",
        "max_pool_3x3",
        "avg_pool_3x3",
        "skip_connect",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "dil_conv_3x3",
        "dil_conv_5x5",
    ),
    "nasbench201": ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"),
}
# (source, target) states, ordered by target and then by source; the inputs of the cell are the
# first states.
EDGES = {
    "darts": tuple((source, target) for target in range(2, 6) for source in range(target)),
    "nasbench201": tuple((source, target) for target in range(1, 4) for source in range(target)),
}
KINDS = {"darts": ("normal", "reduce"), "nasbench201": ("cell",)}


def _norm(channels: int, batch_statistics: bool) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, momentum=0.1, affine=False, track_running_stats=not batch_statistics)


class Zero(nn.Module):
    """The candidate `none`: zeros of the size that the edge's other candidates give."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, C, H, W] to zeros [B, C, ceil(H / stride), ceil(W / stride)]."""
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


class FactorisedReduction(nn.Module):
    """ReLU, two 1x1 convolutions of stride 2, batch norm.

    Each convolution has half of the outputs; the second is on a grid one pixel further.

    Raises ValueError for an odd number of output channels.
    """

    def __init__(self, in_channels: int, out_channels: int, batch_statistics: bool) -> None:
        super().__init__()
        if out_channels % 2:
            raise ValueError(f"a factorised reduction halves its {out_channels} channels: choose an even number")
        self.conv = nn.Conv2d(in_channels, out_channels // 2, 1, stride=2, bias=False)
        self.conv_shifted = nn.Conv2d(in_channels, out_channels // 2, 1, stride=2, bias=False)
        self.norm = _norm(out_channels, batch_statistics)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, in_channels, H, W] to [B, out_channels, ceil(H / 2), ceil(W / 2)]."""
        x = F.relu(x)
        # The zeros on the right and the bottom are read on odd sizes only, where the shifted grid
        # ends one pixel outside.
        shifted = F.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
        return self.norm(torch.cat([self.conv(x), self.conv_shifted(shifted)], dim=1))


def _relu_conv_norm(in_channels: int, out_channels: int, kernel: int, batch_statistics: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False),
        _norm(out_channels, batch_statistics),
    )


def _depthwise_pointwise(channels: int, kernel: int, stride: int, dilation: int, batch_statistics: bool) -> list[nn.Module]:
    padding = dilation * (kernel - 1) // 2
    return [
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        _norm(channels, batch_statistics),
    ]


def _darts_operation(name: str, channels: int, stride: int, batch_statistics: bool) -> nn.Module:
    norm = bind(_norm, channels, batch_statistics)
    block = bind(_depthwise_pointwise, channels, batch_statistics=batch_statistics)
    match name:
        case "none":
            return Zero(stride)
        case "max_pool_3x3":
            return nn.Sequential(nn.MaxPool2d(3, stride, padding=1), norm())
        case "avg_pool_3x3":
            return nn.Sequential(nn.AvgPool2d(3, stride, padding=1, count_include_pad=False), norm())
        case "skip_connect":
            return nn.Identity() if stride == 1 else FactorisedReduction(channels, channels, batch_statistics)
        case "sep_conv_3x3":
            return nn.Sequential(*block(kernel=3, stride=stride, dilation=1), *block(kernel=3, stride=1, dilation=1))
        case "sep_conv_5x5":
            return nn.Sequential(*block(kernel=5, stride=stride, dilation=1), *block(kernel=5, stride=1, dilation=1))
        case "dil_conv_3x3":
            return nn.Sequential(*block(kernel=3, stride=stride, dilation=2))
        case "dil_conv_5x5":
            return nn.Sequential(*block(kernel=5, stride=stride, dilation=2))
    raise ValueError(f"darts has no candidate {name!r}")


def _nasbench201_operation(name: str, channels: int, batch_statistics: bool) -> nn.Module:
    match name:
        case "none":
            return Zero(stride=1)
        case "skip_connect":
            return nn.Identity()
        case "nor_conv_1x1":
            return _relu_conv_norm(channels, channels, 1, batch_statistics)
        case "nor_conv_3x3":
            return _relu_conv_norm(channels, channels, 3, batch_statistics)
        case "avg_pool_3x3":
            return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    raise ValueError(f"nasbench201 has no candidate {name!r}")


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleaves the channels of the groups, [B, C, H, W] to [B, C, H, W] (ShuffleNet, Zhang et
    al. 2018)."""
    return rearrange(x, "b (groups c) h w -> b (c groups) h w", groups=groups)


class PlainCell(nn.Module):
    """A cell of the supernet; `operations` holds one module for each edge and kept candidate.

    `kind` is its kind, `position` its place among the cells of that kind. The edges that leave an
    input have stride 2 in a cell of kind "reduce". `mask` is bool [edges, candidates].
    """

    def __init__(
        self,
        space: str,
        kind: str,
        position: int,
        channels: int,
        preprocess: Sequence[nn.Module],
        mask: Tensor,
        partial: int,
        batch_statistics: bool,
    ) -> None:
        super().__init__()
        self.kind, self.position = kind, position
        self.channels, self.partial = channels, partial
        self.names, self.edges = CANDIDATES[space], EDGES[space]
        self.inputs, self.outputs = (2, 4) if space == "darts" else (1, 1)
        self.preprocess = nn.ModuleList(preprocess)
        self.operations = nn.ModuleDict()
        for edge, (source, target) in enumerate(self.edges):
            for index, name in enumerate(self.names):
                if not mask[edge, index]:
                    continue
                if space == "darts":
                    module = _darts_operation(name, channels // partial, self._stride(source), batch_statistics)
                else:
                    module = _nasbench201_operation(name, channels // partial, batch_statistics)
                self.operations[f"{source}_{target}_{name}"] = module

    def _stride(self, source: int) -> int:
        return 2 if self.kind == "reduce" and source < self.inputs else 1

    def _mixed_edge(self, edge: int, x: Tensor, weights: Tensor, chosen: int | None) -> Tensor:
        """Returns the weighted sum of the edge's operations on x [B, C, H, W]; that of the chosen
        one alone if one is chosen."""
        source, target = self.edges[edge]
        stride = self._stride(source)
        processed, bypass = x[:, : self.channels // self.partial], x[:, self.channels // self.partial :]
        mixed = Zero(stride)(processed)
        for index, name in enumerate(self.names):
            key = f"{source}_{target}_{name}"
            if key in self.operations and chosen in (None, index):
                mixed = mixed + weights[index] * self.operations[key](processed)
        if self.partial == 1:
            return mixed
        if stride == 2:
            bypass = F.max_pool2d(bypass, 2, stride=2, ceil_mode=True)
        # An edge normalisation beta scales the whole edge, and it is the sum of the row beta *
        # softmax(alpha).
        return channel_shuffle(torch.cat([mixed, weights.sum() * bypass], dim=1), self.partial)

    def forward(self, inputs: Sequence[Tensor], mixture: Tensor, path: Sequence[int] | None) -> Tensor:
        """Maps input states [B, C_i, H_i, W_i] and the mixture [edges, candidates] to the output
        state [B, outputs * C, H, W]."""
        states = [module(x) for module, x in zip(self.preprocess, inputs, strict=True)] if self.preprocess else list(inputs)
        for node in range(self.inputs, self.edges[-1][1] + 1):
            total = Zero(self._stride(0))(states[0])
            for edge, (source, target) in enumerate(self.edges):
                if target != node or (path is not None and path[edge] == -1):
                    continue
                chosen = None if path is None else path[edge]
                total = total + self._mixed_edge(edge, states[source], mixture[edge], chosen)
            states.append(total)
        return torch.cat(states[-self.outputs :], dim=1)


class PlainResidualBlock(nn.Module):
    """The basic residual block of stride 2 between two stages of NAS-Bench-201; its batch norms are
    ordinary."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_a = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.conv_b = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2, stride=2, ceil_mode=True),
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, in_channels, H, W] to [B, out_channels, ceil(H / 2), ceil(W / 2)]."""
        return self.shortcut(x) + self.conv_b(self.conv_a(x))


class PlainSupernet(nn.Module):
    """The supernet of the space "darts" or "nasbench201", one module per edge and operation.

    `cells` counts all cells in darts and the cells of a stage in nasbench201. `candidates` is
    {kind: bool [edges, candidates]}; a kind that it leaves out keeps all. With `partial` = K the
    first channels / K channels go through the operations (PC-DARTS, section 3.2).
    `batch_statistics` says that batch norm in the cells keeps no running statistics; None is the
    space's own choice: False in darts, True in nasbench201. Raises ValueError for an unknown space
    or kind and for sizes that do not fit.
    """

    def __init__(
        self,
        space: str,
        channels: int,
        cells: int,
        classes: int,
        image_channels: int = 3,
        *,
        candidates: Mapping[str, Tensor] | None = None,
        partial: int = 1,
        batch_statistics: bool | None = None,
    ) -> None:
        super().__init__()
        if space not in CANDIDATES:
            raise ValueError(f"unknown space {space!r}: choose one of {', '.join(CANDIDATES)}")
        if partial < 1 or channels % partial:
            raise ValueError(f"partial={partial} does not divide the {channels} channels: choose a divisor")
        if cells < (3 if space == "darts" else 1):
            raise ValueError(f"{cells} cells are too few for {space}: take at least {3 if space == 'darts' else 1}")
        self.space, self.partial = space, partial
        self.batch_statistics = space == "nasbench201" if batch_statistics is None else batch_statistics
        self.masks = self._checked_masks(candidates or {})
        stem_channels = 3 * channels if space == "darts" else channels
        self.stem = nn.Sequential(
            nn.Conv2d(image_channels, stem_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(stem_channels),
        )
        self.layers = nn.ModuleList()
        if space == "darts":
            features = self._add_darts_cells(channels, cells)
            self.norm: nn.Module = nn.Identity()
        else:
            features = self._add_nasbench201_cells(channels, cells)
            self.norm = nn.Sequential(nn.BatchNorm2d(features), nn.ReLU())
        self.classifier = nn.Linear(features, classes)

    def _checked_masks(self, candidates: Mapping[str, Tensor]) -> dict[str, Tensor]:
        shape = (len(EDGES[self.space]), len(CANDIDATES[self.space]))
        masks = {kind: torch.ones(shape, dtype=torch.bool) for kind in KINDS[self.space]}
        for kind, mask in candidates.items():
            if kind not in masks:
                raise ValueError(f"candidates: {self.space} has no kind of cell {kind!r}: choose one of {', '.join(masks)}")
            if tuple(mask.shape) != shape or mask.dtype != torch.bool:
                raise ValueError(
                    f"candidates[{kind!r}] is {mask.dtype} {list(mask.shape)}: it must be torch.bool {list(shape)}"
                )
            masks[kind] = mask
        return masks

    def _add_cell(self, kind: str, channels: int, preprocess: Sequence[nn.Module] = ()) -> None:
        position = self.cells_of_kind(kind)
        mask = self.masks[kind]
        cell = PlainCell(self.space, kind, position, channels, preprocess, mask, self.partial, self.batch_statistics)
        self.layers.append(cell)

    def _add_darts_cells(self, channels: int, cells: int) -> int:
        older = newer = 3 * channels
        reduced = False
        for index in range(cells):
            reduces = index in (cells // 3, 2 * cells // 3)
            channels = 2 * channels if reduces else channels
            # After a reduction cell the older input is still twice as large as the newer.
            preprocess = [
                FactorisedReduction(older, channels, self.batch_statistics)
                if reduced
                else _relu_conv_norm(older, channels, 1, self.batch_statistics),
                _relu_conv_norm(newer, channels, 1, self.batch_statistics),
            ]
            self._add_cell("reduce" if reduces else "normal", channels, preprocess)
            older, newer, reduced = newer, 4 * channels, reduces
        return newer

    def _add_nasbench201_cells(self, channels: int, cells: int) -> int:
        for stage in range(3):
            if stage > 0:
                self.layers.append(PlainResidualBlock(channels, 2 * channels))
                channels = 2 * channels
            for _ in range(cells):
                self._add_cell("cell", channels)
        return channels

    def cells_of_kind(self, kind: str) -> int:
        """Returns the number of cells of that kind."""
        return sum(isinstance(layer, PlainCell) and layer.kind == kind for layer in self.layers)

    def _check_mixture(self, mixture: Mapping[str, Tensor]) -> None:
        for kind, mask in self.masks.items():
            if kind not in mixture:
                raise ValueError(f"the mixture lacks the kind of cell {kind!r}")
            shape = list(mixture[kind].shape)
            if shape not in ([*mask.shape], [self.cells_of_kind(kind), *mask.shape]):
                raise ValueError(f"mixture[{kind!r}] is {shape}: it must be {list(mask.shape)}, or one such per cell")

    def _check_path(self, path: Mapping[str, Sequence[int]]) -> None:
        for kind, (edges, choices) in ((kind, mask.shape) for kind, mask in self.masks.items()):
            if kind not in path:
                raise ValueError(f"the path lacks the kind of cell {kind!r}")
            if len(path[kind]) != edges or not all(-1 <= index < choices for index in path[kind]):
                raise ValueError(f"path[{kind!r}] must give each of the {edges} edges an index from -1 to {choices - 1}")

    def forward(self, images: Tensor, mixture: Mapping[str, Tensor], path: Mapping[str, Sequence[int]] | None = None) -> Tensor:
        """Maps images [B, image_channels, H, W] to logits [B, classes].

        The mixture of a kind is [edges, candidates], or [cells of the kind, edges, candidates].
        `path` gives for a kind one candidate index per edge, the only one that runs there, scaled
        by its entry of the mixture; with -1 the edge gives nothing at all, not even the bypass of
        partial channels. A masked candidate that is chosen gives zero. Raises ValueError for a
        mixture or a path of another shape.
        """
        self._check_mixture(mixture)
        if path is not None:
            self._check_path(path)
        older = newer = self.stem(images)
        for layer in self.layers:
            if isinstance(layer, PlainCell):
                weights = mixture[layer.kind]
                weights = weights[layer.position] if weights.dim() == 3 else weights
                chosen = None if path is None else path[layer.kind]
                older, newer = newer, layer([older, newer][-layer.inputs :], weights, chosen)
            else:
                newer = layer(newer)
        features = self.norm(newer).mean(dim=(2, 3))
        return self.classifier(features)
