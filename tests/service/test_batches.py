"""Several photographs in one request: each has its result or its problem."""

import base64

import httpx
import numpy as np
import pytest
from serving import handlers_of, pixels, png, problem, service, two_faces

from facesieve.client import Client


@pytest.fixture(scope="module")
def url():
    with service(handlers_of(allow_seeds=True)) as address:
        yield address


def test_a_batch_has_a_result_or_a_problem_for_each_photograph(url, collins, obama):
    blank = png(np.full((64, 64, 3), 90))
    photographs = [collins, blank, b"no image", two_faces(obama[0])]
    answer = httpx.post(f"{url}/v1/purify/batch?seed=7", files=[("file", one) for one in photographs])
    assert answer.status_code == 200
    found = answer.json()["photographs"]
    assert [one["problem"] and one["problem"]["type"].rpartition(":")[2] for one in found] == [
        None,
        "no-face",
        "unreadable-image",
        None,
    ]
    assert [len(one["faces"] or ()) for one in found] == [1, 0, 0, 2]
    for one, sent in ((found[0], collins), (found[3], photographs[3])):
        alone = httpx.post(f"{url}/v1/purify?seed=7", files={"file": sent})
        assert np.abs(pixels(base64.b64decode(one["image"])) - pixels(alone.content)).max() <= 1  # rounding within a batch
    with Client(url) as client:
        assert [len(one["faces"] or ()) for one in client.purify_batch(photographs)] == [1, 0, 0, 2]


def test_a_batch_is_bounded(collins):
    with service(handlers_of(max_images=2)) as url:
        assert "1 to 2" in problem(httpx.post(url + "/v1/purify/batch", files=[("file", collins)] * 3), 422, "input")
        problem(httpx.post(url + "/v1/purify/batch?seed=1", files=[("file", collins)]), 422, "input")


def test_photographs_of_a_batch_do_not_crowd_each_other_out(collins):
    """As many faces as one request may have, in a queue that holds those of one photograph."""
    crowd = two_faces(two_faces(collins))
    with service(handlers_of(max_faces=4, queue_faces=20, max_wait_s=60, readers=1)) as url:
        found = httpx.post(f"{url}/v1/purify/batch", files=[("file", crowd)] * 8, timeout=60).json()["photographs"]
    assert [len(one["faces"] or ()) for one in found] == [4] * 8, [one["problem"] for one in found]


def test_without_memory_for_one_photograph_of_a_batch_the_others_are_answered(collins, monkeypatch):
    handlers = handlers_of()
    cut = handlers.cut

    async def short(data, **how):
        if data == b"large":
            raise MemoryError
        return await cut(data, **how)

    monkeypatch.setattr(handlers, "cut", short)
    with service(handlers) as url:
        one, other = httpx.post(f"{url}/v1/purify/batch", files=[("file", b"large"), ("file", collins)]).json()["photographs"]
        assert problem(httpx.post(f"{url}/v1/purify", files={"file": b"large"}), 503, "busy")
    assert (one["problem"]["status"], one["problem"]["type"]) == (503, "urn:facesieve:problem:busy")
    assert len(other["faces"]) == 1
