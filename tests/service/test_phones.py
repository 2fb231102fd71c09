"""Photographs as phones make them go through the service: large ones, and those in newer formats."""

from io import BytesIO

import httpx
import numpy as np
import pytest
from PIL import Image
from serving import handlers_of, pixels, service

from facesieve.images import read_photo


@pytest.fixture(scope="module")
def url():
    with service(handlers_of(deadline_s=300)) as url:  # seconds of a busy machine
        yield url


def saved(image, format, **options):
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


@pytest.mark.parametrize("format", ["AVIF", "JPEG2000", "MPO", "TIFF"])
def test_a_newer_format_is_purified(url, collins, format):
    photo = Image.fromarray(read_photo(collins))
    data = saved(photo, format, **({"save_all": True, "append_images": [photo]} if format == "MPO" else {}))
    answer = httpx.post(f"{url}/v1/purify", files={"file": ("photo", data)}, timeout=60)
    assert (answer.status_code, answer.headers.get("x-facesieve-faces")) == (200, "1"), answer.text
    assert pixels(answer.content).shape == read_photo(collins).shape
    raw = httpx.post(f"{url}/v1/purify", content=data, headers={"Content-Type": f"image/{format.lower()}"}, timeout=60)
    assert raw.status_code == 200, raw.text


def test_a_photograph_of_50_megapixels_is_purified_and_one_of_more_is_named(url, collins):
    small = Image.fromarray(read_photo(collins)).resize((1000, 1000))
    frame = np.full((7_000, 7_000, 3), 120, np.uint8)
    frame[3_000:4_000, 3_000:4_000] = np.asarray(small)
    data = saved(Image.fromarray(frame), "JPEG", quality=80)
    answer = httpx.post(f"{url}/v1/purify?format=jpeg", files={"file": ("photo.jpg", data)}, timeout=300)
    assert (answer.status_code, answer.headers.get("x-facesieve-faces")) == (200, "1"), answer.text
    too_large = saved(Image.new("L", (7_100, 7_100)), "JPEG")
    answer = httpx.post(f"{url}/v1/purify", files={"file": ("photo.jpg", too_large)}, timeout=60)
    assert answer.status_code == 422
    assert "more than the limit of 50,000,000" in answer.json()["detail"]
