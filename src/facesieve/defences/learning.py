"""What the defences that learn learn from: the settings of their training, and what one step of it does.

``facesieve.train.defences`` runs the steps.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from facesieve.defences.ddsa import SparseAutoencoder, sparsity
from facesieve.defences.faceguard import EncoderDecoder, Guard, seen
from facesieve.errors import SettingError
from facesieve.recognition import Embedder


class Training(BaseModel):
    """What both trainings share; written beside the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(4000, gt=0)
    batch: int = Field(16, gt=0)
    size: int = Field(128, ge=32)  # pixels of the views
    sharpness: float = Field(2.0, ge=0)  # half of the views have up to this many times their fine detail added
    learning_rate: float = Field(1e-3, gt=0)  # after the warm-up it falls to 0 along a half cosine
    warmup_steps: int = Field(100, ge=0)
    held_out: int = Field(64, gt=0)  # faces that are never trained on
    seed: int = 0


class DdsaTraining(Training):
    """The denoising sparse autoencoder's."""

    patch: int = Field(64, ge=8)  # pixels of the squares that are cut out of the views
    noise: float = Field(0.06, gt=0)  # standard deviation of the strongest noise, images in [0, 1]
    active: float = Field(0.05, gt=0, lt=1)  # the wanted mean of a unit of the code
    sparsity_weight: float = Field(1e-2, ge=0)

    def model_post_init(self, _: object) -> None:
        """Settings that contradict each other."""
        if self.patch % 4 or self.patch > self.size:
            raise SettingError(f"patch {self.patch} must be a multiple of 4, and at most size {self.size}")


class FaceGuardTraining(Training):
    """FaceGuard's."""

    steps: int = Field(1000, gt=0)
    batch: int = Field(24, gt=0)
    recognised: int = Field(4, gt=0)  # of the batch: those that go through the recogniser, which is most of the cost
    warmup_steps: int = Field(30, ge=0)
    width: int = Field(32, gt=0)  # channels of the finest level
    eps: float = Field(8 / 255, gt=0)  # the strongest perturbation, images in [0, 1]
    gradient_share: float = Field(0.5, ge=0, le=1)  # of the perturbed images: the gradient's sign in place of the generator's
    diversity_weight: float = Field(0.1, ge=0)
    identity_weight: float = Field(0.5, ge=0)
    bonafide_weight: float = Field(0.02, ge=0)


class Task(Protocol):
    """What is trained: its networks, and what one step does to their gradients."""

    @property
    def networks(self) -> nn.Module:
        """All of them."""

    def backward(self, images: Tensor, generator: torch.Generator) -> dict[str, float]:
        """Add the gradients of a batch (B, 3, S, S); returns its losses."""

    def measure(self, images: Tensor) -> dict[str, float]:
        """How well it does on held-out images, with the same random numbers every time."""


def drawn(images: Tensor, generator: torch.Generator) -> Tensor:
    """Unit Gaussian noise like ``images``, drawn on the CPU whatever the device."""
    return torch.randn(images.shape, generator=generator).to(images.device)


def uniform(images: Tensor, low: float, high: float, generator: torch.Generator) -> Tensor:
    """One number in [low, high] for each image: (B, 1, 1, 1)."""
    return (low + (high - low) * torch.rand(len(images), 1, 1, 1, generator=generator)).to(images.device)


class DdsaTask:
    """Clean patches back from noised ones, by a sparse code."""

    def __init__(self, settings: DdsaTraining) -> None:
        self.settings = settings
        torch.manual_seed(settings.seed)
        self.network = self.networks = SparseAutoencoder()

    def backward(self, images: Tensor, generator: torch.Generator) -> dict[str, float]:
        """Mean squared error, and the penalty on the code."""
        room = self.settings.size - self.settings.patch + 1
        tops, lefts = torch.randint(room, (2, len(images)), generator=generator).tolist()
        side = self.settings.patch
        cut = [image[:, top : top + side, left : left + side] for image, top, left in zip(images, tops, lefts, strict=True)]
        patches = torch.stack(cut)
        noised = patches + uniform(patches, 0, self.settings.noise, generator) * drawn(patches, generator)
        code = self.network.encode(noised)
        error = functional.mse_loss(self.network.decode(code), patches)
        penalty = sparsity(code, self.settings.active)
        (error + self.settings.sparsity_weight * penalty).backward()  # type: ignore[no-untyped-call]
        return {"squared_error": error.item(), "sparsity": penalty.item()}

    @torch.no_grad()
    def measure(self, images: Tensor) -> dict[str, float]:
        """Mean squared errors before and after, at half of the strongest noise."""
        noised = images + self.settings.noise / 2 * drawn(images, torch.Generator().manual_seed(1))
        restored = torch.cat([self.network(part) for part in torch.split(noised, 16)]).clamp(0, 1)
        before = functional.mse_loss(noised.clamp(0, 1), images)
        return {"noised_error": before.item(), "restored_error": functional.mse_loss(restored, images).item()}


