"""The proxy in front of a small stand-in server, with the documented calls of CompreFace and DeepFace."""

import base64
import json

import httpx
import pytest
from python_multipart.multipart import parse_options_header
from serving import b64, handlers_of, is_purified, problem, running

from facesieve.service.keys import Keys, add_key
from facesieve.service.proxy import create_proxy

pytestmark = pytest.mark.usefixtures("forgotten")  # the calls of other tests


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
