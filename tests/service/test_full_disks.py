"""A service on a full disk: enrolments are refused in full, and can be repeated; a log that cannot be written stops nobody."""

import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from serving import Gate, gated_handlers, service

from facesieve.client import BusyError, Client
from facesieve.galleries import open_gallery

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="it has no limit on the size of files")


@contextmanager
def no_room():
    """Files may hold so few bytes that writing fails in the middle, as on a full disk."""
    import resource  # not on Windows

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("scheme", ["", "lancedb://"], ids=["folder", "lance"])
def test_an_enrolment_without_room_leaves_nothing_and_can_be_repeated(tmp_path, collins, scheme):
    location = f"{scheme}{tmp_path / 'gallery'}"
    with service(gated_handlers(Gate(), gallery=location)) as url, Client(url) as client:
        client.enrol("Ada", [collins])
        with no_room():
            for act in (lambda: client.enrol("Bob", [collins]), lambda: client.remove("Ada")):
                with pytest.raises(BusyError, match="does not work now") as caught:
                    act()
                assert (caught.value.status, caught.value.kind) == (503, "gallery")
            assert client.identify(collins)[0]["matches"][0]["person"] == "Ada"  # what is only read goes on
        client.enrol("Bob", [collins])
    gallery = open_gallery(location)
    people = {entry.person: entry.templates for entry in gallery.people()}
    gallery.close()
    assert sorted(people) == ["Ada", "Bob"]
    assert people["Ada"] == people["Bob"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux alone has a device that is full")
def test_a_log_that_cannot_be_written_stops_nobody(collins):
    """The port is found by what the process listens on, since it cannot say so."""
    script = "from facesieve.cli.serve import serve_app; serve_app()"
    psutil = pytest.importorskip("psutil")
    with Path("/dev/full").open("w") as full:
        process = subprocess.Popen([sys.executable, "-c", script, "--port", "0"], stderr=full)
    try:
        url = listening(psutil.Process(process.pid))
        answer = httpx.post(f"{url}/v1/purify", files={"file": collins}, timeout=120, trust_env=False)
        assert answer.status_code == 200
        process.terminate()
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def listening(process):
    """The address of a service once it answers."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        assert process.is_running()
        for connection in process.net_connections("tcp"):
            url = f"http://127.0.0.1:{connection.laddr.port}"
            try:
                if httpx.get(f"{url}/readyz", trust_env=False, timeout=30).status_code == 200:
                    return url
            except httpx.HTTPError:
                pass
        time.sleep(0.2)
    raise AssertionError("it does not listen")
