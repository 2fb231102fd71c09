"""The named presets: data that says which restorations a purifier makes, to be changed, printed and stored."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from facesieve.errors import ProfileError, SettingError, one_line
from facesieve.files import read_toml
from facesieve.limits import resolution_scale
from facesieve.operators import OPERATORS, Grey, MeanPool, Operator, grey_mean_pool
from facesieve.priors import Prior
from facesieve.priors.embedded import BALANCED, PRIOR, PURIFIER
from facesieve.purify.purifier import Purifier
from facesieve.purify.restoration import Restoration, RestorationStage
from facesieve.specs import in_use


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
            scale = resolution_scale(scale)
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


def once(operator: Operator, sigma: float) -> Restoration:
    """One evaluation of the prior, of what is observed under noise of level ``sigma`` (images in [-1, 1])."""
    return Restoration("restoration", operator, steps=1, eta=0.0, sigma_y=sigma, start_sigma=sigma, end_sigma=sigma)


NAMES = {"name", "summary", "prior"}  # of a preset that a profile may change

SUPER_RESOLUTION = Restoration("super-resolution", MeanPool(2))
COLORIZATION = Restoration("colorization", Grey())

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        # The strongest of 0.02, 0.05, 0.1 and, over 2 x 2 blocks, 0.05 that loses at most half a point of clean accuracy on
        # SFace and on dlib: experiments/choosing_gentle.py, photographs that are in no test.
        Preset("gentle", "one evaluation of the prior from the slightly noised photograph", (once(MeanPool(1), 0.05),)),
        # Halfway between the two around it, weights as well: of eight mixtures a strong one that on the same photographs left
        # some room below a point lost on SFace and one and a half on dlib.
        Preset(
            "balanced",
            "one evaluation from the noised block mean, by the mean of the prior and the one that `robust` has",
            (once(MeanPool(2), 0.075),),
            prior=BALANCED,
        ),
        Preset(
            "robust",
            "one evaluation from the noised block mean, by a prior trained against attacks through itself",
            (once(MeanPool(2), 0.1),),
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


def figures(name: str) -> dict[str, str]:
    """What was measured of a preset that ships, in words; what is not in it was not measured.

    ``clean_lost``, ``unaware`` and ``aware``: accuracy on SFace / dlib, percent, see ``facesieve presets``; ``ms`` a face.
    """
    known: dict[str, dict[str, str]] = json.loads((files("facesieve") / "purify" / "figures.json").read_text("utf-8"))
    return known.get(name, {})


def preset(name: str) -> Preset:
    """The preset of that name. Raises ``SettingError`` for an unknown one, and for one that went, with its successor."""
    if in_use(name) not in PRESETS:
        raise SettingError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


def chosen_preset(spec: str) -> Preset:
    """The preset of that name, or the one in a profile, a ``.toml`` file.

    A profile holds ``preset = "paper"`` and, in a table ``[settings]``, what differs from it in every restoration. It
    may give the result a ``name`` of its own, a ``summary``, and as ``prior`` the name of the weights it is made for.
    Raises ``SettingError`` for an unknown name or setting, ``ProfileError`` for a file that cannot be read.
    """
    if not spec.endswith(".toml"):
        return preset(spec)
    profile = read_toml(Path(spec), ProfileError)
    settings = profile.pop("settings", {})
    unknown = sorted(profile.keys() - {"preset", "reason", *NAMES})
    words = all(isinstance(value, str) for value in profile.values())
    if unknown or not words or "preset" not in profile or not isinstance(settings, dict):
        raise SettingError(
            'a profile has preset = "..." and a table [settings]' + (f", not {unknown[0]}" if unknown else ""), spec
        )
    try:
        changed = preset(profile["preset"]).changed(**settings)
    except SettingError as error:
        raise error.at(spec)  # noqa: B904  the same error
    except TypeError as error:  # a setting of another type
        raise SettingError(one_line(error), spec) from error
    return replace(changed, **{key: profile[key] for key in NAMES & profile.keys()})
