"""Degradations ``A`` with their pseudo-inverses: what a restoration throws away before it rebuilds.

Every operator obeys ``A Ap A = A``, and ``Ap A`` is an orthogonal projection (law 1 in docs/concepts.md):
block means and channel means have one single non-zero singular value each, so the transpose
scaled by it is the pseudo-inverse and no SVD is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.nn import functional

from facesieve.errors import SettingError


class Operator(Protocol):
    """A linear degradation. ``A(x)`` degrades, ``A.Ap(y)`` is its pseudo-inverse."""

    def __call__(self, x: Tensor) -> Tensor:
        """``A x``: images (B, C, H, W) to observations."""

    def Ap(self, y: Tensor) -> Tensor:  # noqa: N802 - the field writes a capital A
        """``A+ y``: observations back to images, the smallest that has this observation."""


@dataclass(frozen=True)
class MeanPool:
    """Mean over ``scale`` x ``scale`` blocks; the pseudo-inverse repeats each value over its block."""

    scale: int

    def __post_init__(self) -> None:
        if self.scale < 1:
            raise SettingError(f"scale {self.scale} must be 1 or more; 2, 4 and 8 are usual")

    def __call__(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H / scale, W / scale); H and W must be multiples of ``scale``."""
        height, width = x.shape[-2:]
        if height % self.scale or width % self.scale:
            raise SettingError(f"an image of {width} x {height} pixels cannot be cut into blocks of {self.scale}")
        return functional.avg_pool2d(x, self.scale)

    def Ap(self, y: Tensor) -> Tensor:  # noqa: N802
        """(B, C, h, w) to (B, C, h * scale, w * scale)."""
        return y.repeat_interleave(self.scale, -2).repeat_interleave(self.scale, -1)


@dataclass(frozen=True)
class Grey:
    """Mean of the three channels, each with weight 1/3 (not luma); the pseudo-inverse copies it."""

    def __call__(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 1, H, W)."""
        return x.mean(1, keepdim=True)

    def Ap(self, y: Tensor) -> Tensor:  # noqa: N802
        """(B, 1, H, W) to (B, 3, H, W)."""
        return y.expand(-1, 3, -1, -1)


@dataclass(frozen=True)
class Compose:
    """``outer`` after ``inner``.

    The pseudo-inverse of a product is the product of the pseudo-inverses in reverse only for some
    pairs; it is for the operators here, because each averages along axes that the other leaves be.
    """

    outer: Operator
    inner: Operator

    def __call__(self, x: Tensor) -> Tensor:
        """``outer(inner(x))``."""
        return self.outer(self.inner(x))

    def Ap(self, y: Tensor) -> Tensor:  # noqa: N802
        """``inner.Ap(outer.Ap(y))``."""
        return self.inner.Ap(self.outer.Ap(y))


def grey_mean_pool(scale: int) -> Compose:
    """The fused operator: block mean, then grey."""
    return Compose(Grey(), MeanPool(scale))
