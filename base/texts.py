"""Short texts for messages: whatever a user's input holds, they fit on a line of a terminal."""

import difflib
import reprlib
from collections.abc import Collection

_LONGEST = 400  # characters of a message
_QUOTED = 80  # characters of a value in it
_GAP = " ... "
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _QUOTED
_SHORT.maxlevel = 3


def escape(text: str) -> str:
    """Returns the text with a space for each line break or tab, and with all else that no terminal
    shows as it is written (control characters, marks that turn the direction, halves of pairs) as
    Python escapes it: \\x1b."""
    if text.isprintable():
        return text
    return "".join(" " if sign.isspace() else sign if sign.isprintable() else _escaped(sign) for sign in text)


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape").decode("ascii")


def one_line(message: object) -> str:
    """Returns the text of `message` on one line, escaped and cut after 400 characters."""
    line = " ".join(escape(str(message)).split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..."


def excerpt(text: object, at: int | None = None) -> str:
    """Returns a text that a message quotes: on one line, escaped, at most 80 characters.

    Of a longer one it is the part around the character `at`; None: the beginning and the end.
    """
    whole = str(text)
    if at is not None and len(whole) > _QUOTED:
        width = _QUOTED - len("... ") - len(" ...")
        first = max(0, min(at - width // 2, len(whole) - width))
        last = first + width
        whole = f"{'... ' if first else ''}{whole[first:last]}{' ...' if last < len(whole) else ''}"
    elif len(whole) > 4 * _QUOTED:  # the rest is not even looked at
        whole = f"{whole[: 2 * _QUOTED]}{_GAP}{whole[-2 * _QUOTED :]}"
    line = " ".join(escape(whole).split())
    if len(line) <= _QUOTED:
        return line
    half = (_QUOTED - len(_GAP)) // 2
    return f"{line[:half]}{_GAP}{line[-half:]}"


def show(value: object) -> str:
    """Returns any value as Python would write it, as `excerpt` quotes a text."""
    if isinstance(value, int) and value.bit_length() > 64:
        return "an integer of more than 64 bits"
    try:
        return excerpt(_SHORT.repr(value))
    except ValueError:  # an integer too large to print, within a list
        return f"a {type(value).__name__}"


def did_you_mean(name: str, known: Collection[str], prefix: str = "") -> str:
    """Returns `; did you mean NAME?` with the nearest known name behind `prefix`; empty if none is
    near.

    If no whole name is near, the last part of dotted names decides: `root` is taken for
    `data.root`.
    """
    if len(name) > _QUOTED:  # no name is, and the comparison takes the square of the length
        return ""
    endings = {key.rpartition(".")[2]: key for key in known}
    close = difflib.get_close_matches(name, known, n=1)
    close = close or [endings[end] for end in difflib.get_close_matches(name.rpartition(".")[2], endings, n=1)]
    return f"; did you mean {prefix}{close[0]}?" if close else ""
