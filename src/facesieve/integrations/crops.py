"""Crops in, purified crops out, in the form in which other face libraries pass them on.

A prior knows faces in one framing, the template of ``facesieve.faces``, which is ArcFace's. Crops that
were aligned to it, at any size, are purified as they are (``AlignedCrops``, ``insightface_crops``). In crops
cut otherwise the face is found, purified in the template's framing, and put back (``LooseCrops``,
``facenet_pytorch_crops``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facesieve.errors import InputError, NoFaceError
from facesieve.faces import paste
from facesieve.images import to_floats, to_photo
from facesieve.noise import derive_seed, fresh_seeds
from facesieve.recognition.crops import resized
from facesieve.shield import Shield

Pixels = NDArray[np.uint8]
Bgr = Callable[[Pixels], Pixels]
Standardised = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class AlignedCrops:
    """Purifies crops that are aligned to the template: RGB (B, 3, S, S) in [0, 1] to the same, ``batch`` at a time.

    The noise is fresh, or, with a ``seed``, derived from it and each crop's pixels: then a crop has one
    result, alone or in a batch. Raises ``InputError`` for crops of another shape or range.
    """

    shield: Shield
    seed: int | None = None
    batch: int = 8

    def __call__(self, crops: Tensor) -> Tensor:
        """Purify; the result has the size, the format and the device of ``crops``."""
        check(crops)
        return torch.cat([self._purified(part) for part in torch.split(crops, self.batch)]) if len(crops) else crops

    def _purified(self, crops: Tensor) -> Tensor:
        images = crops.detach().to("cpu", torch.float32)
        small = resized(images, self.shield.size).clamp(0, 1)
        made = self.shield.trace(small, seeds_of(images, self.seed))[-1][1]
        return resized(made, crops.shape[-1]).clamp(0, 1).to(crops.device, crops.dtype)


@dataclass(frozen=True, eq=False)
class LooseCrops:
    """Purifies the largest face in crops of any framing: RGB (B, 3, H, W) in [0, 1] to the same.

    The face is found and aligned; what was purified is blended in at its place, and the rest stays as it
    was, to 8 bits. Raises ``InputError`` for crops of another shape or range, ``NoFaceError`` that names the crop.
    """

    shield: Shield
    seed: int | None = None

    def __call__(self, crops: Tensor) -> Tensor:
        """Purify; the result has the size, the format and the device of ``crops``."""
        check(crops, square=False)
        made = [self._purified(crop, number) for number, crop in enumerate(crops)]
        return torch.stack(made).to(crops.device, crops.dtype) if made else crops

    def _purified(self, crop: Tensor, number: int) -> Tensor:
        photo = to_photo(crop.detach().to("cpu", torch.float32))
        try:
            face = self.shield.faces(photo)[0]
        except NoFaceError:
            raise NoFaceError(f"crop {number}: no face found") from None
        aligned = self.shield.crop(photo, face)[None]
        return torch.from_numpy(to_floats(paste(photo, self.shield.trace(aligned, seeds_of(aligned, self.seed))[-1][1][0], face)))


def insightface_crops(shield: Shield, *, seed: int | None = None) -> Bgr:
    """For InsightFace: BGR ``uint8`` (H, W, 3) or (N, H, W, 3), as of ``face_align.norm_crop``, to the same.

    That is aligned to ArcFace's template, at any size. Raises ``InputError`` for anything else.
    """
    purify = AlignedCrops(shield, seed)

    def purified(crops: Pixels) -> Pixels:
        if not isinstance(crops, np.ndarray) or crops.dtype != np.uint8 or crops.ndim not in (3, 4) or crops.shape[-1] != 3:
            raise InputError(f"crops of InsightFace are uint8 of shape (H, W, 3) or (N, H, W, 3), not {described(crops)}")
        many = crops[None] if crops.ndim == 3 else crops
        rgb = torch.from_numpy(np.ascontiguousarray(many[..., ::-1].transpose(0, 3, 1, 2))).float() / 255
        made = (purify(rgb) * 255).round().byte().permute(0, 2, 3, 1).numpy()[..., ::-1]
        return np.ascontiguousarray(made[0] if crops.ndim == 3 else made)

    return purified


def facenet_pytorch_crops(shield: Shield, *, seed: int | None = None) -> Standardised:
    """For facenet-pytorch: RGB (3, H, W) or (B, 3, H, W), ``(pixel - 127.5) / 128`` as of its ``MTCNN``, to the same.

    MTCNN cuts out a box around the face and turns nothing, so that the face is found anew in it. Raises
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
    """Raises ``InputError`` for anything but images (B, 3, H, W) in [0, 1]; ``square`` ones where a template is meant."""
    if not isinstance(crops, Tensor) or crops.ndim != 4 or crops.shape[1] != 3 or not crops.is_floating_point():
        raise InputError(f"crops are floating point tensors (B, 3, H, W), not {described(crops)}")
    if square and crops.shape[2] != crops.shape[3]:
        raise InputError(f"aligned crops are square, these are {crops.shape[3]} x {crops.shape[2]}")
    low, high = (float(crops.min()), float(crops.max())) if crops.numel() else (0.0, 1.0)
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise InputError(f"values go from {low:.3g} to {high:.3g}; crops are in [0, 1]")


def seeds_of(crops: Tensor, seed: int | None) -> list[int]:
    """A seed for each crop: fresh ones, or derived from ``seed`` and its pixels."""
    if seed is None:
        return fresh_seeds(len(crops))
    return [derive_seed(seed, hashlib.sha256(crop.contiguous().numpy().tobytes()).hexdigest()) for crop in crops]


def described(value: object) -> str:
    """What something is, for an error: its format and shape, or its kind."""
    shape, kind = getattr(value, "shape", None), getattr(value, "dtype", None)
    return type(value).__name__ if shape is None else f"{kind} of shape {tuple(shape)}"
