"""Photographs that kill whoever reads them: found by the trail that a worker leaves, and left out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from facesieve.errors import InputError

STRIKES = 3  # a machine may go down while it reads a photograph once, and by bad luck twice
ATTEMPTS = 20  # at a piece of work, besides those that ended at a photograph


class Trail:
    """A note on disk of the photograph that is being read, and of those at which a worker died before.

    A decoder or a detector that is led astray by a hostile file may end its process; whoever takes
    the work up finds the note. Deaths outside of ``reading`` are held against no photograph, but
    after too many of them the work is given up.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._deaths = dict(json.loads(path.read_text()))
        except (OSError, ValueError):  # none yet, or it was being written
            self._deaths = {}

    @contextmanager
    def work(self, name: str) -> Iterator[Trail]:
        """Note that the work on ``name`` has begun; no note is left when it ends.

        Raises ``InputError`` where too many workers died on it.
        """
        begun = self._deaths.pop("", 0)
        if begun - sum(self._deaths.values()) >= ATTEMPTS:
            raise InputError(f"{name}: {begun} workers died on it; it is left out")
        self._deaths[""] = begun + 1
        self._write(self._deaths)
        yield self
        self._path.unlink(missing_ok=True)

    @contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """Note that ``name`` is read now. Raises ``InputError`` where that was the end of too many workers."""
        deaths = self._deaths.get(name, 0)
        if deaths >= STRIKES:
            raise InputError(f"{name}: {deaths} workers died while they read it; it is left out")
        self._write({**self._deaths, name: deaths + 1})
        try:
            yield
        finally:
            self._write(self._deaths)

    def _write(self, deaths: dict[str, int]) -> None:
        self._path.write_text(json.dumps(deaths))
