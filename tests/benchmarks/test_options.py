"""Tests of benchmarks/options.py."""

import argparse

import pytest

from benchmarks.options import above_zero, at_least, duration


@pytest.mark.parametrize("text", ["1", "+2", str(2**31 - 1)])
def test_whole_numbers(text: str) -> None:
    assert at_least(1)(text) == int(text)


@pytest.mark.parametrize(
    ("text", "limit"),
    [("0", "least 1"), ("", "least 1"), ("x", "least 1"), ("1.5", "least 1"), ("01", "least 1"), ("1_0", "least 1"),
     ("\u0663", "least 1"), (str(2**31), f"most {2**31 - 1}"), ("9" * 400, f"most {2**31 - 1}"), ("9" * 5000, "least 1")],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_what_is_no_whole_number_of_use(text: str, limit: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"^must be a whole number of at {limit}, not ") as caught:
        at_least(1)(text)
    assert len(str(caught.value)) < 140


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1e999", "1_0", "", "x" * 5000, "9" * 400, "\x1b[2J"])
def test_what_is_no_number_above_zero(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"^must be a number above 0, not ") as caught:
        above_zero(text)
    assert len(str(caught.value)) < 120 and str(caught.value).isprintable()


def test_what_is_no_duration() -> None:
    for text in ("x" * 5000, f"{'9' * 400}h", "\x1b[2J"):
        with pytest.raises(argparse.ArgumentTypeError, match=r"^must be a duration above 0 such as 90s, ") as caught:
            duration(text)
        assert len(str(caught.value)) < 150 and str(caught.value).isprintable()
