"""What a request may ask for: parameters, formats, kinds of answer, pages of the gallery; and pages of elsewhere."""

import base64
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from PIL import Image
from serving import handlers_of, pixels, problem, quick_shield, service

from facesieve.client import Client, ConflictError, NotFoundError
from facesieve.errors import SettingError
from facesieve.files import sha256_of
from facesieve.hosts import names_loopback
from facesieve.identification import CROP
from facesieve.images import read_photo
from facesieve.recognition.sface import load_sface
from facesieve.service.keys import Keys, add_key
from facesieve.service.requests import best_type
from facesieve.service.settings import load_settings


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("behaviour") / "gallery"
    with service(handlers_of(gallery=str(folder), allow_seeds=True)) as url:
        yield url


# --- parameters -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("POST /v1/purify?aligne=true", "did you mean aligned?"),
        ("POST /v1/purify?fromat=png", "did you mean format?"),
        ("POST /v1/identify?treshold=0.5", "did you mean threshold?"),
        ("POST /v1/verify?persson=Ada", "did you mean person?"),
        ("PUT /v1/gallery/Ada?template=raw", "did you mean templates?"),
        ("GET /v1/gallery/Ada?x=1", "there are none here"),
        ("GET /v1/gallery?zzz=1", "there are limit, after"),
        ("POST /v1/purify?seed=1&seed=2", "once"),
        ("POST /v1/purify?SEED=1", "no such parameter"),
    ],
)
def test_a_parameter_that_is_not_there_is_refused_and_the_nearest_named(url, address, says):
    method, path = address.split()
    assert says in problem(httpx.request(method, url + path), 422, "input")


# --- formats and kinds of answer --------------------------------------------------------------

OFFERED = ["image/png", "image/jpeg", "image/webp", "application/json"]


@pytest.mark.parametrize(
    ("accept", "best"),
    [
        ("", "image/png"),
        ("*/*", "image/png"),
        ("image/*", "image/png"),
        ("image/jpeg", "image/jpeg"),
        ("image/png;q=0, image/*", "image/jpeg"),
        ("image/png;q=0.1, image/webp;q=0.5, */*;q=0.2", "image/webp"),
        ("application/json, image/png", "application/json"),
        ("*/*;q=0.1, application/json", "application/json"),
        ("IMAGE/WEBP ; Q=1.0", "image/webp"),
        ("text/html, */*;q=0.8", "image/png"),
        ("image/png;q=0", None),
        ("*/*;q=0", None),
        ("text/html", None),
        ("image/png;q=nan", None),
        ("image/png;q=-1, image/webp;q=1e3", None),
        (", ,", "image/png"),
    ],
)
def test_what_accept_likes_best(accept, best):
    """By hand, from RFC 9110, 12.5.1."""
    assert best_type(accept, OFFERED) == best


def test_a_quality_of_zero_is_a_refusal(url, collins):
    def post(accept, query=""):
        return httpx.post(f"{url}/v1/purify{query}", files={"file": collins}, headers={"Accept": accept})

    assert post("image/png;q=0, image/jpeg").headers["content-type"] == "image/jpeg"
    assert "image/png and" in problem(post("image/png;q=0"), 406, "not-acceptable")
    problem(post("image/png", "?stages=true"), 406, "not-acceptable")
    problem(post("image/png", "?format=jpeg"), 406, "not-acceptable")


def test_a_format_is_chosen_by_name_in_json_too(url, collins):
    for name in ("png", "jpeg", "webp"):
        answer = httpx.post(f"{url}/v1/purify?format={name}", files={"file": collins})
        assert answer.headers["content-type"] == f"image/{name}"
        assert Image.open(BytesIO(answer.content)).format == name.upper()
        answer = httpx.post(f"{url}/v1/purify?format={name}", files={"file": collins}, headers={"Accept": "application/json"})
        assert Image.open(BytesIO(base64.b64decode(answer.json()["image"]))).format == name.upper()
    problem(httpx.post(f"{url}/v1/purify?format=gif", files={"file": collins}), 422, "input")


def test_the_settings_say_which_formats_there_are(collins):
    with service(handlers_of(formats="jpeg, png")) as url:
        assert httpx.post(url + "/v1/purify", files={"file": collins}).headers["content-type"] == "image/jpeg"
        assert "jpeg, png" in problem(httpx.post(url + "/v1/purify?format=webp", files={"file": collins}), 422, "input")
        problem(httpx.post(url + "/v1/purify", files={"file": collins}, headers={"Accept": "image/webp"}), 406, "not-acceptable")
        assert httpx.get(url + "/v1/info").json()["formats"] == ["jpeg", "png"]
    for wrong in ("gif", "png,gif", " "):
        with pytest.raises(SettingError, match="formats"):
            load_settings(None, {"formats": wrong})


