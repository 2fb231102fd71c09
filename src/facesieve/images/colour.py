"""Pixels of every mode as 8-bit sRGB over white."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

from facesieve.errors import ImageError
from facesieve.images.arrays import Photo


def eight_bit(image: Image.Image, bits: int = 16, white_is_zero: bool = False) -> Image.Image:
    """``image`` with 8-bit samples; 16-bit colour comes from Pillow as 8-bit already (the high byte), 16-bit grey does not.

    Its samples have ``bits``, as a TIFF may have 12; ``white_is_zero`` is inverted by Pillow in 8 bits, and not in 16.
    Raises ``ImageError`` for samples that have no agreed black and white.
    """
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        raise ImageError("float, signed or 32-bit samples have no agreed black and white", advice="save it with 8 bits")
    if not image.mode.startswith("I"):  # I;16, I;16B; older Pillow reads a 16-bit PNG as I
        return image
    top, values = 2**bits - 1, np.asarray(image)
    levels = (np.arange(2**16, dtype=np.uint32).clip(0, top) * 255 + top // 2) // top
    if white_is_zero:
        levels = 255 - levels
    small = Image.fromarray(levels.astype(np.uint8)[values])
    if (clear := image.info.get("transparency")) is not None:
        small.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return small


def high_byte(image: Image.Image) -> Image.Image:
    """A channel, grey of 8 or 16 bits, as Pillow reads a colour's: the high 8 bits. Raises ``ValueError`` for others."""
    if image.mode == "L":
        return image
    if not image.mode.startswith("I;16"):
        raise ValueError(f"planes of mode {image.mode}")
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """``image``, of any mode with 8-bit samples, as mode RGB: in sRGB, over white."""
    grey = image.mode in {"1", "L", "LA", "La"}
    alpha = None
    if image.has_transparency_data:
        straight = image.convert("LA") if image.mode == "La" else image
        rgba = straight.convert("RGBA")
        alpha, image = rgba.getchannel("A"), rgba.convert("RGB")
        del straight, rgba
    elif image.mode not in {"CMYK", "LAB"}:
        image = _rgb(image)
    colours = _by_profile(image, grey, profile) if profile else None
    if colours is None:
        colours = _rgb(image)
    if alpha is None:
        return colours
    white = Image.new("RGB", colours.size, "white")
    white.paste(colours, mask=alpha)
    return white


def _rgb(image: Image.Image) -> Image.Image:
    """``image`` as mode RGB; the very image where it is that, as photographs are large."""
    return image if image.mode == "RGB" else image.convert("RGB")


def pixels_of(image: Image.Image) -> Photo:
    """An image of mode RGB as an array of its own memory, (H, W, 3), made strip by strip without a further copy of all."""
    photo, rows = np.empty((image.height, image.width, 3), np.uint8), 256
    for top in range(0, image.height, rows):
        strip = Image.new("RGB", (image.width, min(rows, image.height - top)), None)
        strip.paste(image, (0, -top))  # not cropped, since that has a limit of Pillow's own
        photo[top : top + rows] = np.asarray(strip)
    return photo


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
        return _rgb(image) if _changes_nothing(transform, image.mode) else transform.apply(image)
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
