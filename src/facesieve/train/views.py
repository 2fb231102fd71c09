"""Training images of faces: aligned crops on disk, and how they are varied."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from facesieve.data.crops import Crops
from facesieve.images import Photo
from facesieve.recognition import Embedder


@torch.inference_mode()
def teacher_rows(teacher: Embedder, crops: Crops, path: Path) -> Tensor:
    """Where the teacher's embedding of every crop points from the mean of all: unit rows (N, D); kept at ``path``.

    All faces share the mean, about 0.4 long with SFace; it says nothing of who they are, and a
    network learns it first.
    """
    if not path.exists():
        parts = [teacher.embed(to_batch(crops[start : start + 32])).numpy() for start in range(0, len(crops), 32)]
        partial = path.with_suffix(".partial.npy")
        np.save(partial, np.concatenate(parts))
        partial.replace(path)
    rows = torch.from_numpy(np.load(path))
    return functional.normalize(rows - rows.mean(0))


def vary(crop: Photo, size: int, rng: np.random.Generator) -> Photo:
    """A training view (size, size, 3) of a crop: mirrored or not, moved, turned, blurred, lit a little differently."""
    side = crop.shape[0]
    zoom, turn = rng.uniform(0.92, 1.12), rng.uniform(-8, 8)
    matrix = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), turn, zoom)
    matrix[:, 2] += rng.uniform(-0.04, 0.04, 2) * side
    matrix[:, 2] += 0.5 * (1 - side / size)  # pixel centres: (x + 1/2) size / side - 1/2
    matrix *= size / side
    mirrored = crop[:, ::-1] if rng.random() < 0.5 else crop
    source = np.ascontiguousarray(mirrored)
    if rng.random() < 0.2:  # a photograph of few pixels
        few = int(rng.uniform(0.3, 0.7) * side)
        source = cv2.resize(cv2.resize(source, (few, few), interpolation=cv2.INTER_AREA), (side, side))  # type: ignore[assignment]
    elif size < side:
        source = cv2.blur(source, (2, 2))  # type: ignore[assignment]  # a cheap guard against aliasing
    view = cv2.warpAffine(source, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    gain, shift = rng.uniform(0.75, 1.25), rng.uniform(-20, 20)
    lit: Photo = np.rint(np.clip(view.astype(np.float32) * gain + shift, 0, 255)).astype(np.uint8)
    return lit


def to_batch(crops: Sequence[Photo] | Crops) -> Tensor:
    """Crops as (B, 3, S, S) in [0, 1], the layout that convolutions like best."""
    batch = torch.from_numpy(np.stack(list(crops))).permute(0, 3, 1, 2)
    return (batch.float() / 255).contiguous(memory_format=torch.channels_last)
