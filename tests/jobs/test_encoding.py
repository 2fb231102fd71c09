"""Results in other formats, with the dates of their photographs, and of photographs of any size."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from facesieve.errors import SettingError
from facesieve.images import Encoding, encode_photo, read_photo, read_with_dates

EXIF = Image.Exif()
EXIF[0x0112] = 6
EXIF[0x010F] = "Maker"
EXIF[0x0132] = "2026:11:30 12:00:00"
EXIF.get_ifd(0x8769).update({0x9003: "2026:11:30 11:22:33", 0x9011: "+01:00", 0x927C: b"secret"})
EXIF.get_ifd(0x8825)[1] = "N"


@pytest.fixture
def photo(sample_paths: list[Path], tmp_path: Path) -> Path:
    """A photograph that lies on its side, with dates, place and camera."""
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "photo.jpg"
    with Image.open(sample_paths[0]) as image:
        image.convert("RGB").transpose(Image.Transpose.ROTATE_90).save(path, exif=EXIF, quality=95)
    return path


def kept(path: Path) -> dict[int, object]:
    with Image.open(path) as image:
        exif = image.getexif()
        return {**exif, **exif.get_ifd(ExifTags.IFD.Exif), **exif.get_ifd(ExifTags.IFD.GPSInfo)}


@pytest.mark.parametrize(("format", "suffix"), [("png", ".png"), ("jpeg", ".jpg"), ("webp", ".webp")])
def test_results_have_the_format_that_was_asked_for_and_dates_on_request(photo, tmp_path, facesieve, format, suffix):
    call = ["purify", photo, "-o", tmp_path / "out", "--format", format, "--seed", 1, "--keep-exif", "--preset", "gentle"]
    assert facesieve(*call).code == 0
    result = tmp_path / "out" / f"photo{suffix}"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted([result.name, "photo.face1.json"])
    with Image.open(result) as image:
        assert image.format == format.upper()
    assert read_photo(result).shape == read_photo(photo).shape
    found = kept(result)
    found.pop(0x8769, None)
    assert found == {0x0112: 1, 0x0132: "2026:11:30 12:00:00", 0x9003: "2026:11:30 11:22:33", 0x9011: "+01:00"}
    made = json.loads((tmp_path / "out" / "photo.face1.json").read_text())["made_from"]
    assert made["keep_exif"] is True
    assert made.get("format", "png") == format
    assert "1 there already" in facesieve(*call).out


def test_nothing_is_kept_unasked_and_the_default_records_nothing_new(photo, tmp_path, facesieve):
    assert facesieve("purify", photo, "-o", tmp_path / "out", "--preset", "gentle").code == 0
    assert kept(tmp_path / "out" / "photo.png") == {}
    made = json.loads((tmp_path / "out" / "photo.face1.json").read_text())["made_from"]
    assert not {"format", "quality", "keep_exif"} & made.keys()


def test_another_format_takes_the_place_of_a_result_only_on_request(photo, tmp_path, facesieve):
    call = ["purify", photo, "-o", tmp_path / "out", "--preset", "gentle"]
    facesieve(*call)
    again = facesieve(*call, "--format", "jpeg")
    assert again.code == 1
    assert "records another photo or other settings" in again.err
    assert facesieve(*call, "--format", "jpeg", "--quality", 80, "--overwrite").code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["photo.face1.json", "photo.jpg"]


def test_the_name_of_a_result_tells_its_format(photo, tmp_path, facesieve):
    assert facesieve("purify", photo, "-o", tmp_path / "result.jpeg", "--preset", "gentle", "--quality", 60).code == 0
    with Image.open(tmp_path / "result.jpeg") as image:
        assert image.format == "JPEG"


def test_photographs_of_any_size_are_read_on_request(photo, tmp_path, facesieve):
    done = facesieve("purify", photo, "-o", tmp_path / "out", "--max-pixels", 10_000)
    assert done.code == 1
    assert "more than the limit of 10,000; make it smaller, or raise the limit" in done.err


def test_what_does_not_go_together_is_one_line(photo, tmp_path, facesieve):
    for options, message in [
        (["-o", tmp_path / "out", "--format", "gif"], "format 'gif' must be one of png, jpeg, webp"),
        (["-o", tmp_path / "out", "--quality", 80], "a quality goes with jpeg or webp"),
        (["-o", tmp_path / "out", "--format", "jpeg", "--quality", 0], "quality 0 is outside 1 to 100"),
        (["-o", tmp_path / "out", "--format", ".zip=a:b"], "given by --shard-format"),
        (["-o", tmp_path / "a.png", "--format", "jpeg"], "name it a.jpg"),
        (["-o", tmp_path / "a.gif"], "a result cannot be written as .gif"),
        (["-o", tmp_path / "out", "--max-pixels", 3], "max-pixels"),
    ]:
        done = facesieve("purify", photo, *options)
        assert (done.code, message in done.err, len(done.err.strip().splitlines())) == (2, True, 1), done.err
    assert not (tmp_path / "out").exists()


def test_an_encoding_is_checked_where_it_is_made():
    for wrong in ({"format": "tiff"}, {"quality": 50}, {"format": "jpeg", "quality": 101}):
        with pytest.raises(SettingError):
            Encoding(**wrong)


@pytest.mark.parametrize(
    "exif", [b"", b"Exif\0\0garbage", b"II*\0\xff\xff\xff\xff" + bytes(20), b"MM\0*\0\0\0\x08\xff\xff" + bytes(99)]
)
def test_broken_metadata_has_no_dates_and_costs_nothing(exif):
    file = io.BytesIO()
    pixels = np.zeros((20, 24, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    photo, dates = read_with_dates(file.getvalue())
    np.testing.assert_array_equal(photo, pixels)
    with Image.open(io.BytesIO(encode_photo(photo, "png", exif=dates))) as image:
        assert dict(image.getexif()) == {0x0112: 1}
