"""A detector of perturbed faces, and a purifier for those it finds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from facesieve.defences import DEFENCES
from facesieve.errors import SettingError
from facesieve.noise import Noise
from facesieve.purify import Stage
from facesieve.weights import load_network, on, shipped

FOLD = 4
DETAIL = 16.0
BOUND = 16 / 255  # the purifier subtracts at most this much from a value


class EncoderDecoder(nn.Module):
    """Images (B, C, H, W) to maps (B, 3, H, W) of the same size; two scales, with one skip between them."""

    def __init__(self, channels: int = 3, width: int = 32) -> None:
        super().__init__()
        self.fine = nn.Sequential(
            nn.Conv2d(4 * channels, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU()
        )
        self.coarse = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1),
            nn.PixelShuffle(2),
        )
        self.out = nn.Sequential(
            nn.Conv2d(2 * width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 12, 3, padding=1), nn.PixelShuffle(2)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Any H and W: borders are mirrored up to a multiple of 4, then cut off."""
        height, width = images.shape[-2:]
        padded = functional.pad(images, (0, -width % FOLD, 0, -height % FOLD), mode="reflect")
        fine = self.fine(functional.pixel_unshuffle(padded, 2))
        maps: Tensor = self.out(torch.cat([fine, self.coarse(fine)], 1))
        return maps[..., :height, :width]


def seen(images: Tensor) -> Tensor:
    """What both networks look at, (B, 6, H, W): images in [-1, 1], and their fine detail, where perturbations show, enlarged."""
    padded = functional.pad(images, (1, 1, 1, 1), mode="replicate")
    return torch.cat([2 * images - 1, DETAIL * (images - functional.avg_pool2d(padded, 3, stride=1))], 1)


class PerturbationDetector(nn.Module):
    """From what is seen of images, (B, 6, H, W), to a score (B,): the logit of having been perturbed."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(24, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 3 * width, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.score = nn.Linear(3 * width, 1)

    def forward(self, images: Tensor) -> Tensor:
        """The mean over all places decides; any H and W."""
        height, width = images.shape[-2:]
        padded = functional.pad(images, (0, width % 2, 0, height % 2), mode="reflect")
        features = self.features(functional.pixel_unshuffle(padded, 2)).mean((2, 3))
        scores: Tensor = self.score(features)[:, 0]
        return scores


class Guard(nn.Module):
    """The two networks that are needed once training is over."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.detector = PerturbationDetector(width)
        self.purifier = EncoderDecoder(6, width)

    def detect(self, images: Tensor) -> Tensor:
        """The logit (B,) of having been perturbed, of images (B, 3, H, W) in [0, 1]."""
        scores: Tensor = self.detector(seen(images))
        return scores

    def mask(self, images: Tensor) -> Tensor:
        """The perturbation that the purifier sees in images (B, 3, H, W) in [0, 1]; at most ``BOUND`` a value."""
        return BOUND * torch.tanh(self.purifier(seen(images)))

    def purify(self, images: Tensor) -> Tensor:
        """The images with that perturbation removed, clipped to [0, 1]."""
        return (images - self.mask(images)).clamp(0, 1)


@dataclass(frozen=True)
class FaceGuard(Stage):
    """Purify the images that a detector judges perturbed, and leave the others as they are.

    After Deb, Liu and Jain, "FaceGuard: A Self-Supervised Defense Against Adversarial Face Images"
    (2020). Followed: a generator that makes perturbations against a recogniser while a detector learns
    to tell them from clean faces and a purifier learns the mask that removes them; only what the
    detector flags is purified. Own choices: small networks that also look at enlarged fine detail,
    perturbations within a ball of the maximum norm, SFace as the recogniser in the loop, and that half
    of the perturbations are signs of the gradient that teaches the generator, where the publication has the
    generator's alone; ``facesieve.train.faceguard`` says the rest.

    ``threshold`` is a probability: images with a higher one are purified; 0 purifies all. At 0.5, our own
    default, clean and perturbed weigh alike, as in training.
    ``weights`` is a file that ``train_faceguard`` wrote; None takes those that ship. Differentiable except
    for the decision. Raises ``SettingError`` for a threshold outside [0, 1], ``InputError`` for weights
    that cannot be used.
    """

    threshold: float = 0.5
    weights: str | None = None
    name = "faceguard"

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise SettingError(f"threshold {self.threshold} must be between 0 and 1")
        weights = shipped(self.name) if self.weights is None else Path(self.weights)
        network, digest = load_network(lambda state: Guard(len(state["detector.features.0.bias"])), weights)
        object.__setattr__(self, "_network", network)
        object.__setattr__(self, "_digest", digest)

    @property
    def sha256(self) -> str:
        """The SHA-256 of the weights."""
        digest: str = self._digest  # type: ignore[attr-defined]
        return digest

    def identity(self) -> dict[str, Any]:
        """The settings, and the hash of the weights."""
        return {**super().identity(), "weights": self.sha256}

    def detect(self, images: Tensor) -> Tensor:
        """The probability (B,) that each of the images (B, 3, H, W) in [0, 1] was perturbed."""
        network: Guard = self._network  # type: ignore[attr-defined]
        return torch.sigmoid(on(network, images.device).detect(images.float()))

    def __call__(self, images: Tensor, noise: Noise) -> Tensor:
        """``images`` (B, 3, H, W) in [0, 1], those judged perturbed purified; ``noise`` is not used."""
        network: Guard = self._network  # type: ignore[attr-defined]
        flagged = self.detect(images) > self.threshold  # (B,)
        purified = on(network, images.device).purify(images.float()).to(images.dtype)
        return torch.where(flagged[:, None, None, None], purified, images)


DEFENCES.register(FaceGuard.name, FaceGuard)
