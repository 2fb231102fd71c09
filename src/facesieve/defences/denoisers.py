"""Classical denoisers of scikit-image. They work on the processor, one image at a time, and give no gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facesieve.defences import DEFENCES
from facesieve.errors import MissingExtraError, SettingError
from facesieve.noise import Noise
from facesieve.purify import Stage

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class TotalVariation(Stage):
    """The nearby image with the least variation.

    Chambolle, "An algorithm for total variation minimization and applications" (2004): the minimum of
    ``TV(u) + |u - x|^2 / (2 weight)``, the channels together. Guo et al., "Countering Adversarial Images using
    Input Transformations" (ICLR 2018), defend by total variation; they also drop pixels at random and
    solve another objective, in which the number 0.03 stands for something else, so the default is our
    own choice of about that strength. Needs the extra ``evaluate``. Raises ``SettingError`` for a weight
    of 0 or less.
    """

    weight: float = 0.03
    name = "total-variation"

    def __post_init__(self) -> None:
        _above_zero("weight", self.weight)
        _restoration(self.name)

    def __call__(self, images: Tensor, noise: Noise) -> Tensor:
        """Each of the images (B, 3, H, W) in [0, 1] by itself; ``noise`` is not used."""
        skimage = _restoration(self.name)
        return _each(images, lambda x: skimage.denoise_tv_chambolle(x, weight=self.weight, channel_axis=-1))


@dataclass(frozen=True)
class NonLocalMeans(Stage):
    """Each pixel becomes a mean of the pixels around it with similar neighbourhoods.

    Buades, Coll and Morel (CVPR 2005), used as a defence by Xu, Evans and Qi (NDSS 2018), whose choice
    for ImageNet, 11-3-4, is the default: a search window of 11 pixels a side, patches of 3, and a
    strength of 4 on the scale of 0 to 255. They ran OpenCV's form on 8-bit Lab images; this one works on RGB as
    floats, so nothing is rounded. Needs the extra ``evaluate``. Raises ``SettingError`` for windows that
    are not odd numbers of pixels or a strength of 0 or less.
    """

    search: int = 11
    patch: int = 3
    strength: float = 4.0
    name = "non-local-means"

    def __post_init__(self) -> None:
        for setting in ("search", "patch"):
            value = getattr(self, setting)
            if value not in range(1, 64, 2):
                raise SettingError(f"{setting} {value} must be an odd number of pixels, at most 63")
        _above_zero("strength", self.strength)
        _restoration(self.name)

    def __call__(self, images: Tensor, noise: Noise) -> Tensor:
        """Each of the images (B, 3, H, W) in [0, 1] by itself; ``noise`` is not used."""
        skimage, strength = _restoration(self.name), self.strength / 255

        def denoise(x: Floats) -> Floats:
            mean: Floats = skimage.denoise_nl_means(
                x, patch_size=self.patch, patch_distance=self.search // 2, h=strength, channel_axis=-1
            )
            return mean

        return _each(images, denoise)


@dataclass(frozen=True)
class WaveletDenoise(Stage):
    """Soft thresholds on the wavelet coefficients, in YCbCr.

    Chang, Yu and Vetterli, "Adaptive wavelet thresholding for image denoising and compression" (BayesShrink,
    2000), used as a defence by Prakash et al., "Deflecting Adversarial Attacks with Pixel Deflection"
    (CVPR 2018), with the noise level 0.04 and Daubechies' first wavelet; the random pixel moves that
    give that work its name are left out. ``sigma`` is the assumed standard deviation of the noise, images
    in [0, 1]. Needs the extra ``evaluate``. Raises ``SettingError`` for ``sigma`` of 0 or less or an unknown
    orthogonal wavelet.
    """

    sigma: float = 0.04
    wavelet: str = "db1"
    name = "wavelet-denoise"

    def __post_init__(self) -> None:
        _above_zero("sigma", self.sigma)
        _restoration(self.name)
        known = _wavelets(self.name)
        if self.wavelet not in known:
            raise SettingError(f"wavelet {self.wavelet!r} is not one of {', '.join(known)}")

    def __call__(self, images: Tensor, noise: Noise) -> Tensor:
        """Each of the images (B, 3, H, W) in [0, 1] by itself; ``noise`` is not used."""
        skimage = _restoration(self.name)

        def denoise(x: Floats) -> Floats:
            with np.errstate(divide="ignore", invalid="ignore"):  # a plane without detail: its threshold is infinite
                clean: Floats = skimage.denoise_wavelet(
                    x, sigma=self.sigma, wavelet=self.wavelet, mode="soft", method="BayesShrink", convert2ycbcr=True,
                    channel_axis=-1, rescale_sigma=True,
                )  # fmt: skip
            return clean

        return _each(images, denoise)


def _each(images: Tensor, denoise: Callable[[Floats], Floats]) -> Tensor:
    """``denoise`` on each image as (H, W, 3) float32 in [0, 1]; the result is clipped to [0, 1]."""
    photos = images.detach().float().cpu().permute(0, 2, 3, 1).numpy()
    done = [np.asarray(denoise(np.ascontiguousarray(photo)), np.float32) for photo in photos]
    return torch.from_numpy(np.stack(done)).permute(0, 3, 1, 2).clamp(0, 1).contiguous().to(images)


def _restoration(feature: str) -> ModuleType:
    try:
        from skimage import restoration  # slow to import, and optional
    except ImportError as error:
        raise MissingExtraError(f"the defence {feature}", "evaluate") from error
    return restoration


def _wavelets(feature: str) -> list[str]:
    try:
        import pywt  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError(f"the defence {feature}", "evaluate") from error
    return [name for family in ("db", "sym", "coif") for name in pywt.wavelist(family)]


def _above_zero(name: str, value: float) -> None:
    if not value > 0:
        raise SettingError(f"{name} {value} must be above 0")


for _kind in (TotalVariation, NonLocalMeans, WaveletDenoise):
    DEFENCES.register(_kind.name, _kind)
