import io
import os
import random
import stat
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pytest
import torch
from PIL import Image, ImageCms

from facesieve.errors import ImageError, InputError, SettingError
from facesieve.files import write_atomic
from facesieve.images import encode_photo, read_photo, to_floats, to_photo, write_photo

HEIGHT, WIDTH = 20, 24
PHOTO = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def saved(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def flat(mode: str, colour: object) -> Image.Image:
    return Image.new(mode, (WIDTH, HEIGHT), colour)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(pixels: np.ndarray, *extra: bytes, size: tuple[int, int] | None = None) -> bytes:
    """A PNG written without Pillow, of grey (H, W) or colour (H, W, 3) pixels of 8 or 16 bits."""
    height, width = size or pixels.shape[:2]
    big = pixels.astype(pixels.dtype.newbyteorder(">"))
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in big))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(extra) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def tiff(data: bytes, bits: int, photometric: int, *, order: str = "<", samples: int = 1, sample_format: int = 1) -> bytes:
    """An uncompressed TIFF written without Pillow, of HEIGHT x WIDTH pixels."""
    depth = (3, samples, bits) if samples == 1 else (3, samples, 8 + len(data) + len(data) % 2)
    tags = {
        256: (4, 1, WIDTH),
        257: (4, 1, HEIGHT),
        258: depth,
        259: (3, 1, 1),
        262: (3, 1, photometric),
        273: (4, 1, 8),
        277: (3, 1, samples),
        278: (4, 1, HEIGHT),
        279: (4, 1, len(data)),
        339: (3, 1, sample_format),
        **({530: (3, 2, 0x10001)} if photometric == 6 else {}),  # YCbCr: not subsampled
    }
    depths = struct.pack(f"{order}4H", *[bits] * 4)
    start = 8 + len(data) + len(data) % 2 + len(depths)
    file = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, start) + data + b"\0" * (len(data) % 2) + depths
    file += struct.pack(order + "H", len(tags))
    for tag, (kind, count, value) in tags.items():
        short = kind == 3 and count == 1
        file += struct.pack(order + "HHI", tag, kind, count) + struct.pack(
            order + ("HH" if short else "I"), *([value, 0] if short else [value])
        )
    return file + struct.pack(order + "I", 0)


