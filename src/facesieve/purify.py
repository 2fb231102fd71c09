"""Stages, purifiers and the named presets.

A purifier is a sequence of stages; a stage maps a batch of aligned crops (B, 3, H, W) in [0, 1]
and a source of noise to such a batch. A preset is data: it says which restorations a purifier
makes, and can be changed, printed and stored.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Protocol

from torch import Tensor

from facesieve.errors import SettingError
from facesieve.noise import Noise, derive_seed, seeded_noise
from facesieve.operators import Compose, Grey, MeanPool, Operator, grey_mean_pool
from facesieve.priors import Prior
from facesieve.priors.embedded import PRIOR, TUNED_PRIOR
from facesieve.sampling import Step, consistent_with, karras_sigmas, last, published_sigmas, sample, time_travel


@dataclass(frozen=True)
class Restoration:
    """What one restoration does: degrade by ``operator``, then rebuild with a prior.

    ``start_sigma`` None starts from pure noise on the published grid; a number starts from the
    noised observation at that level, on a grid of ``steps`` levels down to ``end_sigma``.
    ``sigma_y`` is in [-1, 1] units. The result is the mean of ``samples`` restorations, each with
    noise of its own: it comes closer to the posterior mean, which keeps what all of them agree on.
    """

    name: str
    operator: MeanPool | Grey | Compose
    steps: int = 100
    eta: float = 0.85
    sigma_y: float = 0.0
    travel_length: int = 1
    travel_repeat: int = 1
    start_sigma: float | None = None
    end_sigma: float = 0.02
    samples: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise SettingError(f"eta {self.eta} must be between 0 and 1")
        if self.sigma_y < 0:
            raise SettingError(f"sigma_y {self.sigma_y} must be 0 or more")
        if self.samples < 1:
            raise SettingError(f"samples {self.samples} must be 1 or more")
        self.sigmas()

    def sigmas(self) -> list[float]:
        """The noise levels that the sampler visits, detours of time travel included."""
        if self.start_sigma is None:
            grid = published_sigmas(self.steps)
        else:
            grid = karras_sigmas(self.steps, self.start_sigma, self.end_sigma)
        return time_travel(grid, self.travel_length, self.travel_repeat)

    @property
    def evaluations(self) -> int:
        """How often the prior is evaluated."""
        levels = self.sigmas()
        return self.samples * sum(after < before for before, after in pairwise(levels))

    def observe(self, images: Tensor) -> Tensor:
        """``y = A(2 x - 1)`` of images in [0, 1]."""
        return self.operator(2 * images - 1)

    def steps_from(self, prior: Prior, y: Tensor, noise: Noise) -> Iterator[Step]:
        """The sampler's steps for an observation ``y``; images in [-1, 1]."""
        sigmas = self.sigmas()
        if self.start_sigma is None:
            start = (1 + sigmas[0] ** 2) ** 0.5 * noise()  # x_T = z, and u = x_T / sqrt(abar_T)
        else:
            start = self.operator.Ap(y) + sigmas[0] * noise()
        correct = consistent_with(self.operator, y, sigma_y=self.sigma_y)
        return sample(prior, start, sigmas, noise, correct=correct, eta=self.eta)


class Stage(Protocol):
    """Maps aligned crops (B, 3, H, W) in [0, 1] to such crops; draws from ``noise`` what it needs."""

    @property
    def name(self) -> str:
        """A short name for tables and pictures."""

    def __call__(self, images: Tensor, noise: Noise) -> Tensor:
        """The crops after this stage."""


@dataclass(frozen=True)
class RestorationStage:
    """A restoration with its prior."""

    prior: Prior
    restoration: Restoration

    @property
    def name(self) -> str:
        """The restoration's name."""
        return self.restoration.name

    def __call__(self, images: Tensor, noise: Noise) -> Tensor:
        """Observe and restore; the result is clipped to [0, 1]."""
        y = self.restoration.observe(images)
        samples = self.restoration.samples
        mean = sum(last(self.restoration.steps_from(self.prior, y, noise)) / samples for _ in range(samples))
        return (mean / 2 + 0.5).clamp(0, 1)  # type: ignore[union-attr]

    def observed(self, images: Tensor) -> Tensor:
        """``Ap A`` of the images: what is left of them when the restoration begins, in [0, 1]."""
        operator = self.restoration.operator
        return (operator.Ap(self.restoration.observe(images)) / 2 + 0.5).clamp(0, 1)


