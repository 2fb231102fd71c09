"""Request bodies in memory: read up to a limit, taken apart, put together again. Nothing is written to disk.

Multipart bodies are parsed by python-multipart; its and Starlette's form reading would spool large
files to disk, so only the parser is used. Both kinds of body are bounded in pieces, not in bytes alone: a body of many
small pieces takes far longer than one of the same size that holds a photograph. Still it is work for a thread, not
for the event loop.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from facesieve.service.problems import ProblemError

PIECES = 64  # most parts of a form, and most members and values of a JSON body
_IN_BASE64 = b"".join(bytes([n]) for n in range(33))  # blanks and line ends, which base64 may be broken with
_DECODED_AT_A_TIME = 2**20  # characters: one call of the decoder holds up every other thread
_ESCAPED = 32  # a backslash in so many characters is as many as an encoder that writes every / as \\/ needs, twice over


@dataclass(frozen=True)
class Part:
    """One part of a multipart body, with its headers as they came."""

    name: str
    data: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


def unusable(detail: str) -> ProblemError:
    """422 for a body that cannot be taken apart."""
    return ProblemError(422, "input", detail)


def media_type(content_type: str) -> str:
    """``Image/PNG; x=y`` as ``image/png``."""
    return content_type.partition(";")[0].strip().lower()


async def read_body(request: Request, limit: int, seconds: float) -> bytes:
    """The whole body. Raises 413 above ``limit`` bytes, as soon as that is known, and 408 after ``seconds``."""
    too_large = ProblemError(413, "too-large", f"the body is larger than {limit:,} bytes")
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > limit:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise too_large
    except TimeoutError:
        raise slow_body(seconds) from None
    return bytes(body)


def slow_body(seconds: float) -> ProblemError:
    """408 for a body that takes longer than ``seconds``."""
    return ProblemError(408, "slow-body", f"the body did not arrive within {seconds:g} s")


# --- multipart ----------------------------------------------------------------------------------


def boundary_of(content_type: str) -> bytes:
    """The boundary that a multipart content type names."""
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise unusable("multipart without a boundary in its content type")
    return boundary


@dataclass
class _Gathering:
    """What the parser's callbacks put together."""

    most: int
    parts: list[Part] = field(default_factory=list)
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    header: list[bytes] = field(default_factory=lambda: [b"", b""])
    data: bytearray = field(default_factory=bytearray)
    ended: bool = False

    def begin(self) -> None:
        if len(self.parts) == self.most:
            raise unusable(f"the multipart body has more than {self.most} parts")
        self.headers, self.header, self.data = [], [b"", b""], bytearray()

    def header_name(self, data: bytes, begin: int, end: int) -> None:
        self.header[0] += data[begin:end]

    def header_value(self, data: bytes, begin: int, end: int) -> None:
        self.header[1] += data[begin:end]

    def header_end(self) -> None:
        self.headers.append((self.header[0], self.header[1]))
        self.header = [b"", b""]

    def content(self, data: bytes, begin: int, end: int) -> None:
        self.data += data[begin:end]

    def end(self) -> None:
        disposition = next((value for name, value in self.headers if name.lower() == b"content-disposition"), b"")
        name = parse_options_header(disposition)[1].get(b"name")
        if name is None:
            raise unusable("a part of the multipart body has no name")
        self.parts.append(Part(name.decode("utf-8", "replace"), bytes(self.data), tuple(self.headers)))

    def close(self) -> None:
        self.ended = True


def parts_of(body: bytes, content_type: str, *, most: int = PIECES) -> list[Part]:
    """The parts of a multipart body. Raises 422 where it is malformed, cut off, or has more than ``most``."""
    boundary, found = boundary_of(content_type), _Gathering(most)
    callbacks = {
        "on_part_begin": found.begin,
        "on_part_data": found.content,
        "on_part_end": found.end,
        "on_header_field": found.header_name,
        "on_header_value": found.header_value,
        "on_header_end": found.header_end,
        "on_end": found.close,
    }
    try:
        parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise unusable("the multipart body is malformed") from None
    if not found.ended:
        raise unusable("the multipart body is cut off")
    return found.parts


