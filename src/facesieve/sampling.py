"""The sampler: DDNM in variance-exploding form, over a list of noise levels that ends in 0.

The state is ``u = x0 + sigma z``. One step, with the prior's estimate ``x0`` at ``(u, sigma)``::

    eps = (u - x0) / sigma
    x0^ = x0 - Ap(A x0 - y)                                  # Wang et al. 2022, DDNM
    u'  = x0^ + sigma' (eta z + sqrt(1 - eta^2) eps)         # sigma' < sigma

Nothing here is under ``no_grad``: an attacker may differentiate through all of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

from facesieve.errors import SettingError
from facesieve.noise import Noise
from facesieve.operators import Operator
from facesieve.priors import Prior
from facesieve.priors.schedule import linear_alphas_bar, sigmas_at

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Step:
    """One evaluation of the prior, at ``sigma``: its estimate ``x0``, and the next state ``u``, at ``next_sigma``."""

    sigma: float
    next_sigma: float
    x0: Tensor  # (B, C, H, W), the prior's estimate, before the correction
    u: Tensor  # (B, C, H, W), the state after the step


class Correction(Protocol):
    """How an estimate is made to agree with an observation, and how the next state is noised."""

    def estimate(self, x0: Tensor, next_sigma: float, eta: float) -> Tensor:
        """The corrected estimate ``x0^``."""

    def noise(self, fresh: Tensor, eps: Tensor, next_sigma: float, eta: float) -> Tensor:
        """What is added to ``x0^`` to reach ``next_sigma``, from unit noise and the noise estimate."""


@dataclass(frozen=True)
class Unconditional:
    """No observation: plain diffusion (DDIM with stochasticity ``eta``)."""

    def estimate(self, x0: Tensor, next_sigma: float, eta: float) -> Tensor:
        """``x0`` as it is."""
        return x0

    def noise(self, fresh: Tensor, eps: Tensor, next_sigma: float, eta: float) -> Tensor:
        """``sigma' (eta z + sqrt(1 - eta^2) eps)``."""
        return next_sigma * (eta * fresh + math.sqrt(1 - eta**2) * eps)


@dataclass(frozen=True, eq=False)
class Consistent(Unconditional):
    """DDNM: after every step, ``A x0^ = y``."""

    operator: Operator
    y: Tensor  # what the operator gave, images in [-1, 1]

    def estimate(self, x0: Tensor, next_sigma: float, eta: float) -> Tensor:
        """``x0 - Ap(A x0 - y)``."""
        return x0 - self.operator.Ap(self.operator(x0) - self.y)


@dataclass(frozen=True, eq=False)
class NoisyConsistent(Consistent):
    """DDNM+: ``Ap y`` carries Gaussian noise of level ``sigma_y``; the total noise of the state stays sigma'.

    The level is that in each direction of the range of ``A``: of noise on the image before ``A``, not
    of the smaller noise that is left on a pixel of ``y`` after averaging.

    While sigma' >= sigma_y the observation is taken whole and less noise is added in the range of
    ``A``; below, only the share ``lambda = sqrt(1 - eta^2) sigma' / sigma_y`` of it is taken. Many
    steps below sigma_y bring the observation and its noise back; a grid that ends at sigma_y does not.
    """

    sigma_y: float  # in [-1, 1] units

    def estimate(self, x0: Tensor, next_sigma: float, eta: float) -> Tensor:
        """``x0 - lambda Ap(A x0 - y)``."""
        share = 1.0 if next_sigma >= self.sigma_y else math.sqrt(1 - eta**2) * next_sigma / self.sigma_y
        return x0 - share * self.operator.Ap(self.operator(x0) - self.y)

    def noise(self, fresh: Tensor, eps: Tensor, next_sigma: float, eta: float) -> Tensor:
        """Fresh noise alone in the range of ``A``, plain diffusion's noise outside of it."""
        outside = super().noise(fresh, eps, next_sigma, eta)
        if next_sigma >= self.sigma_y:
            within = math.sqrt(next_sigma**2 - self.sigma_y**2) * fresh
        else:
            within = eta * next_sigma * fresh
        return outside + self.operator.Ap(self.operator(within - outside))


def consistent_with(operator: Operator, y: Tensor, *, sigma_y: float = 0.0) -> Correction:
    """The DDNM rule for an observation ``y`` (images in [-1, 1]); DDNM+ if ``sigma_y`` > 0.

    Raises ``SettingError`` for a negative ``sigma_y``.
    """
    if not sigma_y >= 0:
        raise SettingError(f"sigma_y {sigma_y} must be 0 or more")
    return NoisyConsistent(operator, y, sigma_y) if sigma_y > 0 else Consistent(operator, y)


