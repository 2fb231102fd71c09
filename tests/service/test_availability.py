"""One client cannot take the service from the others: memory, pieces of a body, the queue, the deadline."""

import gc
import json
import logging
import threading
import time
import weakref
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
from serving import Gate, gated_handlers, handlers_of, png, problem, service, two_faces

from facesieve.faces import Detector
from facesieve.images import read_photo

BLANK = png(np.full((200, 200, 3), 200))  # no face in it


# --- memory -----------------------------------------------------------------------------------


@contextmanager
def photographs_held(monkeypatch):
    """Weak references to the photographs that were read, without the collector of cycles."""
    held = []

    def remembered(*args, **kwargs):
        photo = read_photo(*args, **kwargs)
        held.append(weakref.ref(photo))
        return photo

    monkeypatch.setattr("facesieve.service.handlers.read_photo", remembered)
    logging.disable(logging.CRITICAL)  # pytest keeps what is logged, and errors with it
    gc.collect()
    gc.disable()
    try:
        yield held
    finally:
        gc.enable()
        logging.disable(logging.NOTSET)


def alive(held):
    return sum(one() is not None for one in held)


class Broken:
    def purify(self, crops, seeds):
        raise RuntimeError("broken")


@pytest.mark.parametrize(
    ("query", "photo", "status", "read"),
    [
        ("/v1/purify", "blank", 422, 5),
        ("/v1/purify?aligned=true", "oblong", 422, 5),
        ("/v1/purify", "faces", 422, 5),  # more than are taken
        ("/v1/verify?person=x", "blank", 404, 0),
        ("/v1/purify?seed=1", "collins", 422, 0),
        ("/v1/identify?seed=1", "collins", 422, 5),
        ("/v1/purify", "collins", 500, 5),
    ],
)
def test_no_refused_photograph_stays_in_memory(monkeypatch, tmp_path, collins, query, photo, status, read):
    photos = {"blank": BLANK, "oblong": BLANK, "faces": two_faces(collins), "collins": collins}
    if photo == "oblong":
        photos["oblong"] = png(np.full((200, 300, 3), 200))
    handlers = gated_handlers(Broken(), max_faces=1, gallery=str(tmp_path / "gallery"))
    with photographs_held(monkeypatch) as held, service(handlers) as url:
        for _ in range(5):
            assert httpx.post(url + query, content=photos[photo], headers={"Content-Type": "image/png"}).status_code == status
        time.sleep(0.2)  # the last thread lets go
        assert alive(held) == 0
    assert len(held) == read


def test_a_photograph_whose_client_waited_beyond_the_deadline_does_not_stay_either(monkeypatch, collins):
    gate = Gate(opened=False)
    with photographs_held(monkeypatch) as held, service(gated_handlers(gate, deadline_s=0.3, max_batch=1)) as url:
        for _ in range(3):
            problem(httpx.post(url + "/v1/purify", files={"file": collins}), 503, "busy")
        gate.open.set()
        time.sleep(0.3)
        assert alive(held) == 0


def test_an_answered_photograph_does_not_stay_either(monkeypatch, collins):
    with photographs_held(monkeypatch) as held, service(gated_handlers(Gate())) as url:
        for accept in ("image/png", "application/json"):
            assert httpx.post(url + "/v1/purify", files={"file": collins}, headers={"Accept": accept}).status_code == 200
        time.sleep(0.2)
        assert (len(held), alive(held)) == (2, 0)


# --- bodies of many pieces --------------------------------------------------------------------


def of_parts(count):
    part = b'--b\r\nContent-Disposition: form-data; name="%d"\r\n\r\n\r\n'
    return b"".join(part % n for n in range(count)) + b"--b--\r\n", "multipart/form-data; boundary=b"


def of_members(count):
    return b"{" + b",".join(b'"%d":""' % n for n in range(count)) + b"}", "application/json"


def of_values(count):
    return b'{"file":[' + b"1," * count + b"1]}", "application/json"


def of_escapes(count):
    return b'{"file":"' + b"\\u0041" * count + b'"}', "application/json"


def of_blanks(count):
    return b'{"file":"' + b" " * count + b'?"}', "application/json"


@pytest.mark.parametrize(
    ("make", "count"),
    [(of_parts, 320_000), (of_members, 1_500_000), (of_values, 9_000_000), (of_escapes, 3_000_000), (of_blanks, 18_000_000)],
)
def test_a_body_of_many_pieces_stops_nobody_and_is_refused(make, count):
    """The best of three, since another program can hold this machine up; a parser would hold it up each time, for seconds."""
    body, content_type = make(count)
    with service(handlers_of()) as url:
        stops = []
        while len(stops) < 3 and min(stops, default=1.0) >= 0.2:
            answer, slowest = while_asking(url, lambda: post_body(url, body, content_type))
            problem(answer, 422, "input")
            stops.append(slowest)
    assert min(stops) < 0.2


def post_body(url, body, content_type):
    return httpx.post(url + "/v1/purify", content=body, headers={"Content-Type": content_type}, timeout=60)


