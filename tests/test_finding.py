"""Faces of all sizes and angles, in scenes made of the samples, where it is known what there is to find."""

import copy
import hashlib
import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

import make_scenes
from facesieve.errors import NoFaceError
from facesieve.faces import Detector, FaceCrops, Found, align, detect
from facesieve.faces.detect import POSSIBLE, STEP, TILE, _back, _mapped, _spans, _tiles, _turned, sizes
from facesieve.faces.yunet import FILE, YuNet
from facesieve.recognition.embedders import load_embedder
from facesieve.weights import FOLDER

DETECTOR = Detector()
SAMPLES = Path(__file__).parent.parent / "samples"


# --- the network -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(500, 333), (64, 64), (333, 500)])
def test_the_network_answers_as_opencvs_detector_does(sample_photos, shape):
    theirs = cv2.FaceDetectorYN.create(str(FOLDER / FILE), "", shape[::-1], 0.6, 1.0, 5000)
    photos = [cv2.resize(photo, shape[::-1], interpolation=cv2.INTER_AREA) for photo in sample_photos.values()]
    for photo, rows in zip(photos, YuNet()(photos, 0.6), strict=True):
        expected = theirs.detect(cv2.cvtColor(photo, cv2.COLOR_RGB2BGR))[1]
        expected = np.empty((0, 15)) if expected is None else expected
        order = [np.argsort(-found[:, 14]) for found in (rows, expected)]
        np.testing.assert_allclose(rows[order[0]], expected[order[1]], atol=1e-3)


# --- sizes, tiles and turns --------------------------------------------------------------------------


@pytest.mark.parametrize("longest", [1, 100, 240, 241, 640, 1440, 4000, 6000, 30_000])
def test_sizes_go_from_240_pixels_to_the_photographs_own_in_even_steps(longest):
    found = sizes(longest)
    assert found[0] == longest
    assert found[-1] == min(longest, 240)
    assert all(1 < finer / coarser <= STEP + 0.05 for finer, coarser in pairwise(found))


@pytest.mark.parametrize("side", [1, 31, 240, 1216, 1217, 6000, 9001])
@pytest.mark.parametrize("border", [32, 60])
def test_tiles_cover_a_side_and_overlap_by_two_borders(side, border):
    spans = _spans(side, border)
    assert spans[0][0] == -border
    assert spans[-1][1] >= side + border
    assert all(end - later >= 2 * border for (_, end), (later, _) in pairwise(spans))
    assert all((end - start) % 32 == 0 and end - start <= TILE for start, end in spans)


def test_a_tile_is_the_photograph_there_and_repeats_its_border():
    photo = np.random.default_rng(0).integers(0, 256, (1300, 70, 3), np.uint8)
    padded = np.pad(photo, ((32, 2000), (32, 2000), (0, 0)), mode="edge")
    for (x, y), tile in _tiles(photo, 32):
        np.testing.assert_array_equal(tile, padded[y + 32 :, x + 32 :][: tile.shape[0], : tile.shape[1]])


@pytest.mark.parametrize("turns", range(4))
def test_what_is_found_in_a_turned_photograph_is_where_its_pixels_came_from(turns):
    photo = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)
    turned = _turned(photo, turns)
    np.testing.assert_array_equal(turned, np.rot90(photo, turns))
    row = np.array([[2.0, 4.0, 6.0, 8.0, *range(1, 11), 0.9]])
    found = _mapped(row, _back(turns, photo.shape))[0]
    for (x, y), (bx, by) in zip(row[0, 4:14].reshape(5, 2).astype(int), found[4:14].reshape(5, 2).astype(int), strict=True):
        np.testing.assert_array_equal(turned[y, x], photo[by, bx])
    assert tuple(found[2:4]) == ((6, 8) if turns % 2 == 0 else (8, 6))


# --- all sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("side", "least"), [(40, 28), (45, 30), (60, 30)])
def test_a_crowd_in_24_megapixels(side, least):
    photo, wanted = make_scenes.crowd(SAMPLES, side)
    hits, more = make_scenes.matched(DETECTOR.detect(photo), wanted)
    assert hits >= least
    assert more == 0


@pytest.mark.parametrize("make", [make_scenes.panorama, make_scenes.beside])
def test_small_faces_across_a_panorama_and_beside_one_of_1500_pixels(make):
    photo, wanted = make(SAMPLES)
    assert make_scenes.matched(DETECTOR.detect(photo), wanted) == (len(wanted), 0)


def test_close_ups_that_cut_into_the_face():
    assert [len(DETECTOR.detect(photo)) for photo in make_scenes.close_ups(SAMPLES)] == [1] * 72


# --- all angles --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows_of():
    embedder = load_embedder("sface", gradients=False)

    def rows(photo, face):
        return embedder.rows(align(photo, face, 160)[None])[0]

    return rows


