"""The layered layout: columns in order, nothing overlapping, lines in one piece."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet.drawing.layout import Layout, lay_out
from supernet.genotypes.genotype import CellGenotype

EPSILON = 1e-9


def place(cell: CellGenotype, inputs: int) -> Layout:
    names = [f"in{number}" for number in range(inputs)] + [f"node{number}" for number in range(len(cell.nodes))] + ["out"]
    return lay_out(cell, inputs, names, lambda label, operation: (0.1 * len(label), 0.25 if operation else 0.46))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_nothing_overlaps(data: st.DataObject) -> None:
    inputs, count = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 7))
    nodes = tuple(
        tuple(data.draw(st.lists(st.tuples(st.just("operation"), st.integers(0, inputs + node - 1)), max_size=4)))
        for node in range(count)
    )
    cell = CellGenotype(nodes, tuple(data.draw(st.lists(st.integers(0, inputs + count - 1), min_size=1, unique=True))))
    layout = place(cell, inputs)
    for column in layout.columns:
        assert len({item.x for item in column}) == 1
        for below, above in pairwise(column):
            assert above.y - above.height / 2 >= below.y + below.height / 2 + 0.05 - EPSILON
    for left, right in pairwise(layout.columns):
        assert right[0].x - right[0].width / 2 >= left[0].x + left[0].width / 2 + 0.3 - EPSILON
    for line in layout.lines:
        assert [item.column for item in line.items] == list(range(line.items[0].column, line.items[-1].column + 1))
    bottom, top = layout.extent[2:]
    tallest = max(sum(item.height + 0.1 for item in column) for column in layout.columns)
    assert top - bottom <= 3 * tallest + 1  # nothing drifts away
    assert len(layout.boxes) == inputs + count + 1 + sum(map(len, nodes))


def test_lines_say_what_the_cell_says() -> None:
    cell = CellGenotype(((("a", 0), ("b", 1)), (("c", 2), ("d", 0))), (3, 2))
    lines = [(line.items[0].label, line.operation, line.items[-1].label) for line in place(cell, 2).lines]
    assert lines == [
        ("in0", "a", "node0"), ("in1", "b", "node0"), ("node0", "c", "node1"), ("in0", "d", "node1"),
        ("node1", None, "out"), ("node0", None, "out"),
    ]  # fmt: skip
    for line in place(cell, 2).lines:
        assert [item.label for item in line.items[1:-1] if item.label] == ([line.operation] if line.operation else [])


def test_columns_follow_the_flow() -> None:
    cell = CellGenotype(((("a", 0),), (("b", 1),), (("c", 0),)), (3,))
    columns = {box.label: box.column for box in place(cell, 1).boxes}
    assert columns == {"in0": 0, "a": 1, "c": 1, "node0": 2, "node2": 2, "b": 3, "node1": 4, "out": 5}


def test_a_chain_is_straight() -> None:
    cell = CellGenotype(tuple((("operation", node),) for node in range(5)), (5,))
    assert len({round(box.y, 6) for box in place(cell, 1).boxes}) == 1


def test_avoidable_crossings_are_avoided() -> None:
    # In the order of their numbers, all the lines of nodes 0 and 2 would cross.
    cell = CellGenotype(((("a", 2),), (("b", 1),), (("c", 0),)), (3, 4, 5))
    layout = place(cell, 3)
    heights = {box.label: box.y for box in layout.boxes}
    assert heights["in0"] > heights["in1"] > heights["in2"] or heights["in0"] < heights["in1"] < heights["in2"]
    assert (heights["node2"] > heights["node1"] > heights["node0"]) == (heights["in0"] > heights["in2"])


@pytest.mark.parametrize("inputs", [1, 2])
def test_a_long_line_runs_level_where_it_can(inputs: int) -> None:
    chain = [(("operation", inputs - 1),), *((("operation", inputs + node),) for node in range(3))]
    chain.append((("operation", inputs + 3), ("skip", 0)))
    layout = place(CellGenotype(tuple(chain), (inputs + 4,)), inputs)
    (skip,) = (line for line in layout.lines if line.operation == "skip")
    assert len({round(item.y, 6) for item in skip.items[1:-1]}) == 1
