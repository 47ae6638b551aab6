"""Ranges that the whole numbers of a configuration keep to."""

# Far above any use: a slip of the pen by some zeros is said at once.
_MOST = {"channels": 4096, "cells": 1000, "epochs": 1_000_000, "threads": 1024}
_MOST_OF_OTHERS = 2**31 - 1


def check_whole(name: str, value: int | None) -> None:
    """Raises ValueError unless the field `name` is None or from 1 to the largest value that makes sense for it."""
    most = _MOST.get(name, _MOST_OF_OTHERS)
    if value is not None and not 1 <= value <= most:
        raise ValueError(f"{name}: must be at {'least 1' if value < 1 else f'most {most}'}, not {value}")
