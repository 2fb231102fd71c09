"""Which calls of a server hold photographs, which are passed unseen, and which are neither: the gate's table.

A route is written in one line, ``POST /recognize field=image``: a method, or ``*`` for any; a path, in which ``*``
stands for one segment and ``**`` for all that follows; ``field=NAME`` for each name under which an image must be sent,
``address=NAME`` for names that give an image by its path or address, and ``body=image`` where the body itself may be one. The
known servers are such lines, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from facesieve.service.gate_path import readings, refused
from facesieve.service.settings import Settings

_COMPREFACE = "field=file field=source_image field=target_image"
_DEEPFACE = "field=img field=img1 field=img2 address=img_path address=img1_path address=img2_path"

KINDS: dict[str, tuple[str, ...]] = {
    # https://github.com/exadel-inc/CompreFace
    "compreface": tuple(f"* /api/v1/{name}/** {_COMPREFACE}" for name in ("recognition", "detection", "verification")),
    # https://github.com/serengil/deepface
    "deepface": tuple(f"* /{name} {_DEEPFACE}" for name in ("represent", "verify", "analyze", "register", "search")),
}
KINDS["both"] = KINDS["compreface"] + KINDS["deepface"]
KINDS["none"] = ()

_METHOD = re.compile(r"\*|[A-Z]{3,10}")
_PATH = re.compile(r"(?:/(?:\*\*?|[A-Za-z0-9._~-]+))+")
_WORD = re.compile(r"(field|address)=([A-Za-z0-9_]+)|(body)=(image)")


@dataclass(frozen=True)
class Route:
    """A line of the table."""

    method: str
    path: re.Pattern[str]
    line: str
    names: frozenset[str] = frozenset()
    elsewhere: frozenset[str] = frozenset()  # names that give an image by path or address
    raw: bool = False  # the body itself may be an image

    def fits(self, method: str, path: str) -> bool:
        """Whether it covers a call; ``path`` as one of ``readings``."""
        return self.method in {"*", method} and self.path.fullmatch(path) is not None


def parse_route(line: str, *, anywhere: bool = True) -> Route:
    """The route that a line describes; ``anywhere`` lets the path stand below any other. Raises ``ValueError``."""
    method, _, rest = line.strip().partition(" ")
    path, *words = rest.split() or [""]
    found = [_WORD.fullmatch(word) for word in words]
    if not _METHOD.fullmatch(method) or not _PATH.fullmatch(path) or "/**/" in path or not all(found):
        raise ValueError(f"{line!r} is no route; write it as 'POST /recognize field=image'")
    of = {kind: frozenset(word[2] for word in found if word and word[1] == kind) for kind in ("field", "address")}
    raw = any(word and word[3] for word in found)
    return Route(method, _pattern(path, anywhere), " ".join(line.split()), of["field"], of["address"], raw)


def _pattern(path: str, anywhere: bool) -> re.Pattern[str]:
    segments = {"*": "[^/]+", "**": ".*"}
    parts = [segments.get(part, re.escape(part)) for part in path.lower().strip("/").split("/")]
    return re.compile(("(?:.*/)?" if anywhere else "") + "/".join(parts), re.DOTALL)


class Routes:
    """The table of one gate. ``base`` is the path of the server behind, to which a call's path is added."""

    def __init__(self, shielded: Iterable[str], passed: Iterable[str] = (), base: str = "") -> None:
        self.shielded = [parse_route(line) for line in shielded]
        self.passed = [parse_route(line, anywhere=False) for line in passed]
        self._base = base.rstrip("/").encode()

    def of(self, method: str, raw_path: bytes) -> Route | None:
        """The shielded route of a call with a body; of several that fit, all their names together.

        Raises 400 for a path that some servers would read as a shielded address and others not.
        """
        ways = readings(self._base + raw_path)
        fitting = [[route for route in self.shielded if route.fits(method, way)] for way in ways]
        if not any(fitting):
            return None
        if not all(fitting):
            raise refused("is one address to one server and another to the next")
        found = [route for routes in fitting for route in routes]
        return replace(
            found[0],
            names=frozenset[str]().union(*(route.names for route in found)),
            elsewhere=frozenset[str]().union(*(route.elsewhere for route in found)),
            raw=all(route.raw for route in found),
        )

    def passes(self, method: str, raw_path: bytes) -> bool:
        """Whether a call that is not shielded is passed unseen."""
        return bool(self.passed) and all(any(route.fits(method, way) for route in self.passed) for way in readings(raw_path))

    def lines(self) -> list[str]:
        """The table for people, one line a route."""
        return [
            *(f"shielded  {route.line}" for route in self.shielded),
            *(f"unseen    {route.line}" for route in self.passed),
            "anything else: refused where it holds an image",
        ]


def routes_of(settings: Settings) -> Routes:
    """The table that the settings ask for."""
    known = KINDS[settings.upstream_kind]
    return Routes([*known, *settings.upstream_route], settings.upstream_pass, urlsplit(settings.upstream or "").path)
