"""Intervals by bootstrap over people: photographs of one person are not independent, people are.

The percentile bootstrap of Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter
13, with whole people drawn (a cluster bootstrap). Nothing is gathered again: a draw is how often
each person was drawn, and becomes weights of the observations. Where all people did the same there is
nothing to draw: a share then has the exact interval of Clopper and Pearson, "The use of confidence or
fiducial limits illustrated in the case of the binomial", Biometrika 1934.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facesieve.errors import InputError, SettingError

Statistic = Callable[[NDArray[np.float64]], float]  # weights (N,) -> value


@dataclass(frozen=True)
class Estimate:
    """A value and its interval."""

    value: float  # of all observations, each once
    low: float
    high: float
    n: int  # observations
    identities: int  # people that were resampled

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] (n = {self.n}, {self.identities} people)"


def bootstrap(statistic: Statistic, identities: ArrayLike, *, draws: int = 2000, seed: int = 0, level: float = 0.95) -> Estimate:
    """``statistic`` of all observations, with its ``level`` interval over resampled people.

    ``statistic`` takes weights (N,) and returns a number: ``lambda w: mean(hits, w)``. A draw for
    which it is nan, because the people drawn leave nothing to count, is left out.

    ``identities`` (N,) says whose each observation is: its weight is how often that person was
    drawn. For pairs it is (N, 2), the two people of each. A genuine pair's weight is the
    multiplicity of its person, an impostor pair's the product of the multiplicities of its two: the
    pairs of the people drawn, without comparing a person with their own copy. (Bolle, Ratha,
    Pankanti, "Error analysis of pattern recognition systems: the subsets bootstrap", CVIU 2004;
    product weights: Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 2007.)

    What the interval does not show: what none of the people did. A share of exactly 0 or 1 gets an
    interval of no width here, and its own by ``of_share``. With few people it is
    somewhat narrow: of simulated means over 30 and 40 people, 95 % intervals held 92 %.

    A statistic that sorts is several times faster where its scores were sorted beforehand, highest
    first. Raises ``InputError`` for fewer than two people, and for a statistic that is undefined for
    all the data or for more than half of the draws.
    """
    _check(draws, level)
    people, owners = _people(identities)
    drawn = [statistic(_weights(times, owners)) for times in (np.ones(people), *_times(people, draws, seed))]
    return _estimate(np.array(drawn), len(owners), people, level)


def of_share(found: Estimate, *, people: int | None = None, level: float = 0.95) -> Estimate:
    """The same of a share in [0, 1], with an interval of Clopper and Pearson where it is 0 or 1 and no draw was another.

    They count people, not photographs, which are not independent; ``people`` is how many of them the share is of, if not
    all. What has an interval of some width, or none as for one person, stays as it is.
    """
    if found.low != found.high or found.value not in {0, 1}:
        return found
    edge = _all_alike(people or found.identities, level)
    return replace(found, low=edge, high=1.0) if found.value else replace(found, low=0.0, high=1 - edge)


def of_difference(found: Estimate, *, level: float = 0.95) -> Estimate:
    """As ``of_share``, of the difference of two shares of the same images; where nobody differs, what people may, either way."""
    if found.value != 0 or found.low != found.high:
        return of_share(found, level=level)
    most = 1 - _all_alike(found.identities, level)
    return replace(found, low=-most, high=most)


def _all_alike(people: int, level: float) -> float:
    """The smallest share of which so many people are all, two-sided: p with p^people = (1 - level) / 2."""
    return float(((1 - level) / 2) ** (1 / people))


class Means:
    """Bootstrapped means of many values of the same observations: the draws of ``bootstrap``, made once.

    ``of(values)`` is an array: the mean of all observations, then that of each draw. So what is made of means is made of
    all at once, ``of(clean) - of(attacked)``, and ``estimate`` gives it the interval that ``bootstrap`` would.
    """

    def __init__(self, identities: ArrayLike, *, draws: int = 2000, seed: int = 0, level: float = 0.95) -> None:
        """``identities`` (N,) says whose each observation is. Raises ``InputError`` for fewer than two people."""
        _check(draws, level)
        self.people, self._owners = _people(identities)
        self.level, n = level, len(self._owners)
        times = np.stack([np.ones(self.people), *_times(self.people, draws, seed)])
        self._times, self._observed = times, times @ np.bincount(self._owners, np.ones(n), self.people)

    def of(self, values: ArrayLike) -> NDArray[np.float64]:
        """The means (1 + draws,) of ``values`` (N,)."""
        of_people = np.bincount(self._owners, np.asarray(values, np.float64), self.people)
        means: NDArray[np.float64] = self._times @ of_people / self._observed
        return means

    def share(self, flags: ArrayLike) -> Estimate:
        """Of how many observations ``flags`` (N,) holds, with its interval as of ``of_share``."""
        return of_share(self.estimate(self.of(flags)))

    def estimate(self, drawn: NDArray[np.float64]) -> Estimate:
        """What was made of means (1 + draws,), with its interval. Raises ``InputError`` as ``bootstrap``."""
        return _estimate(drawn, len(self._owners), self.people, self.level)


def _check(draws: int, level: float) -> None:
    if draws < 1 or not 0 < level < 1:
        raise SettingError(f"{draws} draws for a level of {level}: it takes at least one, and a level between 0 and 1")


def _times(people: int, draws: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """For each draw how often each person was drawn: (people,)."""
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        yield np.bincount(rng.integers(people, size=people), minlength=people).astype(np.float64)


def _estimate(drawn: NDArray[np.float64], n: int, people: int, level: float) -> Estimate:
    """From the statistic of all the data and of each draw."""
    value, draws = float(drawn[0]), len(drawn) - 1
    if not math.isfinite(value):
        raise InputError(f"the statistic of all {n} observations is {value}: there is nothing to resample")
    defined = drawn[1:][~np.isnan(drawn[1:])]
    if 2 * len(defined) < draws:
        raise InputError(
            f"the statistic is undefined for {draws - len(defined)} of {draws} draws of {people} people: too few people"
        )
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high), n, people)


def _people(identities: ArrayLike) -> tuple[int, NDArray[np.int64]]:
    """The number of people, and for each observation the number of its person (N,), or of both (N, 2)."""
    given = np.asarray(identities)
    if given.size == 0 or given.shape[1:] not in [(), (2,)]:
        raise InputError(f"identities have shape (N,), or (N, 2) for pairs, and are not empty; these are {given.shape}")
    names, owners = np.unique(given, return_inverse=True)
    if len(names) < 2:
        raise InputError(f"an interval needs photographs of at least two people; these are all of {names[0]}")
    return len(names), owners.reshape(given.shape)


def _weights(times: NDArray[np.float64], owners: NDArray[np.int64]) -> NDArray[np.float64]:
    if owners.ndim == 1:
        return times[owners]
    first, second = owners.T
    weights: NDArray[np.float64] = times[first] * np.where(first == second, 1.0, times[second])
    return weights
