"""Exercises: each thing that a file can add is one file of ``new``, which lies there as it would in the package.

``new/galleries/memory.py`` is what ``src/facesieve/galleries/memory.py`` would be. What is in ``elsewhere`` belongs to
no room: it is code of the user's own, named as ``module:object``.
"""

import sys
from importlib import import_module
from pathlib import Path

import pytest

NEW = Path(__file__).parent / "new"


@pytest.fixture(autouse=True)
def forgotten():
    """What a test imports of ``new`` is imported anew by the next one."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(NEW)):
            del sys.modules[name]


@pytest.fixture
def reopened(monkeypatch):
    """``reopened(registry)``: it looks for files once more when it is asked, and forgets until the test ends what it finds."""

    def reopen(registry):
        list(registry)  # the room's own files first, so that they stay when the test ends
        monkeypatch.setattr(registry, "_things", dict(registry._things))
        monkeypatch.setattr(registry, "_is_open", False)
        folder = NEW.joinpath(*registry._room.split(".")[1:])
        (file,) = folder.glob("*.py")
        return folder, file.stem

    return reopen


@pytest.fixture
def added(reopened, monkeypatch):
    """``added(registry)`` puts the one new file into the registry's room, as copying it there would; its module's name."""

    def add(registry):
        folder, name = reopened(registry)
        room = import_module(registry._room)
        monkeypatch.setattr(room, "__path__", [*room.__path__, str(folder)])
        return f"{registry._room}.{name}"

    return add


@pytest.fixture
def extension(reopened, monkeypatch):
    """``extension(registry)`` leaves the new file where it is, importable, and names it in the environment."""

    def extend(registry):
        folder, name = reopened(registry)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.setenv("FACESIEVE_EXTENSIONS", name)

    return extend


@pytest.fixture
def elsewhere(monkeypatch):
    """The user's own modules can be imported, as those of an installed package can."""
    monkeypatch.syspath_prepend(NEW / "elsewhere")
