"""The network of one genotype: its operations alone, with ordinary batch norm, an auxiliary head
and drop path."""

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from base.checks import InputError
from ops import build_op
from ops.functional import new_map, strided_size
from ops.images import batch_norm
from ops.native.entrance import enter, is_entrance
from ops.native.executor import Passes, supports
from ops.native.program import CellProgram, Feed, Shape
from supernet.backbone import Backbone
from supernet.genotypes.genotype import CellGenotype, Genotype
from supernet.recompute import Recompute
from supernet.spaces.skeleton import CellPosition, Size, Skeleton, Stem


class DropPath:
    """Drops outputs of operations for single images, all with the same probability (Zoph et al.
    2018; DARTS, appendix A.2).

    The masks [B, 1, 1, 1] of `count` operations are drawn at once, on the device of the images. A
    probability that is a tensor stays there, too, so that the host never waits.
    """

    def __init__(self, probability: float | Tensor, count: int, like: Tensor):
        keep = 1 - probability
        kept = torch.rand(count, len(like), 1, 1, 1, device=like.device) < keep
        self.masks = kept.to(like.dtype) / keep
        """[count, B, 1, 1, 1]"""
        self._next = iter(self.masks.unbind(0))

    def __call__(self, output: Tensor) -> Tensor:
        """Returns `output` [B, C, H, W], zero for the dropped images and scaled by 1 / (1 -
        probability) for the others."""
        return output * next(self._next)


class DiscreteCell(nn.Module):
    """One cell of a genotype: every node is the sum of its inputs, each an earlier state through
    its operation."""

    def __init__(
        self, cell: CellGenotype, skeleton: Skeleton, position: CellPosition, kernels: Literal["auto", "reference"] = "auto"
    ):
        super().__init__()
        self.kernels = kernels
        self.position = position
        self.concat = cell.concat
        self.sources = [[source for _, source in feeds] for feeds in cell.nodes]
        self.preprocess = skeleton.preprocessing(position, affine=True)
        self.nodes = nn.ModuleList(
            nn.ModuleList(
                build_op(name, position.channels, position.stride if source < skeleton.inputs else 1) for name, source in feeds
            )
            for feeds in cell.nodes
        )
        self._known: tuple[list[nn.Module], Passes | None] | None = None
        self._droppable = sum(not isinstance(operation, nn.Identity) for operation in self._operations())

    def _operations(self) -> Iterator[nn.Module]:
        for operations in self.nodes:
            assert isinstance(operations, nn.ModuleList)
            yield from operations

    def _may_compile(self, *states: Tensor) -> bool:
        """Says whether compiled kernels run: in training alone, since what is evaluated is also
        exported."""
        return self.kernels == "auto" and self.training and torch.is_grad_enabled() and supports(*states)

    def _preprocessed(self, states: Sequence[Tensor]) -> list[Tensor]:
        if self._may_compile(*states) and all(map(is_entrance, self.preprocess)):
            return enter(self.preprocess, states)
        return [layer(state) for layer, state in zip(self.preprocess, states, strict=True)]

    def _compiled(self, state: Tensor) -> Passes | None:
        """Returns the passes that compute the cell in training, for states like `state`; None where
        the modules themselves have to run."""
        operations = list(self._operations())
        if not self._may_compile(state):
            return None
        # A hook expects that its module is called.
        if any(module._forward_hooks or module._forward_pre_hooks for each in operations for module in each.modules()):
            return None
        if self._known is None or any(one is not other for one, other in zip(self._known[0], operations, strict=True)):
            feeds = [
                Feed(operation, source, node)
                for node, (sources, modules) in enumerate(zip(self.sources, self.nodes, strict=True))
                for source, operation in zip(sources, cast(nn.ModuleList, modules), strict=True)
            ]
            position = self.position
            shape = Shape(len(self.preprocess), len(self.nodes), tuple(self.concat), position.stride, position.channels)
            program = CellProgram.of_modules(shape, feeds)
            self._known = operations, None if program is None else Passes(program)
        return self._known[1]

    def forward(self, inputs: Sequence[Tensor], drop_path: float | Tensor = 0.0) -> Tensor:
        """Maps input states to the cell's output [B, len(concat) * C, H, W].

        Paths are dropped with probability `drop_path`.

        The number 0 draws no masks; a tensor always draws them, whatever its value.
        """
        states = self._preprocessed(inputs)
        passes = self._compiled(states[0])
        drops = isinstance(drop_path, Tensor) or drop_path > 0
        drop = DropPath(drop_path, self._droppable, states[0]) if drops else None
        if passes is not None:
            ones = states[0].new_ones(1)
            return passes(states, ones, True, None if drop is None else drop.masks.flatten(1))[0]
        size = strided_size(states[0].shape[2:], self.position.stride)
        for sources, operations in zip(self.sources, self.nodes, strict=True):
            assert isinstance(operations, nn.ModuleList)
            total: Tensor | None = None
            for source, operation in zip(sources, operations, strict=True):
                output = operation(states[source])
                if drop is not None and not isinstance(operation, nn.Identity):
                    output = drop(output)
                total = output if total is None else total + output
            if total is None:
                total = new_map(states[0], self.position.channels, size)
            states.append(total)
        return torch.cat([states[state] for state in self.concat], dim=1)


