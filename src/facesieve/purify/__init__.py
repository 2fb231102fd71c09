"""Purification: stages, restorations, purifiers, and the named presets.

A purifier is a sequence of stages; a stage maps a batch of aligned crops (B, 3, H, W) in [0, 1]
and a source of noise to such a batch.
"""

from __future__ import annotations

from facesieve.purify.presets import COLORIZATION, PRESETS, SUPER_RESOLUTION, Preset, chosen_preset, figures, preset
from facesieve.purify.purifier import Purifier
from facesieve.purify.restoration import Restoration, RestorationStage
from facesieve.purify.stage import Observed, Stage, StraightThrough, View

__all__ = [
    "COLORIZATION", "PRESETS", "SUPER_RESOLUTION", "Observed", "Preset", "Purifier", "Restoration", "RestorationStage", "Stage",
    "StraightThrough", "View", "chosen_preset", "figures", "preset",
]  # fmt: skip
