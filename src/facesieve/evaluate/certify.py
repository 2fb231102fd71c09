"""Certificates on labelled photographs: how many names no attacker of a given strength can change, whatever he knows.

run/
    certify.json        the settings; a run resumes with the same ones alone, or with further strengths and sizes
    manifest.json       every image, its hash and its role
    votes.jsonl         what was found of each image, as it was found
    certificates.json   the figures, with certificates.md and certificates.svg
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from facesieve.data.crops import LabelledCrops, aligned_crops, of_role
from facesieve.data.manifest import Manifest, save_manifest
from facesieve.data.sources import Source
from facesieve.defences.masking import DoubleMasking, Masks
from facesieve.defences.smoothing import Namer, noised_and_denoised, votes
from facesieve.errors import InputError, SettingError
from facesieve.evaluate.claim import differences
from facesieve.evaluate.recogniser import enrolled
from facesieve.evaluate.run import round_robin
from facesieve.files import write_with_folder
from facesieve.hardware import choose_hardware
from facesieve.images import to_floats
from facesieve.metrics.certificates import radius
from facesieve.metrics.intervals import Means
from facesieve.noise import derive_seed
from facesieve.priors import Prior
from facesieve.priors.embedded import embedded_prior_folder
from facesieve.priors.folder import load_prior, prior_hash
from facesieve.progress import Report, Work, silent
from facesieve.recognition.embedders import load_embedder
from facesieve.recognition.templates import mean_templates
from facesieve.weights import read_json

Key = tuple[Any, ...]  # what was tried on which image
Line = dict[str, Any]  # what was found
Row = dict[str, Any]
ADDED = {"sigmas", "patches"}  # settings that a run in the same folder may have others of: each is found apart
SIZE = 128  # pixels of a crop
RADII = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5)  # L2, of pixels in [0, 1]


class Settings(BaseModel):
    """What a run depends on, beside its data and its weights."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    embedders: tuple[str, ...] = ("sface",)
    sigmas: tuple[Annotated[float, Field(gt=0, le=2)], ...] = (0.06, 0.12, 0.25, 0.5)  # of pixels in [0, 1]
    first: int = Field(default=32, ge=1)  # draws that choose the person
    draws: int = Field(default=1000, ge=1)  # draws that are counted
    alpha: float = Field(default=0.001, gt=0, lt=1)  # that a certificate is wrong, each
    patches: tuple[Annotated[float, Field(gt=0, lt=0.5)], ...] = ()  # parts of the crop's area
    across: int = Field(default=6, ge=2, le=20)  # masks along a side
    templates: int = Field(default=10, ge=1)  # training images of each person
    probes: int | None = Field(default=None, ge=1)  # the first so many of the test images, people in turn; None: all
    seed: int = 0


def certify(
    settings: Settings,
    manifest: Manifest,
    source: Source,
    out: Path,
    *,
    report: Report = silent,
    command: str = "facesieve certify",
) -> dict[str, Any]:
    """Find what is certified, and return the figures, which ``certificates.json`` holds as well. Resumable.

    Raises ``SettingError`` where the folder holds another run, ``InputError`` for data that is not the manifest's.
    """
    run = _Run(settings, manifest, source, out)
    work = Work(report, len(run.labels) * (len(settings.sigmas) + len(settings.patches) * len(settings.embedders)))
    run.smoothed(work)
    run.masked(work)
    figures = {"command": command, **run.about, "rows": figures_of(settings, run.lines, run.labels)}
    write_with_folder(out / "certificates.json", (json.dumps(figures, indent=1) + "\n").encode())
    return figures


