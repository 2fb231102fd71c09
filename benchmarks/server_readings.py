"""What servers make of a request: which address they look up, and which bytes they may take for an image.

Paths by the table in ``server_readings.toml``. Forms by the parsers of Werkzeug and Starlette themselves, by what Tomcat
documents (commons-fileupload), and by a reader that takes whatever any of them might. JSON and texts as leniently as there is.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote_to_bytes

from starlette.datastructures import Headers
from starlette.formparsers import MultiPartParser
from werkzeug.formparser import FormDataParser
from werkzeug.http import parse_options_header

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # what it refuses is no news here

# --- paths ----------------------------------------------------------------------------------------


class RefusedError(Exception):
    """The server answers 400."""


def _refuse(pattern: str) -> Callable[[str], str]:
    def step(path: str) -> str:
        if re.search(pattern, path, re.IGNORECASE):
            raise RefusedError
        return path

    return step


def _decode(path: str, escapes: str = "%[0-9a-fA-F]{2}") -> str:
    plain = re.sub(escapes, lambda found: unquote_to_bytes(found.group()).decode("latin-1"), path)
    try:
        return plain.encode("latin-1").decode()
    except UnicodeError:
        return plain


def _resolve(path: str, above: bool = True) -> str:
    parts: list[str] = []
    for part in path.removeprefix("/").split("/"):
        if part == "..":
            if not (parts or above):
                raise RefusedError
            del parts[-1:]
        elif part != ".":
            parts.append(part)
    return "/" + "/".join(parts).lstrip("/")


STEPS: dict[str, Callable[[str], str]] = {
    "refuse raw controls": _refuse(r"[\0-\x1f\x7f]|%00"),
    "refuse encoded slashes": _refuse("%2f"),
    "refuse backslashes": _refuse(r"\\"),
    "without parameters": lambda path: re.sub(";[^/]*", "", path),
    "decode": _decode,
    "decode but slashes": lambda path: _decode(path, "%(?!2[fF])[0-9a-fA-F]{2}"),
    "turn backslashes": lambda path: path.replace("\\", "/"),
    "merge slashes": lambda path: re.sub("/{2,}", "/", path),
    "resolve dots": _resolve,
    "resolve dots below the root": lambda path: _resolve(path, above=False),
    "without last slash": lambda path: path.removesuffix("/") or "/",
    "without suffix": lambda path: re.sub(r"(?<=[^/.])\.\w+$", "", path),
    "without dots at the end": lambda path: "/".join(part.rstrip(". ") for part in path.split("/")),
    "in small letters": str.lower,
    "up to a control character": lambda path: re.split(r"[\0-\x1f]", path)[0],
}


@dataclass(frozen=True)
class Server:
    """One row of the table."""

    name: str
    source: str
    steps: tuple[str, ...]
    reads: tuple[tuple[str, str], ...]

    def address(self, raw: bytes) -> str | None:
        """What is looked up for a path; None where the server refuses it."""
        path = raw.decode("latin-1")
        try:
            for step in self.steps:
                path = STEPS[step](path)
        except RefusedError:
            return None
        return path


def servers() -> list[Server]:
    """The table."""
    rows = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))["server"]
    return [Server(row["name"], row["source"], tuple(row["steps"]), tuple(map(tuple, row["reads"]))) for row in rows]


# --- bodies ---------------------------------------------------------------------------------------

Contents = Iterator[bytes]


def by_werkzeug(content_type: str, body: bytes) -> Contents:
    """What Werkzeug's own parser finds in a form."""
    kind, options = parse_options_header(content_type)
    try:
        _, form, files = FormDataParser(silent=False).parse(BytesIO(body), kind, len(body), options)
    except ValueError:
        return
    yield from (value.encode("utf-8", "replace") for _, value in form.items(multi=True))
    yield from (file.read() for _, file in files.items(multi=True))


