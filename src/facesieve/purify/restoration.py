"""Restorations: degrade, then rebuild with the diffusion prior."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

from facesieve.errors import SettingError
from facesieve.limits import LONGEST_GRID, number, whole_number
from facesieve.noise import Noise
from facesieve.operators import OPERATORS, Operator
from facesieve.priors import Prior
from facesieve.purify.stage import Observed, Stage
from facesieve.sampling import (
    Step,
    checkpointed,
    consistent_with,
    karras_sigmas,
    last,
    published_sigmas,
    sample,
    time_travel,
)

if TYPE_CHECKING:
    from torch import Tensor


MOST_EVALUATIONS = 10_000  # a hundred times the published restoration's
# What settings may be: from, to, and whether they count something. A noise level of 200 leaves nothing of an image.
_LIMITS: dict[str, tuple[float, float, bool]] = {
    "steps": (1, LONGEST_GRID, True),
    "eta": (0, 1, False),
    "sigma_y": (0, 200, False),
    "travel_length": (1, LONGEST_GRID, True),
    "travel_repeat": (1, LONGEST_GRID, True),
    "start_sigma": (0, 200, False),
    "end_sigma": (0, 200, False),
    "samples": (1, MOST_EVALUATIONS, True),
}


@dataclass(frozen=True)
class Restoration:
    """What one restoration does: degrade by ``operator``, then rebuild with a prior.

    ``start_sigma`` None starts from pure noise on the published grid; a number starts from the
    noised observation at that level, on a grid of ``steps`` levels down to ``end_sigma``.
    ``sigma_y`` is in [-1, 1] units. The result is the mean of ``samples`` restorations, each with
    its own noise: it is closer to the posterior mean, which keeps what all of them agree on.
    """

    name: str
    operator: Operator
    steps: int = 100
    eta: float = 0.85
    sigma_y: float = 0.0
    travel_length: int = 1
    travel_repeat: int = 1
    start_sigma: float | None = None
    end_sigma: float = 0.02
    samples: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.operator, Operator):
            raise SettingError(f"operator {self.operator} is none; there are {', '.join(OPERATORS)}")
        for name, (least, most, whole) in _LIMITS.items():
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, (whole_number if whole else number)(value, name, least, most))
        self.sigmas()
        if self.evaluations > MOST_EVALUATIONS:
            raise SettingError(f"{self.evaluations} evaluations of the prior for one face, more than {MOST_EVALUATIONS}")

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

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for printing and for records; the operator in words.

        Labels of galleries are hashes of this. So settings that were added later are in it only where they differ
        from their default: a restoration that does not use them keeps its label.
        """
        later = {f.name for f in fields(self) if f.name not in _FIRST and getattr(self, f.name) == f.default}
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in later}
        return {**plain, "operator": self.operator.name, "evaluations": self.evaluations}

    def rescaled(self, scale: int) -> Restoration:
        """The restoration at another resolution scale; itself where its operator has none."""
        operator = self.operator.with_scale(scale)
        return self if operator is None else replace(self, operator=operator)


# The settings that every label has been made of since the first release.
_FIRST = frozenset(
    {
        "name", "operator", "steps", "eta", "sigma_y", "travel_length", "travel_repeat", "start_sigma", "end_sigma", "samples",
    }
)  # fmt: skip


@dataclass(frozen=True)
class RestorationStage(Stage):
    """A restoration with its prior."""

    prior: Prior
    restoration: Restoration

    @property
    def name(self) -> str:  # type: ignore[override]
        """The restoration's name."""
        return self.restoration.name

    def __call__(self, images: Tensor, noise: Noise) -> Tensor:
        """Observe and restore; the result is clipped to [0, 1]."""
        y = self.restoration.observe(images)
        samples = self.restoration.samples
        mean = sum(last(self.restoration.steps_from(self.prior, y, noise)) / samples for _ in range(samples))
        return (mean / 2 + 0.5).clamp(0, 1)  # type: ignore[union-attr]

    @property
    def evaluations(self) -> int:
        """As often as the restoration says."""
        return self.restoration.evaluations

    @property
    def draws_noise(self) -> bool:
        """Whether two seeds give two results."""
        r = self.restoration
        return r.eta > 0 or r.start_sigma is None or r.start_sigma > 0

    needs_prior: ClassVar[bool] = True

    def identity(self) -> dict[str, Any]:
        """The settings, but for the name, and the prior's hash."""
        settings = self.restoration.as_dict() | {"name": ""}
        return {"restoration": settings, "prior": self.prior.sha256}

    def observed(self, images: Tensor) -> Observed:
        """``Ap A`` of the images: what is left of them when the restoration starts."""
        operator = self.restoration.operator
        left = operator.Ap(self.restoration.observe(images))
        return Observed(operator.name, operator.caption, (left / 2 + 0.5).clamp(0, 1))

    def for_attacker(self, size: int) -> RestorationStage:
        """With the memory of one evaluation of the prior; its gradient is exact."""
        return self.wrapped(checkpointed)

    def without_prior(self, size: int) -> Interpolation:
        """Bicubic interpolation of the observation."""
        return Interpolation(self.restoration.operator)

    def wrapped(self, wrap: Callable[[Prior], Prior]) -> RestorationStage:
        """The same restoration with ``wrap`` of its prior."""
        return replace(self, prior=wrap(self.prior))


@dataclass(frozen=True)
class Interpolation(Stage):
    """An observation brought back to the image's size by bicubic interpolation, without a prior; a grey one in all channels."""

    operator: Operator
    name = "interpolation"

    def __call__(self, images: Tensor, noise: Noise) -> Tensor:
        """``images`` (B, 3, H, W) in [0, 1] to such images, clipped."""
        from torch.nn import functional

        y = self.operator(2 * images - 1)
        large = functional.interpolate(y, images.shape[-2:], mode="bicubic", align_corners=False)
        return (large / 2 + 0.5).clamp(0, 1).expand_as(images)
