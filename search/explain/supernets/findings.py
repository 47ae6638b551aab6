"""The findings about a trained supernet: what each operation of the derived cells is worth, and how
far the measures of that agree."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from base.seeds import new_generator
from search.explain.landscape import Landscape
from search.explain.supernets.margins import TOLERATED, Margin, Together, in_order, paired
from search.explain.supernets.measures import (
    ALPHAS,
    GRADIENT,
    MEASURES,
    PERTURBATION,
    SHAPLEY,
    Values,
    agreement,
    alphas,
    first_of,
    gradient_times_weight,
    perturbation,
    shapley,
)
from search.explain.supernets.plan import Account, Plan, permutations
from search.explain.supernets.trained import LEAST_BATCHES, Candidate, TrainedSupernet
from search.explain.supernets.truth import Truth, truths
from search.history import SearchEpoch


@dataclass(frozen=True)
class RunnerUp:
    """The operation that comes next on an edge."""

    operation: str
    behind: float
    """How much less it is missed than the chosen one: the score without it less that without the
    chosen one, on the same examples. Below 0, perturbation would choose it."""


@dataclass(frozen=True)
class EdgeFinding:
    """What is found of an edge of a derived cell."""

    chosen: Candidate
    margin: Margin | None
    """None where the supernet does not have the operation any more, and for `none` beside others,
    without which nothing changes."""
    runner_up: RunnerUp | None
    """None where there was no other one to compare it with."""
    first: Mapping[str, str]
    """The operation that each measure puts first of those that are left on the edge; empty where
    there is only one."""


@dataclass(frozen=True)
class LeftOut:
    """An edge that the derived cell leaves out, and the operation on it that is missed most."""

    best: Candidate
    fall: float


@dataclass(frozen=True)
class Findings:
    """All that is found of one trained supernet."""

    supernet: TrainedSupernet
    plan: Plan
    images: int
    """Examples that went through the supernet, each as often as it did."""
    score: float
    """Score of the supernet on the examples of the margins."""
    batches: int
    """Number of batches of the margins."""
    examples: int
    """Number of their examples."""
    edges: Sequence[EdgeFinding]
    left_out: Sequence[LeftOut]
    measures: Mapping[str, Values]
    """Values of every candidate by measure."""
    permutations: int
    reached: int
    """Number of times that an operation left, over all permutations, before they stopped."""
    taus: Mapping[str, Mapping[tuple[str, str], float | None]]
    """Kendall's tau of each two measures over the candidates of a kind of cell."""
    together: Together | None
    """Without all operations that could be left out, if there are two or more."""
    one_by_one: Sequence[Together]
    """Without the least missed operation, without the two least missed, and so on."""
    truths: Sequence[Truth]
    """The comparison with a benchmark table; empty without one."""


def find(
    supernet: TrainedSupernet,
    plan: Plan,
    account: Account,
    seed: int,
    history: Sequence[SearchEpoch] = (),
    known: Landscape | None = None,
) -> Findings:
    """Measures everything; `known` is the part of a benchmark table that was searched."""
    seen = supernet.first(plan.margins, LEAST_BATCHES)
    whole = supernet.scores(seen, supernet.mixture)
    examples = int(whole.counts.sum())
    account(examples)

    def measure(gone: Iterable[Candidate]) -> Margin:
        found = supernet.scores(seen, supernet.without(gone))
        account(examples)
        return paired(whole, found)

    margins = {one: measure([one]) for one in supernet.weighed}
    order = sorted(margins, key=lambda one: margins[one].fall)
    free = [one for one in order if margins[one].can_be_left_out]

    def single(one: Candidate) -> float:
        return margins[one].fall

    together = Together(tuple(free), measure(free), sum(map(single, free))) if len(free) > 1 else None
    tolerated = TOLERATED * (1 if supernet.in_percent else abs(whole.score))
    one_by_one = in_order(order, single, measure, tolerated) if len(order) > 1 else []
    shapley_values, estimate = shapley(
        supernet, permutations(supernet, plan, seed, account), new_generator(seed, "permutations"), account
    )
    measures = {
        ALPHAS: alphas(supernet),
        PERTURBATION: perturbation(supernet, supernet.first(plan.ranking), account),
        SHAPLEY: shapley_values,
        GRADIENT: gradient_times_weight(supernet, supernet.first(plan.gradient), account),
    }
    return Findings(
        supernet,
        plan,
        account.images,
        whole.score,
        len(whole.counts),
        examples,
        [_edge(supernet, one, margins.get(one), measures, history) for one in supernet.chosen],
        _left_out(supernet, measures[PERTURBATION]),
        measures,
        len(estimate.whole),
        int(estimate.reached.sum()),
        {kind: _taus(measures, [one for one in supernet.candidates if one.kind == kind]) for kind in supernet.space.kinds},
        together,
        one_by_one,
        [] if known is None else truths(supernet, measures, known),
    )


