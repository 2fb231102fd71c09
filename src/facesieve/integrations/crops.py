"""Crops in, purified crops out, in the form in which other face libraries pass them on.

A prior knows faces in one framing, the template of ``facesieve.faces``, which is ArcFace's. Crops that
were aligned to it, at any size, are purified as they are (``AlignedCrops``, ``insightface_crops``). In crops
cut in another way the face is found, purified in the template's framing, and put back (``LooseCrops``,
``facenet_pytorch_crops``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facesieve.errors import InputError, NoFaceError
from facesieve.faces import FaceCrops
from facesieve.faces.crops import check_crops, described, resized
from facesieve.images import to_floats, to_photo
from facesieve.shield import Shield

Pixels = NDArray[np.uint8]
Bgr = Callable[[Pixels], Pixels]
Standardised = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class AlignedCrops:
    """Purifies crops that are aligned to the template: RGB (B, 3, S, S) in [0, 1] to the same, ``batch`` at a time.

    They are rounded to 8 bits. The noise is fresh or, with a ``seed``, derived from it and each crop's
    pixels: then a crop has one result, alone or in a batch. Raises ``InputError`` for crops of another shape or range.
    """

    shield: Shield
    seed: int | None = None
    batch: int = 8

    def __call__(self, crops: Tensor) -> Tensor:
        """Purify; the result has the size, the format and the device of ``crops``."""
        check(crops)
        return torch.cat([self._purified(part) for part in torch.split(crops, self.batch)]) if len(crops) else crops

    def _purified(self, crops: Tensor) -> Tensor:
        before = whole(crops, self.shield.card.size)
        seeds = [seed for one in before for seed in one.seeds(self.seed)]
        made = self.shield.runtime.purify(np.concatenate([one.crops for one in before]), seeds).crops
        return torch.from_numpy(np.stack([resized(crop, crops.shape[-1]) for crop in made])).to(crops.device, crops.dtype)


@dataclass(frozen=True, eq=False)
class LooseCrops:
    """Purifies the largest face in crops of any framing: RGB (B, 3, H, W) in [0, 1] to the same.

    They are rounded to 8 bits. The face is found and aligned; what was purified is blended back in
    place, and the rest stays as it was. Raises ``InputError`` for crops of another shape or range,
    ``NoFaceError`` that names the crop.
    """

    shield: Shield
    seed: int | None = None

    def __call__(self, crops: Tensor) -> Tensor:
        """Purify; the result has the size, the format and the device of ``crops``."""
        check(crops, square=False)
        made = [self._purified(crop, number) for number, crop in enumerate(crops)]
        return torch.stack(made).to(crops.device, crops.dtype) if made else crops

    def _purified(self, crop: Tensor, number: int) -> Tensor:
        try:
            before = self.shield.cut(to_photo(crop.detach().cpu())).first(1)
        except NoFaceError as error:
            raise error.at(f"crop {number}") from None
        return torch.from_numpy(to_floats(self.shield.restore(before, before.seeds(self.seed)).paste()))


def insightface_crops(shield: Shield, *, seed: int | None = None) -> Bgr:
    """For InsightFace: BGR ``uint8`` (S, S, 3) or (N, S, S, 3), as of ``face_align.norm_crop``, to the same.

    At multiples of 112 pixels ``norm_crop`` cuts out the template's square. At multiples of 128 it shows an eighth more,
    at the sides and below: that no prior knows, so there the outermost purified pixels are repeated, and nothing that
    came in is left. Raises ``InputError`` for anything else.
    """
    purify = AlignedCrops(shield, seed)

    def purified(crops: Pixels) -> Pixels:
        if not isinstance(crops, np.ndarray) or crops.dtype != np.uint8 or crops.ndim not in (3, 4) or crops.shape[-1] != 3:
            raise InputError(f"crops of InsightFace are uint8 of shape (H, W, 3) or (N, H, W, 3), not {described(crops)}")
        many = crops[None] if crops.ndim == 3 else crops
        side, left = _square(many)
        rgb = purify(torch.from_numpy(to_floats(many[:, :side, left : left + side, ::-1])))
        around = ((0, many.shape[1] - side), (left, many.shape[2] - side - left), (0, 0))
        bgr = [np.pad(to_photo(crop)[..., ::-1], around, mode="edge") for crop in rgb]
        return bgr[0] if crops.ndim == 3 else np.stack(bgr)

    return purified


def _square(crops: Pixels) -> tuple[int, int]:
    """The side of the template's square in crops (N, S, S, 3) of ``norm_crop``, at their upper border, and its left border."""
    height, width = crops.shape[1:3]
    if height != width or not height or (height % 112 and height % 128):
        raise InputError(f"crops of norm_crop are squares of a multiple of 112 or 128 pixels, these are {width} x {height}")
    return (height, 0) if height % 112 == 0 else (height * 112 // 128, height * 8 // 128)


def facenet_pytorch_crops(shield: Shield, *, seed: int | None = None) -> Standardised:
    """For facenet-pytorch: RGB (3, H, W) or (B, 3, H, W), ``(pixel - 127.5) / 128`` as of its ``MTCNN``, to the same.

    MTCNN cuts out a box around the face without rotating it, so the face is found again in it. Raises
    ``InputError`` for another shape or range, ``NoFaceError`` for a crop in which no face is found.
    """
    purify = LooseCrops(shield, seed)

    def purified(crops: Tensor) -> Tensor:
        if not isinstance(crops, Tensor) or crops.ndim not in (3, 4):
            raise InputError(f"crops of facenet-pytorch are tensors (3, H, W) or (B, 3, H, W), not {described(crops)}")
        many = crops[None] if crops.ndim == 3 else crops
        made = purify((many * 128 + 127.5) / 255) * 255
        result = (made - 127.5) / 128
        return result[0] if crops.ndim == 3 else result

    return purified


def check(crops: object, *, square: bool = True) -> None:
    """Raises ``InputError`` for anything but images (B, 3, H, W) in [0, 1]; ``square`` ones where they are on the template."""
    if not isinstance(crops, Tensor) or crops.ndim != 4 or crops.shape[1] != 3 or not crops.is_floating_point():
        raise InputError(f"crops are floating point tensors (B, 3, H, W), not {described(crops)}")
    if square and crops.shape[2] != crops.shape[3]:
        raise InputError(f"aligned crops are square, these are {crops.shape[3]} x {crops.shape[2]}")
    check_crops(crops)


def whole(crops: Tensor, size: int) -> list[FaceCrops]:
    """Each of the crops (B, 3, S, S), rounded to 8 bits and resized to ``size`` pixels."""
    return [FaceCrops.whole(to_photo(crop), size) for crop in crops.detach().cpu()]
