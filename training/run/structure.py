"""The structure of a state that was saved: compared as a whole before anything of it is loaded.

A trainer, a sampler or an optimiser says what its state is made of, from the values that it has
itself when it is new. A checkpoint whose checksum is right may still be of another version, of a
network whose code has changed, or put together by hand.
"""

import dataclasses
import types
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from base.checks import InputError
from base.texts import excerpt, show
from training.run.history import HistoryEntry

Part = Callable[[str, Any], None]
"""Compares the value of the part of that name. Raises InputError, which begins with the name of the
part that is not as it must be."""


def misfit(name: str, value: Any, needed: str) -> InputError:
    """Returns the error of a part that is something other than `needed`."""
    return InputError(f"{name or 'state'}: is {_described(value)}, where {needed} is needed")


def within(name: str, key: Any) -> str:
    """Returns the name of the entry `key` of the part `name`."""
    own = excerpt(key) if isinstance(key, str) else show(key)
    return f"{name}.{own}" if name else own


def anything(name: str, value: Any) -> None:
    """Takes any value."""


def truth(name: str, value: Any) -> None:
    """Takes True and False."""
    if type(value) is not bool:
        raise misfit(name, value, "True or False")


def text(name: str, value: Any) -> None:
    """Takes any text."""
    if type(value) is not str:
        raise misfit(name, value, "text")


def numeric(name: str, value: Any) -> None:
    """Takes any number."""
    if type(value) not in (int, float):
        raise misfit(name, value, "a number")


def share(name: str, value: Any) -> None:
    """Takes a number above 0 and at most 1."""
    if type(value) not in (int, float) or not 0 < value <= 1:
        raise misfit(name, value, "a number above 0 and at most 1")


def integer(least: int = 0, most: int | None = None) -> Part:
    """Takes a whole number from `least` to `most` (None: any from there on)."""

    def check(name: str, value: Any) -> None:
        if type(value) is not int or value < least or (most is not None and value > most):
            raise misfit(name, value, f"a whole number from {least}{'' if most is None else f' to {most}'}")

    return check


def equal(expected: Any) -> Part:
    """Takes that number, text, truth value or None alone, of the same type."""

    def check(name: str, value: Any) -> None:
        if type(value) is not type(expected) or value != expected:
            raise misfit(name, value, show(expected))

    return check


def optional(part: Part) -> Part:
    """Takes None, and what `part` does."""

    def check(name: str, value: Any) -> None:
        if value is not None:
            part(name, value)

    return check


def tensor(shape: Sequence[int], dtype: torch.dtype) -> Part:
    """Takes a finite tensor on the CPU of that shape and type: a run that has others ends before it
    saves them."""

    def check(name: str, value: Any) -> None:
        is_plain = isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
        # A nested one has no shape to be asked for.
        if not is_plain or value.is_nested or value.dtype != dtype or list(value.shape) != list(shape):
            raise misfit(name, value, f"a tensor {_kind(dtype)} {list(shape)}")
        if not value.isfinite().all():
            raise InputError(f"{name}: holds NaN or infinity")

    return check


def fields(parts: Mapping[Any, Part], may_lack: Collection[Any] = (), may_have_more: bool = False) -> Part:
    """Takes a dictionary with exactly these entries, of which those in `may_lack` may be absent.

    With `may_have_more` there may be others, of any value.
    """
    kinds = {key: type(key) for key in parts}

    def check(name: str, value: Any) -> None:
        if type(value) not in (dict, OrderedDict):
            raise misfit(name, value, "a dictionary")
        for key in parts:
            if key not in value and key not in may_lack:
                raise InputError(f"{within(name, key)}: is missing")
        for key in value:
            if kinds.get(key) is not type(key) and not may_have_more:
                raise InputError(f"{within(name, key)}: does not belong there")
        for key, part in parts.items():
            if key in value:
                part(within(name, key), value[key])

    return check


def table(of_keys: Part, of_values: Part) -> Part:
    """Takes a dictionary with any number of entries."""

    def check(name: str, value: Any) -> None:
        if type(value) is not dict:
            raise misfit(name, value, "a dictionary")
        for key, entry in value.items():
            of_keys(f"key of {within(name, key)}", key)
            of_values(within(name, key), entry)

    return check


