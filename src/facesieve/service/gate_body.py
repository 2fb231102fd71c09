"""The images in a body, and the body with others in their place.

A body becomes a list of pieces: bytes that stay as they are, and slots, each of an image. At a shielded address every image is
a slot, whatever it is called; a body that cannot be read in one way alone is refused. Elsewhere there must be no image.
All of this is work for a thread, not for the event loop.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any
from urllib.parse import unquote_to_bytes

from facesieve.service.gate_images import SHORTEST_TEXT, has_file_inside, has_text_inside, is_image, is_text_of_image
from facesieve.service.gate_parts import checked_parts, head_of, is_file
from facesieve.service.gate_routes import Route
from facesieve.service.problems import ProblemError
from facesieve.service.request_body import Part, check_pieces, decode_image, distinct, join_parts, json_text, media_type, unusable

DEEPEST = 4  # JSON within a text of JSON, and so on
MOST_VALUES = 20_000  # in a JSON body
MOST_TEXTS = 100_000  # in a body that is looked through
MOST_FIELDS, MOST_ESCAPES = 100_000, 1_000_000  # in a form
_JSON = ("{", "[", '"')
_BLANK = "\ufeff \t\r\n\f\v"
_FORM = re.compile(rb"\s*+[\w.\[\]%+*~-]{1,200}=")
_NAME_ENDS = re.compile(r"[ \t\r\n]*:")


@dataclass(frozen=True)
class Slot:
    """The place of an image in a body; ``write`` puts another one into the form that it had there, with a new type if given."""

    image: bytes
    write: Callable[[bytes, str | None], bytes]


Pieces = list[bytes | Slot]


def slots_of(pieces: Sequence[bytes | Slot]) -> list[Slot]:
    """The slots alone."""
    return [piece for piece in pieces if isinstance(piece, Slot)]


def filled(pieces: Sequence[bytes | Slot], images: Sequence[tuple[bytes, str | None]]) -> bytes:
    """The body with these images and their types in its slots, in order."""
    left = iter(images)
    return b"".join(piece.write(*next(left)) if isinstance(piece, Slot) else piece for piece in pieces)


# --- at a shielded address ------------------------------------------------------------------------


def shielded_body(body: bytes, content_type: str, route: Route) -> Pieces:
    """A body's pieces. Raises 415 for content types whose images cannot be found, 422 for what cannot be read with certainty."""
    kind = media_type(content_type)
    if kind == "multipart/form-data":
        return _of_parts(body, content_type, route)
    if kind == "application/json":
        if not re.fullmatch(r"[^;]*(;\s*charset=\"?utf-8\"?\s*)?", content_type, re.IGNORECASE):
            raise ProblemError(415, "media-type", "send JSON in UTF-8")
        return _of_json(body, route)
    if route.raw and is_image(body):
        return [Slot(body, lambda image, _: image)]
    known = "multipart/form-data and application/json" + (", or as the body itself" if route.raw else " alone")
    raise ProblemError(415, "media-type", f"images are purified in {known}")


def _of_parts(body: bytes, content_type: str, route: Route) -> Pieces:
    parts, boundary = checked_parts(body, content_type, plain_names=True)
    _check_names([part.name for part in parts], route)
    return [*(piece for part in parts for piece in _of_part(part, boundary, route)), b"--" + boundary + b"--\r\n"]


def _of_part(part: Part, boundary: bytes, route: Route) -> Pieces:
    """An image, a text with images in it, or neither."""
    if (is_file(part) and part.data) or is_image(part.data):
        return [Slot(part.data, lambda image, kind: head_of(part, boundary, kind) + image), b"\r\n"]
    pieces: list[str | Slot] = []
    with suppress(UnicodeDecodeError):
        pieces = _of_text(part.data.decode(), part.name)
    if part.name in route.names and not is_file(part):
        _require_image(part.data.decode("latin-1"), part.name)
    if any(isinstance(piece, Slot) for piece in pieces):
        return [head_of(part, boundary), *_as_bytes(pieces), b"\r\n"]
    if _holds_image(part.data):
        raise _not_alone(part.name)
    return [head_of(part, boundary), part.data, b"\r\n"]


def _of_json(body: bytes, route: Route) -> Pieces:
    check_pieces(body, MOST_VALUES)
    text = json_text(body)
    value = _json_value(text)
    if isinstance(value, dict):
        _check_names(list(value), route)
        for name in route.names & set(value):
            for one in value[name] if isinstance(value[name], list) else [value[name]]:
                if one is not None:
                    _require_image(one, name)
    return _as_bytes(_of_json_text(text, 0))


def _json_value(text: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=distinct)
    except (ValueError, RecursionError):
        raise unusable("the body is not JSON") from None


def _require_image(value: object, name: str) -> None:
    decode_image(value)
    if not isinstance(value, str) or not is_text_of_image(value):
        raise unusable(f"{name} is no image of a known kind")