def test_possible_faces_are_counted_in_a_header_and_named_in_json(url, sample_paths):
    for path in sample_paths[-3:]:
        count, data = int(path.name == "obama-2.jpg"), path.read_bytes()
        answer = httpx.post(f"{url}/v1/purify", files={"file": data})
        assert (answer.headers["facesieve-faces"], answer.headers["facesieve-possible-faces"]) == ("1", str(count))
        plain = httpx.post(f"{url}/v1/purify", files={"file": data}, headers={"Accept": "application/json"}).json()
        assert (len(plain["faces"]), len(plain["possible"])) == (1, count)
        assert all(sorted(one) == ["box", "score"] and len(one["box"]) == 4 for one in plain["possible"])


def test_who_is_identified_hears_of_possible_faces(sample_paths, collins, tmp_path):
    (path,) = [path for path in sample_paths if path.name == "obama-2.jpg"]
    with service(handlers_of(gallery=str(tmp_path / "gallery"))) as url, Client(url) as client:
        client.enrol("Collins", [collins])
        found = [httpx.post(f"{url}/v1/identify", files={"file": data}).json() for data in (path.read_bytes(), collins)]
    assert [(len(one["faces"]), len(one["possible"])) for one in found] == [(1, 1), (1, 0)]


def test_the_headers_say_what_was_done_and_json_says_where(url, collins):
    answer = httpx.post(f"{url}/v1/purify?seed=3&tamper=true", files={"file": collins})
    assert (answer.headers["facesieve-faces"], answer.headers["facesieve-preset"]) == ("1", "robust")
    shield, embedder = quick_shield(), load_sface()
    [face] = (before := shield.cut(np.asarray(pixels(collins), np.uint8))).faces
    plain = httpx.post(f"{url}/v1/purify?seed=3&tamper=true", files={"file": collins}, headers={"Accept": "application/json"})
    [found] = plain.json()["faces"]
    np.testing.assert_allclose(found["landmarks"], face.landmarks, atol=1e-4)
    assert found["score"] == pytest.approx(float(face.score))
    assert found["box"] == pytest.approx(face.box)
    [quality] = before.qualities
    assert found["quality"] == quality.as_dict()
    raw = embedder.rows(before.at(CROP).crops)[0]
    crop = pixels(base64.b64decode(found["crop"])).transpose(2, 0, 1)[None].astype(np.float32) / 255
    assert found["tamper_score"] == pytest.approx(1 - float(raw @ embedder.rows(crop)[0]), abs=0.02)  # the crop has 256 levels
    assert float(answer.headers["facesieve-tamper"]) == pytest.approx(found["tamper_score"], abs=1e-4)
    bare = httpx.post(f"{url}/v1/purify", files={"file": collins})
    assert "facesieve-tamper" not in bare.headers
    with Client(url) as client:
        client.enrol("Landmarks", [collins])
        [person] = client.identify(collins)
        client.remove("Landmarks")
    np.testing.assert_allclose(person["landmarks"], face.landmarks, atol=1e-4)
    assert person["score"] == pytest.approx(float(face.score))
    assert person["quality"] == quality.as_dict()


def test_faces_are_put_back_as_the_settings_allow(collins):
    shield = quick_shield()
    before = shield.cut(read_photo(collins), sha256=sha256_of(collins))
    after = shield.restore(before, before.seeds(3))
    with service(handlers_of(faces="secure,detail", allow_seeds=True)) as url:
        for query, finish in (("", "secure"), ("&face=secure", "secure"), ("&face=detail", "detail")):
            answer = httpx.post(f"{url}/v1/purify?seed=3{query}", files={"file": collins})
            assert np.array_equal(pixels(answer.content), after.paste(finish))
        answer = httpx.post(f"{url}/v1/purify/batch?seed=3&face=detail", files={"file": collins}).json()["photographs"][0]
        assert np.array_equal(pixels(base64.b64decode(answer["image"])), after.paste("detail"))
        problem(httpx.post(url + "/v1/purify?face=both", files={"file": collins}), 422, "input")
    with service(handlers_of()) as url:
        assert "as secure" in problem(httpx.post(url + "/v1/purify?face=detail", files={"file": collins}), 422, "input")
        assert httpx.post(url + "/v1/purify?face=secure", files={"file": collins}).status_code == 200
    with pytest.raises(SettingError, match="faces"):
        load_settings(None, {"faces": "sharp"})