def ignoring_warnings(data: bytes, **options: Any) -> np.ndarray:
    """The photograph in damaged bytes, about which Pillow itself may warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return read_photo(data, **options)


def assert_near(photo: np.ndarray, expected: object, within: int) -> None:
    distance = np.abs(photo.astype(int) - np.asarray(expected, int)).max()
    assert distance <= within, f"{distance} levels apart"


# Reading: what every format and every kind of pixel becomes.


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("WEBP", {"lossless": True}),
    ],
)
def test_a_lossless_file_is_read_to_the_bit(format: str, options: dict[str, object]) -> None:
    photo = read_photo(saved(Image.fromarray(PHOTO), format, **options))
    np.testing.assert_array_equal(photo, PHOTO)
    assert photo.dtype == np.uint8
    assert photo.flags.c_contiguous
    assert photo.flags.writeable


@pytest.mark.parametrize(("format", "within"), [("JPEG", 2), ("WEBP", 4)])
def test_a_lossy_file_is_read_about_right(format: str, within: int) -> None:
    assert_near(read_photo(saved(flat("RGB", (200, 120, 40)), format, quality=95)), (200, 120, 40), within)


def test_a_path_a_stream_and_bytes_give_the_same(tmp_path: Path) -> None:
    data = png(PHOTO)
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    with path.open("rb") as stream:
        for source in (path, stream, data, io.BytesIO(data)):
            np.testing.assert_array_equal(read_photo(source), PHOTO)


def test_the_content_decides_not_the_extension(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(png(PHOTO))
    np.testing.assert_array_equal(read_photo(path), PHOTO)


@pytest.mark.parametrize(("format", "options"), [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
def test_the_first_frame_stands_for_all(format: str, options: dict[str, object]) -> None:
    frames = [flat("RGB", colour) for colour in [(255, 0, 0), (0, 255, 0), (0, 0, 255)]]
    data = saved(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert (read_photo(data) == (255, 0, 0)).all()


def palette(transparent: bool, format: str) -> bytes:
    image = flat("P", 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    return saved(image, format, **({"transparency": 1} if transparent else {}))


LAB_LEVELS = struct.pack("Bbb", 153, 20, -30)  # L* = 153 / 255 * 100 = 60


def lab_as_srgb() -> np.ndarray:
    """L* 60, a* 20, b* -30 (D50) by the formulas of CIE 15 and IEC 61966-2-1, adapted by Bradford."""
    y = (60 + 16) / 116
    white = np.array([0.96422, 1.0, 0.82521])
    xyz = white * np.array([y + 20 / 500, y, y + 30 / 200]) ** 3  # all above 6 / 29
    to_linear = np.array(
        [[3.1338561, -1.6168667, -0.4906146], [-0.9787684, 1.9161415, 0.0334540], [0.0719453, -0.2289914, 1.4052427]]
    )
    return srgb_curve(to_linear @ xyz) * 255


def srgb_curve(linear: np.ndarray) -> np.ndarray:
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055)


ALPHA = (128 * np.array([200, 100, 50]) + 127 * 255) / 255  # an alpha of 128 over white


@pytest.mark.parametrize(
    ("data", "expected", "within"),
    [
        pytest.param(saved(flat("L", 77), "PNG"), 77, 0, id="grey"),
        pytest.param(saved(flat("L", 77), "JPEG"), 77, 1, id="grey JPEG"),
        pytest.param(saved(flat("1", 1), "PNG"), 255, 0, id="1-bit white"),
        pytest.param(saved(flat("1", 0), "TIFF"), 0, 0, id="1-bit black"),
        pytest.param(saved(flat("LA", (100, 128)), "PNG"), (100 * 128 + 255 * 127) / 255, 1, id="grey with alpha"),
        pytest.param(saved(flat("RGBA", (200, 100, 50, 128)), "PNG"), ALPHA, 1, id="alpha, PNG"),
        pytest.param(saved(flat("RGBA", (200, 100, 50, 128)), "TIFF"), ALPHA, 1, id="alpha, TIFF"),
        pytest.param(saved(flat("RGBA", (200, 100, 50, 128)), "WEBP", lossless=True), ALPHA, 1, id="alpha, WebP"),
        pytest.param(saved(flat("RGBA", (200, 100, 50, 0)), "PNG"), 255, 0, id="wholly transparent"),
        pytest.param(palette(False, "PNG"), (200, 100, 50), 0, id="palette, PNG"),
        pytest.param(palette(False, "GIF"), (200, 100, 50), 0, id="palette, GIF"),
        pytest.param(palette(True, "PNG"), 255, 0, id="transparent palette, PNG"),
        pytest.param(palette(True, "GIF"), 255, 0, id="transparent palette, GIF"),
        pytest.param(png(np.full((HEIGHT, WIDTH), 9, np.uint8), chunk(b"tRNS", b"\0\x09")), 255, 0, id="transparent grey"),
        pytest.param(png(np.full((HEIGHT, WIDTH), 9, np.uint8), chunk(b"tRNS", b"\0\x08")), 9, 0, id="another transparent grey"),
        pytest.param(saved(flat("CMYK", (51, 102, 0, 51)), "TIFF"), (163, 122, 204), 1, id="CMYK TIFF"),
        pytest.param(saved(flat("CMYK", (51, 102, 0, 51)), "JPEG", quality=100), (163, 122, 204), 2, id="CMYK JPEG"),
        pytest.param(tiff(LAB_LEVELS * 480, 8, 8, samples=3), lab_as_srgb(), 2, id="LAB TIFF"),
    ],
)
def test_every_kind_of_pixel_becomes_rgb(data: bytes, expected: object, within: int) -> None:
    photo = read_photo(data)
    assert photo.shape == (HEIGHT, WIDTH, 3)
    assert_near(photo, np.broadcast_to(np.round(expected), photo.shape), within)


def test_an_uncompressed_ycbcr_tiff_is_read_where_pillow_can_and_refused_in_one_line_elsewhere() -> None:
    data = tiff(bytes([128, 100, 150]) * 480, 8, 6, samples=3)
    if int(PIL.__version__.split(".")[0]) >= 13:
        photo = read_photo(data)
        assert_near(photo, np.broadcast_to(np.round((158.8, 121.9, 78.4)), photo.shape), 2)
    else:
        with pytest.raises(ImageError, match="save it again as PNG"):
            read_photo(data)


RAMP = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)


def twelve_bits(values: np.ndarray) -> bytes:
    pairs = values.reshape(-1, 2).astype(int)
    return b"".join(((int(a) << 12) | int(b)).to_bytes(3, "big") for a, b in pairs)


@pytest.mark.parametrize(
    ("data", "within"),
    [
        pytest.param(png(RAMP), 0, id="PNG"),
        pytest.param(tiff(RAMP.astype("<u2").tobytes(), 16, 1), 0, id="TIFF, little-endian"),
        pytest.param(tiff(RAMP.astype(">u2").tobytes(), 16, 1, order=">"), 0, id="TIFF, big-endian"),
        pytest.param(tiff((65535 - RAMP).astype("<u2").tobytes(), 16, 0), 0, id="TIFF, white is zero"),
        pytest.param(tiff(twelve_bits(RAMP >> 4), 12, 1), 1, id="TIFF, 12 bits"),
        pytest.param(png(np.stack([RAMP] * 3, axis=-1)), 1, id="PNG, colour"),
        pytest.param(tiff(np.stack([RAMP] * 3, axis=-1).tobytes(), 16, 2, samples=3), 1, id="TIFF, colour"),
    ],
)
def test_sixteen_bits_are_scaled_not_clipped(data: bytes, within: int) -> None:
    expected = np.round(RAMP / 65535 * 255)
    assert_near(read_photo(data), np.stack([expected] * 3, axis=-1), within)


def test_sixteen_bit_grey_keeps_its_transparent_level() -> None:
    photo = read_photo(png(RAMP, chunk(b"tRNS", struct.pack(">H", RAMP[7, 5]))))
    assert (photo[7, 5] == 255).all()
    assert (photo[7, 4] == round(RAMP[7, 4] / 257)).all()


# Reading: orientation and colour profiles.

UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).transpose(1, 0, 2),
    8: np.rot90,
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize(
    ("format", "options"),
    [("JPEG", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})],
)
def test_a_photograph_is_turned_upright(format: str, options: dict[str, object], orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = read_photo(saved(Image.fromarray(PHOTO), format, **options))
    photo = read_photo(saved(Image.fromarray(PHOTO), format, exif=exif, **options))
    np.testing.assert_array_equal(photo, UPRIGHT[orientation](stored))


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x09", b""])
def test_broken_exif_does_not_cost_the_photograph(exif: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as a strict service may run
        photo = read_photo(saved(Image.fromarray(PHOTO), "PNG", exif=exif))
    np.testing.assert_array_equal(photo, PHOTO)


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def edited_srgb(edit: Callable[[dict[bytes, bytes]], None]) -> bytes:
    """The sRGB profile with the bodies of its tags edited, their sizes kept."""
    profile = bytearray(SRGB)
    (count,) = struct.unpack_from(">I", profile, 128)
    places = {name: (start, size) for name, start, size in struct.iter_unpack(">4sII", profile[132 : 132 + 12 * count])}
    bodies = {name: bytes(profile[start : start + size]) for name, (start, size) in places.items()}
    edit(bodies)
    for name, (start, size) in places.items():
        profile[start : start + size] = bodies[name]
    return bytes(profile)


def swap_red_and_blue(tags: dict[bytes, bytes]) -> None:
    tags[b"rXYZ"], tags[b"bXYZ"] = tags[b"bXYZ"], tags[b"rXYZ"]


def hardly_change(tags: dict[bytes, bytes]) -> None:
    red = bytearray(tags[b"rXYZ"])
    red[11] ^= 7  # the last digits of its X, of 1/65536
    tags[b"rXYZ"] = bytes(red)


WHITE = (0xF6D6, 0x10000, 0xD32D)  # D50


def profile(space: bytes, connection: bytes, kind: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile (ICC.1:2001-04) of the given tags."""
    start, table, bodies = 128 + 4 + 12 * len(tags), struct.pack(">I", len(tags)), b""
    for name, body in tags.items():
        table += struct.pack(">4sII", name, start + len(bodies), len(body))
        bodies += body + b"\0" * (-len(body) % 4)
    header = struct.pack(">4xI4s4s4s12x4s28x3I48x", 0x02400000, kind, space, connection, b"acsp", *WHITE)
    return struct.pack(">I", start + len(bodies)) + header + table + bodies


