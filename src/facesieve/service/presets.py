"""The presets that a request may ask for: the service's own, and those of the setting ``presets`` beside it."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches

from facesieve.errors import SettingError, printable
from facesieve.runtime import PurifierCard
from facesieve.service.batcher import Batcher
from facesieve.service.problems import ProblemError


class Presets:
    """Each preset's batcher and card, by name; the service's own is what is meant where none is named.

    Raises ``SettingError`` for presets of different sizes: a photograph's faces are cut out once. The batcher of the service's
    own preset stops last, since its thread is that of the others, too.
    """

    def __init__(self, batcher: Batcher, card: PurifierCard, others: Mapping[str, tuple[Batcher, PurifierCard]]) -> None:
        self._own = card.name
        self._all = {**others, card.name: (batcher, card)}
        if other := next((one for _, one in others.values() if one.size != card.size), None):
            what = f"{other.name} has faces of {other.size} pixels and {card.name} of {card.size}"
            raise SettingError(what, "presets", "start another service for it")

    @property
    def names(self) -> list[str]:
        """All of them, the service's own first."""
        return [self._own, *(name for name in self._all if name != self._own)]

    def batcher(self, name: str | None) -> Batcher:
        """That of a preset. Raises 422 for one that this service does not have."""
        return self._find(name)[0]

    def card(self, name: str | None) -> PurifierCard:
        """As ``batcher``."""
        return self._find(name)[1]

    def _find(self, name: str | None) -> tuple[Batcher, PurifierCard]:
        found = self._all.get(self._own if name is None else name)
        if found is None:
            near = next(iter(get_close_matches(name or "", self.names, 1)), None)
            meant = f"; did you mean {near}?" if near else ""
            said = f"preset: this service has {', '.join(self.names)}, not {printable((name or '')[:40])}{meant}"
            raise ProblemError(422, "input", said)
        return found

    async def start(self) -> None:
        """Begin to take faces."""
        for batcher, _ in self._all.values():
            await batcher.start()

    async def stop(self) -> None:
        """Refuse what comes from now on, and finish what was accepted."""
        for batcher, _ in self._all.values():
            await batcher.stop()
