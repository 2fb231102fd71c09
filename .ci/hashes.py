"""Write ``constraints-hashes.txt``: the pins of ``constraints.txt`` with the hash of the file that pip takes here for each.

    python .ci/hashes.py

For Linux on x86-64 and Python 3.11, which is what CI runs in whole; `make setup HASHED=1` installs from it, and refuses a
file of any other content. PyTorch is left out: its build for processors alone comes from an index of its own. Nothing is
installed, and pip asks the index that it is configured with.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEAD = "# The pins of constraints.txt but PyTorch, for Linux on x86-64 and Python 3.11. Made by `python .ci/hashes.py`.\n"


def pins() -> list[str]:
    """Those that are to be hashed."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith(("#", "torch=="))]


def main() -> None:
    """Ask pip, and write."""
    with tempfile.TemporaryDirectory() as folder:
        wanted, found = Path(folder) / "pins.txt", Path(folder) / "report.json"
        wanted.write_text("\n".join(pins()) + "\n")
        words = ["--quiet", "--dry-run", "--ignore-installed", "--no-deps", "-r", str(wanted), "--report", str(found)]
        subprocess.run([sys.executable, "-m", "pip", "install", *words], check=True)
        write(json.loads(found.read_text()))


def write(report: dict[str, object]) -> None:
    """The file, of pip's report."""
    hashes = {}
    for one in report["install"]:  # type: ignore[attr-defined]
        name = one["metadata"]["name"].lower().replace("_", "-").replace(".", "-")
        hashes[name, one["metadata"]["version"]] = one["download_info"]["archive_info"]["hashes"]["sha256"]
    lines = [f"{name}=={version} --hash=sha256:{sha256}\n" for (name, version), sha256 in sorted(hashes.items())]
    (ROOT / "constraints-hashes.txt").write_text(HEAD + "".join(lines))


if __name__ == "__main__":
    main()
