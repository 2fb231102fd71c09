"""Every error as problem JSON (RFC 9457): ``type``, ``title``, ``status``, ``detail`` and the request's id."""

from __future__ import annotations

import json
from collections.abc import Mapping

from facesieve.errors import (
    FacesieveError,
    GalleryError,
    GalleryFailedError,
    ImageError,
    InputError,
    ManyFacesError,
    NoFaceError,
    NotSquareError,
    OutOfMemoryError,
    TamperedError,
)
from facesieve.recognition.tampering import Tampering, said
from facesieve.service.batcher import BusyError

MEDIA_TYPE = "application/problem+json"
TYPE = "urn:facesieve:problem:"
TAMPER_HEADER = "Facesieve-Tamper"

TITLES = {
    "busy": "The service is busy",
    "not-ready": "The service is not ready",
    "too-large": "The request is too large",
    "slow-body": "The request took too long to arrive",
    "media-type": "A content type that is not known here",
    "unreadable-image": "The image cannot be read",
    "no-face": "No face was found",
    "too-many-faces": "More faces than are taken",
    "tampered": "The photograph looks tampered with",
    "input": "The request cannot be used",
    "no-key": "A valid API key is needed",
    "host": "This is not the server of that name",
    "origin": "A page of another origin",
    "not-acceptable": "There is no answer of this kind",
    "scope": "The API key does not allow this",
    "not-found": "There is no such thing",
    "method": "The method is not allowed here",
    "gallery": "The gallery cannot do this",
    "unshielded": "An image at an address that is not shielded",
    "upstream": "The server behind did not answer",
    "defect": "An error of the service",
}

# Status and kind of an error of the library, by the first type that fits.
KINDS: dict[type[FacesieveError], tuple[int, str]] = {
    BusyError: (503, "busy"),
    OutOfMemoryError: (503, "busy"),
    GalleryFailedError: (503, "gallery"),
    GalleryError: (409, "gallery"),
    ImageError: (422, "unreadable-image"),
    NoFaceError: (422, "no-face"),
    ManyFacesError: (422, "too-many-faces"),
    TamperedError: (422, "tampered"),
    InputError: (422, "input"),
}

# What a caller can do about an error that does not say so itself.
ADVICE: dict[type[FacesieveError], str] = {
    NotSquareError: "leave aligned out to find its face",
}

# Errors about a photograph that was sent: they say which. Every other place, such as the gallery's, is not for callers.
OF_PHOTOGRAPHS = (ImageError, NoFaceError, ManyFacesError, NotSquareError, TamperedError)


class ProblemError(FacesieveError):
    """What a caller is told: an HTTP status, one of ``TITLES``, and a line of detail."""

    def __init__(self, status: int, kind: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.kind, self.headers = status, kind, dict(headers or {})

    def body(self, request_id: str) -> bytes:
        """The problem as JSON."""
        plain = {"type": TYPE + self.kind, "title": TITLES[self.kind], "status": self.status, "detail": self.what}
        return json.dumps({**plain, "instance": f"urn:uuid:{request_id}" if _is_uuid(request_id) else request_id}).encode()


def _is_uuid(text: str) -> bool:
    return len(text) == 36 and text.count("-") == 4


def defect() -> ProblemError:
    """500, without details: what went wrong may hold what a caller sent."""
    return ProblemError(500, "defect", "the service made an error; its log has more")


def as_problem(error: FacesieveError | MemoryError) -> ProblemError:
    """What a caller is told of an error of the library, or of a machine without memory."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, MemoryError):
        return ProblemError(503, "busy", "there is no memory for this now", {"Retry-After": "5"})
    found = next((known for kind, known in KINDS.items() if isinstance(error, kind)), None)
    if found is None:
        return defect()
    return ProblemError(*found, _detail(error), _headers(error))


def _headers(error: FacesieveError) -> dict[str, str] | None:
    if isinstance(error, BusyError):
        return {"Retry-After": str(error.retry_after)}
    if isinstance(error, TamperedError) and error.score is not None:
        return {TAMPER_HEADER: said([Tampering(error.score, tampered=True)])}
    return None


def _detail(error: FacesieveError) -> str:
    if isinstance(error, GalleryFailedError):
        return "the gallery does not work now; the service's log has more"
    place = f"{error.where}: " if isinstance(error, OF_PHOTOGRAPHS) and error.where else ""
    advice = error.advice or ADVICE.get(type(error))
    return place + error.what + (f"; {advice}" if advice else "")
