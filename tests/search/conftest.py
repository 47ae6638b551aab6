"""What tests of whole searches share."""

from collections.abc import Callable
from typing import Any

import pytest
import torch


def _assert_same(found: Any, expected: Any, where: str = "") -> None:
    """Nested containers with the same tensors, bit for bit, and the same values."""
    assert type(found) is type(expected), where
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            _assert_same(found[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for index, values in enumerate(zip(found, expected, strict=True)):
            _assert_same(*values, f"{where}[{index}]")
    elif isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype and torch.equal(found, expected), where
    else:
        assert found == expected, where


@pytest.fixture
def assert_same() -> Callable[[Any, Any], None]:
    """Raises AssertionError, naming the place, unless both hold the same."""
    return _assert_same
