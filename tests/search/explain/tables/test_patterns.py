"""Tests of search/explain/tables/patterns.py: the known numbers of NAS-Bench-201, and small tables."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from search.costs.tabular import Table
from search.explain.landscape import Landscape, landscape
from search.explain.tables.patterns import pattern_parts, pattern_sentences, patterns


def test_patterns_of_the_published_table(shared_data: Callable[[str], Path]) -> None:
    found = {one.name: one for one in patterns(landscape(Table.read(shared_data("nasbench201/cifar10.csv.gz"))))}

    def shown(name: str) -> tuple[int, float, int]:
        return found[name].count, round(found[name].mean, 2), round(100 * found[name].of_best)

    skip = "skip_connect straight from an input to the output, and nor_conv_3x3 on a path of at least 2 operations"
    only = "only skip_connect, nor_conv_1x1, nor_conv_3x3"
    assert shown(skip) == (1749, 91.20, 90)
    assert shown(f"{only}, and nor_conv_3x3 on a path of at least 2 operations") == (633, 92.73, 41)
    assert shown(only)[:2] == (729, 92.28)


def test_the_pattern_that_decides(make_table: Callable[..., Table]) -> None:
    operations = ["none", "skip_connect", "mine"]
    data = make_table(operations, lambda places: 60 + 30 * (places[3] == 1 and places[0] == places[4] == 2))
    land = landscape(data)
    found = patterns(land)
    assert len({one.name for one in found}) == len(found)
    together = [one for one in found if len(one.parts) > 1]
    name = "skip_connect straight from an input to the output, and mine on a path of at least 2 operations"
    best = next(pattern for pattern in together if pattern.name == name)
    assert best.of_best == 1 and max(found, key=lambda one: one.of_best / one.share) is best
    assert not any("nor_conv" in one.name or "pool" in one.name for one in found)
    for pattern in found:
        assert 0 < pattern.count < 729 and pattern.share == pytest.approx(pattern.count / 729)
    assert best.name in pattern_sentences(found)[0] and best.name in "".join(map(str, pattern_parts(found)))
    # By hand: skip on 0 to 3; mine with no none on 0-1-3, on 0-2-3 or on 0-1-2-3.
    has = 0
    for text in data.rows:
        one, two, three, four, five, six = (operations[place] for place in land_places(land, text))
        paths = [(one, five), (two, six), (one, three, six)]
        has += four == "skip_connect" and any("mine" in path and "none" not in path for path in paths)
    assert best.count == has


def land_places(land: Landscape, text: str) -> list[int]:
    return [("none", "skip_connect", "mine").index(land.options[slot][place]) for slot, place in enumerate(land.index(text))]


def test_a_table_of_one_operation_has_no_pattern() -> None:
    slots = ("0 to 1", "0 to 2", "1 to 2", "0 to 3", "1 to 3", "2 to 3")
    land = Landscape(slots, (("mine",),) * 6, np.ones((1,) * 6))
    assert patterns(land) == [] == pattern_sentences([])
    assert "No pattern" in str(pattern_parts([])[0])
