"""Results kept on disk by a hash of everything that made them, so that nothing is computed twice or lost."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facesieve.data.crops import DAMAGED_ARRAY
from facesieve.errors import InputError
from facesieve.files import sha256_of_json, write_with_folder

Ingredients = dict[str, Any]


@dataclass(frozen=True)
class CachedBatch:
    """A batch, and how long it took when it was made."""

    images: Tensor  # (B, 3, H, W) in [0, 1]
    seconds: float


class BatchCache:
    """Batches of images under one folder, each file written atomically."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, made_from: Ingredients) -> Path:
        """The path of the batch made from these, whether or not it exists."""
        name = sha256_of_json(made_from)
        return self.folder / name[:2] / f"{name}.npz"

    def batch(self, made_from: Ingredients, make: Callable[[], Tensor], *, half: bool = False) -> CachedBatch:
        """The batch made from these, computed if it is not there yet.

        With ``half`` it is kept in float16, to an eighth of an 8-bit level, and returned as it is
        kept: the first time is like every later one. Raises ``InputError`` where it cannot be
        written, as on a full disk; existing files stay.
        """
        path = self.path(made_from)
        if not path.exists():
            begun = time.perf_counter()
            images = make().detach().cpu()
            seconds = time.perf_counter() - begun
            buffer = io.BytesIO()
            np.savez(buffer, images=images.to(torch.float16 if half else torch.float32).numpy(), seconds=seconds)
            write_with_folder(path, buffer.getvalue())
        try:
            with np.load(path) as kept:
                return CachedBatch(torch.from_numpy(kept["images"]).float(), float(kept["seconds"]))
        except DAMAGED_ARRAY as error:
            raise InputError("damaged", path, "delete it, and it is made again") from error
