"""How the gate reads a request, without network: paths, forms, JSON, what begins like an image."""

import io
import json

import cv2
import numpy as np
import pytest
from PIL import Image
from serving import b64

from facesieve.service.gate_body import body_without_image, check_query, filled, shielded_body, slots_of
from facesieve.service.gate_images import is_image, is_text_of_image
from facesieve.service.gate_path import check_path, readings
from facesieve.service.gate_routes import KINDS, Routes, parse_route
from facesieve.service.problems import ProblemError

ROUTES = Routes([*KINDS["both"], "POST /recognize/*/now field=image body=image"], ["POST /uploads", "PUT /files/**"])
ANY = parse_route("POST /recognize field=image field=other address=image_url body=image")
FORM = "multipart/form-data; boundary=XXX"


def picture(format="jpeg", mode="RGB", side=40):
    file = io.BytesIO()
    Image.effect_noise((side, side + 9), 60).convert(mode).save(file, format)
    return file.getvalue()


JPEG = picture()


def part(head, data, boundary=b"XXX"):
    return b"--" + boundary + b"\r\n" + head + b"\r\n\r\n" + data + b"\r\n"


def form(*parts, boundary=b"XXX"):
    return b"".join(part(head, data, boundary) for head, data in parts) + b"--" + boundary + b"--\r\n"


def named(name, file=True):
    return b'Content-Disposition: form-data; name="' + name + b'"' + (b'; filename="a.jpg"' if file else b"")


def refusal(work, *arguments):
    with pytest.raises(ProblemError) as error:
        work(*arguments)
    return error.value.status, error.value.what


# --- paths ----------------------------------------------------------------------------------------

RECOGNITION = "api/v1/recognition/recognize"


def spellings(path):
    """The same address, as one server or another would look it up."""
    parts = path.split("/")
    for n in range(len(parts)):
        for change in (";x=1", "%3bx=1", ";", "%253bx", " ", "%20", "."):
            yield "/" + "/".join([*parts[:n], parts[n] + change, *parts[n + 1 :]])
        for slash in ("//", "/./", "/x/../", "%2f", "%2F", "%252f", "%5c", "\\", "/%2e/", "/x/%2e%2e/", "/x;/..;y/", "/x/.%2e/"):
            if n:
                yield "/" + "/".join(parts[:n]) + slash + "/".join(parts[n:])
        yield "/" + "/".join([*parts[:n], f"%{ord(parts[n][0]):02x}{parts[n][1:]}", *parts[n + 1 :]])
        yield "/" + "/".join([*parts[:n], f"%25{ord(parts[n][0]):02x}{parts[n][1:]}", *parts[n + 1 :]])
    yield from (
        path.upper().join("/ ").strip(),
        f"/{path}/",
        f"//{path}",
        f"/{path}/.",
        f"/{path}.json",
        f"/{path}%00",
        f"/{path}%0a",
    )
    yield from (f"/{path}%250a", f"/{path}\t", f"/%c0%af{path}", f"/%u002f{path}", f"/x%{path}", "/ſ".join(path.rsplit("/s", 1)))


def shielded_or_refused(path):
    try:
        check_path(path)
        return ROUTES.of("POST", path) is not None
    except ProblemError as problem:
        return (problem.status, problem.kind) == (400, "input")


@pytest.mark.parametrize("path", [RECOGNITION, "represent", "verify", "recognize/7/now"])
def test_however_an_address_is_written_a_photograph_is_purified_or_refused_there(path):
    for spelt in spellings(path):
        assert shielded_or_refused(spelt.encode()), spelt


def test_a_path_parameter_and_its_like_are_refused_with_the_reason():
    for spelt in (b"/api/v1/recognition;x=1/recognize", b"/api/v1;x/recognition/recognize", b"/represent%3bx", b"/repres%2565nt"):
        status, reason = refusal(ROUTES.of, "POST", spelt)
        assert (status, "one address to one server and another" in reason) == (400, True)
    assert "control" in refusal(check_path, b"/represent%0a")[1]
    assert "control" in refusal(check_path, b"/represent%2525250a")[1]
    for path in (b"/represent#x", b"http://host/represent", b"*", b""):
        assert "is no plain path" in refusal(check_path, path)[1]
    assert refusal(ROUTES.of, "POST", b"/represent%23x")[0] == refusal(ROUTES.of, "POST", b"/represent%3fx")[0] == 400


