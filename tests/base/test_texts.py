"""Whatever a text holds, a message shows it on one line, within bounds, and no terminal obeys it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from base.checks import FieldError, InputError
from base.texts import as_wide, csv_cell, did_you_mean, escape, excerpt, label, one_line, show, width


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("café ± 中", "café ± 中"),
        ("red \x1b[31m", "red \\x1b[31m"),
        ("two\nlines\tand\r\na third", "two lines and  a third"),
        ("turned \u202egnp.exe", "turned \\u202egnp.exe"),
        ("half \udcff of a pair", "half \\udcff of a pair"),
        ("\x00\x7f\x9b", "\\x00\\x7f\\x9b"),
        ("no\xa0break", "no break"),
    ],
)
def test_escape(text: str, shown: str) -> None:
    assert escape(text) == shown


@given(st.text(st.characters(), max_size=300), st.none() | st.integers(0, 300))
def test_everything_that_is_quoted_is_short_and_printable(text: str, at: int | None) -> None:
    for quoted in (excerpt(text, at), show(text), show([text, {text: text}])):
        assert len(quoted) <= 100 and quoted.isprintable()
    assert one_line(text).isprintable()
    assert str(InputError("a", text)).isprintable()
    assert str(FieldError("field", text).within("part")).isprintable()


def test_an_excerpt_has_what_matters() -> None:
    assert excerpt("short") == "short"
    long = "begin" + "x" * 5000 + "HERE" + "y" * 5000 + "end"
    assert excerpt(long).startswith("beginx") and excerpt(long).endswith("yend")
    assert "HERE" in excerpt(long, at=5005) and excerpt(long, at=5005).startswith("... x")
    assert excerpt(long, at=0).startswith("beginx") and excerpt(long, at=len(long)).endswith("yend")


@pytest.mark.parametrize(
    "value",
    [10**5000, [10**5000], {"a": 10**5000}, "x" * 10**6, [["x" * 1000] * 1000] * 1000],
    ids=["number", "list", "mapping", "text", "lists"],
)
def test_values_of_any_size_are_shown(value: object) -> None:
    assert len(show(value)) <= 80


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("cat", "cat"),
        (" a\n cat ", "a cat"),
        ("cafe\u0301", "café"),
        ("\x1b[2Jcat\u202e", "\\x1b[2Jcat\\u202e"),
        ("", "''"),
        ("\n", "'\\n'"),
        ("begin" + "x" * 10**6 + "end", "beginxxx…xxxxxend"),
        ("猫" * 9, "猫猫猫猫…猫猫猫猫"),
    ],
)
def test_names_in_tables(name: str, shown: str) -> None:
    assert label(name, 17) == shown


@given(st.text(st.characters(), max_size=200), st.integers(1, 40))
def test_a_name_in_a_table_has_its_columns(name: str, most: int) -> None:
    shown = label(name, most)
    assert shown.isprintable() and (width(shown) <= most or not name.strip()) and len(shown) <= 2 * most + 1
    assert width(as_wide(shown, 300)) == 300


def test_accents_without_end_are_cut() -> None:
    assert len(label("a" + "\u0301" * 1000)) <= 81


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=SUM(A1)", "'=SUM(A1)"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        ("@x", "'@x"),
        ("\t=1", "' =1"),
        ("|a~0|", "|a~0|"),
        ("\x1b\n", "\\x1b "),
    ],
)
def test_no_cell_is_a_formula(text: str, cell: str) -> None:
    assert csv_cell(text) == cell


def test_the_nearest_name() -> None:
    assert did_you_mean("epoch", ["epochs", "cells"]) == "; did you mean epochs?"
    assert did_you_mean("root", ["data.root"], "--") == "; did you mean --data.root?"
    assert did_you_mean("x" * 10**6, ["epochs"]) == ""
