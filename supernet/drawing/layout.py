"""The places of a cell's states and operations: a layered drawing (Sugiyama et al. 1981).

From left to right, columns of states alternate with columns of operations. A line that spans
several columns gets a place of its own in each, so that lines and boxes never overlap. Lengths are
in inches.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from supernet.genotypes.genotype import CellGenotype

SWEEPS = 24  # over all columns, for the order in them and again for the heights


@dataclass(eq=False)
class Item:
    """A box, or with an empty label the place where a line passes a column; (x, y) is its centre, y
    upwards."""

    column: int
    label: str = ""
    operation: bool = False
    width: float = 0.0
    height: float = 0.0
    x: float = 0.0
    y: float = 0.0
    before: list["Item"] = field(default_factory=list, repr=False)
    after: list["Item"] = field(default_factory=list, repr=False)


@dataclass(frozen=True)
class Line:
    """A line from a state through its operation to a node, or, without an operation, from a
    concatenated state to the output."""

    items: tuple[Item, ...]
    operation: str | None


@dataclass(frozen=True)
class Layout:
    """Everything of one drawing: items by column, each column from bottom to top, and the lines
    between them."""

    columns: list[list[Item]]
    lines: list[Line]

    @property
    def boxes(self) -> list[Item]:
        """Returns the items that are boxes."""
        return [item for column in self.columns for item in column if item.label]

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Returns left, right, bottom and top of all items."""
        items = [item for column in self.columns for item in column]
        return (
            min(item.x - item.width / 2 for item in items),
            max(item.x + item.width / 2 for item in items),
            min(item.y - item.height / 2 for item in items),
            max(item.y + item.height / 2 for item in items),
        )


def lay_out(cell: CellGenotype, inputs: int, names: Sequence[str], size: Callable[[str, bool], tuple[float, float]]) -> Layout:
    """Lays out a cell whose states, and at the end the output, have these `names`.

    `size(label, is_operation)` is the width and height of a box.
    """
    layout = _connect(cell, inputs, names)
    for column in layout.columns:
        for item in column:
            item.width, item.height = size(item.label, item.operation) if item.label else (0.0, 0.12)
        # A line that passes a column stays level for all of its width, so that it meets none of the
        # boxes.
        widest = max(item.width for item in column)
        for item in column:
            item.width = widest
    _order(layout.columns)
    _set_heights(layout.columns)
    _straighten(layout)
    _set_columns(layout.columns)
    return layout


def _connect(cell: CellGenotype, inputs: int, names: Sequence[str]) -> Layout:
    """Returns items and lines, not yet placed.

    States stand two columns to the right of the last state that feeds them.
    """
    column_of = [0] * inputs
    for feeds in cell.nodes:
        column_of.append(2 + max((column_of[source] for _, source in feeds), default=0))
    column_of.append(1 + max(column_of))
    columns: list[list[Item]] = [[] for _ in range(column_of[-1] + 1)]

    def add(item: Item) -> Item:
        columns[item.column].append(item)
        return item

    states = [add(Item(column, name)) for column, name in zip(column_of, names, strict=True)]
    lines = []

    def draw(source: int, target: int, operation: str | None) -> None:
        chain = [states[source]]
        for column in range(column_of[source] + 1, column_of[target]):
            last = column == column_of[target] - 1
            chain.append(add(Item(column, operation, True) if operation and last else Item(column)))
        chain.append(states[target])
        for left, right in pairwise(chain):
            left.after.append(right)
            right.before.append(left)
        lines.append(Line(tuple(chain), operation))

    for node, feeds in enumerate(cell.nodes):
        for operation, source in feeds:
            draw(source, inputs + node, operation)
    for state in cell.concat:
        draw(state, len(states) - 1, None)
    return Layout(columns, lines)


def _sweeps(columns: list[list[Item]]) -> Iterator[tuple[list[Item], bool]]:
    """Yields (column, whether the sweep comes from the left), to and fro."""
    for sweep in range(SWEEPS):
        forward = sweep % 2 == 0
        for column in columns if forward else reversed(columns):
            yield column, forward


