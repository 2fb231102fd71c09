"""The service over real connections: what each address answers, who may ask, what is refused and how."""

import base64
import json
import logging
import re
import socket
import threading
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from serving import Gate, gated_handlers, handlers_of, quick_shield, service, until

from facesieve.client import (
    BusyError,
    Client,
    ClientError,
    ConflictError,
    NotAllowedError,
    NotFoundError,
    UnreachableError,
    UnusableError,
)
from facesieve.errors import InputError
from facesieve.files import sha256_of
from facesieve.images import read_photo
from facesieve.noise import derive_seed
from facesieve.service.keys import Keys, add_key, remove_key
from facesieve.service.logs import JsonLines
from facesieve.service.settings import Settings


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service") / "gallery"
    with service(handlers_of(gallery=str(folder), allow_seeds=True, max_bytes=500_000, max_pixels=1_000_000, max_faces=2)) as url:
        yield url


@pytest.fixture(scope="module")
def client(url):
    with Client(url) as client:
        yield client


def pixels(data):
    return np.asarray(Image.open(BytesIO(data)).convert("RGB")).astype(int)


def png(array):
    file = BytesIO()
    Image.fromarray(array.astype(np.uint8)).save(file, "png")
    return file.getvalue()


def two_faces(one):
    photo = pixels(one)
    return png(np.concatenate([photo, photo], axis=1))


# --- purify -----------------------------------------------------------------------------------


def test_the_image_that_comes_back_is_what_the_library_makes_of_it(url, collins):
    expected, _ = quick_shield().purify(read_photo(collins), seeds=[derive_seed(7, sha256_of(collins), 0)])
    sent = {
        "multipart": {"files": {"file": ("name.jpg", collins)}},
        "raw": {"content": collins, "headers": {"Content-Type": "image/jpeg"}},
        "json": {"json": {"file": base64.b64encode(collins).decode()}, "headers": {"Accept": "image/png"}},
        "data URI": {"json": {"file": "data:image/jpeg;base64," + base64.b64encode(collins).decode()}},
    }
    for name, request in sent.items():
        answer = httpx.post(f"{url}/v1/purify?seed=7", **request)
        assert answer.status_code == 200, (name, answer.text)
        assert answer.headers["content-type"] == "image/png"
        assert answer.headers["x-facesieve-faces"] == "1"
        assert np.array_equal(pixels(answer.content), expected)
    assert not np.array_equal(expected, pixels(collins))


def test_without_a_seed_the_noise_is_fresh(client, collins):
    assert not np.array_equal(pixels(client.purify(collins)), pixels(client.purify(collins)))


def test_the_faces_come_as_json_with_their_stages(url, collins):
    shield, photo = quick_shield(), read_photo(collins)
    before = shield.cut(photo, sha256=sha256_of(collins))
    [face], [step] = before.faces, shield.runtime.purify(before.crops, before.seeds(3)).steps
    answer = httpx.post(f"{url}/v1/purify?seed=3&stages=true", files={"file": collins}).json()
    [found] = answer["faces"]
    assert answer["preset"] == "fast"
    assert found["box"] == pytest.approx(face.box)
    levels = np.floor(step.crops[0].transpose(1, 2, 0) * 255 + 0.5)
    assert np.array_equal(pixels(base64.b64decode(found["crop"])), levels)
    assert found["stages"] == [{"name": step.name, "image": found["crop"]}]
    assert found["change"] == pytest.approx(float(np.abs(step.crops - before.crops).mean()), abs=1e-6)


def test_an_aligned_crop_is_taken_as_it_is(client):
    grey = png(np.full((128, 128, 3), 128))  # no face in it
    with pytest.raises(UnusableError):
        client.purify(grey)
    assert pixels(client.purify(grey, aligned=True)).shape == (128, 128, 3)
    with pytest.raises(UnusableError, match="square"):
        client.purify(png(np.full((128, 200, 3), 128)), aligned=True)


def test_other_formats_come_on_request(client, collins):
    assert Image.open(BytesIO(client.purify(collins, format="jpeg"))).format == "JPEG"
    assert Image.open(BytesIO(client.purify(collins, format="webp"))).format == "WEBP"


# --- identify, verify, gallery ----------------------------------------------------------------