class FaceGuardTask:
    """A generator of perturbations, a detector of them, and a purifier that takes them off, all at once."""

    def __init__(self, settings: FaceGuardTraining, embedder: Embedder) -> None:
        self.settings, self.embedder = settings, embedder
        torch.manual_seed(settings.seed)
        self.guard = Guard(settings.width)
        self.generator = EncoderDecoder(6, settings.width)  # a face, and noise that makes perturbations differ
        self.networks = nn.ModuleDict({"guard": self.guard, "generator": self.generator})

    def backward(self, images: Tensor, generator: torch.Generator) -> dict[str, float]:
        """The generator's losses, then the detector's and the purifier's on what it made."""
        first, others = images[: self.settings.recognised], images[self.settings.recognised :]
        with torch.no_grad():
            rows = self.embedder.embed(first)  # (recognised, D)
        eps = uniform(images, 0.5 / 255, self.settings.eps, generator)
        pattern, other = self.patterns(first, generator)
        fake = (first + eps[: len(first)] * pattern).clamp(0, 1)
        fake.retain_grad()
        cosine = (self.embedder.embed(fake) * rows).sum(1).mean()
        diversity = (pattern - other).abs().mean()
        (cosine - self.settings.diversity_weight * diversity).backward()  # type: ignore[no-untyped-call]
        assert fake.grad is not None
        with torch.no_grad():
            made = torch.cat([pattern, self.patterns(others, generator)[0]]) if len(others) else pattern
            # The gradient costs nothing more, and its sign is an attack of its own; faces beyond the first borrow another's.
            signs = -fake.grad.sign()[torch.arange(len(images)) % len(first)]
            chosen = uniform(images, 0, 1, generator) < self.settings.gradient_share
            attacked = (images + eps * torch.where(chosen, signs, made)).clamp(0, 1)
            # Half of them saved as 8 bits: the detector must not go by what is no whole level.
            saved = uniform(images, 0, 1, generator) < 0.5
            attacked = torch.where(saved, (255 * attacked).round() / 255, attacked)
        return {"cosine_generated": cosine.item(), "diversity": diversity.item(), **self._defend(images, attacked, rows)}

    def patterns(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Two perturbations of each image in units of eps, from smooth to nearly the two values -1 and 1."""
        gain = uniform(images, math.log(0.5), math.log(8), generator).exp()
        first, second = (self._pattern(images, gain, generator) for _ in range(2))
        return first, second

    def _pattern(self, images: Tensor, gain: Tensor, generator: torch.Generator) -> Tensor:
        raw = self.generator(torch.cat([2 * images - 1, drawn(images, generator)], 1))
        # Of root mean square 1: without that it grows until every tanh is flat, and nothing more is learnt.
        return torch.tanh(gain * raw / (raw.square().mean((1, 2, 3), keepdim=True) + 1e-8).sqrt())

    def _defend(self, images: Tensor, attacked: Tensor, rows: Tensor) -> dict[str, float]:
        scores = self.guard.detect(torch.cat([images, attacked]))
        labels = torch.cat([torch.zeros(len(images)), torch.ones(len(images))]).to(scores)
        detection = functional.binary_cross_entropy_with_logits(scores, labels)
        mask = self.guard.mask(attacked)
        missed = functional.l1_loss(mask, attacked - images) / self.settings.eps
        purified = (attacked - mask)[: len(rows)].clamp(0, 1)
        identity = 1 - (self.embedder.embed(purified) * rows).sum(1).mean()
        judge = {name: value.detach() for name, value in self.guard.detector.named_parameters()}  # it must not learn from this
        bonafide = functional.softplus(functional_call(self.guard.detector, judge, (seen(purified),))).mean()
        weights = self.settings
        loss = detection + missed + weights.identity_weight * identity + weights.bonafide_weight * bonafide
        loss.backward()  # type: ignore[no-untyped-call]
        return {"detection": detection.item(), "missed": missed.item(), "identity": identity.item(), "bonafide": bonafide.item()}

    def measure(self, images: Tensor) -> dict[str, float]:
        """Cosines with the clean faces, and the share that the detector gets right, at half of the strongest perturbation."""
        draws = torch.Generator().manual_seed(1)
        sums = {"generated_cosine": 0.0, "purified_cosine": 0.0, "detector_accuracy": 0.0}
        with torch.no_grad():
            for part in torch.split(images, 16):
                rows = self.embedder.embed(part)
                fake = (part + self.settings.eps / 2 * self.patterns(part, draws)[0]).clamp(0, 1)
                sums["generated_cosine"] += (self.embedder.embed(fake) * rows).sum().item()
                sums["purified_cosine"] += (self.embedder.embed(self.guard.purify(fake)) * rows).sum().item()
                right = (self.guard.detect(part) <= 0).sum() + (self.guard.detect(fake) > 0).sum()
                sums["detector_accuracy"] += right.item() / 2
        return {name: total / len(images) for name, total in sums.items()}
