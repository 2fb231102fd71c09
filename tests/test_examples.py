"""The examples run as they stand."""

import subprocess
import sys
from pathlib import Path

from facesieve.images import read_photo

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_the_demo_purifies_and_names_its_picture(tmp_path):
    command = [sys.executable, EXAMPLES / "demo.py", "--output", tmp_path / "demo", "--photos", "2", "--paper-steps", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    picture = Path(done.stdout.strip().splitlines()[-1].split(": ")[1])
    assert read_photo(picture).shape[1] > 8 * 192  # input, two stages with what they began from, difference, fast twice
    assert len(list((tmp_path / "demo").glob("*.png"))) == 3
    assert "s a face" in done.stdout
