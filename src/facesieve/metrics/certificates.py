"""What randomised smoothing proves, from counts of votes.

Cohen, Rosenfeld and Kolter, "Certified Adversarial Robustness via Randomized Smoothing" (ICML 2019), theorem 1 and algorithm
CERTIFY: if noise of standard deviation ``sigma`` makes the base classifier answer ``c`` with a probability of at least p > 1/2,
the smoothed one answers ``c`` for everything within an L2 distance of ``sigma * Phi^-1(p)``. p is not known; its lower bound
is Clopper and Pearson's (Biometrika 1934), so that each certificate is wrong with a probability of at most ``alpha``.
"""

from __future__ import annotations

import math
from statistics import NormalDist

from facesieve.errors import SettingError


def lower_bound(count: int, n: int, alpha: float = 0.001) -> float:
    """A probability that is exceeded, with confidence 1 - ``alpha`` (one-sided), where ``count`` of ``n`` draws were hits.

    It solves P(at least ``count`` of ``n`` | p) = ``alpha``. Raises ``SettingError`` for counts that cannot be, or no level.
    """
    if not (0 <= count <= n and n >= 1 and 0 < alpha < 1):
        raise SettingError(f"{count} hits of {n} draws at a level of {alpha}: there is no such count")
    if count == 0:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(60):  # bisection: the tail grows with p
        middle = (low + high) / 2
        low, high = (middle, high) if _tail(count, n, middle) < alpha else (low, middle)
    return low


def radius(count: int, n: int, sigma: float, alpha: float = 0.001) -> float:
    """The certified L2 radius, in units of ``sigma``'s; 0 where the vote abstains: no majority of more than half is proved."""
    bound = lower_bound(count, n, alpha)
    return sigma * NormalDist().inv_cdf(bound) if bound > 0.5 else 0.0


def _tail(count: int, n: int, p: float) -> float:
    """P(X >= count) of a binomial X, for 0 < p < 1."""
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * math.log(p) + (n - k) * math.log1p(-p)
        for k in range(count, n + 1)
    ]
    return math.fsum(map(math.exp, logs))
