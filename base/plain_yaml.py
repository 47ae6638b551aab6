"""YAML files that hold plain values: numbers, text, lists and mappings."""

from collections.abc import Hashable
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from base.checks import InputError
from base.files import read_limited
from base.numbers import MOST_DIGITS, ONE_WAY, is_ambiguous, is_number, is_whole, parse_number, parse_whole
from base.texts import excerpt, show

LARGEST_FILE = 2**18
"""Bytes of a file, far above any configuration."""
MOST_VALUES = 1000
"""Numbers, texts, lists and mappings in a file, far above any configuration: the reader needs a
second for some 20,000."""
DEEPEST = 20
"""Lists and mappings within one another."""

_NOTHING = ("", "~", "null", "Null", "NULL")
_TRUTHS = {
    each: truth
    for words, truth in (("yes true on", True), ("no false off", False))
    for word in words.split()
    for each in (word, word.capitalize(), word.upper())
}
_NO_FINITE_NUMBERS = {
    sign + word: float(sign + "inf")
    for sign in ("", "+", "-")
    for word in (".inf", ".Inf", ".INF")
} | dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan"))  # fmt: skip


class PlainError(InputError):
    """A text is no plain YAML.

    `problem` is the reason alone, without the place and what stands there.
    """

    def __init__(self, *parts: str, problem: str = "") -> None:
        super().__init__(*parts)
        self.problem = problem