def test_a_person_is_enrolled_found_verified_and_removed(client, obama, collins):
    assert client.enrol("Bärack / O?", obama[:2], templates="both") == {"raw": 2, quick_shield().card.label: 2}
    client.enrol("Collins", [collins])
    assert client.person("Bärack / O?")["raw"] == 2
    with pytest.raises(ConflictError, match="enrolled already"):
        client.enrol("Collins", [collins])
    [face] = client.identify(obama[2], count=1, threshold=-1)
    assert face["unshielded"]["person"] == "Bärack / O?"
    assert face["unshielded"]["score"] > 0.5
    assert {"box", "matches", "person", "shield_change", "tamper_score", "threshold"} <= face.keys()
    same, other = client.verify(obama[2], "Bärack / O?", threshold=0.9999), client.verify(obama[2], "Collins", threshold=-1)
    assert same["same"] is False
    assert other["same"] is True
    assert same["score"] > other["score"]
    assert client.verify(obama[2], "Collins")["same"] is None  # nobody has calibrated this gallery
    assert client.remove("Bärack / O?") == 4
    with pytest.raises(NotFoundError):
        client.person("Bärack / O?")
    with pytest.raises(NotFoundError):
        client.verify(obama[2], "Bärack / O?")
    with pytest.raises(NotFoundError):
        client.remove("Bärack / O?")
    client.remove("Collins")
    with pytest.raises(ConflictError) as empty:
        client.identify(collins)
    assert str(empty.value) == "the gallery is empty; enrol somebody first"  # without the folder that it is in


def test_two_photographs_are_compared(obama, collins, tmp_path):
    # The quick prior knows no faces: a person stays that person only where what is observed is kept.
    handlers = handlers_of(quick_shield(sigma_y=0.0), gallery=str(tmp_path / "gallery"))
    with service(handlers) as url, Client(url) as client:
        assert client.compare(obama[0], obama[1])["score"] > client.compare(obama[0], collins)["score"] + 0.1


def test_an_enrolment_is_whole_or_not_at_all(client, collins):
    with pytest.raises(UnusableError, match="photograph 2"):
        client.enrol("Half", [collins, png(np.full((64, 64, 3), 90))])
    with pytest.raises(NotFoundError):
        client.person("Half")


# --- refusals ---------------------------------------------------------------------------------


def problem(answer, status, kind):
    assert answer.headers["content-type"] == "application/problem+json"
    plain = answer.json()
    assert (answer.status_code, plain["status"], plain["type"]) == (status, status, f"urn:facesieve:problem:{kind}")
    assert plain["title"]
    assert plain["instance"].removeprefix("urn:uuid:") == answer.headers["x-request-id"]
    return plain["detail"]


def test_every_refusal_is_problem_json(url, collins):
    def post(path="/v1/purify", **request):
        return httpx.post(url + path, **request)

    blank, three = png(np.full((200, 200, 3), 200)), png(np.concatenate([pixels(collins)] * 3, axis=1)[::3, ::3])
    problem(post(files={"file": b"no image"}), 422, "unreadable-image")
    problem(post(files={"file": collins[:5000]}), 422, "unreadable-image")
    problem(post(files={"file": blank}), 422, "no-face")
    problem(post("/v1/verify?person=x", files={"file": blank}), 404, "not-found")
    problem(post("/v1/verify", files={"file": two_faces(collins), "other": collins}), 422, "too-many-faces")
    assert "3 faces" in problem(post(files={"file": three}), 422, "too-many-faces")
    problem(post(files={"file": png(np.zeros((1001, 1000, 3)))}), 422, "unreadable-image")
    problem(post(files={"file": bytes(500_001)}), 413, "too-large")
    problem(post(content=(bytes(100_000) for _ in range(6)), headers={"Content-Type": "image/png"}), 413, "too-large")
    problem(post(data={"file": "x"}), 415, "media-type")
    problem(post(json={"file": "?!"}), 422, "input")
    problem(post(json={"file": 7}), 422, "input")
    problem(post(content=b'{"file": ', headers={"Content-Type": "application/json"}), 422, "input")
    problem(post(content=b'{"file": "", "file": ""}', headers={"Content-Type": "application/json"}), 422, "input")
    problem(post(files={"image": collins}), 422, "input")
    problem(post(content=b"--x", headers={"Content-Type": "multipart/form-data; boundary=y"}), 422, "input")
    problem(post(content=b"--x", headers={"Content-Type": "multipart/form-data"}), 422, "input")
    assert "count" in problem(post("/v1/identify?count=0", files={"file": collins}), 422, "input")
    problem(httpx.get(url + "/v1/purify"), 405, "method")
    problem(httpx.get(url + "/nowhere"), 404, "not-found")


