"""PatchCleanser: a name that no square patch can change, by double masking.

Xiang, Mahloujifar and Mittal, "PatchCleanser: Certifiably Robust Defense against Adversarial Patches for Any Image Classifier"
(USENIX Security 2022). Masks are placed so that one of them covers the patch, wherever it is. If every pair of masks gives the
right name, the answer under attack is right: the mask that covers the patch shows a face without it, and so does each second
mask on top of another.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations_with_replacement

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facesieve.defences.smoothing import Namer
from facesieve.errors import SettingError

Box = tuple[int, int]  # the top left corner (y, x) of a mask
GREY = 0.5  # what a mask leaves
BATCH = 50


@dataclass(frozen=True)
class Masks:
    """Square masks, of which one covers any square patch of ``patch`` pixels in a crop of ``size``."""

    size: int
    patch: int
    across: int = 6  # masks along each side
    side: int = field(init=False)
    boxes: tuple[Box, ...] = field(init=False)

    def __post_init__(self) -> None:
        if not 1 <= self.patch < self.size or self.across < 2:
            raise SettingError(
                f"a patch of {self.patch} pixels on a crop of {self.size}, {self.across} masks: there is no such set"
            )
        places = self.size - self.patch + 1  # where a patch may begin
        stride = math.ceil(places / self.across)
        starts = [min(stride * number, self.size - self.patch - stride + 1) for number in range(math.ceil(places / stride))]
        object.__setattr__(self, "side", self.patch + stride - 1)
        object.__setattr__(self, "boxes", tuple((y, x) for y in starts for x in starts))

    def masked(self, crop: Tensor, chosen: Iterable[tuple[Box, ...]]) -> Tensor:
        """A crop (3, S, S) under each of the chosen sets of masks, (N, 3, S, S)."""
        copies = []
        for boxes in chosen:
            copy = crop.clone()
            for y, x in boxes:
                copy[:, y : y + self.side, x : x + self.side] = GREY
            copies.append(copy)
        return torch.stack(copies)


class DoubleMasking:
    """A recogniser behind double masking; ``calls`` counts the faces that it was shown."""

    def __init__(self, namer: Namer, masks: Masks) -> None:
        self._namer, self.masks, self.calls = namer, masks, 0

    def named(self, crop: Tensor) -> int:
        """The person's number for a crop (3, S, S): the paper's algorithm 1."""
        boxes = self.masks.boxes
        first = self._names(crop, [(box,) for box in boxes])
        majority = int(np.bincount(first).argmax())
        for box, name in zip(boxes, first, strict=True):
            if name != majority and (self._names(crop, [(box, other) for other in boxes]) == name).all():
                return int(name)
        return majority

    def is_certified(self, crop: Tensor, own: int) -> bool:
        """Whether no patch can change the name ``own``: all pairs of masks give it (theorem 1)."""
        pairs = list(combinations_with_replacement(self.masks.boxes, 2))
        return all((self._names(crop, pairs[at : at + BATCH]) == own).all() for at in range(0, len(pairs), BATCH))

    def _names(self, crop: Tensor, chosen: Sequence[tuple[Box, ...]]) -> NDArray[np.int64]:
        self.calls += len(chosen)
        return self._namer(self.masks.masked(crop, chosen))
