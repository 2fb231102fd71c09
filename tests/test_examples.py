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


BLOCKED = """
import runpy, sys
for name in ("torch", "diffusers", "scipy"):
    sys.modules[name] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_without_pytorch_the_quick_preset_is_shown_and_the_rest_is_named(tmp_path):
    for name, said in (
        ("demo.py", "the published two stages are left out"),
        ("wrong_name.py", "fooling a recogniser is left out"),
    ):
        options = ["--photos", "2"] if name == "demo.py" else []
        command = [sys.executable, "-c", BLOCKED, EXAMPLES / name, "--output", tmp_path / "demo", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        (line,) = [line for line in done.stdout.splitlines() if said in line]
        assert "pip install 'facesieve[torch]'" in line
    assert len(list((tmp_path / "demo").glob("*.png"))) == 3  # two photographs, and the picture of the steps
