"""Formats that phones, browsers and editors make; and metadata, of any size, that costs no photograph."""

import io
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

import heic
from facesieve.errors import ImageError
from facesieve.folders import IMAGE_SUFFIXES, begins_as_image
from facesieve.images import read_photo
from facesieve.kinds import HEAD, KINDS, kind_of

ROWS, COLUMNS = np.mgrid[0:60, 0:80]
PIXELS = np.stack([COLUMNS * 3, ROWS * 4, (ROWS + COLUMNS)], axis=-1).astype(np.uint8)
IMAGE = Image.fromarray(PIXELS)


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def as_pillow_reads(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_a_heic_is_read_and_stands_upright_once() -> None:
    assert np.abs(read_photo(heic.PLAIN).astype(int) - heic.PATTERN).max() <= 12
    upright = np.rot90(heic.PATTERN, -1)
    assert np.abs(read_photo(heic.TURNED).astype(int) - upright).max() <= 12


def test_a_heic_that_is_cut_or_changed_is_one_line() -> None:
    for place in range(100, len(heic.PLAIN), 150):
        with pytest.raises(ImageError, match="damaged or unsupported HEIC"):
            read_photo(heic.PLAIN[:place])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_avif_is_as_pillow_reads_it(orientation: int) -> None:
    data = saved(IMAGE, "AVIF", quality=90, exif=turned(orientation))
    np.testing.assert_array_equal(read_photo(data), as_pillow_reads(data))


@pytest.mark.parametrize("no_jp2", [False, True])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "I;16"])
def test_a_jpeg_2000_is_as_pillow_reads_it(mode: str, no_jp2: bool) -> None:
    image = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257) if mode == "I;16" else IMAGE.convert(mode)
    grey = mode in {"L", "I;16"}
    expected = np.stack([np.asarray(IMAGE.convert(mode) if mode == "L" else IMAGE)[..., *([] if mode == "L" else [0])]] * 3, -1)
    np.testing.assert_array_equal(read_photo(saved(image, "JPEG2000", no_jp2=no_jp2)), expected if grey else PIXELS)


def test_transparency_of_other_formats_is_blended_over_white() -> None:
    image = IMAGE.copy()
    image.putalpha(0)
    for format in ("AVIF", "JPEG2000"):
        assert (read_photo(saved(image, format)) == 255).all()


def test_a_profile_of_another_format_is_applied() -> None:
    from PIL import ImageCms

    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = saved(IMAGE, "AVIF", quality=90, icc_profile=srgb)
    np.testing.assert_array_equal(read_photo(data), as_pillow_reads(data))


@pytest.mark.parametrize("format", ["AVIF", "JPEG2000"])
def test_limits_hold_for_what_is_decoded_aside(format: str) -> None:
    with pytest.raises(ImageError, match="80 x 60 pixels, more than the limit of 1,000"):
        read_photo(saved(IMAGE, format), max_pixels=1000)
    with pytest.raises(ImageError, match="12 x 60 pixels, a side shorter than 16"):
        read_photo(saved(IMAGE.crop((0, 0, 12, 60)), format))


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP", b"tEXt"])
def test_a_png_with_megabytes_of_metadata_is_read(kind: bytes) -> None:
    import struct

    plain, packed = saved(IMAGE, "PNG"), zlib.compress(b"a" * 3_000_000)
    heads = {b"zTXt": b"w\0\0", b"iTXt": b"XML:com.adobe.xmp\0\1\0\0\0", b"iCCP": b"p\0\0", b"tEXt": b"w\0"}
    body = heads[kind] + (b"a" * 3_000_000 if kind == b"tEXt" else packed)
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    np.testing.assert_array_equal(read_photo(plain[:33] + chunk + plain[33:]), PIXELS)
    np.testing.assert_array_equal(read_photo(plain[:-12] + chunk + plain[-12:]), PIXELS)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_with_and_without_metadata_it_is_as_pillow_reads_it(format: str) -> None:
    plain = saved(IMAGE, format)
    np.testing.assert_array_equal(read_photo(plain), as_pillow_reads(plain))
    for orientation in range(1, 9):
        if format in {"JPEG", "PNG", "WEBP", "TIFF"}:
            data = saved(IMAGE, format, exif=turned(orientation))
            np.testing.assert_array_equal(read_photo(data), as_pillow_reads(data))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_orientation_of_xmp_counts_where_exif_has_none(format: str) -> None:
    from PIL import PngImagePlugin, TiffImagePlugin

    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    options: dict[str, object] = {"xmp": xmp}
    if format == "PNG":
        text = PngImagePlugin.PngInfo()
        text.add_itxt("XML:com.adobe.xmp", xmp.decode())
        options = {"pnginfo": text}
    if format == "TIFF":
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        tags[700], tags.tagtype[700] = xmp, 1
        options = {"tiffinfo": tags}
    data = saved(IMAGE, format, **options)
    assert read_photo(data).shape == (80, 60, 3)
    np.testing.assert_array_equal(read_photo(data), as_pillow_reads(data))


@pytest.mark.parametrize("format", ["PNG", "WEBP", "GIF", "TIFF", "MPO", "AVIF"])
def test_of_several_frames_the_first_is_as_pillow_reads_it(format: str) -> None:
    others = [Image.new("RGB", IMAGE.size, colour) for colour in ("red", "blue")]
    data = saved(IMAGE, format, save_all=True, append_images=others)
    np.testing.assert_array_equal(read_photo(data), as_pillow_reads(data))


def test_every_kind_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    names = {"JPEG": "JPEG", "PNG": "PNG", "WEBP": "WEBP", "TIFF": "TIFF", "GIF": "GIF", "BMP": "BMP"}
    for format, name in {**names, "AVIF": "AVIF", "JPEG2000": "JPEG 2000", "PPM": "Netpbm", "DIB": None}.items():
        found = kind_of(saved(IMAGE, format)[:HEAD])
        assert (found and found.name) == name, format
    assert {kind.name for kind in KINDS if kind.unread is None} == {*names.values(), "HEIC", "AVIF", "JPEG 2000"}
    assert kind_of(heic.PLAIN[:HEAD]).name == "HEIC"
    for text in (b"", b"BM, a bookshop", b"II. Akt", b"RIFF\0\0\0\0WAVE", b"\0\0\0\x20ftypisom", b"P1 is first", b"<svg>"):
        assert not begins_as_image(text)
    assert {".heic", ".avif", ".jfif", ".jp2", ".mpo"} <= IMAGE_SUFFIXES


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"8BPS\0\1" + bytes(100), "a Photoshop file, not a JPEG"),
        (b"\xff\x0a" + bytes(100), "a JPEG XL image, not a JPEG"),
        (b"gimp xcf v011" + bytes(100), "a GIMP file, not a JPEG"),
    ],
)
def test_what_is_not_read_is_named(data: bytes, says: str) -> None:
    with pytest.raises(ImageError, match=says):
        read_photo(data)
