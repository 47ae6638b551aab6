"""Tests of base/checks.py."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from base.checks import (
    FieldError,
    InputError,
    Name,
    above_zero,
    at_least,
    below_one,
    between,
    check_seed,
    check_whole,
    choices,
    inside,
    share,
    whole,
)
from base.texts import excerpt


@pytest.mark.parametrize(("name", "value"), [("channels", 1), ("channels", 4096), ("threads", None), ("log_every", 10**9)])
def test_values_of_use_are_taken(name, value):
    check_whole(name, value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("cells", 0, "cells: must be at least 1, not 0"),
        ("epochs", -1, "epochs: must be at least 1, not -1"),
        ("channels", 4097, "channels: must be at most 4096, not 4097"),
        ("epochs", 10**18, f"epochs: must be at most 1000000, not {10**18}"),
        ("log_every", 10**30, f"log_every: must be at most 2147483647, not {10**30}"),
    ],
)
def test_others_are_refused(name, value, message):
    with pytest.raises(FieldError, match=f"^{message}$"):
        check_whole(name, value)


@dataclass
class Of:
    """A configuration of one number."""

    x: float | None


@pytest.mark.parametrize(
    ("check", "taken", "refused", "problem"),
    [
        (lambda of: whole(of, "x"), [1, None, 2**31 - 1], [0], "must be at least 1"),
        (lambda of: whole(of, "x"), [], [2**31, 10**400], "must be at most 2147483647"),
        (lambda of: above_zero(of, "x"), [1e-9, 1e-30, 1e30, None], [0, -1, -(10**400), float("nan"), "a"], "must be above 0"),
        (lambda of: above_zero(of, "x"), [], [1e-31, 1e-300], "must be at least 1e-30"),
        (lambda of: above_zero(of, "x"), [], [1e31, 1e308, 10**400, float("inf")], "must be at most 1e+30"),
        (lambda of: above_zero(of, "x", least=0.1, most=2), [0.1, 2], [2.1, 10**400], "must be at most 2"),
        (lambda of: at_least(1, of, "x"), [1, None], [0.9, -(10**400), float("nan"), "a"], "must be at least 1"),
        (lambda of: at_least(1, of, "x", most=2), [1.5], [2.1, 10**400, float("inf")], "must be at most 2"),
        (lambda of: below_one(of, "x"), [0.999999], [0.9999999], "must be at most 0.999999"),
        (lambda of: inside(of, "x"), [1e-6], [1e-300], "must be at least 1e-06"),
        (lambda of: between(2, 4, of, "x"), [2, 4, None], [1.9, 4.1, 10**400, float("nan"), "a"], "must be from 2 to 4"),
        (lambda of: between(2, 4, of, "x", said="a few"), [3], [5], "must be a few"),
        (lambda of: share(of, "x"), [0, 1, None], [-0.1, 1.1, float("nan")], "must be from 0 to 1"),
        (lambda of: below_one(of, "x"), [0, 0.9, None], [-0.1, 1, float("nan")], "must be from 0 to below 1"),
        (lambda of: inside(of, "x"), [0.1, None], [0, 1, float("nan")], "must lie between 0 and 1, both excluded"),
    ],
)
def test_ranges(check: Callable[[Of], None], taken: list[float | None], refused: list[float], problem: str):
    for value in taken:
        check(Of(value))
    for value in refused:
        with pytest.raises(FieldError) as caught:
            check(Of(value))
        assert (caught.value.field, caught.value.problem) == ("x", f"{problem}, not {excerpt(value)}")


@pytest.mark.parametrize("value", [-(2**63), 0, 2**63 - 1])
def test_seeds_are_numbers_of_64_bits(value: int):
    check_seed("seed", value)
    for beyond in (-(2**63) - 1, 2**63, 10**400):
        with pytest.raises(FieldError, match=r"^seed: must be at (least -|most )92233720368547758\d\d, not "):
            check_seed("seed", beyond)


def test_a_number_that_python_does_not_print_is_refused_as_well():
    with pytest.raises(FieldError, match=r"^epochs: must be at most 1000000, not an integer of more than 64 bits$"):
        check_whole("epochs", 10**5000)


def test_what_is_quoted_is_short():
    for value in ("x" * 5000, ["first"] * 5000, "\x1b[2J"):
        with pytest.raises(FieldError) as caught:
            choices(Config(value))  # type: ignore[arg-type]
        assert len(str(caught.value)) < 130 and str(caught.value).isprintable()


@dataclass
class Base:
    order: Literal["first", "second"] = "first"


@dataclass
class Config(Base):
    name: str = "anything"
    every: Literal[1, 2] | None = None


def test_choices_are_taken():
    choices(Config())
    choices(Config("second", "x", 2))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"order": "third"}, "order: must be one of first, second, not third"),
        ({"order": "FIRST"}, "order: must be one of first, second, not FIRST"),
        ({"order": None}, "order: must be one of first, second, not null"),
        ({"order": ["first\n"]}, r"order: must be one of first, second, not \['first\\n'\]"),
        ({"every": 3}, "every: must be one of 1, 2, null, not 3"),
    ],
)
def test_other_choices_are_refused(values: dict[str, Any], message):
    with pytest.raises(FieldError, match=f"^{message}$"):
        choices(Config(**values))


def test_an_error_is_that_of_a_part_of_the_whole():
    error = FieldError("low", "must be below ", Name("high"), " = 3, not 4")
    assert (error.field, error.problem, str(error)) == (
        "low",
        "must be below high = 3, not 4",
        "low: must be below high = 3, not 4",
    )
    assert str(error.within("range").within("config")) == "config.range.low: must be below config.range.high = 3, not 4"
    assert str(FieldError("", "takes both or neither").within("range")) == "range: takes both or neither"
    assert str(FieldError("", "takes both or neither")) == "takes both or neither"


def test_names_follow_where_fields_are_renamed():
    error = FieldError("data.root", "no low in {low}; set --", Name("low"), " lower").renamed(
        lambda name: {"low": "bottom"}.get(name, name)
    )
    assert error.problem == "no low in {low}; set --bottom lower"


def test_errors_of_another_process_are_the_same():
    for error in (InputError("a ", Name("b")), FieldError("low", "must be below ", Name("high"))):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.parts) == (type(error), str(error), error.parts)
        assert [type(part) for part in again.parts] == [type(part) for part in error.parts]