WHITE_POINT = b"XYZ \0\0\0\0" + struct.pack(">3I", *WHITE)
LINEAR_GREY = profile(b"GRAY", b"XYZ ", b"mntr", {b"wtpt": WHITE_POINT, b"kTRC": b"curv" + b"\0" * 8})
IDENTITY = bytes(range(256))
# Black ink alone darkens, from L* 100 to 0: a table (lut8Type) of two points a side.
BLACK_INK_ALONE = profile(
    b"CMYK",
    b"Lab ",
    b"prtr",
    {
        b"wtpt": WHITE_POINT,
        b"A2B0": b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + struct.pack(">9i", *[65536, 0, 0, 0, 65536, 0, 0, 0, 65536])
        + IDENTITY * 4 + bytes([255, 128, 128, 0, 128, 128]) * 8 + IDENTITY * 3,
    },
)  # fmt: skip


def test_an_icc_profile_is_applied() -> None:
    image = Image.fromarray(PHOTO)
    photo = read_photo(saved(image, "PNG", icc_profile=edited_srgb(swap_red_and_blue)))
    assert_near(photo, PHOTO[..., ::-1], 1)


def test_an_icc_profile_is_applied_below_the_alpha_and_before_the_turn() -> None:
    image = Image.fromarray(PHOTO)
    image.putalpha(Image.fromarray(PHOTO[..., 0]))
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = read_photo(saved(image, "PNG", icc_profile=edited_srgb(swap_red_and_blue), exif=exif))
    alpha = PHOTO[..., :1] / 255
    expected = np.rot90(np.round(alpha * PHOTO[..., ::-1] + (1 - alpha) * 255), -1)
    assert_near(photo, expected, 2)