def test_a_preset_is_chosen_among_those_that_there_are(collins):
    shields = {"robust": quick_shield(), "other": quick_shield("other", sigma_y=0.0)}
    before = shields["robust"].cut(read_photo(collins), sha256=sha256_of(collins))
    made = {name: shield.restore(before, before.seeds(3)).paste() for name, shield in shields.items()}
    assert not np.array_equal(made["robust"], made["other"])
    with service(handlers_of(others=[shields["other"]], allow_seeds=True)) as url:
        assert httpx.get(url + "/v1/info").json()["presets"] == ["robust", "other"]
        for query, name in (("", "robust"), ("&preset=robust", "robust"), ("&preset=other", "other")):
            answer = httpx.post(f"{url}/v1/purify?seed=3{query}", files={"file": collins})
            assert answer.headers["facesieve-preset"] == name
            assert np.array_equal(pixels(answer.content), made[name])
        answer = httpx.post(f"{url}/v1/purify/batch?seed=3&preset=other", files={"file": collins}).json()
        assert answer["preset"] == "other"
        assert np.array_equal(pixels(base64.b64decode(answer["photographs"][0]["image"])), made["other"])
        calls = [lambda name=name: httpx.post(f"{url}/v1/purify?preset={name}", files={"file": collins}) for name in shields]
        with ThreadPoolExecutor(8) as threads:  # at the same time: one thread has all networks
            answers = list(threads.map(lambda call: call(), calls * 4))
        assert [one.headers["facesieve-preset"] for one in answers] == ["robust", "other"] * 4
        said = problem(httpx.post(f"{url}/v1/purify?preset=othr", files={"file": collins}), 422, "input")
        assert "did you mean other?" in said
        assert "facesieve_queue_faces 0.0" in httpx.get(url + "/metrics").text


def test_presets_that_do_not_fit_are_said_at_once():
    with pytest.raises(SettingError, match="'fast' is retired"):
        load_settings(None, {"presets": "fast"})
    with pytest.raises(SettingError, match="a proxy has one"):
        load_settings(None, {"presets": "paper", "upstream": "http://x"})
    assert load_settings(None, {"presets": "paper, robust", "preset": "robust"}).more_presets == ("paper",)


# --- the gallery ------------------------------------------------------------------------------


def test_the_gallery_is_listed_a_page_at_a_time(tmp_path, collins):
    names = ["Ada", "Bob", "Élan", "a/b", "李"]
    with service(handlers_of(gallery=str(tmp_path / "gallery"))) as url, Client(url) as client:
        assert httpx.get(url + "/v1/gallery").json() == {"people": [], "next": None}
        for name in names:
            client.enrol(name, [collins], templates="raw")
        seen, after = [], None
        while True:
            page = httpx.get(url + "/v1/gallery", params={"limit": 2} | ({"after": after} if after else {})).json()
            seen += [person["person"] for person in page["people"]]
            assert len(page["people"]) <= 2
            if (after := page["next"]) is None:
                break
        assert seen == sorted(names)
        assert list(client.people(page=2)) == sorted(names)
        assert page["people"][0]["templates"] == {"raw": 1}
        for wrong in ("limit=0", "limit=1001", "limit=x"):
            problem(httpx.get(f"{url}/v1/gallery?{wrong}"), 422, "input")


def test_photographs_are_added_to_somebody_who_is_enrolled(tmp_path, obama, collins):
    with service(handlers_of(gallery=str(tmp_path / "gallery"))) as url, Client(url) as client:
        with pytest.raises(NotFoundError):
            client.add("Obama", obama[:1])
        client.enrol("Obama", obama[:1], templates="raw")
        with pytest.raises(ConflictError):
            client.enrol("Obama", obama[1:2])
        label = quick_shield().card.label
        assert client.add("Obama", obama[1:3]) == {"raw": 3, label: 2}
        assert client.add("Obama", obama[:1], templates="purified") == {"raw": 3, label: 3}
        assert client.person("Obama") == {"raw": 3, label: 3}
        assert problem(httpx.post(url + "/v1/gallery/Obama", files=[("file", collins), ("file", b"x")]), 422, "unreadable-image")
        assert client.person("Obama") == {"raw": 3, label: 3}


@pytest.mark.parametrize("name", ["A\u200bda", "Ada\u202e", "\u2066Ada", "Ada\ufeff"])
def test_names_that_look_like_others_are_refused_before_a_photograph_is_read(tmp_path, name):
    with service(handlers_of(gallery=str(tmp_path / "gallery"))) as url:
        answer = httpx.put(f"{url}/v1/gallery/{quote(name)}", files={"file": b"no image"})
        assert "unseen character" in problem(answer, 422, "input")


# --- this machine's own programs and pages ----------------------------------------------------


