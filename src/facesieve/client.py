"""A thin client of the service: one method for each address, problem JSON as typed errors.

ClientError            the service refused, or could not be reached
├── UnreachableError   no answer: wrong address, stopped, too slow
├── NotAllowedError    401, 403: no valid key, or one without the scope
├── NotFoundError      404: an unknown person, or no gallery
├── ConflictError      409: the gallery cannot do this, such as enrolling somebody twice
├── UnusableError      413, 415, 422: an image or a setting that cannot be used
└── BusyError          503: try again after ``retry_after`` seconds; 0 where the gallery fails
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import quote

from facesieve.errors import FacesieveError, InputError, MissingExtraError, one_line

if TYPE_CHECKING:
    import httpx

Image = bytes | Path | str  # the bytes of a file, or its path


class ClientError(FacesieveError):
    """The service refused, or could not be reached. ``kind`` is the problem's type, such as ``no-face``."""

    def __init__(
        self,
        what: str,
        where: object = None,
        *,
        status: int = 0,
        kind: str = "",
        request_id: str = "",
        retry_after: int = 0,
    ) -> None:
        super().__init__(what, where)
        self.status, self.kind, self.request_id, self.retry_after = status, kind, request_id, retry_after


class UnreachableError(ClientError):
    """No answer: a wrong address, a service that is stopped or too slow."""


class NotAllowedError(ClientError):
    """No valid key, or one without the scope."""


class NotFoundError(ClientError):
    """An unknown person, or a service without a gallery."""


class ConflictError(ClientError):
    """The gallery cannot do this, such as enrolling somebody twice."""


class UnusableError(ClientError):
    """An image or a setting that cannot be used."""


class BusyError(ClientError):
    """The service is full, and was each time; try again after ``retry_after`` seconds.

    Or its gallery fails (``kind`` is ``gallery``, ``retry_after`` 0): what was to be written may have been.
    """


_ERRORS: dict[int, type[ClientError]] = {
    401: NotAllowedError,
    403: NotAllowedError,
    404: NotFoundError,
    409: ConflictError,
    413: UnusableError,
    415: UnusableError,
    422: UnusableError,
    503: BusyError,
}


