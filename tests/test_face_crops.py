"""A photograph with its faces: cut, put back, seeded; against the pieces that it is made of, and torch's resampling."""

import hashlib

import numpy as np
import pytest
import torch

from facesieve.errors import NoFaceError, NotSquareError, SettingError
from facesieve.faces import TEMPLATE, Face, FaceCrops, align, paste
from facesieve.images import to_floats, to_photo
from facesieve.noise import derive_seed

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (200, 300, 3), np.uint8)
FACES = [
    Face((0, 0, 1, 1), (TEMPLATE - 0.5) * side + np.array(centre), 1.0)
    for side, centre in ((90, (80, 90)), (60, (200, 100)), (50, (230, 120)))
]


def test_each_face_is_cut_in_order():
    cut = FaceCrops.cut(PHOTO, FACES, 64)
    assert (len(cut), cut.size, cut.aligned, cut.crops.dtype) == (3, 64, False, np.float32)
    np.testing.assert_array_equal(cut.crops, np.stack([align(PHOTO, face, 64) for face in FACES]))


def test_another_size_is_cut_from_the_photograph_and_not_resampled_from_crops():
    cut = FaceCrops.cut(PHOTO, FACES, 64)
    blank = cut.with_crops(np.zeros_like(cut.crops))
    for size in (64, 160):
        np.testing.assert_array_equal(blank.at(size).crops, FaceCrops.cut(PHOTO, FACES, size).crops)


def test_crops_of_the_size_asked_for_are_not_cut_again_unless_they_were_changed():
    for cut in (FaceCrops.cut(PHOTO, FACES, 160), FaceCrops.whole(PHOTO[:, :200], 160)):
        assert cut.at(160) is cut
        purified = cut.with_crops(cut.crops * 0)
        np.testing.assert_array_equal(purified.at(160).crops, cut.crops)
    first = FaceCrops.cut(PHOTO, FACES, 160).first(1)
    np.testing.assert_array_equal(first.at(160).crops, FaceCrops.cut(PHOTO, FACES[:1], 160).crops)


def test_pasting_puts_one_face_after_the_other_and_leaves_the_rest_to_the_bit():
    cut = FaceCrops.cut(PHOTO, FACES, 64)
    other = cut.with_crops(1 - cut.crops)
    wanted = PHOTO
    for face, crop in zip(FACES, other.crops, strict=True):
        wanted = paste(wanted, crop, face)
    result = other.paste()
    np.testing.assert_array_equal(result, wanted)
    reach = np.zeros(PHOTO.shape[:2], bool)
    for face in FACES:
        side = 1.5 * np.ptp(face.landmarks) + 60
        centre = face.landmarks.mean(0)
        reach |= np.hypot(*(np.mgrid[:200, :300][::-1] - centre[:, None, None])) < side
    np.testing.assert_array_equal(result[~reach], PHOTO[~reach])
    assert (result != PHOTO).any()


def test_without_a_face_nothing_is_cut():
    with pytest.raises(NoFaceError, match="^no face found$"):
        FaceCrops.cut(PHOTO, [], 64)


@pytest.mark.parametrize("side", [100, 128, 300])
def test_a_ready_crop_is_resized_as_torch_does(side):
    photo = RNG.integers(0, 256, (side, side, 3), np.uint8)
    whole = FaceCrops.whole(photo, 128)
    assert (len(whole), whole.aligned, whole.faces) == (1, True, ())
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(to_floats(photo))[None], (128, 128), mode="bilinear", antialias=True
    )
    np.testing.assert_allclose(whole.crops, wanted.numpy(), atol=2e-6)
    np.testing.assert_array_equal(whole.paste(), to_photo(whole.crops[0]))


def test_the_sides_of_a_ready_crop_may_differ_by_two_per_cent():
    assert FaceCrops.whole(PHOTO[:100, :98], 64).size == 64
    with pytest.raises(NotSquareError, match="square, this image is 97 x 100"):
        FaceCrops.whole(PHOTO[:100, :97], 64)


def test_a_seed_depends_on_the_photographs_bytes_and_the_faces_number():
    cut = FaceCrops.cut(PHOTO, FACES, 64, sha256="ab")
    assert cut.seeds(7) == [derive_seed(7, "ab", number) for number in range(3)]
    assert cut.at(160).seeds(7) == cut.with_crops(cut.crops * 0).seeds(7) == cut.seeds(7)
    assert cut.first(2).seeds(7) == cut.seeds(7)[:2]


def test_without_a_file_the_pixels_stand_for_it():
    digest = hashlib.sha256(b"(200, 300, 3)" + PHOTO.tobytes()).hexdigest()
    assert FaceCrops.cut(PHOTO, FACES, 64).digest == digest
    turned = np.ascontiguousarray(PHOTO.reshape(300, 200, 3))
    assert FaceCrops.cut(turned, FACES, 64).digest != digest


def test_without_a_seed_they_are_fresh():
    cut = FaceCrops.cut(PHOTO, FACES, 64)
    assert len({*cut.seeds(None), *cut.seeds(None)}) == 6


def test_how_much_each_face_changed():
    cut = FaceCrops.cut(PHOTO, FACES, 64)
    moved = cut.with_crops(cut.crops + np.array([0, 0.1, 0.2], np.float32)[:, None, None, None])
    assert moved.changes(cut) == pytest.approx([0, 0.1, 0.2], abs=1e-6)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (3, 1, 8, 8), (3, 3, 8)])
def test_crops_that_do_not_belong_to_the_faces_are_refused(shape):
    cut = FaceCrops.cut(PHOTO, FACES, 64)
    with pytest.raises(SettingError, match="for 3 faces"):
        cut.with_crops(np.zeros(shape, np.float32))