@dataclass(frozen=True)
class Purifier:
    """Stages, one after the other: ``purifier(images, seeds=...) -> images``."""

    stages: tuple[Stage, ...]

    def __call__(self, images: Tensor, *, seeds: Sequence[int] | None = None) -> Tensor:
        """Purify aligned crops (B, 3, H, W) in [0, 1].

        Image ``i`` depends on its pixels and ``seeds[i]`` alone. Without seeds they are fresh from
        the operating system, so that no attacker can know them. Differentiable; wrap the call in
        ``torch.inference_mode()`` where no gradient is wanted.
        """
        *_, (_, result) = self.trace(images, seeds=seeds)
        return result

    def trace(self, images: Tensor, *, seeds: Sequence[int] | None = None) -> Iterator[tuple[Stage, Tensor]]:
        """Each stage with its result, in order."""
        seeds = fresh_seeds(len(images)) if seeds is None else seeds
        if images.dim() != 4 or len(seeds) != len(images):
            raise SettingError(f"{len(seeds)} seeds for images of shape {tuple(images.shape)}: one a (3, H, W) image is needed")
        for number, stage in enumerate(self.stages):
            images = self.apply(number, images, seeds)
            yield stage, images

    def apply(self, number: int, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Stage ``number`` alone, on what the stage before it made (B, 3, H, W), with the noise it has within the whole."""
        own = [derive_seed(seed, number) for seed in seeds]
        noise = seeded_noise(own, tuple(images.shape[1:]), dtype=images.dtype, device=images.device)
        return self.stages[number](images, noise)


def fresh_seeds(count: int) -> list[int]:
    """Unpredictable seeds from the operating system."""
    return [secrets.randbits(63) for _ in range(count)]


@dataclass(frozen=True)
class Preset:
    """A named list of restorations, and which of the priors that ship it is made for."""

    name: str
    summary: str
    restorations: tuple[Restoration, ...]
    prior: str = PRIOR

    @property
    def evaluations(self) -> int:
        """How often the prior is evaluated for one face."""
        return sum(restoration.evaluations for restoration in self.restorations)

    def with_prior(self, prior: Prior) -> Purifier:
        """The purifier that does this with ``prior``."""
        return Purifier(tuple(RestorationStage(prior, restoration) for restoration in self.restorations))

    def changed(self, *, scale: int | None = None, **settings: Any) -> Preset:
        """The preset with other settings in every restoration (``steps``, ``eta``, ...) and another scale."""
        unknown = settings.keys() - Restoration.__dataclass_fields__.keys()
        if unknown:
            raise SettingError(f"a restoration has no setting {', '.join(sorted(unknown))}")
        given = {name: value for name, value in settings.items() if value is not None}
        changed = tuple(replace(_rescaled(r, scale), **given) for r in self.restorations)
        if scale is not None and all(isinstance(r.operator, Grey) for r in self.restorations):
            raise SettingError(f"preset {self.name!r} has no resolution scale to set")
        return replace(self, restorations=changed)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for printing and for records."""
        return {
            "name": self.name,
            "summary": self.summary,
            "prior": self.prior,
            "restorations": [_plain(r) for r in self.restorations],
        }


def _rescaled(restoration: Restoration, scale: int | None) -> Restoration:
    operator = restoration.operator
    if scale is None or isinstance(operator, Grey):
        return restoration
    if isinstance(operator, MeanPool):
        return replace(restoration, operator=MeanPool(scale))
    if isinstance(operator.outer, Grey) and isinstance(operator.inner, MeanPool):
        return replace(restoration, operator=grey_mean_pool(scale))
    raise SettingError(f"{describe(operator)} has no resolution scale that can be set")


def describe(operator: Operator) -> str:
    """An operator in words: ``grey of 4 x 4 block mean``; one of your own by its ``repr``."""
    if isinstance(operator, MeanPool):
        return f"{operator.scale} x {operator.scale} block mean"
    if isinstance(operator, Grey):
        return "grey"
    if isinstance(operator, Compose):
        return f"{describe(operator.outer)} of {describe(operator.inner)}"
    return repr(operator)


def _plain(restoration: Restoration) -> dict[str, Any]:
    return {**asdict(restoration), "operator": describe(restoration.operator), "evaluations": restoration.evaluations}


SUPER_RESOLUTION = Restoration("super-resolution", MeanPool(2))
COLORIZATION = Restoration("colorization", Grey())

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "fast",
            "the mean of four short restorations of the block mean, from its noised observation; the default",
            (
                Restoration(
                    "restoration", MeanPool(2), steps=2, eta=0.0, sigma_y=0.42, start_sigma=10.0, end_sigma=0.42, samples=4
                ),
            ),
        ),
        Preset(
            "fast-fused",
            "fast with the fused operator: less room for an attacker who knows it; colours are guessed",
            (
                Restoration(
                    "fused", grey_mean_pool(2), steps=2, eta=0.0, sigma_y=0.36, start_sigma=10.0, end_sigma=0.36, samples=4
                ),
            ),
        ),
        Preset(
            "tuned",
            "one evaluation from the noised block mean, by a prior tuned against attacks on recognisers; the mean of two",
            (
                Restoration(
                    "restoration", MeanPool(2), steps=1, eta=0.0, sigma_y=0.06, start_sigma=0.06, end_sigma=0.06, samples=2
                ),
            ),
            prior=TUNED_PRIOR,
        ),
        Preset(
            "fused",
            "one restoration of the grey block mean from pure noise; half the work of paper",
            (Restoration("fused", grey_mean_pool(2), eta=0.0),),
        ),
        Preset("paper", "the published defence: super-resolution, then colorization", (SUPER_RESOLUTION, COLORIZATION)),
        Preset("stage1", "the published first stage alone: super-resolution", (SUPER_RESOLUTION,)),
        Preset("stage2", "the published second stage alone: colorization", (COLORIZATION,)),
    )
}


def preset(name: str) -> Preset:
    """The preset of that name. Raises ``SettingError`` for an unknown one."""
    if name not in PRESETS:
        raise SettingError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


__all__ = [
    "COLORIZATION", "PRESETS", "SUPER_RESOLUTION", "Preset", "Purifier", "Restoration", "RestorationStage", "Stage",
    "describe", "fresh_seeds", "preset",
]  # fmt: skip
