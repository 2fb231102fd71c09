"""What one client can take from the others: callers at once, refused photographs, bodies of many pieces, hard photographs.

    python benchmarks/availability.py [--targets]
    python benchmarks/availability.py --only description [--targets]

Everything runs on this machine over loopback, against servers of their own processes with their defaults. Each of the two takes a
few minutes, on a machine that does nothing else. ``--targets`` records the figures in ``docs/results/targets.json``.

- Callers at once: so many send one sample photograph at the same moment; how many have it back.
- Memory: the server's resident memory after 200 refusals over that after 20: photographs of 4 megapixels that are said to be
  aligned crops and are not square, and small ones without a face, in turn. Both are refused after they were decoded.
- Stops: the longest time between a question to ``/healthz`` and its answer while one body of 20 MB is sent, over all kinds.
- Description: what schemathesis finds with all its checks on ``/openapi.json``. What an image shows and what a name may hold is
  beyond that document, so 422 is an answer to what it allows, too.
- Behind hard ones: 40 photographs of 24 megapixels without a face, and a second later a small one with a face; the time until
  that has its answer, whatever it is.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
from load import HERE, RESULTS, memory, server
from results import origin

from facesieve.images import encode_photo
from facesieve.report.targets import Target, keep_targets
from facesieve.service.keys import SCOPES, add_key
from facesieve.service.settings import Settings

LARGEST = 20_000_000
IMAGE = {"Content-Type": "image/jpeg"}

EXPECTED = """
[checks.positive_data_acceptance]
expected-statuses = ["2xx", 401, 403, 404, 409, 422, "5xx"]
"""
AUTH = """
[auth.openapi.HTTPBearer]
bearer = "{key}"
[auth.openapi.APIKeyHeader]
api_key = "{key}"
"""

Body = tuple[bytes, str]  # and its content type
Figure = tuple[str, str, float, int]


def blank(height: int, width: int) -> bytes:
    """A photograph without a face that is not all of one colour."""
    slope = np.linspace(0, 255, width, dtype=np.uint8)
    return encode_photo(np.ascontiguousarray(np.broadcast_to(slope[None, :, None], (height, width, 3))), "jpeg")


def post(url: str, photo: bytes, query: str = "") -> int:
    """The status of the answer; 0 for none."""
    try:
        return httpx.post(f"{url}/v1/purify{query}", content=photo, headers=IMAGE, timeout=300, trust_env=False).status_code
    except httpx.HTTPError:
        return 0


def at_once(url: str, photo: bytes, callers: int) -> int:
    """How many of so many callers have their photograph back."""
    with ThreadPoolExecutor(callers) as threads:
        return list(threads.map(lambda _: post(url, photo), range(callers))).count(200)


def memory_of_refusals(url: str, pid: int, few: int, many: int) -> float:
    """Resident memory after ``many`` refusals over that after ``few``."""
    photographs, sizes = [(blank(1600, 2500), "?aligned=true"), (blank(300, 300), "")], []
    for number in range(1, many + 1):
        photo, query = photographs[number % 2]
        if post(url, photo, query) != 422:
            raise SystemExit("a photograph that cannot be used was not refused as such")
        if number in {few, many}:
            sizes.append(memory(pid))
    return sizes[1] / sizes[0]


# --- bodies ---------------------------------------------------------------------------------------


def bodies() -> dict[str, Body]:
    """Bodies of 20 MB, of every kind that has many pieces, and three that hold an image."""
    json, form, room = "application/json", "multipart/form-data; boundary=b", LARGEST - 100
    noise = np.random.default_rng(0).bytes(room // 4 * 3)
    part = b'--b\r\nContent-Disposition: form-data; name="%06d"\r\n\r\n\r\n'
    headers = b'--b\r\nContent-Disposition: form-data; name="file"\r\n' + b"a: b\r\n" * (room // 6)

    def in_text(piece: bytes) -> Body:
        return b'{"file": "' + piece * (room // len(piece)) + b'"}', json

    return {
        "empty parts": (b"".join(part % n for n in range(room // len(part % 0))) + b"--b--\r\n", form),
        "headers of a part": (headers + b"\r\n\r\n--b--\r\n", form),
        "line ends in a part": (headers[:53] + b"\r\n" + b"\r\n--" * (room // 4) + b"\r\n--b--\r\n", form),
        "members": (b"{" + b",".join(b'"%07d":0' % n for n in range(room // 12)) + b"}", json),
        "values": (b'{"file": [' + b"1," * (room // 2) + b"1]}", json),
        "lists in lists": (b"[" * room, json),
        "escapes": in_text(b"\\u0041"),
        "slashes": in_text(b"A" * 30 + b"\\/"),
        "blanks": in_text(b" "),
        "other letters": in_text("é".encode()),
        "digits": (b'{"file": ' + b"1" * room + b"}", json),
        "base64": (b'{"file": "' + base64.b64encode(noise) + b'"}', json),
        "bytes": (noise, "image/jpeg"),
    }


def longest_stop(url: str, send: Callable[[], object]) -> float:
    """Seconds of the slowest health check while ``send`` runs."""
    done, slowest = threading.Event(), [0.0]

    def ask() -> None:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)
        while not done.is_set():
            begun = time.perf_counter()
            connection.request("GET", "/healthz")
            connection.getresponse().read()
            slowest[0] = max(slowest[0], time.perf_counter() - begun)
            time.sleep(0.005)

    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.3)
    send()
    done.set()
    asking.join()
    return slowest[0]


def in_chunks(url: str) -> bytes:
    """Send a body in chunks of one byte; the beginning of the answer."""
    host, _, port = urlsplit(url).netloc.partition(":")
    head = f"POST /v1/purify HTTP/1.1\r\nHost: {host}\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=120) as connection:
        connection.sendall(head.encode() + b"1\r\nx\r\n" * (LARGEST // 6) + b"0\r\n\r\n")
        return connection.recv(100)


def stops(url: str) -> dict[str, float]:
    """The longest stop under each kind of body."""

    def sender(body: Body) -> Callable[[], object]:
        return lambda: httpx.post(f"{url}/v1/purify", content=body[0], headers={"Content-Type": body[1]}, timeout=120)

    found = {name: longest_stop(url, sender(body)) for name, body in bodies().items()}
    return {**found, "chunks of one byte": longest_stop(url, lambda: in_chunks(url))}


# --- hard photographs -----------------------------------------------------------------------------


def wait_behind(url: str, photo: bytes, hard_ones: int) -> tuple[int, float]:
    """The status of a small photograph's answer, and the seconds until it, behind hard ones."""
    hard = blank(4000, 6000)
    with ThreadPoolExecutor(hard_ones) as threads:
        rest = [threads.submit(post, url, hard) for _ in range(hard_ones)]
        time.sleep(1)
        begun = time.perf_counter()
        status = post(url, photo)
        seconds = time.perf_counter() - begun
        print(f"the hard ones: {sorted({one.result() for one in rest})}")
    return status, seconds


