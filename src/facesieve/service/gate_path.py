"""The path of a request, in every way in which a server may read it.

Servers differ: some strip ``;parameters``, some decode ``%2f`` to a slash, or twice, some resolve dots before they look
an address up, some after. So a path is no single address here but the set of all that one server or another would look up.
The gate decides by the whole set: where some of them are shielded and others are not, the call is refused.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from urllib.parse import unquote_to_bytes

from facesieve.service.problems import ProblemError

MOST = 64  # ways of reading one path; what has more is written to confuse

_ESCAPE = re.compile(rb"%[0-9a-fA-F]{2}")
_KEPT = [re.compile(rb"%(?!" + kept + rb")[0-9a-fA-F]{2}") for kept in (b"2[fF]|5[cC]", b"2[fF]", b"5[cC]")]
_NO_ESCAPE = re.compile(rb"%(?![0-9a-fA-F]{2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def refused(reason: str) -> ProblemError:
    """400 for a path that cannot be read with certainty."""
    return ProblemError(400, "input", f"the path {reason}; write it plainly")


def check_path(raw: bytes) -> None:
    """Raise 400 for what is no path, and for control characters, however often encoded: servers drop them, or end there."""
    if not raw.startswith(b"/") or b"#" in raw:
        raise refused("is no plain path from the root")
    for _ in range(MOST):
        if _CONTROL.search(raw.decode("utf-8", "replace")):
            raise refused("holds a control character")
        plain = unquote_to_bytes(raw)
        if plain == raw:
            return
        raw = plain
    raise refused("is encoded too often")


def readings(raw: bytes) -> frozenset[str]:
    """Every address that a server may look up for a path as it was sent: in small letters, without empty segments.

    Raises 400 for broken escapes, bytes that are not UTF-8 and paths with more than ``MOST`` readings.
    """
    if _NO_ESCAPE.search(raw):
        raise refused("holds a % that begins no escape")
    before = {
        raw,
        *(strip(raw.decode("latin-1")).encode("latin-1") for strip in (_without_parameters, _without_longer_parameters)),
    }
    decoded = {plain for path in before for plain in (unquote_to_bytes(path), *_decoded_in_part(path))}
    waiting = [_text(path).lower() for path in decoded]
    found = set[str]()
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += [step(path) for step in _STEPS]
        if len(found) > MOST:
            raise refused("can be read in too many ways")
    return frozenset("/".join(part for part in path.split("/") if part) for path in found)


def _text(path: bytes) -> str:
    try:
        return path.decode()
    except UnicodeDecodeError:
        raise refused("is not UTF-8") from None


def _decoded_in_part(path: bytes) -> list[bytes]:
    """As servers do that leave encoded slashes, of one kind or both, as they are."""
    return [escapes.sub(lambda found: unquote_to_bytes(found.group()), path) for escapes in _KEPT]


def _decoded(path: str) -> str:
    return _text(unquote_to_bytes(path)).lower() if _ESCAPE.search(path.encode()) else path


def _without_parameters(path: str) -> str:
    return re.sub(r";[^/\\]*", "", path)


def _without_longer_parameters(path: str) -> str:
    """As servers do to which a backslash is no slash."""
    return re.sub(r";[^/]*", "", path)


def _without_all_after(path: str) -> str:
    """Up to the first parameter: what servers do that know them in the last segment alone."""
    return path.partition(";")[0]


def _without_query(path: str) -> str:
    """As it is after a proxy that decodes it and has it taken apart again."""
    return re.split("[?#]", path)[0]


def _with_slashes(path: str) -> str:
    return path.replace("\\", "/")


def _without_dots(path: str) -> str:
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in {"", "."}:
            parts.append(part)
    return "/".join(parts)


def _one_form(path: str) -> str:
    """Letters of full width and the like as plain ones: what a server that compares without case may take for the same."""
    return unicodedata.normalize("NFKC", path).casefold()


def _without_ends(path: str) -> str:
    """Without the blanks and dots that end a segment, as on Windows."""
    return "/".join(part if part in {".", ".."} else part.rstrip(". ").strip() for part in path.split("/"))


def _without_suffix(path: str) -> str:
    """``/represent.json`` as ``/represent``."""
    return re.sub(r"(?<=[^/.])\.\w+/*$", "", path)


_STEPS: tuple[Callable[[str], str], ...] = (
    _decoded,
    _without_parameters,
    _without_longer_parameters,
    _without_all_after,
    _without_query,
    _with_slashes,
    _without_dots,
    _one_form,
    _without_ends,
    _without_suffix,
)