def test_plain_paths_have_one_reading_and_others_stay_what_they_are():
    assert readings(b"/Represent//") == {"represent"}
    assert readings(b"/subjects/%C3%A9 b") == {"subjects/é b"}
    for path in (b"/", b"/other//p%20q", b"/a/b;c=1", b"/subjects/a%2Fb", b"/represented", b"/x-represent", b"/a.b/c.json"):
        assert ROUTES.of("POST", path) is None
    # All readings are below one shielded prefix, so there is nothing to be uncertain about.
    assert ROUTES.of("PUT", b"/api/v1/recognition/subjects/a%2Fb") is not None


def test_the_path_of_the_server_behind_counts_too():
    """Behind https://host/api/v1 the call /recognition/recognize is one of CompreFace's."""
    below = Routes(KINDS["compreface"], base="/api/v1/")
    assert below.of("POST", b"/recognition/recognize") is not None
    assert below.of("POST", b"/x/recognize") is None
    assert refusal(below.of, "POST", b"/recognition/../x")[0] == 400
    assert refusal(Routes(KINDS["compreface"], base="/api").of, "POST", b"/v1/recognition;/recognize")[0] == 400


def test_what_is_passed_unseen_is_so_in_every_reading():
    assert ROUTES.passes("POST", b"/uploads")
    assert ROUTES.passes("PUT", b"/files/a/b.jpg")
    for method, path in (("PUT", b"/uploads"), ("POST", b"/x/uploads"), ("POST", b"/uploads;a"), ("PUT", b"/files/../x")):
        assert not ROUTES.passes(method, path)


@pytest.mark.parametrize(
    "line", ["POST recognize", "recognize", "post /x", "POST /x fields=y", "POST /x field=a-b", "POST /**/x", "POST /%78", ""]
)
def test_a_route_that_is_none_is_said(line):
    with pytest.raises(ValueError, match="no route"):
        parse_route(line)


# --- what begins like an image ----------------------------------------------------------------------


def every_format():
    Image.init()
    for format in sorted(set(Image.SAVE) - {"PDF", "PALM"}):  # no server's decoder reads these two
        for mode in ("RGB", "L", "1", "RGBA", "P"):
            for side in (17, 300):
                try:
                    yield f"{format} {mode}", picture(format, mode, side)
                except (OSError, ValueError, KeyError, AttributeError):
                    continue
    colour = np.random.default_rng(0).integers(0, 255, (40, 50, 3), np.uint8)
    for suffix in (".bmp", ".jp2", ".ppm", ".pfm", ".sr", ".exr", ".hdr", ".avif", ".gif", ".pgm", ".png", ".webp"):
        for array in (colour, colour[..., 0], colour.astype(np.float32) / 255):
            try:
                done, data = cv2.imencode(suffix, array)
            except cv2.error:
                continue
            if done:
                yield f"OpenCV {suffix}", data.tobytes()


def test_whatever_pillow_and_opencv_write_is_known_for_an_image():
    found = list(every_format())
    assert len({name.split()[0] for name, _ in found}) > 20
    for name, data in found:
        assert is_image(data), name
        assert len(data) < 400 or is_text_of_image(b64(data)), name
    for brand in (b"heic", b"heix", b"mif1", b"avif"):
        assert is_image(b"\0\0\0\x18ftyp" + brand + bytes(8) + b"mif1heic")
        assert is_image(b"\0\0\0\x18ftypisom" + bytes(4) + brand)


@pytest.mark.parametrize(
    "text",
    [
        b64(JPEG), "data:image/jpeg;base64," + b64(JPEG), " data:IMAGE/x;BASE64," + b64(JPEG), "data:;base64,\n" + b64(JPEG),
        b64(JPEG).replace("/", "_").replace("+", "-"), "\n".join(b64(JPEG)), "!!" + b64(JPEG), "=" + b64(JPEG),
        b64(picture("webp")), b64(picture("bmp")), "data:image/png," + "".join(f"%{byte:02x}" for byte in picture("png")),
    ],
)  # fmt: skip
def test_a_text_that_some_decoder_takes_for_an_image_is_one(text):
    assert is_text_of_image(text)


