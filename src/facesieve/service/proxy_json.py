"""The members of a JSON object with their places in the text, so that the proxy can change some of them and no other byte.

``json`` loses positions, and would write numbers in its own way.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

from facesieve.service.request_body import unusable

_BLANKS = " \t\r\n"


@dataclass(frozen=True)
class Member:
    """One member of a JSON object: its value, and where in the text that stands."""

    name: str
    value: Any
    begin: int
    end: int


def members_of(text: str) -> list[Member]:
    """The members of the one JSON object in ``text``. Raises 422 for anything else, and for a name that comes twice."""
    decoder = json.JSONDecoder()
    try:
        found: list[Member] = []
        at = _expect(text, _skip(text, 0), "{")
        while text[at := _skip(text, at)] != "}" or found:
            name, at = scanstring(text, _expect(text, at, '"'))
            begin = _skip(text, _expect(text, _skip(text, at), ":"))
            value, at = decoder.raw_decode(text, begin)
            found.append(Member(name, value, begin, at))
            at = _skip(text, at)
            if text[at] == "}":
                break
            at = _skip(text, _expect(text, at, ","))
        if _skip(text, at + 1) != len(text):
            raise ValueError
    except (ValueError, IndexError, RecursionError):
        raise unusable("the body is not one JSON object") from None
    if len({member.name for member in found}) < len(found):
        raise unusable("a name comes twice in the JSON object")
    return found


def _skip(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BLANKS:
        at += 1
    return at


def _expect(text: str, at: int, character: str) -> int:
    if text[at] != character:
        raise ValueError
    return at + 1
