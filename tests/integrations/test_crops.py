"""Crops of other libraries: cut by the real packages, purified, and still the same person for the real recogniser."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from facesieve.errors import InputError, NoFaceError
from facesieve.faces import Detector
from facesieve.hardware import choose_hardware
from facesieve.images import to_photo
from facesieve.integrations.crops import AlignedCrops, LooseCrops, facenet_pytorch_crops, insightface_crops
from facesieve.purify import preset
from facesieve.recognition.sface import load_sface
from facesieve.runtime.torch import TorchRuntime
from facesieve.shield import Shield, load_shield
from white_prior import WhitePrior


@pytest.fixture(scope="module")
def quick():
    chosen = preset("robust")
    return Shield(TorchRuntime(chosen, chosen.with_prior(WhitePrior()), 128, "0" * 64, choose_hardware("cpu", "fp32")))


@pytest.fixture(scope="module")
def shield():
    return load_shield("robust")


@pytest.fixture(scope="module")
def people(sample_photos):
    """Obama twice, and Collins: photographs with their faces."""
    named = {path.stem: photo for path, photo in sample_photos.items()}
    return {name: (named[name], Detector().detect(named[name])[0]) for name in ("obama-1", "obama-2", "collins-1")}


def test_aligned_crops_get_what_the_shield_gives(quick):
    crops = torch.rand(3, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    purify = AlignedCrops(quick, seed=5, batch=2)
    made = purify(crops)
    assert_close(made[1:2], purify(crops[1:2]), rtol=0, atol=1e-6)  # alone as in a batch
    assert not torch.equal(made, AlignedCrops(quick, seed=6)(crops))
    fresh = AlignedCrops(quick)
    assert not torch.equal(fresh(crops), fresh(crops))
    assert purify(crops.double()).dtype == torch.float64
    assert purify(crops[:0]).shape == (0, 3, 128, 128)


def test_crops_of_insightface_keep_their_person(shield, people):
    from insightface.utils import face_align

    sface = load_sface()
    bgr = {
        name: face_align.norm_crop(np.ascontiguousarray(photo[..., ::-1]), face.landmarks.astype(np.float32))
        for name, (photo, face) in people.items()
    }
    purified = insightface_crops(shield, seed=1)(np.stack(list(bgr.values())))
    assert purified.shape == (3, 112, 112, 3)
    assert purified.dtype == np.uint8

    def embed(crops):
        rgb = torch.from_numpy(np.ascontiguousarray(np.stack(list(crops))[..., ::-1].transpose(0, 3, 1, 2))).float() / 255
        return sface.embed(rgb)

    rows, raw = embed(purified), embed(bgr.values())
    cosines = rows @ raw.T  # rows: purified obama-1, obama-2, collins
    assert cosines.diagonal().min() > 0.6
    assert cosines[0, 1] > 0.36  # the other photograph of the same person
    assert cosines[0, 1] > cosines[0, 2] + 0.2
    alone = insightface_crops(shield, seed=1)(bgr["obama-1"])
    assert np.abs(alone.astype(int) - purified[0].astype(int)).max() <= 1  # one crop as well as many


@pytest.mark.parametrize("size", [112, 128, 224, 256, 512])
def test_norm_crop_is_known_at_multiples_of_112_and_of_128(shield, people, size):
    """What the recogniser reads, found again in the crop by ``norm_crop``'s own rule, is the person, and nothing else came in."""
    from insightface.utils import face_align

    photo, face = people["collins-1"]
    bgr = face_align.norm_crop(np.ascontiguousarray(photo[..., ::-1]), face.landmarks.astype(np.float32), size)
    made = insightface_crops(shield, seed=1)(bgr)
    assert made.shape == bgr.shape
    # A crop of 112 out of the crop: by where norm_crop puts the landmarks in one of ``size``, and in one of 112 pixels.
    here = face_align.estimate_norm(face.landmarks.astype(np.float32), size)
    placed = face.landmarks @ here[:, :2].T + here[:, 2]
    seen = [face_align.norm_crop(each, placed.astype(np.float32), 112) for each in (bgr, made)]
    rows = load_sface().rows(np.stack([crop[..., ::-1].transpose(2, 0, 1) for crop in seen]).astype(np.float32) / 255)
    assert rows[0] @ rows[1] > 0.75
    if size % 112:  # then nothing of the border, which is no part of the template's square, reaches the result
        changed = bgr.copy()
        changed[:, -size // 32 :] = 255 - changed[:, -size // 32 :]
        assert np.array_equal(insightface_crops(shield, seed=1)(changed), made)


@pytest.mark.parametrize("shape", [(100, 100, 3), (112, 128, 3), (160, 160, 3), (2, 120, 120, 3)])
def test_other_sizes_of_insightface_are_refused(quick, shape):
    with pytest.raises(InputError, match="112 or 128"):
        insightface_crops(quick)(np.zeros(shape, np.uint8))


def test_colours_of_insightface_stay_in_their_channels(quick):
    bgr = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)
    rgb = torch.from_numpy(bgr[..., [2, 1, 0]].transpose(0, 3, 1, 2).copy()).float() / 255
    wanted = np.stack([to_photo(crop) for crop in AlignedCrops(quick, seed=3)(rgb)])
    made = insightface_crops(quick, seed=3)(bgr)
    for channel, place in enumerate((2, 1, 0)):
        assert np.array_equal(made[..., place], wanted[..., channel])


