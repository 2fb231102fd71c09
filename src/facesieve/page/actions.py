"""What the page does with a photograph: purify it, say who it is before and after, attack it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import torch
from torch import Tensor

from facesieve.attacks.gradient import pgd
from facesieve.attacks.objectives import Objective, PullToward, PushAway
from facesieve.errors import GalleryError, InputError, SettingError, many
from facesieve.faces import FaceCrops
from facesieve.files import sha256_of_file
from facesieve.galleries.base import RAW, Gallery
from facesieve.identification import CROP, Identifier
from facesieve.images import Photo, encode_photo, read_photo, to_photo
from facesieve.limits import whole_number
from facesieve.noise import fresh_seeds
from facesieve.pictures import columns
from facesieve.progress import Progress, Report
from facesieve.purify import PRESETS
from facesieve.purify import preset as preset_named
from facesieve.recognition import Embedder
from facesieve.recognition.embedder import differentiable
from facesieve.recognition.tampering import tamper_scores
from facesieve.recognition.templates import mean_template
from facesieve.rows import Rows
from facesieve.runtime import Trace
from facesieve.shield import Shield
from facesieve.specs import MAX_PIXELS

STEP = 1 / 255  # of the playground's attack
MAX_EPS, MAX_STEPS = 16, 40  # of the playground's attack: levels of 255, iterations
MAX_FACES = 8  # of a photograph, the largest
MAX_PEOPLE = 200  # of a gallery, named in a list
MAX_FILES = 200  # of a folder


@dataclass(frozen=True)
class Named:
    """Who in the gallery is nearest to a face; ``person`` None where there is no gallery."""

    what: str  # which picture of the face: "as it came", "attacked", "purified"
    person: str | None
    score: float | None  # cosine
    known: bool | None  # whether the threshold is reached; None where there is none for such faces
    templates: str | None = None  # the purifier label of the templates that were searched; None where there is no gallery
    default: float | None = None  # the threshold, where nobody has chosen one and the recogniser's default decides


@dataclass(frozen=True, eq=False)
class Shown:
    """What is shown of a photograph. Pictures are ``uint8`` RGB (H, W, 3)."""

    before: Photo
    after: Photo  # secure: the one that may be identified from
    steps: list[tuple[Photo, str]]  # each step of each face, with its title
    names: list[list[Named]]  # of each face, largest first
    tamper: list[float]  # tamper score of each face
    shortfall: str | None = None  # why raw templates were searched though there is a shield
    detail: Photo | None = None  # for people; None where the pictures are of an aligned face
    preset: str = ""
    left: str | None = None  # what was, or may be, a face and is as it was, in words


@dataclass(frozen=True)
class Settings:
    """How the shield is set: ``preset`` by name, ``scale`` None for the preset's, ``seed`` None for secret noise."""

    preset: str
    scale: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Attack:
    """PGD on the recogniser alone: ``eps`` in levels of 255; to be taken for ``victim``, or for anybody else if None."""

    eps: float
    steps: int
    victim: str | None = None

    def __post_init__(self) -> None:
        if not 0 < self.eps <= MAX_EPS:
            raise SettingError(f"ε {self.eps:g}: above 0, at most {MAX_EPS} levels of 255")
        if not 1 <= self.steps <= MAX_STEPS:
            raise SettingError(f"{self.steps} steps: 1 to {MAX_STEPS}")


