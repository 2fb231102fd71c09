"""What every embedder does with aligned crops first."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def check_crops(crops: Tensor) -> None:
    """Raises ``ValueError`` for anything but square colour images (B, 3, S, S)."""
    if crops.ndim != 4 or crops.shape[1] != 3 or crops.shape[2] != crops.shape[3]:
        raise ValueError(f"aligned crops have shape (B, 3, S, S), not {tuple(crops.shape)}")


def resized(crops: Tensor, side: int) -> Tensor:
    """``crops`` (B, 3, S, S) as (B, 3, side, side); antialiased, or pixels of a larger crop would be skipped."""
    if crops.shape[-1] == side:
        return crops
    return functional.interpolate(crops, (side, side), mode="bilinear", align_corners=False, antialias=True)
