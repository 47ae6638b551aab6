"""Search spaces: the parts that a cell may have, and the genotype that a table of weights stands
for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from base.checks import InputError
from base.registry import Registry
from ops.registry import OPERATIONS
from supernet.genotypes.genotype import CellGenotype, Genotype
from supernet.genotypes.parsed import MOST_INPUTS, MOST_STATES
from supernet.spaces.skeleton import Skeleton


@dataclass(frozen=True)
class SearchSpace:
    """A cell of `nodes` intermediate nodes, each fed by every earlier state through one of
    `candidates`.

    States are numbered from 0: the `skeleton.inputs` input states, then the nodes. `concat` are the
    states whose channels are concatenated to the cell's output. `searched_as` names, for a
    candidate, the operation that stands for it in the supernet, if that is another one than in the
    retrained network. `derived_inputs` is the number of inputs that a node keeps when a genotype is
    derived, `none` never among them; None keeps every edge and admits `none`. With
    `batch_statistics` batch norm in the supernet's cells keeps no running statistics and normalises
    with the batch's own in evaluation, too.

    Raises ValueError for a space that contradicts itself.
    """

    name: str
    skeleton: Skeleton
    nodes: int
    candidates: tuple[str, ...]
    concat: tuple[int, ...]
    searched_as: Mapping[str, str] = field(default_factory=dict, hash=False)
    derived_inputs: int | None = None
    batch_statistics: bool = False

    def __post_init__(self) -> None:
        for name in (*self.candidates, *self.searched_as.values()):
            if name not in OPERATIONS:
                raise InputError(f"space {self.name}: {OPERATIONS.unknown(name)}")
        if len(set(self.candidates)) < len(self.candidates) or not self.candidates:
            raise InputError(f"space {self.name}: candidates must be distinct and at least one")
        if self.nodes < 1:
            raise InputError(f"space {self.name}: needs at least one node, not {self.nodes}")
        if self.inputs + self.nodes > MOST_STATES:
            raise InputError(f"space {self.name}: a cell has at most {MOST_STATES - self.inputs} nodes, not {self.nodes}")
        kept = sum(min(target, self.derived_inputs or target) for target in range(self.inputs, self.inputs + self.nodes))
        if kept > MOST_INPUTS:
            raise InputError(f"space {self.name}: nodes of a genotype have at most {MOST_INPUTS} inputs together, not {kept}")
        if not self.concat or not all(self.inputs <= state < self.inputs + self.nodes for state in self.concat):
            raise InputError(f"space {self.name}: concat must name nodes {self.inputs} to {self.inputs + self.nodes - 1}")
        if self.derived_inputs is not None and (self.derived_inputs < 1 or set(self.candidates) == {"none"}):
            raise InputError(f"space {self.name}: derived_inputs must be at least 1, with a candidate other than none, or None")
        if self.skeleton.one_output and len(self.concat) != 1:
            raise InputError(f"space {self.name}: the {self.skeleton.name} skeleton takes cells with one state in concat")

    @property
    def kinds(self) -> tuple[str, ...]:
        """Returns the kinds of cell, the keys of alphas and mixtures."""
        return self.skeleton.kinds

    @property
    def inputs(self) -> int:
        """Returns the number of input states of a cell."""
        return self.skeleton.inputs

    @cached_property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """Returns (source, target) of each edge, ordered by target and then by source: the rows of
        alphas and mixtures."""
        return tuple((source, target) for target in range(self.inputs, self.inputs + self.nodes) for source in range(target))

    @property
    def width(self) -> dict[str, int]:
        """Returns the number of states that a cell of each kind concatenates."""
        return {kind: len(self.concat) for kind in self.kinds}

    def new_alphas(
        self,
        cells: Mapping[str, int] | None = None,
        scale: float = 1e-3,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> dict[str, nn.Parameter]:
        """Returns architecture parameters, `scale` * normal: one [edges, candidates] for each kind
        of cell.

        With `cells`, the number of cells of each kind (`Supernet.cells_of_kind`), there is one
        [cells, edges, candidates] for each kind, as a supernet with `tie_cells=False` takes it.
        They are always float32 (DARTS, section 3.1).
        """
        table = (len(self.edges), len(self.candidates))
        shapes = {kind: table if cells is None else (cells[kind], *table) for kind in self.kinds}
        # They are drawn on the CPU, so that a seed means the same on every device.
        return {
            kind: nn.Parameter((scale * torch.randn(shape, generator=generator)).to(device)) for kind, shape in shapes.items()
        }

    def check_table(self, table: Mapping[str, Tensor], name: str = "mixture") -> None:
        """Raises ValueError unless `table` has one [..., edges, candidates] for each kind of
        cell."""
        if set(table) != set(self.kinds):
            raise ValueError(
                f"{name}: space {self.name} has the kinds {', '.join(self.kinds)}, not {', '.join(table) or 'none'}"
            )
        expected = (len(self.edges), len(self.candidates))
        for kind, values in table.items():
            if tuple(values.shape[-2:]) != expected or values.ndim not in (2, 3):
                raise ValueError(
                    f"{name}[{kind!r}]: expected [edges={expected[0]}, candidates={expected[1]}], got {list(values.shape)}"
                )

    def derive(self, mixture: Mapping[str, Tensor], seed: int | None = None, config_hash: str | None = None) -> Genotype:
        """Returns the genotype that the space's published rule reads off `mixture`, {kind:
        [edges, candidates]}.

        DARTS (section 2.4): each node keeps the two edges whose strongest operation other than none
        is strongest, with that operation. NAS-Bench-201: each edge keeps its strongest operation,
        none included. Ties go to the earlier edge and candidate. `derive` does not know about
        masks: give masked operations the weight 0. Untied mixtures [cells, edges, candidates] are
        averaged over cells. Raises ValueError for a table of another space or one with a value that
        is not finite.
        """
        self.check_table(mixture)
        cells = {}
        for kind, table in mixture.items():
            weights = table.detach().double().cpu()
            if not weights.isfinite().all():
                raise ValueError(f"mixture[{kind!r}]: not finite")
            cells[kind] = self._derive_cell(weights if weights.ndim == 2 else weights.mean(0))
        return Genotype(cells, self.skeleton, self.name, seed, config_hash)

    def random(self, generator: torch.Generator, seed: int | None = None) -> Genotype:
        """Returns the genotype of uniform noise from `generator`: all inputs and operations are
        equally likely."""
        shape = (len(self.edges), len(self.candidates))
        return self.derive({kind: torch.rand(shape, generator=generator) for kind in self.kinds}, seed)

    def _derive_cell(self, weights: Tensor) -> CellGenotype:
        allowed = [index for index, name in enumerate(self.candidates) if self.derived_inputs is None or name != "none"]
        rows = weights[:, allowed]
        strength, best = rows.max(-1).values.tolist(), rows.argmax(-1).tolist()
        nodes = []
        for target in range(self.inputs, self.inputs + self.nodes):
            into = [edge for edge, (_, end) in enumerate(self.edges) if end == target]
            if self.derived_inputs is not None:
                into = sorted(sorted(into, key=lambda edge: -strength[edge])[: self.derived_inputs])
            nodes.append(tuple((self.candidates[allowed[best[edge]]], self.edges[edge][0]) for edge in into))
        return CellGenotype(tuple(nodes), self.concat)


SPACES: Registry[SearchSpace] = Registry(
    "space",
    lazily={
        "darts": "supernet.spaces.darts:DARTS_SPACE",
        "nasbench201": "supernet.spaces.nasbench201:NASBENCH201_SPACE",
    },
    alphabetical=True,
)


def register_space(space: SearchSpace) -> SearchSpace:
    """Makes `space` known by its name and returns it.

    Raises InputError if another space has the name.
    """
    return SPACES.add(space.name, space)


def get_space(name: str) -> SearchSpace:
    """Returns the space of that name. Raises InputError for an unknown one."""
    return SPACES[name]


def list_spaces() -> list[str]:
    """Returns the names of all registered spaces, sorted."""
    return SPACES.names()
