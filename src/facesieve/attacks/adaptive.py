"""Attacks that see the defence: through it, over its randomness, and around what gives no gradient.

Athalye, Carlini, Wagner, "Obfuscated Gradients Give a False Sense of Security", ICML 2018: expectation
over transformation (the mean over draws of a random defence) and backward pass differentiable
approximation (the identity in place of a gradient that is missing).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from facesieve.attacks.objectives import Scores
from facesieve.noise import Noise, derive_seed, seeded_noise
from facesieve.purify import Purifier, RestorationStage, Stage
from facesieve.sampling import checkpointed


@dataclass(frozen=True)
class StraightThrough:
    """A stage whose gradient is taken to be the identity's: what BPDA puts in place of one that is missing."""

    stage: Stage

    @property
    def name(self) -> str:
        """The stage's."""
        return self.stage.name

    def __call__(self, images: Tensor, noise: Noise) -> Tensor:
        """The stage's result (B, 3, H, W)."""
        with torch.no_grad():
            result = self.stage(images.detach(), noise)
        return images + (result - images).detach()


@dataclass(frozen=True, eq=False)
class Behind:
    """Scores behind a purifier, the mean of ``draws`` of its noise; every call draws anew.

    ``seeds``, one an image, are the attacker's: the noise that the purifier will draw is not known to
    them. An image's scores depend on its seed and on how often it was asked, not on the batch.
    """

    scores: Scores
    purifier: Purifier
    seeds: Sequence[int]
    draws: int = 1
    device: torch.device | str = "cpu"  # where the purifier runs
    _calls: Iterator[int] = field(default_factory=itertools.count, repr=False)

    def __call__(self, images: Tensor) -> Tensor:
        """``images`` (B, 3, H, W) in [0, 1]; (B, C), differentiable."""
        call = next(self._calls)
        total = torch.zeros(())
        for draw in range(self.draws):
            seeds = [derive_seed(seed, "attacker", call, draw) for seed in self.seeds]
            total = total + self.scores(self.purifier(images.to(self.device), seeds=seeds).to(images.device)) / self.draws
        return total


def seen_through(purifier: Purifier, size: int) -> Purifier:
    """The same purifier as an attacker takes it: memory of one evaluation of the prior, and BPDA where a stage gives no gradient.

    Whether it gives one is tried on an image of ``size`` pixels.
    """
    return Purifier(tuple(_seen(stage, size) for stage in purifier.stages))


def _seen(stage: Stage, size: int) -> Stage:
    if isinstance(stage, RestorationStage):
        return replace(stage, prior=checkpointed(stage.prior))
    return stage if gives_gradient(stage, size) else StraightThrough(stage)


def gives_gradient(stage: Stage, size: int) -> bool:
    """Whether a gradient that is not 0 everywhere passes a stage, at a random image of ``size`` pixels."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, 3, size, size, generator=generator).requires_grad_(True)
    result = stage(images, seeded_noise([0], (3, size, size)))
    if not result.requires_grad:
        return False
    weights = torch.rand(result.shape, generator=generator)
    (slope,) = torch.autograd.grad((weights * result).sum(), images, allow_unused=True)
    return slope is not None and bool(slope.any())


__all__ = ["Behind", "StraightThrough", "gives_gradient", "seen_through"]
