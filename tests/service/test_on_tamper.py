"""A photograph that looks tampered with, at the service and at the gate: the policy holds, whatever a caller asks.

A threshold that every face exceeds stands for tampering; one that none does for its absence.
"""

import base64

import httpx
import numpy as np
import pytest
from serving import StandIn, handlers_of, png, problem, quick_shield, running, service, two_faces

from facesieve.errors import SettingError
from facesieve.service.proxy import create_proxy
from facesieve.service.settings import load_settings

ANY, NONE = "0.000001", "2"


@pytest.fixture(scope="module")
def gallery(tmp_path_factory, collins):
    """Where Collins is enrolled."""
    folder = str(tmp_path_factory.mktemp("gallery") / "people")
    with service(handlers_of(gallery=folder)) as url:
        answer = httpx.put(f"{url}/v1/gallery/Collins", files={"file": collins}, params={"templates": "both"})
        assert answer.status_code in {200, 201}, answer.text
    return folder


@pytest.fixture(scope="module")
def refusing(gallery):
    with service(handlers_of(gallery=gallery, on_tamper="refuse", tamper_threshold=ANY, allow_seeds=True)) as url:
        yield url


def asked(url, path, photo, **query):
    return httpx.post(f"{url}/v1/{path}", files={"file": photo}, params=query, timeout=60)


def test_refused_nobody_is_named_and_nothing_purified(gallery, collins):
    with service(handlers_of(gallery=gallery, on_tamper="refuse", tamper_threshold=ANY)) as url:
        answer = asked(url, "identify", collins)
        [face] = answer.json()["faces"]
        assert "looks tampered with" in face["refused"]
        assert (face["person"], face["matches"], face["unshielded"], face["tampered"]) == (None, [], None, True)
        assert "Collins" not in answer.text
        refused = asked(url, "verify", collins, person="Collins")
        assert "looks tampered with: tamper score" in problem(refused, 422, "tampered")
        assert refused.headers["facesieve-tamper"].endswith(";tampered")
        both = httpx.post(f"{url}/v1/verify", files={"file": collins, "other": collins}, timeout=60)
        assert problem(both, 422, "tampered")
        assert problem(asked(url, "purify", collins), 422, "tampered")
        several = httpx.post(f"{url}/v1/purify/batch", files=[("file", collins)] * 2, timeout=60).json()["photographs"]
        assert [(one["image"], one["problem"]["type"]) for one in several] == [(None, "urn:facesieve:problem:tampered")] * 2


def test_no_caller_weakens_the_policy(gallery, collins):
    for own, weaker in (("refuse", ("purify", "flag")), ("flag", ("purify",))):
        with service(handlers_of(gallery=gallery, on_tamper=own, tamper_threshold=ANY)) as url:
            for word in weaker:
                for path, query in (("identify", {}), ("verify", {"person": "Collins"}), ("purify", {}), ("purify/batch", {})):
                    refused = asked(url, path, collins, on_tamper=word, **query)
                    assert f"{word} is weaker than {own}" in problem(refused, 422, "input"), path
            assert httpx.get(f"{url}/v1/info").json()["on_tamper"] == own


def test_a_caller_may_ask_for_more(gallery, collins):
    with service(handlers_of(gallery=gallery, on_tamper="purify", tamper_threshold=ANY)) as url:
        [face] = asked(url, "identify", collins).json()["faces"]
        assert (face["tampered"], face["refused"], len(face["matches"])) == (None, None, 1)
        [face] = asked(url, "identify", collins, on_tamper="refuse").json()["faces"]
        assert (face["tampered"], face["matches"]) == (True, [])
        assert problem(asked(url, "verify", collins, person="Collins", on_tamper="refuse"), 422, "tampered")
        assert problem(asked(url, "purify", collins, on_tamper="refuse"), 422, "tampered")
        assert problem(asked(url, "identify", collins, on_tamper="ignore"), 422, "input")


def test_refused_nobody_is_enrolled(tmp_path, collins):
    with service(handlers_of(gallery=str(tmp_path / "gallery"), on_tamper="refuse", tamper_threshold=ANY)) as url:
        for templates in ("both", "raw", "purified"):
            answer = httpx.put(f"{url}/v1/gallery/Collins", files={"file": collins}, params={"templates": templates}, timeout=60)
            assert "looks tampered with" in problem(answer, 422, "tampered")
        assert httpx.get(f"{url}/v1/gallery").json()["people"] == []


def test_a_page_that_names_every_face_is_not_served_where_tampered_ones_are_refused():
    with pytest.raises(SettingError, match="page: it names every face"):
        load_settings(None, {"page": True, "on_tamper": "refuse"})


