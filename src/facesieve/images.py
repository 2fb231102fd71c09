"""Untrusted bytes <-> pixels: photographs are read and written here, and nowhere else.

A photograph is a ``uint8`` sRGB array of shape (H, W, 3); networks take ``float32`` of shape
(3, H, W) in [0, 1]. Whatever the bytes, reading them ends in a photograph or in an ``ImageError``.
"""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import ExifTags, Image, ImageCms
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from facesieve.errors import ImageError, SettingError, one_line, printable
from facesieve.files import write_atomic

Photo = NDArray[np.uint8]  # (H, W, 3), sRGB
Floats = NDArray[np.float32]  # (..., 3, H, W), in [0, 1]

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

_WRITTEN = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF"}

_TURNS = {  # EXIF orientation -> what sets the picture upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_photo(source: Path | str | bytes | BinaryIO, *, max_pixels: int = 50_000_000, name: str | None = None) -> Photo:
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


def encode_photo(photo: Photo, format: Literal["png", "jpeg", "webp"], *, quality: int = 95) -> bytes:
    """``photo`` (H, W, 3) as the bytes of a file; ``quality``, 1 to 100, is for JPEG and WebP, which lose detail.

    Raises ``SettingError`` for another quality, ``ImageError`` for sides the format cannot hold.
    """
    return _encode(photo, format.upper(), quality)


def write_photo(path: Path | str, photo: Photo) -> None:
    """Write ``photo`` (H, W, 3) atomically, in the format that the extension names.

    PNG, BMP and TIFF keep every pixel; JPEG and WebP are written at quality 95.
    Raises ``ImageError`` for another extension, ``InputError`` where the file cannot be written.
    """
    path = Path(path)
    format = _WRITTEN.get(path.suffix.lower())
    if format is None:
        raise ImageError("no image format of this extension", path, f"use one of {', '.join(_WRITTEN)}")
    write_atomic(path, _encode(photo, format, 95))


def to_floats(photo: NDArray[np.uint8]) -> Floats:
    """Photographs (..., H, W, 3) as channels first, (..., 3, H, W), ``float32`` in [0, 1]."""
    return np.moveaxis(photo, -1, -3).astype(np.float32, order="C") / np.float32(255)


def to_photo(image: ArrayLike) -> Photo:
    """An image (3, H, W), array or tensor on the CPU, as a photograph (H, W, 3): clipped to [0, 1], rounded to 256 levels.

    The exact inverse of ``to_floats``. Raises ``ValueError`` for another shape or pixels that are NaN.
    """
    values = np.asarray(image, np.float32)
    if values.ndim != 3 or values.shape[0] != 3:
        raise ValueError(f"a photograph needs shape (3, H, W), not {values.shape}")
    if np.isnan(values).any():
        raise ValueError("a photograph cannot hold NaN: what computed it is broken")
    levels = (values.clip(0, 1) * np.float32(255) + np.float32(0.5)).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(1, 2, 0))


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
        _check_size(image.size, max_pixels, where)  # known from the header; no pixel is decoded yet
        image.load()
        turn = _turn(image)
        rgb = _srgb(_eight_bit(image, where), image.info.get("icc_profile"))
        return np.array(rgb if turn is None else rgb.transpose(turn))


def _check_size(size: tuple[int, int], max_pixels: int, where: str) -> None:
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
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # broken metadata, of as many kinds as broken pixels: shown as it is stored, as viewers do
        return None


def _eight_bit(image: Image.Image, where: str) -> Image.Image:
    """``image`` with 8-bit samples; 16-bit colour comes from Pillow as 8-bit already (the high byte), 16-bit grey does not."""
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        raise ImageError("float, signed or 32-bit samples have no agreed black and white", where, "save it with 8 bits")
    if not image.mode.startswith("I"):  # I;16, I;16B; older Pillow reads a 16-bit PNG as I
        return image
    tags: Any = getattr(image, "tag_v2", {})
    top = 2 ** tags.get(BITSPERSAMPLE, (16,))[0] - 1  # a TIFF may have 12 bits
    values = np.asarray(image).astype(np.uint32)
    grey = (values * 255 + top // 2) // top
    if tags.get(PHOTOMETRIC_INTERPRETATION) == 0:  # white is zero; Pillow inverts this in 8 bits, not in 16
        grey = 255 - grey
    small = Image.fromarray(grey.astype(np.uint8))
    if (clear := image.info.get("transparency")) is not None:
        small.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return small


def _srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """``image``, of any mode with 8-bit samples, as mode RGB: in sRGB, over white."""
    grey = image.mode in {"1", "L", "LA", "La"}
    alpha = None
    if image.has_transparency_data:
        straight = image.convert("LA") if image.mode == "La" else image
        rgba = straight.convert("RGBA")
        alpha, image = rgba.getchannel("A"), rgba.convert("RGB")
    elif image.mode not in {"CMYK", "LAB"}:
        image = image.convert("RGB")
    colours = _by_profile(image, grey, profile) if profile else None
    if colours is None:
        colours = image.convert("RGB")
    if alpha is None:
        return colours
    white = Image.new("RGB", colours.size, "white")
    white.paste(colours, mask=alpha)
    return white


def _by_profile(image: Image.Image, grey: bool, profile: bytes) -> Image.Image | None:
    """``image`` in sRGB by its ICC profile; ``None`` if the profile is broken, or for other kinds of pixel."""
    try:
        device = ImageCms.ImageCmsProfile(BytesIO(profile))
        space = device.profile.xcolor_space.strip()
        if space == "GRAY" and grey:
            image = image.getchannel(0)
        elif space != image.mode:
            return None
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        # Of grey, the table that LittleCMS precomputes is up to 10 levels wrong in the dark.
        flags = ImageCms.Flags.NOOPTIMIZE if image.mode == "L" else ImageCms.Flags.NONE
        transform = ImageCms.ImageCmsTransform(device, srgb, image.mode, "RGB", flags=flags)
        return image.convert("RGB") if _changes_nothing(transform, image.mode) else transform.apply(image)
    except Exception:  # as with pixels, a hostile profile may raise anything; the photograph is still usable without it
        return None


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a transform to sRGB changes nothing but rounding: then pixels are kept to the bit."""
    if mode not in {"RGB", "L"}:
        return False
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(len(levels), -1, 3)  # (18, 324, 3)
    probe = Image.fromarray(cube) if mode == "RGB" else Image.fromarray(cube).getchannel(0)
    before, after = np.asarray(probe.convert("RGB"), np.int16), np.asarray(transform.apply(probe), np.int16)
    return bool(np.abs(after - before).max() <= 1)


def _encode(photo: Photo, format: str, quality: int) -> bytes:
    if not 1 <= quality <= 100:
        raise SettingError(f"quality {quality} is outside 1 to 100", advice="the default is 95")
    options: dict[str, dict[str, Any]] = {
        "JPEG": {"quality": quality, "subsampling": 0},  # 4:4:4, colour as fine as brightness
        "WEBP": {"quality": quality},
        "TIFF": {"compression": "tiff_adobe_deflate"},
    }
    image, file = Image.fromarray(photo), BytesIO()
    try:
        image.save(file, format, **options.get(format, {}))
    except (OSError, ValueError) as error:
        raise ImageError(
            f"{image.size} pixels cannot be written as {format} ({one_line(error, limit=120)})", advice="choose another format"
        ) from error
    return file.getvalue()
