"""What a file can add: operators, attacks, defences, galleries and their kin, each kind in one registry.

A room's files register what they hold when they are imported, and they are imported when the registry
is first used. So an addition is one new file. Anything elsewhere is named as
``package.module:object``; such a name is code that will run, so it is taken from the command line, a TOML
file or the environment (``load``), never from a request, a card or a manifest (``[...]``).
"""

from __future__ import annotations

import os
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Generic, TypeVar

from facesieve.errors import SettingError, one_line

T = TypeVar("T")

EXTENSIONS = "FACESIEVE_EXTENSIONS"


class Registry(Generic[T]):
    """Things of one kind by name; ``kind`` is for messages, ``room`` the package whose files register themselves."""

    def __init__(self, kind: str, room: str | None = None) -> None:
        self._kind, self._room = kind, room
        self._things: dict[str, T] = {}
        self._is_open = False

    def register(self, name: str, thing: T) -> T:
        """Add ``thing``; returns it. Raises ``ValueError`` for a name that is taken by something else."""
        if self._things.setdefault(name, thing) is not thing:
            raise ValueError(f"{self._kind} {name!r} is registered twice")
        return thing

    def __getitem__(self, name: str) -> T:
        """What is called ``name``. Raises ``SettingError`` for an unknown one.

        Where a file of the room has this name, it alone is imported: others may need libraries that are not there.
        """
        if self._is_there(name):
            return self._things[name]
        if not self._is_open and self._room is not None and name.isidentifier() and find_spec(f"{self._room}.{name}"):
            import_module(f"{self._room}.{name}")
            if name in self._things:
                return self._things[name]
        self._open()
        try:
            return self._things[name]
        except KeyError:
            raise SettingError(f"unknown {self._kind} {name!r}; there are {', '.join(self)}") from None

    def load(self, spec: str) -> T:
        """As ``[spec]``, except that ``package.module:object`` is imported. Raises ``SettingError``."""
        module, colon, name = spec.partition(":")
        if not colon or not all(part.isidentifier() for part in [*module.split("."), name]):
            return self[spec]
        try:
            thing: T = getattr(import_module(module), name)
        except Exception as error:  # a module that somebody wrote may raise anything
            raise SettingError(f"{self._kind} {spec!r} cannot be imported ({one_line(error)})") from error
        return thing

    def __iter__(self) -> Iterator[str]:
        self._open()
        return iter(self._things)

    def __len__(self) -> int:
        self._open()
        return len(self._things)

    def __contains__(self, name: object) -> bool:
        if self._is_there(name):
            return True
        self._open()
        return name in self._things

    def _is_there(self, name: object) -> bool:
        """Whether nothing has to be imported for it. Extensions have to be, so that one that fails is told each time."""
        return name in self._things and (self._is_open or not os.environ.get(EXTENSIONS))

    def _open(self) -> None:
        if self._is_open:
            return
        self._is_open = True  # before the imports: a file of the room may ask the registry itself
        if self._room is not None:
            for found in pkgutil.iter_modules(import_module(self._room).__path__):
                import_module(f"{self._room}.{found.name}")
        for name in os.environ.get(EXTENSIONS, "").replace(",", " ").split():
            try:
                import_module(name)
            except ImportError as error:
                self._is_open = False
                raise SettingError(f"{name} cannot be imported ({one_line(error)})", EXTENSIONS) from error
