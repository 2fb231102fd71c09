"""Photographs as phones make them go through the service: large ones, and those in newer formats."""

from io import BytesIO

import httpx
import numpy as np
import pytest
from PIL import Image
from serving import StandIn, handlers_of, pixels, running, service

import heic
from facesieve.images import read_photo
from facesieve.service.proxy import create_proxy


@pytest.fixture(scope="module")
def url():
    with service(handlers_of(deadline_s=300)) as url:  # seconds of a busy machine
        yield url


@pytest.fixture(scope="module")
def gate():
    """A gate, and the server behind it."""
    behind = StandIn()
    with running(behind) as address, running(create_proxy(handlers_of(upstream=address, deadline_s=300))) as url:
        yield f"{url}/api/v1/recognition/recognize", behind


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


@pytest.fixture(scope="module")
def huge(collins):
    """One face in 49 megapixels."""
    small = Image.fromarray(read_photo(collins)).resize((1000, 1000))
    frame = np.full((7_000, 7_000, 3), 120, np.uint8)
    frame[3_000:4_000, 3_000:4_000] = np.asarray(small)
    return saved(Image.fromarray(frame), "JPEG", quality=80)


def test_a_heic_is_read_by_service_and_gate(url, gate):
    """It shows no face, so both say that, and nothing of it reaches the server behind."""
    address, behind = gate
    behind.calls.clear()
    for answer in (
        httpx.post(f"{url}/v1/purify", content=heic.PLAIN, headers={"Content-Type": "image/heic"}, timeout=60),
        httpx.post(f"{url}/v1/purify", files={"file": ("photo.heic", heic.PLAIN)}, timeout=60),
        httpx.post(address, files={"file": ("photo.heic", heic.PLAIN, "image/heic")}, timeout=60),
    ):
        assert (answer.status_code, "no face" in answer.text) == (422, True), answer.text
    assert behind.calls == []


def test_a_photograph_of_49_megapixels_goes_through_the_gate_purified(gate, huge):
    address, behind = gate
    behind.calls.clear()
    answer = httpx.post(address, files={"file": ("photo.jpg", huge, "image/jpeg")}, timeout=300)
    assert answer.status_code == 207, answer.text
    [(_, _, _, body)] = behind.calls
    image = body[body.index(b"\xff\xd8") : body.rindex(b"\xff\xd9") + 2]
    after, before = read_photo(image), read_photo(huge)
    assert after.shape == before.shape
    change = np.abs(after.astype(np.int16) - before).max(2)
    assert change[3_000:4_000, 3_000:4_000].max() > 60
    assert np.median(change[:2_000]) < 4


def test_a_photograph_of_50_megapixels_is_purified_and_one_of_more_is_named(url, huge):
    data = huge
    answer = httpx.post(f"{url}/v1/purify?format=jpeg", files={"file": ("photo.jpg", data)}, timeout=300)
    assert (answer.status_code, answer.headers.get("x-facesieve-faces")) == (200, "1"), answer.text
    too_large = saved(Image.new("L", (7_100, 7_100)), "JPEG")
    answer = httpx.post(f"{url}/v1/purify", files={"file": ("photo.jpg", too_large)}, timeout=60)
    assert answer.status_code == 422
    assert "more than the limit of 50,000,000" in answer.json()["detail"]
