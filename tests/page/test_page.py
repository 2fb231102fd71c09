"""The page in a real headless Chromium: drop, look, attack, and see the name change and come back."""

import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest

from facesieve.cli.ui import ui
from facesieve.errors import InputError, SettingError
from facesieve.hardware import choose_hardware
from facesieve.images import encode_photo, read_photo
from facesieve.page.actions import Actions
from facesieve.page.run import launched, own_folder
from facesieve.purify import preset
from facesieve.recognition.sface import load_sface
from facesieve.runtime.torch import TorchRuntime
from facesieve.shield import Shield
from white_prior import WhitePrior

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on the PATH (Debian: apt-get install chromium)")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


# Notes every host that the server looks up or connects to.
WATCHED = """
import os, sys
def note(event, args):
    if event == "socket.connect" and isinstance(args[1], tuple): host = args[1][0]
    elif event == "socket.getaddrinfo": host = args[0]
    else: return
    with open(os.environ["ASKED"], "a") as file: file.write(f"{host}\\n")
sys.addaudithook(note)
from facesieve.cli import main
main()
"""


@dataclass(frozen=True)
class Served:
    url: str
    process: subprocess.Popen
    folder: Path  # its temporary folder

    @property
    def kept(self):
        """The files of its uploads, results and galleries."""
        return [path for path in self.folder.glob("facesieve-page-*/**/*") if path.is_file()]

    @property
    def asked(self):
        """The hosts that it asked."""
        return set((self.folder / "asked").read_text().split())


def started(words, url, folder):
    process = subprocess.Popen(
        [sys.executable, "-c", WATCHED, *words],
        stdout=subprocess.PIPE,
        stderr=(folder / "log").open("w"),
        text=True,
        env={
            **os.environ, "TMPDIR": str(folder), "HOME": str(folder), "ASKED": str(folder / "asked"),
            "http_proxy": "http://127.0.0.1:9",  # nobody is there: the page finds itself without
        },
    )  # fmt: skip
    for _ in range(400):
        time.sleep(0.3)
        assert process.poll() is None, (folder / "log").read_text()
        try:
            if httpx.get(url, follow_redirects=True).status_code == 200:
                return Served(url, process, folder)
        except httpx.HTTPError:
            pass
    raise AssertionError("the page did not start")


@pytest.fixture(scope="module")
def served(sample_paths, tmp_path_factory):
    port, folder = free_port(), tmp_path_factory.mktemp("page")
    server = started(
        ["ui", "--port", str(port), "--samples", str(sample_paths[0].parent), "--preset", "robust"],
        f"http://127.0.0.1:{port}/",
        folder,
    )
    yield server
    server.process.terminate()
    server.process.wait(20)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def names_in(page):
    """The table's rows by what the face is called there: the person."""
    rows = [row.split("\t") for row in page.inner_text("#names").splitlines() if "\t" in row][1:]
    return {row[0].strip(): row[1].strip() for row in rows}


def said(page, pattern):
    page.wait_for_function(f"/{pattern}/.test(document.querySelector('#message').innerText)", timeout=120_000)
    return page.inner_text("#message")


@pytest.mark.browser
@needs_browser
def test_a_photograph_is_purified_attacked_and_named_again(browser, served, sample_paths):
    (probe,) = [path for path in sample_paths if path.name == "obama-3.jpg"]
    page = browser.new_page(viewport={"width": 390, "height": 844})
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(served.url)
    page.click("#purify")
    assert "no photograph chosen" in said(page, "photograph chosen")
    page.set_input_files("#photo input[type=file]", probe)
    page.wait_for_selector("#photo img")
    page.click("#purify")
    assert "Obama, before and after" in said(page, "Purified")
    page.wait_for_selector("#slider img")
    page.wait_for_function(
        "document.querySelector('#slider').getBoundingClientRect().top < innerHeight - 100"
    )  # it scrolls there
    page.wait_for_selector("#result img")
    assert names_in(page) == {"as it came": "Obama", "purified": "Obama"}

    assert "Tamper score 0." in page.inner_text("#tamper")
    page.wait_for_selector("#detail img")
    captions = page.locator("#sheet .caption-label").all_inner_texts()
    assert (captions[0], captions[-1], len(captions)) == ("input", "difference x 8", 4)
    assert page.locator("#sheet img").first.bounding_box()["width"] > 100  # and that on a phone

    page.click("#attack")
    assert "gives the name back" in said(page, "The attack")
    names = names_in(page)
    assert names["as it came"] == names["purified"] == "Obama"
    assert names["attacked"] != "Obama"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390  # nothing overflows on a phone

    with page.expect_download() as download:
        page.click("#result button[aria-label='Download'], #result a[download]")
    assert download.value.path().read_bytes().startswith(b"\x89PNG")
    hosts = {re.match(r"https?://([^/:]+)", url)[1] for url in asked if url.startswith("http")}
    assert hosts == {"127.0.0.1"}
    page.close()


