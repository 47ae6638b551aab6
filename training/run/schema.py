"""The schema of a configuration: its fields, their types, and the reading of their values.

A schema is a dataclass. Its fields hold numbers, texts, truth values, paths, choices (`Literal`),
lists, tuples and mappings of those, or null beside them; or a dataclass in turn. The text under a
field is its help.
"""

import ast
import dataclasses
import functools
import inspect
import math
import sys
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from base.checks import FieldError
from base.numbers import is_number, is_whole, parse_number, parse_whole
from base.plain_yaml import PlainError, parse_plain
from base.texts import excerpt, one_line, show

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")


class Leaf(NamedTuple):
    """A field that holds a value and no fields of its own."""

    hint: Any
    default: Any  # dataclasses.MISSING where the field has none
    text: str

    @property
    def optional(self) -> bool:
        return type(None) in get_args(self.hint)


def fields_in_order(schema: "type[DataclassInstance]") -> list["dataclasses.Field[Any]"]:
    """Returns the fields in the order of files and help: keyword-only ones behind the others,
    nested ones last."""
    hints = get_type_hints(schema)

    def place(field: "dataclasses.Field[Any]") -> tuple[bool, bool]:
        is_nested = dataclasses.is_dataclass(hints[field.name])
        return is_nested, field.kw_only and not is_nested

    return sorted(dataclasses.fields(schema), key=place)


def leaves_of(schema: "type[DataclassInstance]", default: Any = dataclasses.MISSING, prefix: str = "") -> dict[str, Leaf]:
    """Returns the leaves of a schema by dotted name, such as `data.root`.

    `default` is the instance that gives their default values.

    Raises TypeError for a schema that has nested dataclasses in lists, or optional ones.
    """
    leaves: dict[str, Leaf] = {}
    hints, texts = get_type_hints(schema), _texts_under_fields(schema)
    for field in fields_in_order(schema):
        name, hint = prefix + field.name, hints[field.name]
        value = field.default
        if default is not dataclasses.MISSING:
            value = getattr(default, field.name)
        elif callable(field.default_factory):
            value = field.default_factory()
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            leaves |= leaves_of(hint, value, f"{name}.")
        elif any(dataclasses.is_dataclass(argument) for argument in get_args(hint)):
            raise TypeError(f"{schema.__name__}.{field.name}: a nested dataclass cannot be optional or in a list")
        else:
            leaves[name] = Leaf(hint, value, texts.get(field.name, ""))
    return leaves


