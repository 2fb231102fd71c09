"""The service at work: its figures and logs, full queues, clients that go away and bodies that do not come."""

import base64
import io
import json
import logging
import socket
import sys
import threading
import time
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from serving import Gate, gated_handlers, handlers_of, pixels, png, problem, service, two_faces, until

from facesieve.client import BusyError, Client, ClientError, UnusableError
from facesieve.errors import InputError
from facesieve.service.keys import Keys, add_key
from facesieve.service.logs import JsonLines, event, log_to_stderr

# --- figures and logs -------------------------------------------------------------------------


def test_figures_count_what_happened(collins):
    with service(handlers_of()) as url, Client(url) as client:
        client.purify(two_faces(collins))
        client.purify(collins)
        with pytest.raises(UnusableError):
            client.purify(b"no image")
        text = httpx.get(url + "/metrics").text
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(lines["facesieve_faces_total"]) == 3
    assert float(lines["facesieve_batch_faces_sum"]) == 3
    assert float(lines["facesieve_face_change_count"]) == 3
    assert float(lines["facesieve_queue_faces"]) == 0
    counted = 'facesieve_requests_total{method="POST",route="/v1/purify",status="%d"}'
    assert (float(lines[counted % 200]), float(lines[counted % 422])) == (2, 1)
    phases = {line.partition('phase="')[2].partition('"')[0] for line in lines if "phase_seconds_count" in line}
    assert {"read", "detect", "wait", "purify", "encode"} <= phases


def test_no_photograph_name_or_key_is_in_a_log_or_on_the_disk(tmp_path, collins, caplog, monkeypatch):
    spool = tmp_path / "tmp"
    spool.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(spool))
    path = tmp_path / "keys.json"
    key = add_key(path, "all", ["purify", "identify", "gallery"])
    large = png(np.random.default_rng(0).integers(0, 256, (600, 600, 3)))  # above what form readers keep in memory
    assert len(large) > 2**20
    handlers = handlers_of(gallery=str(tmp_path / "gallery"), keys=path)
    with caplog.at_level(logging.DEBUG), service(handlers, Keys(path)) as url, Client(url, key) as client:
        client.purify(collins)
        client.enrol("Susanna Secret", [collins])
        client.identify(collins)
        for image in (large, collins[:4000]):
            with pytest.raises(UnusableError):
                client.purify(image)
        seen = [written for written in tmp_path.rglob("*") if written.is_file()]
        held = [file for file in seen if file.read_bytes()[:4] in {collins[:4], large[:4]}]
    assert held == []
    assert list(spool.iterdir()) == []
    own = [record for record in caplog.records if not record.name.startswith("http")]  # the caller's library is in this process
    lines = [JsonLines().format(record) for record in own]
    text = "\n".join([*lines, *(record.getMessage() for record in own)])
    assert [json.loads(line)["status"] for line in lines if '"request"' in line] == [200, 201, 200, 422, 422]
    assert "/v1/gallery/{id}" in text
    for secret in ("Susanna", key, base64.b64encode(collins)[40:80].decode(), str(collins[100:120])[2:-1]):
        assert secret not in text
    assert max(map(len, lines)) < 1000


def test_a_defect_is_a_problem_without_its_message_which_may_hold_what_was_sent(collins, caplog):
    class Broken:
        def purify(self, crops, seeds):
            raise RuntimeError("pixels 1 2 3")

    with service(gated_handlers(Broken())) as url:
        answer = httpx.post(url + "/v1/purify", files={"file": collins})
        assert "pixels" not in problem(answer, 500, "defect")
        assert httpx.get(url + "/readyz").status_code == 200
    [line] = [JsonLines().format(record) for record in caplog.records if record.getMessage() == "defect"]
    assert "pixels" not in line
    assert json.loads(line)["error"] == "RuntimeError"
    assert json.loads(line)["at"]


# --- load, and clients that go away -----------------------------------------------------------


def in_thread(work):
    results = []

    def run():
        try:
            results.append(work())
        except ClientError as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


def test_two_clients_share_a_batch(collins, obama):
    gate = Gate()
    with service(gated_handlers(gate, max_batch=2, batch_wait_ms=15_000)) as url:
        calls = [
            in_thread(lambda image=image: httpx.post(url + "/v1/purify", files={"file": image})) for image in (collins, obama[0])
        ]
        for thread, _ in calls:
            thread.join(30)
    assert [len(batch) for batch in gate.batches] == [2]
    assert [results[0].status_code for _, results in calls] == [200, 200]


