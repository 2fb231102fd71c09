"""What every embedder can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from facesieve.errors import EmbedderError
from facesieve.faces import Crops
from facesieve.rows import Rows

if TYPE_CHECKING:
    from torch import Tensor

BATCH = 32  # crops embedded together; more would not be faster, and those of a whole gallery would not fit


class Embedder(Protocol):
    """Aligned crops to unit rows."""

    @property
    def name(self) -> str:
        """What a gallery remembers it by: embeddings of two embedders cannot be compared."""

    @property
    def dimensions(self) -> int:
        """The length D of an embedding."""

    @property
    def people(self) -> tuple[str, ...]:
        """The people that its closed-set head tells apart; empty where it has none."""

    def rows(self, crops: Crops) -> Rows:
        """Embeddings (N, D) of ``crops`` (N, 3, S, S), RGB in [0, 1], aligned to ``facesieve.faces.TEMPLATE``, any N and S.

        Raises ``ValueError`` for another shape.
        """


class TorchEmbedder(ABC):
    """An embedder in PyTorch, which an attack can differentiate through."""

    name: str
    dimensions: int
    people: tuple[str, ...] = ()

    @abstractmethod
    def embed(self, crops: Tensor) -> Tensor:
        """``crops`` (B, 3, S, S), RGB in [0, 1], aligned to ``facesieve.faces.TEMPLATE``, any S, to (B, D), differentiable."""

    def classify(self, crops: Tensor) -> Tensor:
        """The logits (B, people) of a closed-set head for such crops. Raises ``EmbedderError`` where there is none."""
        raise EmbedderError(f"{self.name} has no classifier", advice="train one on the people to be told apart")

    def rows(self, crops: Crops) -> Rows:
        """Embeddings (N, D) as an array, without gradients."""
        import torch

        with torch.inference_mode():
            return in_parts(lambda part: self.embed(torch.from_numpy(part)).float().cpu().numpy(), crops, self.dimensions)


def in_parts(embed: Callable[[NDArray[Any]], Rows], crops: NDArray[Any], dimensions: int, size: int = BATCH) -> Rows:
    """The rows (N, ``dimensions``) that ``embed`` makes from crops, or from their numbers, ``size`` of them at a time."""
    parts = [embed(crops[start : start + size]) for start in range(0, len(crops), size)]
    return np.concatenate([np.empty((0, dimensions), np.float32), *parts])


def differentiable(embedder: Embedder) -> TorchEmbedder:
    """The embedder, if an attack can differentiate through it. Raises ``EmbedderError`` for one that gives no gradients."""
    if not isinstance(embedder, TorchEmbedder):
        why = getattr(embedder, "no_gradients", None)  # of one that could not be read into PyTorch
        raise EmbedderError(f"{embedder.name} gives no gradients{f': {why}' if why else ''}", advice="use SFace or FaceNet")
    return embedder
