"""A proxy in front of a face recognition server: the photographs in its calls are purified, everything else passes.

CompreFace (https://github.com/exadel-inc/CompreFace): multipart ``file``, ``source_image``,
``target_image``, or the same names in JSON with base64, under ``/api/v1/recognition``,
``/api/v1/detection`` and ``/api/v1/verification``. DeepFace's API (https://github.com/serengil/deepface):
``img``, ``img1``, ``img2`` in JSON as data URIs or base64, or as multipart files, to ``/represent``,
``/verify``, ``/analyze``, ``/register`` and ``/search``.

What a shield lets through unseen is a hole, so a call to such an address is refused if its
body cannot be read with certainty: another content type, a compressed body, a name that comes
twice, an image by its path or address instead of its bytes.
"""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import httpx
from fastapi import FastAPI, Request, Response
from starlette.responses import StreamingResponse

from facesieve.errors import NoFaceError
from facesieve.service.access import check_key, unless_gone
from facesieve.service.app import bare_app
from facesieve.service.handlers import Format, Handlers
from facesieve.service.keys import Keys
from facesieve.service.problems import ProblemError
from facesieve.service.proxy_json import members_of
from facesieve.service.request_body import (
    Part,
    boundary_of,
    decode_image,
    join_parts,
    json_text,
    media_type,
    parts_of,
    read_body,
)

T = TypeVar("T")

PREFIX = "/facesieve"  # of the proxy's own health and figures
KEY_HEADER = b"x-facesieve-key"
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection te trailer transfer-encoding upgrade proxy-authenticate proxy-authorization".split()
)


@dataclass(frozen=True)
class Kind:
    """Which calls of a server hold photographs, and under which names."""

    path: re.Pattern[str]
    names: frozenset[str]
    elsewhere: frozenset[str] = frozenset()  # names that give an image by path or address


KINDS = {
    "compreface": Kind(
        re.compile(r"(?:.*/)?api/v1/(?:recognition|detection|verification)/.*"),
        frozenset({"file", "source_image", "target_image"}),
    ),
    "deepface": Kind(
        re.compile(r"(?:.*/)?(?:represent|verify|analyze|register|search)"),
        frozenset({"img", "img1", "img2"}),
        frozenset({"img_path", "img1_path", "img2_path"}),
    ),
}


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
        own = request.headers.get(KEY_HEADER.decode())
        name = check_key(keys, own, "purify")
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
        self._base = httpx.URL(settings.upstream or "")
        wanted = KINDS if settings.upstream_kind == "both" else {settings.upstream_kind: KINDS[settings.upstream_kind]}
        self._kinds = tuple(wanted.values())
        # Connections are not kept: one that the server behind closes as it is used again would fail a call.
        limits = httpx.Limits(max_connections=settings.max_requests, max_keepalive_connections=0)
        # trust_env: a proxy or a .netrc of the environment must not be asked in between
        self._client = httpx.AsyncClient(timeout=settings.upstream_timeout_s, limits=limits, trust_env=False)

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()

    async def handle(self, request: Request) -> Response:
        """Purify what is to be purified, ask the server behind, stream its answer."""
        kind = self._kind(request)
        if kind is None:
            stated = "content-length" in request.headers or "transfer-encoding" in request.headers
            return await self._ask(request, _headers(request, body=True), request.stream() if stated else None)
        body = await read_body(request, self._settings.max_bytes, self._settings.body_timeout_s)
        purified = await unless_gone(request, self._purified(request, kind, body)) if body else body
        headers = [*_headers(request, body=False), (b"content-length", str(len(purified)).encode())]
        return await self._ask(request, headers, purified)

    def _kind(self, request: Request) -> Kind | None:
        """The kind of call, if it can hold photographs."""
        if request.method not in {"POST", "PUT", "PATCH"}:
            return None
        path = plain_path(request.scope["path"])
        return next((kind for kind in self._kinds if kind.path.fullmatch(path)), None)

    async def _ask(
        self, request: Request, headers: list[tuple[bytes, bytes]], content: bytes | AsyncIterator[bytes] | None
    ) -> Response:
        path = request.scope.get("raw_path") or request.scope["path"].encode()
        query = request.scope["query_string"]
        target = self._base.raw_path.rstrip(b"/") + path + (b"?" + query if query else b"")
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
        response.raw_headers = [(n.lower(), v) for n, v in answer.headers.raw if n.lower() not in _hop_by_hop(answer.headers.raw)]
        return response

    # --- the photographs in a call ----------------------------------------------------------------

    async def _purified(self, request: Request, kind: Kind, body: bytes) -> bytes:
        content_types = request.headers.getlist("content-type")
        if request.headers.getlist("content-encoding") not in ([], ["identity"]):
            raise ProblemError(415, "media-type", "a compressed body cannot be purified; send it as it is")
        if len(content_types) > 1:
            raise ProblemError(415, "media-type", "send one content type")
        content_type = "".join(content_types)
        if media_type(content_type) == "multipart/form-data":
            return await self._multipart(kind, body, content_type)
        if media_type(content_type) == "application/json":
            return await self._json(kind, body)
        raise ProblemError(415, "media-type", "images are purified in multipart/form-data and application/json alone")

    async def _multipart(self, kind: Kind, body: bytes, content_type: str) -> bytes:
        parts = parts_of(body, content_type)
        if any(_is_ambiguous(part) for part in parts):
            raise ProblemError(422, "input", "each part has one plain name in one Content-Disposition")
        _check_names([part.name for part in parts], kind)

        async def one(number: int) -> None:
            part = parts[number]
            if any(n.lower() == b"content-transfer-encoding" for n, _ in part.headers):
                raise ProblemError(422, "input", f"{part.name}: send the image's bytes, without a transfer encoding")
            if not any(b"filename" in value for _, value in part.headers):  # a field of text: base64, as in JSON
                parts[number] = replace(part, data=(await self._text(part.data.decode("latin-1"))).encode("latin-1"))
                return
            data, kind_of_image = await self._image(part.data)
            headers = tuple((n, kind_of_image.encode() if n.lower() == b"content-type" else v) for n, v in part.headers)
            parts[number] = replace(part, data=data, headers=headers)

        await _all([one(number) for number, part in enumerate(parts) if part.name in kind.names])
        return join_parts(parts, boundary_of(content_type))

    async def _json(self, kind: Kind, body: bytes) -> bytes:
        """The same text with other images: no other byte of it changes."""
        text = json_text(body)
        members = members_of(text)
        _check_names([member.name for member in members], kind)
        wanted = [member for member in members if member.name in kind.names and member.value is not None]
        values = await _all([self._value(member.value) for member in wanted])
        for member, value in reversed(list(zip(wanted, values, strict=True))):
            text = text[: member.begin] + value + text[member.end :]
        return text.encode()

    async def _value(self, value: object) -> str:
        if isinstance(value, list):
            return "[" + ", ".join([await self._value(one) for one in value]) + "]"
        return '"' + await self._text(value) + '"'

    async def _text(self, value: object) -> str:
        """Base64 of the purified image; a data URI stays one."""
        head, data = decode_image(value)
        image, kind = await self._image(data)
        return (f"data:{kind};base64," if head else "") + base64.b64encode(image).decode()

    async def _image(self, data: bytes) -> tuple[bytes, str]:
        """The purified image and its type: what it was, where that can be written, otherwise PNG."""
        format = _format_of(data)
        try:
            before = await self._handlers.cut(data)
        except NoFaceError:
            if self._settings.no_face == "refuse":
                raise
            return data, f"image/{format}"
        after = await self._handlers.restore(before)
        return await self._handlers.encode(after, format), f"image/{format}"