@pytest.mark.parametrize(
    "query",
    [
        "on_tamper=",
        "on_tamper=REFUSE",
        "on_tamper=refuse&on_tamper=purify",
        "on%5Ftamper=purify",
        "On_Tamper=purify",
        "on_tamper=refuse;on_tamper=purify",
        "on_tamper=refuse%26on_tamper=purify",
        "on_tamper=%00",
        "tamper=nan",
        "tamper=true&tamper=false",
        "seed=nan",
        "seed=-1",
    ],
)
def test_no_odd_query_gets_around_it(refusing, collins, query):
    for path in ("purify", "purify/batch", "identify"):
        answer = httpx.post(f"{refusing}/v1/{path}?{query}", files={"file": collins}, timeout=60)
        assert problem(answer, 422, "input")


def test_no_odd_threshold_names_anybody(refusing, collins):
    for query in ("threshold=nan", "threshold=inf", "threshold=", "threshold=1&threshold=none", "count=nan", "count=0"):
        assert problem(httpx.post(f"{refusing}/v1/identify?{query}", files={"file": collins}, timeout=60), 422, "input")


def test_in_a_batch_of_all_sorts_no_image_comes_back(refusing, collins):
    blank = png(np.full((64, 64, 3), 90))
    sent = [("file", one) for one in (collins, blank, b"", two_faces(collins))]
    found = httpx.post(f"{refusing}/v1/purify/batch", files=sent, timeout=60).json()["photographs"]
    kinds = [one["problem"]["type"].rpartition(":")[2] for one in found]
    assert kinds == ["tampered", "no-face", "unreadable-image", "tampered"]
    assert [one["image"] for one in found] == [None] * 4


def test_flagged_it_is_answered_and_said(gallery, collins):
    for threshold, tampered in ((ANY, True), (NONE, False)):
        with service(handlers_of(gallery=gallery, on_tamper="flag", tamper_threshold=threshold)) as url:
            [face] = asked(url, "identify", collins).json()["faces"]
            assert (face["tampered"], face["refused"], face["matches"][0]["person"]) == (tampered, None, "Collins")
            verified = asked(url, "verify", collins, person="Collins").json()
            assert verified["tampered"] is tampered
            assert verified["score"] > 0.5
            image = asked(url, "purify", collins)
            assert image.status_code == 200
            assert image.headers["facesieve-tamper"].endswith(";tampered") == tampered


def test_both_scores_are_there_where_they_are_asked_for(gallery, collins):
    settings = {"on_tamper": "flag", "tamper_score": "both", "tamper_threshold": f"2,{ANY}"}
    with service(handlers_of(gallery=gallery, **settings)) as url:
        [face] = asked(url, "identify", collins).json()["faces"]
    assert face["tamper_score"] / 2**0.5 <= face["disagreement"] <= 100 * face["tamper_score"]
    assert face["tampered"]


def test_without_a_threshold_the_service_does_not_start():
    with pytest.raises(SettingError, match="no default threshold"):
        handlers_of(on_tamper="refuse")  # behind a prior of our own
    with pytest.raises(SettingError, match="a threshold is a number"):
        handlers_of(on_tamper="refuse", tamper_threshold="0")
    with pytest.raises(SettingError, match="no default threshold"):  # of any preset that a request may ask for
        handlers_of(others=[quick_shield("other")], on_tamper="refuse")


# --- the gate -------------------------------------------------------------------------------------


def gate(behind, photo, **settings):
    with running(behind) as address, running(create_proxy(handlers_of(upstream=address, **settings))) as url:
        call = {"img1": base64.b64encode(photo).decode(), "img2": base64.b64encode(photo).decode()}
        answer = httpx.post(f"{url}/verify", json=call, timeout=60)
        return answer, httpx.get(f"{url}/facesieve/metrics").text


def test_refused_nothing_reaches_the_server_behind(collins):
    for photo in (collins, two_faces(collins)):
        behind = StandIn()
        answer, figures = gate(behind, photo, on_tamper="refuse", tamper_threshold=ANY)
        assert "looks tampered with" in problem(answer, 422, "tampered")
        assert answer.headers["facesieve-tamper"].endswith(";tampered")
        assert behind.calls == []
        assert 'facesieve_gate_images_total{outcome="refused"} 1.0' in figures


def test_flagged_it_passes_purified_and_the_header_says_so(collins):
    for threshold, tampered in ((ANY, True), (NONE, False)):
        behind = StandIn()
        answer, _ = gate(behind, collins, on_tamper="flag", tamper_threshold=threshold)
        assert (answer.status_code, len(behind.calls)) == (207, 1)
        assert answer.headers["facesieve-tamper"].endswith(";tampered") == tampered
        assert base64.b64encode(collins) not in behind.calls[0][3]


def test_what_does_not_look_tampered_with_passes_a_gate_that_refuses(collins):
    behind = StandIn()
    answer, _ = gate(behind, collins, on_tamper="refuse", tamper_threshold=NONE)
    assert (answer.status_code, len(behind.calls)) == (207, 1)
    assert 0 < float(answer.headers["facesieve-tamper"]) < 2
