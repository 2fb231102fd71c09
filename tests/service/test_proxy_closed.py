"""What the proxy refuses, so that no photograph passes unseen, and what it says that it did."""

import base64
import json
import socket
import threading
import time
from io import BytesIO
from pathlib import Path

import httpx
import pytest
from PIL import Image
from serving import b64, handlers_of, is_purified, problem, running

from facesieve.service.proxy import create_proxy

pytestmark = pytest.mark.usefixtures("forgotten")  # the calls of other tests


# --- nothing passes unseen --------------------------------------------------------------------


def test_what_cannot_be_purified_is_refused_and_never_arrives(proxy, behind, collins, blank):
    image = b64(collins)
    json_ = {"Content-Type": "application/json"}
    multi = [("img", ("a.jpg", collins)), ("img", ("b.jpg", collins))]
    form = {"Content-Type": "multipart/form-data; boundary=x"}

    def named(words):
        return b"--x\r\nContent-Disposition: form-data" + words + b'; filename="a"\r\n\r\n' + collins + b"\r\n--x--\r\n"

    refused = {
        "no face": ("/represent", {"json": {"img": b64(blank)}}, 422),
        "no image": ("/represent", {"json": {"img": b64(b"GIF89a no")}}, 422),
        "address": ("/represent", {"json": {"img": "http://example.org/a.jpg"}}, 422),
        "path": ("/verify", {"json": {"img1": "/etc/a.jpg", "img2": image}}, 422),
        "path by name": ("/verify", {"json": {"img1_path": "a.jpg", "img2_path": "b.jpg"}}, 422),
        "a form": ("/analyze", {"data": {"img": "http://example.org/a.jpg"}}, 415),
        "twice in JSON": ("/represent", {"content": f'{{"img": "{image}", "\\u0069mg": "{image}"}}', "headers": json_}, 422),
        "twice in parts": ("/represent", {"files": multi}, 422),
        "name*": (
            "/represent",
            {"content": named(b"; name=\"x\"; name*=utf-8''img"), "headers": form},
            422,
        ),
        "two names": ("/represent", {"content": named(b'; name="x"; name="img"'), "headers": form}, 422),
        "two content types": ("/represent", {"json": {"img": image}, "headers": [*json_.items(), ("Content-Type", "a/b")]}, 415),
        "another case": ("/represent", {"json": {"IMG": image}}, 422),
        "compressed": ("/represent", {"content": b"x", "headers": {**json_, "Content-Encoding": "gzip"}}, 415),
        "raw": ("/api/v1/recognition/recognize", {"content": collins, "headers": {"Content-Type": "image/jpeg"}}, 415),
        "other spellings of the path": ("//Represent/", {"json": {"img": b64(blank)}}, 422),
        "escapes in the path": ("/%72epresent", {"json": {"img": b64(blank)}}, 422),
        "dots in the path": ("/x/../represent", {"json": {"img": b64(blank)}}, 422),
        "cut off": ("/represent", {"content": f'{{"img": "{image}', "headers": json_}, 422),
        "nested": ("/represent", {"json": {"img": {"x": image}}}, 422),
    }
    for name, (path, request, status) in refused.items():
        answer = httpx.post(httpx.URL(proxy).copy_with(raw_path=path.encode()), **request)
        assert answer.status_code == status, (name, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
    assert behind.calls == []


def test_a_photograph_without_a_face_passes_where_that_is_the_setting(address, behind, blank):
    with running(create_proxy(handlers_of(upstream=address, no_face="pass"))) as url:
        assert httpx.post(f"{url}/represent", json={"img": b64(blank)}).status_code == 207
        assert httpx.post(f"{url}/represent", json={"img": b64(b"no image")}).status_code == 422
    [(_, _, _, body)] = behind.calls
    assert base64.b64decode(json.loads(body)["img"]) == blank


# --- it fails closed, and says what it did ------------------------------------------------------


def test_a_photograph_never_arrives_however_its_address_is_written(proxy, behind, collins):
    """One call each, over the network: what a path parameter and its like do to the server's own reading of a path."""
    for path in (
        b"/api/v1/recognition;x=1/recognize",
        b"/api/v1;x/recognition/recognize",
        b"/api/v1/recognition%3bx/recognize",
        b"/api/v1/recognition%2frecognize",
        b"/represent;x",
        b"/represent%0a",
        b"/repres%2565nt",
    ):
        answer = httpx.post(httpx.URL(proxy).copy_with(raw_path=path), files={"file": ("a.jpg", collins)})
        assert all(collins not in body for *_, body in behind.calls), path
        assert answer.status_code in {207, 400}
    assert problem(httpx.post(f"{proxy}/represent;x", files={"img": collins}), 400, "input").endswith("write it plainly")


def test_an_image_at_an_address_that_is_not_shielded_is_refused_unless_it_is_passed(address, behind, collins):
    settings = {
        "upstream": address,
        "upstream_route": ["POST /recognize field=image body=image"],
        "upstream_pass": "POST /uploads",
    }
    with running(create_proxy(handlers_of(**settings))) as url:
        assert "not shielded" in problem(httpx.put(f"{url}/recognize", content=collins), 422, "unshielded")
        assert problem(httpx.post(f"{url}/avatars", json={"a": [b64(collins)]}), 422, "unshielded")
        assert problem(httpx.get(f"{url}/a", params={"u": "data:image/jpeg;base64," + b64(collins)[:300]}), 422, "unshielded")
        assert problem(httpx.post(f"{url}/a", content=b"x", headers={"X-Original-URL": "/recognize"}), 400, "input")
        assert problem(httpx.post(f"{url}/a", content=b"x", headers={"Content-Encoding": "gzip"}), 415, "media-type")
        assert behind.calls == []
        assert httpx.post(f"{url}/uploads", content=collins).status_code == 207
        answer = httpx.post(f"{url}/recognize", content=collins, headers={"Content-Type": "image/jpeg"})
        text = httpx.get(f"{url}/facesieve/metrics").text
    assert [call[1] for call in behind.calls] == [b"/uploads", b"/recognize"]
    assert behind.calls[0][3] == collins
    assert is_purified(behind.calls[1][3], collins)
    assert answer.headers["facesieve-faces"] == "1"
    assert 'facesieve_gate_images_total{outcome="refused"} 5.0' in text
    assert 'facesieve_gate_images_total{outcome="purified"} 1.0' in text


@pytest.mark.parametrize("name", ["X_Original_URL", "Content_Encoding", "content_type", "Transfer_Encoding", "X-Rewrite_Url"])
def test_a_header_that_some_servers_read_by_another_name_is_refused(proxy, behind, collins, name):
    answer = httpx.post(f"{proxy}/represent", json={"img": b64(collins)}, headers={name: "gzip"})
    read = name.lower().replace("_", "-")
    assert f"read the header {name.lower()} as {read}" in problem(answer, 400, "input")
    assert behind.calls == []


def test_no_caller_writes_what_the_gate_alone_says(proxy, behind):
    said = {"Facesieve-Tamper": "0.000", "facesieve_faces": "1", "FACESIEVE-Preset": "paper", "Facesievelike": "kept"}
    httpx.post(f"{proxy}/anything", json={"a": 1}, headers=said)
    [(_, _, headers, _)] = behind.calls
    assert [name for name, _ in headers if name.lower().startswith(b"facesieve")] == [b"facesievelike"]


def test_a_form_of_many_parts_is_refused_at_once_and_stops_nobody(proxy, behind):
    part = b'--b\r\nContent-Disposition: form-data; name="%d"\r\n\r\n\r\n'
    body = b"".join(part % number for number in range(320_000)) + b"--b--\r\n"
    slowest, done = [0.0], threading.Event()

    def ask():
        while not done.is_set():
            begun = time.perf_counter()
            httpx.get(f"{proxy}/facesieve/healthz", timeout=60)
            slowest[0] = max(slowest[0], time.perf_counter() - begun)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for path in ("/represent", "/elsewhere"):
            answer = httpx.post(
                proxy + path, content=body, headers={"Content-Type": "multipart/form-data; boundary=b"}, timeout=60
            )
            assert "more than 1000 parts" in problem(answer, 422, "input")
            assert slowest[0] < 1  # client and server share this process; the loop was once held for five seconds
    finally:
        done.set()
        asking.join(60)
    assert behind.calls == []


def test_a_body_that_is_passed_unseen_has_the_time_of_any_body(address):
    settings = {"upstream": address, "upstream_pass": ["POST /uploads"], "body_timeout_s": 0.5}
    with running(create_proxy(handlers_of(**settings))) as url, socket.create_connection(url_place(url)) as slow:
        slow.sendall(b"POST /uploads HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\nx")
        slow.settimeout(20)
        assert slow.recv(65536).startswith(b"HTTP/1.1 408")


def url_place(url):
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port)