def _edge(
    supernet: TrainedSupernet,
    chosen: Candidate,
    margin: Margin | None,
    measures: Mapping[str, Values],
    history: Sequence[SearchEpoch],
) -> EdgeFinding:
    on_edge = [one for one in supernet.candidates if (one.kind, one.edge) == (chosen.kind, chosen.edge)]
    if len(on_edge) > 1:
        first = {name: supernet.operation(first_of(values, on_edge)) for name, values in measures.items()}
        falls = {supernet.operation(one): measures[PERTURBATION][one] for one in on_edge}
    else:
        first, falls = {}, _decided(supernet, chosen, history)
    own = falls.pop(supernet.operation(chosen), None)
    runner_up = None
    if falls and own is not None:
        name = max(falls, key=falls.__getitem__)
        runner_up = RunnerUp(name, own - falls[name])
    return EdgeFinding(chosen, margin, runner_up, first)


def _decided(supernet: TrainedSupernet, chosen: Candidate, history: Sequence[SearchEpoch]) -> dict[str, float]:
    """Returns the scores, with their signs changed, that a selection by perturbation compared as it
    decided the edge."""
    source, target = supernet.space.edges[chosen.edge]
    for entry in history:
        compared = (entry.decided or {}).get(chosen.kind, {}).get(f"{source}->{target}", {})
        if supernet.operation(chosen) in compared:
            return {name: -score for name, score in compared.items()}
    return {}


def _left_out(supernet: TrainedSupernet, falls: Values) -> list[LeftOut]:
    kept = {(one.kind, one.edge) for one in supernet.chosen}
    others: dict[tuple[str, int], list[Candidate]] = {}
    for one in supernet.candidates:
        if (one.kind, one.edge) not in kept:
            others.setdefault((one.kind, one.edge), []).append(one)
    return [LeftOut(best, falls[best]) for best in (first_of(falls, those) for those in others.values())]


def _taus(measures: Mapping[str, Values], those: Sequence[Candidate]) -> dict[tuple[str, str], float | None]:
    return {
        (one, other): agreement([measures[one][each] for each in those], [measures[other][each] for each in those])
        for one, other in combinations(MEASURES, 2)
    }


def numbers(found: Findings) -> dict[str, Any]:
    """Returns everything in plain values, as explanation.json has it.

    Scores and falls are in the unit of the score: an accuracy is a share.
    """
    supernet = found.supernet

    def place(one: Candidate) -> dict[str, Any]:
        source, target = supernet.space.edges[one.edge]
        return {"cell": one.kind, "source": source, "target": target, "operation": supernet.operation(one)}

    def interval(margin: Margin) -> dict[str, Any]:
        return {"fall": margin.fall, "low": margin.low, "high": margin.high}

    def several(gone: Together) -> dict[str, Any]:
        return {"without": list(map(place, gone.candidates)), **interval(gone.margin), "sum_of_margins": gone.sum}

    scored_by, plan = supernet.task.scored_by, found.plan
    permutations = {"permutations": found.permutations, "examples_each": plan.permutation, "left": found.reached}
    return {
        "score": {
            "name": scored_by.name,
            "supernet": scored_by.own(found.score),
            "examples": found.examples,
            "batches": found.batches,
        },
        "cost": {
            "examples_through_the_supernet": found.images,
            "at_most": plan.most,
            "passes": plan.passes,
            "epochs_of_the_search": found.images / plan.of_epoch,
        },
        "edges": [
            place(edge.chosen)
            | {
                "margin": None if edge.margin is None else interval(edge.margin),
                "could_be_left_out": edge.margin is not None and edge.margin.can_be_left_out,
                "runner_up": None if edge.runner_up is None else vars(edge.runner_up),
                "first_by": dict(edge.first),
            }
            for edge in found.edges
        ],
        "edges_left_out": [place(edge.best) | {"fall": edge.fall} for edge in found.left_out],
        "together": None if found.together is None else several(found.together),
        "one_by_one": list(map(several, found.one_by_one)),
        "measures": [
            place(one) | {measure: values[one] for measure, values in found.measures.items()} for one in supernet.candidates
        ],
        "measured_on": {PERTURBATION: plan.ranking, GRADIENT: plan.gradient, SHAPLEY: permutations},
        "agreement": {
            kind: [{"measures": list(pair), "kendall_tau": tau} for pair, tau in taus.items()]
            for kind, taus in found.taus.items()
        },
        "truth": [
            {
                "of": truth.name,
                "scale": truth.scale,
                "all_operations": dict(truth.all),
                "operations_of_the_cell": dict(truth.chosen),
                "values": [place(one) | {"value": value} for one, value in truth.values.items()],
            }
            for truth in found.truths
        ],
    }
