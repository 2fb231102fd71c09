"""Requests made by a seed against the gate and what servers read: how many photographs would arrive unpurified.

    python benchmarks/gate.py [--requests N] [--seed N] [--targets]

No network: the gate reads a request, puts other images into it or refuses it, and what it would send on is read as each of the
servers in ``server_readings.toml`` would. A request counts if one of them looks up a recognition address and finds the photograph
in it. ``--targets`` records the figure in docs/results/targets.json.
"""

from __future__ import annotations

import argparse
import base64
import json
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from results import origin
from server_readings import Server, contents, servers

from facesieve.report.targets import Target, keep_targets
from facesieve.service.gate_body import body_without_image, filled, shielded_body, slots_of
from facesieve.service.gate_path import check_path
from facesieve.service.gate_routes import KINDS, Routes
from facesieve.service.problems import ProblemError

TARGETS = Path(__file__).parent.parent / "docs" / "results" / "targets.json"
ROUTES = Routes([*KINDS["both"], "POST /recognize field=image body=image"])
KNOWN = ["/api/v1/recognition/recognize", "/api/v1/recognition/faces", "/api/v1/detection/detect", "/api/v1/verification/verify"]
KNOWN += ["/represent", "/verify", "/analyze"]
ADDRESSES = {"POST": {*KNOWN, "/recognize"}, "PUT": {*KNOWN}, "PATCH": {*KNOWN}}  # by method: where photographs are looked for
NAMES = ["file", "source_image", "img", "img1", "image"]
BOUNDARY = "----b0undary7MA4YWxk"


@dataclass(frozen=True)
class Request:
    """A request, and the photograph that is somewhere in it."""

    method: str
    path: bytes
    content_type: str
    body: bytes
    photograph: bytes


# --- making them ------------------------------------------------------------------------------------


def request(draw: random.Random) -> Request:
    """One request to a recognition address, or to what looks like one."""
    photograph = b"\xff\xd8\xff\xe0\0\x10JFIF\0" + draw.randbytes(40)
    path = draw.choice([*KNOWN, "/recognize"]) if draw.random() < 0.95 else "/subjects/7"
    for _ in range(draw.choice((0, 0, 0, 0, 1, 1, 2, 3))):
        path = draw.choice(PATHS)(draw, path)
    kind, body = draw.choice(BODIES)(draw, photograph)
    method = draw.choice(("POST", "POST", "POST", "PUT", "PATCH"))
    return Request(method, ("/" + path.removeprefix("/")).encode("utf-8", "replace"), kind, body, photograph)


def _at_a_segment(draw: random.Random, path: str, change: Callable[[str], str]) -> str:
    parts = path.split("/")
    n = draw.randrange(1, len(parts)) if len(parts) > 1 else 0
    return "/".join([*parts[:n], change(parts[n]), *parts[n + 1 :]])


def _at_a_letter(draw: random.Random, path: str, change: Callable[[str], str]) -> str:
    n = draw.randrange(len(path))
    return path[:n] + change(path[n]) + path[n + 1 :]


def _slash(draw: random.Random, path: str) -> str:
    n = draw.choice([n for n, sign in enumerate(path) if sign == "/"] or [0])
    return path[:n] + draw.choice(FOR_A_SLASH) + path[n + 1 :]


FOR_A_SLASH = ["//", "/./", "/x/../", "%2f", "%2F", "%252f", "\\", "%5c", "/%2e/", "/x/%2e%2e/", "/x;/..;/", "/.;/", "/../"]
FOR_A_SLASH += ["%ef%bc%8f", "%c0%af", "/%252e%252e/"]
PARAMETERS = [";", ";x=1", "%3b", "%3Bx", ";a;b", "%253b", ";%2f"]
SUFFIXES = [".", "%20", " ", ".json", "%2ejson", "..", "%09"]
FOR_A_LETTER = ["x", "%00", "\t", "%0a", "ſ", "%zz", "rr", "%c0%af"]
ENDS = ["/", "//", "/.", "/x/..", "%0a", "%00", "%0d%0a", "?", "#x", "%23", "%3f", "%2f", "/%2e"]
BEGINNINGS = ["/base", "//host", "/..", "/.", "/%2e%2e", "/x;y", "\\"]
PATHS: list[Callable[[random.Random, str], str]] = [
    lambda draw, path: _at_a_segment(draw, path, lambda part: part + draw.choice(PARAMETERS)),
    lambda draw, path: _at_a_segment(draw, path, lambda part: part + draw.choice(SUFFIXES)),
    lambda draw, path: _at_a_letter(draw, path, lambda sign: f"%{ord(sign) % 256:02x}"),
    lambda draw, path: _at_a_letter(draw, path, lambda sign: f"%25{ord(sign) % 256:02X}"),
    lambda draw, path: _at_a_letter(draw, path, str.upper),
    lambda draw, path: _at_a_letter(draw, path, lambda _: draw.choice(FOR_A_LETTER)),
    lambda draw, path: path + draw.choice(ENDS),
    lambda draw, path: draw.choice(BEGINNINGS) + path,
    _slash,
    _slash,
]


