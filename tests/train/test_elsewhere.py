"""Prior and purifier trained from a folder that was packed for another machine."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from facesieve.data.crops import wide_crops

ROOT = Path(__file__).parent.parent.parent
TINY = ["size=32", "batch=2", "warmup_steps=1", "precision=fp32", "held_out=3"]


def run(*words):
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "HOME": os.environ["HOME"]}
    return subprocess.run([sys.executable, *map(str, words)], env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def packed(sample_paths, tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "photos").mkdir()
    for path in sample_paths:
        for number in (1, 2):
            shutil.copy(path, folder / "photos" / f"{number}-{path.name}")
    (folder / "photos" / "DATA.toml").write_text('terms = "CC0"')
    script = ROOT / "experiments" / "train_elsewhere.py"
    words = [script, "pack", folder / "there", "--data", folder / "photos", "--megabytes", 45]
    done = run(*words)
    assert done.returncode == 0, done.stderr
    again = run(*words)
    assert (again.returncode, len(again.stderr.splitlines())) == (1, 1)
    return folder


def test_the_folder_is_small_and_has_what_a_training_needs(packed, tmp_path):
    there = packed / "there"
    names = {str(path.relative_to(there)) for path in there.rglob("*") if path.is_file()}
    assert sum(path.stat().st_size for path in there.rglob("*") if path.is_file()) < 45e6
    assert {"train_elsewhere.py", "NOTICE", "src/facesieve/cli/train.py", "faces/DATA.toml", "faces/00011.jpg"} <= names
    weights = {Path(name).name for name in names if name.endswith((".safetensors", ".onnx"))}
    assert {name.partition("-")[0] for name in weights} == {"sface", "dlib", "yunet"}
    shutil.copy(there / "landmarks.npz", tmp_path)
    here, sent = wide_crops(packed / "photos", tmp_path / "here"), wide_crops(there / "faces", tmp_path)
    assert here.shape == sent.shape
    assert np.abs(here.astype(float) - sent).mean() < 3  # levels: JPEG, and a cut of what is cut already


def test_faces_that_do_not_fit_are_one_line(packed, tmp_path):
    done = run(
        ROOT / "experiments" / "train_elsewhere.py", "pack", tmp_path / "small", "--data", packed / "photos", "--megabytes", 31
    )
    assert done.returncode == 1
    assert "12 faces do not fit into" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.packaging  # three processes
def test_it_trains_both_from_there(packed):
    there = packed / "there"
    prior = [*TINY, "channels=16,32", "attention_levels=0"]
    purifier = [*TINY, "attacked=1", "measured=1"]
    settings = [part for name, pairs in (("--prior", prior), ("--purifier", purifier)) for pair in pairs for part in (name, pair)]
    done = run(there / "train_elsewhere.py", "train", packed / "out", "--minutes", 0.01, 0.01, *settings)
    assert done.returncode == 0, done.stderr
    cards = {name: json.loads((packed / "out" / "result" / name / "card.json").read_text()) for name in ("prior", "purifier")}
    assert cards["purifier"]["start"]["sha256"] == cards["prior"]["sha256"]
    assert {card["terms"] for card in cards.values()} == {"CC0"}
    assert cards["prior"]["training"]["minutes"] == 0.01
    assert (packed / "out" / "result" / "purifier-held-out.csv").exists()
    broken = run(there / "train_elsewhere.py", "train", packed / "other", "--minutes", 0.01, 0, "--prior", "batch=0")
    assert broken.returncode == 2
    assert not (packed / "other" / "result").exists()
