"""Sample photographs, made small so that their faces are found quickly: as the bytes of JPEG files."""

from io import BytesIO

import pytest
from PIL import Image


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