def _form(draw: random.Random, photograph: bytes) -> tuple[str, bytes]:
    """A form with the photograph in a part, and what one server reads otherwise than the next."""
    end = draw.choice((b"\r\n",) * 14 + (b"\n", b"\r"))
    name = draw.choice(
        (*NAMES * 5, *["anything"] * 5, "im.age", "file[]", "=?utf-8?B?ZmlsZQ==?=", "File", 'f\\"ile', "fi le")
    ).encode()
    head = draw.choice(HEADS).replace(b"NAME", name).replace(b"\r\n", end)
    data = draw.choice((photograph, photograph, base64.b64encode(photograph), _json_text(draw, photograph)))
    line = b"--" + BOUNDARY.encode()
    parts = [head + end * 2 + data]
    if draw.random() < 0.15:  # hidden in the content of another part, behind a line end that some servers take for one
        other = draw.choice((b"\n", b"\r", b"\n ", b"\r\n"))
        parts = [b'Content-Disposition: form-data; name="note"' + end * 2 + b"x" + other + line + other + head + other * 2 + data]
    if draw.random() < 0.4:
        parts.insert(draw.randrange(2), b'Content-Disposition: form-data; name="limit"' + end * 2 + b"1")
    body = b"".join(line + end + part + end for part in parts) + line + b"--" + draw.choice((b"\r\n", b"\r\n", b"", end + data))
    if draw.random() < 0.1:
        body = draw.choice((b"\r\n", b"preamble\r\n", line + b"--\r\n", data + b"\r\n")) + body
    return draw.choice(FORM_TYPES).replace("BOUNDARY", BOUNDARY), body


HEADS = 7 * [
    b'Content-Disposition: form-data; name="NAME"; filename="a.jpg"',
    b'Content-Disposition: form-data; name="NAME"; filename="a.jpg"\r\nContent-Type: image/jpeg',
    b'Content-Disposition: form-data; name="NAME"',
] + [
    b'Content-Disposition: form-data; name="NAME"; filename=""',
    b"Content-Disposition: form-data; name=NAME; filename=a.jpg",
    b"content-disposition:form-data;name=\"NAME\";filename*=UTF-8''a.jpg",
    b'Content-Disposition: form-data; filename="a.jpg"; name="NAME"',
    b'Content-Disposition: form-data; name="x"; name*=utf-8\'\'NAME; filename="a"',
    b'Content-Disposition: form-data; name="x"; name="NAME"; filename="a"',
    b'Content-Disposition: form-data;\r\n name="NAME"; filename="a"',
    b'Content-Disposition: attachment; name="NAME"; filename="a"',
    b'Content-Disposition: form-data; name="NAME"; filename="a"\r\nContent-Transfer-Encoding: base64',
    b'Content-Type: multipart/mixed; boundary=inner\r\nContent-Disposition: form-data; name="NAME"',
    b'X: 1\r\nContent-Disposition: form-data; name="NAME"; filename="a"',
    b'Content-Disposition: form-data; name="NAME"; filename="a"\r\nContent-Disposition: form-data; name="y"',
]
FORM_TYPES = ["multipart/form-data; boundary=BOUNDARY"] * 30 + [
    'multipart/form-data; boundary="BOUNDARY"',
    "Multipart/Form-Data;BOUNDARY=x; boundary=BOUNDARY",
    "multipart/mixed; boundary=BOUNDARY",
    "multipart/form-data; boundary=other; boundary=BOUNDARY",
    "multipart/form-data; boundary*=utf-8''BOUNDARY",
    "multipart/form-data",
    "multipart/form-data, multipart/form-data; boundary=BOUNDARY",
    "multipart/form-data; boundary=BOUNDARY; charset=utf-16",
    'multipart/form-data; charset="; boundary=other"; boundary=BOUNDARY',
    'multipart/form-data; boundary=BOUNDARY ; x="y',
    "text/plain",
]


def _text(draw: random.Random, photograph: bytes) -> str:
    plain = base64.b64encode(photograph).decode()
    uri = "data:image/jpeg;base64," + plain
    odd = [f"DATA:;BASE64,{plain}", f"data:x;charset=utf-8;base64,{plain}", "\n".join(plain), f"!{plain}", f"x{plain}"]
    odd += [uri.replace(",", ",!"), f"{uri},x", f" {plain} ", plain.rstrip("="), plain.replace("+", "-").replace("/", "_")]
    odd += [uri.replace(";base64", ""), uri.replace(",", " ,")]
    return draw.choice([*[plain, uri] * 10, *odd])


