"""A gate in front of a face recognition server: the photographs in its calls are purified, what holds none passes as it is.

Which calls hold photographs says the table of ``gate_routes``; how a path and a body are read, ``gate_path`` and ``gate_body``.

What a gate lets through unseen is a hole, so it fails closed: a call is read once, what servers could read in two ways
is refused with the reason, and so is an image at an address that the table does not have.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import quote

import httpx
from fastapi import FastAPI, Request, Response
from starlette.responses import StreamingResponse

from facesieve.errors import FacesieveError, NoFaceError
from facesieve.recognition.tampering import Tampering, said
from facesieve.service.access import check_key, in_time, unless_gone
from facesieve.service.app import bare_app
from facesieve.service.gate_body import Pieces, body_without_image, check_query, filled, shielded_body, slots_of
from facesieve.service.gate_path import check_path
from facesieve.service.gate_routes import routes_of
from facesieve.service.handlers import Handlers
from facesieve.service.keys import Keys
from facesieve.service.metrics import Outcome
from facesieve.service.problems import ProblemError, as_problem
from facesieve.service.request_body import read_body, slow_body
from facesieve.service.settings import Format

T = TypeVar("T")

PREFIX = "/facesieve"  # of the proxy's own health and figures
KEY_HEADER = "X-Facesieve-Key"
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
MOST_IMAGES = 64  # in one call
OWN = b"facesieve-"  # headers that the gate alone writes
_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection te trailer transfer-encoding upgrade proxy-authenticate proxy-authorization".split()
)
# Frameworks may look an address up by these instead of by the request's own.
_OTHER_ADDRESS = ("x-original-url", "x-rewrite-url", "x-original-uri", "x-forwarded-uri", "x-forwarded-path")
# Servers that hand headers on as variables (CGI, WSGI) read ``Content_Encoding`` as ``Content-Encoding``.
_DECIDING = {*_OTHER_ADDRESS, "content-type", "content-length", "content-encoding", "transfer-encoding"}
_REFUSALS = {400, 413, 415, 422}  # for what the call is


@dataclass
class Done:
    """What was done with the images of one call."""

    outcomes: list[Outcome] = field(default_factory=list)
    faces: int = 0
    possible: int = 0  # faces that the detector was not sure of, which are as they were
    tampering: list[Tampering] = field(default_factory=list)  # of each face
    kind: str | None = None  # the new type of a body that is itself an image

    def headers(self, preset: str) -> list[tuple[bytes, bytes]]:
        """What the caller is told; nothing of a call without an image."""
        if not self.outcomes:
            return []
        found = {"faces": str(self.faces), "possible-faces": str(self.possible), "preset": preset}
        if self.tampering:
            found["tamper"] = said(self.tampering)
        return [(OWN + name.encode(), value.encode()) for name, value in found.items()]


def create_proxy(handlers: Handlers, *, keys: Keys | None = None) -> FastAPI:
    """The proxy as an ASGI application; ``handlers.settings.upstream`` is the server behind it.

    Its own health and figures are under ``/facesieve``. Keys are expected in ``X-Facesieve-Key``,
    which is not passed on.
    """
    app = bare_app(handlers, keys=keys, prefix=PREFIX, docs=False)
    upstream = Upstream(handlers)
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with inner(app):
            yield
            await upstream.close()

    app.router.lifespan_context = lifespan

    async def handle(request: Request) -> Response:
        if _is_preflight(request):
            return _with_key_allowed(await upstream.handle(request), keys)
        name = check_key(keys, request.headers.get(KEY_HEADER), "purify", header=KEY_HEADER)
        if name is not None:
            request.state.notes["key"] = name
        return await upstream.handle(request)

    app.add_api_route("/{path:path}", handle, methods=METHODS, response_model=None)
    return app


class Upstream:
    """The server behind, and what is done to calls on their way."""

    def __init__(self, handlers: Handlers) -> None:
        settings = handlers.settings
        self._handlers, self._settings = handlers, settings
        self._base, self._routes = httpx.URL(settings.upstream or ""), routes_of(settings)
        # Connections are not kept: one that the server behind closes as it is used again would fail a call.
        limits = httpx.Limits(max_connections=settings.max_requests, max_keepalive_connections=0)
        # trust_env: a proxy or a .netrc of the environment must not be asked in between
        self._client = httpx.AsyncClient(timeout=settings.upstream_timeout_s, limits=limits, trust_env=False)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()

    async def handle(self, request: Request) -> Response:
        """Purify what is to be purified, ask the server behind, stream its answer."""
        try:
            return await self._handle(request)
        except FacesieveError as error:
            if as_problem(error).status in _REFUSALS:
                self._account(request, "refused", 1)
            raise

    async def _handle(self, request: Request) -> Response:
        path = raw_path(request)
        check_path(path)
        if not _has_body(request):
            check_query(request.scope["query_string"])
            return await self._ask(request, _headers(request, body=True), None)
        route = self._routes.of(request.method, path)
        if route is None and self._routes.passes(request.method, path):
            return await self._ask(request, _headers(request, body=True), self._unseen(request))
        content_type, done = _one_reading(request), Done()
        if route is not None:
            self._handlers.check_place()
        body = await read_body(request, self._settings.max_bytes, self._settings.body_timeout_s)
        if body and route is None:
            body = await asyncio.to_thread(body_without_image, body, content_type)
        elif body and route is not None:
            pieces = await asyncio.to_thread(shielded_body, body, content_type, route)
            body = await in_time(request, self._filled(request, pieces, content_type, done))
        headers = [*_headers(request, body=False, kind=done.kind), (b"content-length", str(len(body)).encode())]
        answer = await self._ask(request, headers, body)
        answer.raw_headers += done.headers(self._handlers.card.name)
        return answer

    def _account(self, request: Request, outcome: Outcome, count: int) -> None:
        """Count images, and say in the log what was done with those of the call."""
        self._handlers.metrics.images(outcome, count)
        request.state.notes[f"images_{outcome}"] = count

    async def _unseen(self, request: Request) -> AsyncIterator[bytes]:
        """The body of a call that is passed unseen, as it comes, within the time of any body."""
        try:
            async with asyncio.timeout(self._settings.body_timeout_s):
                async for chunk in request.stream():
                    yield chunk
        except TimeoutError:
            raise slow_body(self._settings.body_timeout_s) from None

    async def _ask(
        self, request: Request, headers: list[tuple[bytes, bytes]], content: bytes | AsyncIterator[bytes] | None
    ) -> Response:
        query = request.scope["query_string"]
        target = self._base.raw_path.rstrip(b"/") + raw_path(request) + (b"?" + query if query else b"")
        asked = httpx.Request(request.method, self._base.copy_with(raw_path=target), headers=headers, content=content)
        try:
            with self._handlers.metrics.phase("upstream"):
                sending = self._client.send(asked, stream=True)
                answer = await (unless_gone(request, sending) if isinstance(content, bytes) else sending)
        except httpx.TimeoutException:
            raise ProblemError(504, "upstream", "the server behind did not answer in time") from None
        except httpx.HTTPError:
            raise ProblemError(502, "upstream", "the server behind cannot be reached") from None
        response = StreamingResponse(_stream(answer), answer.status_code)
        dropped = _hop_by_hop(answer.headers.raw)
        raw = [(name.lower(), value) for name, value in answer.headers.raw]
        response.raw_headers = [(name, value) for name, value in raw if name not in dropped and not _is_own(name)]
        return response

    # --- the photographs in a call ----------------------------------------------------------------

    async def _filled(self, request: Request, pieces: Pieces, content_type: str, done: Done) -> bytes:
        """The body with purified images in it."""
        slots = slots_of(pieces)
        if len(slots) > MOST_IMAGES:
            raise ProblemError(422, "input", f"{len(slots)} images in one call, at most {MOST_IMAGES} are taken")
        images = await _all([self._image(slot.image, done) for slot in slots])
        for outcome in sorted(set(done.outcomes)):
            self._account(request, outcome, done.outcomes.count(outcome))
        request.state.notes["faces"] = done.faces
        if content_type.lower().startswith("image/") and images:
            done.kind = images[0][1]
        return filled(pieces, images)

    async def _image(self, data: bytes, done: Done) -> tuple[bytes, str | None]:
        """The purified image and its type: what it was, where that can be written, otherwise PNG. None: it is as it came."""
        try:
            before = await self._handlers.cut(data)
        except NoFaceError:
            if self._settings.no_face == "refuse":
                raise
            done.outcomes.append("passed")
            return data, None
        after = await self._handlers.restore(before)
        done.tampering += await self._handlers.tampering(before, after)
        format = _format_of(data)
        image = await self._handlers.encode(after, format)
        done.outcomes.append("purified")
        done.faces += len(before)
        done.possible += len(before.possible)
        return image, f"image/{format}"


def raw_path(request: Request) -> bytes:
    """A request's path as it was sent, without its query."""
    return request.scope.get("raw_path") or quote(request.scope["path"]).encode()


