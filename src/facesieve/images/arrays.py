"""Photographs as arrays: their type, and what networks take."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Photo = NDArray[np.uint8]  # (H, W, 3), sRGB
Floats = NDArray[np.float32]  # (..., 3, H, W), in [0, 1]


def to_floats(photo: NDArray[np.uint8]) -> Floats:
    """Photographs (..., H, W, 3) as channels first, (..., 3, H, W), ``float32`` in [0, 1]."""
    return np.moveaxis(photo, -1, -3).astype(np.float32, order="C") / np.float32(255)


def to_photo(image: ArrayLike) -> Photo:
    """An image (3, H, W), array or tensor on the CPU, as a photograph (H, W, 3): clipped to [0, 1], rounded to 256 levels.

    The exact inverse of ``to_floats``. Raises ``ValueError`` for another shape or pixels that are NaN.
    """
    values = np.asarray(image, np.float32)
    if values.ndim != 3 or values.shape[0] != 3:
        raise ValueError(f"a photograph needs shape (3, H, W), not {values.shape}")
    if np.isnan(values).any():
        raise ValueError("a photograph cannot hold NaN: what computed it is broken")
    levels = (values.clip(0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(1, 2, 0))
