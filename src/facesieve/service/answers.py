"""What the library found, in the shapes of ``schemas``."""

from __future__ import annotations

from typing import Any

from facesieve.faces import FaceCrops, Quality
from facesieve.galleries.base import Match
from facesieve.identification import Identified, Verified
from facesieve.recognition.tampering import Tampering
from facesieve.service.schemas import FaceQuality, IdentifiedFace, MatchedPerson, PossibleFace, VerifyResponse


def identified(found: Identified) -> IdentifiedFace:
    """A face that was looked up."""
    return IdentifiedFace(
        box=list(map(float, found.face.box)),
        landmarks=found.face.landmarks.astype(float).tolist(),
        score=float(found.face.score),
        quality=face_quality(found.quality),
        person=found.person,
        threshold=found.threshold,
        threshold_from=found.origin,
        templates=found.templates,
        matches=[_match(match) for match in found.matches],
        unshielded=None if found.unshielded is None else _match(found.unshielded),
        shield_change=found.change,
        refused=found.refused,
        **tampering(found.tampering),
    )


def tampering(found: Tampering | None) -> dict[str, Any]:
    """The fields that say how far a face looks tampered with."""
    if found is None:
        return {"tamper_score": None}
    return {"tamper_score": found.change, "disagreement": found.disagreement, "tampered": found.tampered}


def verified(found: Verified) -> VerifyResponse:
    """A face that was compared."""
    return VerifyResponse(
        same=found.same,
        score=found.score,
        threshold=found.threshold,
        threshold_from=found.origin,
        templates=found.templates,
        tampered=found.tampered,
    )


def possible(before: FaceCrops) -> list[PossibleFace]:
    """What may be further faces."""
    return [PossibleFace(box=list(map(float, face.box)), score=face.score) for face in before.possible]


def face_quality(found: Quality | None) -> FaceQuality | None:
    """A face's quality, if it has one."""
    return None if found is None else FaceQuality(**found.as_dict())


def _match(found: Match) -> MatchedPerson:
    return MatchedPerson(person=found.person, score=found.score)
