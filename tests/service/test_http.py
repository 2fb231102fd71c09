"""The service over real connections: what each address answers, who may ask, what is refused and how."""

import base64
import json
import re
import shutil
import socket
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from serving import handlers_of, pixels, png, problem, quick_shield, service, two_faces

from facesieve.client import (
    BusyError,
    Client,
    ConflictError,
    NotAllowedError,
    NotFoundError,
    UnreachableError,
    UnusableError,
)
from facesieve.errors import InputError
from facesieve.faces import align
from facesieve.files import sha256_of
from facesieve.identification import CROP
from facesieve.images import read_photo
from facesieve.noise import derive_seed
from facesieve.service.keys import Keys, add_key, remove_key
from facesieve.service.logs import JsonLines
from facesieve.service.settings import Settings
from facesieve.shield import load_shield


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service") / "gallery"
    with service(handlers_of(gallery=str(folder), allow_seeds=True, max_bytes=500_000, max_pixels=1_000_000, max_faces=2)) as url:
        yield url


@pytest.fixture(scope="module")
def client(url):
    with Client(url) as client:
        yield client


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
    assert answer["preset"] == "robust"
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


@pytest.fixture
def keeping(tmp_path):
    """A shield that keeps who somebody is, though the quick prior knows no faces, and a client of its service."""
    shield = quick_shield(sigma_y=0.0)
    with service(handlers_of(shield, gallery=str(tmp_path / "gallery"))) as url, Client(url) as client:
        yield shield, client


def test_a_person_is_enrolled_found_verified_and_removed(keeping, obama, collins):
    shield, client = keeping
    label = shield.card.label
    assert client.enrol("Bärack / O?", obama[:2], templates="both") == {"raw": 2, label: 2}
    assert client.enrol("Collins", [collins]) == {"raw": 1, label: 1}  # both kinds if none is asked for
    assert client.person("Bärack / O?")["raw"] == 2
    with pytest.raises(ConflictError, match="enrolled already"):
        client.enrol("Collins", [collins])
    [face] = client.identify(obama[2], count=1, threshold=-1)
    assert face["unshielded"]["person"] == "Bärack / O?"
    assert face["unshielded"]["score"] > 0.5
    assert {"box", "matches", "person", "shield_change", "tamper_score", "threshold"} <= face.keys()
    assert face["templates"] == label
    same, other = client.verify(obama[2], "Bärack / O?", threshold=0.9999), client.verify(obama[2], "Collins", threshold=-1)
    assert same["same"] is False
    assert other["same"] is True
    assert same["score"] > other["score"]
    assert same["templates"] == label
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


def test_where_somebody_has_no_templates_behind_the_shield_the_raw_ones_are_searched(tmp_path, obama, collins, caplog):
    """The answer says so, and the log once, without a name."""
    with service(handlers_of(gallery=str(tmp_path / "gallery"))) as url, Client(url) as client:
        client.enrol("Obama", obama[:1])
        assert client.identify(obama[2])[0]["templates"] == quick_shield().card.label
        assert client.enrol("Susanna", [collins], templates="raw") == {"raw": 1}
        for _ in range(2):
            assert client.identify(obama[2])[0]["templates"] == "raw"
            assert client.verify(obama[2], "Obama")["templates"] == "raw"
        assert client.compare(obama[0], obama[1])["templates"] is None
        client.remove("Susanna")
        assert client.verify(obama[2], "Obama")["templates"] == quick_shield().card.label
    [line] = [JsonLines().format(record) for record in caplog.records if record.getMessage() == "raw-templates-searched"]
    said = json.loads(line)
    assert (said["level"], said["shield"]) == ("warning", quick_shield().card.label)
    assert "Susanna" not in line


def test_a_gallery_that_was_enrolled_behind_a_retired_preset_is_used_and_the_log_names_the_successor(tmp_path, obama, caplog):
    shutil.copytree(Path(__file__).parents[1] / "pins" / "kept" / "gallery", tmp_path / "gallery")
    with service(handlers_of(gallery=str(tmp_path / "gallery"))) as url, Client(url) as client:
        found = client.identify(obama[2])[0]
    assert (found["matches"][0]["person"], found["templates"]) == ("Obama", "raw")
    [line] = [JsonLines().format(record) for record in caplog.records if record.getMessage() == "raw-templates-searched"]
    assert "behind the preset 'fast', which is retired: take 'robust' and enrol anew" in json.loads(line)["reason"]


def test_every_face_is_cut_twice_for_the_purifier_and_for_the_raw_template(client, collins, monkeypatch):
    sizes = []

    def counted(photo, face, size):
        sizes.append(size)
        return align(photo, face, size)

    client.enrol("Collins", [collins])
    monkeypatch.setattr("facesieve.faces.crops.align", counted)
    assert len(client.identify(two_faces(collins))) == 2
    client.remove("Collins")
    assert sorted(sizes) == [128, 128, CROP, CROP]