@pytest.mark.browser
@needs_browser
def test_work_says_beside_its_button_how_far_it_is_and_can_be_stopped(browser, served, sample_paths):
    page = browser.new_page()
    page.goto(served.url)
    page.set_input_files("#photo input[type=file]", sample_paths[0])
    page.wait_for_selector("#photo img")
    page.click("#preset input")
    page.keyboard.press("Control+A")
    page.keyboard.type("fused")
    page.keyboard.press("Enter")
    page.click("#purify")
    page.wait_for_function("/evaluation \\d+ of 100/.test(document.querySelector('#purify-progress').innerText)", timeout=120_000)
    place, button = (page.locator(which).bounding_box() for which in ("#purify-progress", "#purify"))
    assert 0 <= place["y"] - button["y"] - button["height"] < 60
    page.click("#stop-purify")
    assert said(page, "stopped").strip() == "stopped"
    page.close()


@pytest.mark.browser
@needs_browser
def test_a_mistake_is_one_line_in_the_page(browser, served, tmp_path):
    from PIL import Image

    Image.new("RGB", (200, 200), "beige").save(tmp_path / "wall.png")
    (tmp_path / "broken_.jpg").write_bytes(b"not an image")
    (tmp_path / "huge.png").write_bytes(bytes(22_000_000))
    page = browser.new_page()
    page.goto(served.url)
    for name, line in (
        ("wall.png", "no face found; choose a photograph that shows one from the front, and larger"),
        (
            "broken_.jpg",
            "broken_.jpg: not a JPEG, PNG, WebP, BMP, TIFF, GIF, HEIC, AVIF or JPEG 2000 image; convert it to one of these",
        ),
    ):
        page.set_input_files("#photo input[type=file]", tmp_path / name)
        page.wait_for_selector("#photo img")
        page.click("#purify")
        assert said(page, name.split(".")[0] if name != "wall.png" else "face").strip() == line
        page.click("#photo button[aria-label='Remove Image']")
    page.set_input_files("#photo input[type=file]", tmp_path / "huge.png")
    page.wait_for_selector("text=exceed the maximum allowed size of 20.0 Mb")
    page.fill("#seed textarea, #seed input", "9" * 5000)
    page.click("#purify")
    assert "a whole number of at most 18 digits" in said(page, "seed")
    assert "Traceback" not in (served.folder / "log").read_text()
    page.close()


@pytest.mark.browser
@needs_browser
def test_the_service_has_the_page_beside_its_routes_and_stops_with_a_page_open(browser, tmp_path, sample_paths):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    server = started(["serve", "--page", "--port", str(port), "--log-level", "warning"], f"{url}/ui/", tmp_path)
    try:
        assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
        page = browser.new_page()
        page.goto(f"{url}/ui/")
        page.set_input_files("#photo input[type=file]", sample_paths[0])
        page.wait_for_selector("#photo img")
        page.click("#purify")
        assert "nobody in a gallery" in said(page, "Purified")
        assert server.kept
    finally:
        server.process.terminate()
        code = server.process.wait(30)
    page.close()
    assert code == 0
    assert server.kept == []


@pytest.mark.browser
def test_at_the_end_nothing_is_left_and_no_other_host_was_asked(served):
    assert served.kept
    served.process.terminate()
    said, _ = served.process.communicate(timeout=30)
    assert served.process.returncode == 0
    assert said == f"the page is at {served.url}; stop it with Ctrl-C\n"
    assert served.kept == []
    assert served.asked <= {"127.0.0.1", "localhost"}


def test_with_a_password_nothing_is_answered_without_it(sample_paths):
    chosen = preset("robust")
    shield = Shield(TorchRuntime(chosen, chosen.with_prior(WhitePrior()), 128, "0" * 64, choose_hardware("cpu", "fp32")))
    actions, port = Actions(load_sface(), shield, None), free_port()
    with own_folder(), launched(actions, sample_paths[:1], host="127.0.0.1", port=port, password="correct horse") as url:
        with httpx.Client(base_url=url) as client:
            for path in ("config", "gradio_api/info", f"gradio_api/file={sample_paths[0]}"):
                assert client.get(path).status_code == 401
            wrong = {"username": "facesieve", "password": "battery staple"}
            assert client.post("login", data=wrong).status_code == 400
            assert client.post("login", data={**wrong, "password": "correct horse"}).status_code == 200
            assert client.get("config").status_code == 200
            assert client.get(f"gradio_api/file={sample_paths[0]}").status_code == 200
            assert client.get(f"gradio_api/file={Path(__file__)}").status_code == 403  # a sample, and no other file
        with pytest.raises(InputError, match="cannot listen"), launched(actions, [], host="127.0.0.1", port=port, password=None):
            pass


