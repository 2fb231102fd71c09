"""Exercises: each thing that a file can add is one file of ``new``, which lies there as it would in the package.

``new/galleries/memory.py`` is what ``src/facesieve/galleries/memory.py`` would be. What is in ``elsewhere`` belongs to
no room: it is code of the user's own, named as ``module:object``.
"""

import sys
from importlib import import_module
from pathlib import Path

import pytest

NEW = Path(__file__).parent / "new"


@pytest.fixture
def added(monkeypatch):
    """``added(registry)`` puts the one new file into the registry's room, as copying it there would, until the test ends."""
    before = set(sys.modules)

    def add(registry):
        list(registry)  # the room's own files first, so that they stay when the test ends
        room = import_module(registry._room)
        folder = NEW.joinpath(*registry._room.split(".")[1:])
        (file,) = folder.glob("*.py")
        monkeypatch.setattr(room, "__path__", [*room.__path__, str(folder)])
        monkeypatch.setattr(registry, "_things", dict(registry._things))
        monkeypatch.setattr(registry, "_is_open", False)
        return f"{registry._room}.{file.stem}"

    yield add
    _forget({str(NEW)}, before)


@pytest.fixture
def elsewhere(monkeypatch):
    """The user's own modules can be imported, as those of an installed package can."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(NEW / "elsewhere")
    yield
    _forget({str(NEW)}, before)


def _forget(folders, before):
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if any(file.startswith(folder) for folder in folders):
            del sys.modules[name]
