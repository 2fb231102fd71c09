"""What the routes share: the handlers, the images that a request brings, the kind of answer that it asks for."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

from fastapi import Request

from facesieve.errors import InputError
from facesieve.faces import Finish, check_finish
from facesieve.service.handlers import Handlers
from facesieve.service.problems import ProblemError
from facesieve.service.request_body import images_of, read_body
from facesieve.service.settings import Format

JSON = "application/json"
FORMATS: dict[str, Format] = {"image/png": "png", "image/jpeg": "jpeg", "image/webp": "webp"}
_QUALITY = re.compile(r"[01](\.\d{0,3})?")


def handlers_of(request: Request) -> Handlers:
    """Those of the application."""
    handlers: Handlers = request.app.state.handlers
    return handlers


async def images_in(request: Request, preset: str | None = None) -> dict[str, list[bytes]]:
    """The images in a request by field name. Raises 503 where there is no place for one, before the body is read."""
    handlers = handlers_of(request)
    handlers.check_place(preset)
    body = await read_body(request, handlers.settings.max_bytes, handlers.settings.body_timeout_s)
    return await asyncio.to_thread(images_of, body, request.headers.get("content-type", ""))


def only(images: dict[str, list[bytes]], *names: str) -> list[bytes]:
    """One image for each name, and nothing else. Raises ``InputError``."""
    if set(images) != set(names) or any(len(images[name]) != 1 for name in names):
        raise InputError(f"send one image as {' and one as '.join(names)}, and nothing else; settings go into the query")
    return [images[name][0] for name in names]


def several(images: dict[str, list[bytes]], most: int) -> list[bytes]:
    """Photographs that all come as ``file``, and nothing else. Raises ``InputError``."""
    if set(images) != {"file"} or not 1 <= len(images["file"]) <= most:
        raise InputError(f"send 1 to {most} photographs, each as file, and nothing else")
    return images["file"]


def format_of(request: Request, wanted: Format | None) -> Format | None:
    """The format that is asked for by name. Raises ``InputError`` for one that this service does not give."""
    allowed = handlers_of(request).settings.image_formats
    if wanted is not None and wanted not in allowed:
        raise InputError(f"format: this service gives {', '.join(allowed)}")
    return wanted


def finish_of(request: Request, wanted: Finish | None) -> Finish:
    """How faces are put back. Raises ``InputError`` for a way that this service does not allow."""
    allowed = handlers_of(request).settings.finishes
    if wanted is not None and wanted not in allowed:
        raise InputError(f"face: this service puts faces back as {', '.join(allowed)}")
    return wanted or check_finish(allowed[0])


def wanted_answer(request: Request, format: Format | None, *, json_only: bool = False) -> tuple[bool, Format]:
    """Whether JSON is asked for, and the format of images: ``format``, else what ``Accept`` likes best.

    Raises 406 where ``Accept`` takes nothing of what there is.
    """
    allowed = handlers_of(request).settings.image_formats
    images = [f"image/{one}" for one in ([format] if format_of(request, format) else allowed)]
    offered = [JSON] if json_only else [*images, JSON]
    found = best_type(", ".join(request.headers.getlist("accept")), offered)
    if found is None:
        raise ProblemError(406, "not-acceptable", f"there is {' and '.join(offered)} here")
    return found == JSON, format or FORMATS.get(found) or FORMATS[f"image/{allowed[0]}"]


def best_type(accept: str, offered: Sequence[str]) -> str | None:
    """The media type of ``offered`` that ``Accept`` prefers (RFC 9110, 12.5.1), or None where it takes none.

    Of those that it likes equally, the one that it names first, and then the first that is offered. Without the header
    everything is taken.
    """
    ranges = [_range(part) for part in accept.split(",") if part.strip()] or [("*/*", 1.0)]
    names = [name for name, _ in ranges]

    def liking(kind: str) -> tuple[float, int]:
        wanted = next((one for one in (kind, kind.partition("/")[0] + "/*", "*/*") if one in names), None)
        return (0.0, 0) if wanted is None else (ranges[names.index(wanted)][1], -names.index(wanted))

    best = max(offered, key=liking)
    return best if liking(best)[0] > 0 else None


def _range(part: str) -> tuple[str, float]:
    """A media range and its quality, 0 where that cannot be read."""
    name, *parameters = (word.strip().lower() for word in part.split(";"))
    quality = next((value[2:].strip() for value in parameters if value.startswith("q=")), "1")
    return name, min(float(quality), 1.0) if _QUALITY.fullmatch(quality) else 0.0
