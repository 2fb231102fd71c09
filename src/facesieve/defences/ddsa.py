"""A denoising autoencoder with a sparse code: what the few active units cannot say is lost, noise first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from facesieve.defences import DEFENCES
from facesieve.noise import Noise
from facesieve.purify import Stage
from facesieve.weights import load_network, on, shipped

FOLD = 4  # one place of the code for 4 x 4 pixels


class SparseAutoencoder(nn.Module):
    """Images to a code in (0, 1) and back. The code is the only way through: there are no skips.

    A place of the code stands for 4 x 4 pixels, 48 values; it has ``units`` values, most of which
    training keeps near zero.
    """

    def __init__(self, width: int = 64, units: int = 192) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(12, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, units, 1),
        )
        nn.init.constant_(self.encoder[-1].bias, -2.0)  # type: ignore[arg-type]  # a code that begins sparse, at about 0.12
        self.decoder = nn.Sequential(
            nn.Conv2d(units, 2 * width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1),
            nn.PixelShuffle(2),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )

    def encode(self, images: Tensor) -> Tensor:
        """The code (B, units, H/4, W/4) in (0, 1) of images (B, 3, H, W) in [0, 1], H and W multiples of 4."""
        return torch.sigmoid(self.encoder(functional.pixel_unshuffle(2 * images - 1, 2)))

    def decode(self, code: Tensor) -> Tensor:
        """The images (B, 3, H, W) of a code; about [0, 1], not clipped."""
        images: Tensor = self.decoder(code) / 2 + 0.5
        return images

    def forward(self, images: Tensor) -> Tensor:
        """``decode(encode(images))``, for any H and W: borders are mirrored up to a multiple of 4, then cut off."""
        height, width = images.shape[-2:]
        padded = functional.pad(images, (0, -width % FOLD, 0, -height % FOLD), mode="reflect")
        return self.decode(self.encode(padded))[..., :height, :width]


def sparsity(code: Tensor, target: float) -> Tensor:
    """``mean_j KL(rho || rho_j)`` between Bernoulli laws: ``target`` is rho, rho_j the mean of unit j over batch and places.

    The penalty of sparse autoencoders (Ng, "Sparse autoencoder", CS294A lecture notes, 2011).
    """
    active = code.mean((0, 2, 3)).clamp(1e-6, 1 - 1e-6)  # (units,)
    divergence = target * torch.log(target / active) + (1 - target) * torch.log((1 - target) / (1 - active))
    return divergence.mean()


@dataclass(frozen=True)
class Ddsa(Stage):
    """Denoising sparse autoencoder.

    After Bakhti, Fezza, Hamidouche and Déforges, "DDSA: A Defense Against Adversarial Attacks Using
    Deep Denoising Sparse Autoencoder", IEEE Access 2019. Followed: an autoencoder before the
    recogniser, trained without any attack to recover clean images from noisy ones, with a penalty
    that keeps its code sparse. Own choices: the network, the KL form of the penalty, faces as data,
    and the strength of the noise; the authors worked on MNIST and CIFAR-10.

    ``weights`` is a file that ``facesieve.train.ddsa.train_ddsa`` wrote; None takes those that
    ship. Differentiable. Raises ``InputError`` for weights that cannot be used.
    """

    weights: str | None = None
    name = "ddsa"

    def __post_init__(self) -> None:
        weights = shipped(self.name) if self.weights is None else Path(self.weights)
        network, digest = load_network(lambda _: SparseAutoencoder(), weights)
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

    def __call__(self, images: Tensor, noise: Noise) -> Tensor:
        """``images`` (B, 3, H, W) in [0, 1] through the autoencoder, clipped to [0, 1]; ``noise`` is not used."""
        network: SparseAutoencoder = self._network  # type: ignore[attr-defined]
        restored: Tensor = on(network, images.device)(images.float())
        return restored.clamp(0, 1).to(images.dtype)


DEFENCES.register(Ddsa.name, Ddsa)
