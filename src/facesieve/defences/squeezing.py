"""Defences without weights and without optional packages: coding, fewer levels, blurs, fewer pixels."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from facesieve.defences import DEFENCES
from facesieve.errors import SettingError
from facesieve.images import to_floats, to_photo
from facesieve.noise import Noise
from facesieve.operators import MeanPool
from facesieve.purify import Stage

REACH = 4.0  # standard deviations at which a Gaussian kernel ends


@dataclass(frozen=True)
class Jpeg(Stage):
    """Save as JPEG and read back: what compression discards is gone.

    Dziugaite, Ghahramani and Roy, "A study of the effect of JPG compression on adversarial images"
    (2016), at quality 75; Guo et al., "Countering Adversarial Images using Input Transformations"
    (ICLR 2018), use the same. ``quality`` is libjpeg's, 1 to 95; colours are halved in width and height
    (4:2:0), Pillow's default. Images pass through 8 bits; no gradient. Raises ``SettingError`` for
    another quality.
    """

    quality: int = 75
    name = "jpeg"

    def __post_init__(self) -> None:
        if not _whole(self.quality) or not 1 <= self.quality <= 95:
            raise SettingError(f"quality {self.quality} must be a whole number between 1 and 95")

    def __call__(self, images: Tensor, noise: Noise) -> Tensor:
        """Each of the images (B, 3, H, W) in [0, 1] by itself; ``noise`` is not used."""
        return torch.stack([self._coded(image) for image in images.detach()]).to(images)

    def _coded(self, image: Tensor) -> Tensor:
        file = io.BytesIO()
        Image.fromarray(to_photo(image)).save(file, "JPEG", quality=self.quality, subsampling="4:2:0")
        with Image.open(file) as coded:
            return torch.from_numpy(to_floats(np.asarray(coded)))


@dataclass(frozen=True)
class BitDepth(Stage):
    """Round every value to one of 2^bits levels.

    Xu, Evans and Qi, "Feature Squeezing: Detecting Adversarial Examples in Deep Neural Networks" (NDSS
    2018): ``x' = round((2^b - 1) x) / (2^b - 1)``. Their choice for ImageNet is 5 bits. The gradient is 0
    everywhere. Raises ``SettingError`` for ``bits`` outside 1 to 16.
    """

    bits: int = 5
    name = "bit-depth"

    def __post_init__(self) -> None:
        if not _whole(self.bits) or not 1 <= self.bits <= 16:
            raise SettingError(f"bits {self.bits} must be a whole number between 1 and 16")

    def __call__(self, images: Tensor, noise: Noise) -> Tensor:
        """``images`` (B, 3, H, W) in [0, 1], rounded; ``noise`` is not used."""
        steps = 2**self.bits - 1
        rounded: Tensor = (steps * images).round() / steps
        return rounded


@dataclass(frozen=True)
class MedianBlur(Stage):
    """Each value becomes the median of the ``size`` x ``size`` values around it, channel by channel.

    Xu, Evans and Qi (NDSS 2018) use 2 x 2 for ImageNet. A window of even size reaches one pixel further
    up and left, and of the two middle values the larger is taken, as in SciPy; beyond the border its
    pixels are repeated. Differentiable almost everywhere. Raises ``SettingError`` for ``size`` outside 1
    to 31.
    """

    size: int = 2
    name = "median-blur"

    def __post_init__(self) -> None:
        if not _whole(self.size) or not 1 <= self.size <= 31:
            raise SettingError(f"size {self.size} must be a whole number of pixels between 1 and 31")

    def __call__(self, images: Tensor, noise: Noise) -> Tensor:
        """``images`` (B, 3, H, W) in [0, 1], blurred; ``noise`` is not used."""
        before, after = self.size // 2, (self.size - 1) // 2
        padded = functional.pad(images, (before, after, before, after), mode="replicate")
        windows = padded.unfold(2, self.size, 1).unfold(3, self.size, 1).flatten(4)  # (B, 3, H, W, size^2)
        middle: Tensor = windows.kthvalue(self.size**2 // 2 + 1, -1).values
        return middle


@dataclass(frozen=True)
class GaussianBlur(Stage):
    """Convolve with a Gaussian of standard deviation ``sigma`` pixels.

    The simplest smoothing; it follows no publication, and the default is our own. The kernel ends
    at 4 sigma; beyond the border its pixels are repeated. Differentiable. Raises ``SettingError`` for
    ``sigma`` outside 0 (excluded) to 20.
    """

    sigma: float = 1.0
    name = "gaussian-blur"

    def __post_init__(self) -> None:
        if not 0 < self.sigma <= 20:
            raise SettingError(f"sigma {self.sigma} must be above 0 and at most 20 pixels")

    def __call__(self, images: Tensor, noise: Noise) -> Tensor:
        """``images`` (B, 3, H, W) in [0, 1], blurred; ``noise`` is not used."""
        reach = int(REACH * self.sigma + 0.5)
        places = torch.arange(-reach, reach + 1, dtype=torch.float64)
        kernel = torch.exp(-(places**2) / (2 * self.sigma**2))
        kernel = (kernel / kernel.sum()).to(images).expand(3, 1, 1, -1)
        blurred = functional.conv2d(functional.pad(images, (reach, reach, 0, 0), mode="replicate"), kernel, groups=3)
        padded = functional.pad(blurred, (0, 0, reach, reach), mode="replicate")
        return functional.conv2d(padded, kernel.transpose(2, 3), groups=3).clamp(0, 1)  # sums of weights round past 1


@dataclass(frozen=True)
class BlockMeanBicubic(Stage):
    """The mean of every ``scale`` x ``scale`` block, then bicubic interpolation back.

    Super-resolution without a prior: it discards what the first stage of purification discards, and
    guesses nothing. That stage must beat it. Keys, "Cubic convolution interpolation for digital image
    processing" (1981), with a = -0.75 as PyTorch has it. Differentiable. Raises ``SettingError`` for a
    scale below 1, or images whose height or width is no multiple of it.
    """

    scale: int = 2
    name = "block-mean-bicubic"

    def __post_init__(self) -> None:
        if not _whole(self.scale):
            raise SettingError(f"scale {self.scale} must be a whole number")
        MeanPool(self.scale)

    def __call__(self, images: Tensor, noise: Noise) -> Tensor:
        """``images`` (B, 3, H, W) in [0, 1]; the result is clipped to [0, 1]; ``noise`` is not used."""
        small = MeanPool(self.scale)(images)
        return functional.interpolate(small, images.shape[-2:], mode="bicubic", align_corners=False).clamp(0, 1)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


for _kind in (Jpeg, BitDepth, MedianBlur, GaussianBlur, BlockMeanBicubic):
    DEFENCES.register(_kind.name, _kind)