def test_a_grey_profile_is_applied_to_grey() -> None:
    levels = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH)
    photo = read_photo(saved(Image.fromarray(levels), "PNG", icc_profile=LINEAR_GREY))
    expected = np.round(srgb_curve(levels / 255) * 255)
    assert_near(photo, np.stack([expected] * 3, axis=-1), 1)


def test_a_cmyk_profile_is_applied_to_cmyk() -> None:
    photo = read_photo(saved(flat("CMYK", (250, 0, 120, 127)), "JPEG", quality=100, icc_profile=BLACK_INK_ALONE))
    luminance = ((128 / 255 * 100 + 16) / 116) ** 3  # CIE 15: L* -> Y
    assert_near(photo, np.full_like(photo, np.round(srgb_curve(np.array(luminance)) * 255)), 2)


@pytest.mark.parametrize(
    "icc",
    [
        pytest.param(SRGB, id="sRGB"),
        pytest.param(edited_srgb(hardly_change), id="sRGB but for rounding"),
        pytest.param(b"not a profile", id="not a profile"),
        pytest.param(SRGB[:200], id="cut short"),
        pytest.param(SRGB[:128] + b"\xff" * (len(SRGB) - 128), id="damaged"),
        pytest.param(BLACK_INK_ALONE, id="for other pixels: CMYK"),
        pytest.param(LINEAR_GREY, id="for other pixels: grey"),
    ],
)
def test_a_profile_that_says_nothing_leaves_every_pixel(icc: bytes) -> None:
    np.testing.assert_array_equal(read_photo(saved(Image.fromarray(PHOTO), "PNG", icc_profile=icc)), PHOTO)


