"""Photographs as files: the only place that encodes pixels."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from facesieve.errors import ImageError, SettingError, one_line
from facesieve.files import write_atomic
from facesieve.images.arrays import Photo

_WRITTEN = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF"}


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
