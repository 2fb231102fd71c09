"""Attacks that see the defence: its scores, over its randomness.

Athalye, Carlini, Wagner, "Obfuscated Gradients Give a False Sense of Security", ICML 2018: expectation
over transformation (EOT, the mean over draws of a random defence). The substitute for a missing gradient
(BPDA) is in ``Purifier.for_attacker``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from facesieve.attacks.objectives import Scores
from facesieve.noise import derive_seed
from facesieve.purify import Purifier


@dataclass(frozen=True, eq=False)
class EotScores:
    """Scores behind a purifier, the mean over ``eot_samples`` draws of its noise; every call draws afresh.

    ``seeds``, one per image, are the attacker's: the noise that the purifier will draw is not known to
    them. An image's scores depend on its seed and on how often it was asked, not on the batch. Variants of one image,
    more than there are seeds, each have noise of their own.
    """

    scores: Scores
    purifier: Purifier
    seeds: Sequence[int]
    eot_samples: int = 1
    device: torch.device | str = "cpu"  # where the purifier runs
    _calls: Iterator[int] = field(default_factory=itertools.count, repr=False)

    def __call__(self, images: Tensor) -> Tensor:
        """``images`` (B, 3, H, W) in [0, 1]; (B, C), differentiable."""
        call = next(self._calls)
        total = torch.zeros(())
        variants = [()] if len(self.seeds) == len(images) else [(place,) for place in range(len(images) // len(self.seeds))]
        for draw in range(self.eot_samples):
            seeds = [derive_seed(seed, "attacker", call, draw, *of) for of in variants for seed in self.seeds]
            purified = self.purifier(images.to(self.device), seeds=seeds).to(images.device)
            total = total + self.scores(purified) / self.eot_samples
        return total


@dataclass(frozen=True, eq=False)
class KnownSeedScores:
    """Scores behind a purifier with the very noise that it will draw: ``seeds``, one per image, are known to the attacker."""

    scores: Scores
    purifier: Purifier
    seeds: Sequence[int]
    device: torch.device | str = "cpu"  # where the purifier runs

    def __call__(self, images: Tensor) -> Tensor:
        """``images`` (B, 3, H, W) in [0, 1], or variants of them one after the other; (B, C), differentiable."""
        seeds = [*self.seeds] * (len(images) // len(self.seeds))
        return self.scores(self.purifier(images.to(self.device), seeds=seeds).to(images.device))
