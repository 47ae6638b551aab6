"""What the values of a configuration keep to: ranges of its whole numbers, and the choices of its texts."""

import types
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class InputError(ValueError):
    """Something that a user has given cannot be used. The message is one line that says what is wrong and how to mend it."""


class FieldError(InputError):
    """A value of a configuration cannot be used: `field` is its dotted name, `problem` what is wrong with it."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


# Far above any use: a slip of the pen by some zeros is said at once.
_MOST = {"channels": 4096, "cells": 1000, "epochs": 1_000_000, "threads": 1024}
_MOST_OF_OTHERS = 2**31 - 1


def check_whole(name: str, value: int | None) -> None:
    """Raises ValueError unless the field `name` is None or from 1 to the largest value that makes sense for it."""
    most = _MOST.get(name, _MOST_OF_OTHERS)
    if value is not None and not 1 <= value <= most:
        raise InputError(f"{name}: must be at {'least 1' if value < 1 else f'most {most}'}, not {value}")


def check_choices(config: "DataclassInstance", prefix: str = "") -> None:
    """Raises ValueError unless each field whose type is a Literal holds one of its choices.

    The command line sees to that itself; this is for a configuration that is made in Python. `prefix`: what stands before the
    name of a field in the message, such as "data.".
    """
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        # A choice or null has both in a union.
        parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
        if any(get_origin(part) is Literal for part in parts):
            choices = [choice for part in parts for choice in _choices(part)]
            if value not in choices:
                raise InputError(f"{prefix}{name}: must be one of {', '.join(map(_text, choices))}, not {_text(value)}")


def _choices(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) is Literal else (None,) if hint is type(None) else ()


def _text(value: Any) -> str:
    """In one line, and null as files and the command line call it."""
    return "null" if value is None else " ".join(str(value).split())
