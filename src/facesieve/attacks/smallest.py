"""The smallest perturbation of each image that fools, by bisection: a figure that depends on no chosen eps."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from facesieve.errors import SettingError


def smallest_eps(
    fools: Callable[[Tensor], Tensor], images: int, *, most: float, least: float, steps: int, stand: Tensor | None = None
) -> Tensor:
    """The smallest eps of each image at which an attack fools, up to a factor ``(most / least) ** (2 ** -steps)``: (N,).

    ``fools`` attacks every image at an eps of its own, (N,), and says of which it was fooled, (N,) bool. It is asked first at
    ``most``, unless ``stand`` (N,) says which images stand there, then ``steps`` times in the geometric middle of what is still
    open. What is returned is an eps that did fool, or ``most`` where even that did not. ``least`` is not asked: what it would
    fool is found a little above it. Raises ``SettingError`` unless 0 < ``least`` < ``most``, and for fewer than no steps.
    """
    if not 0 < least < most < math.inf or steps < 0:
        raise SettingError(f"eps between {least} and {most}, {steps} steps: two that rise, above 0, and no fewer steps than 0")
    low, high = torch.full((images,), math.log(least)), torch.full((images,), math.log(most))
    stands = ~fools(high.exp()) if stand is None else stand
    for _ in range(steps):
        middle = torch.where(stands, high, (low + high) / 2)
        fooled = fools(middle.exp())
        low, high = torch.where(fooled | stands, low, middle), torch.where(fooled & ~stands, middle, high)
    return torch.where(stands, most, high.exp())
