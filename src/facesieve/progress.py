"""How far something is: the one way in which long work tells whoever is waiting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Progress:
    """``done`` of ``total`` pieces of work; ``what`` was done last, ``facts`` are figures to show with it."""

    done: float
    total: float
    what: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)


Report = Callable[[Progress], None]


def silent(_: Progress) -> None:
    """Tells nobody."""


class Work:
    """Adds up what is done of a ``total``, and reports it."""

    def __init__(self, report: Report, total: float) -> None:
        self._report, self._total, self._done = report, total, 0.0

    def done(self, units: float, what: str) -> None:
        """So much more is done; ``what`` it was."""
        self._done += units
        self._report(Progress(self._done, self._total, what))
