"""Tables for people, in Markdown."""

from collections.abc import Iterable, Sequence

from base.texts import escape


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns a table with these heads; None is a dash."""
    lines = [columns, *(["-" if cell is None else escape(str(cell)) for cell in row] for row in rows)]
    # A bar within a cell, as in the texts of genotypes, would end it.
    head, *body = (f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)
    return "".join([head, "|---" * len(columns), "|\n", *body])
