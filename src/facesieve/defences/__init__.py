"""Defences that purification is compared with, each a ``Stage``: crops and noise to crops.

``DEFENCES[name](**settings)`` makes one; ``DiffPure`` also takes its prior. Settings that do not fit
raise ``SettingError``.
"""

from __future__ import annotations

from facesieve.defences.ddsa import Ddsa
from facesieve.defences.denoisers import NonLocalMeans, TotalVariation, WaveletDenoise
from facesieve.defences.diffpure import DiffPure
from facesieve.defences.distillation import FeatureDistillation
from facesieve.defences.faceguard import FaceGuard
from facesieve.defences.squeezing import BitDepth, BlockMeanBicubic, GaussianBlur, Jpeg, MedianBlur

# typed by hand: a type checker cannot say of a class that its instances are stages and take settings of their own
DEFENCES: dict[str, type] = {
    kind.name: kind
    for kind in (
        Jpeg, FeatureDistillation, BitDepth, MedianBlur, GaussianBlur, TotalVariation, NonLocalMeans, WaveletDenoise,
        BlockMeanBicubic, DiffPure, Ddsa, FaceGuard,
    )
}  # fmt: skip

__all__ = [
    "DEFENCES", "BitDepth", "BlockMeanBicubic", "Ddsa", "DiffPure", "FaceGuard", "FeatureDistillation", "GaussianBlur",
    "Jpeg", "MedianBlur", "NonLocalMeans", "TotalVariation", "WaveletDenoise",
]  # fmt: skip