def _order(columns: list[list[Item]]) -> None:
    """Sorts each column by the mean rank of its items' neighbours and keeps the order with the
    fewest crossings."""
    for column in columns:
        column.reverse()  # the first state on top
    best, fewest = [list(column) for column in columns], _crossings(columns)
    rank = {item: float(number) for column in columns for number, item in enumerate(column)}
    for number, (column, forward) in enumerate(_sweeps(columns), 1):
        wish = {item: _mean([rank[near] for near in (item.before if forward else item.after)], rank[item]) for item in column}
        column.sort(key=wish.__getitem__)
        rank.update({item: float(place) for place, item in enumerate(column)})
        if number % len(columns) == 0 and (crossings := _crossings(columns)) < fewest:
            best, fewest = [list(column) for column in columns], crossings
    for column, order in zip(columns, best, strict=True):
        column[:] = order


def _mean(values: Sequence[float], default: float) -> float:
    return sum(values) / len(values) if values else default


def _crossings(columns: list[list[Item]]) -> float:
    """Returns the number of pairs of lines between neighbouring columns that cross.

    Crossings between operations and the nodes that they feed count a little more: a node's
    operations had better stand together.
    """
    total = 0.0
    for number, (left, right) in enumerate(pairwise(columns)):
        place = {item: number for number, item in enumerate(right)}
        ends = [end for item in left for end in sorted(place[near] for near in item.after)]
        seen = [0] * len(right)
        for end in ends:
            total += sum(seen[end + 1 :]) * (1.01 if number % 2 else 1.0)
            seen[end] += 1
    return total


def _set_heights(columns: list[list[Item]]) -> None:
    """Moves items towards their neighbours, as far as order and distances in their column allow."""
    for column in columns:
        _spread(column, [0.0] * len(column))
    for column, _ in _sweeps(columns):
        wishes = []
        middle = _mean([item.y for item in column], 0.0)
        for item in column:
            # A line that only passes is kept straight: its neighbours pull harder than those of a
            # box.
            near = [(other.y, 1.0 if other.label else 8.0) for other in (*item.before, *item.after)]
            weight = sum(pull for _, pull in near)
            wishes.append(sum(y * pull for y, pull in near) / weight if near else middle)
        _spread(column, wishes)


def _spread(column: list[Item], wishes: Sequence[float]) -> None:
    """Sets y as near to `wishes` as possible, in the mean square, so that nothing overlaps:
    isotonic regression."""
    offsets, offset = [], 0.0
    for number, item in enumerate(column):
        if number:
            offset += _gap(column[number - 1], item)
        offsets.append(offset)
    blocks: list[tuple[float, int]] = []  # (mean, items), rising
    for wish, offset in zip(wishes, offsets, strict=True):
        mean, count = wish - offset, 1
        while blocks and blocks[-1][0] >= mean:
            below_mean, below_count = blocks.pop()
            mean = (mean * count + below_mean * below_count) / (count + below_count)
            count += below_count
        blocks.append((mean, count))
    means = [mean for mean, count in blocks for _ in range(count)]
    for item, mean, offset in zip(column, means, offsets, strict=True):
        item.y = mean + offset


def _gap(below: Item, above: Item) -> float:
    """Returns the least distance of the centres of two neighbours in a column."""
    return (below.height + above.height) / 2 + (0.1 if below.label and above.label else 0.06)


def _straighten(layout: Layout) -> None:
    """Moves the stretches of each line to one height as far as their neighbours leave room."""
    neighbours = {
        item: (column[place - 1] if place else None, column[place + 1] if place + 1 < len(column) else None)
        for column in layout.columns
        for place, item in enumerate(column)
    }
    for line in layout.lines:
        stretch: list[Item] = []
        low, high = -math.inf, math.inf
        for item in (*line.items[1:-1], None):
            bottom, top = -math.inf, math.inf
            if item is not None:
                below, above = neighbours[item]
                bottom = below.y + _gap(below, item) if below else bottom
                top = above.y - _gap(item, above) if above else top
            if item is None or max(low, bottom) > min(high, top):
                level = _mean([passed.y for passed in stretch], 0.0)
                for passed in stretch:
                    passed.y = min(max(level, low), high)
                stretch, low, high = [], -math.inf, math.inf
            if item is not None:
                stretch.append(item)
                low, high = max(low, bottom), min(high, top)


def _set_columns(columns: list[list[Item]]) -> None:
    """Sets x, with wider gaps where lines have to climb."""
    x = 0.0
    for number, column in enumerate(columns):
        width = max(item.width for item in column)
        if number:
            climb = max((abs(item.y - near.y) for item in column for near in item.before), default=0.0)
            x += min(max(0.3, 0.3 * climb), 1.4) + width / 2
        for item in column:
            item.x = x
        x += width / 2