def by_starlette(content_type: str, body: bytes) -> Contents:
    """What Starlette's own parser, python-multipart, finds in a form."""

    async def stream() -> Any:
        yield body

    async def parsed() -> list[bytes]:
        form = await MultiPartParser(Headers({"content-type": content_type}), stream()).parse()
        return [value.encode() if isinstance(value, str) else await value.read() for _, value in form.multi_items()]

    if content_type.lower().startswith("multipart/form-data"):
        try:
            yield from asyncio.run(parsed())
        except Exception:  # whatever its parser raises: such a request is refused there
            return


def by_tomcat(content_type: str, body: bytes) -> Contents:
    """What Tomcat's (commons-fileupload's) documentation says: lines end in CRLF, headers fold, mixed parts nest."""
    found = re.search(r"[;,]\s*boundary\s*=\s*(?:\"([^\"]*)\"|([^;,]*))", content_type, re.IGNORECASE)
    if not content_type.lower().startswith("multipart/") or not found:
        return
    line = b"--" + (found[1] or found[2] or "").strip().encode("latin-1", "replace")
    for piece in (b"\r\n" + body).split(b"\r\n" + line)[1:]:
        if piece.startswith(b"--"):
            return
        head, blank, content = piece.partition(b"\r\n\r\n")
        if piece.startswith(b"\r\n") and blank:
            yield content
            nested = re.search(rb"content-type\s*:\s*(multipart/mixed[^\r\n]*)", head, re.IGNORECASE)
            if nested:
                yield from by_tomcat(nested[1].decode("latin-1"), content)


def leniently(content_type: str, body: bytes, depth: int = 0) -> Contents:
    """Whatever stands between lines of any boundary that the content type may name, whichever the ends of lines."""
    for found in re.finditer(r"boundary\s*\*?=\s*(?:utf-8'')?(?:\"((?:[^\"\\]|\\.)*)\"|([^;,\s]*))", content_type, re.IGNORECASE):
        name = re.sub(r"\\(.)", r"\1", found[1] or found[2] or "").encode("latin-1", "replace")
        pieces = re.split(rb"(?:\A|[\r\n]+)--" + re.escape(name) + rb"(?:--)?[ \t]*(?=[\r\n]|\Z)", body) if name else []
        for piece in pieces:
            for content in re.split(rb"\r\n\r\n|\n\n|\r\r", piece, maxsplit=1)[1:]:
                yield content
                head = piece[: -len(content) or None]
                if depth < 3 and (nested := re.search(rb"content-type\s*:\s*(multipart/[^\r\n]*)", head, re.IGNORECASE)):
                    yield from leniently(nested[1].decode("latin-1"), content, depth + 1)


FORMS = {"Werkzeug": by_werkzeug, "Starlette": by_starlette, "Tomcat": by_tomcat, "lenient": leniently}


def contents(content_type: str, body: bytes) -> Contents:
    """All that any of the servers may take for an image in a body, texts decoded."""
    kind = content_type.partition(";")[0].strip().lower()
    found = [body]
    if kind.startswith("multipart/"):
        found += [content for read in FORMS.values() for content in read(content_type, body)]
    if kind == "application/x-www-form-urlencoded":
        found += [value.encode() for _, value in parse_qsl(body.decode("latin-1"), keep_blank_values=True)]
    for content in found:
        yield content
        yield from _of_text(content)


def _of_text(text: bytes, depth: int = 0) -> Contents:
    for candidate in (text, *([text.split(b",")[1]] if text.lstrip()[:5].lower() == b"data:" and b"," in text else [])):
        try:
            yield base64.b64decode(candidate.replace(b"-", b"+").replace(b"_", b"/") + b"==")
        except ValueError:
            continue
    if depth < 6 and text.strip()[:1] in {b"{", b"[", b'"', b"\xff", b"\xfe", b"\0", b"\xef"}:
        try:
            value = json.loads(text, object_pairs_hook=lambda members: [value for _, value in members])
        except (ValueError, RecursionError):
            return
        for one in _texts(value):
            yield from _of_text(one.encode("utf-8", "replace"), depth + 1)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)
