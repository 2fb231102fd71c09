"""What the page does with a photograph: purify it, say who it is before and after, attack it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from facesieve.attacks.gradient import pgd
from facesieve.attacks.objectives import Objective, PullToward, PushAway
from facesieve.attacks.quantise import as_uint8
from facesieve.errors import GalleryError, InputError, NoFaceError, SettingError
from facesieve.faces import Face, align, paste
from facesieve.galleries.base import RAW, Gallery
from facesieve.identification import CROP, Identifier
from facesieve.images import Photo, read_photo, to_photo
from facesieve.noise import derive_seed, fresh_seeds
from facesieve.pictures import columns, sheet
from facesieve.priors import Prior
from facesieve.purify import PRESETS, RestorationStage
from facesieve.purify import preset as preset_named
from facesieve.recognition import Embedder
from facesieve.recognition.crops import resized
from facesieve.shield import Shield

Say = Callable[[float, str], None]  # how far, 0 to 1, and what is done now
STEP = 1 / 255  # of the playground's attack
MAX_EPS, MAX_STEPS = 16, 40  # of the playground's attack: levels of 255, iterations
MAX_FACES = 8  # of a photograph, the largest
MAX_PEOPLE = 200  # of a gallery, named in a list


@dataclass(frozen=True)
class Named:
    """Who in the gallery is nearest to a face; ``person`` None where there is no gallery."""

    what: str  # which picture of the face: "as it came", "attacked", "purified"
    person: str | None
    score: float | None  # cosine
    known: bool | None  # whether the gallery's threshold is reached; None where it was not calibrated for such faces


@dataclass(frozen=True, eq=False)
class Shown:
    """What is shown of a photograph. Pictures are ``uint8`` RGB (H, W, 3)."""

    before: Photo
    after: Photo
    steps: Photo  # each face a row, each step a column
    names: list[list[Named]]  # of each face, largest first
    tamper: list[float]  # tamper score of each face


class Studio:
    """Shield, recogniser and gallery of one page; one call at a time, others wait."""

    def __init__(self, embedder: Embedder, shield: Shield, gallery: Gallery | None) -> None:
        if gallery is not None:
            Identifier(embedder).check(gallery)
        self.embedder, self.gallery, self._shield = embedder, gallery, shield
        self._lock = threading.Lock()

    @property
    def preset(self) -> str:
        """The name of the preset that the page begins with."""
        return self._shield.preset.name

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
            known = [entry.person for entry in self.gallery.people() if RAW in entry.templates]
        return known[:MAX_PEOPLE]

    def purify(self, path: Path | None, preset: str, scale: int | None, seed: int | None, say: Say) -> Shown:
        """The faces of a photograph purified, the ``MAX_FACES`` largest.

        ``preset`` is one of ``presets``, ``scale`` None the preset's; ``seed`` None draws secret noise.
        Raises ``InputError``, ``NoFaceError`` or ``SettingError``, one line each.
        """
        with self._lock:
            photo = _read(path)
            say(0.1, "looking for faces")
            shield = self._with(preset, scale)
            faces = _faces(shield, photo)[:MAX_FACES]
            crops = torch.stack([shield.crop(photo, face) for face in faces])
            raw = torch.from_numpy(Identifier(self.embedder, shield).raw_rows(photo, faces))
            what = f"purifying {len(faces)} {'face' if len(faces) == 1 else 'faces'}"
            stages = _watched(shield, what, say, 0.3, 0.9).trace(crops, _seeds(seed, len(faces)))
            purified = stages[-1][1]
            say(0.9, "asking who it is")
            after = photo
            for face, crop in zip(faces, purified, strict=True):
                after = paste(after, crop, face)
            rows = self._embed(purified)
            names = [
                [self._named("as it came", one, RAW), self._named("purified", other, shield.label)]
                for one, other in zip(raw, rows, strict=True)
            ]
            return Shown(photo, after, sheet(columns(crops, stages)), names, (1 - (raw * rows).sum(1)).tolist())

    def attack(
        self,
        path: Path | None,
        eps: float,
        steps: int,
        victim: str | None,
        preset: str,
        scale: int | None,
        seed: int | None,
        say: Say,
    ) -> Shown:
        """The largest face attacked by PGD on the recogniser alone, then purified; the pictures are of the aligned face.

        ``eps`` is in levels of 255. With a ``victim`` the face is to be taken for that person, without one for
        anybody but the person whom it is nearest to. Raises as ``purify``, and ``GalleryError`` for a victim
        whom the gallery does not know.
        """
        if not 0 < eps <= MAX_EPS:
            raise SettingError(f"ε {eps:g}: above 0, at most {MAX_EPS} levels of 255")
        if not 1 <= steps <= MAX_STEPS:
            raise SettingError(f"{steps} steps: 1 to {MAX_STEPS}")
        with self._lock:
            photo = _read(path)
            say(0.05, "looking for the face")
            shield = self._with(preset, scale)
            face = _faces(shield, photo)[0]
            clean = as_uint8(align(photo, face, CROP)[None])
            goal = _counted(
                self._objective(clean, victim), lambda n: say(0.1 + 0.5 * n / steps, f"attacking, step {n} of {steps}")
            )
            attacked = as_uint8(pgd(goal, clean, eps=eps / 255, step=STEP, iterations=steps, seeds=fresh_seeds(1)))
            small = resized(attacked, shield.size)
            stages = _watched(shield, "purifying", say, 0.6, 0.9).trace(small, _seeds(seed, 1))
            purified = stages[-1][1]
            say(0.9, "asking who it is")
            rows = self._embed(torch.cat([clean, attacked])), self._embed(purified)
            names = [
                self._named("as it came", rows[0][0], RAW),
                self._named("attacked", rows[0][1], RAW),
                self._named("purified", rows[1][0], shield.label),
            ]
            tamper = float(1 - rows[0][1] @ rows[1][0])
            return Shown(to_photo(attacked[0]), to_photo(purified[0]), sheet(columns(small, stages)), [names], [tamper])

    def _objective(self, clean: Tensor, victim: str | None) -> Objective:
        if self.gallery is None:
            if victim is not None:
                raise InputError("there is no gallery, so nobody to be taken for")
            return PushAway(self.embedder, self._embed(clean))  # away from itself: the start is random, and has a slope
        if victim is not None:
            return PullToward(self.embedder, self._template(victim))
        return PushAway(self.embedder, self._template(self._nearest(self._embed(clean)[0])))

    def _nearest(self, row: Tensor) -> str:
        assert self.gallery is not None
        return self.gallery.search(row[None].numpy(), count=1)[0][0].person

    def _template(self, person: str) -> Tensor:
        assert self.gallery is not None
        rows = torch.from_numpy(self.gallery.templates_of(person))
        return functional.normalize(rows.mean(0, keepdim=True))

    def _named(self, what: str, row: Tensor, purifier: str) -> Named:
        if self.gallery is None:
            return Named(what, None, None, None)
        try:
            found = self.gallery.search(row[None].numpy(), purifier=purifier, count=1)[0][0]
        except GalleryError:  # it has no templates of this kind
            return Named(what, None, None, None)
        threshold = next((one.threshold for one in self.gallery.calibrations() if one.purifier == purifier), None)
        return Named(what, found.person, found.score, None if threshold is None else found.score >= threshold)

    def _embed(self, crops: Tensor) -> Tensor:
        with torch.no_grad():
            return self.embedder.embed(crops).float().cpu()

    def _with(self, preset: str, scale: int | None) -> Shield:
        """The shield with these settings; its network stays, unless the preset has a prior of its own."""
        chosen = (self._shield.preset if preset == self.preset else preset_named(preset)).changed(scale=scale)
        return self._shield if chosen == self._shield.preset else self._shield.with_preset(chosen)


def _read(path: Path | None) -> Photo:
    if path is None:
        raise InputError("no photograph chosen yet; drop one, or take a sample")
    return read_photo(path, name=path.name)


def _faces(shield: Shield, photo: Photo) -> list[Face]:
    try:
        return shield.faces(photo)
    except NoFaceError as error:  # its advice is for the command line
        raise NoFaceError("no face found; choose a photograph that shows one from the front, and larger") from error


@dataclass(frozen=True)
class _Watched:
    """A prior that says at each evaluation that it is asked."""

    prior: Prior
    said: Callable[[], None]

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.prior.shape

    def __call__(self, u: Tensor, sigma: Tensor | float) -> Tensor:
        self.said()
        return self.prior(u, sigma)


def _watched(shield: Shield, what: str, say: Say, begin: float, end: float) -> Shield:
    """The same shield, which says at each evaluation of its prior how far it is; ``begin`` and ``end`` bound its share."""
    stage, total, calls = shield.purifier.stages[0], shield.preset.evaluations, itertools.count(1)
    say(begin, what)
    if not isinstance(stage, RestorationStage):
        return shield

    def said() -> None:
        number = next(calls)
        say(begin + (end - begin) * (number - 1) / total, f"{what}, evaluation {number} of {total}")

    return replace(shield, purifier=shield.preset.with_prior(_Watched(stage.prior, said)))


def _counted(objective: Objective, said: Callable[[int], None]) -> Objective:
    """The same objective, which says at each call how many there were."""
    calls = itertools.count(1)

    def counting(images: Tensor) -> Tensor:
        said(next(calls))
        return objective(images)

    return counting


def _seeds(seed: int | None, count: int) -> list[int]:
    return fresh_seeds(count) if seed is None else [derive_seed(seed, number) for number in range(count)]
