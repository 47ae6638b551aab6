"""Four measures of the importance of every operation in a trained supernet, and how well they
agree.

All are larger for what matters more:

- alphas: the weight of the operation in the mixture that the genotype is derived from, the rule of
  DARTS (Liu et al. 2019, section 2.4);
- perturbation: the fall of the supernet's score without the operation (DARTS-PT, Wang et al. 2021,
  section 4.1);
- Shapley value: the mean fall of the score as the operation leaves, over random orders in which all
  of them leave (Shapley-NAS, Xiao et al. 2022, with its stop);
- gradient times weight: -w dL/dw, with the weight w of the operation in the mixture and the
  validation loss L: the rise of the loss without the operation, to first order.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from search.attribution.players import Players
from search.attribution.shapley import ShapleyEstimate, Value, sample_shapley
from search.differentiable.bilevel import first_order
from search.explain.supernets.trained import Candidate, TrainedSupernet
from training.metrics import Batch
from training.optim import frozen, statistics_kept
from training.tasks.task import Batches

ALPHAS, PERTURBATION, SHAPLEY, GRADIENT = MEASURES = ("alphas", "perturbation", "Shapley value", "gradient times weight")
STOP = 0.5
"""The share of the whole score below which a permutation stops, as Shapley-NAS has it."""
Values = Mapping[Candidate, float]
"""A measure of every candidate."""
Spent = Callable[[int], None]
"""A function that is told how many images went through the supernet."""


def alphas(supernet: TrainedSupernet) -> Values:
    """Returns the weight of each candidate; that of an untied one is the mean of its cells."""
    tables = {kind: table if table.ndim == 2 else table.mean(0) for kind, table in supernet.mixture.items()}
    return {one: float(tables[one.kind][one.edge, one.column]) for one in supernet.candidates}


def perturbation(supernet: TrainedSupernet, batches: Batches, spent: Spent) -> Values:
    """Returns the fall of the score over `batches` without each candidate."""
    whole = supernet.scores(batches, supernet.mixture)
    images = int(whole.counts.sum())
    spent(images)
    falls = {}
    for one in supernet.candidates:
        if supernet.is_inert(one):
            falls[one] = 0.0
            continue
        falls[one] = whole.score - supernet.steps.score(batches.epoch(0), supernet.without([one]))
        spent(images)
    return falls


def shapley(
    supernet: TrainedSupernet, batches: Iterator[Sequence[Batch]], generator: torch.Generator, spent: Spent, stop: float = STOP
) -> tuple[Values, ShapleyEstimate]:
    """Returns the Shapley value of each candidate, and the estimate that it is from.

    There is a permutation for each element of `batches`, which are the examples that it sees. The
    players are the `players_of` the supernet, each of which leaves all cells of its kind. The
    others stay, and have the value 0. A permutation stops below the share `stop` of the whole
    score.
    """
    those = players_of(supernet)
    players = Players({kind: _marked(supernet, kind, those) for kind in supernet.space.kinds})

    def values() -> Iterator[Value]:
        for several in batches:
            images = sum(batch.size for batch in several)

            def value(present: Tensor, several: Sequence[Batch] = several, images: int = images) -> float:
                gone = {kind: ~table & players.keep[kind] for kind, table in players.tables(present).items()}
                mixture = {kind: table * ~gone[kind].to(table.device) for kind, table in supernet.mixture.items()}
                score = supernet.steps.score(several, mixture)
                spent(images)
                return score

            yield value

    found = sample_shapley(len(players), values(), generator, stop)
    return dict.fromkeys(supernet.candidates, 0.0) | dict(zip(those, found.mean.tolist(), strict=True)), found


def players_of(supernet: TrainedSupernet) -> list[Candidate]:
    """Returns the candidates that can change something: all but a `none` beside others."""
    return [one for one in supernet.candidates if not supernet.is_inert(one)]


def _marked(supernet: TrainedSupernet, kind: str, those: Sequence[Candidate]) -> Tensor:
    table = torch.zeros_like(supernet.keep[kind])
    for one in those:
        if one.kind == kind:
            table[one.edge, one.column] = True
    return table


def gradient_times_weight(supernet: TrainedSupernet, batches: Batches, spent: Spent) -> Values:
    """Returns -w dL/dw of each candidate, in the unit of the loss, with L the mean over the examples
    of `batches`; of untied cells their sum."""
    steps, bypass = supernet.steps, supernet.architecture.bypass(supernet.mixture)
    kinds = list(supernet.mixture)
    total = {kind: torch.zeros_like(table) for kind, table in supernet.mixture.items()}
    count = 0
    steps.network.train()
    with statistics_kept(steps.network), frozen(list(steps.network.parameters())):
        for batch in batches.epoch(0):
            leaves = {kind: table.clone().requires_grad_() for kind, table in supernet.mixture.items()}
            outputs = steps.outputs(batch, leaves, bypass=bypass)
            loss = supernet.task.evaluation_loss(outputs, batch)
            for kind, gradient in zip(kinds, first_order(loss, [leaves[kind] for kind in kinds]), strict=True):
                total[kind] -= supernet.mixture[kind] * gradient * batch.size
            count += batch.size
            spent(2 * batch.size)
    tables = {kind: (table if table.ndim == 2 else table.sum(0)) / count for kind, table in total.items()}
    return {one: float(tables[one.kind][one.edge, one.column]) for one in supernet.candidates}


def agreement(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Returns Kendall's tau-b of two measures; None where one of them is constant."""
    if len(set(one)) < 2 or len(set(other)) < 2:
        return None
    from scipy.stats import kendalltau  # takes seconds to import

    tau = float(kendalltau(one, other).statistic)
    return tau if np.isfinite(tau) else None


def first_of(values: Values, among: Sequence[Candidate]) -> Candidate:
    """Returns the candidate that a measure puts first; of equals the earlier one."""
    return max(among, key=values.__getitem__)
