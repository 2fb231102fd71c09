"""Who is it: faces to names, with a gallery and an embedder.

Faces come in as cut from the photograph (``before``) and as the shield left them (``after``, absent
without a shield). Nothing here detects or purifies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np

from facesieve.errors import GalleryError, ManyFacesError, SettingError
from facesieve.faces import Face, FaceCrops, Quality
from facesieve.galleries.base import RAW, Gallery, Match
from facesieve.limits import cosine
from facesieve.recognition import Embedder
from facesieve.recognition.thresholds import default_threshold, has_default
from facesieve.rows import Rows
from facesieve.specs import retired_among

CROP = 160  # pixels, of faces that are embedded as they are; a purified one has its prior's size

Templates = Literal["raw", "purified", "both"]
Given = float | Literal["none"] | None  # a threshold; "none" for no decision; None for the gallery's, or else the default
Origin = Literal["given", "gallery", "default"]


class Chosen(NamedTuple):
    """A threshold, a cosine, and where it is from; both None where there is none."""

    value: float | None
    origin: Origin | None


@dataclass(frozen=True, eq=False)
class Identified:
    """One face of a photograph: who it is said to be."""

    face: Face
    matches: list[Match]  # best first, as the shielded system sees it
    person: str | None  # the best match, or None: unknown. Also None while there is no threshold
    threshold: float | None  # None: there is none for this recogniser and shield, or none was wanted
    templates: str  # the purifier label of those that were searched: ``raw``, or the shield's
    unshielded: Match | None  # who it would have been without the shield; None where there is none
    change: float | None  # mean absolute difference that the shield made, in [0, 1]
    tamper: float | None  # the tamper score; None where there is no shield
    quality: Quality | None = None  # of the face in its photograph
    origin: Origin | None = None  # where the threshold is from: given, the gallery's own, or the recogniser's default


@dataclass(frozen=True)
class Verified:
    """Whether a face is the person it is said to be."""

    score: float  # the best cosine
    threshold: float | None
    same: bool | None  # None while there is no threshold
    templates: str | None  # as of ``Identified``; None where two photographs were compared
    origin: Origin | None = None  # as of ``Identified``

    @classmethod
    def by(cls, score: float, chosen: Chosen, templates: str | None = None) -> Verified:
        """The verdict at a threshold. Raises ``SettingError`` for one that is no cosine."""
        value = None if chosen.value is None else cosine(chosen.value)
        origin = chosen.origin
        return cls(score, value, None if value is None else score >= value, templates, origin)


def tamper_scores(raw: Rows, purified: Rows) -> list[float]:
    """How far purification moved each face for the recogniser: ``1 - cosine`` of its embeddings (N, D), in [0, 2].

    ``raw`` are embeddings of faces as they came, cut at ``CROP`` pixels, ``purified`` those after the shield. A
    perturbation moves the embedding away from the person and purification brings it back, so a tampered face
    scores higher than a clean one; a face that is hard to restore scores high as well. ``docs/results.md`` has what
    it tells apart.
    """
    scores: list[float] = (1 - (raw * purified).sum(1)).tolist()
    return scores


def one_face(crops: FaceCrops) -> FaceCrops:
    """The same, if it shows one face. Raises ``ManyFacesError`` for more."""
    if len(crops) > 1:
        raise ManyFacesError(f"{len(crops)} faces found where one is meant", advice="cut the photograph to the person")
    return crops


@dataclass(frozen=True, eq=False)
class Identifier:
    """An embedder, and the label of the shield that probes have gone through: ``raw`` where there is none."""

    embedder: Embedder
    purifier: str = RAW

    def raw_rows(self, before: FaceCrops) -> Rows:
        """Embeddings (N, D) of faces as they came."""
        return self.embedder.rows(before.at(CROP).crops)

    def rows(self, before: FaceCrops, after: FaceCrops | None = None) -> Rows:
        """Embeddings (N, D) as the shielded system sees them. Raises ``SettingError`` where purified faces are missing."""
        if self.purifier == RAW:
            return self.raw_rows(before)
        return self.embedder.rows(_given(after).crops)

    def templates(self, before: FaceCrops, after: FaceCrops | None = None, which: Templates = "raw") -> dict[str, Rows]:
        """Templates of one face by purifier label: one of each kind that is asked for.

        Raises ``ManyFacesError`` for several faces, ``SettingError`` for another kind, or purified ones that are missing.
        """
        if which not in get_args(Templates):
            raise SettingError(f"templates {which!r}: choose raw, purified or both")
        one_face(before)
        made: dict[str, Rows] = {}
        if which != "purified":
            made[RAW] = self.raw_rows(before)
        if which != "raw":
            made[self.purifier] = self.embedder.rows(_given(after).crops)
        return made

    def identify(
        self,
        gallery: Gallery,
        before: FaceCrops,
        after: FaceCrops | None = None,
        *,
        threshold: Given = None,
        count: int = 5,
    ) -> list[Identified]:
        """Everyone in a photograph, in the order of its faces.

        ``threshold`` None takes the one that the gallery was calibrated to for this shield, or else the recogniser's default
        for it; ``"none"`` leaves it open who is known, so that there are the nearest people alone.
        Raises ``GalleryError`` for a gallery of another embedder, ``SettingError`` where purified faces are missing, and for a
        threshold that is no cosine.
        """
        self.check(gallery)
        chosen, kind = self.threshold(gallery, threshold), self.kind(gallery)
        raw = self.raw_rows(before)
        if self.purifier == RAW:
            found = gallery.search(raw, count=count)
            each = zip(before.faces, before.qualities, found, strict=True)
            return [_identified(face, quality, matches, chosen, kind) for face, quality, matches in each]
        after = _given(after)
        rows = self.embedder.rows(after.crops)
        found = gallery.search(rows, kind=kind, count=count)
        alone, changes, tampers = _unshielded(gallery, raw), after.changes(before), tamper_scores(raw, rows)
        shielded = zip(before.faces, before.qualities, found, alone, changes, tampers, strict=True)
        return [
            _identified(face, quality, matches, chosen, kind, unshielded, change, tamper)
            for face, quality, matches, unshielded, change, tamper in shielded
        ]

    def verify(
        self,
        gallery: Gallery,
        person: str,
        before: FaceCrops,
        after: FaceCrops | None = None,
        *,
        threshold: Given = None,
    ) -> Verified:
        """Whether the one face is ``person``: by the best of their templates. Raises as ``identify``."""
        self.check(gallery)
        row, kind = self.rows(one_face(before), after)[0], self.kind(gallery)
        score = float((gallery.templates_of(person, kind=kind) @ row).max())
        return Verified.by(score, self._chosen(threshold, gallery, one_to_one=True), kind)

    def compare(
        self,
        first: FaceCrops,
        second: FaceCrops,
        *,
        after: Sequence[FaceCrops] | None = None,
        threshold: Given = None,
        gallery: Gallery | None = None,
    ) -> Verified:
        """Whether two photographs of one face each show the same person; ``after`` holds both after the shield.

        ``threshold`` None takes the one that ``gallery`` was calibrated to, where there is one, or else the default.
        """
        purified = (None, None) if after is None else after
        pairs = zip((first, second), purified, strict=True)
        one, other = (self.rows(one_face(before), made)[0] for before, made in pairs)
        return Verified.by(float(one @ other), self._chosen(threshold, gallery, one_to_one=True))

    def check(self, gallery: Gallery) -> None:
        """Raises ``GalleryError`` for a gallery of another embedder."""
        if gallery.embedder != self.embedder.name:
            raise GalleryError(
                f"the gallery's templates are by {gallery.embedder}, not by {self.embedder.name}",
                gallery.where,
                "use that embedder",
            )

    def kind(self, gallery: Gallery) -> str:
        """The label of the templates that a probe is compared with: the shield's where everyone has some, else ``raw``.

        Never both: an attacker would get the better of the two.
        """
        return self.purifier if all(self.purifier in labels for labels in gallery.label_sets()) else RAW

    def shortfall(self, gallery: Gallery) -> str | None:
        """Why raw templates are searched though there is a shield, in words; None where they are not."""
        sets = gallery.label_sets()
        lacking = [person for labels, person in sets.items() if self.purifier not in labels]
        if not lacking or self.purifier == RAW:
            return None
        who = f"{min(lacking)} has no" if len(lacking) < len(sets) else "nobody has"
        gone = retired_among(label for labels in sets for label in labels)
        said = f"{who} templates behind this shield ({self.purifier}), so raw ones are searched"
        return said if gone is None else f"{said}; {gone}"

    def threshold(self, gallery: Gallery, given: Given = None) -> Chosen:
        """What decides a search: ``given``, what the gallery was calibrated to for such probes and templates, or the default.

        The default is for as many people as are enrolled.

        A calibration that does not say its templates, as older ones, counts where there is no other. Raises ``SettingError``
        for a given one that is no cosine.
        """
        return self._chosen(given, gallery, one_to_one=False)

    def _chosen(self, given: Given, gallery: Gallery | None, *, one_to_one: bool) -> Chosen:
        if given == "none":
            return Chosen(None, None)
        if given is not None:
            return Chosen(cosine(given), "given")
        calibrations = () if gallery is None else gallery.calibrations()
        own = {c.templates: c.threshold for c in calibrations if c.purifier == self.purifier}
        kind = self.purifier if gallery is None else self.kind(gallery)
        if (found := own.get(kind, own.get(None))) is not None:
            return Chosen(found, "gallery")
        treated = (self.embedder.name, self.purifier, kind)
        if not has_default(*treated):
            return Chosen(None, None)
        people = 1 if one_to_one or gallery is None else len(gallery.people())
        return Chosen(default_threshold(*treated, people), "default")


def _given(after: FaceCrops | None) -> FaceCrops:
    if after is None:
        raise SettingError("purified faces are needed, and there is no shield")
    return after


def _identified(
    face: Face,
    quality: Quality,
    matches: list[Match],
    chosen: Chosen,
    templates: str,
    unshielded: Match | None = None,
    change: float | None = None,
    tamper: float | None = None,
) -> Identified:
    value, origin = chosen
    known = bool(matches) and value is not None and matches[0].score >= value
    person = matches[0].person if known else None
    return Identified(face, matches, person, value, templates, unshielded, change, tamper, quality, origin)


def _unshielded(gallery: Gallery, rows: Rows) -> list[Match | None]:
    """Who it would have been without a shield; a gallery of purified templates alone cannot say."""
    if not all(RAW in labels for labels in gallery.label_sets()):
        return [None] * len(rows)
    return [found[0] for found in gallery.search(rows, count=1)]


def stacked(parts: Sequence[dict[str, Rows]]) -> dict[str, Rows]:
    """Templates of several photographs by label, (N, D) each."""
    labels = dict.fromkeys(label for part in parts for label in part)
    return {label: np.concatenate([part[label] for part in parts if label in part]) for label in labels}
