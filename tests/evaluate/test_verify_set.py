"""`verify-set` on small sets whose answer is known: aligned crops of flat colours, and photographs of the samples."""

import json
import pickle
import shutil
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from facesieve import cli
from facesieve.data.pair_sets import open_pairs
from facesieve.errors import InputError
from facesieve.evaluate.verify_set import verify_set
from facesieve.faces import TEMPLATE, Face
from facesieve.images import encode_photo, write_photo
from facesieve.shield import load_shield


class Colours:
    """The direction of the mean colour, and of the left half's red: the mirror image has another."""

    name, dimensions, people = "colours", 4, ()

    def rows(self, crops):
        means = np.concatenate([crops.mean((2, 3)), crops[:, :1, :, : crops.shape[3] // 2].mean((2, 3))], 1) + 1e-3
        return (means / np.linalg.norm(means, axis=1, keepdims=True)).astype(np.float32)


def flat(colour, right=None):
    photo = np.full((112, 112, 3), colour, np.uint8)
    if right is not None:
        photo[:, 56:] = right
    return encode_photo(photo, "png")


RED, ALSO_RED = flat((200, 10, 10)), flat((180, 12, 8))


def colours_file(path, wrong=0, broken=(), count=40):
    """``count`` pairs, of one colour and of two in turn; so many of the last are labelled the other way round."""
    images, same = [], []
    for number in range(count):
        images += [RED, ALSO_RED if number % 2 == 0 else flat((10 + number, 200, 10))]
        same.append(number % 2 == 0)
    for number in range(wrong):
        same[-1 - number] ^= True
    for number in broken:
        images[number] = b"no image"
    path.write_bytes(pickle.dumps((images, same)))
    return path


def test_a_set_that_is_told_apart(tmp_path):
    found = verify_set(open_pairs(colours_file(tmp_path / "lfw.bin")), Colours(), fars=(0.1, 0.001))
    (alone,) = found.results
    assert alone.shield == "none"
    assert alone.folds.mean == 1
    assert alone.eer == 0
    assert alone.tar == {0.1: 1.0, 0.001: None}  # 20 impostors cannot resolve a thousandth
    assert not found.unused


def test_labels_the_other_way_round_cost_what_they_are(tmp_path):
    found = verify_set(open_pairs(colours_file(tmp_path / "lfw.bin", wrong=2)), Colours())
    assert found.results[0].folds.accuracies == (1,) * 9 + (0.5,)


def test_behind_a_shield_and_with_progress(tmp_path):
    told = []
    pairs, shield = open_pairs(colours_file(tmp_path / "lfw.bin", count=20)), load_shield("gentle")
    found = verify_set(pairs, Colours(), shield, seed=1, report=told.append)
    assert [one.shield.partition("-")[0] for one in found.results] == ["none", "gentle"]
    assert found.results[1].folds.mean == 1
    assert [progress.done for progress in told] == [16, 32, 40]
    assert {progress.total for progress in told} == {40}
    assert verify_set(pairs, Colours(), shield, seed=1).results == found.results


def test_mirror_images_are_added(tmp_path):
    """A face and its mirror image are one with ``flip``, and were two without."""
    face, mirrored = flat((250, 10, 10), (10, 10, 10)), flat((10, 10, 10), (250, 10, 10))
    other = flat((120, 10, 10), (140, 10, 10))
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps(([face, mirrored, face, other] * 10, [True, False] * 10)))
    assert verify_set(open_pairs(path), Colours()).results[0].folds.mean < 1
    assert verify_set(open_pairs(path), Colours(), flip=True).results[0].folds.mean >= 0.5


def test_images_that_cannot_be_used_are_named_and_refused(tmp_path):
    found = verify_set(open_pairs(colours_file(tmp_path / "lfw.bin", broken=(1,))), Colours(), fars=(0.1,))
    assert list(found.unused) == ["lfw.bin, image 2"]
    assert found.results[0].folds.accuracies == (0.75,) + (1,) * 9  # its pair is of one person
    assert found.results[0].tar == {0.1: 0.95}


def test_of_several_faces_the_one_nearest_to_the_middle_counts(tmp_path, monkeypatch):
    """A large red face at the side, a small green one in the middle."""
    photo = np.zeros((250, 250, 3), np.uint8)
    photo[:, :120], photo[:, 120:] = (250, 0, 0), (0, 250, 0)
    faces = [
        Face((0, 0, 100, 250), TEMPLATE * 80 + 10, 0.9),
        Face((110, 110, 30, 30), TEMPLATE * 30 + 140, 0.8),
    ]
    monkeypatch.setattr("facesieve.evaluate.verify_set.Detector", lambda: SimpleNamespace(detect=lambda _: faces))
    (tmp_path / "lfw" / "Ada").mkdir(parents=True)
    for number in (1, 2):
        write_photo(tmp_path / "lfw" / "Ada" / f"Ada_{number:04d}.png", photo)
    (tmp_path / "lfw" / "pairs.txt").write_text("Ada\t1\t2\nAda\t1\tAda\t2\n" * 10)
    seen = []
    monkeypatch.setattr(Colours, "rows", lambda _, crops: seen.append(crops) or np.ones((len(crops), 4), np.float32) / 2)
    with pytest.raises(InputError, match="all 20 "):  # all cosines are one
        verify_set(open_pairs(tmp_path / "lfw"), Colours())
    assert seen[0][:, 1].mean() > 0.9
    assert seen[0][:, 0].mean() < 0.1


# --- the command --------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def colours(monkeypatch):
    module = ModuleType("their_colours")
    module.load = Colours
    monkeypatch.setitem(sys.modules, "their_colours", module)


def run(capsys, *words, code=0):
    sys.argv = ["facesieve", "verify-set", *map(str, words)]
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == code
    return capsys.readouterr()


def test_the_command_on_a_file(tmp_path, capsys):
    path = colours_file(tmp_path / "lfw.bin")
    words = (path, "--embedder", "their_colours:load", "--shield", "none", "--far", "0.1", "--far", "0.01")
    said = json.loads(run(capsys, *words, "--json").out)
    assert said["set"] == "lfw"
    assert (said["pairs"], said["images"], said["embedder"]) == (40, 80, "colours")
    (row,) = said["results"]
    assert row["accuracy"] == 1
    assert len(row["folds"]) == len(row["thresholds"]) == 10
    assert row["tar_at_far"] == {"0.1": 1, "0.01": None}
    text = run(capsys, *words).out
    assert "accuracy 100.00 ± 0.00 %" in text
    assert "TAR at FAR 1 %: too few impostor pairs" in text


def test_the_command_on_a_folder_of_photographs(tmp_path, capsys, sample_paths):
    people = sorted({path.stem.rsplit("-", 1)[0] for path in sample_paths})
    for person in people[:2]:
        folder = tmp_path / "lfw" / person
        folder.mkdir(parents=True)
        own = next(path for path in sample_paths if path.stem.startswith(person))
        for number in (1, 2):
            shutil.copy(own, folder / f"{person}_{number:04d}.jpg")
    one, other = people[:2]
    lines = [f"{one}\t1\t2", f"{one}\t1\t{other}\t1", f"{other}\t1\t2", f"{other}\t2\t{one}\t2"]
    (tmp_path / "lfw" / "pairs.txt").write_text("\n".join(["10\t2", *lines * 10]))
    said = json.loads(run(capsys, tmp_path / "lfw", "--shield", "gentle", "--seed", "1", "--json").out)
    assert said["images"] == 4
    assert [row["accuracy"] for row in said["results"]] == [1, 1]


def test_unusable_images_are_listed_and_the_exit_code_says_so(tmp_path, capsys):
    said = run(
        capsys, colours_file(tmp_path / "lfw.bin", broken=(3,)), "--embedder", "their_colours:load", "--shield", "none", code=1
    )
    assert "1 image cannot be used" in said.err
    assert "lfw.bin, image 4: not a" in said.err
    assert "accuracy" in said.out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("{}", "--far", "2"), "--far 2"),
        (("{}", "--far", "nan"), "--far nan"),
        (("{}x",), "cannot be read"),
        (("{}", "--pairs", "x"), "goes with a folder"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, words, reason):
    path = colours_file(tmp_path / "lfw.bin")
    said = run(capsys, *(word.format(path) for word in words), "--shield", "none", code=2)
    assert reason in said.err
    assert said.err.count("\n") == 1
