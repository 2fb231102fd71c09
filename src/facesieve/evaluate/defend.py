"""Defences by name, and images behind them; every stage's result is kept and shared between defences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facesieve.defences import DEFENCES
from facesieve.defences.own import as_stage
from facesieve.errors import SettingError, one_line
from facesieve.evaluate.cache import BatchCache
from facesieve.evaluate.experiment import DefenceSettings, RunSettings
from facesieve.files import sha256_of_pixels
from facesieve.hardware import Hardware, choose_hardware
from facesieve.noise import derive_seed
from facesieve.priors import Prior
from facesieve.priors.embedded import PRIOR, embedded_prior_folder
from facesieve.purify import Purifier, chosen_preset
from facesieve.runtime import PurifierCard


@dataclass(frozen=True, eq=False)
class RunContext:
    """What all parts of a run share: how it is run, where and in which number format, batches on disk, and priors."""

    settings: RunSettings
    cache: BatchCache
    hardware: Hardware
    loaded: dict[str, Prior] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: RunSettings, cache: BatchCache) -> RunContext:
        """On the machine's best hardware, with the prior that the settings name. Errors as ``prior``."""
        context = cls(settings, cache, choose_hardware("auto", settings.precision))
        context.prior()
        return context

    def prior(self, embedded: str = PRIOR) -> Prior:
        """The prior that the settings name or, if they name none, the embedded one of that name. Loaded once.

        Raises ``PriorError`` if it cannot be had, ``SettingError`` if its size is not that of the crops.
        """
        from facesieve.priors.folder import load_prior

        folder = embedded_prior_folder(embedded) if self.settings.prior is None else Path(self.settings.prior)
        if str(folder) not in self.loaded:
            prior = load_prior(folder, device=str(self.hardware.device), dtype=self.hardware.dtype)
            if prior.shape[-1] != self.settings.size:
                sizes = f"run.size is {self.settings.size}, the prior restores {prior.shape[-1]} pixels"
                raise SettingError(sizes, advice="set run.size to that")
            self.loaded[str(folder)] = prior
        return self.loaded[str(folder)]

    def batches(self, images: Tensor, *what: str | int, places: Sequence[int] | None = None) -> Iterator[tuple[slice, list[int]]]:
        """Which images go together, and their seeds: each depends only on the run's seed, ``what`` is done, and its place.

        ``places`` are the images' among those of the run; None: the first.
        """
        where = range(len(images)) if places is None else places
        for start in range(0, len(images), self.settings.batch):
            end = min(start + self.settings.batch, len(images))
            yield slice(start, end), [derive_seed(self.settings.seed, *what, place) for place in where[start:end]]


@dataclass(frozen=True, eq=False)
class Defence:
    """A purifier, with what the experiment says about it."""

    settings: DefenceSettings
    purifier: Purifier

    @property
    def name(self) -> str:
        """Its name in the record."""
        return self.settings.name

    @property
    def label(self) -> str | None:
        """What a gallery remembers the preset by; None of a baseline."""
        if self.settings.preset is None:
            return None
        preset = chosen_preset(self.settings.preset).changed(**self.settings.settings)  # type: ignore[arg-type]
        prior = next(stage.prior for stage in self.purifier.stages if stage.needs_prior)
        return PurifierCard(preset.as_dict(), prior.shape[-1], str(prior.sha256), "", "").label


def make_defence(settings: DefenceSettings, context: RunContext) -> Defence:
    """The defence that the settings name. Raises ``SettingError`` for an unknown one, or one without such a setting."""
    if settings.preset is not None:
        preset = chosen_preset(settings.preset).changed(**settings.settings)  # type: ignore[arg-type]
        return Defence(settings, preset.with_prior(context.prior(preset.prior)))
    spec = str(settings.baseline)
    kind = DEFENCES.load(spec)
    needs_prior = getattr(kind, "needs_prior", False)  # a function that makes a function of crops says nothing of it
    given: dict[str, Any] = {**settings.settings, **({"prior": context.prior()} if needs_prior else {})}
    try:
        made = kind(**given)
    except TypeError as error:
        raise SettingError(one_line(error), f"defence {settings.name!r}") from error
    return Defence(settings, Purifier((as_stage(made, spec, kind, settings.settings, context.settings.size),)))


@dataclass(frozen=True, eq=False)
class Defended:
    """Images behind a defence."""

    points: list[tuple[str, Tensor]]  # after each step that is scored; the last, "", is the end. (N, 3, S, S) in [0, 1]
    seconds: float  # a face

    @property
    def images(self) -> Tensor:
        """Those at the end."""
        return self.points[-1][1]


def defend(
    defence: Defence, images: Tensor, context: RunContext, *what: str | int, places: Sequence[int] | None = None
) -> Defended:
    """Every image (N, 3, S, S) behind the defence, with its own noise: of the run's seed, ``what`` and its place.

    ``places`` as of ``RunContext.batches``.
    """
    parts: list[list[tuple[str, Tensor]]] = []
    seconds = 0.0
    for part, seeds in context.batches(images, *(what or ("purify",)), places=places):
        points, spent = _through(defence, images[part], seeds, context)
        parts.append(points)
        seconds += spent
    joined = [(steps[0][0], torch.cat([images for _, images in steps])) for steps in zip(*parts, strict=True)]
    return Defended(joined if defence.settings.score_steps else joined[-1:], seconds / len(images))


def _through(
    defence: Defence, images: Tensor, seeds: Sequence[int], context: RunContext
) -> tuple[list[tuple[str, Tensor]], float]:
    """What a batch is after each observation and each stage, with titles, the last ""; and the seconds that it took."""
    points, seconds, hardware = [], 0.0, context.hardware
    for number, stage in enumerate(defence.purifier.stages):
        if defence.settings.score_steps and (observed := stage.observed(images)) is not None:
            points.append((observed.name, observed.images))

        def make(number: int = number, images: Tensor = images) -> Tensor:
            with torch.inference_mode():
                return defence.purifier.apply(number, images.to(hardware.device), seeds)

        made_from = {
            "stage": stage.identity(), "dtype": str(hardware.dtype), "number": number, "seeds": list(seeds),
            "images": sha256_of_pixels(images.numpy()),
        }  # fmt: skip
        kept = context.cache.batch(made_from, make, half=True)
        images, seconds = kept.images, seconds + kept.seconds
        points.append((stage.name, images))
    return [*points[:-1], ("", images)], seconds
