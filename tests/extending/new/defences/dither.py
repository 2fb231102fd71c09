"""A stage, as a defence to compare with."""

from dataclasses import dataclass
from typing import ClassVar

from facesieve.defences import DEFENCES
from facesieve.errors import SettingError
from facesieve.purify import Stage


@dataclass(frozen=True)
class Dither(Stage):
    """Adds Gaussian noise, then leaves ``levels`` levels a channel."""

    levels: int = 16
    sigma: float = 0.02
    name: ClassVar[str] = "dither"
    draws_noise: ClassVar[bool] = True

    def __post_init__(self):
        if self.levels < 2:
            raise SettingError(f"levels {self.levels} must be 2 or more")

    def __call__(self, images, noise):
        top = self.levels - 1
        return ((images + self.sigma * noise()).clamp(0, 1) * top).round() / top


DEFENCES.register(Dither.name, Dither)
