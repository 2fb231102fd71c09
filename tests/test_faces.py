"""Detection, alignment and pasting, against closed forms and on real photographs."""

import cv2
import numpy as np
import pytest

from facesieve.errors import SettingError
from facesieve.faces import FINISHES, TEMPLATE, Detector, Face, FaceCrops, align, alignment, paste, warp
from facesieve.faces.paste import REACH
from facesieve.images import read_photo, to_floats

DETECTOR = Detector()


def similarity(scale, degrees, shift):
    angle = np.radians(degrees)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.hstack([turn, np.array(shift, float)[:, None]])


def apply(matrix, points):
    return points @ matrix[:, :2].T + matrix[:, 2]


def ramp(height, width):
    """A photo whose value is linear in x and y: any correct resampling keeps it linear."""
    y, x = np.mgrid[:height, :width]
    return np.stack([40 + 0.2 * x, 30 + 0.15 * y, 20 + 0.1 * x + 0.12 * y], 2)


def face_at(center, side, degrees=0.0, size=128):
    """A face whose landmarks are the template, ``side`` pixels wide, around ``center``."""
    points = (TEMPLATE - 0.5) * side
    return Face((0, 0, 1, 1), apply(similarity(1, degrees, center), points), 1.0)


# --- alignment ---------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [0, 17, -40, 90, 180])
@pytest.mark.parametrize("scale", [0.2, 1, 3.7])
def test_alignment_recovers_a_known_similarity(scale, degrees):
    pose = similarity(scale, degrees, (31.5, -12))
    matrix = alignment(apply(pose, TEMPLATE * 128 - 0.5), 128)
    composed = matrix[:, :2] @ pose[:, :2]
    np.testing.assert_allclose(composed, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(apply(matrix, pose[:, 2][None])[0], 0, atol=1e-10)


def test_alignment_is_the_least_squares_similarity():
    rng = np.random.default_rng(0)
    landmarks = TEMPLATE * 90 + rng.normal(0, 4, (5, 2))
    wanted = TEMPLATE * 128 - 0.5
    # The same fit as an ordinary linear system in (a, b, tx, ty), solved by numpy.
    x, y = landmarks.T
    rows = np.concatenate([np.stack([x, -y, np.ones(5), np.zeros(5)], 1), np.stack([y, x, np.zeros(5), np.ones(5)], 1)])
    a, b, tx, ty = np.linalg.lstsq(rows, np.concatenate([wanted[:, 0], wanted[:, 1]]), rcond=None)[0]
    np.testing.assert_allclose(alignment(landmarks, 128), [[a, -b, tx], [b, a, ty]], atol=1e-10)


def test_the_template_is_arcface_at_112_pixels():
    matrix = alignment(
        np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]), 112
    )
    np.testing.assert_allclose(matrix, [[1, 0, 0], [0, 1, 0]], atol=1e-9)


def test_zoom_cuts_more_tightly_around_the_centre():
    face = face_at((200, 150), 100)
    wide, tight = (alignment(face.landmarks, 128, zoom=zoom) for zoom in (1.0, 1.25))
    assert np.hypot(*tight[:, 0]) == pytest.approx(1.25 * np.hypot(*wide[:, 0]))
    np.testing.assert_allclose(apply(tight, np.array([[200.0, 150]])), [[63.5, 63.5]], atol=1e-9)


# --- cutting -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "degrees"), [(60, 0), (128, 0), (128, 30), (300, 0), (300, -25), (560, 10)])
def test_a_linear_picture_stays_linear_when_cut(side, degrees):
    picture = ramp(900, 1000)
    photo = np.rint(picture).astype(np.uint8)
    face = face_at((480, 430), side, degrees)
    crop = align(photo, face, 128) * 255
    back = cv2.invertAffineTransform(alignment(face.landmarks, 128))
    y, x = np.mgrid[:128, :128]
    at = apply(back, np.stack([x.ravel(), y.ravel()], 1).astype(float))
    wanted = np.stack([40 + 0.2 * at[:, 0], 30 + 0.15 * at[:, 1], 20 + 0.1 * at[:, 0] + 0.12 * at[:, 1]]).reshape(3, 128, 128)
    assert np.abs(crop - wanted).max() < 1.5  # rounding to 8 bits, once or twice


