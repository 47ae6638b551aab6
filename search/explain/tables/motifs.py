"""Motifs that separate good architectures from bad: parts that some of the trials have."""

import itertools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from search.sampling.encoding import ABSENT, Encoding, Genome

LEAST = 8
"""Trials that have a motif at least, and that lack it, for a comparison."""
STRAIGHT = "skip_connect straight from an input to the output"
"""Name of a property; see `properties`."""
_NORMAL_SHARE = 0.975


@dataclass(frozen=True)
class Difference:
    """The difference between two means, with its interval of 95% (Welch 1947)."""

    value: float
    low: float
    high: float
    p: float
    """Two-sided p-value of no difference."""


@dataclass(frozen=True)
class Motif:
    """A part of architectures, and the scores with and without it."""

    name: str
    is_pair: bool
    """Whether it is two decisions together."""
    count: int
    """Trials that have it."""
    mean_with: float
    mean_without: float
    score: Difference
    """With less without, of the scores."""
    rank: Difference
    """The same of their ranks, 0 to 100."""
    adjusted: float
    """p-value of the ranks, adjusted for the number of motifs (Benjamini & Hochberg 1995): among
    the motifs at most at 0.05, a share of 0.05 is expected to be there by chance."""


def motifs(
    encoding: Encoding,
    genomes: Sequence[Genome],
    names: Sequence[Sequence[str]],
    scores: np.ndarray,
    ranks: np.ndarray,
) -> list[Motif]:
    """Compares the trials with and without each motif, the surest first.

    `names` are those of the options of each decision of the encoding. The motifs are every option,
    every pair of options, and what `structures` finds. Motifs that fewer than `LEAST` trials have,
    or lack, are left out, and so are those that the same trials have as one before.
    """
    values = np.array([encoding.values(genome) for genome in genomes])
    single = {name: values[:, slot] == option for slot, known in enumerate(names) for option, name in enumerate(known)}
    of_slot = [[(name, single[name]) for name in known] for known in names]
    built = structures(encoding, genomes)
    pairs = {
        f"{one} and {other}": first & second
        for left, right in itertools.combinations(of_slot, 2)
        for (one, first), (other, second) in itertools.product(left, right)
    }
    found: list[tuple[str, bool, np.ndarray, Difference, Difference]] = []
    seen: set[bytes] = set()
    for is_pair, group in ((False, single), (False, built), (True, pairs)):
        for name, has in group.items():
            if not LEAST <= has.sum() <= len(has) - LEAST or has.tobytes() in seen:
                continue
            seen.add(has.tobytes())
            found.append((name, is_pair, has, difference(scores[has], scores[~has]), difference(ranks[has], ranks[~has])))
    adjusted = benjamini_hochberg(np.array([rank.p for *_, rank in found]))
    made = [
        Motif(name, is_pair, int(has.sum()), float(scores[has].mean()), float(scores[~has].mean()), score, rank, float(p))
        for (name, is_pair, has, score, rank), p in zip(found, adjusted, strict=True)
    ]
    return sorted(made, key=lambda motif: (motif.adjusted, motif.rank.p, -abs(motif.rank.value)))


def difference(ones: np.ndarray, others: np.ndarray) -> Difference:
    """Returns the mean of `ones` minus that of `others`, each at least two, with its interval."""
    from scipy.stats import t  # slow to import

    value = float(ones.mean() - others.mean())
    parts = np.array([ones.var(ddof=1) / len(ones), others.var(ddof=1) / len(others)])
    error = float(np.sqrt(parts.sum()))
    if error == 0:
        return Difference(value, value, value, float(value == 0))
    freedom = parts.sum() ** 2 / (parts**2 / [len(ones) - 1, len(others) - 1]).sum()
    reach = error * float(t.ppf(_NORMAL_SHARE, freedom))
    return Difference(value, value - reach, value + reach, float(2 * t.sf(abs(value) / error, freedom)))


def benjamini_hochberg(p: np.ndarray) -> np.ndarray:
    """Returns the p-values adjusted for their number: [n], in the order of `p`."""
    order = np.argsort(p)
    scaled = p[order] * len(p) / np.arange(1, len(p) + 1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.minimum.accumulate(scaled[::-1])[::-1])
    return adjusted


def structures(encoding: Encoding, genomes: Sequence[Genome]) -> dict[str, np.ndarray]:
    """Returns which architectures have each of the `properties` of each kind of cell:
    {name: bool [n]}."""
    space = encoding.space
    names = [space.candidates[column] for column in encoding.operations]
    found: dict[str, np.ndarray] = {}
    for row, genome in enumerate(genomes):
        for number, kind in enumerate(space.kinds):
            where = "" if len(space.kinds) == 1 else f" in the {kind} cell"
            columns = genome[number * len(space.edges) : (number + 1) * len(space.edges)]
            edges = [
                (source, target, space.candidates[column])
                for (source, target), column in zip(space.edges, columns, strict=True)
                if column != ABSENT
            ]
            for name in properties(edges, space.inputs, space.concat, names):
                found.setdefault(name + where, np.zeros(len(genomes), bool))[row] = True
    return found


def properties(
    edges: Sequence[tuple[int, int, str]], inputs: int, outputs: Collection[int], names: Sequence[str]
) -> Iterator[str]:
    """Yields the properties of the graph of a cell.

    They are: an operation on some path from an input to the output, on one of at least 2
    operations, and nowhere in the cell; a skip connection straight from an input to the output; the
    length of the longest path. A path has no operation none. `edges` are (source, target, name of
    the operation) in the order of their targets, `outputs` the nodes that the output consists of,
    `names` the operations that are asked for.
    """
    used = [edge for edge in edges if edge[2] != "none"]
    before = dict.fromkeys(range(inputs), 0)  # operations on the longest path to a node
    for source, target, _ in used:
        if source in before:
            before[target] = max(before.get(target, 0), before[source] + 1)
    after = dict.fromkeys(outputs, 0)  # and from it to the output
    for source, target, _ in reversed(used):
        if target in after:
            after[source] = max(after.get(source, 0), after[target] + 1)
    longest: dict[str, int] = {}
    for source, target, name in used:
        if source in before and target in after:
            longest[name] = max(longest.get(name, 0), before[source] + 1 + after[target])
    here = {name for _, _, name in edges}
    for name in names:
        if name in longest:
            yield f"{name} on a path from an input to the output"
            if longest[name] > 1:
                yield on_longer_path(name)
        if name not in here:
            yield f"no {name}"
    if any(source < inputs and target in outputs and name == "skip_connect" for source, target, name in used):
        yield STRAIGHT
    depth = max((before[node] for node in outputs if node in before), default=0)
    yield from (f"a path of at least {least} operation{'s' if least > 1 else ''}" for least in range(1, depth + 1))


def on_longer_path(name: str) -> str:
    """Returns the property of an operation on a path that passes through a node between."""
    return f"{name} on a path of at least 2 operations"