def test_other_texts_and_bytes_are_none():
    words = ["BMW dealership in Munich, near the river, all year", "/workspace/users/somebody/with/a/long/path", "0" * 500]
    words += [
        "P5 is the fifth part of it all, and P6 the sixth",
        "c9a646d3-9c61-4cb7-bfcd-ee2522c8f633" * 3,
        "A" * 500,
        "II of many",
    ]
    for text in words:
        assert not is_text_of_image(text), text
        assert not is_image(text.encode()), text
    random = np.random.default_rng(1)
    assert sum(is_image(random.bytes(64)) for _ in range(20_000)) < 10
    assert sum(is_text_of_image(b64(random.bytes(300))) for _ in range(20_000)) < 10
    assert not is_image(bytes(range(256)))


# --- forms ------------------------------------------------------------------------------------------


def test_every_part_with_a_file_name_is_purified_whatever_it_is_called():
    body = form((named(b"whatever"), JPEG), (named(b"text", file=False), b"\xc3\xa9\r\n--"), (named(b"image"), JPEG))
    pieces = shielded_body(body, FORM, ANY)
    assert [slot.image for slot in slots_of(pieces)] == [JPEG, JPEG]
    assert filled(pieces, [(JPEG, None)] * 2) == body
    assert filled(pieces, [(b"1", None), (b"2", None)]) == body.replace(JPEG, b"1", 1).replace(JPEG, b"2")


def test_images_in_parts_without_a_file_name_are_found_as_bytes_base64_and_within_json():
    inner = json.dumps({"a": [{"b": b64(JPEG)}], "n": 1.50})
    body = form((named(b"a", False), JPEG), (named(b"b", False), b64(JPEG).encode()), (named(b"c", False), inner.encode()))
    pieces = shielded_body(body, FORM, ANY)
    assert [slot.image for slot in slots_of(pieces)] == [JPEG] * 3
    assert filled(pieces, [(JPEG, None)] * 3) == body


def test_the_type_of_a_part_follows_its_image_and_its_stated_length_goes():
    head = named(b"f") + b"\r\nContent-Type: image/bmp\r\nContent-Length: 7"
    body = filled(shielded_body(form((head, JPEG)), FORM, ANY), [(b"new", "image/png")])
    assert body == form((named(b"f") + b"\r\nContent-Type: image/png", b"new"))


def test_a_form_without_an_image_passes_byte_for_byte():
    body = form((named(b"ids", False), b"[1, 2, 3]"), (named(b"empty"), b""), (named(b"q", False), b'{"a": "\xc3\xa9\\u00e9"}'))
    assert filled(shielded_body(body, FORM, ANY), []) == body
    assert body_without_image(body, FORM) == body


def test_parts_that_two_servers_would_take_apart_differently_are_refused():
    jpeg, text = named(b"image"), named(b"x", False)
    hidden = b"x\n--XXX\n" + named(b"image") + b"\n\n" + JPEG + b"\n--XXX--"
    refused = {
        "a name with a dot": form((named(b"im.age"), JPEG)),
        "a name with brackets": form((named(b"image[]"), JPEG)),
        "no name": form((b'Content-Disposition: form-data; filename="a"', JPEG)),
        "two names": form((b'Content-Disposition: form-data; name="x"; name="image"; filename="a"', JPEG)),
        "name*": form((b'Content-Disposition: form-data; name="x"; name*=utf-8\'\'image; filename="a"', JPEG)),
        "a quote that is escaped": form((b'Content-Disposition: form-data; name="a\\"; filename=\\"b"', JPEG)),
        "two dispositions": form((jpeg + b"\r\n" + text, JPEG)),
        "a folded header": form((b'Content-Disposition: form-data;\r\n name="image"; filename="a"', JPEG)),
        "another disposition": form((b'Content-Disposition: attachment; name="image"; filename="a"', JPEG)),
        "a transfer encoding": form((jpeg + b"\r\nContent-Transfer-Encoding: base64", b64(JPEG).encode())),
        "parts within parts": form((jpeg + b"\r\nContent-Type: multipart/mixed; boundary=YYY", JPEG)),
        "a text in EBCDIC": form((text + b"\r\nContent-Type: text/plain; charset=Cp037", b64(JPEG).encode("cp037"))),
        "a name that says how to decode": form((named(b"_charset_", False), b"cp037"), (text, b64(JPEG).encode("cp037"))),
        "another header": form((jpeg + b"\r\nX-Other: 1", JPEG)),
        "a part behind a bare line feed": form((text, hidden)),
        "twice": form((jpeg, JPEG), (jpeg, JPEG)),
        "another case": form((named(b"Image"), JPEG)),
        "by address": form((named(b"image_url", False), b"http://x/a.jpg")),
        "an image in a sentence": form((text, b"see data:image/jpeg;base64," + b64(JPEG).encode() + b" there")),
        "no end": form((jpeg, JPEG))[:-8],
    }
    refused["an image by path where one belongs"] = form((named(b"image", False), b"/etc/passwd"))
    for name, body in refused.items():
        assert refusal(shielded_body, body, FORM, ANY)[0] == 422, name
    for kind in (
        "; boundary=XXX; boundary=YYY",
        "",
        "; boundary*=utf-8''XXX",
        '; boundary="X\\XX"',
        '; x="; boundary=YYY"; boundary=XXX',
    ):
        assert refusal(shielded_body, form((jpeg, JPEG)), "multipart/form-data" + kind, ANY)[0] == 422, kind