class AuxiliaryHead(nn.Module):
    """A second classifier, [B, channels, H, W] to [B, classes], that brings gradient into the
    middle of a deep network.

    It is that of DARTS (Liu et al. 2019, appendix A.2): maps of 8x8 (CIFAR-10) are pooled by 5x5
    with stride 3, of 7x7 (ImageNet) with stride 2, others adaptively, to 2x2. Its head for ImageNet
    lacks the second batch norm, an oversight by its authors' own account; here both are the same.
    """

    STRIDES: ClassVar = {(8, 8): 3, (7, 7): 2}

    def __init__(self, channels: int, classes: int):
        super().__init__()
        self.relu = nn.ReLU()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 128, 1, bias=False),
            batch_norm(128),
            nn.ReLU(),
            nn.Conv2d(128, 768, 2, bias=False),
            batch_norm(768),
            nn.ReLU(),
        )
        self.classifier = nn.Linear(768, classes)

    def forward(self, state: Tensor) -> Tensor:
        height, width = state.shape[2:]
        stride, rectified = self.STRIDES.get((height, width)), self.relu(state)
        pooled = F.adaptive_avg_pool2d(rectified, 2) if stride is None else F.avg_pool2d(rectified, 5, stride)
        return self.classifier(self.features(pooled).flatten(1))


class DiscreteNetwork(Backbone):
    """The network of `genotype`, images [B, image_channels, H, W] to logits [B, classes].

    `channels` is C of the first cells, `cells` their number (in NAS-Bench-201's skeleton: of each
    stage); None takes the skeleton's own: 36 and 20 in DARTS, with the mobile stem 48 and 14, and
    16 and 5 a stage in NAS-Bench-201. With `auxiliary` it has a second classifier, for training
    alone, at the place that the skeleton has for it. `stem` names the layers before the cells, see
    `supernet.spaces.skeleton.Stem`; `recompute` is as in `Backbone`. In training the output of
    every operation but the identity is dropped for single images with the probability `drop_path`,
    an attribute that is 0 at first: a number, or a scalar tensor on the device.

    `kernels` decides how cells are computed in training on the CPU: auto, by compiled kernels where
    these can run; reference, by their modules, as always elsewhere.

    Raises InputError for a genotype or numbers that the skeleton has no network for.
    """

    def __init__(
        self,
        genotype: Genotype,
        channels: int | None = None,
        cells: int | None = None,
        classes: int = 10,
        image_channels: int = 3,
        auxiliary: bool = False,
        stem: Stem = "cifar",
        recompute: Recompute = "none",
        kernels: Literal["auto", "reference"] = "auto",
    ):
        skeleton = genotype.skeleton
        default_channels, default_cells = skeleton.default_size(stem)
        channels = default_channels if channels is None else channels
        cells = default_cells if cells is None else cells
        width = {kind: len(cell.concat) for kind, cell in genotype.cells.items()}
        if auxiliary and not skeleton.auxiliary:
            raise InputError(f"the {skeleton.name} skeleton has no place for an auxiliary head; set auxiliary_weight to 0")
        super().__init__(
            skeleton,
            lambda position: DiscreteCell(genotype.cells[position.kind], skeleton, position, kernels),
            Size(channels, cells, width, stem),
            classes,
            image_channels,
            recompute,
        )
        self.genotype = genotype
        self.cell_count = cells
        self.drop_path: float | Tensor = 0.0
        self.auxiliary = self._auxiliary_head(width) if auxiliary else None

    def _auxiliary_after(self) -> nn.Module:
        """Returns the index of the cell whose output the auxiliary head reads."""
        index = self.skeleton.auxiliary_cell(self.cell_count)
        assert index is not None
        return self.cells[index]

    def _auxiliary_head(self, width: Mapping[str, int]) -> AuxiliaryHead:
        position = self._auxiliary_after().position
        assert isinstance(position, CellPosition)
        return AuxiliaryHead(width[position.kind] * position.channels, self.classes)

    def forward(self, images: Tensor) -> Tensor:
        """Maps images [B, image_channels, H, W] to logits [B, classes].

        Raises ValueError for images smaller than 4x4.
        """
        return self.run(images, self._run_cell)

    def forward_with_auxiliary(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the logits and those of the auxiliary head, both [B, classes].

        Raises ValueError if there is no such head.
        """
        if self.auxiliary is None:
            raise InputError("this network has no auxiliary head; build it with auxiliary=True")
        source, seen = self._auxiliary_after(), []

        def run_cell(cell: nn.Module, states: Sequence[Tensor]) -> Tensor:
            output = self._run_cell(cell, states)
            if cell is source:
                seen.append(output)
            return output

        logits = self.run(images, run_cell)
        return logits, self.auxiliary(seen[0])

    def _run_cell(self, cell: nn.Module, states: Sequence[Tensor]) -> Tensor:
        return self.compute(cell, states, self.drop_path if self.training else 0.0)
