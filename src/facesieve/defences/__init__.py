"""Baseline defences to compare purification with, each a ``Stage``: crops and noise to crops.

``DEFENCES[name](**settings)`` makes one; one that ``needs_prior`` takes ``prior=...``, too. Unsuitable
settings raise ``SettingError``. A file of this room registers what it adds.
"""

from __future__ import annotations

from typing import Any, Protocol

from facesieve.purify import Stage
from facesieve.registry import Registry


class StageKind(Protocol):
    """What makes a stage: its class."""

    needs_prior: bool

    def __call__(self, *args: Any, **settings: Any) -> Stage:
        """A stage with these settings."""


DEFENCES: Registry[StageKind] = Registry("defence", "facesieve.defences")

__all__ = ["DEFENCES", "StageKind"]