@pytest.mark.parametrize(
    "host", ["localhost", "LocalHost:8000", "127.0.0.1", "127.0.0.1:9", "[::1]:8000", "[::1]", " localhost "]
)
def test_names_of_this_machine(host):
    assert names_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "evil.example", "localhost.evil.example", "10.0.0.1:80", "[fe80::1]", "127.0.0.1.evil", "::1:80"]
)
def test_names_of_others(host):
    assert not names_loopback(host)


def test_without_keys_a_foreign_name_is_refused_and_nothing_is_read_or_changed(tmp_path, collins):
    with service(handlers_of(gallery=str(tmp_path / "gallery"))) as url, Client(url) as client:
        client.enrol("Ada", [collins])
        foreign = {"Host": "evil.example:8123", "Origin": "http://evil.example:8123"}
        for method, path in [("GET", "/v1/gallery/Ada"), ("DELETE", "/v1/gallery/Ada"), ("GET", "/healthz"), ("GET", "/docs")]:
            assert "localhost" in problem(httpx.request(method, url + path, headers=foreign), 421, "host")
        assert client.person("Ada")
        for host in ("localhost:8123", "127.0.0.1", "[::1]:8123", "LOCALHOST"):
            assert httpx.get(url + "/v1/gallery/Ada", headers={"Host": host}).status_code == 200


def test_without_keys_a_page_of_elsewhere_cannot_send_a_form(tmp_path, collins, obama):
    with service(handlers_of(gallery=str(tmp_path / "gallery"))) as url, Client(url) as client:
        client.enrol("Ada", [collins])
        before = client.person("Ada")
        for origin in ("https://evil.example", "null", "http://127.0.0.1.evil.example", "file://"):
            answer = httpx.post(url + "/v1/gallery/Ada", files={"file": obama[0]}, headers={"Origin": origin})
            assert "elsewhere" in problem(answer, 403, "origin")
        assert client.person("Ada") == before
        own = {"Origin": url}
        assert httpx.post(url + "/v1/gallery/Ada", files={"file": obama[0]}, headers=own).status_code == 200


def test_with_keys_any_name_is_answered(tmp_path):
    path = tmp_path / "keys.json"
    key = add_key(path, "shop", ["purify"])
    with service(handlers_of(keys=path), Keys(path)) as url:
        headers = {"Host": "service.example", "Origin": "https://shop.example", "X-API-Key": key}
        answer = httpx.get(url + "/v1/info", headers=headers)
        assert answer.status_code == 200
        assert "access-control-allow-origin" not in answer.headers


def test_pages_of_named_origins_may_call_without_a_key_for_their_preflights(tmp_path, collins):
    path = tmp_path / "keys.json"
    key = add_key(path, "shop", ["purify"])
    origin = "https://shop.example"
    with service(handlers_of(keys=path, cors_origins=f"{origin},https://b.example"), Keys(path)) as url:
        asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
        answer = httpx.options(url + "/v1/purify", headers={"Origin": origin, **asks})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == origin
        assert httpx.options(url + "/v1/purify", headers={"Origin": "https://c.example", **asks}).status_code == 400
        answer = httpx.post(url + "/v1/purify", files={"file": collins}, headers={"Origin": origin, "X-API-Key": key})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, origin)
        assert "Facesieve-Faces" in answer.headers["access-control-expose-headers"]
        refused = httpx.post(url + "/v1/purify", files={"file": collins}, headers={"Origin": origin})
        problem(refused, 401, "no-key")  # and the page can read why
        assert refused.headers["access-control-allow-origin"] == origin
    for wrong in ("*", "shop.example", "https://shop.example/path", "https://a.example b"):
        with pytest.raises(SettingError, match="origin"):
            load_settings(None, {"cors_origins": wrong})


def test_a_page_of_a_named_origin_may_call_a_service_without_keys(collins):
    with service(handlers_of(cors_origins="https://shop.example")) as url:
        answer = httpx.post(url + "/v1/purify", files={"file": collins}, headers={"Origin": "https://shop.example"})
        assert answer.status_code == 200
        problem(httpx.post(url + "/v1/purify", files={"file": collins}, headers={"Origin": "https://x.example"}), 403, "origin")


# --- figures ----------------------------------------------------------------------------------


def test_addresses_that_are_not_there_have_one_label(url):
    for path in ("/nowhere", "/v1/nothing", "/v1/purify/x", "/secret-name"):
        assert httpx.get(url + path).status_code in {404, 405}
        httpx.request("BREW", url + path)
    text = httpx.get(url + "/metrics").text
    routes = {line.split('route="')[1].split('"')[0] for line in text.splitlines() if line.startswith("facesieve_requests_total")}
    assert not any("nowhere" in route or "secret" in route or "nothing" in route for route in routes)
    assert "none" in routes
