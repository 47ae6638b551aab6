"""Named things that can be extended from outside: operations, spaces, relaxations, tasks and all the others."""

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, TypeVar

from base.checks import InputError
from base.texts import did_you_mean

T = TypeVar("T")


class Registry(Generic[T]):
    """Things of one sort by name, in the order in which they were added.

    A thing may be named by where it is, "module:attribute", and is then imported when it is first asked for.
    """

    def __init__(self, sort: str, lazily: Mapping[str, str] | None = None) -> None:
        """`sort` is what a message calls one of them: "space". `lazily` maps names to places."""
        self.sort = sort
        self._things: dict[str, T] = {}
        self._places: dict[str, str] = dict(lazily or {})

    def add(self, name: str, thing: T) -> T:
        """Makes `thing` known as `name` and returns it. Raises InputError if another thing has the name."""
        if name in self._places or self._things.setdefault(name, thing) != thing:
            raise InputError(f"{self.sort} {name!r} is registered already")
        return thing

    def register(self, name: str) -> Callable[[T], T]:
        """The decorator that adds what it decorates as `name`."""
        return lambda thing: self.add(name, thing)

    def __getitem__(self, name: str) -> T:
        """The thing of that name. Raises InputError, with the nearest known name, for an unknown one."""
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
        """What is said of a name that is not known."""
        known = self.names()
        near = did_you_mean(str(name), known)
        return f"unknown {self.sort} {name!r}{near}{'' if near else ';'} known: {', '.join(known) or 'none'}"

    def check(self, name: str) -> None:
        """Raises InputError, with the nearest known name, unless `name` is known; imports nothing."""
        if name not in self:
            raise InputError(self.unknown(name))

    def names(self) -> list[str]:
        """All names, those that came with the project first."""
        return list(self)

    def __contains__(self, name: object) -> bool:
        return name in self._things or name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._places, *self._things]))
