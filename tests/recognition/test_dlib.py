"""dlib's network against dlib's own numbers, a second writing of its cropping, and finite differences."""

import json
from importlib.resources import files

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from facesieve.faces import TEMPLATE, Detector, FaceCrops
from facesieve.files import sha256_of
from facesieve.recognition.dlib import chips, load_dlib

WEIGHTS = files("facesieve") / "weights"


@pytest.fixture(scope="module")
def dlib():
    return load_dlib()


def test_the_card_names_the_weights(dlib):
    card = json.loads((WEIGHTS / "dlib-face-resnet-v1.card.json").read_text())
    assert card["sha256"] == sha256_of((WEIGHTS / card["file"]).read_bytes())
    assert card["parameters"] == sum(p.numel() for p in dlib.parameters())
    assert card["licence"] == "CC0-1.0"


def test_a_drawn_image_has_the_numbers_that_dlib_gives_it(dlib):
    """Computed once by dlib 20.0.1, ``compute_face_descriptor`` of a ready chip; fp16 weights may cost 6.0e-4 in L2."""
    row, column = np.mgrid[:150, :150]
    image = np.stack([np.abs(row - 75) + np.abs(column - 75) + 30 * channel for channel in range(3)]).astype(np.float32)
    (numbers,) = dlib.descriptors(torch.from_numpy(image)[None] / 255)
    assert float(numbers.norm()) == pytest.approx(1.21395, abs=6.0e-4)
    assert_close(numbers[:6], torch.tensor([-0.10089, 0.08667, 0.07842, -0.00127, -0.01930, -0.10126]), atol=6.0e-4, rtol=0)


def test_the_square_is_cut_as_the_map_of_pixel_centres_says():
    """Of a picture that is linear in x and y; of pixel centres, x' = 1.455745 x - 7.924301, y' = 1.455745 y - 32.380823."""
    y, x = torch.meshgrid(torch.arange(112.0), torch.arange(112.0), indexing="ij")
    crop = torch.stack([x, y, x + y])[None] / 224
    (chip,) = chips(crop) * 224
    inside = slice(10, 110)  # the chip reaches below the crop, where it is black
    column = (torch.arange(150.0) + 7.924301) / 1.455745
    row = (torch.arange(150.0) + 32.380823) / 1.455745
    assert_close(chip[0][inside, inside], column[None, inside].expand(100, 100), atol=2e-3, rtol=0)
    assert_close(chip[1][inside, inside], row[inside, None].expand(100, 100), atol=2e-3, rtol=0)
    assert not chip[:, 136:].any()


def test_people_are_told_apart(dlib, sample_photos):
    detector, rows, people = Detector(), [], []
    for path, photo in sample_photos.items():
        rows.append(dlib.rows(FaceCrops.cut(photo, detector.detect(photo)[:1], 160).crops)[0])
        people.append(path.stem.rpartition("-")[0] or path.stem)
    cosines, same = np.stack(rows) @ np.stack(rows).T, np.equal.outer(people, people)
    off = ~np.eye(len(rows), dtype=bool)
    assert (same & off).any()
    assert cosines[same & off].min() > cosines[~same].max()


@pytest.mark.parametrize("side", [112, 128, 160, 320])
def test_rows_are_unit_rows_of_any_size_and_alone_as_in_a_batch(dlib, side):
    crops = np.random.default_rng(side).random((3, 3, side, side), np.float32)
    rows = dlib.rows(crops)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(rows, np.concatenate([dlib.rows(crop[None]) for crop in crops]), atol=1e-5)


def test_the_size_of_a_crop_matters_little(dlib, sample_photos):
    photo = next(iter(sample_photos.values()))
    cut = FaceCrops.cut(photo, Detector().detect(photo)[:1], 128)
    reference = dlib.rows(cut.crops)[0]
    for side in (112, 160, 320):
        assert float(dlib.rows(cut.at(side).crops)[0] @ reference) > 0.98


def test_gradients_agree_with_finite_differences():
    dlib = load_dlib(dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    crops = torch.rand(2, 3, 112, 112, generator=generator, dtype=torch.float64).requires_grad_(True)
    weights = torch.randn(2, 128, generator=generator, dtype=torch.float64)
    direction = torch.randn(crops.shape, generator=generator, dtype=torch.float64)

    def value(images):
        return float((dlib.embed(images) * weights).sum())

    (slope,) = torch.autograd.grad((dlib.embed(crops) * weights).sum(), crops)
    step = 1e-7
    with torch.no_grad():
        measured = (value(crops + step * direction) - value(crops - step * direction)) / (2 * step)
    assert measured == pytest.approx(float((slope * direction).sum()), rel=1e-4)


@pytest.mark.parametrize("shape", [(3, 112, 112), (1, 1, 112, 112), (1, 3, 112, 100)])
def test_other_shapes_are_refused(dlib, shape):
    with pytest.raises(ValueError, match="aligned crops have shape"):
        dlib.embed(torch.rand(shape))


def test_the_template_lies_where_dlibs_own_crop_has_it():
    """dlib's chip of a face is the square from 0.05 to 0.97 across and from 0.20 to 1.12 down: the mouth stays inside."""
    placed = (TEMPLATE - [0.05, 0.20]) / 0.92
    assert ((placed > 0.1) & (placed < 0.9)).all()
