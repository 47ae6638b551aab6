"""Tests of search/explain/landscape.py: from rows to an array, and tables that are no whole space."""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from base.checks import FieldError, InputError
from search.costs.tabular import Table
from search.explain.landscape import landscape
from search.sampling.encoding import Encoding
from supernet import get_space

Make = Callable[..., Table]


def test_each_architecture_is_at_its_place(make_table: Make) -> None:
    whole = make_table(
        ["nor_conv_3x3", "none", "skip_connect"], lambda places: sum(3**n * place for n, place in enumerate(places)) / 10
    )
    land = landscape(whole)
    assert land.slots == ("0 to 1", "0 to 2", "1 to 2", "0 to 3", "1 to 3", "2 to 3")
    assert land.options == (("none", "skip_connect", "nor_conv_3x3"),) * 6  # the order of the space
    for text, row in whole.rows.items():
        assert land.values[land.index(text)] == row.test_accuracy
        assert land.text(land.index(text)) == text
    np.testing.assert_array_equal(landscape(whole, "cifar10_valid_12").values, land.values + 20)


def test_operations_that_no_space_knows_are_taken_in_their_order(make_table: Make) -> None:
    land = landscape(make_table(["wide", "none", "narrow"]))
    assert land.options[0] == ("none", "wide", "narrow")


def test_the_operations_of_a_search_are_a_part_of_the_table(make_table: Make) -> None:
    whole = make_table(get_space("nasbench201").candidates[:4], max)
    encoding = Encoding(get_space("nasbench201"), ["none", "avg_pool_3x3"])
    land = landscape(whole, encoding=encoding)
    assert land.options == (("skip_connect", "nor_conv_1x1", "nor_conv_3x3"),) * 6
    for values in itertools.product(range(len(encoding.operations)), repeat=6):
        assert land.values[values] == whole[encoding.genotype(encoding.of_values(values))].test_accuracy


def test_an_architecture_that_is_absent_is_named(make_table: Make) -> None:
    whole = make_table(["none", "skip_connect"])
    absent = "|skip_connect~0|+|none~0|none~1|+|none~0|none~1|none~2|"
    part = Table({text: row for text, row in whole.rows.items() if text != absent})
    with pytest.raises(FieldError, match=r"tabular: has 63 of the 64 architectures .* and no \|skip_connect~0\|"):
        landscape(part)
    with pytest.raises(FieldError, match="has 64 of the 15,625 architectures of the space nasbench201"):
        landscape(whole, encoding=Encoding(get_space("nasbench201")))


def test_a_table_has_nothing_of_another_space(make_table: Make) -> None:
    with pytest.raises(FieldError, match=r"tabular.*the space 'darts' has others"):
        landscape(make_table(["none", "skip_connect"]), encoding=Encoding(get_space("darts")))


@pytest.mark.parametrize(
    "text", ["", "nonsense", "|none~0|+|none~0|none~1|", "|none~0|+|none~0|none~1|+|none~0|none~1|pool~2|"]
)
def test_architectures_that_are_not_there(text: str, make_table: Make) -> None:
    with pytest.raises(InputError):
        landscape(make_table(["none", "skip_connect"])).index(text)


def test_published_table(shared_data: Callable[[str], Path]) -> None:
    whole = Table.read(shared_data("nasbench201/cifar10.csv.gz"))
    land = landscape(whole)
    assert land.values.shape == (5,) * 6
    assert land.options[0] == get_space("nasbench201").candidates
    text = list(whole.rows)[6111]
    assert land.values[land.index(text)] == whole.rows[text].test_accuracy