def _has_body(request: Request) -> bool:
    return request.headers.get("content-length", "0").strip() != "0" or "transfer-encoding" in request.headers


def _is_preflight(request: Request) -> bool:
    """A browser's question before a call: it carries no key, and no photograph."""
    return request.method == "OPTIONS" and not _has_body(request)


def _with_key_allowed(answer: Response, keys: Keys | None) -> Response:
    """The answer to a preflight, with the key's header among those that a browser may send."""
    if keys is not None:
        name = b"access-control-allow-headers"
        added = f", {KEY_HEADER}".encode()
        answer.raw_headers = [(key, value + added if key == name else value) for key, value in answer.raw_headers]
    return answer


def _one_reading(request: Request) -> str:
    """The content type of a body that can be read in one way. Raises 400 or 415 for others."""
    headers = request.headers
    if any(name in headers for name in _OTHER_ADDRESS):
        raise ProblemError(400, "input", "a header names another address than the request does")
    if found := next((name for name in headers if "_" in name and name.replace("_", "-") in _DECIDING), None):
        raise ProblemError(400, "input", f"some servers read the header {found} as {found.replace('_', '-')}; leave it out")
    if set(headers.getlist("content-encoding")) - {"identity"}:
        raise ProblemError(415, "media-type", "a compressed body cannot be looked through; send it as it is")
    if len(headers.getlist("content-type")) > 1:
        raise ProblemError(415, "media-type", "send one content type")
    check_query(request.scope["query_string"])
    return headers.get("content-type", "")