class _Problem(Exception):
    """Something in a text cannot be used: where, as a mark of the reader, and what stands there."""

    def __init__(self, problem: str, mark: yaml.Mark, quoted: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.line = mark.line
        self.quoted = quoted


def parse_plain(text: str, source: object = "the text") -> Any:
    """Returns the value that a text of YAML stands for.

    Of YAML 1.1 it reads mappings with each key once, lists, texts, truth values, null, and decimal
    numbers. All that makes one text mean several things, or a short one something large, is
    refused: tags, aliases, merge keys, and numbers in other forms. A date is a text.

    Raises PlainError, which names its `source` and the line, if it is no plain YAML, or holds more
    than `MOST_VALUES` values or any deeper than `DEEPEST`.
    """
    return _parse(text, source)[0]


def _parse(text: str, source: object) -> tuple[Any, dict[str, int]]:
    """Returns what `parse_plain` does, and the line of each key by its dotted name."""
    problem, line, quoted = "", 0, ""
    loader = None
    if len(text) > LARGEST_FILE:
        problem = f"is too large, above {LARGEST_FILE} characters"
        raise PlainError(f"{source}: ", problem, problem=problem)
    try:
        loader = yaml.SafeLoader(text)
        builder = _Builder(loader)
        return builder.document(), builder.lines
    except _Problem as error:
        problem, line, quoted = error.problem, error.line, error.quoted
    except yaml.MarkedYAMLError as error:
        problem = excerpt(error.problem or error)
        line = error.problem_mark.line if error.problem_mark else 0
    except yaml.reader.ReaderError as error:
        problem = f"unacceptable character #x{error.character:04x}: {error.reason}"
        line = text.count("\n", 0, error.position)
    except (ValueError, OverflowError):
        # The reader passes on what Python says of an escape such as \\UFFFFFFFF.
        problem = "a number in an escape (\\U...) or a directive (%...) is out of range"
        line = loader.line if loader is not None else 0
    where = f"{source}, line {line + 1}: not plain YAML: "
    raise PlainError(where, f"{quoted}: " if quoted else "", problem, problem=problem)


class _Builder:
    """Makes the values of a document from the events of a reader, as they come: the limits end it
    early."""

    def __init__(self, loader: yaml.SafeLoader) -> None:
        self._loader = loader
        self._values = 0
        self.lines: dict[str, int] = {}
        """The line of each key, from 1, by its dotted name."""

    def document(self) -> Any:
        """Returns the value of the only document; None if there is none."""
        self._next()  # the stream begins
        if self._loader.check_event(yaml.StreamEndEvent):
            return None
        self._next()  # the document begins
        value = self._value(0)
        self._next()  # the document ends
        event = self._next()
        if not isinstance(event, yaml.StreamEndEvent):
            raise _Problem("a second document begins; a file has one", event.start_mark)
        return value

    def _next(self) -> Any:
        return self._loader.get_event()

    def _value(self, depth: int, name: str = "") -> Any:
        """Returns the next value; `name` is the dotted name of its key."""
        event, self._values = self._next(), self._values + 1
        mark: Any = event.start_mark
        if self._values > MOST_VALUES:
            raise _Problem(f"there are more than {MOST_VALUES} values", mark)
        if depth > DEEPEST:
            raise _Problem(f"lists and mappings are nested more than {DEEPEST} deep", mark)
        if isinstance(event, yaml.AliasEvent):
            raise _Problem("aliases (*name) are not read here; write the value out", mark)
        if event.tag is not None:
            raise _Problem("tags (!name) are not read here; write the value alone", mark, _tag(event.tag))
        if isinstance(event, yaml.SequenceStartEvent):
            return self._list(depth)
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(depth, name)
        if event.style is None:
            return _plain_scalar(event.value, mark)
        return _text(event.value, mark)

    def _list(self, depth: int) -> list[Any]:
        entries = []
        while not self._loader.check_event(yaml.SequenceEndEvent):
            entries.append(self._value(depth + 1))
        self._next()
        return entries

    def _mapping(self, depth: int, name: str) -> dict[Any, Any]:
        content: dict[Any, Any] = {}
        while not self._loader.check_event(yaml.MappingEndEvent):
            event: Any = self._loader.peek_event()
            is_merge = isinstance(event, yaml.ScalarEvent) and event.style is None and event.value == "<<"
            if is_merge:
                raise _Problem("merge keys (<<) are not read here; write the fields out", event.start_mark)
            key = self._value(depth + 1)
            if not isinstance(key, Hashable):
                raise _Problem("a key must be a name", event.start_mark)
            if key in content:
                raise _Problem(f"{show(key)} stands twice", event.start_mark)
            inner = f"{name}.{key}" if name else str(key)
            self.lines[inner] = event.start_mark.line + 1
            content[key] = self._value(depth + 1, inner)
        self._next()
        return content


def _tag(name: str) -> str:
    """Returns a tag as it was written."""
    own = "tag:yaml.org,2002:"
    return excerpt(f"!!{name.removeprefix(own)}" if name.startswith(own) else name)


def _plain_scalar(text: str, mark: yaml.Mark) -> Any:
    """Returns the value of a scalar without quotes."""
    if text in _NOTHING:
        return None
    if text in _TRUTHS:
        return _TRUTHS[text]
    if text in _NO_FINITE_NUMBERS:
        return _NO_FINITE_NUMBERS[text]
    if len(text) > MOST_DIGITS:
        if is_number(text):
            raise _Problem(f"a number has at most {MOST_DIGITS} digits", mark, excerpt(text))
        return _text(text, mark)
    if is_ambiguous(text):
        raise _Problem(ONE_WAY, mark, excerpt(text))
    if is_number(text):
        if is_whole(text):
            return parse_whole(text)
        # An exponent alone, or one without its sign, makes no number in YAML 1.1: 1e-3 is a text,
        # which a field for numbers reads as one.
        mantissa, _, exponent = text.lower().partition("e")
        if "." in mantissa and (not exponent or exponent[0] in "+-"):
            return parse_number(text)
    return _text(text, mark)


def _text(text: str, mark: yaml.Mark) -> str:
    if any("\ud800" <= sign <= "\udfff" for sign in text):
        raise _Problem("half of a pair of UTF-16 is no character", mark, excerpt(text))
    return text


def read_yaml(path: Path | Traversable) -> dict[str, Any]:
    """Returns the mapping that a YAML file holds; see `read_yaml_lines`."""
    return read_yaml_lines(path)[0]


def read_yaml_lines(path: Path | Traversable) -> tuple[dict[str, Any], dict[str, int]]:
    """Returns the mapping that a YAML file holds, and the line of each key by its dotted name.

    Raises:
        InputError: the file cannot be read, is empty, or is anything else than a mapping of names
            in plain YAML and UTF-8.
    """
    try:
        content, lines = _parse(read_limited(path, LARGEST_FILE).decode("utf-8-sig"), path)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file in UTF-8") from error
    if content is None:
        raise InputError(f"{path}: the file is empty")
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f"{path}: must hold lines of the form `name: value`")
    return content, lines
