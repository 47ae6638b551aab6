"""Named things that can be extended from outside: operations, spaces, relaxations, tasks and all
the others."""

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, TypeVar

from base.checks import InputError
from base.texts import did_you_mean, show

T = TypeVar("T")

_AT_A_GLANCE = 2  # names: in a list no longer than this, the reader sees the nearest one


class Registry(Generic[T]):
    """A table of things of one sort by name, in the order in which they were added.

    A thing may be given as its place, "module:attribute"; it is then imported when it is first
    asked for.
    """

    def __init__(self, sort: str, lazily: Mapping[str, str] | None = None, alphabetical: bool = False) -> None:
        """`sort` is the word for one of them in messages: "space".

        `lazily` maps names to places. `alphabetical`: names are listed in that order instead.
        """
        self.sort = sort
        self.alphabetical = alphabetical
        self._things: dict[str, T] = {}
        self._places: dict[str, str] = dict(lazily or {})

    def add(self, name: str, thing: T) -> T:
        """Makes `thing` known as `name` and returns it.

        Raises InputError if another thing has the name.
        """
        if name in self and self[name] != thing:
            raise InputError(f"{self.sort} {name!r} is registered already")
        self._things.setdefault(name, thing)
        return thing

    def register(self, name: str) -> Callable[[T], T]:
        """Returns the decorator that adds a function or class as `name`."""
        return lambda thing: self.add(name, thing)

    def __getitem__(self, name: str) -> T:
        """Returns the thing of that name.

        Raises InputError, with the nearest known name, for an unknown one.
        """
        self.check(name)
        if name not in self._things:
            module, _, attribute = self._places[name].partition(":")
            self._things[name] = getattr(importlib.import_module(module), attribute)
        return self._things[name]

    @contextmanager
    def temporarily(self) -> Iterator[None]:
        """Lets things be added for as long as the context lasts; at its end they are forgotten."""
        before = dict(self._things)
        try:
            yield
        finally:
            self._things = before

    def unknown(self, name: object) -> str:
        """Returns the message for a name that is not known: the nearest one, unless the list is
        short, and all of them."""
        known = self.names()
        near = did_you_mean(str(name), known) if len(known) > _AT_A_GLANCE else ""
        return f"unknown {self.sort} {show(name)}{near or ';'} known: {', '.join(known) or 'none'}"

    def check(self, name: str) -> None:
        """Raises InputError, with the nearest known name, unless `name` is known; imports
        nothing."""
        if name not in self:
            raise InputError(self.unknown(name))

    def names(self) -> list[str]:
        """Returns all names: in alphabetical order if the registry has it, otherwise those that
        came with the project first."""
        return sorted(self) if self.alphabetical else list(self)

    def __contains__(self, name: object) -> bool:
        return name in self._things or name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._places, *self._things]))
