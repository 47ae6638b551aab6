"""Values as Python and JSON print them: texts, numbers, lists, tuples, dictionaries, and a few
calls such as `range(2, 6)`. They are read and never evaluated, within limits."""

import ast
import re
import warnings
from dataclasses import dataclass, field
from typing import Any

from base.checks import InputError
from base.texts import excerpt

_MOST_VALUES = 20_000  # far above any genotype
_DEEPEST = 16
_LONGEST_TOKEN = 1000  # characters of a number or name, as of a text

_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\r\n]*)
    |(?P<text>'(?:[^'\\\r\n]|\\.){0,1000}'|"(?:[^"\\\r\n]|\\.){0,1000}")
    |(?P<number>[-+]?[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?(?![\w.]))
    |(?P<name>[A-Za-z_][\w.]*)
    |(?P<sign>[()\[\]{},:=])""",
    re.VERBOSE,
)
_NAMES = {"True": True, "true": True, "False": False, "false": False, "None": None, "null": None}
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_TRANSPARENT = re.compile(r"(?:(?:np|numpy|torch)\.)?(?:u?int(?:8|16|32|64|_|p)?|str_|array|tensor|list|tuple)")
"""Calls that stand for their only argument: numpy 2 prints np.int64(1) for 1."""


@dataclass(frozen=True)
class Call:
    """A call by name, `gt.Genotype(...)` having the name Genotype."""

    name: str
    arguments: list[Any] = field(default_factory=list)
    keywords: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(map(repr, self.arguments))})"


def read_value(text: str, start: int = 0, what: str = "genotype") -> tuple[Any, int]:
    """Returns the value that begins in `text` at `start`, and where it ends.

    Raises InputError, which begins with the name of the keyword that it is in, or else with `what`,
    if there is none, or a larger one than any genotype is.
    """
    reader = _Reader(text, start, what)
    return reader.value(), reader.end


class _Reader:
    def __init__(self, text: str, start: int, what: str):
        self._text = text
        self._what = self._place = what
        self._count = self._depth = 0
        self.end = start
        """Where the last token that is part of the value ends."""
        self._kind = self._token = ""
        self._at = self._next = start
        self._advance()

    def _advance(self) -> None:
        """Goes to the next token; `_kind` is "" where there is none."""
        self.end = self._next
        while (match := _TOKEN.match(self._text, self._next)) is not None and match.lastgroup == "space":
            self._next = match.end()
        self._at = self._next
        if match is None:
            self._kind, self._token = "", ""
            return
        self._kind, self._token, self._next = match.lastgroup or "", match[0], match.end()

    def _fail(self, expected: str) -> InputError:
        line = self._text.count("\n", 0, self._at) + 1
        found = (
            excerpt(repr(self._text[self._at : self._at + 20]))
            if self._at < len(self._text)
            else "the end of the text (cut short?)"
        )
        return InputError(f"{self._place}: expected {expected} at line {line}, but there is {found}")

    def _take(self, sign: str) -> bool:
        if self._kind != "sign" or self._token != sign:
            return False
        self._advance()
        return True

    def value(self) -> Any:
        self._count += 1
        if self._count > _MOST_VALUES:
            raise InputError(f"{self._place}: more than {_MOST_VALUES} values")
        kind, token = self._kind, self._token
        if len(token) > _LONGEST_TOKEN:
            raise InputError(f"{self._place}: a value of {len(token)} characters, {excerpt(token)}, is too long")
        if kind == "text":
            self._advance()
            return _text_of(self._place, token)
        if kind == "number":
            self._advance()
            return float(token) if re.search("[.eE]", token) else int(token)
        if kind == "name":
            return self._named()
        if kind != "sign" or token not in _CLOSING:
            raise self._fail("a value")
        return self._inside(self._list if token == "[" else self._tuple if token == "(" else self._dictionary)

    def _inside(self, read: Any) -> Any:
        if self._depth == _DEEPEST:
            raise InputError(f"{self._place}: nested too deeply, more than {_DEEPEST} brackets")
        self._depth += 1
        value = read()
        self._depth -= 1
        return value

    def _named(self) -> Any:
        name = self._token
        if name in _NAMES:
            self._advance()
            return _NAMES[name]
        short = name.rpartition(".")[2]
        known = name == "range" or short == "Genotype" or _TRANSPARENT.fullmatch(name) is not None
        if not known:
            raise InputError(f"{self._place}: only lists and tuples of plain texts and integers are read, not {excerpt(name)}")
        self._advance()
        if self._kind != "sign" or self._token != "(":
            raise self._fail(f"( after {name}")
        call = self._inside(lambda: self._call(short))
        if short in ("range", "Genotype"):
            return call
        if len(call.arguments) != 1:
            raise InputError(f"{self._place}: {name}(...) with {len(call.arguments)} values, where one is needed")
        return call.arguments[0]

    def _call(self, name: str) -> Call:
        call = Call(name)
        self._advance()
        while not self._take(")"):
            keyword = self._keyword() if self._kind == "name" else None
            if keyword is None:
                if call.keywords:
                    raise self._fail("a keyword")
                call.arguments.append(self.value())
            else:
                if keyword in call.keywords:
                    raise InputError(f"{self._what}: keyword {excerpt(keyword)} is there twice")
                outer, self._place = self._place, keyword if self._depth == 1 else self._place
                call.keywords[keyword] = self._type_of_numbers() if keyword == "dtype" else self.value()
                self._place = outer
            self._separate(")")
        return call

    def _keyword(self) -> str | None:
        """Takes `name =`; None if something else follows."""
        match = re.compile(r"\s*=(?!=)").match(self._text, self._next)
        if match is None:
            return None
        name = self._token
        self._advance()
        self._advance()
        return name

    def _type_of_numbers(self) -> str:
        """Takes a name such as torch.int32, which arrays and tensors print without quotes."""
        name = self._token
        self._advance()
        return name

    def _separate(self, closing: str) -> None:
        """Takes a comma, or leaves the closing bracket that follows."""
        if not self._take(",") and not (self._kind == "sign" and self._token == closing):
            raise self._fail(f", or {closing}")

    def _sequence(self, closing: str) -> tuple[list[Any], bool]:
        values, comma = [], False
        self._advance()
        while not self._take(closing):
            values.append(self.value())
            comma = self._kind == "sign" and self._token == ","
            self._separate(closing)
        return values, comma

    def _list(self) -> list[Any]:
        return self._sequence("]")[0]

    def _tuple(self) -> Any:
        values, comma = self._sequence(")")
        return values[0] if len(values) == 1 and not comma else tuple(values)

    def _dictionary(self) -> dict[str, Any]:
        content: dict[str, Any] = {}
        self._advance()
        while not self._take("}"):
            if self._kind != "text":
                raise self._fail("a name in quotes")
            key = self.value()
            if key in content:
                raise InputError(f"{self._place}: key {excerpt(repr(key))} is there twice")
            if not self._take(":"):
                raise self._fail(f": after {excerpt(repr(key))}")
            content[key] = self.value()
            self._separate("}")
        return content


def _text_of(place: str, token: str) -> str:
    """Returns the text that a token in quotes stands for."""
    if "\\" not in token:
        return token[1:-1]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a backslash of its own is one
            return str(ast.literal_eval(token))
    except (ValueError, SyntaxError):
        raise InputError(f"{place}: {excerpt(token)} has an escape that is none") from None
