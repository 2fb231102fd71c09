"""What a file is, by the bytes that it begins with."""

from __future__ import annotations

import re
from dataclasses import dataclass

HEAD = 64  # bytes that are enough to tell


@dataclass(frozen=True)
class Kind:
    """A kind of picture: its name, how its files begin, and why it is not read, if it is not."""

    name: str
    begins: re.Pattern[bytes]
    unread: str | None = None


def _begins(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern, re.DOTALL)


_RAW = "a camera's raw file"
_BRANDS = rb".{4}ftyp(?:.{4}){0,12}?"  # of an ISO base media file: the major one, a version, the compatible ones

# In this order: an AVIF may call itself a HEIF, too.
KINDS = (
    Kind("JPEG", _begins(rb"\xff\xd8\xff")),
    Kind("PNG", _begins(rb"\x89PNG\r\n\x1a\n")),
    Kind("WEBP", _begins(rb"RIFF.{4}WEBP")),
    Kind("BMP", _begins(rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0")),
    Kind("CR2", _begins(rb"II\*\0.{4}CR"), _RAW),
    Kind("TIFF", _begins(rb"II[*+]\0|MM\0[*+]")),
    Kind("GIF", _begins(rb"GIF8[79]a")),
    Kind("CR3", _begins(rb".{4}ftypcrx "), _RAW),
    Kind("AVIF", _begins(_BRANDS + rb"avi[fs]")),
    Kind("HEIC", _begins(_BRANDS + rb"(?:hei[cxms]|hev[cx]|mif1|msf1)")),
    Kind("JPEG 2000", _begins(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51\0")),
    Kind("raw", _begins(rb"FUJIFILMCCD-RAW|II(?:RO|RS|U\0)|MMOR|FOVb|\0MRM|II\x1a\0\0\0HEAPCCDR"), _RAW),
    Kind("Photoshop", _begins(rb"8BPS"), "a Photoshop file"),
    Kind("JPEG XL", _begins(rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"), "a JPEG XL image"),
    Kind("JPEG XR", _begins(rb"II\xbc\x01"), "a JPEG XR image"),
    Kind("OpenEXR", _begins(rb"\x76\x2f\x31\x01"), "an OpenEXR image"),
    Kind("Netpbm", _begins(rb"P[1-6]\s+(?:#[^\n]*\n\s*)*\d+\s"), "a Netpbm image"),
    Kind("QOI", _begins(rb"qoif"), "a QOI image"),
    Kind("GIMP", _begins(rb"gimp xcf "), "a GIMP file"),
)
READ = "JPEG, PNG, WebP, BMP, TIFF, GIF, HEIC, AVIF or JPEG 2000"


def kind_of(head: bytes) -> Kind | None:
    """The kind of picture whose files begin as ``head`` does, read here or not; None for anything else.

    The first ``HEAD`` bytes are enough. ``kind.unread`` says why one is not read; it is None for those that are.
    """
    return next((kind for kind in KINDS if kind.begins.match(head)), None)
