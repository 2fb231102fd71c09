"""Training images of faces: how crops are varied, and batches of them as tensors."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from facesieve.data.crops import WIDE, Crops
from facesieve.images import Photo, to_floats


def vary(crop: Photo, size: int, rng: np.random.Generator) -> Photo:
    """A training view (size, size, 3) of a crop: mirrored or not, shifted, rotated, blurred, relit a little."""
    side = crop.shape[0]
    zoom, turn = rng.uniform(0.92, 1.12), rng.uniform(-8, 8)
    matrix = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), turn, zoom)
    matrix[:, 2] += rng.uniform(-0.04, 0.04, 2) * side
    matrix[:, 2] += 0.5 * (1 - side / size)  # pixel centres: (x + 1/2) size / side - 1/2
    matrix *= size / side
    mirrored = crop[:, ::-1] if rng.random() < 0.5 else crop
    source = np.ascontiguousarray(mirrored)
    if rng.random() < 0.2:  # a photograph with few pixels
        few = int(rng.uniform(0.3, 0.7) * side)
        source = cv2.resize(cv2.resize(source, (few, few), interpolation=cv2.INTER_AREA), (side, side))  # type: ignore[assignment]
    elif size < side:
        source = cv2.blur(source, (2, 2))  # type: ignore[assignment]  # a cheap guard against aliasing
    view = cv2.warpAffine(source, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    gain, shift = rng.uniform(0.75, 1.25), rng.uniform(-20, 20)
    lit: Photo = np.rint(np.clip(view.astype(np.float32) * gain + shift, 0, 255)).astype(np.uint8)
    return lit


def wide_view(crop: Photo, size: int, rng: np.random.Generator | None = None) -> Photo:
    """The template's square (size, size, 3) of a wide crop; with ``rng`` mirrored, shifted, rotated and zoomed a little."""
    zoom, turn, shift, mirrored = 1.0, 0.0, np.zeros(2), False
    if rng is not None:
        zoom, turn = rng.uniform(0.95, 1.25), rng.uniform(-6, 6) if rng.random() < 0.5 else 0.0
        shift, mirrored = rng.uniform(-0.03, 0.03, 2) * size, rng.random() < 0.5
    side = crop.shape[0]
    scale = zoom * WIDE * size / side
    matrix = cv2.getRotationMatrix2D((0, 0), -turn, scale)
    matrix[:, 2] = (size - 1) / 2 + shift - matrix[:, :2] @ np.full(2, (side - 1) / 2)
    source = crop if scale > 0.8 else cv2.GaussianBlur(crop, (0, 0), 0.315 / scale)  # against aliasing
    view = cv2.warpAffine(source, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.ascontiguousarray(view[:, ::-1] if mirrored else view)


def varied(crop: Photo, size: int, rng: np.random.Generator) -> Photo:
    """A training view (size, size, 3) of a wide crop: most moved and as another camera would have it, the rest as it is."""
    return by_camera(wide_view(crop, size, rng), rng) if rng.random() < 0.7 else wide_view(crop, size)


def by_camera(view: Photo, rng: np.random.Generator) -> Photo:
    """A view as another camera would have it: with few pixels, coded as JPEG, lit differently; each sometimes."""
    side = view.shape[0]
    if rng.random() < 0.15:
        few = int(rng.uniform(0.4, 0.75) * side)
        view = cv2.resize(cv2.resize(view, (few, few), interpolation=cv2.INTER_AREA), (side, side))  # type: ignore[assignment]
    if rng.random() < 0.15:
        _, coded = cv2.imencode(".jpg", view, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 95))])
        view = cv2.imdecode(coded, cv2.IMREAD_COLOR)  # type: ignore[assignment]  # the order of channels comes back as it went in
    if rng.random() < 0.5:
        lit = view.astype(np.float32) * rng.uniform(0.75, 1.25) + rng.uniform(-20, 20)
        view = np.clip(lit, 0, 255).astype(np.uint8)
    return view


def to_batch(crops: Sequence[Photo] | Crops) -> Tensor:
    """Crops as (B, 3, S, S) in [0, 1], the layout that convolutions like best."""
    return torch.from_numpy(to_floats(np.stack(list(crops)))).contiguous(memory_format=torch.channels_last)


def sharpened(images: Tensor, amounts: Tensor) -> Tensor:
    """``images`` (B, 3, H, W) in [0, 1] with ``amounts`` (B,) times their fine detail added: x + a (x - mean of 3 x 3)."""
    means = functional.avg_pool2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return (images + amounts[:, None, None, None] * (images - means)).clamp(0, 1)
