"""The named presets: data that says which restorations a purifier makes, to be changed, printed and stored."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from facesieve.errors import ProfileError, SettingError, one_line
from facesieve.files import read_toml
from facesieve.operators import OPERATORS, Grey, MeanPool, grey_mean_pool
from facesieve.priors import Prior
from facesieve.priors.embedded import PRIOR, PURIFIER, TUNED_PRIOR
from facesieve.purify.purifier import Purifier
from facesieve.purify.restoration import Restoration, RestorationStage


@dataclass(frozen=True)
class Preset:
    """A named list of restorations, and the prior that it is made for, one of those that ship."""

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
        if isinstance(given.get("operator"), str):
            given["operator"] = OPERATORS.load(given["operator"])()
        changed = tuple(replace(r, **given) for r in self.restorations)
        if scale is not None:
            if all(r.operator.with_scale(scale) is None for r in changed):
                raise SettingError(f"preset {self.name!r} has no resolution scale to set")
            changed = tuple(r.rescaled(scale) for r in changed)
        return replace(self, restorations=changed)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, for printing and for records."""
        return {
            "name": self.name,
            "summary": self.summary,
            "prior": self.prior,
            "restorations": [r.as_dict() for r in self.restorations],
        }


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
            "robust",
            "one evaluation from the noised block mean, by a prior trained against attacks through itself",
            (Restoration("restoration", MeanPool(2), steps=1, eta=0.0, sigma_y=0.1, start_sigma=0.1, end_sigma=0.1),),
            prior=PURIFIER,
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


def chosen_preset(spec: str) -> Preset:
    """The preset of that name, or the one in a profile, a ``.toml`` file.

    A profile holds ``preset = "paper"`` and, in a table ``[settings]``, what differs from it. Raises
    ``SettingError`` for an unknown name or setting, ``ProfileError`` for a file that cannot be read.
    """
    if not spec.endswith(".toml"):
        return preset(spec)
    profile = read_toml(Path(spec), ProfileError)
    unknown = sorted(profile.keys() - {"preset", "settings", "reason"})
    settings = profile.get("settings", {})
    if unknown or not isinstance(profile.get("preset"), str) or not isinstance(settings, dict):
        raise SettingError(
            'a profile has preset = "..." and a table [settings]' + (f", not {unknown[0]}" if unknown else ""), spec
        )
    try:
        return preset(profile["preset"]).changed(**settings)
    except SettingError as error:
        raise error.at(spec)  # noqa: B904  the same error
    except TypeError as error:  # a setting of another type
        raise SettingError(one_line(error), spec) from error
