"""What the tests of explanations share."""

import itertools
from collections.abc import Callable, Sequence

import pytest

from search.costs.tabular import Table, TableRow


def _table(operations: Sequence[str], score: Callable[[tuple[int, ...]], float] = sum) -> Table:
    """All architectures of these operations, with scores of the places of theirs."""
    rows = {}
    for places in itertools.product(range(len(operations)), repeat=6):
        one, two, three, four, five, six = (operations[place] for place in places)
        value = float(score(places))
        text = f"|{one}~0|+|{two}~0|{three}~1|+|{four}~0|{five}~1|{six}~2|"
        rows[text] = TableRow(value, value + 10, value + 20, 1, 1, {})
    return Table(rows)


@pytest.fixture
def make_table() -> Callable[..., Table]:
    """Makes a whole table of operations and a score."""
    return _table