@pytest.mark.parametrize(
    ("scheme", "without_threshold"), [("", "does not work now"), ("lancedb://", "^there is no gallery here; ")]
)
def test_a_gallery_that_fails_does_not_say_where_it_is(tmp_path, collins, caplog, scheme, without_threshold):
    folder = tmp_path / "hidden"
    with service(handlers_of(gallery=f"{scheme}{folder}")) as url, Client(url) as client:
        client.enrol("Collins", [collins])
        shutil.rmtree(folder)
        with pytest.raises(BusyError, match="does not work now") as caught:
            client.identify(collins, threshold=0.5)
        assert (caught.value.status, caught.value.kind, caught.value.retry_after) == (503, "gallery", 0)
        assert "hidden" not in str(caught.value)
        with pytest.raises(ConflictError if scheme else BusyError, match=without_threshold):
            client.identify(collins)  # its threshold is looked for first
    lines = [JsonLines().format(record) for record in caplog.records if record.getMessage() == "defect"]
    assert len(lines) == (1 if scheme else 2)
    assert {json.loads(line)["error"] for line in lines} == {"GalleryFailedError"}


def test_by_default_a_stranger_is_unknown_and_no_threshold_can_be_asked_for(obama, collins, tmp_path):
    handlers = handlers_of(load_shield(), gallery=str(tmp_path / "gallery"))
    with service(handlers) as url, Client(url) as client:
        client.enrol("Obama", [obama[0]])
        known, stranger = client.identify(obama[1])[0], client.identify(collins)[0]
        assert (known["person"], known["threshold_from"]) == ("Obama", "default")
        assert (stranger["person"], stranger["matches"][0]["person"]) == (None, "Obama")
        assert client.verify(collins, "Obama")["same"] is False
        assert client.compare(obama[0], obama[1])["same"] is True
        nobody = client.identify(obama[1], threshold="none")[0]
        assert (nobody["person"], nobody["threshold"], nobody["threshold_from"]) == (None, None, None)
        assert client.verify(obama[1], "Obama", threshold=0.2)["threshold_from"] == "given"
        for wrong in ("often", "2", "nan"):
            answer = httpx.post(f"{url}/v1/identify?threshold={wrong}", files={"file": collins})
            assert answer.status_code == 422
            assert "threshold" in answer.json()["detail"]


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
    with pytest.raises(UnusableError, match=r"^photograph 2: 2 faces found where one is meant"):
        client.enrol("Half", [collins, two_faces(collins)])


# --- refusals ---------------------------------------------------------------------------------


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
            assert office.enrol("x", [collins]).keys() == {"raw", quick_shield().card.label}
            assert office.identify(collins)
            assert shop.info()["preset"]["name"] == "robust"
            remove_key(path, "shop")
            with pytest.raises(NotAllowedError):
                shop.purify(collins)
            assert office.info()["gallery"] is True
        for free in ("/healthz", "/readyz"):
            assert httpx.get(url + free).status_code == 200
        problem(httpx.get(url + "/metrics"), 401, "no-key")
        assert httpx.get(url + "/metrics", headers={"X-API-Key": gallery}).status_code == 200


@pytest.mark.parametrize("content", [None, "{"])
def test_a_file_of_keys_that_goes_away_is_no_mistake_of_the_callers(tmp_path, collins, caplog, content):
    path = tmp_path / "hidden.json"
    key = add_key(path, "shop", ["purify"])
    with service(handlers_of(keys=path), Keys(path)) as url:
        path.unlink()
        if content is not None:
            path.write_text(content)
        answer = httpx.get(url + "/v1/info", headers={"X-API-Key": key})
        assert "hidden" not in answer.text
        assert "keys" not in problem(answer, 500, "defect")
    [line] = [JsonLines().format(record) for record in caplog.records if record.getMessage() == "defect"]
    assert json.loads(line)["error"] == "KeysFailedError"


# --- the description, the client and the documentation ----------------------------------------


def test_the_description_names_every_address_with_examples(url):
    described = httpx.get(url + "/openapi.json").json()["paths"]
    assert {"/v1/purify", "/v1/identify", "/v1/verify", "/v1/gallery/{id}", "/v1/info"} <= described.keys()
    assert set(described["/v1/gallery/{id}"]) == {"put", "post", "get", "delete"}
    purify = described["/v1/purify"]["post"]
    assert purify["requestBody"]["content"]["application/json"]["example"]["file"]
    assert "application/problem+json" in purify["responses"]["503"]["content"]


def test_the_page_of_the_addresses_needs_no_other_server(url):
    page = httpx.get(url + "/docs").text
    places = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page)
    assert len(places) == 3
    for place in places:
        answer = httpx.get(f"{url}/{place}")
        assert answer.status_code == 200, place
        assert len(answer.content) > 1000
    assert "http://" not in page
    assert "https://" not in page
    assert "url: 'openapi.json'" in page


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
    plain = {"None": "none", "()": "none", "True": "true", "False": "false"}
    fields = Settings.model_fields.items()
    expected = [f"| `{name}` | {plain.get(str(field.default), field.default)} | {field.description} |" for name, field in fields]
    assert table == expected
