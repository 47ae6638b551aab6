"""Patterns of architectures in a whole table: how good those are that have one, and how many of the
best have it."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from search.explain.landscape import Landscape
from search.explain.tables.motifs import STRAIGHT, on_longer_path, properties
from search.explain.tables.parts import long, percent
from training.report.html import Markup, element, paragraph, table

BEST = 0.01
"""Share of the architectures that count as the best."""
_OUTPUT = 3


@dataclass(frozen=True)
class Pattern:
    """A property of the graph of an architecture, or several together."""

    name: str
    parts: tuple[str, ...]
    """Properties that it consists of; see `search.explain.tables.motifs.properties`."""
    count: int
    """Architectures that have it."""
    mean: float
    """Their mean score, in the unit of the table."""
    share: float
    """Share of all architectures that have it."""
    of_best: float
    """Share of the best architectures that have it."""


def patterns(land: Landscape, best: float = BEST) -> list[Pattern]:
    """Returns the patterns of the table, single properties first.

    Beside all single properties they are: a skip connection straight from input to output with
    another operation on a path of at least 2 operations; neither none nor one of the other
    operations; and the same with an operation on such a path. A pattern of no architecture, of all,
    or of the same ones as a pattern before is left out. The best are the share `best` of all, at
    least one; of equals the first in the order of the space.
    """
    values = land.values.ravel()
    chosen = np.argsort(-values, kind="stable")[: max(1, int(best * values.size))]
    has = _properties_of(land)
    names = list(dict.fromkeys(itertools.chain.from_iterable(land.options)))
    found, seen = [], set()
    for name, parts in itertools.chain(((name, (name,)) for name in has), _together(names)):
        if not all(part in has for part in parts):
            continue
        inside = np.logical_and.reduce([has[part] for part in parts])
        if not 0 < inside.sum() < values.size or inside.tobytes() in seen:
            continue
        seen.add(inside.tobytes())
        mean, count = float(values[inside].mean()), int(inside.sum())
        found.append(Pattern(name, parts, count, mean, count / values.size, float(inside[chosen].mean())))
    return found


def _together(names: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields the name and the properties of each pattern of several."""
    working = [name for name in names if name not in ("none", "skip_connect")]
    for name in working:
        yield f"{STRAIGHT}, and {on_longer_path(name)}", (STRAIGHT, on_longer_path(name))
    for absent in working:
        left = [name for name in names if name not in ("none", absent)]
        only, without = f"only {', '.join(left)}", ("no none", f"no {absent}")
        yield only, without
        for name in working:
            if name != absent:
                yield f"{only}, and {on_longer_path(name)}", (*without, on_longer_path(name))


def _properties_of(land: Landscape) -> dict[str, np.ndarray]:
    """Returns which architectures have each property: {name: bool [architectures]}."""
    ends = [tuple(map(int, slot.split(" to "))) for slot in land.slots]
    names = list(dict.fromkeys(itertools.chain.from_iterable(land.options)))
    found: dict[str, np.ndarray] = {}
    for row, operations in enumerate(itertools.product(*land.options)):
        edges = [(source, target, name) for (source, target), name in zip(ends, operations, strict=True)]
        for name in properties(edges, 1, (_OUTPUT,), names):
            found.setdefault(name, np.zeros(land.values.size, bool))[row] = True
    return dict(sorted(found.items()))


def pattern_sentences(seen: Sequence[Pattern]) -> list[str]:
    """Returns the findings in words."""
    if not seen:
        return []
    dense = max(seen, key=lambda one: one.of_best / one.share)
    high = max(seen, key=lambda one: one.mean)
    return [
        f"The best {100 * BEST:g}% are densest among the {dense.count:,} architectures with this pattern: {dense.name}. "
        f"{percent(dense.of_best)} of the best have it, and {percent(dense.share)} of all.",
        f"The highest mean accuracy, {high.mean:.2f}%, "
        + (
            "is that of the same pattern."
            if high is dense
            else f"is that of the {high.count:,} with this: {high.name}. {percent(high.of_best)} of the best have it."
        ),
    ]


def pattern_parts(seen: Sequence[Pattern]) -> list[Markup]:
    """Returns the tables of the page, the patterns first in which the best are densest."""
    if not seen:
        return [paragraph("No pattern tells architectures of the table apart.")]
    heads = ["pattern", "architectures", "mean accuracy", f"of the best {100 * BEST:g}%"]
    parts = []
    for heading, chosen in (
        ("Single properties", [one for one in seen if len(one.parts) == 1]),
        ("Several together", [one for one in seen if len(one.parts) > 1]),
    ):
        rows = [
            (long(one.name), f"{one.count:,}", f"{one.mean:.2f}", percent(one.of_best))
            for one in sorted(chosen, key=lambda one: -one.of_best / one.share)
        ]
        if rows:
            parts += [element("h3", heading), table(heads, rows, right=(1, 2, 3))]
    return [
        paragraph(
            f"All architectures with a pattern, their mean, and the share of the best {100 * BEST:g}% that have it. First "
            "come those in which the best are densest. A path leads from input to output without none."
        ),
        *parts,
    ]