class Actions:
    """Shield, recogniser and gallery of one page; one call at a time, others wait."""

    def __init__(self, embedder: Embedder, shield: Shield, gallery: Gallery | None, *, max_pixels: int = MAX_PIXELS) -> None:
        if gallery is not None:
            Identifier(embedder).check(gallery)
        self.embedder, self.gallery, self._shield = embedder, gallery, shield
        self._max_pixels = whole_number(max_pixels, "max-pixels", 256)
        self._lock = threading.Lock()

    @property
    def preset(self) -> str:
        """The name of the preset that the page starts with."""
        return self._shield.card.name

    @property
    def presets(self) -> list[str]:
        """The names of the presets to choose from."""
        return list(dict.fromkeys([*PRESETS, self.preset]))

    @property
    def people(self) -> list[str]:
        """Everyone that the gallery knows, the first ``MAX_PEOPLE`` by name."""
        if self.gallery is None:
            return []
        with self._lock:
            kind = Identifier(self.embedder, self._shield.card.label).kind(self.gallery)
            known = [entry.person for entry in self.gallery.people() if kind in entry.templates]
        return known[:MAX_PEOPLE]

    def purify(self, path: Path | None, settings: Settings, report: Report) -> Shown:
        """The faces of a photograph purified, the ``MAX_FACES`` largest.

        Raises ``InputError``, ``NoFaceError`` or ``SettingError``, one line each.
        """
        with self._lock:
            shield, found = self._cut(path, settings, report)
            before = found.first(MAX_FACES)
            what = f"purifying {len(before)} {'face' if len(before) == 1 else 'faces'}, evaluation"
            trace = shield.runtime.purify(before.crops, before.seeds(settings.seed), _part(report, what, 0.3, 0.9))
            report(Progress(0.9, 1, "asking who it is"))
            kinds = [("as it came", RAW, self._raw(before)), ("purified", shield.card.label, self.embedder.rows(trace.crops))]
            smaller = [f"{many(len(found) - MAX_FACES, 'smaller face')}"] if len(found) > MAX_FACES else []
            left = [*smaller, *([before.doubt] if before.doubt else [])]
            return replace(self._shown(before, trace, kinds), left=" and ".join(left) or None)

    def purify_all(self, paths: Sequence[Path], settings: Settings, report: Report) -> tuple[bytes, list[str], list[str]]:
        """Every photograph purified, as an archive of PNG files.

        And a line for each that could not be, which is left out, and for each with possible faces that were not purified.
        Raises ``InputError`` where there is none, too many, or where none could be purified.
        """
        if not 0 < len(paths) <= MAX_FILES:
            raise InputError(f"{many(len(paths), 'photograph')} in this folder: choose one with 1 to {MAX_FILES}")
        packed, failures, doubts = BytesIO(), list[str](), list[str]()
        with self._lock, ZipFile(packed, "w") as archive:
            for number, path in enumerate(paths):
                report(Progress(number, len(paths), f"photograph {number + 1} of {len(paths)}"))
                try:
                    shield, before = self._cut(path, settings, lambda _: None)
                    after = shield.restore(before, before.seeds(settings.seed))
                    archive.writestr(f"{number + 1:03d}-{path.stem}.png", encode_photo(after.paste(), "png"))
                    doubts += [f"{path.name}: {before.doubt}"] if before.doubt else []
                except InputError as error:
                    failures.append(str(error.at(path.name)))
        if len(failures) == len(paths):
            raise InputError(f"none could be purified: {failures[0]}" + (", and others" if len(failures) > 1 else ""))
        return packed.getvalue(), failures, doubts

    def attack(self, path: Path | None, attack: Attack, settings: Settings, report: Report) -> Shown:
        """The largest face attacked, then purified; the pictures are of the aligned face.

        Raises as ``purify``, ``GalleryError`` for a victim whom the gallery does not know, and ``EmbedderError`` for a
        recogniser that gives no gradients.
        """
        with self._lock:
            shield, found = self._cut(path, settings, report)
            clean = FaceCrops.whole(to_photo(found.first(1).at(CROP).crops[0]), CROP)
            raw = self._raw(clean)
            goal = self._objective(raw, attack.victim, shield.card.label)
            made = _attacked(clean, attack, goal, _part(report, "attacking, step", 0.1, 0.6))
            attacked = FaceCrops.whole(made, shield.card.size)
            what = _part(report, "purifying, evaluation", 0.6, 0.9)
            trace = shield.runtime.purify(attacked.crops, attacked.seeds(settings.seed), what)
            report(Progress(0.9, 1, "asking who it is"))
            kinds = [
                ("as it came", RAW, raw),
                ("attacked", RAW, self._raw(attacked)),
                ("purified", shield.card.label, self.embedder.rows(trace.crops)),
            ]
            return self._shown(attacked, trace, kinds)

    def _cut(self, path: Path | None, settings: Settings, report: Report) -> tuple[Shield, FaceCrops]:
        if path is None:
            raise InputError("no photograph chosen yet", advice="drop one, or take a sample")
        photo = read_photo(path, max_pixels=self._max_pixels, name=path.name)
        report(Progress(0.05, 1, "looking for faces"))
        shield = self._with(settings)
        return shield, shield.cut(photo, sha256=sha256_of_file(path))

    def _with(self, settings: Settings) -> Shield:
        """The shield with these settings; its network stays, unless the preset has a prior of its own."""
        if settings.preset == self.preset and settings.scale is None:
            return self._shield  # whatever its runtime
        begun = self._shield.torch_runtime.preset
        chosen = (begun if settings.preset == begun.name else preset_named(settings.preset)).changed(scale=settings.scale)
        return self._shield if chosen == begun else self._shield.with_preset(chosen)

    def _raw(self, faces: FaceCrops) -> Rows:
        return Identifier(self.embedder).raw_rows(faces)

    def _objective(self, raw: Rows, victim: str | None, purifier: str) -> Objective:
        """To be taken for ``victim``, or for anybody but the person of ``raw`` (1, D).

        The templates aimed at are those that are searched behind ``purifier``.
        """
        embedder = differentiable(self.embedder)
        if self.gallery is None:
            if victim is not None:
                raise InputError("there is no gallery, so nobody to be taken for")
            return PushAway(embedder, torch.from_numpy(raw))  # the start is random, so that it has a slope
        kind = Identifier(self.embedder, purifier).kind(self.gallery)
        if victim is not None:
            return PullToward(embedder, _template(self.gallery, victim, kind))
        own = self.gallery.search(raw, kind=kind, count=1)[0][0].person
        return PushAway(embedder, _template(self.gallery, own, kind))

    def _shown(self, before: FaceCrops, trace: Trace, kinds: Sequence[tuple[str, str, Rows]]) -> Shown:
        """``kinds``: what each picture of the faces is, its purifier's label, its embeddings; the purified ones last."""
        names = [[self._named(what, rows[[face]], label) for what, label, rows in kinds] for face in range(len(before))]
        (*_, (_, _, raw), (_, label, purified)) = kinds
        after = before.with_crops(trace.crops)
        short = None if self.gallery is None else Identifier(self.embedder, label).shortfall(self.gallery)
        detail, steps = None if before.aligned else after.paste("detail"), _steps(before, trace)
        return Shown(
            before.photo, after.paste(), steps, names, tamper_scores(raw, purified), short, detail, label.rpartition("-")[0]
        )

    def _named(self, what: str, row: Rows, purifier: str) -> Named:
        if self.gallery is None:
            return Named(what, None, None, None)
        identifier = Identifier(self.embedder, purifier)
        kind = identifier.kind(self.gallery)
        try:
            found = self.gallery.search(row, kind=kind, count=1)[0][0]
        except GalleryError:  # somebody has no templates of this kind
            return Named(what, None, None, None)
        value, origin = identifier.threshold(self.gallery)
        default = value if origin == "default" else None
        return Named(what, found.person, found.score, None if value is None else found.score >= value, kind, default)