def test_a_large_face_does_not_alias():
    stripes = np.zeros((1024, 1024, 3), np.uint8)
    stripes[:, ::2] = 255  # far above what a 128-pixel crop of 1,000 pixels can hold
    crop = align(stripes, face_at((512, 512), 1000), 128)
    assert np.abs(crop[:, 8:-8, 8:-8] - 0.5).max() < 0.1


def test_beyond_the_border_pixels_are_repeated():
    photo = np.full((128, 128, 3), 200, np.uint8)
    assert int(warp(photo, alignment(face_at((0, 0), 128).landmarks, 128), 128).min()) == 200


# --- pasting -----------------------------------------------------------------------------------


@pytest.mark.parametrize("center", [(200, 150), (10, 10), (395, 290), (-30, 100)])
@pytest.mark.parametrize("degrees", [0, 33])
def test_pasting_leaves_the_rest_of_the_photo_untouched(center, degrees):
    rng = np.random.default_rng(1)
    photo = rng.integers(0, 256, (300, 400, 3), np.uint8)
    face = face_at(center, 90, degrees)
    result = paste(photo, rng.random((3, 128, 128), np.float32), face)
    x, y = apply(similarity(1 / 90, -degrees, (0, 0)), np.mgrid[:300, :400][::-1].reshape(2, -1).T - center).T
    reach = (np.hypot(x / REACH[0], y / REACH[1]) <= 1.03).reshape(300, 400)  # an ellipse upright in the face; a pixel's rounding
    assert (result != photo).any()
    np.testing.assert_array_equal(result[~reach], photo[~reach])


def test_a_face_outside_of_the_photo_changes_nothing():
    rng = np.random.default_rng(2)
    photo = rng.integers(0, 256, (100, 100, 3), np.uint8)
    result = paste(photo, rng.random((3, 128, 128), np.float32), face_at((500, 500), 50))
    np.testing.assert_array_equal(result, photo)
    assert result is not photo


@pytest.mark.parametrize("side", [60, 128, 250])
def test_pasting_a_crop_where_it_was_cut_gives_the_photo_back(side):
    photo = np.rint(ramp(400, 400)).astype(np.uint8)
    face = face_at((200, 190), side, 12)
    result = paste(photo, align(photo, face, 128), face)
    assert np.abs(result.astype(int) - photo).max() <= 2


def test_the_middle_of_a_pasted_face_is_the_crop():
    photo = np.zeros((200, 200, 3), np.uint8)
    result = paste(photo, np.ones((3, 128, 128), np.float32), face_at((100, 100), 128))
    assert result[100, 100].tolist() == [255, 255, 255]
    assert result[100, 100 - 59].tolist() == [255, 255, 255]  # in secure up to the seam at its border
    assert 0 < result[100, 100 - 66].max() < 255  # and fades beyond it
    seen = paste(photo, np.ones((3, 128, 128), np.float32), face_at((100, 100), 128), finish="detail")
    assert seen[100, 100].tolist() == [255, 255, 255]
    assert 0 < seen[100, 100 - 60].max() < 255  # in detail towards its border


def in_the_square(shape, center, side, degrees, inset=0.0):
    """The pixels of a photo whose middles lie in a face's square, ``inset`` of the side away from its border."""
    x, y = apply(similarity(1 / side, -degrees, (0, 0)), np.mgrid[: shape[0], : shape[1]][::-1].reshape(2, -1).T - center).T
    return (np.maximum(abs(x), abs(y)) <= 0.5 - inset).reshape(shape[:2])