class _Run:
    """One run in one folder, to which further strengths of noise and sizes of patches may be added."""

    def __init__(self, settings: Settings, manifest: Manifest, source: Source, out: Path) -> None:
        self.settings = settings
        hashes = {"prior_sha256": prior_hash(embedded_prior_folder()), "data_sha256": manifest.sha256}
        self.about = {**hashes, **settings.model_dump(mode="json")}
        crops = aligned_crops(manifest, source, out / "cache", SIZE)
        self._enrolled = enrolled(of_role(manifest, crops, "train"), settings.templates, "templates")
        test = of_role(manifest, crops, "test")
        order = round_robin(test.labels)[: settings.probes]
        self.images, self.labels = torch.from_numpy(to_floats(test.images[order])), test.labels[order]
        self._claim(out / "certify.json")
        save_manifest(out / "manifest.json", manifest)
        self._file = out / "votes.jsonl"
        self.lines = _finished(self._file)

    def _claim(self, path: Path) -> None:
        there = read_json(path, InputError) if path.exists() else self.about
        held, wanted = ({key: value for key, value in each.items() if key not in ADDED} for each in (there, self.about))
        if what := "; ".join(differences(held, wanted)):
            raise SettingError(f"holds a run with other settings, data or weights: {what}", path.parent, "choose another folder")
        write_with_folder(path, (json.dumps(self.about, indent=1) + "\n").encode())

    def smoothed(self, work: Work) -> None:
        """Votes under noise of each strength, of all recognisers on the same draws."""
        settings = self.settings
        for sigma in settings.sigmas:
            names: list[Namer] | None = None
            for place, crop in enumerate(self.images):
                if ("sigma", sigma, place) not in self.lines:
                    names = names or self._behind_noise(sigma)
                    seed = derive_seed(settings.seed, "certify", sigma, place)
                    found = votes(self._prior, names, crop, sigma, first=settings.first, draws=settings.draws, seed=seed)
                    counts = {e: [v.top, v.count] for e, v in zip(settings.embedders, found, strict=True)}
                    self._keep(("sigma", sigma, place), counts)
                work.done(1, f"noise of {sigma:g}")

    def masked(self, work: Work) -> None:
        """Names and certificates of double masking, for each size of a patch."""
        for embedder in self.settings.embedders:
            namer: Namer | None = None
            for area in self.settings.patches:
                masks = Masks(SIZE, patch_side(area), self.settings.across)
                for place, crop in enumerate(self.images):
                    if ("patch", area, place, embedder) not in self.lines:
                        namer = namer or _nearest(embedder, torch.from_numpy(to_floats(self._enrolled.images)), self._enrolled)
                        own, masking = int(self.labels[place]), DoubleMasking(namer, masks)
                        name, calls = masking.named(crop), masking.calls
                        certified = masking.is_certified(crop, own)
                        found = {"bare": int(namer(crop[None])[0]), "name": name, "calls": calls, "certified": certified}
                        self._keep(("patch", area, place, embedder), {**found, "all_calls": masking.calls - calls})
                    work.done(1, f"patch of {100 * area:g} %")

    @cached_property
    def _prior(self) -> Prior:
        hardware = choose_hardware()
        return load_prior(embedded_prior_folder(), device=str(hardware.device), dtype=hardware.dtype)

    def _behind_noise(self, sigma: float) -> list[Namer]:
        """Recognisers whose templates are of photographs that went through the same noise and denoiser, once each."""
        generator = torch.Generator().manual_seed(derive_seed(self.settings.seed, "templates", sigma))
        crops = torch.from_numpy(to_floats(self._enrolled.images))
        behind = torch.cat([clean for crop in crops for clean in noised_and_denoised(self._prior, crop, sigma, 1, generator)])
        return [_nearest(embedder, behind, self._enrolled) for embedder in self.settings.embedders]

    def _keep(self, key: Key, found: Line) -> None:
        self.lines[key] = found
        with self._file.open("a") as file:
            file.write("\n" + json.dumps([key, found]))  # in front: the line before may have been cut off


def _nearest(embedder: str, crops: Tensor, of: LabelledCrops) -> Namer:
    recogniser = load_embedder(embedder)
    means = mean_templates(recogniser.rows(crops.numpy()), of.labels)
    return lambda shown: (recogniser.rows(shown.numpy()) @ means.T).argmax(1)


def _finished(file: Path) -> dict[Key, Line]:
    """What was kept; a last line that was cut off is found again."""
    lines: dict[Key, Line] = {}
    for text in file.read_text().splitlines() if file.exists() else ():
        with suppress(ValueError):
            key, found = json.loads(text)
            lines[tuple(key)] = found
    return lines


def patch_side(area: float) -> int:
    """Pixels of a side of the square patch of at least this part of a crop."""
    return math.ceil(SIZE * math.sqrt(area) - 1e-9)


# --- figures -----------------------------------------------------------------------------------------


def figures_of(settings: Settings, lines: Mapping[Key, Line], labels: NDArray[np.int64]) -> list[Row]:
    """A row for each recogniser and strength; shares are of all images, with 95 % intervals over people."""
    means, each = Means(labels), settings.embedders
    rows = [_smoothed_row(settings, lines, labels, means, embedder, sigma) for embedder in each for sigma in settings.sigmas]
    return rows + [_masked_row(lines, labels, means, embedder, area) for embedder in each for area in settings.patches]


def _smoothed_row(
    settings: Settings, lines: Mapping[Key, Line], labels: NDArray[np.int64], means: Means, embedder: str, sigma: float
) -> Row:
    found = [lines["sigma", sigma, place][embedder] for place in range(len(labels))]
    radii = np.array([radius(count, settings.draws, sigma, settings.alpha) for _, count in found])
    right = np.array([top for top, _ in found]) == labels
    curve = {at: _share(right & (radii >= at) & (radii > 0), means) for at in RADII}
    return {
        "recogniser": embedder, "sigma": sigma, "abstained": int((radii == 0).sum()), "n": len(labels),
        "radii": sorted(round(float(one), 4) for one in radii[right & (radii > 0)]),
        "certified": {f"{at:g}": share for at, share in curve.items()},
    }  # fmt: skip


def _masked_row(lines: Mapping[Key, Line], labels: NDArray[np.int64], means: Means, embedder: str, area: float) -> Row:
    found = [lines["patch", area, place, embedder] for place in range(len(labels))]
    row = {what: _share(np.array([line[what] for line in found]) == labels, means) for what in ("bare", "name")}
    certified = _share(np.array([line["certified"] for line in found]), means)
    calls = {what: float(np.mean([line[what] for line in found])) for what in ("calls", "all_calls")}
    return {
        "recogniser": embedder,
        "patch": area,
        "side": patch_side(area),
        "n": len(labels),
        **row,
        "certified": certified,
        **calls,
    }


def _share(hits: NDArray[np.bool_], means: Means) -> list[float]:
    """Its value, and both ends of its interval."""
    share = means.share(hits)
    return [round(value, 4) for value in (share.value, share.low, share.high)]
