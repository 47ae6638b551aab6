"""Errors for input that cannot be used, and checks of the values of a configuration."""

import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from base.texts import escape, excerpt

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
_MOST = {"channels": 4096, "cells": 1000, "epochs": 1_000_000, "threads": 1024, "hidden": 4096}
_MOST |= dict.fromkeys(("population", "sample", "tournament"), 100_000)  # so many are drawn at once
_MOST_OF_OTHERS = 2**31 - 1
# What lies nearer to 0 or 1 is 0 or 1 to float32, or its difference has no digit left.
_NEAR_ZERO, _NEAR_ONE = 1e-6, 0.999999
# A square of these, or a few of them multiplied, leave float32; one alone with usual numbers does
# not.
_SMALL, _LARGE = 1e-30, 1e30
_LEAST_SEED, _MOST_SEED = -(2**63), 2**63 - 1

# Numbers are compared and never converted: Python compares a whole number of any size with a
# fraction exactly, where float() would overflow.


def check_whole(name: str, value: int | None) -> None:
    """Raises FieldError unless `value` is None or from 1 to the largest value that makes sense.

    `name` is the field that the value belongs to.
    """
    _check_range(name, value, 1, _MOST.get(name, _MOST_OF_OTHERS))


def check_seed(name: str, value: int) -> None:
    """Raises FieldError unless `value`, of the field `name`, is a whole number of 64 bits."""
    _check_range(name, value, _LEAST_SEED, _MOST_SEED)


def whole(config: object, *names: str) -> None:
    """Raises FieldError unless each of the fields is None or from 1 to the largest value that makes
    sense for it."""
    for name in names:
        check_whole(name, getattr(config, name))


def above_zero(config: object, *names: str, least: float = _SMALL, most: float = _LARGE) -> None:
    """Raises FieldError unless each of the fields is None or from `least`, which is above 0, to
    `most`: numbers that the arithmetic with them can carry, by default that of float32."""
    for name in names:
        _check(config, (name,), lambda value: value > 0, "above 0")
        _check_range(name, getattr(config, name), least, most)


def at_least(least: float, config: object, *names: str, most: float = _LARGE) -> None:
    """Raises FieldError unless each of the fields is None or from `least` to `most`, by default the
    largest that float32 can compute with."""
    for name in names:
        _check_range(name, getattr(config, name), least, most)


def between(first: float, last: float, config: object, *names: str, said: str = "") -> None:
    """Raises FieldError unless each of the fields is None or from `first` to `last`.

    `said` is the text for that range in a message.
    """
    _check(config, names, lambda value: first <= value <= last, said or f"from {first} to {last}")


def share(config: object, *names: str) -> None:
    """Raises FieldError unless each of the fields is None or from 0 to 1."""
    between(0, 1, config, *names)


def below_one(config: object, *names: str) -> None:
    """Raises FieldError unless each of the fields is None or from 0 to below 1, by as much as
    float32 can tell."""
    _check(config, names, lambda value: 0 <= value < 1, "from 0 to below 1")
    at_least(0, config, *names, most=_NEAR_ONE)


def inside(config: object, *names: str) -> None:
    """Raises FieldError unless each of the fields is None or between 0 and 1, both excluded, by as
    much as float32 can tell."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not _holds(lambda value: 0 < value < 1, value):
            raise FieldError(name, f"must lie between 0 and 1, both excluded, not {_text(value)}")
    at_least(_NEAR_ZERO, config, *names, most=_NEAR_ONE)


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
        if value is not None and not _holds(is_right, value):
            raise FieldError(name, f"must be {said}, not {_text(value)}")


def _check_range(name: str, value: Any, least: float, most: float) -> None:
    # Written so that NaN, which is neither above nor below anything, is refused.
    if value is not None and not _holds(lambda value: least <= value <= most, value):
        limit = f"most {most}" if _holds(lambda value: value > most, value) else f"least {least}"
        raise FieldError(name, f"must be at {limit}, not {_text(value)}")


def _holds(is_right: Callable[[Any], bool], value: Any) -> bool:
    """Returns whether a value is right; one that is no number is not."""
    try:
        return bool(is_right(value))
    except TypeError:
        return False


def _choices(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) is Literal else (None,) if hint is type(None) else ()


def _text(value: Any) -> str:
    """Returns the value as a message shows it: on one line, at most 80 characters, None as null."""
    return "null" if value is None else excerpt(value)
