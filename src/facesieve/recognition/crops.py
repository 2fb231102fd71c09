"""What every embedder does with aligned crops first."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

ALIASES = 1.225  # pixels of a crop to one that is sampled, above which bilinear sampling would alias


def check_crops(crops: Tensor) -> None:
    """Raises ``ValueError`` for anything but square colour images (B, 3, S, S)."""
    if crops.ndim != 4 or crops.shape[1] != 3 or crops.shape[2] != crops.shape[3]:
        raise ValueError(f"aligned crops have shape (B, 3, S, S), not {tuple(crops.shape)}")


def resized(crops: Tensor, side: int) -> Tensor:
    """``crops`` (B, 3, S, S) as (B, 3, side, side); antialiased, or pixels of a larger crop would be skipped."""
    if crops.shape[-1] == side:
        return crops
    return functional.interpolate(crops, (side, side), mode="bilinear", align_corners=False, antialias=True)


def window(crops: Tensor, left: float, top: float, width: float, height: float, *, side: int) -> Tensor:
    """A part of ``crops`` (B, 3, S, S), in fractions of their side from the outer edge, as (B, 3, side, side).

    Bilinear, black beyond the crop; large crops are shrunk with averaging first.
    """
    narrow = min(width, height)
    if crops.shape[-1] * narrow > ALIASES * side:
        crops = resized(crops, round(side / narrow))
    # affine_grid counts from -1 to 1 where the fractions count from 0 to 1
    matrix = crops.new_tensor([[width, 0, 2 * left + width - 1], [0, height, 2 * top + height - 1]]).expand(len(crops), 2, 3)
    grid = functional.affine_grid(matrix, [len(crops), 3, side, side], align_corners=False)
    return functional.grid_sample(crops, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
