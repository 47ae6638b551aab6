"""Pareto fronts and crowding distances (NSGA-II, Deb et al. 2002, section III).

Points are rows of finite numbers, one an objective, all of them to be minimised; turn the sign of a
number that shall be large.
"""

import math
from collections.abc import Sequence

Point = Sequence[float]


def dominates(one: Point, other: Point) -> bool:
    """Says whether `one` is nowhere worse than `other` and somewhere better."""
    return all(a <= b for a, b in zip(one, other, strict=True)) and any(a < b for a, b in zip(one, other, strict=True))


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Returns the indices of the points that no other one dominates, in rising order, all equal
    points included."""
    return _front(points, range(len(points)))


def non_dominated_fronts(points: Sequence[Point]) -> list[list[int]]:
    """Returns all indices in fronts: the Pareto front, then that of the points without it, and so
    on; each in rising order."""
    fronts = []
    left = list(range(len(points)))
    while left:
        front = _front(points, left)
        fronts.append(front)
        left = sorted(set(left).difference(front))
    return fronts


def crowding_distances(points: Sequence[Point]) -> list[float]:
    """Returns the distance of the neighbours of each point of one front, summed over the
    objectives.

    For each objective the points are sorted; the first and the last have an infinite distance, each
    of the others the distance of the two beside it, as a share of the whole range. An objective
    that is the same everywhere adds 0 in between.
    """
    distances = [0.0] * len(points)
    for objective in range(len(points[0]) if points else 0):
        order = sorted(range(len(points)), key=lambda index: points[index][objective])
        values = [points[index][objective] for index in order]
        distances[order[0]] = distances[order[-1]] = math.inf
        if (span := values[-1] - values[0]) > 0:
            for index, before, after in zip(order[1:-1], values[:-2], values[2:], strict=True):
                distances[index] += (after - before) / span
    return distances


def _front(points: Sequence[Point], indices: Sequence[int]) -> list[int]:
    # In the order of their coordinates only earlier points can dominate a point, and one of the
    # front does if any does.
    front: list[int] = []
    for index in sorted(indices, key=lambda index: tuple(points[index])):
        if not any(dominates(points[other], points[index]) for other in front):
            front.append(index)
    return sorted(front)
