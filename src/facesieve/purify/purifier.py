"""A purifier: stages, one after the other."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from facesieve.errors import SettingError
from facesieve.faces.crops import check_crops
from facesieve.noise import derive_seed, fresh_seeds, seeded_noise
from facesieve.priors import Prior
from facesieve.progress import Progress, Report
from facesieve.purify.stage import Stage, View

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Purifier:
    """Stages, one after the other: ``purifier(images, seeds=...) -> images``."""

    stages: tuple[Stage, ...]
    follows_autocast: bool = False  # whether an autocast around a call counts: for an attacker, who wants gradients quickly

    def __call__(self, images: Tensor, *, seeds: Sequence[int] | None = None) -> Tensor:
        """Purify aligned crops (B, 3, S, S) in [0, 1], floating point, S the side of the prior's images.

        Image ``i`` depends only on its pixels and ``seeds[i]``. Without seeds, fresh ones come from
        the operating system, so that no attacker can know them. Differentiable; wrap the call in
        ``torch.inference_mode()`` where no gradient is wanted. A default device or an autocast around the call
        changes nothing. Raises ``InputError`` for crops of another shape, type or range, which would give wrong faces.
        """
        *_, (_, result) = self.trace(images, seeds=seeds)
        return result

    def trace(self, images: Tensor, *, seeds: Sequence[int] | None = None) -> Iterator[tuple[Stage, Tensor]]:
        """Each stage with its result, in order."""
        seeds = fresh_seeds(len(images)) if seeds is None else seeds
        if images.dim() != 4 or len(seeds) != len(images):
            raise SettingError(f"{len(seeds)} seeds for images of shape {tuple(images.shape)}: one a (3, H, W) image is needed")
        check_crops(images, self.size)
        for number, stage in enumerate(self.stages):
            images = self.apply(number, images, seeds)
            yield stage, images

    def apply(self, number: int, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Stage ``number`` alone, on what the stage before it made (B, 3, H, W), with the noise it has within the whole."""
        own = [derive_seed(seed, number) for seed in seeds]
        noise = seeded_noise(own, tuple(images.shape[1:]), dtype=images.dtype, device=images.device)
        with self._precision(images.device.type):
            return self.stages[number](images, noise)

    def _precision(self, device: str) -> AbstractContextManager[object]:
        """The format that a stage computes in is its network's, whatever the caller has switched on."""
        import torch

        if self.follows_autocast or not torch.is_autocast_enabled(device):
            return nullcontext()
        return torch.autocast(device, enabled=False)

    @property
    def size(self) -> int | None:
        """The side of the crops that it takes, pixels: its prior's; None without a prior, which leaves it to the stages."""
        return next((stage.prior.shape[-1] for stage in self.stages if getattr(stage, "needs_prior", False)), None)

    @property
    def evaluations(self) -> int:
        """How often a network is evaluated for one face."""
        return sum(stage.evaluations for stage in self.stages)

    @property
    def draws_noise(self) -> bool:
        """Whether two seeds give two results."""
        return any(stage.draws_noise for stage in self.stages)

    def identity(self) -> list[dict[str, Any]]:
        """Everything that a result depends on, except images and seeds: that of each stage."""
        return [stage.identity() for stage in self.stages]

    def watched(self, report: Report) -> Purifier:
        """The same purifier for one batch, which reports before each evaluation of a prior how many were done, of all."""
        total = sum(stage.evaluations for stage in self.stages if stage.needs_prior)
        done = itertools.count()

        def watch(prior: Prior) -> Prior:
            return _Watched(prior, lambda: report(Progress(next(done), total)))

        return replace(self, stages=tuple(stage.wrapped(watch) for stage in self.stages))

    def for_attacker(self, size: int, view: View = "gradient") -> Purifier:
        """The purifier as an attacker with this ``view`` of every stage takes it, at crops of ``size`` pixels.

        Gradients may be had in another number format by an autocast around it.
        """
        return Purifier(tuple(stage.viewed(size, view) for stage in self.stages), follows_autocast=True)


@dataclass(frozen=True)
class _Watched:
    """A prior that says so each time before it is evaluated."""

    prior: Prior
    said: Callable[[], None]

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.prior.shape

    @property
    def sha256(self) -> str | None:
        return self.prior.sha256

    def __call__(self, u: Tensor, sigma: Tensor | float) -> Tensor:
        self.said()
        return self.prior(u, sigma)
