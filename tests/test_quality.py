"""The quality of a face: against an independent measure of blur, heads in three dimensions, and made photographs."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from facesieve.faces import TEMPLATE, Detector, Face, Quality, quality
from facesieve.faces.quality import NOSE, blur, turned
from facesieve.images import write_photo

DETECTOR = Detector()


@pytest.mark.parametrize("sigma", [0, 1, 3])
def test_blur_is_that_of_scikit_image(sample_photos, sigma):
    theirs = pytest.importorskip("skimage.measure").blur_effect
    for photo in sample_photos.values():
        grey = cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)
        grey = cv2.GaussianBlur(grey, (0, 0), sigma) if sigma else grey
        assert blur(grey) == pytest.approx(theirs(grey), abs=2e-3)


def test_a_plain_picture_is_as_blurred_as_can_be():
    assert blur(np.full((50, 50), 7, np.uint8)) == 1


def head(yaw, roll, size=100):
    """The landmarks of a head that is turned by ``yaw`` and tilted by ``roll``, seen from far away; its nose stands out."""
    eyes = TEMPLATE[1, 0] - TEMPLATE[0, 0]
    depth = np.array([0, 0, NOSE * eyes, 0, 0])
    x = TEMPLATE[:, 0] - 0.5
    x -= [0, 0, x[2], 0, 0]  # the template's nose is a little aside
    x[[0, 1, 3, 4]] -= [x[:2].mean()] * 2 + [x[3:].mean()] * 2
    y = TEMPLATE[:, 1] - 0.5
    y[:2], y[3:] = y[:2].mean(), y[3:].mean()
    points = np.stack([x * np.cos(yaw) + depth * np.sin(yaw), y], axis=1) * size
    turn = np.array([[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]])
    return points @ turn.T + 300


@pytest.mark.parametrize("yaw", [0, 10, -25, 40, 60])
@pytest.mark.parametrize("roll", [0, 35, 180])
def test_how_far_a_head_is_turned(yaw, roll):
    assert turned(head(np.radians(yaw), np.radians(roll))) == pytest.approx(abs(yaw), abs=0.5)


def test_size_is_the_side_of_the_crop_in_the_photograph():
    photo = np.zeros((400, 400, 3), np.uint8)
    for side in (20.0, 112.0, 250.0):
        face = Face((0, 0, 1, 1), (TEMPLATE - 0.5) * side + 200, 0.9)
        assert quality(photo, face).size == pytest.approx(side)


def test_the_total_is_the_worst_and_the_problem_names_it():
    assert Quality(300, 0.7, 3, 0.95).total == 1
    assert Quality(300, 0.7, 3, 0.95).problem is None
    for poor, word in (
        (Quality(25, 0.7, 3, 0.95), "small"),
        (Quality(300, 0.2, 3, 0.95), "blurred"),
        (Quality(300, 0.7, 70, 0.95), "side"),
        (Quality(300, 0.7, 3, 0.65), "hardly"),
    ):
        assert word in poor.problem
        assert poor.total < 0.35


def test_blurred_and_small_photographs_are_worse(sample_photos):
    for photo in sample_photos.values():
        face = DETECTOR.detect(photo)[0]
        small = cv2.resize(photo, None, fx=0.2, fy=0.2, interpolation=cv2.INTER_AREA)
        assert quality(photo, face).total > 0.6
        assert quality(cv2.GaussianBlur(photo, (0, 0), 9), face).total < 0.5
        assert quality(small, replace(face, landmarks=face.landmarks * 0.2)).total < 0.5


# --- the command line --------------------------------------------------------------------------------


def test_enrol_warns_of_poor_photographs_and_picks_the_best(facesieve, sample_photo, tmp_path):
    small = cv2.resize(sample_photo, None, fx=0.12, fy=0.12, interpolation=cv2.INTER_AREA)
    for name, photo in (("a", small), ("b", sample_photo), ("c", np.zeros((80, 80, 3), np.uint8))):
        write_photo(tmp_path / f"{name}.png", photo)
    files = [tmp_path / f"{name}.png" for name in "abc"]
    done = facesieve("enrol", "Ada", *files, "--gallery", tmp_path / "all", "--templates", "raw")
    assert "2 templates from 2 photographs" in done.out
    assert "a.png: a poor photograph of the face: it is small" in done.err.replace("\n", " ")
    picked = facesieve("enrol", "Ada", *files, "--pick", 1, "--gallery", tmp_path / "best", "--templates", "raw")
    assert "1 template from 1 photograph" in picked.out
    assert "a poor photograph" not in picked.err
    assert "c.png" in picked.err  # what cannot be used is named all the same
    assert picked.code == 1


def test_enrol_refuses_poor_photographs_on_request(facesieve, sample_photo, tmp_path):
    small = cv2.resize(sample_photo, None, fx=0.12, fy=0.12, interpolation=cv2.INTER_AREA)
    for name, photo in (("a", small), ("b", sample_photo)):
        write_photo(tmp_path / f"{name}.png", photo)
    common = ("--templates", "raw", "--refuse-poor", "--gallery")
    done = facesieve("enrol", "Ada", tmp_path / "a.png", tmp_path / "b.png", *common, tmp_path / "all")
    assert (done.code, "Ada: enrolled with 1 template from 1 photograph" in done.out) == (1, True)
    assert "Ada: left out: " in done.err
    assert "a.png: a poor photograph of the face: it is small" in done.err.replace("\n", " ")
    alone = facesieve("enrol", "Ada", tmp_path / "a.png", *common, tmp_path / "alone")
    assert (alone.code, "Ada: not enrolled: " in alone.err) == (1, True)
    assert "Ada" not in facesieve("gallery", "list", "--gallery", tmp_path / "alone").out


def test_to_pick_the_best_each_photograph_is_looked_at_once(facesieve, sample_paths, tmp_path, monkeypatch):
    looked, detect = [], Detector.detect
    monkeypatch.setattr(Detector, "detect", lambda self, photo: looked.append(photo.shape) or detect(self, photo))
    obama = [path for path in sample_paths if path.stem.startswith("obama")]
    done = facesieve("enrol", "Obama", *obama, "--pick", 2, "--templates", "raw", "--gallery", tmp_path / "g")
    assert (done.code, len(looked), "2 templates from 2 photographs" in done.out) == (0, 3, True)


def test_the_largest_photograph_is_set_wherever_people_are_read(facesieve, sample_paths, tmp_path):
    common = ("--gallery", tmp_path / "g", "--shield", "none")
    assert facesieve("enrol", "Ada", sample_paths[0], *common).code == 0
    for command, code in (("enrol Bob", 1), ("identify", 1), ("verify --person Ada", 2)):
        done = facesieve(*command.split(), sample_paths[0], *common, "--max-pixels", 90_000)
        assert (done.code, "pixels" in done.err, "90,000" in done.err) == (code, True, True), done.err
        assert "max-pixels 5 must be" in facesieve(*command.split(), sample_paths[0], *common, "--max-pixels", 5).err
