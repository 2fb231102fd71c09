"""Anybody's defence as a stage: a function of crops alone, made by what an experiment names as ``package.module:factory``."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from facesieve.errors import SettingError, one_line
from facesieve.noise import Noise, seeded_noise
from facesieve.purify import Stage, StraightThrough

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Own(Stage):
    """A function of crops (B, 3, H, W) in [0, 1] that returns such crops, as a tensor or an array.

    ``spec`` says what made it, with its settings and the hash of its file. Where two calls on one image differ, ``random``
    is true: then each image goes through alone, with PyTorch's and nobody else's generator seeded from the stage's noise.
    """

    spec: str
    function: Callable[[Tensor], Any] = field(compare=False)
    random: bool = False
    name = "own"

    @property
    def draws_noise(self) -> bool:
        """Whether two calls differ."""
        return self.random

    def for_attacker(self, size: int) -> Stage:
        """Itself, or with the identity's gradient where it has none or cannot be called with one, as NumPy's functions."""
        try:
            return super().for_attacker(size)
        except (RuntimeError, TypeError):
            return StraightThrough(self)

    def __call__(self, images: Tensor, noise: Noise) -> Tensor:
        """The crops behind it. Raises ``SettingError`` for what are none."""
        import torch

        if not self.random:
            return self._checked(self.function(images), images)
        seeds = noise().flatten(1)[:, :2].float().contiguous().view(torch.int32).abs().tolist()
        parts = []
        with torch.random.fork_rng():
            for image, (one, other) in zip(torch.split(images, 1), seeds, strict=True):
                torch.manual_seed((one << 31) + other)
                parts.append(self._checked(self.function(image), image))
        return torch.cat(parts)

    def _checked(self, made: object, images: Tensor) -> Tensor:
        import torch

        try:
            result = torch.as_tensor(made, dtype=images.dtype, device=images.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise SettingError(f"returns no crops: {one_line(error)}", self.spec) from error
        if result.shape != images.shape:
            raise SettingError(f"returns {tuple(result.shape)} for crops {tuple(images.shape)}", self.spec)
        plain = result.detach()
        if not bool(torch.isfinite(plain).all()) or float(plain.min()) < -1e-4 or float(plain.max()) > 1 + 1e-4:
            raise SettingError("returns numbers that are not in [0, 1]", self.spec, "scale and clip them")
        return result.clamp(0, 1)


def as_stage(made: object, spec: str, factory: object, settings: dict[str, Any], size: int) -> Stage:
    """What a factory made as a stage: itself, if it is one. Raises ``SettingError`` for what cannot be called, or fails."""
    import torch

    if isinstance(made, Stage):
        return made
    if not callable(made):
        raise SettingError(f"makes a {type(made).__name__}", spec, "return a function of crops, or a Stage")
    try:
        code = Path(inspect.getfile(factory)).read_bytes()  # type: ignore[arg-type]  # or it raises
    except (OSError, TypeError):
        code = b""
    about = f"{spec} {json.dumps(settings, sort_keys=True)} {hashlib.sha256(code).hexdigest()[:16]}"
    images, stage = torch.full((1, 3, size, size), 0.5), Own(about, made)
    noise = seeded_noise([0], (3, size, size))
    with torch.no_grad():
        try:
            alike = torch.equal(stage(images, noise), stage(images, noise))
        except SettingError:
            raise
        except Exception as error:  # what somebody wrote may raise anything
            raise SettingError(f"fails on crops: {one_line(error)}", spec) from error
    return stage if alike else Own(about, made, random=True)
