"""Photographs as files: the only place that encodes pixels."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from facesieve.errors import ImageError, SettingError, one_line
from facesieve.files import write_atomic
from facesieve.images.arrays import Photo

_WRITTEN = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF", ".tiff": "TIFF"}


QUALITY = 95
SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}  # of results, by their format
FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}


@dataclass(frozen=True)
class Encoding:
    """How results are written: as ``png``, which loses nothing, or as ``jpeg`` or ``webp`` of a ``quality`` of 1 to 100.

    ``keep_exif`` keeps the dates of a photograph's EXIF, and an orientation that says upright, as results stand; nothing
    else is kept, neither the place nor the camera. Raises ``SettingError`` for other formats and qualities.
    """

    format: Literal["png", "jpeg", "webp"] = "png"
    quality: int | None = None  # 95
    keep_exif: bool = False

    def __post_init__(self) -> None:
        if self.format not in SUFFIXES:
            raise SettingError(f"format {self.format!r} must be one of {', '.join(SUFFIXES)}")
        if self.quality is None:
            return
        if self.format == "png":
            raise SettingError("a quality goes with jpeg or webp; PNG loses nothing")
        check_quality(self.quality)

    @property
    def suffix(self) -> str:
        """What a result's name ends with."""
        return SUFFIXES[self.format]

    def fits(self, suffix: str) -> bool:
        """Whether a file's suffix is one of this format."""
        return FORMATS.get(suffix.lower()) == self.format

    @property
    def made_from(self) -> dict[str, Any]:
        """What a record says of it: what is not as by default."""
        default = Encoding()
        return {name: value for name, value in vars(self).items() if value != getattr(default, name)}

    def encoded(self, photo: Photo, dates: bytes = b"") -> bytes:
        """``photo`` as a file, with ``dates`` of ``read_with_dates`` if they are kept. Raises as ``encode_photo``."""
        return encode_photo(photo, self.format, quality=self.quality or QUALITY, exif=dates if self.keep_exif else b"")


def check_quality(quality: int) -> None:
    """Raises ``SettingError`` for a quality of JPEG or WebP outside of 1 to 100."""
    if not 1 <= quality <= 100:
        raise SettingError(f"quality {quality} is outside 1 to 100", advice=f"the default is {QUALITY}")


def encode_photo(photo: Photo, format: Literal["png", "jpeg", "webp"], *, quality: int = QUALITY, exif: bytes = b"") -> bytes:
    """``photo`` (H, W, 3) as the bytes of a file; ``quality``, 1 to 100, is for JPEG and WebP, which lose detail.

    ``exif`` is a block for the file, such as ``read_with_dates`` gives. Raises ``SettingError`` for another quality,
    ``ImageError`` for sides the format cannot hold.
    """
    return _encode(photo, format.upper(), quality, exif)


def write_photo(path: Path | str, photo: Photo) -> None:
    """Write ``photo`` (H, W, 3) atomically, in the format that the extension names.

    PNG, BMP and TIFF keep every pixel; JPEG and WebP are written at quality 95.
    Raises ``ImageError`` for another extension, ``InputError`` where the file cannot be written.
    """
    path = Path(path)
    format = _WRITTEN.get(path.suffix.lower())
    if format is None:
        raise ImageError("no image format of this extension", path, f"use one of {', '.join(_WRITTEN)}")
    write_atomic(path, _encode(photo, format, QUALITY))


def _encode(photo: Photo, format: str, quality: int, exif: bytes = b"") -> bytes:
    check_quality(quality)
    options: dict[str, dict[str, Any]] = {
        "PNG": {"compress_level": 2},  # 6, the default, takes 3 to 4 times as long for files 0 to 7 % smaller
        "JPEG": {"quality": quality, "subsampling": 0},  # 4:4:4, colour as fine as brightness
        "WEBP": {"quality": quality},
        "TIFF": {"compression": "tiff_adobe_deflate"},
    }
    image, file = Image.fromarray(photo), BytesIO()
    try:
        image.save(file, format, **options.get(format, {}), **({"exif": exif} if exif else {}))
    except (OSError, ValueError) as error:
        raise ImageError(
            f"{image.size} pixels cannot be written as {format} ({one_line(error, limit=120)})", advice="choose another format"
        ) from error
    return file.getvalue()