# Reading: what is refused, each with one line that says what, where and what to do.


def header_only(height: int, width: int) -> bytes:
    return png(np.zeros((1, 1), np.uint8), size=(height, width))


def bmp_header(height: int, width: int) -> bytes:
    return b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


def gif_header(height: int, width: int) -> bytes:
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", width, height, 0, 0, 0)
        + b","
        + struct.pack("<HHHHB", 0, 0, width, height, 0)
        + b"\x08\0;"
    )


def webp_header(height: int, width: int) -> bytes:
    canvas = b"\0" * 4 + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + canvas


BOMB = zlib.compress(bytes(3_000_000))
JPEG = saved(Image.fromarray(PHOTO), "JPEG")
REFUSED = {
    "empty": (b"", "empty"),
    "text": (b"hello, this is not an image", "not a JPEG"),
    "a web page": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a JPEG"),
    "PDF": (saved(Image.fromarray(PHOTO), "PDF"), "not a JPEG"),
    "EPS, which would start Ghostscript": (saved(Image.fromarray(PHOTO), "EPS"), "not a JPEG"),
    "a format not allowed": (saved(Image.fromarray(PHOTO), "PPM"), "not a JPEG"),
    "a sound": (b"RIFF\x24\0\0\0WAVEfmt ", "not a JPEG"),
    "magic bytes alone": (b"\x89PNG\r\n\x1a\n", "damaged or unsupported PNG"),
    "JPEG cut in half": (JPEG[: len(JPEG) // 2], "damaged or unsupported JPEG"),
    "PNG cut in half": (png(PHOTO)[:800], "damaged or unsupported PNG"),
    "WebP cut in half": (saved(Image.fromarray(PHOTO), "WEBP")[:100], "damaged or unsupported WEBP"),
    "TIFF cut in half": (tiff(PHOTO.tobytes(), 8, 2, samples=3)[:700], "damaged or unsupported TIFF"),
    "BMP cut in half": (saved(Image.fromarray(PHOTO), "BMP")[:700], "damaged or unsupported BMP"),
    "GIF cut in half": (saved(Image.fromarray(PHOTO), "GIF")[:900], "damaged or unsupported GIF"),
    "1 x 1": (png(PHOTO[:1, :1]), "1 x 1 pixels, a side shorter than 16"),
    "1 x 50,000": (png(np.zeros((50_000, 1), np.uint8)), "1 x 50,000 pixels, a side shorter than 16"),
    "16 x 50,000": (header_only(50_000, 16), "16 x 50,000 pixels, a side longer than 32,768"),
    "many pixels": (header_only(10_000, 10_001), "10,001 x 10,000 pixels, more than the limit of 50,000,000"),
    "many pixels, BMP": (bmp_header(9_000, 9_000), "more than the limit"),
    "many pixels, GIF": (gif_header(9_000, 9_000), "more than the limit"),
    "bomb, PNG": (header_only(30_000, 30_000), "more than the limit"),
    "bomb, GIF": (gif_header(30_000, 30_000), "more than the limit"),
    "bomb, BMP": (bmp_header(30_000, 30_000), "more than the limit"),
    "bomb, WebP": (webp_header(2**24, 2**24), "damaged or unsupported WEBP"),
    "float samples": (tiff(np.ones(480, "<f4").tobytes(), 32, 1, sample_format=3), "no agreed black and white"),
    "signed samples": (tiff(np.ones(480, "<i2").tobytes(), 16, 1, sample_format=2), "no agreed black and white"),
    "32-bit samples": (tiff(np.ones(480, "<u4").tobytes(), 32, 1), "no agreed black and white"),
}


@pytest.mark.parametrize(("data", "says"), REFUSED.values(), ids=REFUSED)
def test_a_bad_image_is_one_clear_error(data: bytes, says: str) -> None:
    with pytest.raises(ImageError) as caught:
        ignoring_warnings(data, name="me.jpg")
    message = str(caught.value)
    assert message.startswith("me.jpg: ")
    assert says in message
    assert ";" in message  # what to do follows
    assert "\n" not in message


@pytest.mark.parametrize("which", [which for which in REFUSED if which.startswith(("many", "bomb"))])
def test_too_many_pixels_are_refused_without_a_warning_of_pillow(which: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError) as caught:
            read_photo(REFUSED[which][0])
    assert not isinstance(caught.value.__cause__, Warning)


def test_the_limit_is_on_pixels_inclusive_and_can_be_set() -> None:
    pixels = HEIGHT * WIDTH
    assert read_photo(png(PHOTO), max_pixels=pixels).shape == PHOTO.shape
    with pytest.raises(ImageError, match=f"more than the limit of {pixels - 1}"):
        read_photo(png(PHOTO), max_pixels=pixels - 1)


def test_the_shortest_side_is_sixteen() -> None:
    assert read_photo(png(PHOTO[:16, :16])).shape == (16, 16, 3)
    with pytest.raises(ImageError, match="24 x 15 pixels, a side shorter than 16"):
        read_photo(png(PHOTO[:15]))


def test_a_host_with_another_pillow_limit_keeps_it_and_is_not_warned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(read_photo(png(PHOTO)), PHOTO)
    assert Image.MAX_IMAGE_PIXELS == 10


def test_a_warning_made_an_error_is_an_image_error() -> None:
    data = tiff(PHOTO.tobytes(), 8, 2, samples=3)
    height = struct.pack("<HHII", 257, 4, 1, HEIGHT)
    data = data.replace(height, struct.pack("<HHIHH", 257, 3, 2, HEIGHT, HEIGHT))  # Pillow warns: two heights
    np.testing.assert_array_equal(ignoring_warnings(data), PHOTO)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError, match="tag 257 had too many entries"):
            read_photo(data)


def test_a_missing_file_a_folder_and_an_impossible_name_are_said(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"nowhere\.jpg: no such file; check the path"):
        read_photo(tmp_path / "nowhere.jpg")
    with pytest.raises(ImageError, match="is a directory"):
        read_photo(tmp_path)
    with pytest.raises(ImageError, match=r"a\?b: cannot be read"):
        read_photo(Path("a\0b"))
    with pytest.raises(ImageError, match="cannot be read"):
        read_photo(tmp_path / ("x" * 5000))


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PermissionError(13, "Permission denied"), "may not be read by this user"),
        (OSError(5, "Input/output error"), "Input/output error"),
    ],
)
def test_an_unreadable_file_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: OSError, says: str) -> None:
    def fail(self: Path, mode: str) -> None:
        raise error

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(ImageError, match=says):
        read_photo(tmp_path / "photo.png")


