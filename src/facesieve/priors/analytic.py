"""Priors whose exact denoiser is known in closed form: oracles for the sampler and for attacks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def _column(sigma: Tensor | float, u: Tensor) -> Tensor:
    return torch.as_tensor(sigma, dtype=u.dtype, device=u.device).expand(len(u))[:, None]


@dataclass(frozen=True, eq=False)
class GaussianPrior:
    """Images drawn from a normal distribution: ``mean`` (C, H, W), ``covariance`` (D, D), D = C H W.

    ``E[x0 | u] = mean + S (S + sigma^2 I)^-1 (u - mean)``, by the eigenvectors of S.
    """

    mean: Tensor
    covariance: Tensor

    def __post_init__(self) -> None:
        values, vectors = torch.linalg.eigh(self.covariance)
        object.__setattr__(self, "_values", values.clamp(min=0))
        object.__setattr__(self, "_vectors", vectors)

    @property
    def sha256(self) -> None:
        """It has no weights."""
        return None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self.mean.shape
        return channels, height, width

    def __call__(self, u: Tensor, sigma: Tensor | float) -> Tensor:
        """The exact posterior mean of x0 given ``u`` (B, C, H, W)."""
        values: Tensor = self._values  # type: ignore[attr-defined]
        vectors: Tensor = self._vectors  # type: ignore[attr-defined]
        gain = values / (values + _column(sigma, u) ** 2)
        centred = (u - self.mean).flatten(1)
        return self.mean + ((centred @ vectors * gain) @ vectors.T).view_as(u)


@dataclass(frozen=True, eq=False)
class FiniteSetPrior:
    """Images drawn with equal chances from ``points`` (N, C, H, W).

    ``E[x0 | u]`` is the mean of the points weighted by ``exp(-|u - x|^2 / 2 sigma^2)``.
    """

    points: Tensor

    @property
    def sha256(self) -> None:
        """It has no weights."""
        return None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self.points.shape[1:]
        return channels, height, width

    def __call__(self, u: Tensor, sigma: Tensor | float) -> Tensor:
        """The exact posterior mean of x0 given ``u`` (B, C, H, W)."""
        points = self.points.flatten(1)
        # By differences: the matrix product that cdist takes for large batches loses small distances.
        distances = torch.cdist(u.flatten(1), points, compute_mode="donot_use_mm_for_euclid_dist") ** 2
        weights = torch.softmax(-distances / (2 * _column(sigma, u) ** 2), 1)
        return (weights @ points).view_as(u)