def rows(part: Part, kind: type[Any] = list, most: int | None = None) -> Part:
    """Takes a list (or another `kind`) of any length, at most `most`."""

    def check(name: str, value: Any) -> None:
        if type(value) is not kind:
            raise misfit(name, value, f"a {kind.__name__}")
        if most is not None and len(value) > most:
            raise misfit(name, value, f"a {kind.__name__} of at most {most} entries")
        for index, entry in enumerate(value):
            part(within(name, index), entry)

    return check


def row(*parts: Part, kind: type[Any] = tuple) -> Part:
    """Takes a tuple (or another `kind`) with an entry for each of `parts`."""

    def check(name: str, value: Any) -> None:
        if type(value) is not kind or len(value) != len(parts):
            raise misfit(name, value, f"a {kind.__name__} of {len(parts)}")
        for index, (part, entry) in enumerate(zip(parts, value, strict=True)):
            part(within(name, index), entry)

    return check


def like(example: Any) -> Part:
    """Takes what has the structure of `example`: the same keys and lengths, tensors of the same
    shape and type, and values of the same kind."""
    if isinstance(example, Tensor):
        return tensor(example.shape, example.dtype)
    if isinstance(example, dict):
        return fields({key: like(value) for key, value in example.items()})
    if isinstance(example, list | tuple):
        return row(*map(like, example), kind=type(example))
    return _of_kind(example)


def roughly_like(example: Any) -> Part:
    """Takes what may have become of `example`: None may become anything, a container grow."""
    if example is None:
        return anything
    if isinstance(example, Tensor):
        return like(example)
    if type(example) in (dict, list, tuple):

        def check(name: str, value: Any) -> None:
            if type(value) is not type(example):
                raise misfit(name, value, f"a {type(example).__name__}")

        return check
    return _of_kind(example)


def _of_kind(example: Any) -> Part:
    kinds: dict[type, Part] = {bool: truth, int: numeric, float: numeric, str: text}
    return kinds.get(type(example), equal(example))


def random_state(name: str, value: Any) -> None:
    """Takes what `random.Random.getstate` returns."""
    row(equal(3), anything, optional(numeric))(name, value)
    words = value[1]
    is_state = type(words) is tuple and len(words) == 625 and all(type(word) is int and 0 <= word < 2**32 for word in words)
    if not is_state or words[-1] > 624:
        raise misfit(within(name, 1), words, "the 625 numbers of a random generator")


def history(kinds: Sequence[type[HistoryEntry]], more: Mapping[type[Any], Part] | None = None) -> Part:
    """Takes a history in its plain form, with an entry of the kind in `kinds` for each epoch that is
    behind.

    The part in `more` takes a whole entry of its kind, as well.
    """

    def check(name: str, value: Any) -> None:
        rows(table(text, anything))(name, value)
        if len(value) != len(kinds):
            raise misfit(name, value, f"an entry for each of {len(kinds)} epochs")
        for index, (kind, plain) in enumerate(zip(kinds, value, strict=True)):
            own = within(name, index)
            try:
                entry = kind.from_plain(plain)
            except InputError as error:
                raise InputError(f"{own}.{error}") from error
            hints = get_type_hints(kind)
            for field in dataclasses.fields(kind):
                if field.name != "readings":
                    _of_hint(hints[field.name])(within(own, field.name), getattr(entry, field.name))
            equal(index + 1)(within(own, "epoch"), entry.epoch)
            if more and kind in more:
                more[kind](own, plain)

    return check


def _of_hint(hint: Any) -> Part:
    """Returns the part that a field of that type is."""
    plain: dict[Any, Part] = {bool: truth, int: integer(), float: numeric, str: text, type(None): equal(None)}
    if hint in plain:
        return plain[hint]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        (other,) = [argument for argument in arguments if argument is not type(None)]
        return optional(_of_hint(other))
    if origin is Sequence:
        return rows(_of_hint(arguments[0]))
    if origin is Mapping:
        return table(_of_hint(arguments[0]), _of_hint(arguments[1]))
    raise TypeError(f"a field of a history cannot be {hint}")


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        if value.is_nested or value.layout != torch.strided:
            return f"a {'nested' if value.is_nested else 'sparse'} tensor"
        place = "" if value.device.type == "cpu" else f" without values, on {value.device}"
        return f"a tensor {_kind(value.dtype)} {list(value.shape)}{place}"
    if isinstance(value, str):
        return f"the text {show(value)}"
    if isinstance(value, dict):
        return f"a dictionary of {len(value)}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return show(value)


def _kind(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