@pytest.mark.parametrize(("side", "degrees"), [(40, 0), (90, 12), (128, 90), (200, -30), (390, 5)])
def test_in_secure_nothing_that_the_photograph_has_in_the_square_matters(side, degrees):
    """Two photographs that differ in the square alone, by everything, give one result there: no bit of an attack gets through."""
    rng, center = np.random.default_rng(3), (210, 190)
    photo, crop = rng.integers(0, 256, (420, 400, 3), np.uint8), rng.random((3, 128, 128), np.float32)
    shape = photo.shape
    inner = in_the_square(shape, center, side, degrees, inset=0.1 / 128)  # places are rounded to 1/32 of the crop's pixels
    other = np.where(inner[..., None], rng.integers(0, 256, shape, np.uint8), photo)
    face = face_at(center, side, degrees)
    np.testing.assert_array_equal(paste(photo, crop, face), paste(other, crop, face))
    detailed = paste(photo, crop, face, finish="detail"), paste(other, crop, face, finish="detail")
    assert (detailed[0] != detailed[1]).any()


@pytest.mark.parametrize("side", [256, 512])
def test_in_detail_what_is_finer_than_the_crops_grid_is_the_photographs(side):
    """A chequerboard of single pixels has no part in the crop's grid: it comes through whole, on the purifier's colours."""
    rows, columns = np.mgrid[:700, :700]
    board = 8 * (2 * ((rows + columns) % 2) - 1)
    photo = np.repeat((100 + board)[..., None], 3, 2).astype(np.uint8)
    face, crop = face_at((349.5, 349.5), side), np.full((3, 128, 128), 150 / 255, np.float32)
    middle = (slice(300, 400), slice(300, 400))
    assert np.abs(paste(photo, crop, face, finish="detail")[middle].astype(int) - (150 + board[middle])[..., None]).max() <= 1
    assert np.abs(paste(photo, crop, face)[middle].astype(int) - 150).max() == 0


@pytest.mark.parametrize("side", [30, 60, 100])
def test_of_a_face_smaller_than_the_crop_both_finishes_are_alike(side):
    photo = np.rint(ramp(400, 400)).astype(np.uint8)
    face, crop = face_at((200, 190), side, 12), np.linspace(0.2, 0.7, 3 * 128 * 128, dtype=np.float32).reshape(3, 128, 128)
    results = [paste(photo, crop, face, finish=finish) for finish in FINISHES]
    inner = in_the_square(photo.shape, (200, 190), side, 12, inset=0.15)
    assert np.abs(results[0][inner].astype(int) - results[1][inner]).max() <= 2


def test_a_small_face_is_shrunk_without_aliasing():
    stripes = np.zeros((3, 128, 128), np.float32)
    stripes[:, ::2] = 1
    result = paste(np.full((200, 200, 3), 128, np.uint8), stripes, face_at((100, 100), 32))
    assert np.abs(result[95:105, 95:105].astype(int) - 128).max() <= 6


@pytest.mark.parametrize("finish", FINISHES)
def test_a_photograph_s_own_crop_changes_next_to_nothing_in_detail_and_a_smooth_one_in_neither(finish):
    photo = np.rint(ramp(400, 400)).astype(np.uint8)
    face = face_at((200, 190), 250, 12)
    assert np.abs(paste(photo, align(photo, face, 128), face, finish=finish).astype(int) - photo).max() <= 2
    rough = np.random.default_rng(5).integers(0, 256, (400, 400, 3), np.uint8)
    if finish == "detail":
        assert np.abs(paste(rough, align(rough, face, 128), face, finish=finish).astype(int) - rough).max() <= 2


def test_another_finish_is_refused():
    cut = FaceCrops.cut(np.full((200, 200, 3), 90, np.uint8), [face_at((100, 100), 90)], 64)
    with pytest.raises(SettingError, match="not as 'nice'"):
        cut.paste("nice")
    whole = FaceCrops.whole(np.full((200, 200, 3), 90, np.uint8), 64)
    with pytest.raises(SettingError, match="not with aligned crops"):
        whole.paste("detail")


# --- detection ---------------------------------------------------------------------------------


def overlap(a, b):
    return max(abs(a.landmarks - b.landmarks).max() / max(b.box[2:]), 0)


