"""Degradations ``A`` with their pseudo-inverses: what a restoration throws away before it rebuilds.

Every operator obeys ``A Ap A = A``, and ``Ap A`` is an orthogonal projection (law 1 in docs/concepts.md):
block means and channel means have one single non-zero singular value each, so the transpose
scaled by it is the pseudo-inverse and no SVD is needed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from facesieve.errors import SettingError
from facesieve.limits import whole_number
from facesieve.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor


class Operator(ABC):
    """A linear degradation. ``A(x)`` degrades, ``A.Ap(y)`` is its pseudo-inverse."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """``A x``: images (B, C, H, W) to observations."""

    @abstractmethod
    def Ap(self, y: Tensor) -> Tensor:  # noqa: N802 - the field writes a capital A
        """``A+ y``: observations back to images, the smallest that has this observation."""

    @property
    def name(self) -> str:
        """The operator in words, such as ``grey of 4 x 4 block mean``; records keep it."""
        return repr(self)

    @property
    def caption(self) -> str:
        """What is seen of an image behind ``Ap A``, for a picture's title."""
        return self.name

    def with_scale(self, scale: int) -> Operator | None:
        """The operator at another resolution scale; None where it has none. Raises ``SettingError`` where it has several."""
        return None


@dataclass(frozen=True)
class MeanPool(Operator):
    """Mean over ``scale`` x ``scale`` blocks; the pseudo-inverse repeats each value over its block."""

    scale: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", whole_number(self.scale, "scale", 1, 1024))

    def __call__(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H / scale, W / scale); H and W must be multiples of ``scale``."""
        from torch.nn import functional

        height, width = x.shape[-2:]
        if height % self.scale or width % self.scale:
            raise SettingError(f"an image of {width} x {height} pixels cannot be cut into blocks of {self.scale}")
        return functional.avg_pool2d(x, self.scale)

    def Ap(self, y: Tensor) -> Tensor:  # noqa: N802
        """(B, C, h, w) to (B, C, h * scale, w * scale)."""
        return y.repeat_interleave(self.scale, -2).repeat_interleave(self.scale, -1)

    @property
    def name(self) -> str:
        """Such as ``2 x 2 block mean``."""
        return f"{self.scale} x {self.scale} block mean"

    @property
    def caption(self) -> str:
        """Fewer pixels; blocks of one pixel leave the image as it is."""
        return "as it is" if self.scale == 1 else "low resolution"

    def with_scale(self, scale: int) -> MeanPool:
        """Over blocks of another size."""
        return MeanPool(scale)


@dataclass(frozen=True)
class Grey(Operator):
    """Mean of the three channels, each with weight 1/3 (not luma); the pseudo-inverse copies it."""

    def __call__(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, 1, H, W)."""
        return x.mean(1, keepdim=True)

    def Ap(self, y: Tensor) -> Tensor:  # noqa: N802
        """(B, 1, H, W) to (B, 3, H, W)."""
        return y.expand(-1, 3, -1, -1)

    @property
    def name(self) -> str:
        """``grey``."""
        return "grey"

    @property
    def caption(self) -> str:
        """``grey``."""
        return "grey"


@dataclass(frozen=True)
class Compose(Operator):
    """``outer`` after ``inner``.

    The pseudo-inverse of a product is the product of the pseudo-inverses in reverse only for some
    pairs; it is for the operators here, because each averages along axes that the other leaves alone.
    """

    outer: Operator
    inner: Operator

    def __call__(self, x: Tensor) -> Tensor:
        """``outer(inner(x))``."""
        return self.outer(self.inner(x))

    def Ap(self, y: Tensor) -> Tensor:  # noqa: N802
        """``inner.Ap(outer.Ap(y))``."""
        return self.inner.Ap(self.outer.Ap(y))

    @property
    def name(self) -> str:
        """Such as ``grey of 2 x 2 block mean``."""
        return f"{self.outer.name} of {self.inner.name}"

    @property
    def caption(self) -> str:
        """What the inner one leaves, then the outer one."""
        return f"{self.inner.caption}, {self.outer.caption}"

    def with_scale(self, scale: int) -> Compose | None:
        """With the part that has a scale at another one."""
        outer, inner = self.outer.with_scale(scale), self.inner.with_scale(scale)
        if outer is None and inner is None:
            return None
        if outer is not None and inner is not None:
            raise SettingError(f"{self.name} has two resolution scales: it is not clear which one is meant")
        return Compose(outer or self.outer, inner or self.inner)


def grey_mean_pool(scale: int) -> Compose:
    """The fused operator: block mean, then grey."""
    return Compose(Grey(), MeanPool(scale))


OPERATORS: Registry[Callable[[], Operator]] = Registry("operator")
OPERATORS.register("block-mean", lambda: MeanPool(2))
OPERATORS.register("grey", Grey)
OPERATORS.register("grey-block-mean", lambda: grey_mean_pool(2))
