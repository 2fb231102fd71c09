"""Sample photographs, made small so that their faces are found quickly: as the bytes of JPEG files."""

from io import BytesIO

import pytest
from PIL import Image
from serving import StandIn, handlers_of, running

from facesieve.service.proxy import create_proxy


def small(path):
    file = BytesIO()
    with Image.open(path) as photo:
        photo.thumbnail((300, 300))
        photo.save(file, "jpeg", quality=95)
    return file.getvalue()


@pytest.fixture(scope="session")
def collins(sample_paths):
    return next(small(path) for path in sample_paths if path.name == "collins-1.jpg")


@pytest.fixture(scope="session")
def obama(sample_paths):
    return [small(path) for path in sample_paths if path.name.startswith("obama")]


# --- the proxy before a stand-in for the server behind ------------------------------------------


@pytest.fixture(scope="module")
def behind():
    return StandIn()


@pytest.fixture(scope="module")
def address(behind):
    with running(behind) as url:
        yield url


@pytest.fixture(scope="module")
def proxy(address):
    with running(create_proxy(handlers_of(upstream=address))) as url:
        yield url


@pytest.fixture
def forgotten(behind):
    behind.calls.clear()


@pytest.fixture(scope="module")
def blank():
    file = BytesIO()
    Image.new("RGB", (200, 200), (90, 90, 90)).save(file, "png")
    return file.getvalue()
