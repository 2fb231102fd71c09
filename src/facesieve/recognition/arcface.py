"""ArcFace's networks, as InsightFace trains and publishes them: what all of them share.

Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", CVPR 2019. The networks are
in ``iresnet`` and ``mobilefacenet``; their modules carry the names of InsightFace's state dicts.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from facesieve.recognition.crops import check_crops, resized
from facesieve.recognition.embedder import TorchEmbedder
from facesieve.recognition.graph_weights import Unit

SIDE = 112
FINAL = 7  # the side of the last feature map


class ArcFace(TorchEmbedder, nn.Module):
    """An ``Embedder``; called as a function it is its own ``embed``.

    The network runs in the type of its own weights; everything around it in the type of the crops. It sees
    ``(x - mean) / std`` of pixels x in 0..255, in the order ``channels``.
    """

    family: str  # what it is, in words

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.name, self.dimensions = "arcface", dimensions
        self.mean: Sequence[float] = (127.5,)
        self.std: Sequence[float] = (127.5,)
        self.channels = "rgb"

    @classmethod
    @abstractmethod
    def sized_for(cls, state: Mapping[str, Tensor]) -> Self:
        """The network, without weights, that this state dict is of. Raises ``KeyError`` where it is of another kind."""

    @classmethod
    @abstractmethod
    def state_of(cls, units: Sequence[Unit]) -> dict[str, Tensor] | None:
        """The state dict in the steps of a graph; None where they are another network's."""

    @abstractmethod
    def trunk(self, x: Tensor) -> Tensor:
        """The network alone: standardised pixels (B, 3, 112, 112) to (B, D), not normalised."""

    @abstractmethod
    def fold(self) -> None:
        """Fold normalisations into convolutions and freeze the slopes, for speed, of a network that has its weights."""

    def embed(self, crops: Tensor) -> Tensor:
        """``crops`` (B, 3, S, S), RGB in [0, 1], aligned to the template; unit rows (B, D). Raises ``ValueError`` for others."""
        check_crops(crops)
        x = 255 * resized(crops, SIDE)
        x = x if self.channels == "rgb" else x.flip(1)
        x = (x - x.new_tensor(self.mean)[:, None, None]) / x.new_tensor(self.std)[:, None, None]
        return functional.normalize(self.trunk(x.to(self._dtype)).to(crops.dtype))

    def forward(self, crops: Tensor) -> Tensor:
        """The same as ``embed``."""
        return self.embed(crops)

    @property
    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype
