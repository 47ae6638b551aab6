"""Short texts for messages: whatever a user's input holds, they fit on a line of a terminal."""

import difflib
import reprlib
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence

_LONGEST = 400  # characters of a message
_QUOTED = 80  # characters of a value in it
_NEAR = 0.65  # likeness, 0 to 1, of a name that may be meant
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
    """Returns the text of `message` on one line, escaped and of at most 400 characters.

    Of a longer one the beginning and the end stay: what is wrong with a long path stands behind it.
    """
    line = " ".join(escape(str(message)).split())
    if len(line) <= _LONGEST:
        return line
    end = _LONGEST // 4
    return f"{line[: _LONGEST - end - len(_GAP)]}{_GAP}{line[-end:]}"


def excerpt(text: object, at: int | None = None) -> str:
    """Returns a text that a message quotes: on one line, escaped, at most 80 characters.

    Of a longer one it is the part around the character `at`; None: the beginning and the end.
    """
    try:
        whole = str(text)
    except ValueError:  # an integer too large to print
        return show(text)
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


def label(name: object, most: int = 40) -> str:
    """Returns a name that somebody's data have, such as that of a class, for a table or a picture:
    on one line, escaped, with letters and their accents in one where there is one, and at most
    `most` columns wide; the middle of a longer one is left out.

    A name without any sign that can be seen is in quotation marks.
    """
    text = str(name)
    looked_at = 8 * most
    line, end = (_on_a_line(part) for part in (text[:looked_at], text[-looked_at:]))
    if len(text) > looked_at or not _fits(line, most):
        line = f"{_beginning(line, most - most // 2 - 1)}…{_beginning(end[::-1], most // 2)[::-1]}"
    return line or repr(text)


def _on_a_line(text: str) -> str:
    return " ".join(escape(unicodedata.normalize("NFC", text)).split())


def _fits(text: str, most: int) -> bool:
    return width(text) <= most and len(text) <= 2 * most  # accents upon accents have no width


def _beginning(text: str, most: int) -> str:
    while not _fits(text, most):
        text = text[:-1]
    return text


def width(text: str) -> int:
    """Returns the number of columns that a terminal gives to an escaped text: two for each wide
    sign of East Asia, none for an accent that stands on the sign before."""
    if text.isascii():
        return len(text)
    marks = sum(unicodedata.category(sign) in ("Mn", "Me") for sign in text)
    return len(text) - marks + sum(unicodedata.east_asian_width(sign) in ("W", "F") for sign in text)


def as_wide(text: str, columns: int) -> str:
    """Returns the text with spaces behind it, so that it is `columns` wide."""
    return text + " " * (columns - width(text))


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yields the lines of a table, with names to the left, numbers to the right of their
    columns."""
    lines = [columns, *rows]
    widths = [max(map(width, column)) for column in zip(*lines, strict=True)]
    for name, *numbers in lines:
        yield "  ".join([as_wide(name, widths[0]), *map(str.rjust, numbers, widths[1:])])


def decimals(value: float | None) -> str:
    """Returns a number with four decimals or, where these would say nothing or too much, with four
    digits; None as a dash."""
    if value is None:
        return "-"
    return f"{value:.4f}" if value == 0 or 0.001 <= abs(value) < 1e5 else f"{value:.4g}"


def csv_cell(text: object) -> str:
    """Returns a text for a cell of a CSV file, escaped; one that a spreadsheet would take for a
    formula, with = + - or @ at its beginning, has an apostrophe before it."""
    cell = escape(str(text))
    return f"'{cell}" if cell.lstrip().startswith(("=", "+", "-", "@")) else cell


def did_you_mean(name: str, known: Collection[str], prefix: str = "") -> str:
    """Returns `; did you mean NAME?` with the nearest known name behind `prefix`; empty if none is
    near.

    If no whole name is near, the last part of dotted names decides: `root` is taken for
    `data.root`.
    """
    if len(name) > _QUOTED:  # no name is, and the comparison takes the square of the length
        return ""
    endings = {key.rpartition(".")[2]: key for key in known}
    close = difflib.get_close_matches(name, known, 1, _NEAR)
    close = close or [endings[end] for end in difflib.get_close_matches(name.rpartition(".")[2], endings, 1, _NEAR)]
    return f"; did you mean {prefix}{close[0]}?" if close else ""