def sample(
    prior: Prior,
    start: Tensor,
    sigmas: Sequence[float],
    noise: Noise,
    *,
    correct: Correction = Unconditional(),
    eta: float = 0.85,
) -> Iterator[Step]:
    """Run the sampler from ``start`` (B, C, H, W), a state at ``sigmas[0]``, and yield every step.

    ``sigmas`` ends in 0; the ``u`` of the last step is the result. Where ``sigmas`` rises (see
    ``time_travel``) the prior's last estimate is noised again to that level, without an evaluation.
    Raises ``SettingError`` for a list that does not end in 0 or an ``eta`` outside [0, 1].
    """
    if not 0 <= eta <= 1:
        raise SettingError(f"eta {eta} must be between 0 and 1")
    if len(sigmas) < 2 or sigmas[-1] != 0 or min(sigmas[:-1]) <= 0:
        raise SettingError("the noise levels must be positive and end in 0")
    u, x0 = start, start
    for sigma, next_sigma in pairwise(sigmas):
        if next_sigma > sigma:
            u = x0 + next_sigma * noise()
            continue
        x0 = prior(u, sigma)
        eps = (u - x0) / sigma
        fresh = noise() if next_sigma > 0 else u.new_zeros(u.shape)  # with eta 0 too: DDNM+ needs it
        u = correct.estimate(x0, next_sigma, eta) + correct.noise(fresh, eps, next_sigma, eta)
        yield Step(sigma, next_sigma, x0, u)


def last(steps: Iterator[Step]) -> Tensor:
    """Run a sampler to its end: the result (B, C, H, W)."""
    for step in steps:
        result = step.u
    return result


def checkpointed(prior: Prior) -> Prior:
    """The same prior, with its activations recomputed in the backward pass instead of kept.

    A gradient through 100 steps then needs the memory of one evaluation, and twice the time.
    """

    from torch.utils.checkpoint import checkpoint

    class Checkpointed:
        shape = prior.shape
        sha256 = prior.sha256

        def __call__(self, u: Tensor, sigma: Tensor | float) -> Tensor:
            result: Tensor = checkpoint(prior, u, sigma, use_reentrant=False)
            return result

    return Checkpointed()


def published_sigmas(steps: int = 100) -> list[float]:
    """The published grid: every (1000 / steps)-th step of the linear schedule, down to step 0, then 0."""
    alphas_bar = linear_alphas_bar()
    total = len(alphas_bar)
    if not 1 <= steps <= total:
        raise SettingError(f"steps {steps} must be between 1 and {total}")
    visited = alphas_bar[[total * index // steps for index in reversed(range(steps))]]
    return [*map(float, sigmas_at(visited)), 0.0]


def karras_sigmas(steps: int, start: float, end: float = 0.02, *, rho: float = 7.0) -> list[float]:
    """``steps`` levels from ``start`` down to ``end``, then 0, even in sigma^(1/rho) (Karras et al. 2022, eq. 5)."""
    if steps < 1 or not start >= end > 0:
        raise SettingError(f"a grid needs 1 step or more and start >= end > 0, not {steps} steps from {start} to {end}")
    if steps == 1:
        return [start, 0.0]
    ends = start ** (1 / rho), end ** (1 / rho)
    between = [(ends[0] + (ends[1] - ends[0]) * i / (steps - 1)) ** rho for i in range(1, steps - 1)]
    return [start, *between, end, 0.0]


def time_travel(sigmas: Sequence[float], length: int, repeat: int) -> list[float]:
    """The list with its detours: each stretch of ``length`` steps is run ``repeat`` times.

    As in RePaint and DDNM: after the last step of a stretch, back up by ``length`` steps; the
    first and the last step of the whole list start no detour. Length 1 and repeat 1 mean no detours.
    """
    if length < 1 or repeat < 1:
        raise SettingError(f"travel length {length} and repeat {repeat} must be 1 or more")
    steps = len(sigmas) - 1
    if repeat == 1:
        return list(sigmas)
    path = [sigmas[0]]
    jumps = dict.fromkeys(range(0, steps - length, length), repeat - 1)
    t = steps - 1  # as in the reference, t counts down to 0, and then to the final 0 level
    while t >= 0:
        t -= 1
        path.append(sigmas[steps - 1 - t])
        if jumps.get(t, 0) > 0:
            jumps[t] -= 1
            t += length
            path.append(sigmas[steps - 1 - t])
    return path