def plain_path(path: str) -> str:
    """A path without what servers tell apart in different ways: case, doubled and last slashes, dots, ``;parameters``."""
    parts: list[str] = []
    for segment in re.split(r"[/\\]+", path.lower()):
        part = segment.partition(";")[0]
        if part == "..":
            del parts[-1:]
        elif part not in {"", "."}:
            parts.append(part)
    return "/".join(parts)


def _format_of(data: bytes) -> Format:
    if data[:3] == b"\xff\xd8\xff":
        return "jpeg"
    return "webp" if data[:4] == b"RIFF" else "png"


_A_NAME = re.compile(rb";\s*name(\*[^=;]*)?\s*=", re.IGNORECASE)


def _is_ambiguous(part: Part) -> bool:
    """Whether servers may call this part by different names: ``name*`` (RFC 2231) or several of a kind."""
    found = [value for name, value in part.headers if name.strip().lower() == b"content-disposition"]
    return len(found) != 1 or _A_NAME.findall(found[0]) != [b""]


def _check_names(names: list[str], kind: Kind) -> None:
    """Raise 422 for an image that is not in the call, and for names that servers may read in different ways."""
    plain = [name.strip().lower() for name in names]
    if kind.elsewhere & set(plain):
        raise ProblemError(422, "input", "an image by path or address cannot be purified; send its bytes")
    for name, simple in zip(names, plain, strict=True):
        if simple in kind.names and (name != simple or plain.count(simple) > 1):
            raise ProblemError(422, "input", f"send {simple} once, under exactly this name")


async def _all(work: list[Coroutine[object, object, T]]) -> list[T]:
    """All at once, so that they share batches; if one fails the others are cancelled."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _hop_by_hop(headers: list[tuple[bytes, bytes]]) -> frozenset[bytes]:
    """Headers of one connection (RFC 9110, 7.6.1), those named in ``Connection`` among them."""
    named = (value for name, value in headers if name.lower() == b"connection")
    return _HOP_BY_HOP | {word.strip().lower() for value in named for word in value.split(b",")}


def _headers(request: Request, *, body: bool) -> list[tuple[bytes, bytes]]:
    """The headers to pass on; with ``body`` that of its length too."""
    raw: list[tuple[bytes, bytes]] = request.scope["headers"]
    left_out = _hop_by_hop(raw) | {b"host", b"expect", KEY_HEADER} | (frozenset() if body else {b"content-length"})
    return [(name, value) for name, value in raw if name.lower() not in left_out]


async def _stream(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    finally:
        await answer.aclose()
