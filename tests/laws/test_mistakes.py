"""Each deliberate mistake on the command line: one clear line that names it, an exit code that says so, no traceback."""

import re
import shutil

import numpy as np
import pytest
from mistakes import MISTAKES

from facesieve.faces import Detector, FaceCrops
from facesieve.galleries import create_gallery
from facesieve.identification import CROP, Identifier
from facesieve.images import read_photo, write_photo
from facesieve.recognition.sface import load_sface
from shard_making import noise, write_tar

PROFILES = {
    "NAN": 'preset = "robust"\n[settings]\nsigma_y = nan\n',
    "ENDLESS": 'preset = "robust"\n[settings]\nsamples = 1e9\n',
    "ODD": 'preset = "robust"\n[settings]\noperator = "nonsense"\n',
    "STRANGE": 'preset = "robust"\n[settings]\noperator = 5\n',
    "LOOSE": 'colour = "red"\n',
    "DEEP": "a = " + 5000 * "[" + 5000 * "]",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory, sample_paths, sample_photos):
    """What the words in capitals stand for."""
    root = tmp_path_factory.mktemp("mistakes")
    words = {"GONE": root / "GONE", "BLANK": "  ", "TURNED": "A\u202eda", "TEXT": root / "TEXT", "SAME": root / "other" / "A.jpg"}
    for name in ("OWN", "EMPTY", "JUNK", "PEOPLE/ada", "PEOPLE/bob", "other"):
        (root / name).mkdir(parents=True)
    words |= {name: root / name for name in ("OWN", "EMPTY", "JUNK", "PEOPLE")}
    for word, sample in zip(("A", "A2", "B"), sample_paths, strict=False):
        words[word] = shutil.copy(sample, root / f"{word}.jpg")
    shutil.copy(sample_paths[3], words["SAME"])
    for number, person in enumerate(("ada", "ada", "bob", "bob")):
        shutil.copy(sample_paths[number], root / "PEOPLE" / person / f"{number}.jpg")
    for name, text in {"TEXT": "words", "TEXT.toml": "words", "JUNK/config.json": "[]"}.items():
        (root / name).write_text(text)
    for name, text in PROFILES.items():
        words[name] = root / f"{name}.toml"
        words[name].write_text(text)
    halves = [photo[:400, :400] for photo in list(sample_photos.values())[:2]]
    height = min(len(half) for half in halves)
    pictures = {"NOBODY": np.full((300, 300, 3), 77, np.uint8), "PAIR": np.hstack([half[:height] for half in halves])}
    for name, photo in {**pictures, "PNG": halves[0]}.items():
        words[name] = root / ("OWN" if name == "PNG" else "") / f"{name}.png"
        write_photo(words[name], photo)
    words["SHARD"] = write_tar(root / "SHARD.tar", [("1.jpg", noise(1))])
    return {**words, "GALLERY": gallery_of_ada(root / "GALLERY", sample_paths[0])}


def gallery_of_ada(where, path):
    embedder, photo = load_sface(), read_photo(path)
    gallery = create_gallery(str(where), embedder=embedder.name, dimensions=embedder.dimensions)
    crops = FaceCrops.cut(photo, Detector().detect(photo), CROP)
    gallery.enrol("Ada", Identifier(embedder).templates(crops))
    gallery.close()
    return where


@pytest.mark.parametrize(("line", "said"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_is_one_line(line, said, made, tmp_path, facesieve, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = {**made, "OUT": tmp_path / "OUT"}
    before = {path: path.read_bytes() for path in words["OWN"].iterdir()}
    done = facesieve(*[re.sub(r"\b[A-Z]+2?\b", lambda found: str(words[found[0]]), word) for word in line.split(" ")])
    lines = [text for text in done.err.splitlines() if text.strip()]
    lines = lines[1:] if re.fullmatch("1 failed.*:", lines[0]) else lines
    assert done.code in {1, 2}, done
    assert len(lines) == 1, done.err
    assert said in lines[0]
    assert "Traceback" not in done.err + done.out
    assert done.code == 1 or not (tmp_path / "OUT").exists()
    assert {path: path.read_bytes() for path in words["OWN"].iterdir()} == before


def test_there_are_a_hundred_mistakes():
    assert len({line for line, _ in MISTAKES}) >= 100
