"""What every runtime can do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from facesieve.errors import SettingError
from facesieve.faces import Crops
from facesieve.faces.crops import check_crops
from facesieve.progress import Report, silent
from facesieve.registry import Registry
from facesieve.runtime.card import PurifierCard
from facesieve.runtime.trace import Trace

if TYPE_CHECKING:
    from facesieve.purify import Preset


class Runtime(Protocol):
    """A purifier that is loaded and ready."""

    @property
    def card(self) -> PurifierCard:
        """What it is."""

    def purify(self, crops: Crops, seeds: Sequence[int], report: Report = silent) -> Trace:
        """Purify crops (N, 3, S, S) in [0, 1], S the card's size; crop ``i`` depends on its pixels and ``seeds[i]`` alone.

        ``report`` is told how far it is. Raises as ``check``, which every runtime calls first.
        """


def check(crops: Crops, seeds: Sequence[int], size: int) -> None:
    """Raises ``InputError`` for anything but crops (N, 3, size, size) in [0, 1], ``SettingError`` for not a seed for each."""
    check_crops(crops, size)
    if len(seeds) != len(crops):
        raise SettingError(f"{len(seeds)} seeds for crops of shape {crops.shape}: one a crop is needed")


class Load(Protocol):
    """Loads a runtime."""

    def __call__(self, preset: Preset, *, prior: Path | str | None, device: str, precision: str) -> Runtime:
        """The preset with the prior in the folder ``prior``, its own if None. Raises ``PriorError`` or ``SettingError``."""


RUNTIMES: Registry[Load] = Registry("runtime", room="facesieve.runtime")