def _json_text(draw: random.Random, photograph: bytes) -> bytes:
    name, image = draw.choice((*NAMES, "anything", "IMG", " img")), _text(draw, photograph)
    value: object = draw.choice((*[image] * 6, [image], {"x": image}, [["y", image]], json.dumps({"z": image})))
    text = json.dumps(draw.choice((*[{name: value}, {name: value, "limit": 1}] * 4, [value], value, [{name: value}])))
    if draw.random() < 0.2:
        text = text.replace("/", "\\/")
    if draw.random() < 0.1:
        text = text.replace("9j", "\\u0039\\u006a", 1)
    if draw.random() < 0.1 and text.startswith("{"):
        text = "{" + draw.choice((f'"{name}": "x", ', f'"{name}": null, ', '"\\u0069mg": "x", ')) + text[1:]
    return text.encode(draw.choice(("utf-8",) * 20 + ("utf-16", "utf-8-sig", "utf-32-le")))


JSON_TYPES = ["application/json"] * 15 + [
    "application/json; charset=utf-8",
    "application/vnd.api+json",
    "text/json",
    "text/plain",
    "",
]
RAW_TYPES = ["image/jpeg", "application/octet-stream", "text/plain", "application/json", ""]
URL_ENCODED = ["application/x-www-form-urlencoded", "text/plain"]


def _url_encoded(draw: random.Random, photograph: bytes) -> tuple[str, bytes]:
    text = f"limit=1&{draw.choice(NAMES)}={_text(draw, photograph)}"
    return draw.choice(URL_ENCODED), text.replace("+", "%2B").encode()


BODIES: list[Callable[[random.Random, bytes], tuple[str, bytes]]] = [
    _form,
    _form,
    _form,
    lambda draw, photograph: (draw.choice(JSON_TYPES), _json_text(draw, photograph)),
    lambda draw, photograph: (draw.choice(JSON_TYPES), _json_text(draw, photograph)),
    lambda draw, photograph: (draw.choice(RAW_TYPES), photograph),
    _url_encoded,
]


# --- what becomes of them ---------------------------------------------------------------------------


def behind_the_gate(asked: Request) -> Request | None:
    """What the gate would send on; None where it refuses."""
    try:
        path = re.split(rb"[?#]", asked.path)[0]  # as HTTP parsers do, before the gate
        check_path(path)
        route = ROUTES.of(asked.method, path)
        if route is None:
            body = body_without_image(asked.body, asked.content_type)
        else:
            pieces = shielded_body(asked.body, asked.content_type, route)
            body = filled(pieces, [(b"\xff\xd8\xff purified", "image/jpeg")] * len(slots_of(pieces)))
    except ProblemError:
        return None
    return Request(asked.method, asked.path, asked.content_type, body, asked.photograph)


def arrives_at(asked: Request, table: list[Server]) -> list[str]:
    """The servers that look up a recognition address for a request and find its photograph there."""
    path = re.split(rb"[?#]", asked.path)[0]
    looked_up = [server.name for server in table if server.address(path) in ADDRESSES[asked.method]]
    if looked_up and any(content.startswith(asked.photograph) for content in contents(asked.content_type, asked.body)):
        return looked_up
    return []


def count(requests: int, seed: int) -> Counter[str]:
    """Of so many requests: those that reach a server without the gate, that the gate refuses or sends on, that arrive."""
    draw, table, found = random.Random(seed), servers(), Counter[str]()
    for _ in range(requests):
        asked = request(draw)
        found["would arrive without the gate"] += bool(arrives_at(asked, table))
        sent = behind_the_gate(asked)
        found["refused" if sent is None else "sent on"] += 1
        if sent is not None and (names := arrives_at(sent, table)):
            found["arrive unpurified"] += 1
            print(f"arrives at {', '.join(names)}: {asked}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--targets", action="store_true", help="record the figure")
    args = parser.parse_args()
    found = count(args.requests, args.seed)
    for name in ("would arrive without the gate", "refused", "sent on", "arrive unpurified"):
        print(f"{name}: {found[name]:,} of {args.requests:,}")
    if args.targets:
        name = f"generated requests that reach the server behind with an unpurified image, of {args.requests:,}"
        target = {"target": name, "wanted": "<= 0", "value": float(found["arrive unpurified"]), "n": args.requests}
        keep_targets(TARGETS, [Target(area="service", **target, **origin("gate.py", {}))])


if __name__ == "__main__":
    main()