def test_a_full_queue_is_503_with_retry_after_and_the_service_recovers(collins):
    gate = Gate(opened=False)
    handlers = gated_handlers(gate, max_batch=1, queue_faces=1, max_faces=1, batch_wait_ms=0)
    with service(handlers) as url, Client(url, tries=1) as client:
        first = in_thread(lambda: Client(url).purify(collins))
        assert gate.begun.wait(20)
        second = in_thread(lambda: Client(url).purify(collins))
        until(lambda: handlers.batcher.waiting == 1)
        with pytest.raises(BusyError) as refused:
            client.purify(collins)
        assert refused.value.retry_after >= 1
        assert refused.value.kind == "busy"
        assert httpx.get(url + "/healthz").status_code == 200
        gate.open.set()
        for thread, results in (first, second):
            thread.join(20)
            assert pixels(results[0]).shape == pixels(collins).shape
        assert client.purify(collins)


def test_more_requests_than_are_taken_are_503_before_their_body_is_read(collins):
    gate = Gate(opened=False)
    with service(gated_handlers(gate, max_requests=1)) as url:
        first = in_thread(lambda: Client(url).purify(collins))
        assert gate.begun.wait(20)
        answer = httpx.post(url + "/v1/purify", files={"file": collins})
        problem(answer, 503, "busy")
        assert int(answer.headers["retry-after"]) >= 1
        gate.open.set()
        first[0].join(20)


def test_the_client_asks_again_after_as_long_as_it_is_told_and_a_little(collins, monkeypatch):
    gate = Gate(opened=False)
    waited = []

    def sleep(seconds):
        waited.append(seconds)
        if len(waited) == 2:
            gate.open.set()
        time.sleep(0.5)

    with service(gated_handlers(gate, max_requests=1)) as url:
        first = in_thread(lambda: Client(url).purify(collins))
        assert gate.begun.wait(20)
        monkeypatch.setattr("facesieve.client.time", SimpleNamespace(sleep=sleep))
        with Client(url, tries=2) as hasty, pytest.raises(BusyError):
            hasty.purify(collins)
        with Client(url) as patient:
            assert patient.purify(collins)
        first[0].join(20)
        with Client(url) as client, pytest.raises(UnusableError):  # what is no matter of time is not tried again
            client.purify(b"no image")
    assert 2 <= len(waited) <= 4
    assert all(1 <= seconds <= 2 for seconds in waited)
    with pytest.raises(InputError, match="tries"):
        Client(url, tries=0)


def test_a_client_that_goes_away_frees_its_place(collins, caplog):
    gate = Gate(opened=False)
    handlers = gated_handlers(gate, max_batch=1, batch_wait_ms=0)
    with caplog.at_level(logging.INFO), service(handlers) as url:
        first = in_thread(lambda: Client(url).purify(collins))
        assert gate.begun.wait(20)
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as gone:
            head = "POST /v1/purify HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"
            head += f"Content-Length: {len(collins)}\r\n\r\n"
            gone.sendall(head.encode() + collins)
            until(lambda: handlers.batcher.waiting == 1)
        until(lambda: handlers.batcher.waiting == 0)
        gate.open.set()
        first[0].join(20)
    assert len(gate.batches) == 1
    assert 499 in [getattr(record, "fields", {}).get("status") for record in caplog.records]


def test_a_body_that_does_not_arrive_in_time_is_408():
    with service(handlers_of(body_timeout_s=0.2)) as url:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as slow:
            slow.sendall(
                b"POST /v1/purify HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\nContent-Length: 10\r\n\r\nab"
            )
            assert b" 408 " in slow.recv(200)


def test_lines_go_to_what_is_standard_error_at_that_moment(monkeypatch):
    for name in ("facesieve.service", "uvicorn.error", "httpx", "httpcore"):
        log = logging.getLogger(name)
        for what in ("handlers", "propagate", "level"):  # as they were, afterwards
            monkeypatch.setattr(log, what, getattr(log, what))
    first, second = io.StringIO(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", first)
    log_to_stderr("info")
    first.close()
    monkeypatch.setattr(sys, "stderr", second)
    event("request", {"status": 200})
    assert json.loads(second.getvalue()) | {"time": ""} == {"time": "", "level": "info", "event": "request", "status": 200}
