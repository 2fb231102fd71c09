"""What every embedder can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

import numpy as np

from facesieve.faces import Crops
from facesieve.rows import Rows

if TYPE_CHECKING:
    from torch import Tensor

BATCH = 32  # crops that are embedded together; more would not be faster, and a gallery's worth would not fit


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
        """Whom its closed-set head tells apart; empty where it has none."""

    def rows(self, crops: Crops) -> Rows:
        """Embeddings (N, D) of ``crops`` (N, 3, S, S), RGB in [0, 1], aligned to ``facesieve.faces.TEMPLATE``, any N and S."""


class TorchEmbedder(ABC):
    """An embedder in PyTorch, which an attack can differentiate through."""

    name: str
    dimensions: int
    people: tuple[str, ...] = ()

    @abstractmethod
    def embed(self, crops: Tensor) -> Tensor:
        """``crops`` (B, 3, S, S), RGB in [0, 1], aligned to ``facesieve.faces.TEMPLATE``, any S, to (B, D), differentiable."""

    def rows(self, crops: Crops) -> Rows:
        """Embeddings (N, D) as an array, without gradients, a part after the other."""
        import torch

        parts = [np.empty((0, self.dimensions), np.float32)]
        with torch.inference_mode():
            for start in range(0, len(crops), BATCH):
                part = torch.from_numpy(crops[start : start + BATCH])
                parts.append(self.embed(part).float().cpu().numpy())
        return np.concatenate(parts)
