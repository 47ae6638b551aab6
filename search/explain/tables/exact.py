"""The exact analysis of a benchmark table: what decides the accuracy, and its rank, in the whole
space."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from base.checks import FieldError, InputError
from base.texts import show
from search.costs.tabular import Table
from search.explain import decomposition
from search.explain.explanation import Explanation
from search.explain.landscape import Landscape, landscape
from search.explain.tables.parts import draw_bars, draw_heat_map, percent, unbroken
from search.explain.tables.patterns import BEST as BEST_OF_PATTERNS
from search.explain.tables.patterns import pattern_parts, pattern_sentences, patterns
from training.report.html import Markup, Page, details, drawing, element, facts, figure, paragraph, table, warning

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BEST = 0.05
"""Share of the architectures that operation importance is told of: the best."""
_REDUNDANT = (0.1, 0.3, 0.5)  # points; Wan et al. 2022 call an operation redundant below the first
_NEEDED = 0.5  # points
_MOST_PAIRS = 5


@dataclass(frozen=True, eq=False)
class Measure:
    """The analysis of one quantity over all architectures."""

    name: str
    """"accuracy" or "rank"."""
    unit: str
    values: np.ndarray
    """See `search.explain.decomposition`."""
    variances: Mapping[decomposition.Slots, float]
    main: np.ndarray
    total: np.ndarray
    shapley: np.ndarray
    means: Sequence[np.ndarray]

    @classmethod
    def of(cls, name: str, unit: str, values: np.ndarray) -> "Measure":
        """Analyses `values`. Raises ValueError where all are equal."""
        return cls(
            name,
            unit,
            values,
            decomposition.anova(values),
            decomposition.main_effects(values),
            decomposition.total_effects(values),
            decomposition.shapley_effects(values),
            decomposition.marginal_means(values),
        )

    def interactions(self, most: int | None = None) -> list[tuple[tuple[int, ...], float]]:
        """Returns the interactions of two slots or more as shares of the variance, the largest
        first."""
        whole = sum(self.variances.values())
        shares = [(tuple(sorted(slots)), part / whole) for slots, part in self.variances.items() if len(slots) > 1]
        return sorted(shares, key=lambda one: -one[1])[:most]


@dataclass(frozen=True)
class Importance:
    """Operation importance in the best architectures, in points of accuracy."""

    count: int
    """Number of those architectures."""
    least: float
    most: float
    """Their accuracies, in percent."""
    by_slot: Mapping[str, float]
    """Median importance of each slot."""
    by_operation: Mapping[str, tuple[float, float]]
    """Share of the slots that each operation fills, and its median importance."""
    within: Mapping[float, float]
    """Share of the slots whose importance is at most so far from 0, by that limit."""
    above_one: float
    negative: float
    """Share of the slots whose importance is above one point, and below 0."""
    needed: float
    """Median number of slots of an architecture whose importance is above `_NEEDED` points."""


@dataclass(frozen=True)
class Step:
    """A step of an ablation path."""

    slot: str
    operation: str
    """Operation of the architecture, which the edge has from here on."""
    accuracy: float
    """Accuracy after it, in percent."""


@dataclass(frozen=True)
class Ablation:
    """The greedy path to an architecture; see `decomposition.ablation_path`."""

    base: str
    """Architecture from which it starts."""
    accuracy: float
    """Its accuracy, in percent."""
    steps: Sequence[Step]


def _steps(land: Landscape, base: Sequence[int], index: Sequence[int]) -> list[Step]:
    path = decomposition.ablation_path(land.values, base, index)
    return [Step(land.slots[slot], land.options[slot][index[slot]], accuracy) for slot, accuracy in path]


def importance(land: Landscape, best: float = BEST) -> Importance:
    """Returns the operation importance in the share `best` of all architectures, at least one; of
    equals the first in the order of the space."""
    values = land.values.ravel()
    count = max(1, int(best * values.size))
    chosen = np.argsort(-values, kind="stable")[:count]
    found = decomposition.operation_importance(land.values).reshape(values.size, -1)[chosen]
    options = np.stack(np.unravel_index(chosen, land.values.shape), 1)
    names = np.array([[known[option] for known, option in zip(land.options, row, strict=True)] for row in options.tolist()])
    known = [bool(np.isfinite(column).all()) for column in found.T]  # a slot with one option has no neighbours
    there = found[:, known]
    return Importance(
        count,
        float(values[chosen].min()),
        float(values[chosen].max()),
        {slot: float(np.median(column)) for slot, column, is_known in zip(land.slots, found.T, known, strict=True) if is_known},
        {
            name: (float((names == name).mean()), float(np.median(there[names[:, known] == name])))
            for name in dict.fromkeys(itertools.chain.from_iterable(land.options))
            if (names[:, known] == name).any()
        },
        {limit: float((np.abs(there) <= limit).mean()) for limit in _REDUNDANT},
        float((there > 1).mean()),
        float((there < 0).mean()),
        float(np.median((there > _NEEDED).sum(1))),
    )


def analyse(land: Landscape) -> tuple[Measure, Measure]:
    """Returns the analyses of accuracy and of its rank.

    Raises FieldError for a table whose accuracies are all equal.
    """
    if land.values.min() == land.values.max():
        raise FieldError("tabular", "all accuracies of the column are equal, so that nothing is to be explained")
    ranked = decomposition.ranks(land.values)
    return Measure.of("accuracy", "%", land.values), Measure.of("rank", "", ranked)


def choose(data: Table, land: Landscape, asked: str | None, option: str = "architecture") -> str:
    """Returns the architecture that is `asked` for, by its text or its number in the table, counted
    from 0; None is the best one.

    Raises FieldError, with the name of the `option`, for one that is not in the table.
    """
    if asked is None:
        return land.text([int(place) for place in np.unravel_index(land.values.argmax(), land.values.shape)])
    try:
        if asked.isdecimal() and len(asked) < 10:
            rows = list(data.rows)
            if int(asked) >= len(rows):
                raise InputError(f"the table has the architectures 0 to {len(rows) - 1}, not {asked}")
            return rows[int(asked)]
        land.index(asked)
    except InputError as error:
        raise FieldError(option, str(error)) from None
    if asked not in data.rows:
        raise FieldError(option, f"is not in the table: {show(asked)}")
    return asked


def simplest(land: Landscape) -> str:
    """Returns the architecture with skip_connect on every edge; an edge that never has it has its
    first operation other than none, if there is one."""

    def of(known: Sequence[str]) -> int:
        if "skip_connect" in known:
            return known.index("skip_connect")
        return next((option for option, name in enumerate(known) if name != "none"), 0)

    return land.text([of(known) for known in land.options])


def explain(
    data: Table,
    name: str,
    column: str,
    architecture: str | None = None,
    pictures: bool = True,
    base: str | None = None,
) -> Explanation:
    """Analyses the accuracies in a `column` of a table, which is called `name` on the page, and the
    `architecture`, as `choose` has it, step by step from the `base` (default: `simplest`).

    Raises FieldError for a table that is not whole.
    """
    from scipy.stats import kendalltau, spearmanr  # slow to import

    land = landscape(data, column)
    accuracy, rank = analyse(land)
    chosen = choose(data, land, architecture)
    index = land.index(chosen)
    start = simplest(land) if base is None else choose(data, land, base, "from")
    path = Ablation(start, float(land.values[land.index(start)]), _steps(land, land.index(start), index))
    best = importance(land)
    seen = patterns(land)
    shap = {one.name: decomposition.shap(one.values, index) for one in (accuracy, rank)}
    additive = decomposition.additive(land.values).ravel()
    flat = land.values.ravel()
    linear = {
        "kendall_tau": float(kendalltau(additive, flat).statistic),
        "spearman": float(spearmanr(additive, flat).statistic),
    }
    numbers = {
        "kind": "table",
        "table": data.fingerprint,
        "column": column,
        "architectures": flat.size,
        "slots": list(land.slots),
        "options": [list(known) for known in land.options],
        "measures": {one.name: measure_numbers(one, land) for one in (accuracy, rank)},
        "additive": linear,
        "operation_importance": _importance_numbers(best),
        "patterns": {"best": BEST_OF_PATTERNS, "found": [asdict(one) for one in seen]},
        "architecture": {
            "text": chosen,
            "values": {one.name: float(one.values[index]) for one in (accuracy, rank)},
            "shap": {which: dict(zip(land.slots, map(float, values), strict=True)) for which, values in shap.items()},
            "ablation": asdict(path),
        },
    }
    said = [*sentences(accuracy, land), *sentences(rank, land), *_sentences_of_best(best), *pattern_sentences(seen)]
    said += [*_sentences_of_one(chosen, accuracy, index, shap["accuracy"], land), _sentence_of_path(path)]
    said.append(
        f"An additive explanation, the sum of the mean effects of the edges, orders the architectures with a Kendall tau of "
        f"{linear['kendall_tau']:.3f} and a Spearman correlation of {linear['spearman']:.3f}."
    )
    figures = _figures((accuracy, rank), land, best, shap) if pictures else {}
    page = Page(
        "What decides in the table",
        paragraph("The exact analysis of ", element("code", name), f", column {column}."),
    )
    page.section(
        "In short",
        facts(
            {
                "architectures": f"{flat.size:,}",
                "mean accuracy": f"{flat.mean():.2f}%",
                "standard deviation": f"{flat.std():.2f}",
                "best": f"{flat.max():.2f}%",
            }
        ),
        *map(paragraph, said),
    )
    for one in (accuracy, rank):
        page.section(_heading(one), *measure_parts(one, land, figures))
    page.section(f"Operation importance in the best {100 * BEST:g}%", *_importance_parts(best, land))
    page.section("Patterns", *pattern_parts(seen))
    page.section(
        "One architecture",
        *_architecture_parts(chosen, (accuracy, rank), index, shap, land, figures),
        *_path_parts(path),
    )
    return Explanation(page, numbers, said, figures)


# In words


def sentences(one: Measure, land: Landscape) -> list[str]:
    """Returns the findings about a measure in words."""
    first = int(one.shapley.argmax())
    last = int(one.shapley.argmin())
    orders = decomposition.by_order(one.variances)
    of = "the accuracy" if one.name == "accuracy" else "the rank of the accuracy"
    said = [
        f"Edge {land.slots[first]} has the largest part in {of}: {percent(one.shapley[first])} of its variance by Shapley "
        f"effects, {percent(one.main[first])} by itself and {percent(one.total[first])} with all interactions.",
        f"Edge {land.slots[last]} has the smallest part in {of}: {percent(one.shapley[last])}.",
        f"Single edges explain {percent(orders[0])} of the variance of {of}"
        + (f", pairs another {percent(orders[1])}." if len(orders) > 1 else "."),
    ]
    for slot, means in enumerate(one.means):
        high, low = int(means.argmax()), int(means.argmin())
        if slot == first:
            said.append(
                f"On edge {land.slots[slot]} the mean {'accuracy' if one.name == 'accuracy' else 'rank'} is highest with "
                f"{land.options[slot][high]}, {means[high]:.2f}{one.unit}, and lowest with {land.options[slot][low]}, "
                f"{means[low]:.2f}{one.unit}."
            )
    return said


def _sentences_of_best(best: Importance) -> list[str]:
    if not best.by_slot:
        return []
    order = sorted(best.by_slot, key=lambda slot: -best.by_slot[slot])
    limit = _REDUNDANT[0]
    return [
        f"In the best {best.count:,} architectures, from {best.least:.2f}% to {best.most:.2f}%, edge {order[0]} matters most: "
        f"another operation there costs {best.by_slot[order[0]]:.2f} points (median), and on edge {order[-1]} "
        f"{best.by_slot[order[-1]]:.2f}.",
        f"In them {percent(best.within[limit])} of the edges are redundant, with at most {limit:g} points either way, and "
        f"{percent(best.negative)} have an operation that is worse than the mean of the others; "
        f"{best.needed:g} of {len(best.by_slot)} edges of a cell are worth more than {_NEEDED:g} points (median).",
    ]


def _sentences_of_one(text: str, accuracy: Measure, index: tuple[int, ...], shap: np.ndarray, land: Landscape) -> list[str]:
    order = np.argsort(-shap)
    parts = ", ".join(f"{land.slots[slot]} {land.options[slot][index[slot]]} {shap[slot]:+.2f}" for slot in order.tolist())
    return [
        f"The architecture {text} has {accuracy.values[index]:.2f}%, a random one {accuracy.values.mean():.2f}%; the edges "
        f"account for the difference of {shap.sum():+.2f} points: {parts}."
    ]


def _sentence_of_path(path: Ablation) -> str:
    if not path.steps:
        return f"It is the base {path.base} itself, so that no step leads to it."
    steps = ", ".join(f"{step.slot} {step.operation} {step.accuracy:.2f}%" for step in path.steps)
    return f"Step by step from {path.base}, {path.accuracy:.2f}%, each time the edge that helps most: {steps}."


# As numbers


def measure_numbers(one: Measure, land: Landscape) -> dict[str, Any]:
    """Returns the analysis of a measure in plain values."""
    whole = sum(one.variances.values())
    return {
        "mean": float(one.values.mean()),
        "variance": whole,
        "main": dict(zip(land.slots, map(float, one.main), strict=True)),
        "total": dict(zip(land.slots, map(float, one.total), strict=True)),
        "shapley": dict(zip(land.slots, map(float, one.shapley), strict=True)),
        "by_order": [float(share) for share in decomposition.by_order(one.variances)],
        "shares": {
            " with ".join(land.slots[slot] for slot in sorted(slots)): part / whole for slots, part in one.variances.items()
        },
        "means": {
            slot: dict(zip(known, map(float, means), strict=True))
            for slot, known, means in zip(land.slots, land.options, one.means, strict=True)
        },
    }


def _importance_numbers(best: Importance) -> dict[str, Any]:
    return {
        "architectures": best.count,
        "accuracies": [best.least, best.most],
        "median": dict(best.by_slot),
        "operations": {name: {"share": share, "median": median} for name, (share, median) in best.by_operation.items()},
        "at_most": {f"{limit:g}": share for limit, share in best.within.items()},
        "above_1": best.above_one,
        "negative": best.negative,
        "median_slots_above_0.5": best.needed,
    }


# As parts of the page


def _heading(one: Measure) -> str:
    return "Accuracy" if one.name == "accuracy" else "Rank of the accuracy"


def measure_parts(one: Measure, land: Landscape, figures: Mapping[str, "Figure"]) -> list[Markup]:
    """Returns the tables and figures of a measure."""
    parts: list[Markup] = []
    if one.name == "rank":
        parts.append(
            paragraph(
                "The rank is the percentage of architectures with a lower accuracy, and half of those with the same. It "
                "counts a cell that cannot learn as one place below the next, where the accuracy has it tens of points below."
            )
        )
    parts += [
        table(
            ["edge", "main effect", "Shapley effect", "total effect"],
            [
                (unbroken(slot), percent(main), percent(shapley), percent(total))
                for slot, main, shapley, total in zip(land.slots, one.main, one.shapley, one.total, strict=True)
            ],
            right=(1, 2, 3),
        ),
        *_drawn(figures, f"effects/{one.name}", f"Effects of each edge on the {one.name}"),
        paragraph(
            "Shares of the variance: the main effect is that of an edge by itself, the total effect has all interactions "
            "that the edge takes part in, and the Shapley effect divides each interaction equally among its edges."
        ),
        table(
            ["order of the interaction", "share of the variance"],
            [(order, percent(share)) for order, share in enumerate(decomposition.by_order(one.variances), start=1)],
            right=(0, 1),
        ),
    ]
    pairs = one.interactions(_MOST_PAIRS)
    if pairs:
        rows = [(" with ".join(land.slots[slot] for slot in slots), percent(share)) for slots, share in pairs]
        parts.append(details("the largest interactions", table(["edges", "share of the variance"], rows, right=(1,))))
    parts.append(means_table(one, land))
    parts += _drawn(figures, f"means/{one.name}", f"Mean {one.name} with each operation on each edge")
    return parts


def means_table(one: Measure, land: Landscape) -> Markup:
    """Returns the mean with each operation on each edge; a dash where an edge never has it."""
    names = list(dict.fromkeys(itertools.chain.from_iterable(land.options)))
    rows = []
    for slot, known, means in zip(land.slots, land.options, one.means, strict=True):
        of = dict(zip(known, means, strict=True))
        rows.append((unbroken(slot), *(f"{of[name]:.2f}" if name in of else None for name in names)))
    return table([f"mean {one.name} with", *names], rows, right=range(1, len(names) + 1))


def _importance_parts(best: Importance, land: Landscape) -> list[Markup]:
    if not best.by_slot:
        return [warning("No edge has a choice.")]
    limits = {f"at most {limit:g} points from 0": share for limit, share in best.within.items()}
    limits |= {"above 1 point": best.above_one, "below 0": best.negative}
    return [
        paragraph(
            f"The importance of an operation is the accuracy of its architecture minus the mean of those that have another "
            f"operation there and are the same elsewhere (Wan et al. 2022), in points. {best.count:,} architectures, from "
            f"{best.least:.2f}% to {best.most:.2f}%."
        ),
        table(
            ["edge", "median importance"],
            [(unbroken(slot), f"{value:.2f}") for slot, value in best.by_slot.items()],
            right=(1,),
        ),
        table(
            ["operation", "share of the edges", "median importance"],
            [(name, percent(share), f"{median:.2f}") for name, (share, median) in best.by_operation.items()],
            right=(1, 2),
        ),
        table(["importance", "share of the edges"], [(name, percent(share)) for name, share in limits.items()], right=(1,)),
    ]


def _architecture_parts(
    text: str,
    measures: Sequence[Measure],
    index: tuple[int, ...],
    shap: Mapping[str, np.ndarray],
    land: Landscape,
    figures: Mapping[str, "Figure"],
) -> list[Markup]:
    rows: list[tuple[object, ...]] = [
        (unbroken(slot), known[option], *(f"{shap[one.name][place]:+.2f}" for one in measures))
        for place, (slot, known, option) in enumerate(zip(land.slots, land.options, index, strict=True))
    ]
    rows.append(("a random architecture", "", *(f"{one.values.mean():.2f}" for one in measures)))
    rows.append(("this architecture", "", *(f"{one.values[index]:.2f}" for one in measures)))
    return [
        paragraph(element("code", text, class_="long")),
        table(["edge", "operation", "SHAP, points of accuracy", "SHAP, rank"], rows, right=(2, 3)),
        *_drawn(figures, "shap", "SHAP of the architecture"),
        paragraph("The values of the edges add up to the difference to an architecture that is drawn at random."),
    ]


def _path_parts(path: Ablation) -> list[Markup]:
    if not path.steps:
        return []
    before = [path.accuracy, *(step.accuracy for step in path.steps)]
    rows: list[tuple[object, ...]] = [("the base", "", f"{path.accuracy:.2f}", "")]
    rows += [
        (unbroken(step.slot), step.operation, f"{step.accuracy:.2f}", f"{step.accuracy - last:+.2f}")
        for step, last in zip(path.steps, before, strict=False)
    ]
    return [
        paragraph(
            "From the base the architecture is made step by step: of the edges that still differ the one that gives the "
            "highest accuracy comes next."
        ),
        paragraph(element("code", path.base, class_="long")),
        table(["edge", "operation", "accuracy", "difference"], rows, right=(2, 3)),
    ]


def _drawn(figures: Mapping[str, "Figure"], name: str, description: str) -> list[Markup]:
    return [figure(drawing(figures[name], description))] if name in figures else []


def _figures(
    measures: Sequence[Measure], land: Landscape, best: Importance, shap: Mapping[str, np.ndarray]
) -> dict[str, "Figure"]:
    def exact(values: np.ndarray) -> list[tuple[float, float, float]]:
        return [(value, value, value) for value in values.tolist()]

    found = {}
    names = list(dict.fromkeys(itertools.chain.from_iterable(land.options)))
    for one in measures:
        shares = {"main": one.main, "Shapley": one.shapley, "total": one.total}
        groups = {name: exact(100 * values) for name, values in shares.items()}
        found[f"effects/{one.name}"] = draw_bars(land.slots, groups, f"% of the variance of the {one.name}")
        means = np.full((len(land.slots), len(names)), np.nan)
        for row, (known, values) in enumerate(zip(land.options, one.means, strict=True)):
            means[row, [names.index(name) for name in known]] = values
        found[f"means/{one.name}"] = draw_heat_map(land.slots, names, means, f"mean {one.name}")
    found["shap"] = draw_bars(land.slots, {"SHAP": exact(shap["accuracy"])}, "points of accuracy")
    return found
