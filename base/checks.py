"""Errors for input that cannot be used, and checks of the values of a configuration."""

import math
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from base.texts import escape

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class Name(str):
    """The name of a field where it stands in the text of an error; it follows when fields are
    renamed."""


class InputError(ValueError):
    """Something that a user has given cannot be used.

    The message is one line that says what is wrong and how to mend it.

    It is given in parts, so that the names of fields in it, each a `Name`, can be told from the
    rest. Whatever it quotes is escaped, so that no terminal obeys it.
    """

    def __init__(self, *parts: str) -> None:
        parts = tuple(part if isinstance(part, Name) else escape(part) for part in parts)
        super().__init__("".join(parts))
        self.parts = parts

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.parts


class FieldError(InputError):
    """A value of a configuration cannot be used: `field` is its dotted name, `problem` what is
    wrong with it.

    A part of a configuration does not know what it is called in the whole: its errors name its own
    fields, and the whole says `within`. An empty `field` stands for the part itself.
    """

    def __init__(self, field: str, *problem: str) -> None:
        super().__init__(*([Name(field), ": "] if field else []), *problem)
        self.field = field
        self.problem = "".join(problem)
        self._problem = problem

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.field, *self._problem)

    def renamed(self, rename: Callable[[str], str]) -> "FieldError":
        """The same of fields that are called `rename(name)`."""
        return FieldError(
            rename(self.field), *(Name(rename(part)) if isinstance(part, Name) else part for part in self._problem)
        )

    def within(self, parent: str) -> "FieldError":
        """The same of a part that is called `parent` in the whole."""
        return self.renamed(lambda name: f"{parent}.{name}" if name else parent)


# Far above any use: a slip of the pen by some zeros is said at once.
_MOST = {"channels": 4096, "cells": 1000, "epochs": 1_000_000, "threads": 1024}
_MOST_OF_OTHERS = 2**31 - 1


def check_whole(name: str, value: int | None) -> None:
    """Raises FieldError unless `value` is None or from 1 to the largest value that makes sense.

    `name` is the field that the value belongs to.
    """
    most = _MOST.get(name, _MOST_OF_OTHERS)
    if value is not None and not 1 <= value <= most:
        raise FieldError(name, f"must be at {'least 1' if value < 1 else f'most {most}'}, not {value}")


def whole(config: object, *names: str) -> None:
    """Raises FieldError unless each of the fields is None or from 1 to the largest value that makes
    sense for it."""
    for name in names:
        check_whole(name, getattr(config, name))


def above_zero(config: object, *names: str) -> None:
    """Raises FieldError unless each of the fields is None or a finite number above 0."""
    _check(config, names, lambda value: math.isfinite(value) and value > 0, "above 0")


def at_least(least: float, config: object, *names: str) -> None:
    """Raises FieldError unless each of the fields is None or a finite number from `least` on."""
    _check(config, names, lambda value: math.isfinite(value) and value >= least, f"at least {least}")


def between(first: float, last: float, config: object, *names: str, said: str = "") -> None:
    """Raises FieldError unless each of the fields is None or from `first` to `last`.

    `said` is the text for that range in a message.
    """
    _check(config, names, lambda value: first <= value <= last, said or f"from {first} to {last}")


def share(config: object, *names: str) -> None:
    """Raises FieldError unless each of the fields is None or from 0 to 1."""
    between(0, 1, config, *names)


def below_one(config: object, *names: str) -> None:
    """Raises FieldError unless each of the fields is None or from 0 to below 1."""
    _check(config, names, lambda value: 0 <= value < 1, "from 0 to below 1")


def inside(config: object, *names: str) -> None:
    """Raises FieldError unless each of the fields is None or between 0 and 1, both excluded."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 < value < 1:
            raise FieldError(name, f"must lie between 0 and 1, both excluded, not {value}")


def choices(config: "DataclassInstance") -> None:
    """Raises FieldError unless each field whose type is a Literal holds one of its choices.

    The command line sees to that itself; this is for a configuration that is made in Python.
    """
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        # A choice or null has both in a union.
        parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        if any(get_origin(part) is Literal for part in parts):
            known = [choice for part in parts for choice in _choices(part)]
            if value not in known:
                raise FieldError(name, f"must be one of {', '.join(map(_text, known))}, not {_text(value)}")


def _check(config: object, names: tuple[str, ...], is_right: Callable[[Any], bool], said: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not is_right(value):
            raise FieldError(name, f"must be {said}, not {value}")


def _choices(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) is Literal else (None,) if hint is type(None) else ()


def _text(value: Any) -> str:
    """Returns the value as a message shows it: on one line, None as null."""
    return "null" if value is None else " ".join(str(value).split())
