"""Whatever people hold a photograph in, as a photograph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION

from facesieve.errors import ImageError, InputError, one_line
from facesieve.images.arrays import Photo
from facesieve.images.bare import from_hex
from facesieve.images.colour import eight_bit, pixels_of, srgb
from facesieve.images.exif import orientation_in
from facesieve.images.limits import check_size
from facesieve.images.reading import TURNS, read_photo
from facesieve.specs import MAX_PIXELS

TAKEN = "give a path, a PIL image, or an array of uint8, (H, W, 3), (H, W, 4) or (H, W), in RGB"


def as_photo(thing: object, *, max_pixels: int = MAX_PIXELS) -> Photo:
    """``thing`` as a photograph: ``uint8`` sRGB (H, W, 3), contiguous.

    - A path, ``str``, ``bytes`` or an open file goes through ``read_photo``.
    - A PIL image becomes what ``read_photo`` makes of its file: upright by its EXIF, in sRGB, over white.
    - An array of ``uint8`` in RGB, (H, W, 3), is taken as it is, the very array where it is contiguous;
      of (H, W, 4) the last is alpha, blended over white; (H, W) and (H, W, 1) are grey.

    Raises ``ImageError`` as ``read_photo`` does, also for sides outside 16 to 32,768 pixels, and for files and PIL
    images of more than ``max_pixels``; ``InputError``, with shape and type, for anything else, such as ``uint16`` or floats.
    """
    if isinstance(thing, str | Path | bytes) or (hasattr(thing, "read") and not isinstance(thing, Image.Image)):
        source: Any = thing
        return read_photo(source, max_pixels=max_pixels)
    if isinstance(thing, Image.Image):
        return _of_pil(thing, max_pixels)
    if not isinstance(thing, np.ndarray) or thing.dtype != np.uint8:
        raise InputError(f"{_described(thing)} is no photograph", advice=_advice(thing))
    if thing.ndim not in {2, 3} or (thing.ndim == 3 and thing.shape[2] not in {1, 3, 4}):
        raise InputError(f"{_described(thing)} is no photograph", advice=TAKEN)
    check_size((thing.shape[1], thing.shape[0]), thing.shape[0] * thing.shape[1], "array")
    return _of_array(thing)


def _of_array(pixels: NDArray[np.uint8]) -> Photo:
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.shape[2] == 4:
        return pixels_of(srgb(Image.fromarray(np.ascontiguousarray(pixels)), None))
    return np.ascontiguousarray(pixels if pixels.shape[2] == 3 else pixels.repeat(3, axis=2))


def _of_pil(image: Image.Image, max_pixels: int) -> Photo:
    name = str(getattr(image, "filename", "") or "image")
    check_size(image.size, max_pixels, name)
    try:
        image.load()  # a TIFF is turned as it loads, and then has no orientation
        turn = TURNS.get(orientation_in(_exif(image), _xmp(image)))
        tags: Any = getattr(image, "tag_v2", {})  # of a TIFF
        bits, white_is_zero = tags.get(BITSPERSAMPLE, (16,))[0], tags.get(PHOTOMETRIC_INTERPRETATION) == 0
        rgb = srgb(eight_bit(image, bits, white_is_zero), image.info.get("icc_profile"))
    except ImageError as error:
        raise error.at(name) from None
    except Exception as error:  # a lazy image is read now, and its bytes may be anything
        raise ImageError(f"cannot be read ({one_line(error, limit=120)})", name, "save it again as PNG") from error
    return pixels_of(rgb if turn is None else rgb.transpose(turn))


def _exif(image: Image.Image) -> bytes | None:
    exif, text = image.info.get("exif"), image.info.get("Raw profile type exif")  # the latter as ImageMagick writes it
    return from_hex(text.encode()) if exif is None and isinstance(text, str) else exif


def _xmp(image: Image.Image) -> bytes | None:
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp")
    return xmp.encode(errors="replace") if isinstance(xmp, str) else xmp


def _described(thing: object) -> str:
    """``an array of shape (4, 4) and type uint16``; of a tensor the same words; of anything else its type's name."""
    shape, kind = getattr(thing, "shape", None), getattr(thing, "dtype", None)
    if shape is None or kind is None:
        return f"a {type(thing).__name__}"
    name = "an array" if isinstance(thing, np.ndarray) else f"a {type(thing).__name__}"
    return f"{name} of shape {tuple(shape)} and type {str(kind).removeprefix('torch.')}"


def _advice(thing: object) -> str:
    kind = str(getattr(thing, "dtype", "")).removeprefix("torch.")
    if kind == "uint16":
        return "scale its 16 bits to 8: (pixels / 257).round().astype('uint8')"
    if kind.startswith(("float", "bfloat")):
        return "make it 8-bit: facesieve.images.to_photo takes (3, H, W) in [0, 1]"
    return TAKEN