def _check_names(names: list[str], route: Route) -> None:
    """Raise 422 for an image that is not in the call, and for names that servers may read in different ways."""
    plain = [name.strip().lower() for name in names]
    if {name.lower() for name in route.elsewhere} & set(plain):
        raise unusable("an image by path or address cannot be purified; send its bytes")
    for name, simple in zip(names, plain, strict=True):
        spelt = next((known for known in route.names if known.lower() == simple), name)
        if name != spelt or (spelt in route.names and plain.count(simple) > 1):
            raise unusable(f"send {spelt} once, under exactly this name")


# --- texts ----------------------------------------------------------------------------------------


def _of_text(text: str, name: str, depth: int = 0) -> list[str | Slot]:
    """A text's pieces: itself, an image that it is, or images in the JSON that it is."""
    if len(text) >= SHORTEST_TEXT:
        if is_text_of_image(text):
            head, image = decode_image(text)
            return [Slot(image, partial(_in_base64, head))]
        if text.lstrip().startswith(_JSON) and _is_json(text):
            return _of_json_text(text, depth + 1)
        if _text_holds_image(text, None, depth):
            raise _not_alone(name)
    return [text]


def _not_alone(name: str) -> ProblemError:
    return unusable(f"{name}: an image within something else cannot be purified; send it alone")


def _of_json_text(text: str, depth: int) -> list[str | Slot]:
    """The same text with slots in it: no other sign of it changes."""
    if depth > DEEPEST:
        raise unusable("JSON within JSON, too deep")
    pieces, done = list[str | Slot](), 0
    for value, begin, end in _texts(text):
        inside = _of_text(value, "a text", depth)
        if any(isinstance(piece, Slot) for piece in inside):
            if _NAME_ENDS.match(text, end):
                raise unusable("an image where a name belongs")
            pieces += [
                text[done : begin + 1],
                *(piece if isinstance(piece, Slot) else json.dumps(piece)[1:-1] for piece in inside),
            ]
            done = end - 1
    return [*pieces, text[done:]]


def _texts(text: str) -> Iterator[tuple[str, int, int]]:
    """The texts in JSON that may be images, each with the places of its first quotation mark and after its last."""
    begin = text.find('"')
    while begin >= 0:
        value, end = scanstring(text, begin + 1, False)
        if len(value) >= SHORTEST_TEXT:
            yield value, begin, end
        begin = text.find('"', end)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _as_bytes(pieces: Sequence[str | Slot]) -> Pieces:
    return [piece if isinstance(piece, Slot) else piece.encode() for piece in pieces]


def _in_base64(head: str, image: bytes, kind: str | None) -> bytes:
    """An image as base64; a data URI, of which ``head`` is left, stays one."""
    begin = f"data:{kind};base64," if head and kind else head
    return begin.encode() + base64.b64encode(image)


# --- elsewhere ------------------------------------------------------------------------------------


def body_without_image(body: bytes, content_type: str) -> bytes:
    """The body of a call to any other address. Raises 422 where it holds an image, or cannot be looked through."""
    if media_type(content_type).startswith("multipart/"):
        parts, boundary = checked_parts(body, content_type, plain_names=False)
        _check(not any(_holds_image(part.data) for part in parts))
        return join_parts(parts, boundary)
    _check(not _holds_image(body))
    return body


def check_query(query: bytes) -> None:
    """Raise 422 for a query that holds an image."""
    _check(not _form_holds_image(query))


def _check(fits: bool) -> None:
    if not fits:
        detail = "the call holds an image, and this address is not shielded; the settings may shield it or pass it unseen"
        raise ProblemError(422, "unshielded", detail)


def _holds_image(data: bytes) -> bool:
    """Whether bytes are an image, or hold one in any form that is known here."""
    if is_image(data) or has_file_inside(data):
        return True
    # Of UTF-16 and UTF-32 what is ASCII is left: all that base64 and the signs of JSON are made of.
    plain = data.replace(b"\0", b"") if b"\0" in data[:8] else data
    text = plain.decode("latin-1").lstrip("\xef\xbb\xbf\xff\xfe")
    return _text_holds_image(text, plain) or (_FORM.match(plain) is not None and _form_holds_image(plain))


def _form_holds_image(form: bytes) -> bool:
    if len(form) < SHORTEST_TEXT:
        return False
    if sum(map(form.count, (b"&", b";", b"="))) > MOST_FIELDS or form.count(b"%") > MOST_ESCAPES:
        raise unusable("the form has too many fields or escapes to be looked through")
    words = (unquote_to_bytes(word.replace(b"+", b" ")) for word in re.split(b"[&;=]", form) if len(word) >= SHORTEST_TEXT)
    return any(_text_holds_image(word.decode("latin-1"), word) for word in words)


def _text_holds_image(text: str, data: bytes | None = None, depth: int = 0) -> bool:
    """Whether a text is an image, or has one inside; ``data`` are its bytes, where they are at hand."""
    if is_text_of_image(text) or has_text_inside(text.encode("ascii", "replace") if data is None else data):
        return True
    if not text.lstrip(_BLANK).startswith(_JSON):
        return False
    if depth > DEEPEST or text.count('"') > 2 * MOST_TEXTS:
        raise unusable("the body has too many texts to be looked through, or they are nested too deep")
    try:
        return any(_text_holds_image(value, None, depth + 1) for value, _, _ in _texts(text))
    except ValueError:  # no JSON after all
        return False
