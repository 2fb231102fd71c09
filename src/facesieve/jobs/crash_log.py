"""Photographs that kill the process that reads them: found by a log that each worker keeps, and left out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from facesieve.errors import InputError

STRIKES = 3  # a machine may go down while it reads a photograph once, and by bad luck twice
ATTEMPTS = 20  # on a piece of work, besides those on a photograph


class CrashLog:
    """A file that says which photograph is being read, and on which ones a worker has died.

    A hostile file may crash the decoder or the detector, and its process with it; the next worker on the work
    finds the log. Deaths outside of ``reading`` count against no photograph, but after too many of them the
    work is abandoned.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._deaths = dict(json.loads(path.read_text()))
        except (OSError, ValueError):  # none yet, or it was being written
            self._deaths = {}

    @contextmanager
    def work(self, name: str) -> Iterator[CrashLog]:
        """Log that the work on ``name`` has begun; the log is removed when it ends.

        Raises ``InputError`` where too many workers died on it.
        """
        begun = self._deaths.pop("", 0)
        if begun - sum(self._deaths.values()) >= ATTEMPTS:
            raise InputError(f"{begun} workers died on it; it is left out", name)
        self._deaths[""] = begun + 1
        self._write(self._deaths)
        yield self
        self._path.unlink(missing_ok=True)

    @contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """Log that ``name`` is being read. Raises ``InputError`` where too many workers died of that."""
        deaths = self._deaths.get(name, 0)
        if deaths >= STRIKES:
            raise InputError(f"{deaths} workers died while they read it; it is left out", name)
        self._write({**self._deaths, name: deaths + 1})
        try:
            yield
        finally:
            self._write(self._deaths)

    def _write(self, deaths: dict[str, int]) -> None:
        self._path.write_text(json.dumps(deaths))  # twice a photograph, so not flushed to disk; half a log counts as none
