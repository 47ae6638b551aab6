"""Selection: the operations of a trained supernet that stay."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from base.checks import between, choices
from base.seeds import new_generator
from search.differentiable.relaxations import Mixture
from supernet import SearchSpace

Candidates = dict[str, Tensor]
"""The candidates that there are, for each kind of cell, bool [edges, candidates] on the CPU."""
Score = Callable[[Mixture], float]
"""Score of the supernet under a mixture; more is better."""
WHOLE = "*"
"""The name, among candidates, of all those of an edge together."""


@dataclass(frozen=True, eq=False)
class Decision:
    """A decision of a selection by perturbation on one kind of cell."""

    keep: Tensor
    """The candidates that are kept, bool [edges, candidates]."""
    scores: Mapping[int, Mapping[str, float]]
    """The score of the supernet without a candidate, by edge and candidate (`WHOLE`: without the
    edge), of all that was compared."""


@dataclass
class SelectionConfig:
    """The choice of the genotype once alphas and weights are trained."""

    name: Literal["strength", "perturbation"] = "strength"
    """strength: the space's rule on the weights of the candidates; perturbation: what costs most
    of the score when it is missing (DARTS-PT), edge by edge, with more training in between."""
    tune_epochs: int = 5
    """Perturbation: epochs of training between two decisions."""

    def __post_init__(self) -> None:
        choices(self)
        between(1, 1000, self, "tune_epochs")

    @property
    def needs_last_epoch(self) -> bool:
        """Says whether the selection begins after the last epoch of the search, which has to come
        there."""
        return self.name == "perturbation"


def strongest(space: SearchSpace, keep: Candidates, mixture: Mapping[str, Tensor], count: int) -> Candidates:
    """Keeps the `count` heaviest of the candidates that each edge still has (DrNAS, Chen et al.
    2021).

    With `count` 1, `none` is not kept if the space's genotypes cannot contain it. Untied mixtures
    [cells, edges, candidates] are averaged.
    """
    kept = {}
    for kind, table in mixture.items():
        weights = table.detach().double().cpu()
        weights = weights if weights.ndim == 2 else weights.mean(0)
        weights = weights.masked_fill(~keep[kind], -torch.inf)
        if count == 1:
            weights = weights.masked_fill(~choosable(space), -torch.inf)
        # The sort is stable, so that ties go to the earlier candidate, as when a genotype is
        # derived.
        best = weights.sort(dim=-1, descending=True, stable=True).indices[:, :count]
        kept[kind] = torch.zeros_like(keep[kind]).scatter(-1, best, True) & keep[kind]
    return kept


def perturbation_rounds(space: SearchSpace) -> int:
    """Returns the number of rounds of a selection by perturbation: one an edge, one a node that
    keeps some of its inputs."""
    return len(space.edges) + len(_wide_nodes(space))


def _wide_nodes(space: SearchSpace) -> list[int]:
    """Returns the nodes that have more inputs than a genotype keeps."""
    kept = space.derived_inputs
    return [node for node in range(space.inputs, space.inputs + space.nodes) if kept is not None and node > kept]


class Perturbation:
    """Selection by perturbation (DARTS-PT, Wang et al. 2021, algorithm 1).

    Each round decides one edge of every kind of cell, in an order drawn from `seed`: the operation
    without which the score falls most stays. If the space keeps only some inputs of a node, rounds
    follow that decide one such node of every kind: the edges that are missed least are taken away.

    It looks at the whole mixture, even if every step of the search ran a single path (GDAS).
    """

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self.space = space
        self._edges = {
            kind: torch.randperm(len(space.edges), generator=new_generator(seed, "perturbation", kind)).tolist()
            for kind in space.kinds
        }
        wide = _wide_nodes(space)
        self._nodes = {
            kind: [wide[place] for place in torch.randperm(len(wide), generator=new_generator(seed, "nodes", kind))]
            for kind in space.kinds
        }
        self.rounds = perturbation_rounds(space)

    def decide(self, number: int, kind: str, keep: Tensor, mixture: Mixture, score: Score) -> Decision:
        """Decides round `number` (from 0) for one kind of cell, of which `keep`, bool
        [edges, candidates], are the candidates so far.

        `mixture` is that of the supernet now. A candidate is taken away by the weight 0; other
        weights stay as they are.
        """
        edges = self._edges[kind]
        if number < len(edges):
            return self._decide_operation(edges[number], kind, keep, mixture, score)
        return self._decide_inputs(self._nodes[kind][number - len(edges)], kind, keep, mixture, score)

    def _decide_operation(self, edge: int, kind: str, keep: Tensor, mixture: Mixture, score: Score) -> Decision:
        present = (keep[edge] & choosable(self.space)).nonzero().flatten().tolist()
        scores = {column: score(without(mixture, kind, edge, column)) for column in present} if len(present) > 1 else {}
        if scores:
            present = [min(scores, key=scores.__getitem__)]
        kept = keep.clone()
        kept[edge] = False
        kept[edge, present] = True
        named = {self.space.candidates[column]: value for column, value in scores.items()}
        return Decision(kept, {edge: named} if named else {})

    def _decide_inputs(self, node: int, kind: str, keep: Tensor, mixture: Mixture, score: Score) -> Decision:
        kept = keep.clone()
        into = [edge for edge, (_, target) in enumerate(self.space.edges) if target == node and kept[edge].any()]
        scores = {edge: score(without(mixture, kind, edge)) for edge in into}
        kept[sorted(into, key=scores.__getitem__)[self.space.derived_inputs :]] = False
        return Decision(kept, {edge: {WHOLE: value} for edge, value in scores.items()})


def choosable(space: SearchSpace) -> Tensor:
    """Returns the candidates that a genotype of the space can have, bool [candidates]."""
    return torch.tensor([space.derived_inputs is None or name != "none" for name in space.candidates])


def without(mixture: Mixture, kind: str, edge: int, column: int | None = None) -> Mixture:
    """Returns the mixture with weight 0 for one candidate of an edge, or for all of them; other
    weights stay as they are.

    Untied cells lose it all together.
    """
    table = mixture[kind].clone()
    table[..., edge, slice(None) if column is None else column] = 0
    return mixture | {kind: table}