def test_a_closed_stream_is_said() -> None:
    stream = io.BytesIO(png(PHOTO))
    stream.close()
    with pytest.raises(ImageError, match=r"image: cannot be read \(I/O operation on closed file"):
        read_photo(stream)


def test_a_stream_without_end_is_left() -> None:
    with Path("/dev/zero").open("rb") as endless, pytest.raises(ImageError, match="larger than 16,785,216 bytes"):
        read_photo(endless, max_pixels=1000)


def test_a_name_cannot_break_the_line() -> None:
    with pytest.raises(ImageError) as caught:
        read_photo(b"", name="me\n\x1b[31mERROR: all is lost")
    assert str(caught.value) == "me??[31mERROR: all is lost: empty; copy or upload the image again"


def specimens() -> list[bytes]:
    image, exif = Image.fromarray(PHOTO), Image.Exif()
    exif[0x0112] = 6
    frames = [flat("RGB", (250, 0, 0)), flat("RGB", (0, 250, 0))]
    rgba = image.copy()
    rgba.putalpha(120)
    return [
        saved(image, "JPEG", exif=exif, icc_profile=SRGB),
        saved(image, "JPEG", progressive=True),
        saved(image.convert("CMYK"), "JPEG", icc_profile=BLACK_INK_ALONE),
        saved(rgba, "PNG", icc_profile=SRGB, exif=exif),
        saved(frames[0], "PNG", save_all=True, append_images=frames[1:]),
        palette(True, "PNG"),
        png(RAMP),
        saved(rgba, "WEBP", lossless=True, exif=exif, icc_profile=SRGB),
        saved(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        saved(image, "WEBP"),
        saved(image, "BMP"),
        palette(False, "BMP"),
        saved(image, "TIFF", exif=exif),
        saved(image, "TIFF", compression="tiff_lzw"),
        saved(image, "TIFF", compression="jpeg"),
        tiff(RAMP.tobytes(), 16, 0),
        saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        palette(True, "GIF"),
    ]


def mutated(data: bytes, rng: random.Random) -> bytes:
    damaged = bytearray(data)
    kind = rng.choice(["cut", "flip", "header", "remove", "repeat"])
    place = rng.randrange(len(data))
    if kind == "cut":
        return data[:place]
    if kind == "remove":
        return data[:place] + data[place + rng.randint(1, 20) :]
    if kind == "repeat":
        return data[:place] + data[rng.randrange(len(data)) :]
    end = min(len(data), 64) if kind == "header" else len(data)
    for _ in range(rng.randint(1, 8)):
        damaged[rng.randrange(end)] = rng.choice([0, 1, 127, 255, rng.randrange(256)])
    return bytes(damaged)


@pytest.mark.parametrize("number", range(len(specimens())))
def test_damaged_files_end_in_a_photograph_or_an_image_error(number: int) -> None:
    data, rng = specimens()[number], random.Random(number)
    assert read_photo(data).shape in {PHOTO.shape, (WIDTH, HEIGHT, 3)}
    messages = []
    for _ in range(30):
        try:
            photo = ignoring_warnings(mutated(data, rng), max_pixels=1_000_000)
        except ImageError as error:
            messages.append(str(error))
        else:
            assert photo.dtype == np.uint8
            assert photo.ndim == 3
            assert photo.shape[2] == 3
            assert min(photo.shape[:2]) >= 16
    assert messages
    assert not any("\n" in message for message in messages)


# Writing.


@pytest.mark.parametrize("extension", [".png", ".bmp", ".tif", ".tiff", ".PNG"])
def test_a_photograph_written_without_loss_comes_back_to_the_bit(tmp_path: Path, extension: str) -> None:
    write_photo(tmp_path / f"photo{extension}", PHOTO)
    np.testing.assert_array_equal(read_photo(tmp_path / f"photo{extension}"), PHOTO)


@pytest.mark.parametrize(
    ("extension", "format"),
    [
        (".png", "PNG"),
        (".jpg", "JPEG"),
        (".jpeg", "JPEG"),
        (".webp", "WEBP"),
        (".bmp", "BMP"),
        (".tif", "TIFF"),
        (".tiff", "TIFF"),
    ],
)
def test_the_extension_names_the_format(tmp_path: Path, extension: str, format: str) -> None:
    write_photo(tmp_path / f"photo{extension}", PHOTO)
    with Image.open(tmp_path / f"photo{extension}") as image:
        assert image.format == format
        assert image.size == (WIDTH, HEIGHT)


@pytest.mark.parametrize("name", ["photo.gif", "photo.heic", "photo", ".png"])
def test_another_extension_is_refused_and_the_possible_ones_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ImageError, match=r"use one of \.png, \.jpg, \.jpeg, \.webp, \.bmp, \.tif, \.tiff"):
        write_photo(tmp_path / name, PHOTO)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_quality_buys_nearness_with_bytes(format: str) -> None:
    smooth = np.asarray(Image.fromarray(PHOTO[:3, :3]).resize((96, 96), Image.Resampling.BICUBIC))
    low, high = (encode_photo(smooth, format, quality=quality) for quality in (10, 95))
    assert len(low) < len(high)
    far, near = (np.abs(read_photo(data).astype(int) - smooth).mean() for data in (low, high))
    assert near < far
    assert near < 2


