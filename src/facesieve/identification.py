"""Who is it: photographs to names, with a gallery, an embedder and the shield in front of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from facesieve.errors import GalleryError, InputError, NoFaceError, SettingError
from facesieve.faces import Detector, Face, align
from facesieve.images import Photo
from facesieve.recognition import Embedder
from facesieve.recognition.gallery import RAW, Gallery, Match, Rows
from facesieve.shield import Shield

CROP = 160  # pixels, of faces that are embedded as they are; a purified one has its prior's size

Templates = Literal["raw", "purified", "both"]


@dataclass(frozen=True, eq=False)
class Identified:
    """One face of a photograph: who it is said to be."""

    face: Face
    matches: list[Match]  # best first, as the shielded system sees it
    person: str | None  # the best match, or None: unknown. Also None while there is no threshold
    threshold: float | None  # None: not calibrated, so that nobody can be called unknown
    unshielded: Match | None  # who it would have been without the shield; None where there is none
    change: float | None  # mean absolute difference that the shield made, in [0, 1]
    tamper: float | None  # the tamper score; None where there is no shield


def tamper_score(embedder: Embedder, before: Tensor, after: Tensor) -> Tensor:
    """How far purification moved each face for the recogniser: ``1 - cosine`` of its embeddings, (B,) in [0, 2].

    ``before`` and ``after`` are crops (B, 3, H, W) in [0, 1], their sizes may differ. A perturbation moves the
    embedding away from the person and purification brings it back, so that a tampered face scores higher than a
    clean one; a face that is hard to restore scores high as well. What it tells apart is in ``docs/results.md``.
    """
    with torch.inference_mode():
        return 1 - (embedder.embed(before).float() * embedder.embed(after).float()).sum(1).cpu()


@dataclass(frozen=True)
class Verified:
    """Whether a face is the person it is said to be."""

    score: float  # the best cosine
    threshold: float | None
    same: bool | None  # None while there is no threshold


@dataclass(frozen=True, eq=False)
class Identifier:
    """An embedder with the shield in front of it; without a shield, the system as it would stand alone."""

    embedder: Embedder
    shield: Shield | None = None
    detector: Detector = field(default_factory=Detector)

    @property
    def purifier(self) -> str:
        """The label of what probes pass through: ``raw`` or the shield's."""
        return RAW if self.shield is None else self.shield.label

    def faces(self, photo: Photo) -> list[Face]:
        """The faces in a photo, largest first. Raises ``NoFaceError`` if there is none."""
        found = self.detector.detect(photo)
        if not found:
            raise NoFaceError("no face found")
        return found

    def one_face(self, photo: Photo) -> Face:
        """The only face. Raises ``NoFaceError`` for none, ``InputError`` for more than one."""
        found = self.faces(photo)
        if len(found) > 1:
            raise InputError(f"{len(found)} faces found where one is meant; cut the photograph to the person")
        return found[0]

    def raw_rows(self, photo: Photo, faces: Sequence[Face]) -> Rows:
        """Embeddings (N, D) of faces as they are."""
        return self._embed(torch.stack([align(photo, face, CROP) for face in faces]))

    def purified_rows(self, photo: Photo, faces: Sequence[Face], seeds: Sequence[int] | None = None) -> tuple[Rows, list[float]]:
        """Embeddings (N, D) of purified faces, and how much the shield changed each: mean absolute difference.

        Raises ``SettingError`` without a shield.
        """
        if self.shield is None:
            raise SettingError("purified templates need a shield: --shield fast, say")
        crops = torch.stack([self.shield.crop(photo, face) for face in faces])
        purified = self.shield.trace(crops, seeds)[-1][1]
        return self._embed(purified), (purified - crops).abs().mean((1, 2, 3)).tolist()

    def _embed(self, crops: Tensor) -> Rows:
        with torch.inference_mode():
            rows: Rows = self.embedder.embed(crops).float().cpu().numpy()
        return rows

    def templates(self, photos: Sequence[Photo], which: Templates = "raw", seeds: Sequence[int] | None = None) -> dict[str, Rows]:
        """Templates by purifier label, one of each photograph and kind; each photograph shows one face."""
        if which not in get_args(Templates):
            raise SettingError(f"templates {which!r}: choose raw, purified or both")
        seeds = [None] * len(photos) if seeds is None else seeds  # type: ignore[list-item]
        result: dict[str, list[Rows]] = {}
        for photo, seed in zip(photos, seeds, strict=True):
            face = [self.one_face(photo)]
            if which != "purified":
                result.setdefault(RAW, []).append(self.raw_rows(photo, face))
            if which != "raw":
                rows, _ = self.purified_rows(photo, face, None if seed is None else [seed])
                result.setdefault(self.purifier, []).append(rows)
        return {label: np.concatenate(rows) for label, rows in result.items()}

    def rows(self, photo: Photo, faces: Sequence[Face], seeds: Sequence[int] | None = None) -> Rows:
        """Embeddings (N, D) as the shielded system sees them."""
        return self.raw_rows(photo, faces) if self.shield is None else self.purified_rows(photo, faces, seeds)[0]

    def identify(
        self,
        gallery: Gallery,
        photo: Photo,
        *,
        threshold: float | None = None,
        count: int = 5,
        seeds: Sequence[int] | None = None,
        faces: Sequence[Face] | None = None,
    ) -> list[Identified]:
        """Everyone in a photograph, largest face first; ``faces`` where they were found already.

        ``threshold`` None takes the one that the gallery was calibrated to for this shield, if any.
        Raises ``NoFaceError``, or ``GalleryError`` for a gallery of another embedder.
        """
        self.check(gallery)
        faces = self.faces(photo) if faces is None else faces
        threshold = self.threshold(gallery) if threshold is None else threshold
        raw = self.raw_rows(photo, faces)
        if self.shield is None:
            found = gallery.search(raw, count=count)
            return [_identified(face, matches, threshold) for face, matches in zip(faces, found, strict=True)]
        rows, changes = self.purified_rows(photo, faces, seeds)
        found = gallery.search(rows, purifier=self.purifier, count=count)
        unshielded = _bare(gallery, raw)
        tamper = (1 - (raw * rows).sum(1)).tolist()
        parts = zip(faces, found, unshielded, changes, tamper, strict=True)
        return [_identified(face, matches, threshold, *about) for face, matches, *about in parts]

    def verify(
        self, gallery: Gallery, photo: Photo, person: str, *, threshold: float | None = None, seeds: Sequence[int] | None = None
    ) -> Verified:
        """Whether the one face in a photograph is ``person``: by the best of their templates."""
        self.check(gallery)
        row = self.rows(photo, [self.one_face(photo)], seeds)[0]
        score = float((gallery.templates_of(person, purifier=self.purifier) @ row).max())
        threshold = self.threshold(gallery) if threshold is None else threshold
        return Verified(score, threshold, None if threshold is None else score >= threshold)

    def compare(
        self, first: Photo, second: Photo, *, threshold: float | None = None, seeds: Sequence[int] | None = None
    ) -> Verified:
        """Whether two photographs of one face each show the same person; ``seeds`` holds the one seed of both."""
        one, other = (self.rows(photo, [self.one_face(photo)], seeds)[0] for photo in (first, second))
        score = float(one @ other)
        return Verified(score, threshold, None if threshold is None else score >= threshold)

    def check(self, gallery: Gallery) -> None:
        """Raises ``GalleryError`` for a gallery of another embedder."""
        if gallery.embedder != self.embedder.name:
            raise GalleryError(
                f"the gallery's templates are by {gallery.embedder}, not by {self.embedder.name}; use that embedder"
            )

    def threshold(self, gallery: Gallery) -> float | None:
        """What the gallery was calibrated to for this shield, or None."""
        return next((c.threshold for c in gallery.calibrations() if c.purifier == self.purifier), None)


def _identified(
    face: Face,
    matches: list[Match],
    threshold: float | None,
    unshielded: Match | None = None,
    change: float | None = None,
    tamper: float | None = None,
) -> Identified:
    known = bool(matches) and threshold is not None and matches[0].score >= threshold
    return Identified(face, matches, matches[0].person if known else None, threshold, unshielded, change, tamper)


def _bare(gallery: Gallery, rows: Rows) -> list[Match | None]:
    """Who it would have been without a shield; a gallery of purified templates alone cannot say."""
    try:
        return [found[0] for found in gallery.search(rows, count=1)]
    except GalleryError:
        return [None] * len(rows)
