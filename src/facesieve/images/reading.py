"""Untrusted bytes to pixels: photographs are read here, and nowhere else."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from facesieve.errors import ImageError, one_line, printable
from facesieve.images.arrays import Photo
from facesieve.images.colour import eight_bit, srgb
from facesieve.specs import MAX_PIXELS

SHORTEST_SIDE = 16
LONGEST_SIDE = 32_768

# The decoders that untrusted bytes may reach, by the bytes a file begins with. They are called
# directly: Image.open would apply a process-wide pixel limit, and warn, before ours is applied.
_DECODERS: tuple[tuple[re.Pattern[bytes], type[ImageFile]], ...] = (
    (re.compile(rb"\xff\xd8\xff"), JpegImageFile),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), PngImageFile),
    (re.compile(rb"RIFF.{4}WEBP", re.DOTALL), WebPImageFile),
    (re.compile(rb"BM"), BmpImageFile),
    (re.compile(rb"II[*+]\0|MM\0[*+]"), TiffImageFile),
    (re.compile(rb"GIF8[79]a"), GifImageFile),
)

TURNS = {  # EXIF orientation -> what sets the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_photo(source: Path | str | bytes | BinaryIO, *, max_pixels: int = MAX_PIXELS, name: str | None = None) -> Photo:
    """The photograph in ``source``: ``uint8`` sRGB (H, W, 3), upright, its own writable memory.

    JPEG, PNG, WebP, BMP, TIFF and GIF, whatever the file is called; of an animation or a TIFF of
    many pages, the first. EXIF orientation is applied. Transparent pixels are blended over white.
    Colours are converted to sRGB by the embedded ICC profile; without one, or with one that is
    broken or for other kinds of pixel, they are taken as sRGB. 16-bit samples are scaled to 8 bits.

    Raises ``ImageError`` for anything else: a missing file, damaged data, a side shorter than 16
    or longer than 32,768 pixels, more than ``max_pixels``; and for floating-point, signed or 32-bit
    samples, which have no agreed black and white. ``name`` stands in the message.
    """
    source = Path(source) if isinstance(source, str) else source
    named = str(source) if isinstance(source, Path) else str(getattr(source, "name", "image"))
    where = printable(name or named)
    data = _read_bytes(source, where, limit=8 * max_pixels + 2**24)  # 16-bit RGBA, and room for metadata
    decoder = next((decoder for begins, decoder in _DECODERS if begins.match(data)), None)
    if decoder is None:
        raise ImageError("not a JPEG, PNG, WebP, BMP, TIFF or GIF image", where, "convert it to one of these")
    try:
        return _decode(data, decoder, max_pixels, where)
    except ImageError:
        raise
    # Every exception, on purpose: on damaged bytes Pillow's decoders raise, besides OSError, what
    # their parsing runs into (SyntaxError, ValueError, struct.error, zlib.error, EOFError, KeyError,
    # OverflowError, MemoryError, its own bomb errors, warnings where those are errors...).
    except Exception as error:
        raise ImageError(
            f"damaged or unsupported {decoder.format} ({one_line(error, limit=120)})", where, "save it again as PNG"
        ) from error


_UNREADABLE: dict[type[OSError], tuple[str, str]] = {
    FileNotFoundError: ("no such file", "check the path"),
    IsADirectoryError: ("is a directory", "name one image file in it"),
    PermissionError: ("may not be read by this user", "change its permissions"),
}


def _read_bytes(source: Path | bytes | BinaryIO, where: str, limit: int) -> bytes:
    """All bytes of ``source``, at most ``limit``: a device or a stream may never end."""
    try:
        if isinstance(source, Path):
            with source.open("rb") as file:
                data = file.read(limit + 1)
        else:
            data = source if isinstance(source, bytes) else source.read(limit + 1)
    except (OSError, ValueError) as error:  # ValueError: a closed stream, a NUL in the path
        known = next((text for kind, text in _UNREADABLE.items() if isinstance(error, kind)), None)
        what, advice = known or (f"cannot be read ({one_line(error, limit=120)})", "check the file and its disk")
        raise ImageError(what, where, advice) from error
    if not data:
        raise ImageError("empty", where, "copy or upload the image again")
    if len(data) > limit:
        raise ImageError(f"larger than {limit:,} bytes", where, "save the image alone, without further pages or metadata")
    return data


def _decode(data: bytes, decoder: type[ImageFile], max_pixels: int, where: str) -> Photo:
    with decoder(BytesIO(data)) as image:
        check_size(image.size, max_pixels, where)  # known from the header; no pixel is decoded yet
        image.load()
        turn = _turn(image)
        rgb = srgb(eight_bit(image, where), image.info.get("icc_profile"))
        return np.array(rgb if turn is None else rgb.transpose(turn))


def check_size(size: tuple[int, int], max_pixels: int, where: str) -> None:
    """Raises ``ImageError`` for a width and height that are not taken."""
    width, height = size
    found = f"{width:,} x {height:,} pixels"
    if min(size) < SHORTEST_SIDE:
        raise ImageError(f"{found}, a side shorter than {SHORTEST_SIDE}", where, "give a larger image")
    if max(size) > LONGEST_SIDE:
        raise ImageError(f"{found}, a side longer than {LONGEST_SIDE:,}", where, "make it smaller")
    if width * height > max_pixels:
        raise ImageError(f"{found}, more than the limit of {max_pixels:,}", where, "make it smaller, or raise the limit")


def _turn(image: ImageFile) -> Image.Transpose | None:
    """What sets a loaded image upright, by its EXIF or XMP orientation (a TIFF is turned by Pillow as it loads)."""
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken metadata, of as many kinds as broken pixels: shown as it is stored, as viewers do
        return None