def _steps(before: FaceCrops, trace: Trace) -> list[tuple[Photo, str]]:
    """Each face, then each step of its purification."""
    shown = columns(before.crops, trace)
    which = [""] if len(before) == 1 else [f"face {number}: " for number in range(1, len(before) + 1)]
    return [(to_photo(one.images[face]), f"{name}{one.title}") for face, name in enumerate(which) for one in shown]


def _attacked(clean: FaceCrops, attack: Attack, objective: Objective, report: Report) -> Photo:
    """The face as it is after the attack."""
    goal, images = _counted(objective, attack.steps, report), torch.from_numpy(clean.crops)
    made = pgd(goal, images, eps=attack.eps / 255, step=STEP, iterations=attack.steps, seeds=fresh_seeds(1))
    return to_photo(made[0])


def _template(gallery: Gallery, person: str, kind: str) -> Tensor:
    return torch.from_numpy(mean_template(gallery.templates_of(person, kind=kind))[None])


def _part(report: Report, what: str, begin: float, end: float) -> Report:
    """Reports work that is ``begin`` to ``end`` of the whole: ``what`` with its number, of how many."""

    def told(one: Progress) -> None:
        share = begin + (end - begin) * one.done / one.total
        report(Progress(share, 1, f"{what} {one.done + 1:g} of {one.total:g}"))

    return told


def _counted(objective: Objective, total: int, report: Report) -> Objective:
    """The same objective, which reports at each call how many there were."""
    calls = itertools.count()

    def counting(images: Tensor) -> Tensor:
        report(Progress(next(calls), total))
        return objective(images)

    return counting