def test_crops_of_facenet_pytorch_keep_their_person(shield, people):
    """Cut as its MTCNN does: the box, resized to 160 pixels, nothing turned, (pixel - 127.5) / 128.

    MTCNN itself needs torchvision, which needs another torch; the box is YuNet's.
    """
    sface, crops = load_sface(), {}
    for name, (photo, face) in people.items():
        x, y, width, height = face.box
        box = [int(x), int(y), int(x + width), int(y + height)]
        cut = np.asarray(Image.fromarray(photo).crop(box).resize((160, 160), Image.Resampling.BILINEAR))
        crops[name] = (torch.from_numpy(cut.copy()).permute(2, 0, 1).float() - 127.5) / 128
    made = facenet_pytorch_crops(shield, seed=1)(torch.stack(list(crops.values())))
    assert made.shape == (3, 3, 160, 160)
    assert float(made.abs().max()) <= 1

    def embed(crop):
        photo = ((crop * 128 + 127.5).round().clamp(0, 255).byte().permute(1, 2, 0)).numpy()
        return sface.embed(torch.from_numpy(shield.cut(photo).crops[:1]))[0]

    before, after = torch.stack([embed(c) for c in crops.values()]), torch.stack([embed(c) for c in made])
    cosines = after @ before.T
    assert cosines.diagonal().min() > 0.6
    assert cosines[0, 1] > cosines[0, 2] + 0.2


def test_what_lies_outside_the_face_stays(quick, people):
    photo, face = people["collins-1"]
    scale = 320 / max(photo.shape[:2])
    small = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    crop = torch.from_numpy(small.copy()).permute(2, 0, 1).float()[None] / 255
    made = LooseCrops(quick, seed=0)(crop)
    x, y, width, height = (int(value * scale) for value in face.box)
    inside = (slice(None), slice(None), slice(y, y + height), slice(x, x + width))
    changed = (made - crop).abs()
    assert float(changed[inside].mean()) > 0.02
    far = torch.ones(crop.shape[2:], dtype=torch.bool)
    far[max(y - height, 0) : y + 2 * height, max(x - width, 0) : x + 2 * width] = False
    assert far.any()
    assert torch.equal(made[0][:, far], crop[0][:, far])


@pytest.mark.parametrize(
    ("crops", "message"),
    [
        (torch.zeros(3, 128, 128), "B, 3, H, W"),
        (torch.zeros(1, 3, 128, 100), "square"),
        (torch.full((1, 3, 16, 16), 255.0), "255"),
        (torch.full((1, 3, 16, 16), float("nan")), "nan"),
        (torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "floating point"),
        (np.zeros((1, 3, 16, 16)), "float64"),
    ],
)
def test_other_crops_are_refused(quick, crops, message):
    with pytest.raises(InputError, match=message):
        AlignedCrops(quick)(crops)


def test_mistakes_of_pipelines_are_one_line(quick):
    with pytest.raises(InputError, match="uint8"):
        insightface_crops(quick)(np.zeros((112, 112, 3), np.float32))
    with pytest.raises(InputError, match="tensors"):
        facenet_pytorch_crops(quick)(np.zeros((3, 160, 160)))


def test_a_crop_without_a_face_is_named(quick, people):
    photo, _ = people["collins-1"]
    with_face = torch.from_numpy(cv2.resize(photo, (160, 160)).copy()).permute(2, 0, 1).float() / 255
    with pytest.raises(NoFaceError, match="crop 1: no face"):
        LooseCrops(quick)(torch.stack([with_face, torch.full((3, 160, 160), 0.5)]))
