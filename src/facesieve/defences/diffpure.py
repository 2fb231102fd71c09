"""Noise, then denoise: diffusion purification without an observation to agree with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from torch import Tensor

from facesieve.defences import DEFENCES
from facesieve.errors import SettingError
from facesieve.noise import Noise
from facesieve.priors import Prior
from facesieve.purify import Stage
from facesieve.sampling import Unconditional, checkpointed, last, sample


@dataclass(frozen=True)
class DiffPure(Stage):
    """Add noise up to the time ``t`` of the forward process, then run the reverse process down to 0.

    Nie, Guo, Huang, Xiao, Vahdat and Anandkumar, "Diffusion Models for Adversarial Purification" (ICML
    2022). ``t`` is theirs: a fraction of the variance-preserving process with beta(t) = 0.1 + 19.9 t, where
    the noise level is ``sigma(t) = sqrt(exp(0.1 t + 9.95 t^2) - 1)``; their t* for CelebA-HQ is 0.5, a
    noise level of 3.41 on images in [-1, 1]. The reverse process is the project's sampler without an
    observation, over ``steps`` even steps of time; they solve the stochastic differential equation in
    hundreds of steps. ``eta`` is that of Song et al., "Denoising Diffusion Implicit Models" (2021): 1 for the
    stochastic process, 0 for the probability flow.

    Noise comes only from the given source. Differentiable, through every step. Raises ``SettingError``
    for ``t`` or ``eta`` outside (0, 1] and [0, 1], or no steps.
    """

    prior: Prior
    t: float = 0.5
    steps: int = 50
    eta: float = 1.0
    name = "diffpure"
    needs_prior = True

    def __post_init__(self) -> None:
        if not 0 < self.t <= 1 or not 0 <= self.eta <= 1:
            raise SettingError(f"t {self.t} must be above 0 and at most 1, eta {self.eta} between 0 and 1")
        if not isinstance(self.steps, int) or self.steps < 1:
            raise SettingError(f"steps {self.steps} must be a whole number, 1 or more")

    @property
    def evaluations(self) -> int:
        """One a step."""
        return self.steps

    @property
    def draws_noise(self) -> bool:
        """It starts with noise."""
        return True

    def identity(self) -> dict[str, Any]:
        """The settings, and the prior's hash."""
        return {**super().identity(), "prior": self.prior.sha256}

    def for_attacker(self, size: int) -> DiffPure:
        """With the memory of one evaluation of the prior; its gradient is exact."""
        return self.wrapped(checkpointed)

    def wrapped(self, wrap: Callable[[Prior], Prior]) -> DiffPure:
        """The same with ``wrap`` of its prior."""
        return replace(self, prior=wrap(self.prior))

    def sigmas(self) -> list[float]:
        """The noise levels that the sampler visits: from that of ``t`` down, then 0."""
        return [noise_level(self.t * left / self.steps) for left in range(self.steps, 0, -1)] + [0.0]

    def __call__(self, images: Tensor, noise: Noise) -> Tensor:
        """``images`` (B, 3, H, W) in [0, 1], noised and denoised, clipped to [0, 1]."""
        sigmas = self.sigmas()
        start = (2 * images - 1) + sigmas[0] * noise()  # x(t) / alpha(t)
        steps = sample(self.prior, start, sigmas, noise, correct=_Ancestral(dict(pairwise(reversed(sigmas)))), eta=self.eta)
        return (last(steps) / 2 + 0.5).clamp(0, 1)


@dataclass(frozen=True)
class _Ancestral(Unconditional):
    """The reverse process's own share of fresh noise, ``eta sqrt(1 - (sigma' / sigma)^2)``, which depends on both levels.

    A constant share, as in a restoration, would draw too much where steps are short: results would
    come out closer to the prior's mean than the intended process does.
    """

    before: Mapping[float, float]  # each level's predecessor

    def noise(self, fresh: Tensor, eps: Tensor, next_sigma: float, eta: float) -> Tensor:
        """What is added to the estimate to reach ``next_sigma``."""
        share = eta * math.sqrt(1 - (next_sigma / self.before[next_sigma]) ** 2)
        return super().noise(fresh, eps, next_sigma, share)


def noise_level(t: float) -> float:
    """``sqrt(1 / alpha^2 - 1)`` at time ``t`` in [0, 1], ``alpha^2 = exp(-(0.1 t + 9.95 t^2))`` (VP, Song et al. 2021)."""
    return math.sqrt(math.expm1(0.1 * t + 9.95 * t**2))


DEFENCES.register(DiffPure.name, DiffPure)
