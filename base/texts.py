"""Short texts for messages."""

import difflib
import reprlib
from collections.abc import Collection

_LONGEST = 400  # characters of a message
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def one_line(message: object) -> str:
    """The text of `message` on one line, cut after 400 characters."""
    line = " ".join(str(message).split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."


def show(value: object) -> str:
    """The value as Python would write it, on one short line, whatever it is."""
    if isinstance(value, int) and value.bit_length() > 64:
        return "an integer of more than 64 bits"
    try:
        return _SHORT.repr(value)
    except ValueError:  # an integer too large to print, within a list
        return f"a {type(value).__name__}"


def did_you_mean(name: str, known: Collection[str], prefix: str = "") -> str:
    """`; did you mean NAME?` with the nearest of the `known` names behind `prefix`; empty where none is near.

    Of dotted names the last part decides where no whole name is near: `root` is meant for `data.root`.
    """
    endings = {key.rpartition(".")[2]: key for key in known}
    close = difflib.get_close_matches(name, known, n=1)
    close = close or [endings[end] for end in difflib.get_close_matches(name.rpartition(".")[2], endings, n=1)]
    return f"; did you mean {prefix}{close[0]}?" if close else ""
