"""A page of HTML in one file about a run; to show it takes no other file and no script.

Text is escaped wherever it becomes HTML; only `Markup` is taken as it is. It comes from the
functions here, which close each element that they open. Characters that would turn the direction of
the page, or that cannot be seen, are shown as Python writes them.
"""

import base64
import importlib.resources
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape as escape_markup
from pathlib import Path
from typing import TYPE_CHECKING

from base.texts import escape
from training.run.ownership.files import write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE_FILE = "report.html"
_VOID = ("img", "meta")


class Markup(str):
    """Text that is HTML already."""


def element(name: str, /, *content: object, **attributes: object) -> Markup:
    """Returns an element with its content and attributes, all escaped but for `Markup`.

    `class_` and `stroke_width` are written as `class` and `stroke-width`, and an attribute that is
    None is left out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_as_markup(value)}"' for key, value in attributes.items() if value is not None
    )
    return Markup(f"<{name}{written}>" if name in _VOID else f"<{name}{written}>{join(*content)}</{name}>")


def join(*content: object) -> Markup:
    """Joins everything in a row, escaped but for `Markup`."""
    return Markup("".join(part if isinstance(part, Markup) else _as_markup(part) for part in content))


def _as_markup(content: object) -> str:
    return escape_markup("\n".join(map(escape, str(content).split("\n"))))


def paragraph(*content: object) -> Markup:
    return element("p", *content)


def block(text: str) -> Markup:
    """Returns a text to copy, in its own lines."""
    return element("pre", element("code", text))


def details(summary: str, *content: object) -> Markup:
    """Returns a summary and the content that opens with it."""
    return element("details", element("summary", summary), *content)


def warning(*content: object) -> Markup:
    return element("p", *content, class_="warning")


def figure(picture: Markup, caption: object = "", narrowest: int = 0) -> Markup:
    """Returns a picture with a caption; on a screen narrower than `narrowest` pixels it is
    scrolled, not shrunk."""
    shown = element("div", element("div", picture, style=f"min-width:{narrowest}px"), class_="wide") if narrowest else picture
    return element("figure", shown, *([element("figcaption", caption)] if caption else []))


def table(columns: Sequence[object], rows: Iterable[Sequence[object]], right: Collection[int] = ()) -> Markup:
    """Returns a table, with a line of heads if there are any; None is a dash, and the columns in
    `right` (numbers) are right-aligned."""

    def line(name: str, cells: Sequence[object]) -> Markup:
        return element(
            "tr",
            *(
                element(name, "-" if cell is None else cell, class_="number" if place in right else None)
                for place, cell in enumerate(cells)
            ),
        )

    head = [element("thead", line("th", columns))] if columns else []
    body = element("tbody", *(line("td", row) for row in rows))
    return element("div", element("table", *head, body), class_="wide")


def facts(values: Mapping[str, object]) -> Markup:
    """Returns the few numbers that matter most, in large letters, by name; None is left out."""
    tiles = [element("div", element("dt", name), element("dd", value)) for name, value in values.items() if value is not None]
    return element("dl", *tiles, class_="facts")


def drawing(drawn: "Figure", description: str) -> Markup:
    """Returns a matplotlib figure as a vector picture of its natural size, or as wide as there is
    room."""
    from matplotlib import rc_context

    content = io.BytesIO()
    # Without a salt the names of its parts are random.
    with rc_context({"svg.hashsalt": "fusenas"}):
        drawn.savefig(content, format="svg", metadata={"Date": None})
    encoded = base64.b64encode(content.getvalue()).decode()
    width = round(96 * drawn.get_figwidth())
    return element(
        "img", src=f"data:image/svg+xml;base64,{encoded}", alt=description, class_="drawing", style=f"width:{width}px"
    )


class Page:
    """A page that is put together from the top."""

    def __init__(self, title: str, *introduction: object) -> None:
        self.title = title
        self._parts: list[Markup] = [element("header", element("h1", title), *introduction)]

    def section(self, heading: str, *content: object) -> None:
        """Adds a section."""
        self._parts.append(element("section", element("h2", heading), *content))

    def html(self) -> str:
        """Returns the whole page."""
        head = element(
            "head",
            element("meta", charset="utf-8"),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("title", self.title),
            element("style", Markup("\n" + _style())),
        )
        body = element("body", element("main", *self._parts))
        return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"

    def write(self, run: Path) -> Path:
        """Writes report.html in the directory of a run and returns its path.

        Raises OSError where that cannot be done.
        """
        return write_file(run, PAGE_FILE, self.html())


def duration(seconds: float) -> str:
    """Returns a duration as text: 3.2 s, 4 min 10 s, 2 h 05 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def millions(count: float) -> str:
    """Returns a number of parameters or multiply-adds with three digits that count: 73.3 k, 3.35
    M."""
    if count < 999_500:
        return f"{count / 1e3:.3g} k"
    return f"{count / 1e6:.3g} M" if count < 1e9 else f"{count / 1e6:,.0f} M"


def percent(share: float) -> str:
    """Returns a share as text: 97.22%."""
    return f"{100 * share:.2f}%"


def _style() -> str:
    return importlib.resources.files("training.report").joinpath("style.css").read_text(encoding="utf-8")