def test_memory_is_as_it_was_after_photographs_that_were_refused(address, blank):
    """Each is decoded to 7 MB: an error must not keep it."""
    large = Image.new("RGB", (1500, 1500), (90, 90, 90))
    file = BytesIO()
    large.save(file, "png")
    with running(create_proxy(handlers_of(upstream=address))) as url, httpx.Client(timeout=60) as client:
        sizes = []
        for number in range(24):
            assert client.post(f"{url}/represent", json={"img": b64(file.getvalue())}).status_code == 422
            if number in {7, 23}:
                sizes.append(resident())
    assert sizes[1] - sizes[0] < 50e6  # sixteen photographs are 108 MB


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 if Path("/proc/self/statm").exists() else 0


def test_the_answer_the_log_and_the_figures_say_what_was_done(address, collins, obama, blank, caplog, sample_paths):
    whole = next(path for path in sample_paths if path.name == "obama-2.jpg").read_bytes()
    with (
        caplog.at_level("INFO", logger="facesieve.service"),
        running(create_proxy(handlers_of(upstream=address, no_face="pass"))) as url,
    ):
        two = httpx.post(f"{url}/verify", json={"img1": b64(collins), "img2": b64(obama[0])})
        none = httpx.post(f"{url}/represent", json={"img": b64(blank)})
        doubted = httpx.post(f"{url}/represent", json={"img": b64(whole)})
        other = httpx.get(f"{url}/anything")
        text = httpx.get(f"{url}/facesieve/metrics").text
    assert (two.headers["facesieve-faces"], two.headers["facesieve-preset"]) == ("2", "robust")
    assert (two.headers["facesieve-possible-faces"], doubted.headers["facesieve-possible-faces"]) == ("0", "1")
    assert 0 < float(two.headers["facesieve-tamper"]) <= 2
    assert (none.headers["facesieve-faces"], "facesieve-tamper" in none.headers) == ("0", False)
    assert not [name for name in other.headers if name.startswith("facesieve")]
    logged = [record.fields for record in caplog.records if record.getMessage() == "request"]
    assert [(line.get("images_purified"), line.get("images_passed"), line.get("faces")) for line in logged[:2]] == [
        (2, None, 2),
        (None, 1, 0),
    ]
    assert 'facesieve_gate_images_total{outcome="passed"} 1.0' in text