def test_without_a_password_only_this_machines_names_are_answered(sample_paths):
    """A web page of elsewhere may make its own name resolve to 127.0.0.1."""
    chosen = preset("robust")
    shield = Shield(TorchRuntime(chosen, chosen.with_prior(WhitePrior()), 128, "0" * 64, choose_hardware("cpu", "fp32")))
    actions = Actions(load_sface(), shield, None)
    with own_folder(), launched(actions, sample_paths[:1], host="127.0.0.1", port=free_port(), password=None) as url:
        for host, status in (("evil.example", 421), ("localhost:1", 200), ("[::1]", 200), ("127.0.0.1", 200)):
            assert httpx.get(url, headers={"Host": host}).status_code == status


def asked_to_purify(client, photo):
    """What the page answers to a request that a program wrote, for a photograph or a folder: the message, and the pictures."""
    dependencies = client.get("config").json()["dependencies"]
    of_one, of_folder = [one["id"] for one in dependencies if len(one["inputs"]) == 4]
    number = of_folder if isinstance(photo, list) else of_one
    session = os.urandom(8).hex()
    data = {"data": [photo, "robust", "the preset's", "1"], "fn_index": number, "session_hash": session}
    client.post("gradio_api/queue/join", json=data).raise_for_status()
    with client.stream("GET", f"gradio_api/queue/data?session_hash={session}", timeout=60) as events:
        for line in events.iter_lines():
            event = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
            if event.get("msg") == "process_completed":
                return event["output"]["data"]
    raise AssertionError("no answer")


def test_the_page_reads_no_other_file_of_the_server(sample_paths, tmp_path):
    """Gradio checks the place of a photograph in its own form of a request, and lets any other form through."""
    chosen = preset("robust")
    shield = Shield(TorchRuntime(chosen, chosen.with_prior(WhitePrior()), 128, "0" * 64, choose_hardware("cpu", "fp32")))
    private = shutil.copy(sample_paths[1], tmp_path / "private.jpg")
    with (
        own_folder() as folder,
        launched(Actions(load_sface(), shield, None), sample_paths[:1], host="127.0.0.1", port=free_port(), password=None) as url,
        httpx.Client(base_url=url) as client,
    ):
        (folder / "link.jpg").symlink_to(private)
        up = os.path.relpath(private, folder)
        for place in (private, folder / up, folder / "link.jpg", sample_paths[1], sample_paths[0].parent / "../README.md"):
            said, *pictures = asked_to_purify(client, {"path": str(place)})
            assert "not a photograph that was given to this page" in said, place
            assert not any(pictures)
        with sample_paths[0].open("rb") as file:
            (uploaded,) = client.post("gradio_api/upload", files={"files": file}).json()
        for photo in ({"path": str(sample_paths[0])}, {"path": uploaded, "meta": {"_type": "gradio.FileData"}}):
            said, *pictures = asked_to_purify(client, photo)
            assert said.startswith("Purified")
            assert all(pictures)  # the tamper score, the slider, the table, the steps, secure and detail
        wall = encode_photo(np.full((200, 200, 3), 90, np.uint8), "png")
        (bare,) = client.post("gradio_api/upload", files={"files": ("wall.png", wall)}).json()
        said, archive = asked_to_purify(
            client, [{"path": each, "meta": {"_type": "gradio.FileData"}} for each in (uploaded, bare)]
        )
        assert said.startswith("1 of 2 photographs purified.\n- left out: wall")
        packed = zipfile.ZipFile(io.BytesIO(client.get(f"gradio_api/file={archive['path']}").content))
        assert packed.namelist() == ["001-biden-1.png"]
        assert read_photo(packed.read("001-biden-1.png")).shape == read_photo(sample_paths[0]).shape


def test_others_need_a_password(tmp_path, sample_paths):
    with pytest.raises(SettingError, match="can be reached by others"):
        ui(host="0.0.0.0", port=7860, password_file=None, gallery=None, samples=None, preset="robust")
    (tmp_path / "password").write_text("short\n")
    with pytest.raises(InputError, match="8 characters"):
        ui(host="0.0.0.0", port=7860, password_file=tmp_path / "password", gallery=None, samples=None, preset="robust")
    with pytest.raises(InputError, match="nothing: cannot be read"):
        ui(host="0.0.0.0", port=7860, password_file=tmp_path / "nothing", gallery=None, samples=None, preset="robust")