def test_png_ignores_quality() -> None:
    assert encode_photo(PHOTO, "png", quality=1) == encode_photo(PHOTO, "png", quality=100)


@pytest.mark.parametrize("quality", [0, 101, -5])
def test_a_quality_out_of_range_is_a_setting_error(quality: int) -> None:
    with pytest.raises(SettingError, match="outside 1 to 100"):
        encode_photo(PHOTO, "jpeg", quality=quality)


def test_a_side_too_long_for_the_format_is_said() -> None:
    with pytest.raises(ImageError, match="cannot be written as WEBP"):
        encode_photo(np.zeros((16, 20_000, 3), np.uint8), "webp")


def test_a_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("broken", "error", "becomes"),
    [
        ("os.fsync", OSError(28, "No space left on device"), InputError),
        ("os.fsync", KeyboardInterrupt(), KeyboardInterrupt),
        ("pathlib.Path.replace", OSError(5, "Input/output error"), InputError),
    ],
)
def test_a_failure_in_the_middle_leaves_the_old_file_whole_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, error: BaseException, becomes: type[BaseException]
) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(broken, fail)
    with pytest.raises(becomes) as caught:
        write_photo(path, PHOTO)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
    if becomes is InputError:
        assert str(caught.value) == f"{path}: cannot be written ({error.strerror}); choose another place"


