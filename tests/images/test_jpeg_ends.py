"""A JPEG that lacks only its end is whole; one that lacks pixels is not, whatever stands in their place."""

import io
import random

import numpy as np
import pytest
from PIL import Image

from facesieve.errors import ImageError
from facesieve.images import read_photo

ROWS, COLUMNS = np.mgrid[0:120, 0:160]
SMOOTH = np.stack([COLUMNS + ROWS // 3, ROWS * 2, (ROWS + COLUMNS) % 256], axis=-1)
PIXELS = (SMOOTH + np.random.default_rng(1).integers(-20, 20, SMOOTH.shape)).clip(0, 255).astype(np.uint8)


def jpeg(**options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).convert(str(options.pop("mode", "RGB"))).save(file, "JPEG", **options)
    return file.getvalue()


KINDS = {
    "baseline": jpeg(quality=90),
    "poor": jpeg(quality=20),
    "progressive": jpeg(quality=90, progressive=True),
    "grey": jpeg(mode="L"),
    "grey, progressive": jpeg(mode="L", progressive=True),
    "CMYK": jpeg(mode="CMYK"),
    "with restarts": jpeg(quality=90, restart_marker_rows=1),
    "with many restarts": jpeg(quality=90, restart_marker_blocks=1),
    "progressive with restarts": jpeg(progressive=True, restart_marker_blocks=3),
    "not subsampled": jpeg(subsampling=0),
}


@pytest.mark.parametrize("data", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("end", [b"", b"\0\0", b"\0" * 500, b"\xff\xff", b"\xff" * 500, b"\xff"])
def test_without_its_end_it_is_the_same(data: bytes, end: bytes) -> None:
    assert data[-2:] == b"\xff\xd9"
    np.testing.assert_array_equal(read_photo(data[:-2] + end), read_photo(data))


@pytest.mark.parametrize("data", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("end", [b"", b"\0" * 500, b"\xff" * 500])
def test_cut_at_every_tenth_it_is_refused(data: bytes, end: bytes) -> None:
    for tenth in range(1, 10):
        with pytest.raises(ImageError, match=r"truncated|damaged"):
            read_photo(data[: len(data) * tenth // 10] + end)


@pytest.mark.parametrize("data", KINDS.values(), ids=KINDS)
def test_cut_anywhere_it_is_the_same_picture_or_refused(data: bytes) -> None:
    """Or so nearly the same that what is missing cannot be seen: the last bits of the last block."""
    whole, draw = read_photo(data).astype(int), random.Random(0)
    begins = data.index(b"\xff\xda")
    places = [draw.randrange(begins, len(data) - 2) for _ in range(25)] + list(range(len(data) - 12, len(data) - 2))
    restarts = [at for at in range(begins, len(data) - 1) if data[at] == 0xFF and 0xD0 <= data[at + 1] <= 0xD7]
    for place in places + restarts[-10:] + [at + 2 for at in restarts[-10:]]:
        try:
            photo = read_photo(data[:place])
        except ImageError:
            continue
        assert np.abs(photo - whole).max() <= 2, place


def test_an_end_is_the_end(tmp_path: object) -> None:
    first, second = jpeg(), jpeg(mode="L")
    np.testing.assert_array_equal(read_photo(first + second), read_photo(first))
    np.testing.assert_array_equal(read_photo(first + bytes(10_000)), read_photo(first))


def test_an_mpo_is_its_first_picture() -> None:
    file, other = io.BytesIO(), Image.new("RGB", (160, 120), "red")
    Image.fromarray(PIXELS).save(file, "MPO", save_all=True, append_images=[other], quality=90)
    with Image.open(io.BytesIO(file.getvalue())) as image:
        assert image.n_frames == 2
        np.testing.assert_array_equal(read_photo(file.getvalue()), np.asarray(image))
