"""What is left of an adversarial image that was saved."""

from __future__ import annotations

import torch
from torch import Tensor

from facesieve.images import to_floats, to_photo


def as_uint8(images: Tensor) -> Tensor:
    """``images`` (B, 3, H, W) in [0, 1] as an 8-bit file has them: every value rounded to the nearest level of 255.

    Halves go up, as the usual tools do (add 0.5 and cut off), so that +-0.5 / 255 on an 8-bit image
    becomes +1 or 0 levels, and may leave the ball. Not differentiable.
    """
    return torch.stack([torch.from_numpy(to_floats(to_photo(image))) for image in images])