class Client:
    """A service at ``url``; use it as a context manager, or close it. ``timeout`` in seconds. One client serves one thread.

    A request that the service has no place for is sent again, ``tries`` times in all, after as many seconds as the service
    says and a random part of as many again: so that those who were refused together do not come back together.

    Every method raises a ``ClientError``, or ``InputError`` for a file that cannot be read.
    """

    def __init__(self, url: str, key: str | None = None, *, timeout: float = 60.0, tries: int = 4) -> None:
        """Raises ``MissingExtraError`` without httpx, ``InputError`` for an address without http:// or https://, or no tries."""
        try:
            import httpx
        except ImportError as error:
            raise MissingExtraError("the client", "serve") from error
        if not url.startswith(("http://", "https://")):
            raise InputError("the address of a service begins with http:// or https://", url)
        if tries < 1:
            raise InputError(f"{tries} tries are too few", advice="1 tries once")
        self._tries = tries
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def purify(self, image: Image, *, aligned: bool = False, format: Literal["png", "jpeg", "webp"] = "png") -> bytes:
        """The photograph with every face purified, as the bytes of a file of that ``format``."""
        query = {"aligned": str(aligned).lower()}
        answer = self._ask("POST", "/v1/purify", query, {"file": [image]}, accept=f"image/{format}")
        return answer.content

    def purify_faces(self, image: Image, *, aligned: bool = False, stages: bool = False) -> dict[str, Any]:
        """``image`` and ``faces``, each with its ``crop``, ``change`` and, with ``stages``, what each stage made; base64 PNG."""
        query = {"aligned": str(aligned).lower(), "stages": str(stages).lower()}
        return self._json(self._ask("POST", "/v1/purify", query, {"file": [image]}))

    def purify_batch(
        self, images: Sequence[Image], *, tamper: bool = False, format: Literal["png", "jpeg", "webp"] | None = None
    ) -> list[dict[str, Any]]:
        """Several photographs at once: for each ``image`` (base64) and ``faces``, or ``problem``, the other None."""
        query = {"tamper": str(tamper).lower(), **({} if format is None else {"format": format})}
        found: list[dict[str, Any]] = self._json(self._ask("POST", "/v1/purify/batch", query, {"file": images}))["photographs"]
        return found

    def identify(self, image: Image, *, count: int = 5, threshold: float | Literal["none"] | None = None) -> list[dict[str, Any]]:
        """Everyone in a photograph, largest face first: ``person``, ``matches``, ``threshold``, ``templates``, ``box``, ...

        ``templates`` are those that were searched: ``raw``, or the label of those that were made behind the service's shield.
        """
        query = {"count": str(count), **_optional("threshold", threshold)}
        faces: list[dict[str, Any]] = self._json(self._ask("POST", "/v1/identify", query, {"file": [image]}))["faces"]
        return faces

    def verify(self, image: Image, person: str, *, threshold: float | Literal["none"] | None = None) -> dict[str, Any]:
        """Whether a photograph shows an enrolled person: ``same``, ``score``, ``threshold``, ``templates`` as of ``identify``."""
        query = {"person": person, **_optional("threshold", threshold)}
        return self._json(self._ask("POST", "/v1/verify", query, {"file": [image]}))

    def compare(self, image: Image, other: Image, *, threshold: float | Literal["none"] | None = None) -> dict[str, Any]:
        """Whether two photographs show the same person: ``same``, ``score``, ``threshold``."""
        query = _optional("threshold", threshold)
        return self._json(self._ask("POST", "/v1/verify", query, {"file": [image], "other": [other]}))

    def enrol(
        self, person: str, images: Sequence[Image], *, templates: Literal["raw", "purified", "both"] = "both"
    ) -> dict[str, int]:
        """Enrol a person from photographs of one face each: the number of templates by label."""
        return self._give("PUT", person, images, templates)

    def add(
        self, person: str, images: Sequence[Image], *, templates: Literal["raw", "purified", "both"] = "both"
    ) -> dict[str, int]:
        """Add photographs of somebody who is enrolled: the number of templates that there are now, by label."""
        return self._give("POST", person, images, templates)

    def _give(self, method: str, person: str, images: Sequence[Image], templates: str) -> dict[str, int]:
        answer = self._ask(method, _of(person), {"templates": templates}, {"file": images})
        now: dict[str, int] = self._json(answer)["templates"]
        return now

    def people(self, *, page: int = 1000) -> Iterator[str]:
        """The names of all who are enrolled, in order; ``page`` of them are asked for at a time."""
        query = {"limit": str(page)}
        while True:
            found = self._json(self._ask("GET", "/v1/gallery", query))
            yield from (str(entry["person"]) for entry in found["people"])
            if found["next"] is None:
                return
            query["after"] = found["next"]

    def person(self, person: str) -> dict[str, int]:
        """The number of an enrolled person's templates by label."""
        found: dict[str, int] = self._json(self._ask("GET", _of(person)))["templates"]
        return found

    def remove(self, person: str) -> int:
        """Remove a person: the number of templates."""
        return int(self._json(self._ask("DELETE", _of(person)))["removed"])

    def info(self) -> dict[str, Any]:
        """What runs there, and its limits."""
        return self._json(self._ask("GET", "/v1/info"))

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        images: Mapping[str, Sequence[Image]] | None = None,
        *,
        accept: str = "application/json",
    ) -> httpx.Response:
        files = [(name, ("image", _bytes(image))) for name, each in (images or {}).items() for image in each]
        for left in reversed(range(self._tries)):
            answer = self._send(method, path, params=query, files=files or None, headers={"Accept": accept})
            if answer.is_success:
                return answer
            error = _error(answer)
            if not (left and isinstance(error, BusyError) and error.retry_after):
                raise error
            time.sleep(error.retry_after * random.uniform(1, 2))
        raise AssertionError

    def _send(self, method: str, path: str, **sent: Any) -> httpx.Response:
        import httpx

        try:
            return self._http.request(method, path, **sent)
        except httpx.HTTPError as error:
            what = f"no answer ({type(error).__name__}); is the service there?"
            raise UnreachableError(what, self._http.base_url) from error

    def _json(self, answer: httpx.Response) -> dict[str, Any]:
        try:
            plain: dict[str, Any] = answer.json()
        except ValueError as error:
            raise ClientError("no JSON; is this facesieve?", self._http.base_url, status=answer.status_code) from error
        return plain


def _of(person: str) -> str:
    return f"/v1/gallery/{quote(person, safe='')}"


def _optional(name: str, value: float | str | None) -> dict[str, str]:
    return {} if value is None else {name: str(value)}


def _bytes(image: Image) -> bytes:
    if isinstance(image, bytes):
        return image
    try:
        return Path(image).read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {one_line(error)}", image) from error


def _error(answer: httpx.Response) -> ClientError:
    """The problem in an answer; of a server that does not speak problem JSON, only the status."""
    try:
        problem = answer.json()
        message, kind = str(problem["detail"]), str(problem["type"]).rpartition(":")[2]
    except (ValueError, KeyError, TypeError):
        message, kind = f"HTTP {answer.status_code}", ""
    after = answer.headers.get("retry-after", "")
    return _ERRORS.get(answer.status_code, ClientError)(
        message,
        status=answer.status_code,
        kind=kind,
        request_id=answer.headers.get("x-request-id", ""),
        retry_after=int(after) if after.isdecimal() else 0,
    )
