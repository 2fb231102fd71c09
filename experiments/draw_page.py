"""Draw docs/pictures/page-*.png: the page after an attack, at a desktop's width and at a phone's.

    python experiments/draw_page.py [--preset NAME] [--photo FILE] [--out FOLDER] [--only purify]

It needs Chromium on the PATH, and the extras ``page`` and ``dev``. Another photograph, or no attack, is for the eye.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
SAMPLES, PICTURES = ROOT / "samples", ROOT / "docs" / "pictures"
WIDTHS = {"wide": 1280, "phone": 390}  # pixels


def shots(browser: Any, url: str, photo: Path, out: Path, attack: bool) -> None:
    """The page at both widths, from its top to its end."""
    for name, width in WIDTHS.items():
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.goto(url)
        page.set_input_files("#photo input[type=file]", photo)
        page.wait_for_selector("#photo img")
        page.click("#attack" if attack else "#purify")
        page.wait_for_function("/attack|urified/.test(document.querySelector('#message').innerText)", timeout=300_000)
        page.wait_for_selector("#slider img")
        page.wait_for_timeout(1500)  # until it has scrolled
        for y in range(0, page.evaluate("document.documentElement.scrollHeight"), 400):  # pictures come when they are looked at
            page.evaluate(f"scrollTo(0, {y})")
            page.wait_for_timeout(150)
        page.wait_for_function("[...document.images].every(image => image.complete)")
        page.screenshot(path=out / f"page-{name}.png", full_page=True)
        page.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photo", type=Path, default=SAMPLES / "obama-3.jpg")
    parser.add_argument("--out", type=Path, default=PICTURES)
    parser.add_argument("--only", choices=["purify"], help="no attack")
    parser.add_argument("--preset", default="robust", help="one that withstands the page's attack")
    args = parser.parse_args()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    words = [sys.executable, "-m", "facesieve.cli", "ui", "--port", str(port), "--samples", str(SAMPLES), "--preset", args.preset]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as served:
        assert served.stdout is not None
        served.stdout.readline()  # once it can be reached
        try:
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
                shots(browser, f"http://127.0.0.1:{port}/", args.photo, args.out, args.only is None)
        finally:
            served.terminate()


if __name__ == "__main__":
    main()
