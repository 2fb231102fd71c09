"""Defences by name, and images behind them; every stage's result is kept and shared between defences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from facesieve import hardware
from facesieve.attacks.adaptive import seen_through
from facesieve.defences import DEFENCES, DiffPure
from facesieve.errors import SettingError
from facesieve.evaluate.cache import Store, image_digest
from facesieve.evaluate.craft import Seen
from facesieve.evaluate.experiment import DefenceSettings, RunSettings
from facesieve.noise import derive_seed
from facesieve.priors import Prior
from facesieve.priors.embedded import PRIOR, embedded_prior_folder
from facesieve.purify import Purifier, RestorationStage, Stage
from facesieve.purify import preset as preset_named


@dataclass(frozen=True, eq=False)
class Around:
    """What defences are made of: priors, and where and how they run."""

    run: RunSettings
    path: hardware.Hardware
    hashes: dict[Prior, str] = field(default_factory=dict)  # of every prior that was loaded
    loaded: dict[str, Prior] = field(default_factory=dict)

    @classmethod
    def of(cls, run: RunSettings) -> Around:
        """The machine's path, and the prior that the settings name. Errors as ``prior``."""
        around = cls(run, hardware.choose_hardware("auto", run.precision))
        around.prior()
        return around

    def prior(self, embedded: str = PRIOR) -> Prior:
        """The prior that the settings name; where they name none, the embedded one of that name. Loaded once.

        Raises ``PriorError`` if it cannot be had, ``SettingError`` if its size is not that of the crops.
        """
        from facesieve.priors.folder import load_prior, prior_hash

        folder = embedded_prior_folder(embedded) if self.run.prior is None else Path(self.run.prior)
        if str(folder) not in self.loaded:
            prior = load_prior(folder, device=str(self.path.device), dtype=self.path.dtype)
            if prior.shape[-1] != self.run.size:
                raise SettingError(
                    f"run.size is {self.run.size}, the prior restores {prior.shape[-1]} pixels; set run.size to that"
                )
            self.loaded[str(folder)] = prior
            self.hashes[prior] = prior_hash(folder)
        return self.loaded[str(folder)]


@dataclass(frozen=True, eq=False)
class Defence:
    """A purifier, with what the run has to know of it."""

    name: str
    purifier: Purifier
    evaluations: int  # of the prior, for one face
    random: bool
    steps_too: bool


def make_defence(settings: DefenceSettings, around: Around) -> Defence:
    """The defence that the settings name. Raises ``SettingError`` for an unknown one, or one without such a setting."""
    if settings.preset is not None:
        preset = preset_named(settings.preset).changed(**settings.settings)  # type: ignore[arg-type]
        random = any(r.eta > 0 or r.start_sigma is None or r.start_sigma > 0 for r in preset.restorations)
        return Defence(
            settings.name, preset.with_prior(around.prior(preset.prior)), preset.evaluations, random, settings.steps_too
        )
    kind = DEFENCES.get(str(settings.baseline))
    if kind is None:
        raise SettingError(f"no baseline {settings.baseline!r}; there are {', '.join(sorted(DEFENCES))}")
    given: dict[str, Any] = {**settings.settings, **({"prior": around.prior()} if kind is DiffPure else {})}
    try:
        stage: Stage = kind(**given)
    except TypeError as error:
        raise SettingError(f"defence {settings.name!r}: {str(error).split('() ')[-1]}") from error
    evaluations = getattr(stage, "steps", 1) if kind is DiffPure else 1
    return Defence(settings.name, Purifier((stage,)), evaluations, kind is DiffPure, settings.steps_too)


def as_seen(defence: Defence, around: Around) -> Seen:
    """The defence as an adaptive attack sees it, who averages over as many draws as the run says."""
    made_from = [_made_from(stage, around) for stage in defence.purifier.stages]
    through = seen_through(defence.purifier, around.run.size)
    return Seen(defence.name, through, around.run.averaged if defence.random else 1, around.path.device, made_from)


@dataclass(frozen=True, eq=False)
class Defended:
    """Images behind a defence."""

    points: list[tuple[str, Tensor]]  # after each step that is scored; the last, "", is the end. (N, 3, S, S) in [0, 1]
    seconds: float  # a face


def defend(defence: Defence, images: Tensor, around: Around, store: Store, *, seed: int, batch: int) -> Defended:
    """Every image (N, 3, S, S) behind the defence, with its own noise, which depends on ``seed`` and its place alone."""
    parts: list[list[Tensor]] = []
    titles: list[str] = []
    seconds = 0.0
    for start in range(0, len(images), batch):
        part = images[start : start + batch]
        seeds = [derive_seed(seed, "purify", start + i) for i in range(len(part))]
        titles, scored, spent = _through(defence, part, seeds, around, store)
        parts.append(scored)
        seconds += spent
    points = [(title, torch.cat(batches)) for title, batches in zip(titles, zip(*parts, strict=True), strict=True)]
    return Defended(points if defence.steps_too else points[-1:], seconds / len(images))


def _through(
    defence: Defence, images: Tensor, seeds: Sequence[int], around: Around, store: Store
) -> tuple[list[str], list[Tensor], float]:
    titles, scored, seconds = [], [], 0.0
    stages = defence.purifier.stages
    for number, stage in enumerate(stages):
        if defence.steps_too and isinstance(stage, RestorationStage):
            titles.append(f"{stage.restoration.operator.name}")
            scored.append(stage.observed(images))

        def make(number: int = number, images: Tensor = images) -> Tensor:
            with torch.inference_mode():
                return defence.purifier.apply(number, images.to(around.path.device), seeds)

        made_from = {**_made_from(stage, around), "number": number, "seeds": list(seeds), "images": image_digest(images)}
        kept = store.batch(made_from, make, half=True)
        images, seconds = kept.images, seconds + kept.seconds
        titles.append("" if number == len(stages) - 1 else stage.name)
        scored.append(images)
    return titles, scored, seconds


def _made_from(stage: Stage, around: Around) -> dict[str, Any]:
    """What a stage's result hangs on, but for images and noise."""
    if isinstance(stage, RestorationStage):
        settings = asdict(stage.restoration) | {"operator": stage.restoration.operator.name, "name": ""}
        return {"restoration": settings, "prior": around.hashes[stage.prior], "path": str(around.path.dtype)}
    if isinstance(stage, DiffPure):
        return {"baseline": _plain(stage), "prior": around.hashes[stage.prior], "path": str(around.path.dtype)}
    return {"baseline": _plain(stage), "weights": getattr(stage, "sha256", None)}


def _plain(stage: Stage) -> dict[str, Any]:
    fields = getattr(stage, "__dataclass_fields__", {})
    kept = {name: getattr(stage, name) for name in fields}
    return {"kind": type(stage).__name__} | {name: v for name, v in kept.items() if isinstance(v, (bool, int, float, str, tuple))}