@pytest.mark.parametrize("degrees", [20, 30, 45, 60, 90, 110, 135, 180, -30, -45, -135])
def test_a_tilted_head_gives_the_same_face(rows_of, degrees):
    cosines = []
    for name, photo in make_scenes.samples(SAMPLES).items():
        tilted = make_scenes.tilted(photo, make_scenes.BOXES[name], degrees)
        (found,) = DETECTOR.detect(tilted)
        cosines.append(rows_of(tilted, found) @ rows_of(photo, DETECTOR.detect(photo)[0]))
    assert np.mean(cosines) >= 0.9


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_face_beside_an_upright_one(rows_of, sample_photos, turns):
    upright, other = list(sample_photos.values())[:2]
    turned = np.ascontiguousarray(np.rot90(other, turns))
    canvas = np.full((720, upright.shape[1] + turned.shape[1], 3), 120, np.uint8)
    canvas[: upright.shape[0], : upright.shape[1]] = upright
    canvas[: turned.shape[0], upright.shape[1] :] = turned
    found = DETECTOR.detect(canvas)
    assert len(found) == 2
    for photo, face in zip((upright, other), sorted(found, key=lambda face: face.box[0]), strict=True):
        assert rows_of(canvas, face) @ rows_of(photo, DETECTOR.detect(photo)[0]) >= 0.9


def test_a_sideways_photograph_of_small_faces():
    photo, wanted = make_scenes.scene(SAMPLES, 3000, 2000, [(200 + n % 5 * 500, 200 + n // 5 * 900, 70) for n in range(10)])
    assert make_scenes.matched(DETECTOR.detect(photo), wanted) == (10, 0)
    assert len(DETECTOR.detect(np.ascontiguousarray(np.rot90(photo)))) == 10


# --- threads, copies ---------------------------------------------------------------------------------


def test_one_detector_serves_many_threads(sample_photos):
    detector, photos = Detector(), list(sample_photos.values())
    expected = [DETECTOR.detect(photo)[0].box for photo in photos]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: detector.detect(photos[n % 6])[0].box, range(48)))
    assert found == [expected[n % 6] for n in range(48)]


@pytest.mark.parametrize("again", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))])
def test_a_detector_in_use_can_be_copied_and_pickled(sample_photo, again):
    face, copied = DETECTOR.detect(sample_photo)[0], again(DETECTOR).detect(sample_photo)[0]
    assert copied.box == face.box


def test_what_faces_depend_on_is_the_weights_and_every_setting(monkeypatch):
    plain = Detector().made_from
    assert plain["sha256"] == hashlib.sha256((FOLDER / FILE).read_bytes()).hexdigest()
    assert plain == DETECTOR.made_from == copy.deepcopy(DETECTOR).made_from
    others = [Detector(threshold=0.71).made_from, Detector(first_threshold=0.4).made_from]
    monkeypatch.setattr("facesieve.faces.detect.SEARCH", 99)
    others.append(Detector().made_from)
    assert len({json.dumps(one) for one in [plain, *others]}) == 4


def test_every_number_that_the_search_goes_by_is_among_its_settings():
    numbers = {name: value for name, value in vars(detect).items() if name.isupper() and isinstance(value, int | float | tuple)}
    own = {name for name in numbers if name not in {"SETTINGS", "SEARCH", "STRIDE", "TURNS", "POSSIBLE", "FILE"}}
    assert [numbers[name] for name in sorted(own)] == [numbers[name] for name in sorted(own) if numbers[name] in detect.SETTINGS]
    assert len(own) == len(detect.SETTINGS)


# --- what is no face ---------------------------------------------------------------------------------


def test_noise_and_clouds_have_no_face():
    rng = np.random.default_rng(5)
    for photo in (make_scenes.grey_canvas(1600, 1200), rng.integers(0, 256, (300, 400, 3), np.uint8)):
        assert DETECTOR.detect(photo) == []


# --- what may be one ---------------------------------------------------------------------------------


def test_somebody_at_the_border_is_named_as_a_possible_face(sample_photos):
    photos = {path.stem: photo for path, photo in sample_photos.items()}
    found = {name: DETECTOR.detect(photo) for name, photo in photos.items()}
    assert [len(faces) for faces in found.values()] == [1] * 6
    assert [name for name, faces in found.items() if faces.possible] == ["obama-2"]
    photo, (possible,) = photos["obama-2"], found["obama-2"].possible
    assert POSSIBLE <= possible.score < DETECTOR.threshold
    left, top, width, height = possible.box  # of her whose face the border cuts off
    assert left < photo.shape[1] < left + width
    assert (top > 200, top + height < 400) == (True, True)
    before = FaceCrops.cut(photo, found["obama-2"], 128)
    assert (len(before), before.possible, before.at(160).possible) == (1, (possible,), (possible,))
    assert before.doubt == "1 possible face at 356,291"
    assert FaceCrops.cut(photo, list(found["obama-2"]), 128).doubt is None


def test_of_a_photograph_with_nothing_but_possible_faces_the_error_says_where(sample_photos):
    photo = next(photo for path, photo in sample_photos.items() if path.stem == "obama-2")
    found = Found((), 2 * DETECTOR.detect(photo).possible)
    with pytest.raises(NoFaceError, match="^no face found, 2 possible faces at 356,291; 356,291$"):
        FaceCrops.cut(photo, found, 128)


def test_crops_of_a_turned_face_are_upright(sample_photo):
    upright = FaceCrops.cut(sample_photo, DETECTOR.detect(sample_photo), 128).crops[0]
    turned = np.ascontiguousarray(np.rot90(sample_photo))
    assert np.abs(FaceCrops.cut(turned, DETECTOR.detect(turned), 128).crops[0] - upright).mean() < 0.03
