"""The parts of a form as every server reads them: what two servers could take apart differently is refused.

Servers differ in line ends, in folded headers, in what stands before the first and after the last part, in quotes and
escapes, and in which of two names or boundaries counts. None of that is let through, and what is passed on is written anew
from the parts.
"""

from __future__ import annotations

import re

from facesieve.service.request_body import Part, boundary_of, join_parts, parts_of, unusable

MOST_PARTS = 1000
NAME = re.compile(r"[A-Za-z0-9_]+")

_MULTIPART = re.compile(r"multipart/[a-z-]+((?:\s*;\s*[a-z-]+=(?:\"[^\"\\]*\"|[^\s\";,]+))+)\s*", re.IGNORECASE)
_BOUNDARY = re.compile(r";\s*boundary=\"?([A-Za-z0-9'()+_,./:=?-]{1,70})\"?(?=\s*(?:;|$))", re.IGNORECASE)
_DISPOSITION = re.compile(
    rb"form-data\s*;\s*name=(?:\"([^\"\\]*)\"|([^\s\";=]+))"
    rb"(?P<file>\s*;\s*filename=(?:\"[^\"]*\"|[^\s\";=]+))?(?P<other>\s*;\s*filename\*=[^\s\";]+)?\s*",
    re.IGNORECASE,
)
_TYPE = re.compile(rb"[\w!#$&^.+-]+/[\w!#$&^.+-]+(?:\s*;\s*[\w-]+=(?:\"[^\"\\]*\"|[\w!#$&^.+-]+))*", re.IGNORECASE)
# In others a text may be an image though none of its bytes says so; servers decode by what the caller names.
_CHARSET = re.compile(
    r";\s*charset=\"?(?!(?:utf-?8|us-ascii|ascii|iso-8859-1|latin-?1|windows-1252)\"?\s*(?:;|$))", re.IGNORECASE
)
_HEADERS = {b"content-disposition", b"content-type", b"content-length", b"content-transfer-encoding"}
_AS_IT_IS = {b"binary", b"8bit", b"7bit"}
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def checked_parts(body: bytes, content_type: str, *, plain_names: bool) -> tuple[list[Part], bytes]:
    """The parts of a multipart body and their boundary. ``plain_names``: none but letters, digits and ``_``.

    Raises 422 for anything that servers may take apart differently.
    """
    boundary = _boundary_of(content_type)
    if _CHARSET.search(content_type):
        raise unusable("send the texts of a form in UTF-8")
    if body.count(b"--" + boundary) > MOST_PARTS + 1:
        raise unusable(f"the multipart body has more than {MOST_PARTS} parts")
    parts = parts_of(body, content_type, most=MOST_PARTS)
    for part in parts:
        _check(part, plain_names)
    # A line end that one server takes for one and another does not would make a part of what is content here.
    written, line = join_parts(parts, boundary), b"--" + boundary
    if written.startswith(line) + written.count(b"\n" + line) + written.count(b"\r" + line) != len(parts) + 1:
        raise unusable("the boundary stands within a part of the multipart body")
    return parts, boundary


def is_file(part: Part) -> bool:
    """Whether any server may take the part for a file."""
    return any(b"filename" in value.lower() for name, value in part.headers if name.lower() == b"content-disposition")


def head_of(part: Part, boundary: bytes, kind: str | None = None) -> bytes:
    """What stands before a part's content; ``kind`` is the type of an image that was put into its place."""
    headers = [(name, value) for name, value in part.headers if kind is None or name.lower() != b"content-length"]
    typed = [(name, kind.encode() if kind and name.lower() == b"content-type" else value) for name, value in headers]
    return join_parts([Part(part.name, b"", tuple(typed))], boundary).removesuffix(b"\r\n--" + boundary + b"--\r\n")


def _boundary_of(content_type: str) -> bytes:
    found = _BOUNDARY.findall(content_type)
    if not _MULTIPART.fullmatch(content_type) or len(found) != 1 or boundary_of(content_type) != found[0].encode():
        raise unusable("the multipart body needs one plain boundary in its content type")
    return boundary_of(content_type)


def _check(part: Part, plain_names: bool) -> None:
    names = [name.lower() for name, _ in part.headers]
    values = {name.lower(): value for name, value in part.headers}
    if len(set(names)) < len(names) or not set(names) <= _HEADERS or any(map(_CONTROL.search, values.values())):
        raise unusable("a part of the multipart body has headers that servers may read in different ways")
    found = _DISPOSITION.fullmatch(values.get(b"content-disposition", b""))
    if found is None or (found[1] or found[2] or b"").decode("utf-8", "replace") != part.name:
        raise unusable("each part has one plain name in one Content-Disposition")
    if plain_names and (not NAME.fullmatch(part.name) or part.name.lower() == "_charset_"):
        raise unusable("names of parts are letters, digits and _ here, and none is _charset_")
    if values.get(b"content-transfer-encoding", b"binary").lower() not in _AS_IT_IS:
        raise unusable(f"{part.name}: send the image's bytes, without a transfer encoding")
    kind = values.get(b"content-type", b"text/plain")
    if not _TYPE.fullmatch(kind) or kind.lower().startswith(b"multipart/") or _CHARSET.search(kind.decode("latin-1")):
        raise unusable(f"{part.name}: its content type cannot be used")
