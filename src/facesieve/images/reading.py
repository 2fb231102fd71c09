"""Untrusted bytes to pixels: photographs are read here, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from facesieve.errors import FacesieveError, ImageError, OutOfMemoryError, one_line, printable
from facesieve.images.arrays import Photo
from facesieve.images.aside import decoded_aside
from facesieve.images.bare import Bare, bare_gif, bare_png, bare_webp
from facesieve.images.colour import eight_bit, high_byte, pixels_of, srgb
from facesieve.images.exif import dates_in, orientation_in
from facesieve.images.jpeg import bare_jpeg
from facesieve.images.limits import Timed, check_size, seconds_for
from facesieve.images.tiff import Tiff
from facesieve.kinds import HEAD, READ, Kind, kind_of
from facesieve.specs import MAX_PIXELS

# How a format is stripped of what no pixel depends on, and decoded. Decoders are called directly: Image.open
# would apply a process-wide pixel limit, and warn, before ours is applied. Other formats are decoded aside,
# as is a compressed TIFF.
_DECODERS: dict[str, tuple[Callable[[bytes, int], Bare], type[ImageFile]]] = {
    "JPEG": (lambda data, _: bare_jpeg(data), JpegImageFile),
    "PNG": (lambda data, _: bare_png(data), PngImageFile),
    "WEBP": (lambda data, _: bare_webp(data), WebPImageFile),
    "GIF": (lambda data, _: bare_gif(data), GifImageFile),
    "BMP": (lambda data, _: Bare([data]), BmpImageFile),
    "TIFF": (lambda data, max_pixels: Tiff.of(data).bare(max_pixels), TiffImageFile),
}

TURNS = {  # EXIF orientation -> what sets the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

Source = Path | str | bytes | BinaryIO


def read_photo(source: Source, *, max_pixels: int = MAX_PIXELS, name: str | None = None) -> Photo:
    """The photograph in ``source``: ``uint8`` sRGB (H, W, 3), upright, its own writable memory.

    JPEG (also MPO), PNG, WebP, BMP, TIFF, GIF, HEIC, AVIF and JPEG 2000, whatever the file is called; of an animation or
    of a file of several pictures, the first. The orientation in EXIF, else XMP, is applied. Transparent pixels are blended
    over white. Colours are converted to sRGB by the embedded ICC profile; without one, or with one that is broken, larger
    than 4 MiB, or for other kinds of pixel, they are taken as sRGB. 16-bit samples are scaled to 8 bits. A JPEG that lacks
    only its end marker is read; one that lacks pixels is not.

    Raises ``ImageError`` for anything else: a missing file, damaged data, a camera's raw file, a side shorter than 16
    or longer than 32,768 pixels, more than ``max_pixels``, more than 4 s of processor time (in proportion for more than
    50 megapixels); and for floating-point, signed or 32-bit samples, which have no agreed black and white. Raises
    ``OutOfMemoryError`` where the machine has no memory left. ``name`` stands in the message.
    """
    return read_with_dates(source, max_pixels=max_pixels, name=name)[0]


def read_with_dates(source: Source, *, max_pixels: int = MAX_PIXELS, name: str | None = None) -> tuple[Photo, bytes]:
    """As ``read_photo``; and an EXIF block of when it was taken and an upright orientation, for ``encode_photo``."""
    where = _where(source, name)
    data = photo_bytes(source, max_pixels=max_pixels, name=name)
    kind = kind_of(data[:HEAD])
    if kind is None:
        raise ImageError(f"not a {READ} image", where, "convert it to one of these")
    if kind.unread is not None:
        raise ImageError(f"{kind.unread}, not a {READ} image", where, "convert it to JPEG, PNG or TIFF")
    try:
        return _decoded(data, kind, max_pixels)
    except FacesieveError as error:
        raise error.at(where) from error.__cause__
    except MemoryError as error:
        raise OutOfMemoryError("the machine has no memory left to decode it", where, "try again later") from error
    # Every exception, on purpose: on damaged bytes Pillow's decoders raise, besides OSError, what
    # their parsing runs into (SyntaxError, ValueError, struct.error, zlib.error, EOFError, KeyError,
    # OverflowError, its own bomb errors, warnings where those are errors...).
    except Exception as error:
        raise ImageError(
            f"damaged or unsupported {kind.name} ({one_line(error, limit=120)})", where, "save it again as PNG"
        ) from error


def photo_bytes(source: Source, *, max_pixels: int = MAX_PIXELS, name: str | None = None) -> bytes:
    """The bytes of a photograph's file: as many as one of ``max_pixels`` may have, since a device or a stream may never end.

    Raises ``ImageError`` for a file that is larger, empty, or cannot be read. ``name`` stands in the message.
    """
    where, limit = _where(source, name), 8 * max_pixels + 2**24  # 16-bit RGBA, and room for metadata
    source = Path(source) if isinstance(source, str) else source
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


_UNREADABLE: dict[type[OSError], tuple[str, str]] = {
    FileNotFoundError: ("no such file", "check the path"),
    IsADirectoryError: ("is a directory", "name one image file in it"),
    PermissionError: ("may not be read by this user", "change its permissions"),
}


def _where(source: Source, name: str | None) -> str:
    named = str(source) if isinstance(source, Path | str) else str(getattr(source, "name", "image"))
    return printable(name or named)


def _decoded(data: bytes, kind: Kind, max_pixels: int) -> tuple[Photo, bytes]:
    if kind.name not in _DECODERS:
        found = decoded_aside(data, kind.name, max_pixels)
        bare = Bare([], found.exif, found.xmp, found.profile)
        image = eight_bit(found.image)
        del found
    else:
        strip, decoder = _DECODERS[kind.name]
        bare = strip(data, max_pixels)
        image = eight_bit(_picture(bare, kind, decoder, max_pixels), bare.bits, bare.white_is_zero)
    turn, dates, profile = TURNS.get(orientation_in(bare.exif, bare.xmp)), dates_in(bare.exif), bare.profile
    del data, bare
    rgb = srgb(image, profile)
    del image
    return pixels_of(rgb if turn is None else rgb.transpose(turn)), dates


def _picture(bare: Bare, kind: Kind, decoder: type[ImageFile], max_pixels: int) -> Image.Image:
    """The picture in the files that a format was stripped to."""

    def decoded(file: bytes) -> Image.Image:
        return decoded_aside(file, kind.name, max_pixels).image if bare.aside else _opened(file, decoder, max_pixels)

    if bare.planes is not None:
        return Image.merge(bare.planes, [high_byte(decoded(file)) for file in bare.files])
    if bare.twins is None:
        return decoded(bare.files[0])
    for file, twin in zip(bare.files, bare.twins, strict=True):
        image = decoded(file)
        if image.tobytes() == decoded(twin).tobytes():
            return image
    raise ValueError("image file is truncated")


def _opened(data: bytes, decoder: type[ImageFile], max_pixels: int) -> Image.Image:
    """A file's picture, decoded within the limits on pixels and time."""
    image = decoder(Timed(data, seconds_for(max_pixels)))
    check_size(image.size, max_pixels)  # known from the header; no pixel is decoded yet
    image.load()
    return image
