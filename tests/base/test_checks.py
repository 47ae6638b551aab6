"""Tests of base/checks.py."""

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from base.checks import check_choices, check_whole


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
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_whole(name, value)


@dataclass
class Base:
    order: Literal["first", "second"] = "first"


@dataclass
class Config(Base):
    name: str = "anything"
    every: Literal[1, 2] | None = None


def test_choices_are_taken():
    check_choices(Config())
    check_choices(Config("second", "x", 2))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"order": "third"}, "data.order: must be one of first, second, not third"),
        ({"order": "FIRST"}, "data.order: must be one of first, second, not FIRST"),
        ({"order": None}, "data.order: must be one of first, second, not null"),
        ({"order": ["first\n"]}, r"data.order: must be one of first, second, not \['first\\n'\]"),
        ({"every": 3}, "data.every: must be one of 1, 2, null, not 3"),
    ],
)
def test_other_choices_are_refused(values: dict[str, Any], message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_choices(Config(**values), "data.")
