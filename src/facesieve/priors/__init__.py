"""Priors: what is known about faces, as a denoiser ``prior(u, sigma) -> x0``.

``u = x0 + sigma z`` is an image in [-1, 1] with Gaussian noise of level ``sigma`` added
(variance-exploding form). Whatever network, target or schedule is behind a prior is converted
to this convention once, when it is loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from facesieve.priors.schedule import Schedule

if TYPE_CHECKING:
    from torch import Tensor


class Prior(Protocol):
    """An estimate of the clean image from a noisy one."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images it knows."""

    @property
    def sha256(self) -> str | None:
        """The SHA-256 of its weights' file; None where there is none."""

    def __call__(self, u: Tensor, sigma: Tensor | float) -> Tensor:
        """``u`` (B, C, H, W), ``sigma`` > 0 a number or (B,); returns the estimate of x0, like ``u``."""


__all__ = ["Prior", "Schedule"]
