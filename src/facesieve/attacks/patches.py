"""Where a patch may be: masks on faces aligned to the template, for ``pgd(..., mask=...)``.

Eyeglass frames: Sharif et al., "Accessorize to a Crime", CCS 2016. A sticker on the forehead or hat:
Komkov and Petiushko, "AdvHat", ICPR 2020. The shapes here are drawn on the template's landmarks.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor

from facesieve.faces import TEMPLATE

FINE = 8  # drawn so many times larger: a mask of 112 pixels keeps its shape


def eyeglass_frame(size: int) -> Tensor:
    """A frame around both eyes, with bridge and temples: (1, size, size) in {0, 1}; the eyes look through it.

    ``size`` is the side of the aligned crop, pixels.
    """
    left, right = TEMPLATE[0], TEMPLATE[1]  # (x, y), fractions of the side
    between = float(np.linalg.norm(right - left))
    canvas, scale = _canvas(size)
    thick = round(0.12 * between * scale)
    axes = (round(0.38 * between * scale), round(0.28 * between * scale))  # of a lens
    for eye in (left, right):
        cv2.ellipse(canvas, _at(eye, scale), axes, 0, 0, 360, 1, thick)
    bridge = 0.38 * between
    cv2.line(canvas, _at(left + [bridge, 0], scale), _at(right - [bridge, 0], scale), 1, thick)
    cv2.line(canvas, _at(left - [bridge, 0], scale), _at([0.0, left[1]], scale), 1, thick)
    cv2.line(canvas, _at(right + [bridge, 0], scale), _at([1.0, right[1]], scale), 1, thick)
    return _mask(canvas, size)


def forehead_sticker(size: int) -> Tensor:
    """A rectangle above the eyes, as wide as they are apart: (1, size, size) in {0, 1}."""
    left, right = TEMPLATE[0], TEMPLATE[1]
    between = float(np.linalg.norm(right - left))
    canvas, scale = _canvas(size)
    bottom = min(left[1], right[1]) - 0.35 * between
    top = bottom - 0.6 * between
    cv2.rectangle(canvas, _at([left[0], top], scale), _at([right[0], bottom], scale), 1, cv2.FILLED)
    return _mask(canvas, size)


def _canvas(size: int) -> tuple[np.ndarray, int]:
    return np.zeros((size * FINE, size * FINE), np.uint8), size * FINE


def _at(point: object, scale: int) -> tuple[int, int]:
    x, y = np.asarray(point) * scale
    return round(float(x)), round(float(y))


def _mask(canvas: np.ndarray, size: int) -> Tensor:
    small = cv2.resize(canvas.astype(np.float32), (size, size), interpolation=cv2.INTER_AREA)
    return torch.from_numpy((small >= 0.5).astype(np.float32))[None]
