"""Noise schedules: how the steps of a discrete diffusion process map to noise levels.

With ``abar_t`` the cumulative product of ``1 - beta``, step ``t`` has the noise level
``sigma_t = sqrt((1 - abar_t) / abar_t)``; between two steps ``t`` is interpolated in log sigma.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from facesieve.errors import PriorError

if TYPE_CHECKING:
    from torch import Tensor


class Schedule:
    """The noise levels of a discrete schedule: ``alphas_bar`` (T,), float64, decreasing in (0, 1)."""

    def __init__(self, alphas_bar: Tensor) -> None:
        import torch

        self.alphas_bar = alphas_bar.double()
        levels = sigmas_at(self.alphas_bar.cpu().numpy())
        self.sigmas = torch.from_numpy(levels)
        if len(self.sigmas) < 2:
            raise PriorError("the noise levels do not rise: a schedule has two or more")
        rising = bool((self.sigmas.diff(prepend=self.sigmas.new_zeros(1)) > 0).all())
        if not rising or not bool(torch.isfinite(self.sigmas).all()):
            raise PriorError("the noise levels do not rise from 0 step by step; rescaled zero-SNR schedules are not supported")
        self._log_sigmas = np.log(levels)

    @classmethod
    def linear(cls, start: float = 1e-4, end: float = 0.02, steps: int = 1000) -> Schedule:
        """The schedule of DDPM (Ho et al. 2020): beta linear from ``start`` to ``end``."""
        import torch

        return cls(torch.from_numpy(linear_alphas_bar(start, end, steps)))

    def time(self, sigma: Tensor) -> Tensor:
        """The step number, fractional, at each ``sigma`` (any shape); clamped to the schedule's range. On the CPU."""
        import torch

        return torch.from_numpy(self.time_at(sigma.detach().double().cpu().numpy()))

    def time_at(self, sigma: NDArray[np.float64] | float) -> NDArray[np.float32]:
        """``time`` in NumPy."""
        log_sigmas, wanted = self._log_sigmas, np.log(np.asarray(sigma, np.float64))
        above = np.searchsorted(log_sigmas, wanted).clip(1, len(log_sigmas) - 1)
        low, high = log_sigmas[above - 1], log_sigmas[above]
        time = np.asarray(above - 1 + ((wanted - low) / (high - low)).clip(0, 1), np.float32)
        nearest = time.round()
        # An exact step of the schedule must not reach the network as 989.99994.
        return np.where(np.abs(time - nearest) < 1e-3, nearest, time)


def linear_alphas_bar(start: float = 1e-4, end: float = 0.02, steps: int = 1000) -> NDArray[np.float64]:
    """``abar`` (steps,) of DDPM's schedule: beta linear from ``start`` to ``end``."""
    return np.cumprod(1 - np.linspace(start, end, steps)).astype(np.float64)


def sigmas_at(alphas_bar: NDArray[np.float64]) -> NDArray[np.float64]:
    """The noise level at each ``abar``, of the same shape."""
    with np.errstate(divide="ignore", invalid="ignore"):  # whoever has a use for the levels checks them
        sigmas: NDArray[np.float64] = np.sqrt((1 - alphas_bar) / alphas_bar)
    return sigmas
