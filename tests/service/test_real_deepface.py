"""The proxy in front of the real DeepFace API, where an interpreter with ``deepface`` is at hand.

FACESIEVE_DEEPFACE=/path/to/python pytest -m slow tests/service/test_real_deepface.py
"""

import base64
import os
import subprocess
from pathlib import Path

import httpx
import numpy as np
import pytest
from serving import handlers_of, quick_shield, running

from facesieve.images import encode_photo, read_photo
from facesieve.service.proxy import create_proxy

PYTHON = os.environ.get("FACESIEVE_DEEPFACE")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="FACESIEVE_DEEPFACE names no interpreter that has deepface; it brings TensorFlow"),
]

HOW = {"model_name": "Facenet", "detector_backend": "skip", "enforce_detection": False}


@pytest.fixture(scope="module")
def deepface(tmp_path_factory):
    home = tmp_path_factory.mktemp("deepface")
    command = [PYTHON, Path(__file__).with_name("deepface_server.py"), home]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=(home / "log").open("w"), text=True) as process:
        try:
            port = next((line.split()[-1] for line in process.stdout if line.startswith("listening on")), None)
            assert port, (home / "log").read_text()
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


@pytest.fixture(scope="module")
def proxy(deepface):
    with running(create_proxy(handlers_of(upstream=deepface))) as url:
        yield url


def ask(address, path, **call):
    return httpx.post(address + path, timeout=120, **call)


def uri(photo):
    return "data:image/jpeg;base64," + base64.b64encode(photo).decode()


def cosine(one, other):
    return float(np.dot(one, other) / np.linalg.norm(one) / np.linalg.norm(other))


def test_an_image_reaches_deepface_purified_by_json_and_by_form(deepface, proxy, collins):
    by_hand = encode_photo(quick_shield().purify(read_photo(collins), seeds=[5])[0], "jpeg")
    for call in (
        lambda photo: {"json": {**HOW, "img": uri(photo)}},
        lambda photo: {"files": {"img": ("a.jpg", photo, "image/jpeg")}, "data": {**HOW, "enforce_detection": ""}},
    ):
        raw, expected, shielded = (
            ask(*where, **call(photo))
            for where, photo in (
                ((deepface, "/represent"), collins),
                ((deepface, "/represent"), by_hand),
                ((proxy, "/represent"), collins),
            )
        )
        assert [answer.status_code for answer in (raw, expected, shielded)] == [200, 200, 200], shielded.text
        (before,), (wanted,), (after,) = (answer.json()["results"] for answer in (raw, expected, shielded))
        assert after.keys() == before.keys()
        assert after["facial_area"] == before["facial_area"]
        like = cosine(after["embedding"], wanted["embedding"])  # the noise is another one
        assert like > cosine(after["embedding"], before["embedding"])


def test_a_verification_reaches_deepface_and_its_own_errors_come_back_as_they_are(deepface, proxy, collins, obama):
    call = {**HOW, "img1": uri(collins), "img2": uri(obama[0])}
    raw, shielded = (ask(address, "/verify", json=call) for address in (deepface, proxy))
    assert (raw.status_code, shielded.status_code) == (200, 200)
    assert shielded.json().keys() == raw.json().keys()
    assert shielded.json()["distance"] != raw.json()["distance"]
    for wrong in ({"img1": uri(collins), **HOW}, {**HOW}, {**call, "model_name": "nobody's"}):
        raw, shielded = (ask(address, "/verify", json=wrong) for address in (deepface, proxy))
        assert raw.status_code >= 400
        assert shielded.status_code == raw.status_code
        assert shielded.json().keys() == raw.json().keys()
