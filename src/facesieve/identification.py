"""Who is it: faces to names, with a gallery and an embedder.

Faces come in as cut from the photograph (``before``) and as the shield left them (``after``, absent
without a shield). Nothing here detects or purifies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import numpy as np

from facesieve.errors import GalleryError, SettingError
from facesieve.faces import Face, FaceCrops, Quality, one_face
from facesieve.galleries.base import RAW, Gallery, Match
from facesieve.limits import cosine
from facesieve.recognition import Embedder
from facesieve.recognition.tampering import TamperGuard, Tampering
from facesieve.recognition.thresholds import default_threshold, has_default
from facesieve.rows import Rows
from facesieve.specs import retired_among
from facesieve.tamper_policy import PURIFY, TamperPolicy

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
    matches: list[Match]  # best first, as the shielded system sees it; none of a face that is refused
    person: str | None  # the best match, or None: unknown. Also None while there is no threshold
    threshold: float | None  # None: there is none for this recogniser and shield, or none was wanted
    templates: str  # the purifier label of those that were searched: ``raw``, or the shield's
    unshielded: Match | None  # who it would have been without the shield; None where there is none
    change: float | None  # mean absolute difference that the shield made, in [0, 1]
    tampering: Tampering | None  # None where there is no shield
    quality: Quality | None = None  # of the face in its photograph
    origin: Origin | None = None  # where the threshold is from: given, the gallery's own, or the recogniser's default

    @property
    def tamper(self) -> float | None:
        """The tamper score; None where there is no shield."""
        return None if self.tampering is None else self.tampering.change

    @property
    def refused(self) -> str | None:
        """Why nobody is named, where the face is refused."""
        return None if self.tampering is None else self.tampering.refused


@dataclass(frozen=True)
class Verified:
    """Whether a face is the person it is said to be."""

    score: float  # the best cosine
    threshold: float | None
    same: bool | None  # None while there is no threshold
    templates: str | None  # as of ``Identified``; None where two photographs were compared
    origin: Origin | None = None  # as of ``Identified``
    tampered: bool | None = None  # whether a photograph looks tampered with; None where nobody asked

    @classmethod
    def by(cls, score: float, chosen: Chosen, templates: str | None = None, tampered: bool | None = None) -> Verified:
        """The verdict at a threshold. Raises ``SettingError`` for one that is no cosine."""
        value = None if chosen.value is None else cosine(chosen.value)
        return cls(score, value, None if value is None else score >= value, templates, chosen.origin, tampered)


@dataclass(frozen=True, eq=False)
class Identifier:
    """An embedder, and the label of the shield that probes have gone through: ``raw`` where there is none.

    ``policy`` says what is done about a face that looks tampered with; ``second`` is the other recogniser that a score of two
    needs. Raises ``SettingError`` as ``TamperGuard``.
    """

    embedder: Embedder
    purifier: str = RAW
    policy: TamperPolicy = PURIFY
    second: Embedder | None = None

    def __post_init__(self) -> None:
        self.guard.check()

    @cached_property
    def guard(self) -> TamperGuard:
        """What judges faces by the policy."""
        return TamperGuard(self.policy, self.embedder, self.second, None if self.purifier == RAW else self.purifier)

    def raw_rows(self, before: FaceCrops) -> Rows:
        """Embeddings (N, D) of faces as they came."""
        return self.embedder.rows(before.at(CROP).crops)

    def rows(self, before: FaceCrops, after: FaceCrops | None = None) -> Rows:
        """Embeddings (N, D) as the shielded system sees them. Raises ``SettingError`` where purified faces are missing."""
        if self.purifier == RAW:
            return self.raw_rows(before)
        return self.embedder.rows(_given(after).crops)

    def tampering(self, before: FaceCrops, after: FaceCrops) -> list[Tampering]:
        """How far each face looks tampered with, and what the policy says of it."""
        return self.guard.judge(before.at(CROP).crops, after.crops)

    def _seen(self, before: FaceCrops, after: FaceCrops | None) -> tuple[Rows, bool | None]:
        """The one face's row (1, D) as of ``rows``, and whether it looks tampered with: None where nobody asked.

        Raises ``TamperedError`` where it is refused, ``ManyFacesError`` for several, ``SettingError`` as ``rows``.
        """
        rows = self.rows(one_face(before), after)
        if self.policy.on == "purify":
            return rows, None
        return rows, self.guard.judge(before.at(CROP).crops, _given(after).crops, purified=rows)[0].checked()

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
        threshold that is no cosine. A face that the policy refuses has its reason, and neither name nor matches.
        """
        self.check(gallery)
        chosen, kind = self.threshold(gallery, threshold), self.kind(gallery)
        shown = before.at(CROP).crops
        raw = self.embedder.rows(shown)
        if self.purifier == RAW:
            found = gallery.search(raw, count=count)
            each = zip(before.faces, before.qualities, found, strict=True)
            return [_identified(face, quality, matches, chosen, kind) for face, quality, matches in each]
        after = _given(after)
        rows = self.embedder.rows(after.crops)
        found = gallery.search(rows, kind=kind, count=count)
        tampering = self.guard.judge(shown, after.crops, raw, rows)
        alone, changes = _unshielded(gallery, raw), after.changes(before)
        shielded = zip(before.faces, before.qualities, found, alone, changes, tampering, strict=True)
        return [
            _identified(face, quality, matches, chosen, kind, unshielded, change, one)
            for face, quality, matches, unshielded, change, one in shielded
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
        """Whether the one face is ``person``: by the best of their templates.

        Raises as ``identify``, and ``TamperedError`` for a face that the policy refuses.
        """
        self.check(gallery)
        (row,), tampered = self._seen(before, after)
        kind = self.kind(gallery)
        score = float((gallery.templates_of(person, kind=kind) @ row).max())
        return Verified.by(score, self._chosen(threshold, gallery, one_to_one=True), kind, tampered)

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
        Raises ``TamperedError`` where the policy refuses one of them.
        """
        purified = (None, None) if after is None else after
        pairs = zip((first, second), purified, strict=True)
        ((one,), tampered), ((other,), other_tampered) = (self._seen(before, made) for before, made in pairs)
        verdict = None if tampered is None or other_tampered is None else tampered or other_tampered
        return Verified.by(float(one @ other), self._chosen(threshold, gallery, one_to_one=True), tampered=verdict)

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
    tampering: Tampering | None = None,
) -> Identified:
    value, origin = chosen
    if tampering is not None and tampering.refused is not None:
        matches, unshielded = [], None
    known = bool(matches) and value is not None and matches[0].score >= value
    person = matches[0].person if known else None
    return Identified(face, matches, person, value, templates, unshielded, change, tampering, quality, origin)


def _unshielded(gallery: Gallery, rows: Rows) -> list[Match | None]:
    """Who it would have been without a shield; a gallery of purified templates alone cannot say."""
    if not all(RAW in labels for labels in gallery.label_sets()):
        return [None] * len(rows)
    return [found[0] for found in gallery.search(rows, count=1)]


def stacked(parts: Sequence[dict[str, Rows]]) -> dict[str, Rows]:
    """Templates of several photographs by label, (N, D) each."""
    labels = dict.fromkeys(label for part in parts for label in part)
    return {label: np.concatenate([part[label] for part in parts if label in part]) for label in labels}
