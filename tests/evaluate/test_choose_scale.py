"""The choice of the resolution scale: indicators on known changes, the rule on hand-made numbers, real photographs."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional

from facesieve.errors import InputError, SettingError
from facesieve.evaluate.choose_scale import (
    Indicators,
    Samples,
    _laplacian,
    _Names,
    _shifts,
    choose_scale,
    read_samples,
    recommend,
)
from facesieve.faces import Detector, FaceCrops
from facesieve.images import read_photo, write_photo
from facesieve.purify import chosen_preset, preset
from facesieve.recognition.sface import load_sface
from facesieve.runtime.torch import load_runtime

CENTRED = {"eyes": 0.01, "nose": 0.01, "mouth": 0.01}


def indicators(scale, clean, adversarial, **changed):
    plain = {"recovery": None, "similarity": 1.0, "shift": CENTRED, "lost_faces": 0.0, "sharpness": 1.0}
    return Indicators(scale=scale, clean=clean, adversarial=adversarial, **(plain | changed))


def test_the_most_robust_scale_is_taken_among_those_that_cost_little():
    found = [indicators(2, 0.98, 0.5), indicators(4, 0.97, 0.7), indicators(8, 0.6, 0.9)]
    best, reason = recommend(found, clean=0.99, most_lost=0.0225)
    assert best.scale == 4
    assert "70.0 %" in reason
    assert "loses 2.0 points" in reason


@pytest.mark.parametrize("fault", [{"shift": {**CENTRED, "mouth": 0.2}}, {"lost_faces": 0.1}])
def test_a_scale_that_moves_or_loses_faces_is_not_taken(fault):
    found = [indicators(2, 0.98, 0.5), indicators(4, 0.98, 0.7, **fault)]
    assert recommend(found, clean=0.98, most_lost=0.0225)[0].scale == 2


def test_where_none_qualifies_the_one_that_loses_least_is_taken_and_it_is_said():
    best, reason = recommend([indicators(2, 0.9, 0.5), indicators(4, 0.8, 0.7)], clean=0.99, most_lost=0.0225)
    assert best.scale == 2
    assert "no scale keeps" in reason


def test_at_equal_marks_the_smaller_scale_is_taken():
    assert recommend([indicators(4, 0.9, 0.5), indicators(2, 0.9, 0.5)], clean=0.9, most_lost=0)[0].scale == 2


class Rows:
    """An embedder whose images are their own rows."""

    name, dimensions = "rows", 2

    def rows(self, crops):
        return crops.reshape(len(crops), -1)[:, :2]


def at(*degrees):
    angles = np.deg2rad(np.array(degrees, np.float32))
    return np.stack([np.cos(angles), np.sin(angles)], 1)[:, :, None, None]


def test_a_photograph_is_not_compared_with_itself():
    # two people at 0 and 90 degrees; the second photograph of the first lies at 80, nearer the other person once itself is out
    clean = at(0, 80, 90, 95)
    names = _Names(Rows(), Samples(clean, clean, np.array([0, 0, 1, 1]), ("a", "b")))
    # left out: 0 against a = 80 and b = 92.5: right; 80 against a = 0, b = 92.5: wrong; 90 against b = 95, a = 40: right
    assert names.accuracy(clean) == pytest.approx(3 / 4)


@pytest.fixture(scope="module")
def sample_crops(sample_photos):
    detector = Detector()
    return np.concatenate([FaceCrops.cut(photo, detector.detect(photo)[:1], 128).crops for photo in sample_photos.values()])


def test_landmarks_of_the_same_image_have_not_moved_and_of_a_moved_one_by_as_much(sample_crops):
    before = sample_crops[:2]
    shift, lost = _shifts(before, before)
    assert (max(shift.values()), lost) == (0.0, 0.0)
    # 8 pixels; the eyes of the template are 0.3146 of the side apart
    moved = np.pad(before, ((0, 0), (0, 0), (0, 0), (8, 0)), "edge")[..., :128]
    shift, _ = _shifts(before, moved)
    for part in shift.values():
        assert part == pytest.approx(8 / (0.3146 * 128), rel=0.25)


def test_a_blurred_image_is_less_sharp_and_noise_is_sharper(sample_crops):
    blurred = functional.avg_pool2d(torch.from_numpy(sample_crops), 3, 1, 1).numpy()
    noisy = sample_crops + 0.1 * np.random.default_rng(0).standard_normal(sample_crops.shape).astype(np.float32)
    assert (_laplacian(blurred) < 0.5 * _laplacian(sample_crops)).all()
    assert (_laplacian(noisy) > 2 * _laplacian(sample_crops)).all()


# --- photographs ----------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, sample_paths):
    """Two people, two photographs each; the second of one is a mirror image."""
    photos = {path.stem: read_photo(path) for path in sample_paths}
    pairs = {"obama": ("obama-1", "obama-2"), "collins": ("collins-1", "collins-1")}
    for person, names in pairs.items():
        (tmp_path / "clean" / person).mkdir(parents=True)
        for number, name in enumerate(names):
            photo = photos[name][:, ::-1] if number and names[0] == name else photos[name]
            write_photo(tmp_path / "clean" / person / f"{number}.png", np.ascontiguousarray(photo))
    return tmp_path / "clean"


def test_indicators_of_real_photographs(folder):
    samples = read_samples(folder, None, 128)
    said = []
    choice = choose_scale(samples, load_runtime(preset("robust")), load_sface(), scales=(2, 8), report=said.append)
    gentle, harsh = choice.indicators
    assert choice.unprotected == (1.0, 1.0)
    assert gentle.recovery is None  # nothing was attacked
    assert gentle.similarity > harsh.similarity
    assert max(gentle.shift.values()) < 0.1
    assert [(progress.done, progress.total) for progress in said] == [(0, 2), (1, 2), (2, 2)]
    assert choice.preset.restorations[0].operator.scale in (2, 8)


def test_where_the_attack_fooled_nobody_nothing_is_recommended(folder, tmp_path, facesieve):
    """The photographs themselves as their adversarial twins."""
    done = facesieve("choose-scale", "--clean", folder, "--adversarial", folder, "--preset", "stage1", "-o", tmp_path / "out")
    assert done.code == 2
    assert "error: the attack fooled nobody: nothing can be recommended; take a larger eps" in done.err
    assert not (tmp_path / "out").exists()


def test_photographs_without_a_twin_or_of_another_size_are_named(folder, tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(InputError, match=r"no adversarial twin of collins/0\.png"):
        read_samples(folder, tmp_path / "other", 128)
    (tmp_path / "other" / "collins").mkdir()
    write_photo(tmp_path / "other" / "collins" / "0.jpg", np.zeros((20, 20, 3), np.uint8))
    with pytest.raises(InputError, match="20 x 20 pixels, its clean twin"):
        read_samples(folder, tmp_path / "other", 128)


def test_one_person_is_not_enough(folder):
    for path in (folder / "collins").iterdir():
        path.unlink()
    (folder / "collins").rmdir()
    with pytest.raises(InputError, match="at least two people"):
        read_samples(folder, None, 128)


def test_the_command_leaves_a_profile_that_purify_takes(folder, tmp_path, facesieve, sample_paths):
    out = tmp_path / "out"
    ran = facesieve("choose-scale", "--clean", folder, "-o", out, "--preset", "robust", "--eps", "8")
    assert ran.code == 0, ran.err
    numbers = json.loads((out / "scales.json").read_text())
    assert {entry["scale"] for entry in numbers["scales"]} == {2, 4, 8}
    assert numbers["reason"] in ran.out
    assert chosen_preset(str(out / "profile.toml")) == preset("robust").changed(scale=numbers["chosen"])
    assert all((out / f"scale-{scale}.png").stat().st_size > 10_000 for scale in (2, 4, 8))
    ran = facesieve("purify", sample_paths[0], "-o", tmp_path / "purified", "--preset", out / "profile.toml")
    assert ran.code == 0, ran.err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('preset = "fats"\n', "unknown preset 'fats'"),
        ('preset = "robust"\n[settings]\nscal = 2\n', "no setting scal"),
        ('preset = "robust"\nscale = 2\n', "not scale"),
        ("scale", "not a TOML file"),
    ],
)
def test_a_wrong_profile_is_said_in_a_line(tmp_path, text, said):
    path = tmp_path / "p.toml"
    path.write_text(text)
    with pytest.raises((SettingError, InputError), match=said) as caught:
        chosen_preset(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
