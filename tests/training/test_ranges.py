"""Tests of training/ranges.py."""

import pytest

from training.ranges import check_whole


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