def test_a_cut_off_multipart_body_is_refused(url, collins):
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + collins
    answer = httpx.post(url + "/v1/purify", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert "cut off" in problem(answer, 422, "input")


def test_the_callers_request_id_is_kept_unless_it_could_break_a_log(url):
    assert httpx.get(url + "/healthz", headers={"X-Request-ID": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert len(httpx.get(url + "/healthz", headers={"X-Request-ID": 'a"b'}).headers["x-request-id"]) == 36


def test_seeds_are_refused_unless_they_are_allowed_and_a_service_without_gallery_says_so(collins):
    with service(handlers_of()) as url:
        answer = httpx.post(url + "/v1/purify?seed=1", files={"file": collins})
        assert "seed" in problem(answer, 422, "input")
        problem(httpx.post(url + "/v1/identify", files={"file": collins}), 404, "not-found")


# --- keys -------------------------------------------------------------------------------------


def test_keys_open_what_their_scopes_say_and_no_more(tmp_path, collins):
    path = tmp_path / "keys.json"
    purify, gallery = add_key(path, "shop", ["purify"]), add_key(path, "office", ["gallery", "identify"])
    with service(handlers_of(gallery=str(tmp_path / "gallery"), keys=path), Keys(path)) as url:
        with Client(url, purify) as shop, Client(url, gallery) as office, Client(url) as nobody, Client(url, "fs_x") as liar:
            for stranger in (nobody, liar):
                with pytest.raises(NotAllowedError) as refused:
                    stranger.purify(collins)
                assert refused.value.status == 401
            assert shop.purify(collins)
            with pytest.raises(NotAllowedError, match="identify") as refused:
                shop.identify(collins)
            assert refused.value.status == 403
            with pytest.raises(NotAllowedError, match="gallery"):
                shop.enrol("x", [collins])
            assert office.enrol("x", [collins]) == {"raw": 1}
            assert office.identify(collins)
            assert shop.info()["preset"]["name"] == "fast"
            remove_key(path, "shop")
            with pytest.raises(NotAllowedError):
                shop.purify(collins)
            assert office.info()["gallery"] is True
        for free in ("/healthz", "/readyz"):
            assert httpx.get(url + free).status_code == 200
        problem(httpx.get(url + "/metrics"), 401, "no-key")
        assert httpx.get(url + "/metrics", headers={"X-API-Key": gallery}).status_code == 200


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


def test_the_description_names_every_address_with_examples(url):
    described = httpx.get(url + "/openapi.json").json()["paths"]
    assert {"/v1/purify", "/v1/identify", "/v1/verify", "/v1/gallery/{id}", "/v1/info"} <= described.keys()
    assert set(described["/v1/gallery/{id}"]) == {"put", "get", "delete"}
    purify = described["/v1/purify"]["post"]
    assert purify["requestBody"]["content"]["application/json"]["example"]["file"]
    assert "application/problem+json" in purify["responses"]["503"]["content"]


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
    with service(handlers) as url, Client(url) as client:
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


def test_a_client_that_goes_away_frees_its_place(collins, caplog):
    gate = Gate(opened=False)
    handlers = gated_handlers(gate, max_batch=1, batch_wait_ms=0)
    with caplog.at_level(logging.INFO), service(handlers) as url:
        first = in_thread(lambda: Client(url).purify(collins))
        assert gate.begun.wait(20)
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as gone:
            head = f"POST /v1/purify HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(collins)}\r\n\r\n"
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
            slow.sendall(b"POST /v1/purify HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 10\r\n\r\nab")
            assert b" 408 " in slow.recv(200)


# --- the client by itself ---------------------------------------------------------------------


def test_the_client_says_what_is_wrong_in_a_line(tmp_path, url):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with Client(f"http://127.0.0.1:{port}") as client, pytest.raises(UnreachableError, match="no answer"):
        client.info()
    with pytest.raises(InputError, match="http"):
        Client("127.0.0.1:8000")
    with Client(url) as client, pytest.raises(InputError, match=r"missing\.jpg: cannot be read"):
        client.purify(tmp_path / "missing.jpg")


def test_the_page_of_the_service_is_true(collins, tmp_path, monkeypatch):
    """Its client code runs, and its table of settings is that of the code."""
    page = (Path(__file__).parents[2] / "docs" / "service.md").read_text()
    [code] = re.findall(r"^```py\n(.*?)^```$", page, re.M | re.S)
    (tmp_path / "photo.jpg").write_bytes(collins)
    monkeypatch.chdir(tmp_path)
    with service(handlers_of(gallery="people")) as url:
        namespace = {}
        exec(code.replace("http://127.0.0.1:8000", url), namespace)
    assert namespace["purified"].startswith(b"\x89PNG")
    table = re.search(r"^\| setting \| default .*?\n\|[-|]+\n(.*?)\n\n", page, re.M | re.S)[1].splitlines()
    plain = {"None": "none", "True": "true", "False": "false"}
    fields = Settings.model_fields.items()
    expected = [f"| `{name}` | {plain.get(str(field.default), field.default)} | {field.description} |" for name, field in fields]
    assert table == expected
