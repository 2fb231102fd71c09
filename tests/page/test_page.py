"""The page in a real headless Chromium: drop, look, attack, and see the name change and come back."""

import re
import shutil
import socket
import subprocess
import sys
import time

import httpx
import pytest

from facesieve.cli.ui import ui
from facesieve.errors import InputError, SettingError

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium on the PATH (Debian: apt-get install chromium)")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def started(words, address, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "facesieve.cli", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": "/usr/bin:/bin", "GRADIO_TEMP_DIR": str(tmp_path), "HOME": str(tmp_path), "OMP_NUM_THREADS": "2"},
    )
    for _ in range(400):
        time.sleep(0.3)
        assert process.poll() is None, process.stderr.read()
        try:
            if httpx.get(address, follow_redirects=True).status_code == 200:
                return process
        except httpx.HTTPError:
            pass
    raise AssertionError("the page did not start")


@pytest.fixture(scope="module")
def address(sample_paths, tmp_path_factory):
    port, folder = free_port(), tmp_path_factory.mktemp("page")
    url = f"http://127.0.0.1:{port}/"
    process = started(["ui", "--port", str(port), "--samples", str(sample_paths[0].parent)], url, folder)
    yield url
    process.terminate()
    process.wait(20)


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


@needs_browser
def test_a_photograph_is_purified_attacked_and_named_again(browser, address, sample_paths):
    (probe,) = [path for path in sample_paths if path.name == "obama-3.jpg"]
    page = browser.new_page(viewport={"width": 390, "height": 844})
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.click("#purify")
    assert "no photograph chosen" in said(page, "photograph chosen")
    page.set_input_files("#photo input[type=file]", probe)
    page.wait_for_selector("#photo img")
    page.click("#purify")
    assert "the same before and after" in said(page, "Purified")
    page.wait_for_selector("#slider img")
    page.wait_for_selector("#result img")
    assert names_in(page) == {"as it came": "Obama", "purified": "Obama"}

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


@needs_browser
def test_a_mistake_is_one_line_in_the_page(browser, address, sample_paths, tmp_path):
    from PIL import Image

    empty = tmp_path / "wall.png"
    Image.new("RGB", (200, 200), "beige").save(empty)
    page = browser.new_page()
    page.goto(address)
    page.set_input_files("#photo input[type=file]", empty)
    page.wait_for_selector("#photo img")
    page.click("#purify")
    text = said(page, "face")
    assert "no face found" in text
    assert "\n" not in text.strip()
    page.fill("#seed textarea, #seed input", "seven")
    page.click("#purify")
    assert "a whole number" in said(page, "seed")
    page.close()


@needs_browser
def test_the_service_has_the_page_beside_its_routes(browser, tmp_path):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    process = started(["serve", "--page", "--port", str(port), "--log-level", "warning"], f"{url}/ui/", tmp_path)
    try:
        assert httpx.get(f"{url}/healthz").json() == {"status": "ok"}
        page = browser.new_page()
        page.goto(f"{url}/ui/")
        page.click("#purify")
        assert "no photograph chosen" in said(page, "photograph chosen")
        page.close()
    finally:
        process.terminate()
        assert process.wait(30) == 0


def test_others_need_a_password(tmp_path, sample_paths):
    with pytest.raises(SettingError, match="can be reached by others"):
        ui(host="0.0.0.0", port=7860, password_file=None, gallery=None, samples=None, preset="fast")
    (tmp_path / "password").write_text("short\n")
    with pytest.raises(InputError, match="8 characters"):
        ui(host="0.0.0.0", port=7860, password_file=tmp_path / "password", gallery=None, samples=None, preset="fast")
    with pytest.raises(InputError, match="nothing: cannot be read"):
        ui(host="0.0.0.0", port=7860, password_file=tmp_path / "nothing", gallery=None, samples=None, preset="fast")
