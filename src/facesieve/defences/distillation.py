"""JPEG-like coding with a table made for networks instead of eyes."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sqrt

import torch
from torch import Tensor
from torch.nn import functional

from facesieve.defences import DEFENCES
from facesieve.errors import SettingError
from facesieve.noise import Noise
from facesieve.purify import Stage

BLOCK = 8


@dataclass(frozen=True)
class FeatureDistillation(Stage):
    """Quantise the DCT of every 8 x 8 block by a coarse table, less coarsely where recognition needs it.

    Liu, Liu, Liu, Xu, Lin, Wang and Wen, "Feature Distillation: DNN-Oriented JPEG Compression Against
    Adversarial Examples" (CVPR 2019). Followed, with the steps of the authors' published table:

    1. defensive quantisation: one ``step`` for all frequencies, 30 in units of 1/255, coarser than most
       coefficients of a perturbation;
    2. DNN-oriented refinement: the ``kept`` x ``kept`` lowest frequencies, which carry what a network
       recognises by, get the smaller ``kept_step``, 25.

    As there, each of R, G, B is coded separately, without a shift to zero mean. Not followed: the choice
    of the steps by statistics of a data set, and the file: entropy coding loses nothing. Beyond
    the border its pixels are repeated up to a multiple of 8. The gradient is 0 everywhere. Raises
    ``SettingError`` for steps that are not positive or ``kept`` outside 0 to 8.
    """

    step: float = 30.0
    kept_step: float = 25.0
    kept: int = 4
    name = "feature-distillation"

    def __post_init__(self) -> None:
        if not self.step > 0 or not self.kept_step > 0:
            raise SettingError(f"step {self.step} and kept_step {self.kept_step} must be above 0")
        if self.kept not in range(BLOCK + 1):
            raise SettingError(f"kept {self.kept} must be a whole number between 0 and {BLOCK}")

    def table(self) -> Tensor:
        """The steps (8, 8) of all frequencies, float64, in units of 1/255."""
        steps = torch.full((BLOCK, BLOCK), float(self.step), dtype=torch.float64)
        steps[: self.kept, : self.kept] = float(self.kept_step)
        return steps

    def __call__(self, images: Tensor, noise: Noise) -> Tensor:
        """``images`` (B, 3, H, W) in [0, 1], coded and decoded, clipped to [0, 1]; ``noise`` is not used."""
        height, width = images.shape[-2:]
        padded = functional.pad(images, (0, -width % BLOCK, 0, -height % BLOCK), mode="replicate")
        blocks = padded.unfold(2, BLOCK, BLOCK).unfold(3, BLOCK, BLOCK)  # (B, 3, rows, columns, 8, 8)
        transform, table = dct_matrix().to(images), self.table().to(images)
        coefficients = transform @ (255 * blocks) @ transform.T
        quantised = (coefficients / table).round() * table
        decoded = (transform.T @ quantised @ transform) / 255
        return decoded.transpose(3, 4).reshape(padded.shape)[..., :height, :width].clamp(0, 1)


def dct_matrix() -> Tensor:
    """The orthonormal DCT-II of 8 values, (8, 8) float64: ``c_k cos((2 n + 1) k pi / 16)``, rows k (Ahmed et al. 1974)."""
    scale = [sqrt(1 / BLOCK), *[sqrt(2 / BLOCK)] * (BLOCK - 1)]
    rows = [[scale[k] * cos((2 * n + 1) * k * pi / (2 * BLOCK)) for n in range(BLOCK)] for k in range(BLOCK)]
    return torch.tensor(rows, dtype=torch.float64)


DEFENCES.register(FeatureDistillation.name, FeatureDistillation)
