"""Every error as problem JSON (RFC 9457): ``type``, ``title``, ``status``, ``detail`` and the request's id."""

from __future__ import annotations

import json
from collections.abc import Mapping

from facesieve.errors import FacesieveError, GalleryError, ImageError, InputError, NoFaceError, SettingError
from facesieve.service.batcher_local import BusyError

MEDIA_TYPE = "application/problem+json"
TYPE = "urn:facesieve:problem:"

TITLES = {
    "busy": "The service is busy",
    "not-ready": "The service is not ready",
    "too-large": "The request is too large",
    "slow-body": "The request took too long to arrive",
    "media-type": "A content type that is not known here",
    "unreadable-image": "The image cannot be read",
    "no-face": "No face was found",
    "too-many-faces": "More faces than are taken",
    "input": "The request cannot be used",
    "no-key": "A valid API key is needed",
    "scope": "The API key does not allow this",
    "not-found": "There is no such thing",
    "method": "The method is not allowed here",
    "gallery": "The gallery cannot do this",
    "upstream": "The server behind did not answer",
    "defect": "An error of the service",
}


class ProblemError(FacesieveError):
    """What a caller is told: an HTTP status, one of ``TITLES``, and a line of detail."""

    def __init__(self, status: int, kind: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.kind, self.headers = status, kind, dict(headers or {})

    def body(self, request_id: str) -> bytes:
        """The problem as JSON."""
        plain = {"type": TYPE + self.kind, "title": TITLES[self.kind], "status": self.status, "detail": str(self)}
        return json.dumps({**plain, "instance": f"urn:uuid:{request_id}" if _is_uuid(request_id) else request_id}).encode()


def _is_uuid(text: str) -> bool:
    return len(text) == 36 and text.count("-") == 4


def busy(detail: str, retry_after: int) -> ProblemError:
    """503, with ``Retry-After`` in seconds."""
    return ProblemError(503, "busy", detail, {"Retry-After": str(retry_after)})


def as_problem(error: FacesieveError) -> ProblemError:
    """What a caller is told of an error of the library."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, BusyError):
        return busy(str(error), error.retry_after)
    if isinstance(error, GalleryError):
        return ProblemError(409, "gallery", str(error))
    kinds = {ImageError: "unreadable-image", NoFaceError: "no-face", SettingError: "input", InputError: "input"}
    kind = next((kind for base, kind in kinds.items() if isinstance(error, base)), None)
    return (
        ProblemError(422, kind, str(error))
        if kind
        else ProblemError(500, "defect", "the service made an error; its log has more")
    )