def test_a_new_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomic(tmp_path / "written", b"x")
        (tmp_path / "ordinary").write_bytes(b"x")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("written", "ordinary")]
    assert modes == [0o640, 0o640]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("file")
    write_atomic(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # as a device would be
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(InputError, match="not a regular file"):
            write_atomic(path, b"x")
    assert (tmp_path / "pipe").is_fifo()


def test_a_folder_that_does_not_exist_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none/photo\.png: cannot be written \(No such file or directory\)"):
        write_photo(tmp_path / "none" / "photo.png", PHOTO)


# Tensors.


def test_to_tensor_is_channels_first_and_one_at_white() -> None:
    tensor = torch.from_numpy(to_floats(PHOTO))
    assert tensor.shape == (3, HEIGHT, WIDTH)
    assert tensor.is_contiguous()
    torch.testing.assert_close(tensor, torch.tensor(PHOTO.transpose(2, 0, 1) / 255, dtype=torch.float32), rtol=0, atol=1e-7)
    assert torch.from_numpy(to_floats(np.full((16, 16, 3), 255, np.uint8))).min() == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_to_photo_inverts_to_tensor_on_every_level(dtype: torch.dtype) -> None:
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    np.testing.assert_array_equal(to_photo(torch.from_numpy(to_floats(levels)).to(dtype)), levels)


def test_a_turned_view_becomes_a_tensor_too() -> None:
    torch.testing.assert_close(
        torch.from_numpy(to_floats(np.rot90(PHOTO, 2))), torch.from_numpy(to_floats(PHOTO)).flip(1, 2), rtol=0, atol=0
    )


def test_to_photo_clamps_and_rounds_to_the_nearest() -> None:
    values = torch.tensor([-torch.inf, -0.3, 0.49 / 255, 0.51 / 255, 99.4 / 255, 1.7, torch.inf])
    photo = to_photo(values.expand(3, 1, 7))
    assert photo[0, :, 0].tolist() == [0, 0, 0, 1, 99, 255, 255]
    assert photo.flags.c_contiguous


@pytest.mark.parametrize("tensor", [torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8), torch.full((3, 8, 8), torch.nan)])
def test_to_photo_refuses_what_is_no_photograph(tensor: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="a photograph"):
        to_photo(tensor)
