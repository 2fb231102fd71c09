"""Recognition: who is it, by comparing embeddings.

An embedder turns an aligned face into a point on the unit sphere; faces of one person lie close
together there, and the cosine of two faces is the product of their rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Embedder(Protocol):
    """``embed(faces) -> unit rows``, differentiable."""

    @property
    def name(self) -> str:
        """What a gallery remembers it by: embeddings of two embedders cannot be compared."""

    @property
    def dimensions(self) -> int:
        """The length D of an embedding."""

    def embed(self, crops: Tensor) -> Tensor:
        """``crops`` (B, 3, S, S), RGB in [0, 1], aligned to ``facesieve.faces.TEMPLATE``, any S.

        Returns (B, D), rows of L2 norm 1.
        """


__all__ = ["Embedder"]
