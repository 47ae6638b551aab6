"""Short texts for messages."""

import difflib
import reprlib
from collections.abc import Collection

_LONGEST = 400  # characters of a message
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def one_line(message: object) -> str:
    """Returns the text of `message` on one line, cut after 400 characters."""
    line = " ".join(str(message).split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."


def show(value: object) -> str:
    """Returns any value as Python would write it, on one short line."""
    if isinstance(value, int) and value.bit_length() > 64:
        return "an integer of more than 64 bits"
    try:
        return _SHORT.repr(value)
    except ValueError:  # an integer too large to print, within a list
        return f"a {type(value).__name__}"


def did_you_mean(name: str, known: Collection[str], prefix: str = "") -> str:
    """Returns `; did you mean NAME?` with the nearest known name behind `prefix`; empty if none is
    near.

    If no whole name is near, the last part of dotted names decides: `root` is taken for
    `data.root`.
    """
    endings = {key.rpartition(".")[2]: key for key in known}
    close = difflib.get_close_matches(name, known, n=1)
    close = close or [endings[end] for end in difflib.get_close_matches(name.rpartition(".")[2], endings, n=1)]
    return f"; did you mean {prefix}{close[0]}?" if close else ""
