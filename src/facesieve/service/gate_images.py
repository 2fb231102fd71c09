"""What begins like an image: bytes, and texts of base64 or data URIs, read as leniently as any server might.

This only looks at beginnings, and takes more for an image than any one decoder does. What is taken for one is purified
where that is possible, and refused where it is not.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from urllib.parse import unquote_to_bytes

SHORTEST = 16  # bytes; no image is shorter
SHORTEST_TEXT, SHORTEST_VAGUE = 24, 200  # characters of base64

# By first bytes: what Pillow, OpenCV and Java's ImageIO read, and what phones and cameras write.
_CLEAR = re.compile(
    rb"""
      \xff\xd8\xff                                # JPEG
    | [\x89\x8b\x8a][PJM]NG                       # PNG, JNG, MNG
    | GIF8 | RIFF.{4}WEBP | BLP[12] | FTC\0 | qoif | 8BPS | icns | DDS\x20 | FUJIFILM
    | II[*+U\xbc]\0 | IIR[OS]\x08?\0? | MM\0[*+] | II\0\* | MM\*\0     # TIFF and its kin, camera files, JPEG XR
    | .{4}ftyp(?:.{4}){0,16}?(?:avi[fs]|hei[cxms]|hev[cxms]|mi[fa][12]|ms[fa]1|crx\x20|jp[2xm]\x20)  # AVIF, HEIC, CR3
    | \0\0\0\x0c(?:jP\x20\x20|JXL\x20) | \xff\x4f\xff\x51             # JPEG 2000, JPEG XL
    | v/1\x01 | \#\?R(?:ADIANCE|GBE) | Y\xa6j\x95 | \x01\xda[\0\x01][\x01\x02] | SIMPLE\x20\x20= | DanM | LinS
    | \xb1h\xde: | \x80\xe8\0\0 | %!PS | \xc5\xd0\xd3\xc6 | \xd7\xcd\xc6\x9a | /\*\ XPM\ \*/
    | \#define\s++\w{1,80}?_width | Image\ type:
    """,
    re.DOTALL | re.VERBOSE,
)
# Beginnings that other things share: they count only where what follows has the form of a header, too.
_VAGUE = re.compile(
    rb"""
      BM(?=.{0,24}\0).{12}(?:\x0c|[\x10-\xff])\0\0\0                    # BMP: a header of 12 bytes, or of 16 to 255
    | \x0c\0\0\0.{4}\x01\0 | [\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0.{8}\x01\0  # BMP without its file header
    | P[1-7fF](?:\s++|\#[^\n]*+\n)++(?:[-+]?\d[\d.]*\s|WIDTH\s)            # PNM, PFM, PAM
    | \0\0[\x01\x02]\0[^\0]\0 | \xff\x0a | \x0a[\0-\x05]\x01[\x01\x02\x04\x08]  # ICO, JPEG XL, PCX
    | .(?:\0[\x01-\x03\x09-\x0b].{5}|\x01[\x01-\x03\x09-\x0b].{4}[\x0f\x10\x18\x20]).{8}[\x01\x08\x0f\x10\x18\x20]  # TGA
    | \x01\0\0\0.{36}\x20EMF | .{4}[\x11\x12]\xaf | \0{7}\x04 | .{20}GIMP | .{2048}PCD_  # EMF, FLI, McIdas, brushes, Photo CD
    | \0\0\x80\?.{12}\0\0\x80\? | \?\x80\0\0.{12}\?\x80\0\0              # SPIDER
    """,
    re.DOTALL | re.VERBOSE,
)
_DATA_URI = re.compile(r"data:([^,]*+),", re.IGNORECASE)
_OF_BASE64 = re.compile(r"[A-Za-z0-9+/_-]++={0,2}\s*+")
_STRANGE = bytes(set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"))
_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_AT_A_TIME = 4096  # characters
_HEAD = 2**20  # bytes in which what says the kind of an image has to stand; a longer search would hold up other threads

# Within something else signatures must be longer than at its beginning: they must not be there by chance. Each has a part that
# never varies, which is looked for first: that takes a hundredth of the time of a regular expression.
_FILES_WITHIN = {
    b"\xff\xd8\xff": re.compile(rb"\xff\xd8\xff(?:[\xe0\xe1]..(?:JFIF|Exif)\0|\xdb\0[\x43\x84])", re.DOTALL),
    b"\x89PNG\r\n\x1a\n": re.compile(rb"\x89PNG"),
    b"GIF8": re.compile(rb"GIF8[79]a"),
    b"WEBPVP8": re.compile(rb"WEBPVP8[ LX]"),
    b"ftyp": re.compile(rb"ftyp(?:avi[fs]|hei[cx]|mif1)"),
}
_LONG = rb"[\w+/-]{24}"
_TEXTS_WITHIN = {
    **{
        begin: re.compile(rb"(?<![A-Za-z0-9+/_=-])" + re.escape(begin) + _LONG)
        for begin in (b"/9j/", b"_9j_", b"UklGR", b"SUkqA")
    },
    **{begin: re.compile(rb"(?<![A-Za-z0-9+/_=-])" + re.escape(begin) + _LONG) for begin in (b"iVBORw0KG", b"R0lGOD", b"TU0AK")},
    b"image/": re.compile(rb"(?i:(?<=data:)image/)"),
    b"IMAGE/": re.compile(rb"(?i:(?<=data:)image/)"),
}
_MOST_TRIED = 1000  # places; what has more is written to take long


def is_image(data: bytes) -> bool:
    """Whether these bytes begin as those of an image file do."""
    return len(data) >= SHORTEST and (_CLEAR.match(data, 0, _HEAD) or _VAGUE.match(data, 0, _HEAD)) is not None


def is_text_of_image(text: str) -> bool:
    """Whether a text is an image: base64 or a data URI, with whatever signs a lenient decoder skips."""
    text = text.lstrip()
    uri = _DATA_URI.match(text, 0, _HEAD)
    begin = uri.end() if uri else 0
    if uri and "base64" not in uri[1].lower():
        return is_image(unquote_to_bytes(text[begin : begin + _AT_A_TIME]))
    plain = _first_of_base64(text, begin)
    if len(plain) < SHORTEST_TEXT:
        return False
    first = base64.b64decode(plain[: len(plain) // 4 * 4])
    if _CLEAR.match(first):
        return True
    if not _VAGUE.match(first):
        return False
    return uri is not None or (len(text) >= SHORTEST_VAGUE and _OF_BASE64.fullmatch(text) is not None)


def _first_of_base64(text: str, begin: int) -> bytes:
    """The first 128 signs of base64 in a text, in the standard alphabet."""
    plain = b""
    while len(plain) < 128 and begin < len(text):
        part = text[begin : begin + _AT_A_TIME].encode("ascii", "ignore")
        plain += part.translate(_URL_SAFE).translate(None, _STRANGE)
        begin += _AT_A_TIME
    return plain[:128]


def has_text_inside(data: bytes) -> bool:
    """Whether a data URI or the base64 of an image stands somewhere in bytes."""
    return _is_within(data, _TEXTS_WITHIN)


def has_file_inside(data: bytes) -> bool:
    """Whether an image file stands somewhere in bytes, as it does in an archive that does not compress it, or in a PDF file."""
    return _is_within(data, _FILES_WITHIN)


def _is_within(data: bytes, signatures: Mapping[bytes, re.Pattern[bytes]]) -> bool:
    for begin, whole in signatures.items():
        at = data.find(begin)
        for _ in range(_MOST_TRIED):
            if at < 0 or whole.match(data, at):
                break
            at = data.find(begin, at + 1)
        if at >= 0:
            return True
    return False