def of_callers(count: int) -> Figure:
    """One figure: its name, what is wanted, what is measured, how often."""
    with server({}) as (url, _):
        return f"{count} callers at once, answered", f">= {count}", at_once(url, sample(), count), count


def of_memory() -> Figure:
    """As ``of_callers``."""
    with server({}) as (url, pid):
        return "memory after 200 refusals over after 20", "<= 1.05", memory_of_refusals(url, pid, 20, 200), 200


def of_stops() -> Figure:
    """As ``of_callers``."""
    with server({}) as (url, _):
        slowest = stops(url)
    print({name: round(seconds, 3) for name, seconds in slowest.items()}, flush=True)
    return "longest stop of /healthz under a body of 20 MB, s", "<= 0.1", max(slowest.values()), len(slowest)


def of_hard_ones() -> Figure:
    """As ``of_callers``."""
    with server({}) as (url, _):
        status, seconds = wait_behind(url, sample(), 40)
    print(f"behind 40 hard ones: {status}", flush=True)
    return "longest wait behind 40 hard photographs, s", f"<= {Settings().deadline_s:g}", seconds, 1


def of_description() -> Figure:
    """As ``of_callers``; with and without keys."""
    failures = generated = 0
    for with_keys in (False, True):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            key = add_key(folder / "keys.json", "all", SCOPES) if with_keys else ""
            settings = {"gallery": str(folder / "gallery"), **({"keys": str(folder / "keys.json")} if with_keys else {})}
            (folder / "schemathesis.toml").write_text(EXPECTED + (AUTH.format(key=key) if with_keys else ""))
            with server(settings) as (url, _):
                words = ["run", f"{url}/openapi.json", "--checks", "all", "--max-examples", "50", "--seed", "1"]
                command = [sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()", *words]
                done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900, check=False)
        told = re.search(r"(\d+) generated(?:, \d+ found (\d+) unique failures?)?", done.stdout)
        if told is None or done.returncode not in {0, 1}:
            raise SystemExit(done.stdout[-3000:] + done.stderr[-1000:])
        generated, failures = generated + int(told[1]), failures + int(told[2] or 0)
    return "failures of schemathesis, all checks, with and without keys", "<= 0", failures, generated


PARTS: dict[str, Callable[[], Figure]] = {
    "eight": lambda: of_callers(8),
    "sixteen": lambda: of_callers(16),
    "memory": of_memory,
    "stops": of_stops,
    "hard": of_hard_ones,
    "description": of_description,
}


def sample() -> bytes:
    """A photograph with one face."""
    return (HERE / "samples" / "collins-1.jpg").read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=[part for part in PARTS if part != "description"])
    parser.add_argument("--targets", action="store_true", help="record the figures")
    args = parser.parse_args()
    about, rows = {"area": "service", **origin("availability.py", {})}, []
    for part in args.only:
        name, wanted, value, count = PARTS[part]()
        print(f"{name}: {value:.3g} (wanted {wanted})", flush=True)
        rows.append(Target(target=name, wanted=wanted, value=float(f"{value:.4g}"), n=count, **about))
    if args.targets:
        keep_targets(RESULTS / "targets.json", rows)


if __name__ == "__main__":
    main()