def test_what_stands_around_the_parts_goes():
    body = form((named(b"a", False), b"1"))
    assert filled(shielded_body(b"\r\n" + body + b"--XXX\r\n" + JPEG, FORM, ANY), []) == body
    assert body_without_image(body + JPEG, FORM) == body


def test_names_a_web_browser_or_a_java_client_writes_are_taken():
    webkit = "multipart/form-data; boundary=----WebKitFormBoundaryABC123"
    body = form((named(b"image"), JPEG), boundary=b"----WebKitFormBoundaryABC123")
    assert slots_of(shielded_body(body, webkit, ANY))
    assert slots_of(shielded_body(form((named(b"image"), JPEG)), FORM + "; charset=utf-8", ANY))
    java = b'Content-Disposition: form-data; name="image"; filename="a.jpg"\r\nContent-Transfer-Encoding: binary'
    assert slots_of(shielded_body(form((java, JPEG)), FORM + "; charset=UTF-8", ANY))
    utf8 = b"Content-Disposition: form-data; name=image; filename=\"a.jpg\"; filename*=UTF-8''%c3%a9.jpg"
    assert slots_of(shielded_body(form((utf8, JPEG)), 'multipart/form-data; boundary="XXX"', ANY))


# --- JSON -------------------------------------------------------------------------------------------


def test_every_text_of_json_that_is_an_image_is_purified_and_no_other_byte_changes():
    text = '{"a": {"b": ["%s", 1e400, "\\u00e9"]},  "c":"%s", "d": null, "e": "%s"}'
    inner = json.dumps(json.dumps({"x": b64(JPEG), "é": "\ud83d"}))[1:-1]
    before = (text % (b64(JPEG).replace("/", "\\/"), "data:image/jpeg;base64," + b64(JPEG), inner)).encode()
    pieces = shielded_body(before, "application/json; charset=utf-8", ANY)
    assert [slot.image for slot in slots_of(pieces)] == [JPEG] * 3
    after = filled(pieces, [(b"123", "image/png")] * 3)
    new = b64(b"123")
    assert after.decode() == text % (new, "data:image/png;base64," + new, inner.replace(b64(JPEG), new))
    assert json.loads(json.loads(after)["e"]) == {"x": new, "é": "\ud83d"}


def test_json_without_an_image_passes_byte_for_byte():
    for body in (
        b"[1, 2,3]",
        b'{"ids": ' + json.dumps([f"person-{n}" for n in range(30_000)]).encode() + b"}",
        b'"x"',
        b' {"a" :1.0} ',
    ):
        assert filled(shielded_body(body, "application/json", ANY), []) == body
        assert body_without_image(body, "application/json") == body


