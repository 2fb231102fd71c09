"""The gate against what servers read: Tomcat's, Spring's and others' paths by their table, forms by their own parsers."""

import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.routing import Match, Route
from werkzeug.exceptions import NotFound
from werkzeug.routing import Map, RequestRedirect, Rule

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import gate as campaign
import server_readings as readings_of

from facesieve.service.gate_path import check_path, readings
from facesieve.service.problems import ProblemError

SERVERS = readings_of.servers()
PIECES = [*"/;.%\\", "//", "..", "%2f", "%5c", "%2e", "%3b", "%25", "%252f", "%253b", "%0a", "%00", "x", ";a=1", ".json", "?"]
PIECES += ["api", "v1", "recognition", "recognize", "represent", "verify", "REPRESENT", "%72epresent", "repres%65nt", "%ef%bc%8f"]
PATHS = st.lists(st.sampled_from(PIECES), max_size=12).map(lambda pieces: "/" + "".join(pieces))
PLAIN = PATHS.filter(lambda path: "?" not in path and "//" not in path[:2] and "\\" not in path)


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.name)
def test_the_table_reads_its_documented_examples(server):
    for raw, address in server.reads:
        assert (server.address(raw.encode()) or "") == address, raw


@given(PLAIN)
def test_the_table_reads_paths_as_werkzeug_does(path):
    """Its map of routes, asked with a path that is decoded once, as WSGI says; a redirect is followed."""
    [server] = [server for server in SERVERS if server.name == "Werkzeug"]
    decoded = readings_of.STEPS["decode"](path)
    routes = Map([Rule("/represent"), Rule("/api/v1/recognition/recognize")]).bind("host")
    for _ in range(3):
        try:
            found = routes.match(decoded, return_rule=True)[0].rule
        except RequestRedirect as redirect:
            decoded = readings_of.STEPS["decode"](redirect.new_url.removeprefix("http://host"))
            continue
        except NotFound:
            return
        # What its routes take, the table has; by a redirect it may take more.
        assert server.address(path.encode()) == found or decoded != readings_of.STEPS["decode"](path)
        return


@given(PLAIN)
def test_the_table_reads_paths_as_starlette_does(path):
    [server] = [server for server in SERVERS if server.name == "Starlette"]
    route = Route("/represent", lambda _: None, methods=["POST"])
    scope = {"type": "http", "method": "POST", "path": readings_of.STEPS["decode"](path)}
    if route.matches(scope)[0] == Match.FULL:
        assert server.address(path.encode()) == "/represent"


@pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.name)
@given(path=PATHS)
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_a_server_looks_up_is_among_the_gates_readings_or_refused(server, path):
    raw = path.partition("?")[0].encode()
    try:
        check_path(raw)
        found = readings(raw)
    except ProblemError:
        return
    address = server.address(raw)
    assert address is None or "/".join(part for part in address.lower().split("/") if part) in found


def test_no_photograph_of_two_thousand_requests_arrives_and_many_would_without_the_gate():
    found = campaign.count(2000, seed=7)
    assert found["arrive unpurified"] == 0
    assert found["would arrive without the gate"] > 600
    assert found["sent on"] > 300


# --- forms ------------------------------------------------------------------------------------------

PHOTOGRAPH = b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(range(40, 90))
LINE = b"--" + campaign.BOUNDARY.encode()
FORM_PIECES = [
    b"\r\n", b"\n", b"\r", b" ", b"\t", b"--", LINE, LINE + b"--", b"\r\n" + LINE + b"\r\n", b"\r\n\r\n", b"\n\n", PHOTOGRAPH,
    b'Content-Disposition: form-data; name="img"; filename="a"', b'Content-Disposition: form-data; name="note"', b"; filename=a",
    b"Content-Disposition: form-data;", b'name="file"', b"; name*=utf-8''img", b"Content-Type: image/jpeg", b"x", b'"', b"\\",
    b"Content-Transfer-Encoding: base64", b"Content-Type: multipart/mixed; boundary=y",
]  # fmt: skip
WHOLE = st.sampled_from([
    LINE + b"\r\n" + head + b"\r\n\r\n" + content + b"\r\n"
    for head in campaign.HEADS
    for content in (PHOTOGRAPH, b"x", b"x\n" + LINE + b"\n" + head + b"\n\n" + PHOTOGRAPH)
])  # fmt: skip
BODIES = st.lists(st.one_of(WHOLE, st.sampled_from(FORM_PIECES)), min_size=1, max_size=8).map(b"".join)


@given(BODIES, st.sampled_from(campaign.FORM_TYPES), st.booleans())
@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
def test_no_form_that_a_server_takes_a_photograph_from_passes_the_gate(body, kind, ended):
    """By Werkzeug's and Starlette's own parsers, Tomcat's documentation, and the most lenient reader of all."""
    body = body + (b"\r\n" + LINE + b"--\r\n" if ended else b"")
    asked = campaign.Request("POST", b"/represent", kind.replace("BOUNDARY", campaign.BOUNDARY), body, PHOTOGRAPH)
    sent = campaign.behind_the_gate(asked)
    assert sent is None or campaign.arrives_at(sent, SERVERS) == []


@pytest.mark.parametrize("name", readings_of.FORMS)
def test_each_reader_finds_the_photograph_of_a_plain_form(name):
    body = (
        LINE + b'\r\nContent-Disposition: form-data; name="img"; filename="a"\r\n\r\n' + PHOTOGRAPH + b"\r\n" + LINE + b"--\r\n"
    )
    kind = f"multipart/form-data; boundary={campaign.BOUNDARY}"
    assert list(readings_of.FORMS[name](kind, body))[:1] == [PHOTOGRAPH]
