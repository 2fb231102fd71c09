"""The proxy in front of a small stand-in server, with the documented calls of CompreFace and DeepFace."""

import base64
import json
import socket
import threading
import time
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from python_multipart.multipart import parse_options_header
from serving import StandIn, handlers_of, pixels, problem, running

from facesieve.service.keys import Keys, add_key
from facesieve.service.proxy import create_proxy


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


@pytest.fixture(autouse=True)
def _forget(behind):
    behind.calls.clear()


@pytest.fixture(scope="module")
def blank():
    file = BytesIO()
    Image.new("RGB", (200, 200), (90, 90, 90)).save(file, "png")
    return file.getvalue()


def is_purified(data, original):
    """A readable image of the same size and format that differs in its face by far more than JPEG does."""
    kind, same = Image.open(BytesIO(data)).format, Image.open(BytesIO(original)).format
    before, after = pixels(original), pixels(data)
    assert (kind, after.shape) == (same, before.shape)
    difference = np.abs(before - after).mean(2)
    return bool(difference.max() > 60 and np.median(difference) < 4)


def header(headers, name):
    return [value for key, value in headers if key == name]


def form_of(headers, body):
    """A multipart body read by another parser than the proxy's: name -> (part headers, content)."""
    import email

    [kind] = header(headers, b"content-type")
    message = email.message_from_bytes(b"Content-Type: " + kind + b"\r\n\r\n" + body)
    found = {}
    for part in message.get_payload():
        name = parse_options_header(part["content-disposition"])[1][b"name"].decode()
        found[name] = (dict(part.items()), part.get_payload(decode=True))
    return found


def b64(data):
    return base64.b64encode(data).decode()


# --- CompreFace -------------------------------------------------------------------------------


def test_a_multipart_call_of_compreface_arrives_with_a_purified_file_and_all_else_as_it_was(proxy, behind, collins):
    url = f"{proxy}/api/v1/recognition/recognize?limit=1&det_prob_threshold=0.8&face_plugins=age%2Cgender"
    answer = httpx.post(
        url, files={"file": ("me.jpg", collins, "image/jpeg"), "note": (None, "é\r\n--")}, headers={"x-api-key": "theirs"}
    )
    [(method, path, headers, body)] = behind.calls
    assert (method, path) == ("POST", b"/api/v1/recognition/recognize?limit=1&det_prob_threshold=0.8&face_plugins=age%2Cgender")
    assert header(headers, b"x-api-key") == [b"theirs"]
    assert header(headers, b"content-length") == [str(len(body)).encode()]
    form = form_of(headers, body)
    about, image = form["file"]
    assert is_purified(image, collins)
    assert 'filename="me.jpg"' in about["Content-Disposition"]
    assert about["Content-Type"] == "image/jpeg"
    assert form["note"][1] == "é\r\n--".encode()
    assert (answer.status_code, answer.content) == (207, b'{"result": [1.0, 2]}')
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert (b"x-own", b"\xe9") in [(name.lower(), value) for name, value in answer.headers.raw]


def test_a_json_call_of_compreface_changes_in_its_image_alone(proxy, behind, collins):
    text = '{ "other": 1.50, "x": [1e400, "\\u00e9"],\n"file": "%s" ,"last":null}'
    httpx.post(
        f"{proxy}/api/v1/recognition/faces?subject=Ada", content=text % b64(collins), headers={"Content-Type": "application/json"}
    )
    [(_, path, _, body)] = behind.calls
    image = json.loads(body)["file"]
    assert path == b"/api/v1/recognition/faces?subject=Ada"
    assert body.decode() == text % image
    assert is_purified(base64.b64decode(image), collins)


def test_both_images_of_a_verification_are_purified(proxy, behind, collins, obama):
    httpx.post(
        f"{proxy}/api/v1/verification/verify", files={"source_image": ("a.jpg", collins), "target_image": ("b.jpg", obama[0])}
    )
    [(_, _, headers, body)] = behind.calls
    form = form_of(headers, body)
    assert is_purified(form["source_image"][1], collins)
    assert is_purified(form["target_image"][1], obama[0])


# --- DeepFace ---------------------------------------------------------------------------------


def test_calls_of_deepface_arrive_with_purified_data_uris(proxy, behind, collins, obama):
    uri = "data:image/jpeg;base64," + b64(collins)
    for path, call, images in (
        ("/represent", {"model_name": "Facenet", "img": uri}, {"img": collins}),
        ("/verify", {"img1": uri, "img2": b64(obama[0]), "model_name": "Facenet"}, {"img1": collins, "img2": obama[0]}),
        ("/analyze", {"img": uri, "actions": ["age", "gender"]}, {"img": collins}),
    ):
        behind.calls.clear()
        assert httpx.post(proxy + path, json=call).status_code == 207
        [(_, raw, _, body)] = behind.calls
        arrived = json.loads(body)
        assert raw.decode() == path
        assert list(arrived) == list(call)
        assert {name: arrived[name] for name in call if name not in images} == {n: call[n] for n in call if n not in images}
        for name, original in images.items():
            head, comma, data = arrived[name].rpartition(",")
            assert head + comma == ("data:image/jpeg;base64," if call[name].startswith("data:") else "")
            assert is_purified(base64.b64decode(data), original)


def test_a_multipart_call_of_deepface_arrives_purified_and_a_list_of_images_too(proxy, behind, collins, obama):
    httpx.post(f"{proxy}/represent", files={"img": ("a.jpg", collins)}, data={"model_name": "Facenet"})
    httpx.post(f"{proxy}/represent", json={"img": [b64(collins), b64(obama[0])]})
    [(_, _, headers, form), (_, _, _, body)] = behind.calls
    form = form_of(headers, form)
    assert is_purified(form["img"][1], collins)
    assert form["model_name"][1] == b"Facenet"
    first, second = json.loads(body)["img"]
    assert is_purified(base64.b64decode(first), collins)
    assert is_purified(base64.b64decode(second), obama[0])