def test_every_sample_has_a_face_and_it_is_found_upright(sample_photos):
    for path, photo in sample_photos.items():
        face = DETECTOR.detect(photo)[0]
        left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks
        assert left_eye[0] < right_eye[0], path
        assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1]), path
        x, y, width, height = face.box
        assert ((face.landmarks >= (x, y)) & (face.landmarks <= (x + width, y + height))).all(), path


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_a_turned_photo_gives_the_same_face_turned(sample_photo, quarter_turns):
    height, width = sample_photo.shape[:2]
    upright = DETECTOR.detect(sample_photo)[0]
    found = DETECTOR.detect(np.ascontiguousarray(np.rot90(sample_photo, quarter_turns)))[0]
    x, y = found.landmarks.T
    back = {1: (width - 1 - y, x), 2: (width - 1 - x, height - 1 - y), 3: (y, height - 1 - x)}[quarter_turns]
    assert np.abs(np.stack(back, 1) - upright.landmarks).max() < 0.06 * upright.box[2]
    crops = align(sample_photo, upright, 128), align(np.ascontiguousarray(np.rot90(sample_photo, quarter_turns)), found, 128)
    assert np.abs(crops[0] - crops[1]).mean() < 0.06  # both upright


def test_small_and_large_faces_in_one_photo(sample_photo):
    face = DETECTOR.detect(sample_photo)[0]
    x, y, width, height = (int(value) for value in face.box)
    head = sample_photo[max(y - height // 3, 0) : y + height + height // 3, x - width // 3 : x + width + width // 3]
    origin = np.array([x - width // 3, max(y - height // 3, 0)])
    canvas = np.full((1400, 2000, 3), 128, np.uint8)
    wanted = {}
    for side, corner in ((40, (60, 80)), (160, (300, 300)), (500, (900, 100))):
        ratio = side / width
        small = cv2.resize(head, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
        canvas[corner[1] : corner[1] + small.shape[0], corner[0] : corner[0] + small.shape[1]] = small
        wanted[side] = (face.landmarks - origin + 0.5) * ratio - 0.5 + corner
    found = DETECTOR.detect(canvas)
    assert len(found) == 3
    for side, seen in zip(sorted(wanted, reverse=True), found, strict=True):
        assert np.abs(seen.landmarks - wanted[side]).max() < 0.12 * side


def test_a_face_cut_by_the_border_is_found(sample_photo):
    face = DETECTOR.detect(sample_photo)[0]
    left_eye = int(face.landmarks[0, 0] - 0.1 * face.box[2])
    cut = np.ascontiguousarray(sample_photo[:, left_eye:])
    assert np.abs(DETECTOR.detect(cut)[0].landmarks + (left_eye, 0) - face.landmarks).max() < 0.15 * face.box[2]


def test_photos_of_odd_shapes_do_not_break_the_detector():
    for shape in ((16, 16), (16, 3000), (3000, 16), (17, 31)):
        assert DETECTOR.detect(np.zeros((*shape, 3), np.uint8)) == []


def test_align_gives_floats_between_0_and_1(sample_photo):
    crop = align(sample_photo, DETECTOR.detect(sample_photo)[0], 112)
    assert crop.shape == (3, 112, 112)
    assert crop.dtype == np.float32
    assert 0 <= float(crop.min()) < float(crop.max()) <= 1
    np.testing.assert_allclose(crop, (crop * 255).round() / 255, rtol=1e-6)


def test_to_floats_and_align_agree_on_an_untouched_crop():
    photo = np.random.default_rng(3).integers(0, 256, (112, 112, 3), np.uint8)
    face = Face((0, 0, 112, 112), TEMPLATE * 112 - 0.5, 1.0)
    np.testing.assert_allclose(align(photo, face, 112), to_floats(photo), atol=1 / 255, rtol=0)


def test_read_and_detect_by_name(sample_paths):
    assert DETECTOR.detect(read_photo(sample_paths[0]))


@pytest.mark.parametrize("shape", [(16, 30_000, 3), (30_000, 16, 3), (1, 3_000, 3)])
def test_a_strip_has_no_face_and_raises_nothing(shape):
    assert Detector().detect(np.full(shape, 90, np.uint8)) == []