def _format_of(data: bytes) -> Format:
    return "jpeg" if data[:3] == b"\xff\xd8\xff" else "webp" if data[:4] == b"RIFF" else "png"


async def _all(work: list[Coroutine[object, object, T]]) -> list[T]:
    """All at once, so that they share batches; if one fails the others are cancelled."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        tasks.clear()  # an error holds this frame, and tasks hold photographs


def _hop_by_hop(headers: list[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """Headers of one connection (RFC 9110, 7.6.1), those named in ``Connection`` among them."""
    named = (value for name, value in headers if name.lower() == b"connection")
    return _HOP_BY_HOP | {word.strip().lower() for value in named for word in value.split(b",")}


def _headers(request: Request, *, body: bool, kind: str | None = None) -> list[tuple[bytes, bytes]]:
    """The headers to pass on; with ``body`` that of its length too; with ``kind`` another content type."""
    raw: list[tuple[bytes, bytes]] = request.scope["headers"]
    left_out = (
        _hop_by_hop(raw) | {b"host", b"expect", KEY_HEADER.lower().encode()} | (frozenset() if body else {b"content-length"})
    )
    typed = [(name, kind.encode() if kind and name.lower() == b"content-type" else value) for name, value in raw]
    return [(name, value) for name, value in typed if name.lower() not in left_out and not _is_own(name)]


def _is_own(name: bytes) -> bool:
    """Whether a header is one that the gate alone writes, also as servers read it that take ``_`` for ``-``."""
    return name.lower().replace(b"_", b"-").startswith(OWN)


async def _stream(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    finally:
        await answer.aclose()