def test_json_that_cannot_be_read_with_certainty_is_refused():
    image = b64(JPEG)
    for name, body in {
        "twice": '{"a": {"x": 1, "\\u0078": "IMG"}}',
        "no JSON": "{'image': 'IMG'}",
        "cut off": '{"image": "IMG',
        "two": '{"a": 1}{"image": "IMG"}',
        "junk in base64": '{"a": "data:image/jpeg;base64,!IMG"}',
        "two in one": '{"a": "data:image/jpeg;base64,IMG,IMG"}',
        "no image": '{"image": "hello"}',
        "a number": '{"image": 7}',
        "nested": '{"image": {"x": "IMG"}}',
        "by address": '{"IMAGE_URL": "http://x"}',
        "as a name": '{"IMG": 1}',
        "a byte order mark": '\ufeff{"image": "IMG"}',
        "a sentence": '{"a": "![me](data:image/png;base64,IMG)"}',
    }.items():
        assert refusal(shielded_body, body.replace("IMG", image).encode(), "application/json", ANY)[0] == 422, name
    wide = json.dumps({"image": image}).encode("utf-16")
    assert refusal(shielded_body, wide, "application/json", ANY)[0] == 422
    assert refusal(shielded_body, b"{}", "application/json; charset=utf-16", ANY)[0] == 415
    assert refusal(shielded_body, b'["",' + b'"",' * 100_001 + b'""]', "application/json", ANY)[0] == 422


def test_the_body_itself_may_be_an_image_where_the_route_says_so():
    assert [slot.image for slot in slots_of(shielded_body(JPEG, "image/jpeg", ANY))] == [JPEG]
    for kind, body in (("text/plain", b"hello"), ("application/x-www-form-urlencoded", b"image=" + b64(JPEG).encode())):
        assert refusal(shielded_body, body, kind, ANY)[0] == 415
    assert refusal(shielded_body, JPEG, "image/jpeg", parse_route("POST /x field=image"))[0] == 415


# --- elsewhere --------------------------------------------------------------------------------------


def test_at_other_addresses_an_image_is_refused_however_it_is_packed():
    image, uri = b64(JPEG), "data:image/jpeg;base64," + b64(JPEG)
    packed = {
        "as it is": ("image/jpeg", JPEG),
        "under another type": ("text/plain", JPEG),
        "as base64": ("text/plain", image.encode()),
        "as a data URI": ("", uri.encode()),
        "in a part": (FORM, form((named(b"a[]"), JPEG))),
        "as text in a part": (FORM, form((named(b"a", False), image.encode()))),
        "in JSON": ("application/json", json.dumps({"a": [image]}).encode()),
        "in JSON under another type": ("text/plain", json.dumps([{"a": image.replace("/", "\\/")}]).encode()),
        "in JSON in UTF-16": ("application/json", json.dumps({"a": image}).encode("utf-16")),
        "in JSON in JSON": ("application/json", json.dumps({"a": json.dumps({"b": image})}).encode()),
        "in lines of JSON": ("application/x-ndjson", b'{"index": {}}\n' + json.dumps({"a": image}).encode() + b"\n"),
        "in a form": ("application/x-www-form-urlencoded", b"a=1&b=" + image.replace("+", "%2B").replace("/", "%2F").encode()),
        "in XML": ("text/xml", f"<a><image>{image}</image></a>".encode()),
        "in HTML": ("text/html", f"<img src='{uri}'>".encode()),
    }
    for name, (kind, body) in packed.items():
        with pytest.raises(ProblemError) as error:
            body_without_image(body, kind)
        assert (error.value.status, error.value.kind) == (422, "unshielded"), name
    with pytest.raises(ProblemError, match="holds an image"):
        check_query(b"a=1&img=" + image.replace("+", "%2B").encode())


def test_at_other_addresses_what_holds_no_image_passes_byte_for_byte():
    for kind, body in (
        ("", bytes(range(256)) * 300),
        ("application/x-www-form-urlencoded", b"a=1&b=%41+c"),
        ("application/json", b'{"subject": "Ada", "a": [1, 2, {"b": "c"}]}'),
        ("text/plain", "Zoë walked to the office, and took BM with her.".encode()),
        ("application/zip", b"PK\x03\x04" + bytes(400)),
        ("application/json", b"{ no JSON"),
    ):
        assert body_without_image(body, kind) == body
    check_query(b"limit=1&det_prob_threshold=0.8&face_plugins=age%2Cgender&subject=a-long-name-of-somebody-with-letters")
