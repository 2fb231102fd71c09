"""Whatever people hold a photograph in: one function takes it, or says why not."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from facesieve.errors import ImageError, InputError
from facesieve.images import as_photo, encode_photo

PHOTO = np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)


def test_a_photograph_is_taken_as_it_is() -> None:
    assert as_photo(PHOTO) is PHOTO


def test_a_path_its_text_its_bytes_and_a_stream_are_read(tmp_path: Path) -> None:
    data = encode_photo(PHOTO, "png")
    path = tmp_path / "photo.png"
    path.write_bytes(data)
    for source in (path, str(path), data, io.BytesIO(data)):
        np.testing.assert_array_equal(as_photo(source), PHOTO)


@pytest.mark.parametrize("grey", [PHOTO[..., 0], PHOTO[..., :1]])
def test_grey_is_repeated(grey: np.ndarray) -> None:
    np.testing.assert_array_equal(as_photo(grey), np.stack([PHOTO[..., 0]] * 3, axis=-1))


def test_alpha_is_blended_over_white() -> None:
    alpha = np.full((20, 24, 1), 128, np.uint8)
    expected = (PHOTO * 128.0 + 255 * 127) / 255
    assert np.abs(as_photo(np.concatenate([PHOTO, alpha], axis=2)) - expected).max() <= 1


def test_a_view_becomes_contiguous() -> None:
    turned = as_photo(PHOTO[:, ::-1])
    assert turned.flags.c_contiguous
    np.testing.assert_array_equal(turned, PHOTO[:, ::-1])


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "1"])
def test_a_pil_image_is_as_its_file(mode: str) -> None:
    image = Image.fromarray(PHOTO).convert(mode)
    file = io.BytesIO()
    image.save(file, "TIFF")
    np.testing.assert_array_equal(as_photo(image), as_photo(file.getvalue()))


@pytest.mark.parametrize("format", ["PNG", "TIFF", "JPEG"])
def test_a_pil_image_is_set_upright_as_its_file_is(format: str) -> None:
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    Image.fromarray(PHOTO).save(file, format, exif=exif)
    with Image.open(io.BytesIO(file.getvalue())) as image:
        photo = as_photo(image)
    assert photo.shape == (24, 20, 3)
    np.testing.assert_array_equal(photo, as_photo(file.getvalue()))


@pytest.mark.parametrize(
    ("thing", "says"),
    [
        (PHOTO.astype(np.uint16), r"an array of shape \(20, 24, 3\) and type uint16 is no photograph; .*16 bits to 8"),
        (PHOTO.astype(np.float32), r"an array of shape \(20, 24, 3\) and type float32 is no photograph; .*to_photo"),
        (PHOTO > 9, r"type bool is no photograph; give a path"),
        (PHOTO.transpose(2, 0, 1), r"an array of shape \(3, 20, 24\) and type uint8 is no photograph"),
        (PHOTO[None], r"an array of shape \(1, 20, 24, 3\) and type uint8"),
        (np.zeros((20, 24, 2), np.uint8), r"an array of shape \(20, 24, 2\) and type uint8"),
        (torch.zeros(3, 20, 24), r"a Tensor of shape \(3, 20, 24\) and type float32 is no photograph"),
        (None, "a NoneType is no photograph"),
        ([PHOTO], "a list is no photograph"),
    ],
)
def test_anything_else_is_named_by_shape_and_type(thing: object, says: str) -> None:
    with pytest.raises(InputError, match=says):
        as_photo(thing)


@pytest.mark.parametrize("thing", [PHOTO[:9], Image.fromarray(PHOTO[:9])])
def test_sides_are_checked_whatever_holds_them(thing: object) -> None:
    with pytest.raises(ImageError, match="a side shorter than 16"):
        as_photo(thing)


def test_a_pil_image_that_cannot_be_read_is_one_line() -> None:
    file = io.BytesIO()
    Image.fromarray(PHOTO).save(file, "PNG")
    with pytest.raises(ImageError, match="cannot be read"):
        as_photo(Image.open(io.BytesIO(file.getvalue()[:-200])))


def test_the_limit_on_pixels_holds_for_pil_images() -> None:
    with pytest.raises(ImageError, match="more than the limit of 100"):
        as_photo(Image.fromarray(PHOTO), max_pixels=100)
