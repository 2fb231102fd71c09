"""TIFF against an independent reader, tifffile: every form is read as it reads it, or refused."""

import io
import itertools
import struct
from typing import Any

import numpy as np
import pytest

from facesieve.errors import ImageError
from facesieve.images import read_photo

tifffile = pytest.importorskip("tifffile")

HEIGHT, WIDTH = 48, 64
ROWS, COLUMNS = np.mgrid[0:HEIGHT, 0:WIDTH]
PIXELS = np.stack([COLUMNS * 4, ROWS * 5, (ROWS + COLUMNS) * 2, 255 - ROWS], axis=-1).astype(np.uint8)


def written(pixels: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


FORMS = list(itertools.product((8, 16), ("contig", "separate"), ("<", ">"), (None, (16, 16)), (None, "zlib"), (False, True)))


@pytest.mark.parametrize(("bits", "planes", "order", "tile", "compression", "big"), FORMS)
def test_every_layout_is_read_as_by_another_reader_or_refused(
    bits: int, planes: str, order: str, tile: tuple[int, int] | None, compression: str | None, big: bool
) -> None:
    colours = PIXELS[..., :3].astype(f"u{bits // 8}") * (257 if bits == 16 else 1)
    stored = np.moveaxis(colours, -1, 0) if planes == "separate" else colours
    data = written(
        stored, photometric="rgb", planarconfig=planes, byteorder=order, tile=tile, compression=compression, bigtiff=big,
        **({} if tile else {"rowsperstrip": 10}),
    )  # fmt: skip
    other = tifffile.imread(io.BytesIO(data))
    other = np.moveaxis(other, 0, -1) if planes == "separate" else other
    np.testing.assert_array_equal(read_photo(data), other >> (bits - 8))


@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("bits", [8, 16])
def test_alpha_in_planes_is_alpha(planes: str, bits: int) -> None:
    pixels = PIXELS.astype(f"u{bits // 8}") * (257 if bits == 16 else 1)
    stored = np.moveaxis(pixels, -1, 0) if planes == "separate" else pixels
    data = written(stored, photometric="rgb", planarconfig=planes, extrasamples=["unassalpha"])
    alpha = PIXELS[..., 3:] / 255
    expected = PIXELS[..., :3] * alpha + 255 * (1 - alpha)
    assert np.abs(read_photo(data) - expected).max() <= 1


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
@pytest.mark.parametrize("bits", [8, 16])
def test_grey_is_read_as_by_another_reader(photometric: str, bits: int) -> None:
    grey = PIXELS[..., 0].astype(f"u{bits // 8}") * (257 if bits == 16 else 1)
    other = tifffile.imread(io.BytesIO(written(grey, photometric=photometric))) >> (bits - 8)
    expected = 255 - other if photometric == "miniswhite" else other
    np.testing.assert_array_equal(read_photo(written(grey, photometric=photometric))[..., 0], expected)


def test_of_many_pages_the_first_is_read() -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(PIXELS[..., :3], photometric="rgb")
        writer.write(np.zeros((2 * HEIGHT, 2 * WIDTH, 3), np.uint8), photometric="rgb")
    np.testing.assert_array_equal(read_photo(file.getvalue()), PIXELS[..., :3])


def test_a_pyramid_with_the_picture_first_is_read() -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(PIXELS[..., :3], photometric="rgb", subifds=1)
        writer.write(PIXELS[::2, ::2, :3], photometric="rgb", subfiletype=1)
    np.testing.assert_array_equal(read_photo(file.getvalue()), PIXELS[..., :3])


def preview(**options: Any) -> bytes:
    """A preview, and below it the picture, as cameras' raw files are laid out."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(PIXELS[::2, ::2, :3], photometric="rgb", subifds=1, **options)
        writer.write(PIXELS[..., :3], photometric="rgb")
    return file.getvalue()


RAW = {
    "a preview by its own account": preview(subfiletype=1),
    "a preview by the picture below it": preview(),
    "a DNG": written(PIXELS[..., :3], photometric="rgb", extratags=[(50706, 1, 4, (1, 4, 0, 0), True)]),
    "a sensor's picture": written(PIXELS[..., 0], photometric="cfa", extratags=[(33421, 3, 2, (2, 2), True)]),
    "a CR2": b"II*\0\x10\0\0\0CR\2\0" + bytes(100),
    "a CR3": b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(100),
    "a RAF": b"FUJIFILMCCD-RAW 0201" + bytes(100),
    "an ORF": b"IIRO\x08\0\0\0" + bytes(100),
    "an RW2": b"IIU\0\x18\0\0\0" + bytes(100),
}


@pytest.mark.parametrize("data", RAW.values(), ids=RAW)
def test_a_raw_file_is_named_and_its_preview_is_no_photograph(data: bytes) -> None:
    with pytest.raises(ImageError, match="a camera's raw file.*convert it"):
        read_photo(data)


def test_what_is_below_may_be_broken() -> None:
    data = written(PIXELS[..., :3], photometric="rgb", extratags=[(330, 4, 1, 2**31, True)])
    np.testing.assert_array_equal(read_photo(data), PIXELS[..., :3])


def test_a_compression_whose_memory_the_file_chooses_is_refused() -> None:
    data = written(PIXELS[..., :3], photometric="rgb", compression="zlib")
    found = struct.pack("<HHIH", 259, 3, 1, 8)
    assert found in data
    with pytest.raises(ImageError, match="compression 34925"):
        read_photo(data.replace(found, struct.pack("<HHIH", 259, 3, 1, 34925)))