def join_parts(parts: Sequence[Part], boundary: bytes) -> bytes:
    """The parts as a body again: exactly what was parsed, nothing else."""
    body = bytearray()
    for part in parts:
        headers = b"".join(name + b": " + value + b"\r\n" for name, value in part.headers)
        body += b"--" + boundary + b"\r\n" + headers + b"\r\n" + part.data + b"\r\n"
    return bytes(body + b"--" + boundary + b"--\r\n")


# --- JSON ---------------------------------------------------------------------------------------


def json_object(body: bytes, *, most: int = PIECES) -> dict[str, Any]:
    """The one JSON object in ``body``. Raises 422 for anything else, a name that comes twice, more than ``most`` values."""
    check_pieces(body, most)
    try:
        found = json.loads(json_text(body), object_pairs_hook=distinct)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise unusable("the body is not one JSON object")
    return found


def check_pieces(body: bytes, most: int) -> None:
    """Raise 422 for a JSON body of more than ``most`` values, by counting what separates them; before it is parsed.

    The parser runs through the body in one call, in which no other thread does anything. Base64 holds none of the signs that
    are counted, and texts of other kinds hold few.
    """
    signs = sum(body.count(sign) for sign in (b",", b":", b"[", b"{"))
    if signs > 4 * most or body.count(b'"') > 8 * most or body.count(b"\\") > len(body) // _ESCAPED + 8 * most:
        raise unusable(f"the JSON body has more than {most} values, or too many signs in them")


def distinct(members: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, for ``json.loads``. Raises 422 for a name that comes twice."""
    found = dict(members)
    if len(found) < len(members):
        raise unusable("a name comes twice in a JSON object")
    return found


def json_text(body: bytes) -> str:
    """The text of a JSON body, which is UTF-8 (RFC 8259)."""
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        raise unusable("the JSON body is not UTF-8") from None


def decode_image(value: object) -> tuple[str, bytes]:
    """Base64, alone or as a data URI: what stands before the base64, and the bytes. Raises 422 for anything else."""
    if not isinstance(value, str):
        raise unusable("an image in JSON is a text of base64, alone or as a data URI")
    head, data = "", value
    if value[:5].lower() == "data:":
        head, comma, data = value.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise unusable("a data URI needs ;base64, and the image after it")
        head += ","
    try:
        return head, _from_base64(data)
    except (binascii.Error, ValueError):
        raise unusable("an image in JSON is base64; a path or an address cannot be taken") from None


def _from_base64(text: str) -> bytes:
    """Decoded in pieces, so that other threads have their turn. Raises ``ValueError`` for anything but base64."""
    plain, step = text.encode("ascii").translate(None, _IN_BASE64), _DECODED_AT_A_TIME
    if b"=" in plain[:-2]:
        raise ValueError("padding before the end")
    return b"".join(base64.b64decode(plain[at : at + step], validate=True) for at in range(0, len(plain), step))


# --- what a request brings ----------------------------------------------------------------------


def images_of(body: bytes, content_type: str, *, most: int = PIECES) -> dict[str, list[bytes]]:
    """The images in a request by field name; the body of an image type alone is the field ``file``. Work for a thread.

    Raises 415 for another content type, 422 for a body that cannot be taken apart or holds more than ``most`` images.
    """
    kind, images = media_type(content_type), dict[str, list[bytes]]()
    if kind == "multipart/form-data":
        for part in parts_of(body, content_type, most=most):
            images.setdefault(part.name, []).append(part.data)
    elif kind == "application/json":
        for name, value in json_object(body, most=most).items():
            images[name] = [decode_image(one)[1] for one in (value if isinstance(value, list) else [value])]
    elif kind.startswith("image/") or kind == "application/octet-stream":
        images["file"] = [body]
    else:
        raise ProblemError(415, "media-type", "send multipart/form-data, application/json with base64, or the image itself")
    return images
