"""The whole shield for one photograph: find the faces, purify them, put them back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from facesieve import hardware
from facesieve.errors import InputError, NoFaceError, SettingError
from facesieve.faces import Detector, Face, align, paste
from facesieve.images import Photo, to_tensor
from facesieve.priors.embedded import embedded_prior_folder
from facesieve.purify import Preset, Purifier, RestorationStage, Stage, fresh_seeds
from facesieve.purify import preset as preset_named
from facesieve.toml_file import read_toml


@dataclass(frozen=True, eq=False)
class Shield:
    """A purifier with what it needs around it. ``load_shield`` makes one."""

    preset: Preset
    purifier: Purifier
    size: int  # side of the prior's images, pixels
    prior_sha256: str
    path: hardware.Path
    detector: Detector = field(default_factory=Detector)
    own_prior: bool = False  # a prior that was given, and stays whatever the preset

    @cached_property
    def label(self) -> str:
        """What a gallery remembers this purifier by: the preset's name, and a hash of all its settings and its prior."""
        made_from = json.dumps([self.preset.as_dict()["restorations"], self.prior_sha256], sort_keys=True)
        return f"{self.preset.name}-{hashlib.sha256(made_from.encode()).hexdigest()[:12]}"

    def with_preset(self, preset: Preset) -> Shield:
        """This shield with another preset; its prior stays, unless both are presets' own and differ.

        Raises ``SettingError`` where the stages are not a preset's.
        """
        if not self.own_prior and preset.prior != self.preset.prior:
            return replace(_loaded(preset, None, self.path), detector=self.detector)
        stage = self.purifier.stages[0]
        if not isinstance(stage, RestorationStage):
            raise SettingError("this shield's stages are of its own: there is no prior to go with another preset")
        return replace(self, preset=preset, purifier=preset.with_prior(stage.prior))

    def faces(self, photo: Photo) -> list[Face]:
        """The faces in a photo, largest first. Raises ``NoFaceError`` if there is none."""
        found = self.detector.detect(photo)
        if not found:
            raise NoFaceError("no face found; if the image is an aligned face crop already, use --aligned")
        return found

    def crop(self, photo: Photo, face: Face) -> Tensor:
        """The aligned crop of a face, (3, size, size) in [0, 1]."""
        return align(photo, face, self.size)

    def aligned_crop(self, photo: Photo) -> Tensor:
        """A photo that is an aligned crop already, resized to (3, size, size). Raises ``InputError`` if not square."""
        height, width = photo.shape[:2]
        if abs(height - width) > 0.02 * max(height, width):
            raise InputError(f"an aligned crop is square, this image is {width} x {height}; leave --aligned out to find its face")
        image = to_tensor(photo)[None]
        return functional.interpolate(image, (self.size, self.size), mode="bilinear", antialias=True)[0]

    @torch.inference_mode()
    def trace(self, crops: Tensor, seeds: Sequence[int] | None = None) -> list[tuple[Stage, Tensor]]:
        """Purify aligned crops (B, 3, size, size) in [0, 1] without gradients: each stage's result, on the CPU."""
        stages = self.purifier.trace(crops.to(self.path.device), seeds=seeds)
        return [(stage, result.cpu()) for stage, result in stages]

    def purify(self, photo: Photo, *, seeds: Sequence[int] | None = None) -> tuple[Photo, list[Face]]:
        """The photo with every face purified and put back, and the faces.

        ``seeds`` holds one for each face, largest first; fresh ones if not given. Raises
        ``NoFaceError`` for a photo without a face.
        """
        faces = self.faces(photo)
        seeds = fresh_seeds(len(faces)) if seeds is None else seeds
        purified = self.trace(torch.stack([self.crop(photo, face) for face in faces]), seeds)[-1][1]
        for face, crop in zip(faces, purified, strict=True):
            photo = paste(photo, crop, face)
        return photo, faces


def chosen_preset(spec: str) -> Preset:
    """The preset of that name, or the one in a profile, a ``.toml`` file that ``facesieve calibrate`` writes.

    A profile holds ``preset = "paper"`` and, in a table ``[settings]``, what differs from it. Raises
    ``SettingError`` for an unknown name or setting, ``InputError`` for a file that cannot be read.
    """
    if not spec.endswith(".toml"):
        return preset_named(spec)
    profile = read_toml(Path(spec), "`facesieve calibrate` writes a profile")
    unknown = sorted(profile.keys() - {"preset", "settings", "reason"})
    settings = profile.get("settings", {})
    if unknown or not isinstance(profile.get("preset"), str) or not isinstance(settings, dict):
        raise SettingError(
            f'{spec}: a profile has preset = "..." and a table [settings]' + (f", not {unknown[0]}" if unknown else "")
        )
    try:
        return preset_named(profile["preset"]).changed(**settings)
    except (SettingError, TypeError) as error:
        raise SettingError(f"{spec}: {error}") from error


def load_shield(
    preset: str | Preset = "fast",
    *,
    prior: Path | str | None = None,
    device: str = "auto",
    precision: str = "auto",
) -> Shield:
    """A shield with the named or given preset (or a profile's) and the prior in the folder ``prior`` (the preset's own if None).

    ``precision`` is ``auto``, ``fp32`` or ``bf16``. Raises ``SettingError`` or ``PriorError``.
    """
    chosen = chosen_preset(preset) if isinstance(preset, str) else preset
    return _loaded(chosen, prior, hardware.choose_path(device, precision))


def _loaded(preset: Preset, prior: Path | str | None, path: hardware.Path) -> Shield:
    from facesieve.priors.folder import load_prior, prior_hash

    folder = embedded_prior_folder(preset.prior) if prior is None else Path(prior)
    loaded = load_prior(folder, device=str(path.device), dtype=path.dtype)
    purifier = preset.with_prior(loaded)
    return Shield(preset, purifier, loaded.shape[-1], prior_hash(folder), path, own_prior=prior is not None)