@functools.cache  # the source files are read for it
def _texts_under_fields(schema: type) -> dict[str, str]:
    """Returns the docstrings under the fields of a dataclass and of its bases, each on one line."""
    texts: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        try:
            (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        except (OSError, TypeError):  # a class that no file has
            continue
        assert isinstance(tree, ast.ClassDef)
        for field, text in pairwise(tree.body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
                texts[field.target.id] = one_line(ast.literal_eval(text.value))
    return texts


def build(schema: type[T], values: Mapping[str, Any], prefix: str = "") -> T:
    """Makes the dataclass from `values` by dotted name, nested ones first; each checks its own
    ranges.

    Raises FieldError, with the full dotted names of fields.
    """
    hints = get_type_hints(schema)
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(schema):
        name, hint = prefix + field.name, hints[field.name]
        if not (dataclasses.is_dataclass(hint) and isinstance(hint, type)):
            arguments[field.name] = values[name]
            continue
        try:
            arguments[field.name] = build(hint, values, f"{name}.")
        except FieldError as error:
            raise error.within(field.name) from error
    return schema(**arguments)


# Values


class _Misfit(Exception):
    """A value is of another type; the message may add a reason."""


def parse_value(name: str, hint: Any, text: str) -> Any:
    """Returns the value of the field `name`, of type `hint`, from its `text` on the command line.

    Raises FieldError if it has another type.
    """
    try:
        return _of_text(hint, text)
    except _Misfit as error:
        reason = f" ({error})" if str(error) else ""
        raise FieldError(name, f"must be {describe(hint)}, not {excerpt(text) or repr(text)}{reason}") from None


def convert_value(name: str, hint: Any, value: Any) -> Any:
    """Returns the value of the field `name`, of type `hint`, from its `value` in a YAML file.

    Raises FieldError if it has another type.
    """
    try:
        return _of_value(hint, value)
    except _Misfit as error:
        reason = f" ({error})" if str(error) else ""
        raise FieldError(name, f"must be {describe(hint)}, not {_as_written(value)}{reason}") from None


def _as_written(value: Any) -> str:
    """Returns a value as a file has it, within a message."""
    if value is None or value == "":
        return "null" if value is None else "''"
    return excerpt(value) if isinstance(value, (str, bool)) else show(value)


def check_value(name: str, leaf: Leaf, value: Any) -> None:
    """Raises FieldError for a field without a value, and for what no type keeps out: NaN, infinity,
    numbers beyond those of 64 bits where a fraction may stand, and texts that no file can hold."""
    if leaf.default is dataclasses.MISSING and (value is None or value is dataclasses.MISSING) and not leaf.optional:
        raise FieldError(name, f"must be given, with --{name} or in a configuration file")
    for entry in _entries(value):
        if isinstance(entry, float) and not math.isfinite(entry):
            raise FieldError(name, f"must be finite, not {entry}")
        if _is_too_large(entry) and _takes(leaf.hint, float):
            limit = "most 1.8e308" if entry > 0 else "least -1.8e308"
            raise FieldError(name, f"must be at {limit}, not {excerpt(entry)}")
        if isinstance(entry, (str, Path)):
            check_text(name, str(entry))


def check_text(name: str, text: str) -> None:
    """Raises FieldError, of the field `name`, for a text that no file or path can hold."""
    if "\0" in text:
        raise FieldError(name, f"holds a zero byte, which no path or file takes, in {excerpt(text, text.index(chr(0)))}")
    # Python has bytes of a command line that are no UTF-8 as halves of pairs.
    at = next((at for at, sign in enumerate(text) if "\ud800" <= sign <= "\udfff"), None)
    if at is not None:
        raise FieldError(name, f"holds bytes that are no text in UTF-8, in {excerpt(text, at)}; take another name")


def _takes(hint: Any, kind: type) -> bool:
    return hint is kind or any(_takes(part, kind) for part in get_args(hint))


def _entries(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for key, entry in value.items():
            yield key
            yield from _entries(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _entries(entry)
    else:
        yield value


def _of_text(hint: Any, text: str) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        if type(None) in get_args(hint) and text in ("null", "~"):
            return None
        return _first_fit([part for part in get_args(hint) if part is not type(None)], _of_text, text)
    if hint in (str, Path) or (get_origin(hint) is Literal and text in get_args(hint)):
        return hint(text) if hint is Path else text
    if hint in (int, float) and is_number(text):
        return _of_number(hint, text)
    try:
        value = parse_plain(text)
    except PlainError as error:
        raise _Misfit(error.problem) from None
    return _of_value(hint, value)


def _of_value(hint: Any, value: Any) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _first_fit(arguments, _of_value, value)
    if origin is Literal and any(type(value) is type(choice) and value == choice for choice in arguments):
        return value
    if hint in (str, bool, int, type(None)) and type(value) is hint:
        return value
    if hint in (int, float) and type(value) is str:
        return _of_number(hint, value)
    if hint is float and type(value) in (int, float):
        return value if _is_too_large(value) else float(value)
    if hint is Path and type(value) is str:
        return Path(value)
    if origin is list and type(value) is list:
        return [_of_value(arguments[0], entry) for entry in value]
    if origin is tuple and type(value) is list:
        hints = (arguments[0],) * len(value) if Ellipsis in arguments else arguments
        if len(hints) == len(value):
            return tuple(map(_of_value, hints, value))
    if origin is dict and type(value) is dict and all(type(key) is str for key in value):
        return {key: _of_value(arguments[1], entry) for key, entry in value.items()}
    raise _Misfit


def _first_fit(hints: Sequence[Any], read: Callable[[Any, Any], Any], value: Any) -> Any:
    reason = ""
    for hint in hints:
        try:
            return read(hint, value)
        except _Misfit as error:
            reason = reason or str(error)
    raise _Misfit(reason)


def _of_number(kind: type[int] | type[float], text: str) -> int | float:
    """Reads a number in quotes, or one like 1e-3, which YAML takes for text."""
    try:
        if kind is int:
            return parse_whole(text)
        value = parse_number(text)
        # A whole number keeps its digits for the message that refuses it.
        return parse_whole(text) if math.isinf(value) and is_whole(text) else value
    except ValueError as error:
        raise _Misfit(str(error)) from None


def _is_too_large(number: int | float) -> bool:
    return isinstance(number, int) and abs(number) > sys.float_info.max


_TYPE_NAMES: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    Path: "a path",
    type(None): "null",
}


def describe(hint: Any) -> str:
    """Returns a type in words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in _TYPE_NAMES:
        return _TYPE_NAMES[hint]
    if origin is Literal:
        return "one of " + ", ".join(str(argument) for argument in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(argument) for argument in arguments)
    if origin is tuple and Ellipsis not in arguments:
        return "a list [" + ", ".join(describe(argument) for argument in arguments) + "]"
    if origin in (list, tuple):
        return f"a list, each entry {describe(arguments[0])}"
    if origin is dict:
        return f"a mapping, each value {describe(arguments[1])}"
    raise TypeError(f"a field cannot hold {hint}")