# --- everything else passes -------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "PATCH", "POST", "HEAD", "OPTIONS"])
def test_other_calls_pass_byte_for_byte(proxy, behind, method):
    body = b"" if method in {"GET", "HEAD", "OPTIONS", "DELETE"} else bytes(range(256)) * 300
    headers = {"X-Api-Key": "k", "Accept": "a/b", "X-Request-ID": "mine", "Connection": "x-hop", "X-Hop": "1"}
    path = "/api/v1/recognition/subjects/%41da%2Fx%20y" if method in {"GET", "DELETE"} else "/other//p%20q"
    answer = httpx.request(method, f"{proxy}{path}?a=1&a=%2B&b", content=body or None, headers=headers)
    [(got, raw, arrived, content)] = behind.calls
    assert (got, raw.decode(), content) == (method, f"{path}?a=1&a=%2B&b", body)
    assert header(arrived, b"x-api-key") == [b"k"]
    assert header(arrived, b"accept") == [b"a/b"]
    assert header(arrived, b"user-agent")[0].startswith(b"python-httpx")
    assert header(arrived, b"x-hop") == []  # named in Connection: it ends here
    assert header(arrived, b"transfer-encoding") == []
    assert answer.status_code == 207
    assert answer.headers["x-request-id"] == "mine"


def test_the_figures_count_what_passes_without_its_path(proxy):
    httpx.get(f"{proxy}/api/v1/recognition/subjects/Ada")
    text = httpx.get(f"{proxy}/facesieve/metrics").text
    assert 'facesieve_requests_total{method="GET",route="/{path}",status="207"}' in text
    assert "Ada" not in text


def test_a_call_without_an_image_is_left_to_the_server_behind(proxy, behind):
    httpx.post(f"{proxy}/represent", json={"model_name": "Facenet"})
    httpx.post(f"{proxy}/api/v1/recognition/recognize")
    assert [call[3] for call in behind.calls] == [b'{"model_name":"Facenet"}', b""]


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


# --- its own addresses, keys, a server that is not there ---------------------------------------


def test_its_own_health_is_under_a_prefix_and_keys_are_asked_for_in_a_header_of_their_own(address, behind, tmp_path, collins):
    path = tmp_path / "keys.json"
    key = add_key(path, "app", ["purify"])
    with running(create_proxy(handlers_of(upstream=address + "/base", keys=path), keys=Keys(path))) as url:
        assert httpx.get(f"{url}/facesieve/readyz").json() == {"status": "ready"}
        assert httpx.get(f"{url}/anything", headers={"X-API-Key": key}).status_code == 401
        assert behind.calls == []
        assert httpx.get(f"{url}/healthz", headers={"X-Facesieve-Key": key, "X-API-Key": "theirs"}).status_code == 207
    [(_, raw, headers, _)] = behind.calls
    assert raw == b"/base/healthz"
    assert header(headers, b"x-api-key") == [b"theirs"]
    assert header(headers, b"x-facesieve-key") == []


def test_a_401_names_the_header_that_works_and_a_preflight_needs_no_key(address, behind, tmp_path):
    path = tmp_path / "keys.json"
    key = add_key(path, "app", ["purify"])
    with running(create_proxy(handlers_of(upstream=address, keys=path), keys=Keys(path))) as url:
        for headers in ({}, {"Authorization": f"Bearer {key}"}):
            answer = httpx.post(f"{url}/represent", headers=headers)
            assert "X-Facesieve-Key" in problem(answer, 401, "no-key")
            assert "X-Facesieve-Key" in answer.headers["www-authenticate"]
        assert behind.calls == []
        asked = {"Origin": "http://app", "Access-Control-Request-Method": "POST"}
        assert httpx.options(f"{url}/represent", headers=asked).status_code == 207
        assert httpx.request("OPTIONS", f"{url}/represent", headers=asked, content=b"x").status_code == 401
        assert (
            httpx.post(f"{url}/represent", headers={"X-Facesieve-Key": key, "Authorization": "Bearer theirs"}).status_code == 207
        )
    assert [call[0] for call in behind.calls] == ["OPTIONS", "POST"]
    assert header(behind.calls[1][2], b"authorization") == [b"Bearer theirs"]
    assert all(header(call[2], b"x-facesieve-key") == [] for call in behind.calls)


def test_a_server_that_is_not_there_is_502(collins):
    with running(create_proxy(handlers_of(upstream="http://127.0.0.1:9"))) as url:
        answer = httpx.get(f"{url}/x")
    assert (answer.status_code, answer.json()["type"]) == (502, "urn:facesieve:problem:upstream")


def test_the_answer_is_streamed_as_it_comes():
    """The first chunk is here while the server behind still holds back the second."""
    import asyncio

    held = {}

    async def slow(scope, receive, send):
        if scope["type"] != "http":
            return
        held["go"], held["loop"] = asyncio.Event(), asyncio.get_running_loop()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        await asyncio.wait_for(held["go"].wait(), 20)
        await send({"type": "http.response.body", "body": b"second"})

    with (
        running(slow) as behind,
        running(create_proxy(handlers_of(upstream=behind))) as url,
        httpx.stream("GET", f"{url}/x") as answer,
    ):
        chunks = answer.iter_raw()
        assert next(chunks) == b"first"
        held["loop"].call_soon_threadsafe(held["go"].set)
        assert b"".join(chunks) == b"second"
