"""Tests of training/run/schema.py."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from base.checks import FieldError, Name, above_zero
from training.run.schema import build, convert_value, fields_in_order, leaves_of, parse_value


@dataclass
class Part:
    """A part."""

    low: float = 1.0
    """Smallest."""
    high: float = 2.0
    """Largest:
    two lines of text."""

    def __post_init__(self) -> None:
        above_zero(self, "high")
        if self.low > self.high:
            raise FieldError("low", "must be below ", Name("high"), f" = {self.high}")


@dataclass
class Outer:
    """A part of parts."""

    first: Part = field(default_factory=Part)
    """One."""
    second: Part = field(default_factory=lambda: Part(high=5.0))
    """Another."""


@dataclass
class Base:
    """The fields of all."""

    seed: int = field(default=0, kw_only=True)
    """Seed."""
    part: Part = field(default_factory=Part, kw_only=True)
    """Part of all."""


@dataclass
class Whole(Base):
    """The whole."""

    outer: Outer = field(default_factory=Outer)
    """Parts."""
    name: str = ""
    """Name."""


def test_own_fields_come_before_those_of_the_base_and_nested_ones_last():
    assert [entry.name for entry in fields_in_order(Whole)] == ["name", "seed", "part", "outer"]


def test_leaves_have_dotted_names_defaults_of_the_whole_and_the_text_under_the_field():
    leaves = leaves_of(Whole)
    assert list(leaves) == [
        "name", "seed", "part.low", "part.high", "outer.first.low", "outer.first.high", "outer.second.low",
        "outer.second.high",
    ]  # fmt: skip
    assert leaves["outer.second.high"] == (float, 5.0, "Largest: two lines of text.")


def test_a_part_is_called_what_the_whole_calls_it():
    values = {name: leaf.default for name, leaf in leaves_of(Whole).items()}
    with pytest.raises(FieldError) as caught:
        build(Whole, values | {"outer.second.low": 9.0})
    assert caught.value.field == "outer.second.low"
    assert str(caught.value) == "outer.second.low: must be below outer.second.high = 5.0"
    with pytest.raises(FieldError, match=r"^part\.high: must be above 0, not -1$"):
        build(Whole, values | {"part.high": -1})


@pytest.mark.parametrize(
    ("hint", "text", "value"),
    [
        (int, "3", 3),
        (int, "+3", 3),
        (float, "1e-3", 0.001),
        (float, "3", 3.0),
        (float, "9" * 400, int("9" * 400)),
        (float, "1e400", float("inf")),
        (bool, "false", False),
        (str, "null", "null"),
        (str | None, "null", None),
        (str | None, "3", "3"),
        (str | None, "", ""),
        (int | None, "~", None),
        (Path, "a/b", Path("a/b")),
        (Literal["a", 1], "1", 1),
        (Literal["a"] | None, "a", "a"),
        (list[int], "[1, 2]", [1, 2]),
        (tuple[float, ...], "[1, 2]", (1.0, 2.0)),
        (tuple[int, str], "[1, a]", (1, "a")),
        (dict[str, float], "{a: 1e-3}", {"a": 0.001}),
    ],
)
def test_texts_of_the_command_line(hint: Any, text: str, value: Any):
    read = parse_value("x", hint, text)
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    ("hint", "text", "problem"),
    [
        (int, "010", "must be a whole number, not 010 (a number has decimal digits alone and no leading zero; "),
        (int, "0x10", "must be a whole number, not 0x10 (a number has decimal digits alone "),
        (int, "1_0", "must be a whole number, not 1_0 (a number has decimal digits alone "),
        (float, "1:30", "must be a number, not 1:30 (a number has decimal digits alone "),
        (float, "01.5", "must be a number, not 01.5 (a number has decimal digits alone "),
        (int, "٣", "must be a whole number, not ٣"),
        (int, "9" * 1001, "must be a whole number, not 999"),
        (int, '!!int ""', 'must be a whole number, not !!int "" (tags (!name) are not read here; write the value alone)'),
        (int | None, "010", "must be a whole number or null, not 010 (a number has "),
        (list[int], "[010]", "must be a list, each entry a whole number, not [010] (a number has "),
        (list[str], 2000 * "[", "must be a list, each entry text, not [["),
        (list[str], f"[{20_000 * 'a,'}]", "must be a list, each entry text, not [a,a,"),
        (int, "1e3", "must be a whole number, not 1e3"),
        (int, "true", "must be a whole number, not true"),
        (int, "", "must be a whole number, not ''"),
        (int, "9" * 5000, "must be a whole number, not 999"),
        (int | None, "", "must be a whole number or null, not ''"),
        (float, "nan", "must be a number, not nan"),
        (bool, "1", "must be true or false, not 1"),
        (list[str], "[1]", "must be a list, each entry text, not [1]"),
        (list[str], "[a", "must be a list, each entry text, not [a"),
        (tuple[int, int], "[1]", "must be a list [a whole number, a whole number], not [1]"),
        (dict[str, int], "{1: 2}", "must be a mapping, each value a whole number, not {1: 2}"),
    ],
)
def test_texts_that_stand_for_no_value(hint: Any, text: str, problem: str):
    with pytest.raises(FieldError) as caught:
        parse_value("x", hint, text)
    assert caught.value.field == "x" and caught.value.problem.startswith(problem)


@pytest.mark.parametrize(
    ("hint", "given", "value"),
    [(float, "1e-3", 0.001), (int, "3", 3), (str | None, "null", "null"), (list[int], [1], [1]), (float, 3, 3.0)],
)
def test_values_of_files(hint: Any, given: Any, value: Any):
    read = convert_value("x", hint, given)
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    ("hint", "given", "problem"),
    [
        (int, True, "must be a whole number, not True"),
        (int, 1.0, "must be a whole number, not 1.0"),
        (bool, "true", "must be true or false, not true"),
        (str, 3, "must be text, not 3"),
        (str, None, "must be text, not null"),
        (Literal[1], True, "must be one of 1, not True"),
    ],
)
def test_values_of_files_of_another_type(hint: Any, given: Any, problem: str):
    with pytest.raises(FieldError, match=f"^x: {problem}$"):
        convert_value("x", hint, given)


def test_a_class_that_no_file_has_has_no_texts():
    space: dict[str, Any] = {}
    exec(
        "from dataclasses import dataclass\n@dataclass\nclass Typed:\n    x: int = 1\n    '''Some.'''\n",
        space | {"__name__": "typed"},
        space,
    )
    assert leaves_of(space["Typed"])["x"] == (int, 1, "")
