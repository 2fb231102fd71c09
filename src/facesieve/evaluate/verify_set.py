"""The field's verification sets, with and without a shield: accuracy by ten folds, and TAR at FAR."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from facesieve.data.pair_sets import PairSet
from facesieve.errors import InputError
from facesieve.faces import Crops, Detector, Face, FaceCrops
from facesieve.identification import CROP
from facesieve.images import Photo, read_photo
from facesieve.metrics.folds import Folds, accuracy_by_folds
from facesieve.metrics.rates import eer, tar_at_far
from facesieve.progress import Report, Work, silent
from facesieve.recognition import Embedder
from facesieve.rows import Rows, normalised
from facesieve.shield import Shield

FOLDS = 10
TOGETHER = 16  # images that are read, purified and embedded together
REFUSED = -1.0  # the score of a pair in which an image cannot be used: a cosine that no threshold accepts


@dataclass(frozen=True)
class Verification:
    """What a recogniser makes of a set of pairs."""

    shield: str  # its label, ``none`` without
    folds: Folds
    eer: float
    tar: dict[float, float | None]  # true-accept rate by false-accept rate; None where there are too few impostors for it


@dataclass(frozen=True)
class Verified:
    """One set: what came without a shield, and behind it; and by name the images that could not be used, and why."""

    results: tuple[Verification, ...]
    unused: dict[str, str]


def verify_set(
    pairs: PairSet,
    embedder: Embedder,
    shield: Shield | None = None,
    *,
    fars: Sequence[float] = (0.01, 0.001),
    flip: bool = False,
    seed: int | None = None,
    report: Report = silent,
) -> Verified:
    """Score every pair without a shield and, where there is one, with both images behind it.

    In photographs the face nearest to the middle is taken, as these sets mean it. A pair with an image that cannot be read, or
    shows no face, counts as refused. With ``flip`` a face's row is the sum of its own and its mirror image's, as InsightFace has
    it. Raises ``InputError`` where no image can be used, and as the measures do.
    """
    size, detector = CROP if shield is None else shield.card.size, None if pairs.aligned else Detector()
    raw, purified, there, troubles = list[Rows](), list[Rows](), list[int](), dict[int, str]()
    work, count = Work(report, len(pairs.images)), len(pairs.images)
    for start in range(0, count, TOGETHER):
        faces: dict[int, FaceCrops] = {}
        for number in range(start, min(start + TOGETHER, count)):
            try:
                faces[number] = _cut(pairs, number, detector, size)
            except InputError as error:
                troubles[number] = error.what
        there += faces
        if faces:
            raw.append(_raw_rows(list(faces.values()), embedder, flip))
        if faces and shield is not None:
            purified.append(_shielded_rows(list(faces.values()), embedder, shield, flip, seed))
        work.done(min(TOGETHER, count - start), f"{pairs.name}: {min(start + TOGETHER, count):,} of {count:,} images")
    if not there:
        raise InputError(f"none of its images can be used; the first: {troubles[0]}", pairs.name)
    found = [("none", raw)] if shield is None else [("none", raw), (shield.card.label, purified)]
    results = tuple(
        _judged(pairs, _placed(np.concatenate(rows), there, count), set(troubles), label, fars) for label, rows in found
    )
    return Verified(results, {pairs.names[number]: trouble for number, trouble in troubles.items()})


def _judged(pairs: PairSet, rows: Rows, missing: set[int], label: str, fars: Sequence[float]) -> Verification:
    scores = (rows[pairs.first] * rows[pairs.second]).sum(1).astype(np.float64)
    refused = [one in missing or two in missing for one, two in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)]
    scores[refused] = REFUSED
    tar: dict[float, float | None] = {}
    for far in fars:
        few = (~pairs.same).sum() * far < 1 - 1e-9
        tar[far] = None if few else tar_at_far(scores, pairs.same, far)
    return Verification(label, accuracy_by_folds(scores, pairs.same, FOLDS), eer(scores, pairs.same), tar)


def _cut(pairs: PairSet, number: int, detector: Detector | None, size: int) -> FaceCrops:
    """The one face of an image. Raises ``InputError``."""
    photo = read_photo(pairs.images[number], name=pairs.names[number])
    if detector is None:
        return FaceCrops.whole(photo, size)
    faces = sorted(detector.detect(photo), key=lambda face: _from_the_middle(face, photo))
    return FaceCrops.cut(photo, faces[:1], size)


def _from_the_middle(face: Face, photo: Photo) -> float:
    x, y, width, height = face.box
    rows, columns = photo.shape[:2]
    return float((x + width / 2 - columns / 2) ** 2 + (y + height / 2 - rows / 2) ** 2)


def _raw_rows(faces: Sequence[FaceCrops], embedder: Embedder, flip: bool) -> Rows:
    """Rows of faces as they came: aligned crops at their own size, so that nothing is scaled twice."""
    crops = [(face.at(face.photo.shape[0]) if face.aligned else face.at(CROP)).crops for face in faces]
    parts = [np.concatenate(crops)] if len({each.shape for each in crops}) == 1 else crops
    return np.concatenate([_rows(part, embedder, flip) for part in parts])


def _shielded_rows(faces: Sequence[FaceCrops], embedder: Embedder, shield: Shield, flip: bool, seed: int | None) -> Rows:
    seeds = [number for face in faces for number in face.seeds(seed)]
    return _rows(shield.runtime.purify(np.concatenate([face.crops for face in faces]), seeds).crops, embedder, flip)


def _rows(crops: Crops, embedder: Embedder, flip: bool) -> Rows:
    rows = embedder.rows(crops)
    return normalised(rows + embedder.rows(np.ascontiguousarray(crops[..., ::-1]))) if flip else rows


def _placed(rows: Rows, there: Sequence[int], count: int) -> Rows:
    """A row for each of ``count`` images; zeros where an image cannot be used."""
    placed = np.zeros((count, rows.shape[1]), np.float32)
    placed[there] = rows
    return placed
