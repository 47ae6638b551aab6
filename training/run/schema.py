"""The schema of a configuration: its fields, their types, and the reading of their values.

A schema is a dataclass. Its fields hold numbers, texts, truth values, paths, choices (`Literal`),
lists, tuples and mappings of those, or null beside them; or a dataclass in turn. The text under a
field is its help.
"""

import ast
import dataclasses
import inspect
import math
import re
import textwrap
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from base.checks import FieldError, InputError
from base.plain_yaml import parse_plain
from base.texts import one_line

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


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
    """A value is of another type."""


def parse_value(name: str, hint: Any, text: str) -> Any:
    """Returns the value of the field `name`, of type `hint`, from its `text` on the command line.

    Raises FieldError if it has another type.
    """
    try:
        return _of_text(hint, text)
    except _Misfit:
        raise FieldError(name, f"must be {describe(hint)}, not {one_line(text) or repr(text)}") from None


def convert_value(name: str, hint: Any, value: Any) -> Any:
    """Returns the value of the field `name`, of type `hint`, from its `value` in a YAML file.

    Raises FieldError if it has another type.
    """
    try:
        return _of_value(hint, value)
    except _Misfit:
        raise FieldError(name, f"must be {describe(hint)}, not {'null' if value is None else one_line(value)}") from None


def check_value(name: str, leaf: Leaf, value: Any) -> None:
    """Raises FieldError for a field without a value, NaN and infinity, which no type keeps out."""
    if leaf.default is dataclasses.MISSING and (value is None or value is dataclasses.MISSING) and not leaf.optional:
        raise FieldError(name, f"must be given, with --{name} or in a configuration file")
    for entry in _entries(value):
        if isinstance(entry, float) and not math.isfinite(entry):
            raise FieldError(name, f"must be finite, not {entry}")


def _entries(value: Any) -> Iterator[Any]:
    if isinstance(value, (Mapping, list, tuple)):
        for entry in value.values() if isinstance(value, Mapping) else value:
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
    if hint in (int, float) and _NUMBER.fullmatch(text):
        return _of_number(hint, text)
    try:
        value = parse_plain(text)
    except InputError:
        raise _Misfit from None
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
        return _of_number(float, value)
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
    for hint in hints:
        try:
            return read(hint, value)
        except _Misfit:
            continue
    raise _Misfit


def _of_number(kind: type[int] | type[float], value: Any) -> int | float:
    """Reads a number in quotes, or one like 1e-3, which YAML takes for text."""
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        raise _Misfit
    try:
        return kind(value)
    except OverflowError:
        return math.inf
    except ValueError:
        raise _Misfit from None


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