def while_asking(url, work):
    """What ``work`` gives, and the slowest health check meanwhile, in seconds."""
    done, slowest = threading.Event(), [0.0]

    def ask():
        with httpx.Client(base_url=url) as client:
            while not done.is_set():
                begun = time.monotonic()
                assert client.get("/healthz").status_code == 200
                slowest[0] = max(slowest[0], time.monotonic() - begun)
                time.sleep(0.01)

    asking = threading.Thread(target=ask)
    asking.start()
    found = work()
    done.set()
    asking.join()
    return found, slowest[0]


def test_a_body_of_as_many_pieces_as_are_taken_is_read():
    with service(handlers_of()) as url:
        for make, count, says in ((of_parts, 64, "send one image"), (of_parts, 65, "more than 64"), (of_members, 64, "send one")):
            body, content_type = make(count)
            answer = httpx.post(url + "/v1/purify", content=body, headers={"Content-Type": content_type})
            assert says in problem(answer, 422, "input")


# --- the queue and the deadline ---------------------------------------------------------------


class SlowDetector(Detector):
    """Takes its time over what is wide, and finds nothing there."""

    seconds = 3.0

    def detect(self, photo):
        if photo.shape[:2] == (200, 320):
            time.sleep(self.seconds)
            return []
        return super().detect(photo)


def at_once(calls):
    """The answers of these calls, made at the same time, and how long each took."""
    answers = [None] * len(calls)

    def run(number):
        begun = time.monotonic()
        answers[number] = (calls[number](), time.monotonic() - begun)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def test_the_deadline_covers_the_wait_for_being_read_and_counts_from_the_start(monkeypatch, collins):
    """Twelve hard photographs take two readers 18 s; who comes behind them is told after 5 s that it did not work."""
    monkeypatch.setattr("facesieve.service.handlers.Detector", SlowDetector)
    hard = png(np.full((200, 320, 3), 200))
    with service(gated_handlers(Gate(), deadline_s=5, max_wait_s=300, max_requests=64)) as url:

        def post(photo):
            return lambda: httpx.post(url + "/v1/purify", content=photo, headers={"Content-Type": "image/png"}, timeout=60)

        answers = at_once([post(hard)] * 12 + [lambda: (time.sleep(1), post(collins)())[1]])
        assert {answer.status_code for answer, _ in answers} == {422, 503}
        assert max(seconds for _, seconds in answers) < 8
        last, _ = answers[-1]
        assert last.status_code == 503
        assert "within 5 s" in problem(last, 503, "busy")
        time.sleep(SlowDetector.seconds)
        assert post(collins)().status_code == 200  # and it recovers


def test_who_would_wait_too_long_to_be_read_is_refused_before_that(monkeypatch, collins):
    monkeypatch.setattr("facesieve.service.handlers.Detector", SlowDetector)
    hard = png(np.full((200, 320, 3), 200))
    handlers = gated_handlers(Gate(), max_wait_s=1.5, readers=1)
    with service(handlers) as url:

        def post():
            return httpx.post(url + "/v1/purify", content=hard, headers={"Content-Type": "image/png"}, timeout=60)

        for _ in range(2):
            assert post().status_code == 422  # the pace is learned: 1.1 s
        answers = at_once([post] * 8)
        refused = [seconds for answer, seconds in answers if answer.status_code == 503]
        assert len(refused) == 6
        assert max(refused) < SlowDetector.seconds


def test_eight_and_sixteen_callers_at_once_wait_and_none_is_refused(collins):
    with service(gated_handlers(Gate(seconds=0.1), max_batch=2)) as url:
        for count in (8, 16):
            answers = at_once([lambda: httpx.post(url + "/v1/purify", files={"file": collins}, timeout=60)] * count)
            assert [answer.status_code for answer, _ in answers] == [200] * count


def test_what_is_finished_goes_before_what_waits_to_be_read(monkeypatch, collins):
    """Otherwise photographs would pile up in memory, decoded twice."""
    order = []

    def read(data, **kwargs):
        order.append("read")
        return read_photo(data, **kwargs)

    gate = Gate(opened=False)
    handlers = gated_handlers(gate, max_batch=1, readers=1, batch_wait_ms=0)
    monkeypatch.setattr("facesieve.service.handlers.read_photo", read)
    monkeypatch.setattr("facesieve.service.handlers.encode_photo", lambda *_: order.append("write") or b"")
    with service(handlers) as url:

        def post():
            return httpx.post(url + "/v1/purify", files={"file": collins}, timeout=60)

        first = threading.Thread(target=post)
        first.start()
        assert gate.begun.wait(20)
        busy = threading.Event()
        handlers._readers._threads.submit(busy.wait)  # the one reader is at something long
        rest = [threading.Thread(target=post) for _ in range(3)]
        for thread in rest:
            thread.start()
        time.sleep(0.5)
        gate.open.set()
        time.sleep(0.5)
        busy.set()
        for thread in (first, *rest):
            thread.join()
    assert order[:2] == ["read", "write"]
    assert order.count("write") == 4


def test_out_of_memory_is_the_services_fault(monkeypatch, collins):
    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr("facesieve.service.handlers.read_photo", full)
    with service(handlers_of()) as url:
        answer = httpx.post(url + "/v1/purify", files={"file": collins})
        assert "memory" in problem(answer, 503, "busy")
        assert json.loads(httpx.get(url + "/healthz").text) == {"status": "ok"}
