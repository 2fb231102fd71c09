"""What every runtime can do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from facesieve.faces import Crops
from facesieve.runtime.card import PurifierCard
from facesieve.runtime.trace import Trace


class Runtime(Protocol):
    """A purifier that is loaded and ready."""

    @property
    def card(self) -> PurifierCard:
        """What it is."""

    def purify(self, crops: Crops, seeds: Sequence[int]) -> Trace:
        """Purify crops (N, 3, S, S) in [0, 1], S the card's size; crop ``i`` depends on its pixels and ``seeds[i]`` alone."""
