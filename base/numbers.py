"""Numbers in texts: each is written in one way, and means the same in a file and on the command
line."""

import re
from collections.abc import Callable

MOST_DIGITS = 1000
"""Characters of a number: far above any use, and below what the conversion takes long for."""
ONE_WAY = "a number has decimal digits alone and no leading zero; a text that looks like one stands in quotes"
"""The answer to a text that `is_ambiguous`."""

_WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
# The numbers of YAML 1.1 that other readers take for another number or for text: 010 (eight or
# ten), 1_000, 0x1f, 0b11, 1:30 (ninety or text), and the same with a fraction.
_AMBIGUOUS = re.compile(
    r"""[-+]?(?: 0[0-9_]+ (?:\.[0-9_]*)? (?:[eE][-+]?[0-9]+)?
    | 0[xX][0-9a-fA-F_]+ | 0[bB][01_]+ | 0[oO][0-7_]+
    | [0-9][0-9_]*_[0-9_]* (?:\.[0-9_]*)? (?:[eE][-+]?[0-9]+)? | [0-9]+ \.[0-9_]*_[0-9_]* (?:[eE][-+]?[0-9]+)?
    | [0-9][0-9_]* (?: :[0-5]?[0-9])+ (?:\.[0-9_]*)? )""",
    re.VERBOSE,
)


def is_ambiguous(text: str) -> bool:
    """Returns whether some readers take `text` for a number that it is not to others."""
    return _AMBIGUOUS.fullmatch(text) is not None


def is_number(text: str) -> bool:
    """Returns whether `text` is a number, in decimal digits, perhaps with a fraction and an
    exponent."""
    return _NUMBER.fullmatch(text) is not None


def is_whole(text: str) -> bool:
    """Returns whether `text` is a whole number in decimal digits."""
    return _WHOLE.fullmatch(text) is not None


def parse_whole(text: str) -> int:
    """Returns the whole number that `text` is.

    Raises ValueError, whose message is the reason or empty, for anything else.
    """
    return int(_checked(text, is_whole))


def parse_number(text: str) -> float:
    """Returns the number that `text` is: infinity for one beyond the largest of 64 bits.

    Raises ValueError, whose message is the reason or empty, for anything else.
    """
    return float(_checked(text, is_number))


def _checked(text: str, is_right: Callable[[str], bool]) -> str:
    if len(text) > MOST_DIGITS and is_number(text):
        raise ValueError(f"a number has at most {MOST_DIGITS} digits")
    if len(text) <= MOST_DIGITS and is_ambiguous(text):
        raise ValueError(ONE_WAY)
    if not is_right(text):
        raise ValueError
    return text
