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
    assert read_photo(picture).shape[1] > 8 * 192  # input, two stages with what they began from, difference, the default twice
    assert len(list((tmp_path / "demo").glob("*.png"))) == 3
    assert "s a face" in done.stdout


def test_the_recogniser_is_fooled_and_the_shield_brings_the_name_back(tmp_path):
    command = [sys.executable, EXAMPLES / "wrong_name.py", "--output", tmp_path / "demo"]
    for _ in range(2):  # the second time over what the first left
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    named = {
        line.split(" is named ")[0].strip(): line.split(" is named ")[1].split()[0]
        for line in done.stdout.splitlines()
        if " is named " in line
    }
    assert named.keys() == {"the probe", "perturbed", "by gentle", "by robust"}
    assert (named["the probe"], named["perturbed"], named["by robust"]) == ("Obama", "Hopper", "Obama")
    assert read_photo(tmp_path / "demo" / "wrong-name.png").shape[1] > 5 * 256
    clean, attacked = (read_photo(tmp_path / "demo" / f"{name}.png").astype(int) for name in ("probe", "attacked"))
    assert 0 < abs(attacked - clean).max() <= 4  # eight-bit levels: what was claimed
