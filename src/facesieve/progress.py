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
