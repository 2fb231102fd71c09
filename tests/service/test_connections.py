"""What a connection may cost: slow clients in both directions, large heads, more connections than are taken."""

import socket
import time
from contextlib import ExitStack

import httpx
import pytest
from serving import Gate, gated_handlers, service, until

HEAD = b"POST /v1/purify HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/jpeg\r\n"


@pytest.fixture(scope="module")
def url():
    with service(gated_handlers(Gate(), head_timeout_s=1, body_timeout_s=1, send_timeout_s=1, max_connections=20)) as url:
        yield url


def connected(url):
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=10)


def rest(connection):
    """All that still comes, until the server closes."""
    found = b""
    try:
        while some := connection.recv(65536):
            found += some
    except ConnectionResetError:
        pass
    return found


def dribble(connection, sent):
    """A byte or two at a time for ten seconds, unless the server ends it."""
    for _ in range(100):
        connection.sendall(sent)
        time.sleep(0.1)


@pytest.mark.parametrize("sent", [b"", b"GET /healthz HT", HEAD, b"\r\n"])
def test_a_head_that_does_not_come_ends_the_connection(url, sent):
    begun = time.monotonic()
    with connected(url) as half:
        half.sendall(sent)
        assert rest(half).startswith(b"HTTP/1.1 408 ")
    assert 0.5 < time.monotonic() - begun < 5


def test_a_head_that_dribbles_ends_the_connection_too(url):
    begun = time.monotonic()
    with connected(url) as slow, pytest.raises(ConnectionError):
        dribble(slow, b"a")
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("sent", [b"\r\n", b"G"])
def test_what_dribbles_between_requests_ends_the_connection(url, sent):
    begun = time.monotonic()
    with connected(url) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert slow.recv(15) == b"HTTP/1.1 200 OK"
        with pytest.raises(ConnectionError):
            dribble(slow, sent)
    assert time.monotonic() - begun < 6


def test_a_body_that_nobody_reads_any_more_has_its_time_too(url):
    begun = time.monotonic()
    with connected(url) as slow:
        slow.sendall(HEAD.replace(b"/v1/purify", b"/nowhere") + b"Content-Length: 1000\r\n\r\n")
        with pytest.raises(ConnectionError):
            dribble(slow, b"x")
    assert time.monotonic() - begun < 6


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"".join(b"x-%d: y\r\n" % n for n in range(200)) + b"\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nx: " + b"y" * 40_000 + b"\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nx: " + b"y" * 40_000,  # and it goes on
        b"GET /healthz?" + b"y" * 40_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
def test_a_head_that_is_too_large_is_431(url, head):
    with connected(url) as large:
        large.sendall(head)
        assert rest(large).startswith(b"HTTP/1.1 431 ")


def test_a_head_of_the_usual_size_is_taken(url):
    headers = {f"x-{n}": "y" * 300 for n in range(80)}
    assert httpx.get(url + "/healthz", headers=headers).status_code == 200


def test_a_header_behind_the_body_is_none_of_the_heads(url):
    with connected(url) as trailing:
        chunked = b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\nx\r\n0\r\nX-Request-ID: trailer\r\n\r\n"
        trailing.sendall(HEAD + chunked)
        answer = rest(trailing)
    assert answer.startswith(b"HTTP/1.1 422 ")
    assert b"trailer" not in answer


def test_requests_that_wait_behind_one_another_are_answered_and_no_more_than_a_few(url):
    one = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connected(url) as several:
        several.sendall(5 * one)
        until(lambda: True)
        assert rest(several).count(b"HTTP/1.1 200 OK") == 5
    with connected(url) as many:
        many.sendall(1000 * one)
        assert rest(many).count(b"HTTP/1.1 200 OK") < 20


def test_who_takes_nothing_of_an_answer_is_let_go(url):
    with connected(url) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(4000):  # the answers fill the buffers of both sides
            try:
                slow.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
            except (ConnectionError, TimeoutError):
                break
            time.sleep(0.002)
        else:
            pytest.fail("the connection lives")
    assert httpx.get(url + "/healthz").status_code == 200


def test_half_open_connections_do_not_keep_others_out(url):
    with ExitStack() as open_ones:
        for _ in range(60):  # three times as many as are taken
            open_ones.enter_context(connected(url)).sendall(b"GET /healthz HTTP/1.1\r\n")
        begun = time.monotonic()
        assert httpx.get(url + "/healthz").status_code == 200
        assert time.monotonic() - begun < 1


def test_more_connections_with_requests_than_are_taken_are_503(collins):
    gate = Gate(opened=False)
    with service(gated_handlers(gate, max_connections=3)) as url, ExitStack() as busy:
        for _ in range(3):
            one = busy.enter_context(connected(url))
            one.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(collins) + collins)
        time.sleep(1)
        answer = httpx.get(url + "/healthz")
        assert answer.status_code == 503
        assert answer.json()["detail"] == "too many connections"
        assert answer.headers["retry-after"] == "1"
        gate.open.set()
